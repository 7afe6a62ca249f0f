"""Identifiers: the library's own labels, restriction, the traps of the code book, and texts that are none."""

import random

import pytest

from textreg.data import codes
from textreg.data.codes import check_code, code_book
from textreg.errors import InputError
from textreg.fidelity.identifiers import open_identifier
from textreg.fidelity.labels import Label, RestrictedIdentifier, clean
from textreg.scenes import languages
from textreg.scenes.grammar import caption
from textreg.scenes.scene import sample

CROSSMODAL = (
    "ar bn cs da de el en es fa fi fil fr he hi hr hu id it ja ko mi nl no pl pt quz ro ru sv sw te th tr uk vi zh"
)
DANISH = "Der er en lille rød cirkel og to store gule trekanter på billedet"


@pytest.fixture(scope="module")
def py3langid():
    return open_identifier()


@pytest.fixture(scope="module")
def captions():
    rng = random.Random(3)
    return [(code, caption(sample(rng), code, rng=rng)) for code in languages.codes() for _ in range(12)]


class Counting(RestrictedIdentifier):
    """Remembers what it was asked and calls everything French."""

    name, version, candidates = "counting", "1", ("fr",)

    def __init__(self):
        super().__init__(max_chars=20)
        self.asked = []

    def _classify(self, texts):
        self.asked += texts
        return [Label("fr", 1.0, "fr") for _ in texts]


def test_captions_of_all_scene_languages_are_recognised(py3langid, captions):
    labels = py3langid.identify([text for _, text in captions])
    assert [label.code for label in labels] == [code for code, _ in captions]


def test_labels_and_confidences_are_those_of_the_library(py3langid, captions):
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    library = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    rng = random.Random(0)
    words = [word for _, text in captions for word in text.split()]
    texts = [" ".join(rng.choices(words, k=rng.randint(1, 15))) for _ in range(300)]
    texts += ["ABSOLUTNIE WSZYSTKO WIELKIMI", "漢字かな交じり文です", "O'zbekiston", "Ово је српски", "x" * 900]
    texts = [clean(text) for text in texts]
    labels = py3langid.identify(texts)
    code_of = {label: code for code, entry in code_book().items() for label in entry.py3langid}
    told = [(text, label) for text, label in zip(texts, labels, strict=True) if label.code != "und"]
    assert len(told) > 250
    for text, label in told:
        raw, _ = library.classify(text)
        assert label.unrestricted == code_of.get(raw, raw)
    library.set_languages([*code_of, "zxx"])
    for text, label in told:
        raw, confidence = library.classify(text)
        assert label.code == code_of.get(raw, raw)
        assert label.confidence == pytest.approx(confidence, abs=1e-3)


def test_a_language_of_the_default_candidates_is_not_credited_to_its_neighbour(py3langid):
    assert py3langid.identify([DANISH])[0].code == "da"


def test_a_narrow_candidate_list_shows_in_the_unrestricted_label():
    label = open_identifier(candidates=["en", "sv", "de"]).identify([DANISH])[0]
    assert (label.code, label.unrestricted) == ("sv", "da")


def test_the_candidates_are_stated_and_hold_what_the_library_knows(py3langid):
    assert set(py3langid.candidates) == set(code_book()) - {"mi"} | {"zxx"}
    assert "py3langid 0.4.0" in str(py3langid) and "41 candidates" in str(py3langid)


def test_other_languages_of_the_library_can_be_candidates():
    identifier = open_identifier(candidates=["en", "hy"])
    assert identifier.identify(["Սա մի փոքրիկ կարմիր շրջան է"])[0].code == "hy"


def test_random_letters_are_no_language(py3langid):
    rng = random.Random(1)
    texts = [" ".join("".join(rng.choices("bcdfghjklmnpqrstvwxz", k=7)) for _ in range(9)) for _ in range(20)]
    assert sum(label.code == "zxx" for label in py3langid.identify(texts)) >= 19


@pytest.mark.parametrize("text", ["", " \n\t ", "\u200b\ufeff\u202e\u200f", "\x00\x01"])
def test_an_empty_text_is_undetermined_before_any_library_is_asked(text):
    identifier = Counting()
    assert identifier.identify([text]) == [Label("und", 1.0, None)]
    assert identifier.asked == []


@pytest.mark.parametrize("text", ["3", "!!! ...", "12:30", "🙂🙂", "\u2066 42 \u2069"])
def test_digits_and_signs_are_no_language(text):
    identifier = Counting()
    assert identifier.identify([text])[0].code == "zxx"
    assert identifier.asked == []


