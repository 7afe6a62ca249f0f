"""Language fidelity against tables worked out by hand, and paired comparisons of flags alone."""

import json
import random

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from textreg.data.codes import code_book
from textreg.errors import InputError
from textreg.fidelity import measures
from textreg.fidelity.annotation import Rules, annotate, lf_plus
from textreg.fidelity.identifiers import open_identifier
from textreg.fidelity.judges import Verdict
from textreg.fidelity.linewise import LineRules
from textreg.scenes import instructions
from textreg.scenes.grammar import caption
from textreg.scenes.scene import Group, Scene, canonical, to_json

SCENE = Scene((Group("red", "circle", "small"), Group("blue", "square", "large")), "above")
OTHER_SCENE = Scene((Group("green", "star", "small"), Group("blue", "square", "large")), "above")
EN, ES, DE = (caption(SCENE, code, frame=1) for code in ("en", "es", "de"))
RUSSIAN = "Маленький красный круг находится над большим синим квадратом"


@pytest.fixture(scope="module")
def identifier():
    return open_identifier("py3langid", candidates=code_book())


def table(*rows, **columns):
    """Rows of (language, answer), with constant columns."""
    return pd.DataFrame(rows, columns=["language", "answer"]).assign(**columns)


def scene_rows(*rows, scene=SCENE, task="caption", meaning=None):
    meaning = meaning or to_json(canonical(scene))
    return table(*rows, task=task, reference=json.dumps([meaning]))


def one(annotated):
    return {name: None if pd.isna(value) else value for name, value in annotated.iloc[0].items()}


def test_an_answer_is_identified_once_however_often_and_of_whomever_it_comes(monkeypatch):
    identifier = open_identifier("py3langid")
    asked, classify = [], identifier._classify
    monkeypatch.setattr(identifier, "_classify", lambda texts: asked.extend(texts) or classify(texts))
    answers = annotate(table(("en", EN), ("es", ES), ("de", EN), ("en", EN), ("es", ES)), identifier)
    assert sorted(asked) == sorted({EN, ES})
    assert answers["lf"].tolist() == [True, True, False, True, True]


def test_a_hand_counted_table(identifier):
    spanish = [ES, ES, ES, EN, EN, DE, "", "rojo"]
    answers = table(*[("es", answer) for answer in spanish], ("en", EN), ("en", DE))
    found = measures.summarise(annotate(answers, identifier)).set_index("language")
    spanish, english = found.loc["es"], found.loc["en"]
    assert (spanish["n"], spanish["n_scored"]) == (8, 7)  # the one-word answer is not scored
    assert spanish["lf"] == pytest.approx(3 / 7)
    assert spanish["english_rate"] == pytest.approx(2 / 7)
    assert spanish["other_rate"] == pytest.approx(1 / 7)  # German; nothing at all is wrong, and in no language
    assert spanish["class_empty"] == spanish["class_short"] == 1 / 8 and spanish["class_asked"] == 3 / 8
    assert (english["lf"], english["english_rate"], english["other_rate"]) == (0.5, 0.5, 0.5)
    assert spanish["lpr"] == pytest.approx(3 / 6)
    assert np.isnan(spanish["wpr"]) and np.isnan(spanish["lf_plus"]) and np.isnan(spanish["grounded"])


def test_nothing_scored_is_undefined_not_perfect(identifier):
    row = measures.summarise(annotate(table(("es", "sí"), ("es", "rojo")), identifier)).iloc[0]
    assert row["n"] == 2 and row["n_scored"] == 0
    assert all(np.isnan(row[name]) for name in ("lf", "lf_low", "lf_high", "english_rate", "other_rate", "lpr", "wpr"))


@pytest.mark.parametrize(
    ("answer", "rules", "column", "found"),
    [
        (("en", "a red circle"), Rules(), "lf", None),
        (("en", "a red circle"), Rules(min_words=3), "lf", True),
        (("ru", RUSSIAN), Rules(lines=None), "lpr", None),
        (("ru", "красный круг над квадратом"), Rules(), "lpr", None),
        (("ru", "красный круг над квадратом"), Rules(lines=LineRules(min_tokens=4)), "lpr", True),
    ],
)
def test_how_much_is_needed_to_judge_by_is_an_option(identifier, answer, rules, column, found):
    assert one(annotate(table(answer), identifier, rules=rules))[column] == found


SHORT = {
    ("es", "rojo"): "es", ("es", "Rojo."): "es", ("es", "red"): "en", ("es", "rouge"): "other", ("es", "3"): None,
    ("en", "red"): "en", ("en", "rojo"): "other",
}  # fmt: skip


