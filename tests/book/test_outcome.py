"""What came out, in words: the sentences hold what the answers say, and no more than their intervals allow."""

from dataclasses import replace
from pathlib import Path

import pandas as pd

from textreg.book import outcome
from textreg.figures.tables import load_results

ROOT = Path(__file__).parents[2]


def test_every_sentence_holds_the_shares_of_the_answers(results):
    told = outcome.findings(results)
    assert "asked language 0\u00a0% of the time, the untuned `backbone` 100\u00a0%" in told["loss"]
    assert "100\u00a0% of `BM`'s answers are clean English, 0\u00a0% mixed" in told["loss"]
    assert "above `BM` (+100.0 [100.0,\u00a0100.0] points), not told apart from `backbone`" in told["cure"]


def test_a_loss_that_english_text_brings_as_well_is_called_english_induced(results):
    assert "English-induced" in outcome.findings(results)["document"]


def test_the_first_page_tells_what_blank_pictures_cost_and_which_kinds_of_questions_pay_for_merging():
    results = load_results(ROOT / "results" / "laptop")
    told, v = outcome.short(results), outcome.Values(results)
    blank = v.of((1.0, "backbone", ("blank", "asked")), (-1.0, "BM", ("blank", "asked")))
    assert f"{100 * blank.value:.0f} under blank ones" in told["loss"]
    below = [kind for kind in outcome.SKILLS if v.against("BM+M", "BM", ("image", "content", kind, "en")) == "below"]
    lead = told["price"].split(".*")[0].lower()
    assert [kind for kind, skill in outcome.SKILLS.items() if skill in lead] == below


def test_language_models_that_move_apart_are_told_one_by_one(results):
    apart = pd.concat([results.answers.assign(backbone=name) for name in ("one", "other")])
    shown = apart["system"].isin(["TR", "backbone"]) & (apart["arm"] == "image")
    where = apart[shown & (apart["language"] == apart["language"].max())].assign(
        task="where", language="en", content=lambda rows: (rows["backbone"] == "one") == (rows["system"] == "TR")
    )
    told = outcome.findings(replace(results, answers=pd.concat([apart, where])))
    assert "by language model 100\u00a0% after tuning, 0\u00a0% before; 0\u00a0% after tuning, 100" in told["seeing"]


def test_what_comes_out_the_other_way_round_is_told_in_the_same_words(results):
    turned = results.answers["system"].replace({"BM": "TR", "TR": "BM"})
    told = outcome.findings(replace(results, answers=results.answers.assign(system=turned)))
    assert "below `BM` (−100.0" in told["cure"]


def test_a_system_that_was_not_evaluated_has_no_sentence(results):
    assert "cure" in (told := outcome.findings(results)) and "controls" not in told


def test_the_first_page_answers_what_was_measured_and_leaves_the_rest_out(results):
    told = outcome.short(results)
    assert told["loss"].startswith("*Its English.* Tuning takes 100 of 100 answers")
    assert told["cure"] == ""  # EN was not asked
    unjudged = replace(results, answers=results.answers.drop(columns="class"))
    assert set(outcome.short(unjudged).values()) == {""} and outcome.findings(unjudged) == {}