def test_equal_texts_are_identified_once_and_answers_keep_their_order():
    identifier = Counting()
    labels = identifier.identify(["un", "", "un", " un\n", "deux"])
    assert identifier.asked == ["un", "deux"]
    assert [label.code for label in labels] == ["fr", "und", "fr", "fr", "fr"]


def test_the_work_per_text_is_bounded():
    identifier = Counting()
    identifier.identify(["mot " * 25_000])
    assert identifier.asked == ["mot mot mot mot mot"]


@pytest.mark.parametrize(
    "text", ["a" * 100_000, "\ud800 lone surrogate", "שלום \u202eעולם", "\U000e0041 tags", "\x00nul", "़़़" * 50, "a"]
)
def test_no_text_makes_identification_raise(py3langid, text):
    assert len(py3langid.identify([text, text])) == 2


def test_no_texts_give_no_labels(py3langid):
    assert py3langid.identify([]) == []


def test_direction_marks_do_not_change_the_label_but_joiners_stay():
    assert clean("\u202bيک\u202c  \u200fدو\n") == "يک دو"
    assert clean("می\u200cخواهم") == "می\u200cخواهم"


def test_the_code_book_holds_the_scene_languages_and_crossmodal_3600():
    assert set(code_book()) == set(languages.codes()) | set(CROSSMODAL.split())


@pytest.mark.parametrize(
    ("code", "library", "labels"),
    [
        ("fa", "glotlid", {"fas_Arab"}),
        ("fil", "glotlid", {"fil_Latn"}),
        ("fil", "py3langid", {"tl"}),
        ("no", "glotlid", {"nob_Latn", "nno_Latn"}),
        ("no", "lingua", {"BOKMAL", "NYNORSK"}),
        ("quz", "glotlid", {"quz_Latn", "quy_Latn"}),
        ("quz", "py3langid", {"qu"}),
        ("sw", "glotlid", {"swh_Latn"}),
        ("hr", "glotlid", {"hrv_Latn"}),
        ("hr", "py3langid", {"hr"}),
        ("id", "glotlid", {"ind_Latn"}),
        ("gl", "lingua", set()),
        ("mi", "py3langid", set()),
    ],
)
def test_the_code_book_knows_the_label_traps(code, library, labels):
    assert set(getattr(code_book()[code], library)) == labels


def test_chinese_and_arabic_count_the_main_glotlid_label_first():
    assert code_book()["zh"].glotlid[0] == "cmn_Hani" and code_book()["ar"].glotlid[0] == "arb_Arab"


def test_no_label_belongs_to_two_languages():
    for library in ("py3langid", "lingua", "glotlid"):
        labels = [label for entry in code_book().values() for label in getattr(entry, library)]
        assert len(labels) == len(set(labels))


@pytest.mark.parametrize(
    ("code", "meant"),
    [("jp", "ja"), ("ua", "uk"), ("gr", "el"), ("nb", "no"), ("pt-BR", "pt"), ("zh_CN", "zh"), ("Basque", "eu"),
     ("EN", "en"), ("cz", "cs"), ("tl", "fil"), ("iw", "he"), ("spa", "es")],
)  # fmt: skip
def test_an_unknown_code_is_refused_with_the_likely_one(code, meant):
    with pytest.raises(InputError, match=f"did you mean '{meant}'"):
        check_code(code)


@pytest.mark.parametrize("code", [None, 7, "", "qqq"])
def test_a_code_like_nothing_known_is_refused_with_the_known_ones(code):
    with pytest.raises(InputError, match="unknown language code"):
        check_code(code)


def test_an_unknown_identifier_is_refused_with_a_suggestion():
    with pytest.raises(InputError, match="did you mean 'py3langid'"):
        open_identifier("pylangid")


# ------------------------------------------------------------------------------- the two tables of spellings

#: Spellings on whose meaning the tables differ on purpose: an answer in Nynorsk is Norwegian, but a data set may keep
#: it apart; and "que" in a data set may be any Quechua.
ON_PURPOSE = {"nno", "que"}


def test_what_data_sets_spell_is_what_answer_files_are_corrected_to():
    for spelled, code in codes._codes()["codes"].items():
        if code in code_book():
            with pytest.raises(InputError, match=f"did you mean '{code}'"):
                check_code(spelled)


@pytest.mark.parametrize("code", code_book())
def test_a_language_has_one_code_whichever_table_reads_its_name(code):
    entry = code_book()[code]
    three_letters = [word for word in entry.mistaken if len(word) == 3 and word not in ON_PURPOSE]
    name = "Cusco Quechua" if code == "quz" else entry.name
    for spelled in (code, name, *entry.glotlid[:1], *three_letters):
        assert codes.language_code(spelled) == code
