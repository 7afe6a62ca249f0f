"""Manifests and identities: small, relative, and decided by what changes results alone."""

import json
import re
from datetime import UTC, datetime

import pytest

from textreg.errors import InputError
from textreg.files import HashCache, write_json
from textreg.runs import identity, manifest
from textreg.runs.identity import Identity
from textreg.runs.stages import Unit
from textreg.settings import Align, Tune, stage_classes

MINE = Identity({"seed": 0, "steps": 5}, {"03_tune.ipynb": "aa", "textreg.training.train": "bb"}, {"align": "cc"})


def written(folder, outputs=None):
    return manifest.write(
        folder,
        Unit("tune", "TR"),
        MINE,
        outputs or {"log.csv": "1", "adapter/a.safetensors": "2"},
        profile="tiny",
        notebook="notebooks/03_tune-TR.ipynb",
        began=datetime.now(UTC),
        peak_memory_mb=10,
        threads=1,
        resumed=False,
    )


def test_a_manifest_is_read_again_and_holds_no_absolute_path_and_nothing_of_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "fake-key-0123456789")
    assert manifest.read(tmp_path) is None
    text = json.dumps(written(tmp_path))
    assert manifest.read(tmp_path)["unit"] == "tune[TR]"
    assert not re.search(r'"(/|[A-Z]:\\)', text) and str(tmp_path) not in text and "fake-key" not in text


@pytest.mark.parametrize(
    "spoil",
    [
        lambda content: content.pop("code"),
        lambda content: content.update(outputs=[]),
        lambda content: content.update(format=99),
        lambda content: content["outputs"].update({"../../outside": "1"}),
    ],
)
def test_a_damaged_torn_or_hostile_manifest_is_refused(tmp_path, spoil):
    content = written(tmp_path)
    spoil(content)
    write_json(tmp_path / "manifest.json", content)
    with pytest.raises(InputError):
        manifest.read(tmp_path)
    text = (tmp_path / "manifest.json").read_text()
    (tmp_path / "manifest.json").write_text(text[: len(text) // 2])
    with pytest.raises(InputError, match="run the stage again"):
        manifest.read(tmp_path)


def test_a_missing_or_changed_output_is_named(tmp_path):
    for name in ("kept.csv", "changed.csv", "gone.csv"):
        (tmp_path / name).write_text(name)
    content = written(tmp_path, HashCache().folder(tmp_path))
    (tmp_path / "changed.csv").write_text("other")
    (tmp_path / "gone.csv").unlink()
    assert manifest.damage(tmp_path, content, HashCache()) == ["changed.csv was changed", "gone.csv is missing"]
    assert manifest.damage(tmp_path, content, HashCache(), shipped=True) == ["changed.csv was changed"]


def test_speed_records_do_not_reach_what_follows():
    one = manifest.outputs_digest({"log.csv": "1", "adapter": "2"})
    assert manifest.outputs_digest({"log.csv": "9", "adapter": "2"}) == one
    assert manifest.outputs_digest({"log.csv": "1", "adapter": "9"}) != one


def test_each_kind_of_change_is_told_in_its_own_words():
    old = {"parameters": dict(MINE.parameters), "code": dict(MINE.code), "inputs": dict(MINE.inputs)}
    assert identity.differences(old, MINE) == []
    assert identity.differences({**old, "parameters": {"seed": 0, "steps": 9}}, MINE) == ["parameter steps: 9 -> 5"]
    assert identity.differences({**old, "parameters": {"seed": 0}}, MINE) == ["parameter steps is new"]
    assert identity.differences({**old, "code": {"03_tune.ipynb": "aa"}}, MINE) == [
        "code textreg.training.train changed"
    ]
    assert identity.differences({**old, "inputs": {"align": "zz"}}, MINE) == ["input align changed"]


@pytest.mark.parametrize("key", sorted(identity.WITHOUT_EFFECT))
def test_settings_without_effect_are_settings_that_exist(key):
    assert any(key in vars(cls()) for cls in stage_classes().values())


def test_where_and_how_fast_do_not_identify_a_result_and_what_is_computed_does():
    here = identity.parameters(Tune())
    assert identity.parameters(Tune(run="elsewhere", threads=8, workers=3, log_steps=1)) == here
    assert identity.parameters(Tune(seed=1)) != here
    assert identity.parameters(Tune(rank=4)) != here


def test_a_local_folder_counts_by_its_content_and_not_by_its_place(tmp_path):
    found = []
    for place in ("a", "b"):
        folder = tmp_path / place / "llm"
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{}")
        settings = Align(llm=str(folder))
        found.append((identity.parameters(settings), identity.local_data(settings, HashCache())))
    assert found[0] == found[1]
    assert found[0][0]["llm"] == "local:llm"
    (folder / "config.json").write_text('{"a": 1}')
    assert identity.local_data(settings, HashCache()) != found[0][1]
