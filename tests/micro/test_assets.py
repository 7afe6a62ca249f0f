"""The shipped backbone: saved whole, refused when it is not, and good enough to have something to lose."""

import shutil
from pathlib import Path

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
    scores = [{"language": "en", "arm": "text", "n": 1, "asked": 0.5, "english": 0.0, "exact": 0.5}]
    models = llm.build_llm(TINY, tokenizer), tokenizer, tower.build_tower(TINY)
    assets.save(folder, *models, TINY, {"llm": scores, "tower": {"all": 0.25}})
    return folder


@pytest.fixture
def copied(saved, tmp_path):
    """A copy, to be spoilt."""
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


NAMES = sorted(path.name for path in assets.WEIGHTS.iterdir())
SECOND = sorted((Path(__file__).parents[2] / "results" / "backbones").iterdir())  # language models of other seeds
FOLDERS = [*(assets.WEIGHTS / name for name in NAMES), *SECOND]


def test_what_is_shipped_is_small():
    assert sum(path.stat().st_size for path in assets.WEIGHTS.rglob("*")) <= 25e6
    assert assets.SHIPPED in NAMES and all(assets.is_shipped(name) for name in NAMES)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_a_shipped_backbone_is_whole(folder):
    names = {path.relative_to(folder).as_posix() for path in assets.files(folder)}
    assert set(assets.check(folder)["sha256"]) == names


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_a_shipped_backbone_knows_its_languages_and_has_one_to_lose(folder):
    held_out = assets.check(folder)["held_out"]
    text = {row["language"]: row for row in held_out["llm"] if row["arm"] == "text"}
    english = [row for row in held_out["llm"] if row["arm"] == "text_en"]
    assert set(text) == set(languages.codes())
    assert {code: row["asked"] for code, row in text.items() if row["asked"] < 0.98} == {}
    assert 0.5 <= sum(row["asked"] for row in english) / len(english) <= 0.8


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_tower_sees(name):
    held_out = assets.check(assets.WEIGHTS / name)["held_out"]
    # A tenth of these scenes shows a combination that no training showed: a shape is missed there at times.
    assert {name: value for name, value in held_out["tower"].items() if value < 0.96} == {}


def test_a_backbone_that_is_not_shipped_is_named():
    with pytest.raises(InputError, match="llm=shipped-99: no such backbone is shipped"):
        assembly.assemble("shipped-99", "shipped")
