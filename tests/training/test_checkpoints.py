"""Checkpoints that are damaged are named and passed over; a training goes on from the one before, to the same end."""

import json
import re
import shutil

import pytest
import torch
from conftest import image_table, row_table

from textreg.settings import Tune
from textreg.training import checkpoints as resume
from textreg.training.train import EqualWindows, train
from textreg.vlm.adapters import attach
from textreg.vlm.assembly import assemble
from textreg.vlm.features import open_features

SETTINGS = Tune(steps=6, batch_size=8, learning_rate=5e-3, log_steps=2, checkpoint_steps=2)


class Stop(Exception):
    """Ends a training where a kill could."""


def stage(folder, step):
    """A checkpoint of one file in the staging folder."""
    checkpoint = resume.staging(folder) / f"checkpoint-{step}"
    checkpoint.mkdir(parents=True)
    (checkpoint / resume.WEIGHTS).write_bytes(b"weights")


def test_a_half_written_checkpoint_is_not_seen(tmp_path):
    stage(tmp_path, 4)
    resume.publish(tmp_path)
    stage(tmp_path, 8)
    (tmp_path / "checkpoint-abc").mkdir()
    assert resume.latest(tmp_path).name == "checkpoint-4"


def test_two_checkpoints_are_kept(tmp_path):
    for step in (2, 4, 10):
        stage(tmp_path, step)
        resume.publish(tmp_path)
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == ["checkpoint-10", "checkpoint-4"]


CHECKPOINT_FILES = ["model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"]
DAMAGES = {
    "lost": lambda path: path.unlink(),
    "emptied": lambda path: path.write_bytes(b""),
    "cut short": lambda path: path.write_bytes(path.read_bytes()[:-9]),
    "overwritten": lambda path: path.write_bytes(b"\0" * path.stat().st_size),
}


@pytest.fixture(scope="module")
def cut(tmp_path_factory, tiny_llm, tiny_tower):
    """Weights of a whole training, and the folder of the same one stopped after step 4, with two checkpoints."""
    folder = tmp_path_factory.mktemp("cut")

    def train_in(name):
        model, processor = assemble(str(tiny_llm), str(tiny_tower))
        model, seen = attach(model, rank=4, alpha=8), open_features(model, processor, image_table())
        log = train(model, processor, row_table(), seen, SETTINGS, folder / name)
        return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}, log

    def stopped(self, args, state, control, **kwargs):
        if state.global_step == 5:
            raise Stop
        return step_end(self, args, state, control, **kwargs)

    expected, _ = train_in("whole")
    step_end = EqualWindows.on_step_end
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EqualWindows, "on_step_end", stopped)
        with pytest.raises(Stop):
            train_in("cut")
    kept = sorted(path.name for path in (folder / "cut" / "checkpoints").glob("*"))
    assert [name for name in kept if name.startswith("checkpoint-")] == ["checkpoint-2", "checkpoint-4"]
    return folder, expected, train_in


@pytest.mark.parametrize("how", DAMAGES)
@pytest.mark.parametrize("name", [*CHECKPOINT_FILES, resume.INVENTORY])
def test_a_damaged_checkpoint_is_named_and_the_one_before_serves(cut, tmp_path, capsys, name, how):
    checkpoints = shutil.copytree(cut[0] / "cut" / "checkpoints", tmp_path / "checkpoints")
    key = json.loads((checkpoints / resume.PLAN).read_text())["plan"]
    DAMAGES[how](checkpoints / "checkpoint-4" / name)
    assert resume.resumable(checkpoints, key).name == "checkpoint-2"
    assert re.search(rf"checkpoint-4 is damaged \({name} is [a-z ]+\): ", capsys.readouterr().out)


def test_a_checkpoint_holds_all_that_a_training_needs_to_go_on(cut):
    inventory = json.loads((cut[0] / "cut/checkpoints/checkpoint-4" / resume.INVENTORY).read_text())
    assert set(CHECKPOINT_FILES) <= inventory.keys()


def test_a_training_whose_newest_checkpoint_is_damaged_ends_in_the_same_weights(cut):
    folder, expected, train_in = cut
    shutil.copytree(folder / "cut", folder / "spoilt")
    (folder / "spoilt" / "checkpoints" / "checkpoint-4" / "optimizer.pt").unlink()
    found, log = train_in("spoilt")
    assert log.resumed_from == 2
    assert expected.keys() == found.keys()
    assert all(torch.equal(value, found[name]) for name, value in expected.items())


@pytest.mark.parametrize("text", ["[]", "{}", "null", "{", "3"])
def test_a_damaged_plan_of_a_training_starts_it_anew(cut, tmp_path, text):
    checkpoints = shutil.copytree(cut[0] / "cut" / "checkpoints", tmp_path / "checkpoints")
    (checkpoints / resume.PLAN).write_text(text)
    assert resume.resumable(checkpoints, "key") is None
