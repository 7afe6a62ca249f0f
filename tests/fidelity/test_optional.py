"""lingua, and GlotLID on a tiny fastText model with GlotLID's label names."""

import pytest

from textreg.data.codes import code_book
from textreg.errors import InputError
from textreg.fidelity.identifiers import open_identifier
from textreg.fidelity.labels import clean

SENTENCES = {
    "eng_Latn": ["there is a small red circle in the picture", "the image shows two large blue squares above a star"],
    "spa_Latn": ["hay un círculo rojo en la imagen", "la imagen muestra dos cuadrados azules sobre una estrella"],
    "dan_Latn": ["der er en lille rød cirkel på billedet", "billedet viser to store blå firkanter over en stjerne"],
    "tgl_Latn": ["may maliit na pulang bilog sa larawan", "ipinapakita ng larawan ang dalawang asul na parisukat"],
    "nno_Latn": ["det er ein liten raud sirkel på biletet", "biletet viser to store blå firkantar over ei stjerne"],
    "zxx_Latn": ["xq zzt kjh wwq plkj mnbv qqzx", "hgf dsa poi uyt rew mnb vcx zlk"],
}  # fmt: skip


def train(folder, name, **options):
    fasttext = pytest.importorskip("fasttext")
    text = folder / "train.txt"
    lines = [f"__label__{label} {s}" for label, sentences in SENTENCES.items() for s in sentences] * 40
    text.write_text("\n".join(lines) + "\n", encoding="utf-8")
    # fastText fills one tenth of its matrix per thread: fewer than ten leave memory as it was found, NaN included
    model = fasttext.train_supervised(
        str(text), minn=2, maxn=4, dim=16, epoch=50, lr=0.2, thread=10, verbose=0, bucket=200_000, **options
    )
    model.save_model(str(folder / name))
    return folder / name


@pytest.fixture(scope="module")
def glotlid_file(tmp_path_factory):
    return train(tmp_path_factory.mktemp("glotlid"), "model_v3.bin")


def test_glotlid_restricts_to_the_best_candidate_label(glotlid_file):
    import fasttext

    model = fasttext.load_model(str(glotlid_file))
    identifier = open_identifier("glotlid", model=str(glotlid_file), candidates=["en", "es", "no"])
    code_of = {"eng_Latn": "en", "spa_Latn": "es", "nno_Latn": "no", "zxx_Latn": "zxx"}
    texts = [s for sentences in SENTENCES.values() for s in sentences] + ["una estrella and a star"]
    for text, label in zip(texts, identifier.identify(texts), strict=True):
        names, shares = model.predict(clean(text), k=-1)
        shares = shares - 1e-5  # fastText adds it before its logarithm
        ranked = [(name.removeprefix("__label__"), share) for name, share in zip(names, shares, strict=True)]
        offered = [(name, share) for name, share in ranked if name in code_of]
        assert label.code == code_of[offered[0][0]]
        assert label.confidence == pytest.approx(offered[0][1] / sum(share for _, share in offered), abs=1e-3)
        assert label.unrestricted == code_of.get(ranked[0][0], ranked[0][0])


def test_glotlid_keeps_a_label_outside_the_code_book_as_it_is(glotlid_file):
    identifier = open_identifier("glotlid", model=str(glotlid_file))
    label = identifier.identify(["may maliit na pulang bilog sa larawan"])[0]
    assert label.unrestricted == "tgl_Latn" and label.code != "fil"


def test_glotlid_accepts_newlines_and_states_its_version(glotlid_file):
    identifier = open_identifier("glotlid", model=str(glotlid_file))
    assert identifier.identify(["there is a small\nred circle\r\nin the picture"])[0].code == "en"
    assert str(identifier).startswith("glotlid model_v3.bin")


def test_a_model_whose_labels_cannot_be_restricted_is_refused(tmp_path):
    path = train(tmp_path, "hierarchical.bin", loss="hs")
    with pytest.raises(InputError, match="softmax"):
        open_identifier("glotlid", model=str(path))


def test_a_file_that_is_no_model_is_refused(tmp_path):
    pytest.importorskip("fasttext")
    (tmp_path / "model.bin").write_bytes(b"not a model at all")
    with pytest.raises(InputError, match=r"model\.bin"):
        open_identifier("glotlid", model=str(tmp_path / "model.bin"))


def test_a_missing_model_names_the_cure():
    pytest.importorskip("fasttext")
    with pytest.raises(InputError, match="cis-lmu/glotlid"):
        open_identifier("glotlid", model="nowhere/model_v3.bin")


def test_a_hub_model_out_of_reach_names_the_cure(monkeypatch, tmp_path):
    pytest.importorskip("fasttext")
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(InputError, match="name the file"):
        open_identifier("glotlid", model="someone/no-such-model")


@pytest.fixture(scope="module")
def lingua():
    pytest.importorskip("lingua")
    return open_identifier("lingua", candidates=["en", "es", "no", "gl"])


def test_lingua_never_offers_galician(lingua):
    assert lingua.candidates == ("en", "es", "no")


def test_lingua_labels_sentences_and_counts_nynorsk_as_norwegian(lingua):
    texts = ["There is a red circle in the picture", "Hay un círculo rojo en la imagen", SENTENCES["nno_Latn"][0], ""]
    assert [label.code for label in lingua.identify(texts)] == ["en", "es", "no", "und"]


def test_lingua_knows_every_label_of_the_code_book():
    language = pytest.importorskip("lingua").Language
    assert all(hasattr(language, label) for entry in code_book().values() for label in entry.lingua)


def test_lingua_refuses_a_single_candidate():
    pytest.importorskip("lingua")
    with pytest.raises(InputError, match="two candidates"):
        open_identifier("lingua", candidates=["en", "gl"])
