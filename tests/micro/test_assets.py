"""The shipped backbone: saved whole, refused when it is not, and good enough to have something to lose."""

import json

import pytest

from textreg.errors import InputError
from textreg.micro import assets, llm, tower
from textreg.scenes import languages
from textreg.settings import Backbone
from textreg.vlm import assembly

SIZES = {"hidden": 32, "layers": 1, "heads": 2, "tower_hidden": 16, "tower_layers": 1, "tower_heads": 2}
TINY = Backbone(vocabulary=400, image_size=24, patch_size=6, **SIZES)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder as ``00_backbone`` writes it, with untrained models."""
    folder = tmp_path_factory.mktemp("assets")
    tokenizer = llm.build_tokenizer(TINY, examples=50)
    scores = [{"language": "en", "n": 1, "fidelity": 0.5, "exact": 0.5}]
    models = llm.build_llm(TINY, tokenizer), tokenizer, tower.build_tower(TINY)
    assets.save(folder, *models, TINY, scores, {"all": 0.25})
    return folder


@pytest.fixture
def copied(saved, tmp_path):
    """A copy, to be spoilt."""
    import shutil

    return shutil.copytree(saved, tmp_path / "copy")


def test_what_was_saved_is_whole_and_says_how_it_was_made(saved):
    manifest = assets.check(saved)
    assert manifest["settings"]["hidden"] == 32 and manifest["settings"]["seed"] == 0
    assert manifest["held_out"]["tower"] == {"all": 0.25}
    assert set(manifest["sha256"]) == {path.relative_to(saved).as_posix() for path in assets.files(saved)}
    assert {"torch", "transformers"} <= set(manifest["versions"])


def test_the_two_checkpoints_are_ordinary_ones_that_make_a_llava(saved):
    model, processor = assembly.assemble(str(saved / "llm"), str(saved / "tower"))
    assert model.config.image_seq_length == 16
    assert processor.tokenizer.convert_tokens_to_ids("<image>") == model.config.image_token_index


@pytest.mark.parametrize("name", ["llm/model.safetensors", "llm/tokenizer.json", "tower/preprocessor_config.json"])
def test_a_damaged_file_is_named_with_the_cure(copied, name):
    data = bytearray((copied / name).read_bytes())
    data[len(data) // 2] ^= 1
    (copied / name).write_bytes(bytes(data))
    with pytest.raises(InputError, match=rf"{name} is damaged; .*00_backbone"):
        assets.check(copied)


def test_a_missing_file_is_named(copied):
    (copied / "tower" / "config.json").unlink()
    with pytest.raises(InputError, match=r"tower/config\.json is missing"):
        assets.check(copied)


@pytest.mark.parametrize("content", [None, "", "{", "{}", "[]"])
def test_a_manifest_that_is_missing_or_damaged_is_named(copied, content):
    path = copied / assets.MANIFEST
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(InputError, match=r"manifest\.json is missing or damaged"):
        assets.check(copied)


def test_the_shipped_backbone_is_whole_and_small():
    manifest = assets.check()
    assert sum((assets.FOLDER / name).stat().st_size for name in manifest["sha256"]) <= 12e6
    assert set(manifest["sha256"]) == {
        path.relative_to(assets.FOLDER).as_posix() for path in assets.files(assets.FOLDER)
    }


def test_the_shipped_backbone_knows_its_languages_and_sees():
    held_out = json.loads((assets.FOLDER / assets.MANIFEST).read_text("utf-8"))["held_out"]
    scores = {row["language"]: row for row in held_out["llm"]}
    assert set(scores) == set(languages.codes())
    assert {code: row["fidelity"] for code, row in scores.items() if row["fidelity"] < 0.99} == {}
    assert {code: row["exact"] for code, row in scores.items() if row["exact"] < 0.95} == {}
    assert {name: value for name, value in held_out["tower"].items() if value < 0.98} == {}