@pytest.mark.parametrize("asked", SHORT)
def test_short_answers_are_scored_by_word_lists(identifier, asked):
    assert one(annotate(table(asked, task="colour"), identifier))["answered"] == SHORT[asked]


def test_a_word_of_both_languages_is_left_out(identifier):
    annotated = annotate(table(("es", "no"), ("de", "no"), ("en", "no"), task="exist"), identifier)
    assert annotated["answered"].isna().tolist() == [True, False, False]
    assert annotated["answered"].tolist()[1:] == ["en", "en"]


def test_a_sentence_in_answer_to_a_short_question_is_identified(identifier):
    annotated = annotate(table(("es", "el círculo de la imagen es de color rojo"), task="colour"), identifier)
    assert annotated["answered"].tolist() == ["es"] and not annotated["by_list"].any()


def test_grounded_needs_both_the_language_and_the_content(identifier):
    wrong_content, words = caption(OTHER_SCENE, "es", frame=1), ES.rstrip(".").split()
    random.Random(0).shuffle(words)
    annotated = annotate(
        scene_rows(("es", ES), ("es", EN), ("es", wrong_content), ("es", " ".join(words))), identifier
    )
    assert annotated["lf"].tolist() == [True, False, True, True]
    assert annotated["grounded"].tolist() == [True, False, False, False]
    assert annotated["content"].tolist() == [True, True, False, False]
    assert annotated["parsed"].tolist() == [True, False, True, False]


def test_without_a_scene_to_compare_with_grammar_measures_are_missing(identifier):
    answers = table(("es", ES), task="caption", reference=json.dumps(["un círculo rojo"]))
    annotated = annotate(answers, identifier)
    assert annotated[["parsed", "grounded", "content", "exclusive", "lf_plus"]].isna().all().all()


def test_exclusive_share_is_one_for_native_zero_for_english_and_undefined_for_english_itself(identifier):
    annotated = annotate(scene_rows(("es", ES), ("es", EN), ("en", EN)), identifier)
    assert annotated["exclusive"].tolist()[:2] == [1.0, 0.0] and np.isnan(annotated["exclusive"].iloc[2])


def test_a_mixed_answer_can_pass_the_identifier_and_fails_lf_plus(identifier):
    mixed = ES.replace("rojo", "red")
    assert mixed != ES
    annotated = annotate(scene_rows(("es", mixed)), identifier)
    assert annotated["lf"].tolist() == [True] and annotated["lf_plus"].tolist() == [False]


@pytest.mark.parametrize(
    ("identified", "judged", "expected"),
    [(True, True, True), (True, False, False), (False, True, False), (False, False, False), (None, True, None),
     (False, None, None), (True, None, None), (None, False, None)],
)  # fmt: skip
def test_lf_plus_is_the_conjunction_of_two_known_verdicts(identified, judged, expected):
    found = lf_plus(pd.Series([identified], dtype="boolean"), pd.Series([judged], dtype="boolean"))[0]
    assert (None if pd.isna(found) else bool(found)) == expected


def test_a_judge_gets_prompt_answer_and_language_and_may_be_undecided(identifier):
    seen = []

    def judge(rows):
        seen.extend(rows)
        return [Verdict(True, ""), Verdict(None, "undecided")]

    annotated = annotate(table(("es", ES), ("es", ES), prompt="Describe"), identifier, judge=judge)
    assert seen == [("Describe", ES, "es")] * 2
    assert annotated["lf_plus"].tolist() == [True, pd.NA]


def test_no_judge_leaves_lf_plus_undefined_even_for_wrong_answers(identifier):
    assert annotate(scene_rows(("es", EN)), identifier, judge=None)["lf_plus"].isna().all()


def test_an_unknown_judge_and_a_missing_column_are_refused(identifier):
    with pytest.raises(InputError, match="unknown judge"):
        annotate(table(("es", ES)), identifier, judge="strict")
    with pytest.raises(InputError, match="'language' is missing"):
        annotate(pd.DataFrame({"answer": ["a"]}), identifier)


def test_line_and_word_rates_of_a_russian_answer(identifier):
    mixed_lines = f"{RUSSIAN}\nThere is a small red circle above it"
    english_word = RUSSIAN.replace("квадратом", "square квадратом")
    short = "красный круг"
    annotated = annotate(table(("ru", RUSSIAN), ("ru", mixed_lines), ("ru", english_word), ("ru", short)), identifier)
    assert annotated["lpr"].tolist() == [True, False, True, pd.NA]
    assert annotated["wpr"].tolist() == [True, pd.NA, False, pd.NA]
    assert annotated["short_lines"].tolist() == [0, 0, 0, 1]


def test_confusion_counts_asked_by_answered(identifier):
    annotated = annotate(table(("es", ES), ("es", EN), ("es", EN), ("de", DE), ("de", "ja")), identifier)
    found = measures.confusion(annotated)
    assert found.loc["es"].to_dict() == {"de": 0, "en": 2, "es": 1}
    assert found.loc["de"].sum() == 1


def test_visual_accuracy_counts_content_in_any_language_and_only_the_image_arm(identifier):
    answers = pd.concat(
        [
            scene_rows(("es", ES), ("es", EN), ("es", caption(OTHER_SCENE, "es"))).assign(arm="image"),
            scene_rows(("es", "nada")).assign(arm="text"),
        ],
        ignore_index=True,
    )
    row = measures.visual_summary(annotate(answers, identifier)).iloc[0]
    assert (row["task"], row["language"], row["n"]) == ("caption", "es", 3)
    assert row["accuracy"] == pytest.approx(2 / 3) and row["low"] <= 2 / 3 <= row["high"]


def test_the_share_the_unrestricted_identifier_sees_differently():
    narrow = open_identifier("py3langid", candidates=["en", "sv"])
    danish = "Der er en lille rød cirkel og to store gule trekanter på billedet"
    annotated = annotate(table(("sv", danish), ("en", EN), ("en", "red")), narrow)
    assert measures.unrestricted_share(measures.tally(annotated)) == 0.5


def test_answers_repeated_within_an_item_are_resampled_by_item(identifier):
    rows = [("es", ES if item < 10 else EN) for item in range(20) for _ in range(5)]
    repeated = table(*rows).assign(item_id=[str(item) for item in range(20) for _ in range(5)])
    single = repeated.assign(item_id=[str(i) for i in range(100)])
    wide, narrow = (measures.summarise(annotate(t, identifier)).iloc[0] for t in (repeated, single))
    assert wide["lf"] == narrow["lf"] == 0.5
    assert wide["lf_high"] - wide["lf_low"] > 1.5 * (narrow["lf_high"] - narrow["lf_low"])


def test_an_undefined_lambda_keeps_its_group(identifier):
    answers = pd.concat([table(("es", ES), system="backbone"), table(("es", EN), system="BM", **{"lambda": 1.0})])
    found = measures.summarise(annotate(answers.reset_index(drop=True), identifier))
    assert found["system"].tolist() == ["BM", "backbone"] and np.isnan(found["lambda"].iloc[1])


SAID = {"es": [ES, EN, "", "rojo"], "en": [EN], "de": [DE, "ja"], "ru": [RUSSIAN, EN]}
POOL = [(language, answer) for language, answers in SAID.items() for answer in answers]
ANSWERS = st.lists(st.sampled_from(POOL), min_size=1, max_size=25)
FEW = settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@FEW
@given(ANSWERS, st.randoms())
def test_order_does_not_matter(identifier, rows, shuffler):
    shuffled = list(rows)
    shuffler.shuffle(shuffled)
    first, second = (measures.summarise(annotate(table(*r), identifier)) for r in (rows, shuffled))
    pd.testing.assert_frame_equal(first, second)


@FEW
@given(ANSWERS, ANSWERS)
def test_tallies_of_parts_add_up_to_the_tally_of_the_whole(identifier, first, second):
    parts = measures.add(measures.tally(annotate(table(*rows), identifier)) for rows in (first, second))
    whole = measures.tally(annotate(table(*first, *second), identifier))
    pd.testing.assert_frame_equal(parts, whole)


@FEW
@given(ANSWERS, st.integers(2, 4))
def test_repeating_every_answer_changes_no_rate_and_narrows_no_interval_below_zero(identifier, rows, times):
    once, often = (measures.summarise(annotate(table(*rows * k), identifier)) for k in (1, times))
    rates = ["lf", "english_rate", "other_rate", "lpr", "wpr"]
    pd.testing.assert_frame_equal(once[rates], often[rates])
    assert (often["n"] == times * once["n"]).all()


@FEW
@given(ANSWERS)
def test_rates_are_shares_that_add_up(identifier, rows):
    found = measures.summarise(annotate(table(*rows), identifier))
    scored = found[found["n_scored"] > 0]
    assert ((scored["lf_low"] <= scored["lf"]) & (scored["lf"] <= scored["lf_high"])).all()
    assert np.allclose(found[list(measures.CLASS_COLUMNS)].sum(axis=1), 1)


def test_a_question_kind_is_judged_by_meaning(identifier):
    instruction = instructions.question(SCENE, "es", random.Random(0), kind="count")
    answers = scene_rows(("es", "dos"), ("es", "two"), ("es", "tres"), task="count", meaning=instruction.meaning)
    annotated = annotate(answers, identifier)
    assert annotated["grounded"].tolist() == [True, False, False]
    assert annotated["content"].tolist() == [True, True, False]


def flagged(*rows):
    """Rows of (system, language, arm, item, lf)."""
    table = pd.DataFrame(rows, columns=["system", "language", "arm", "item_id", "lf"])
    return table.assign(seed=0, lf=table["lf"].astype("boolean"))


def arms(language, text, image, system="BM"):
    """One row per item and arm from two lists of outcomes."""
    both = (("text", text), ("image", image))
    return [(system, language, arm, str(i), lf) for arm, values in both for i, lf in enumerate(values)]


def test_ifl_is_text_minus_image_over_the_pairs_scored_in_both():
    found = measures.ifl(flagged(*arms("es", [1, 1, 1, 1, None], [1, 0, 0, None, 1]))).set_index("language").loc["es"]
    assert (found["n"], found["text_lf"]) == (3, 1.0)
    assert found["image_lf"] == pytest.approx(1 / 3) and found["ifl"] == pytest.approx(2 / 3)
    assert found["p_value"] == pytest.approx(0.5)  # two discordant pairs, both one way: 2 * (1/2)^2
    assert found["low"] <= found["ifl"] <= found["high"]


def test_ifl_over_all_languages_pairs_within_a_language_and_averages_items():
    rows = arms("es", [1, 1], [0, 1]) + arms("de", [1, 1], [0, 1])
    found = measures.ifl(flagged(*rows)).set_index("language").loc["all"]
    assert found["n"] == 2 and found["ifl"] == 0.5  # item 0 lost in both languages, item 1 in none


def test_ifl_keeps_systems_apart():
    rows = arms("es", [1, 1], [0, 0], "BM") + arms("es", [1, 1], [1, 1], "TR")
    found = measures.ifl(flagged(*rows)).query("language == 'es'").set_index("system")["ifl"]
    assert found.to_dict() == {"BM": 1.0, "TR": 0.0}


def test_ifl_without_a_scored_pair_is_undefined():
    found = measures.ifl(flagged(*arms("es", [None, 1], [1, None])))
    assert (found["n"] == 0).all() and found["ifl"].isna().all() and found["p_value"].isna().all()


def test_ifl_without_an_arm_or_items_is_refused():
    table = flagged(("BM", "es", "image", "0", True))
    with pytest.raises(InputError, match="'text' is not among"):
        measures.ifl(table)
    with pytest.raises(InputError, match="item_id"):
        measures.ifl(table.drop(columns="item_id"))


def test_an_item_answered_twice_on_one_side_is_refused():
    with pytest.raises(InputError, match="twice"):
        measures.ifl(flagged(*arms("es", [1], [1]), *arms("es", [1], [1])))


def test_two_systems_are_compared_on_the_same_items():
    rows = [("TR", "es", "image", str(i), lf) for i, lf in enumerate([1, 1, 1, 0])]
    rows += [("BM", "es", "image", str(i), lf) for i, lf in enumerate([0, 0, 1, 0])]
    rows += [("BM", "es", "text", str(i), 1) for i in range(4)]
    found = measures.compare(flagged(*rows), "TR", "BM").set_index("language").loc["es"]
    assert (found["n"], found["difference"], found["p_value"]) == (4, 0.5, 0.5)


def test_an_unknown_system_is_refused_with_a_suggestion():
    with pytest.raises(InputError, match="did you mean 'BM'"):
        measures.compare(flagged(("BM", "es", "image", "0", True)), "BM", "BMM")


def test_macro_means_weigh_languages_not_answers():
    rows = [("BM", "es", "image", str(i), 1) for i in range(9)] + [("BM", "de", "image", "0", 0)]
    rows += [("BM", "mi", "image", "0", None)]
    found = measures.macro_means(flagged(*rows), {"all": ["es", "de", "mi"], "none": ["mi"]}).set_index("group")
    assert found.loc["all", "mean"] == 0.5 and found.loc["all", "languages"] == 2
    assert found.loc["all", "low"] <= 0.5 <= found.loc["all", "high"]
    assert np.isnan(found.loc["none", "mean"]) and found.loc["none", "languages"] == 0


def test_macro_means_of_a_chosen_measure():
    table = flagged(("BM", "es", "image", "0", 1)).assign(wpr=pd.array([False], dtype="boolean"))
    assert measures.macro_means(table, {"all": ["es"]}, measure="wpr")["mean"].tolist() == [0.0]
