"""Checkpoints that are damaged are named and passed over; ``test_train.py`` goes on from the one before."""

import re

import pytest

from textreg.training import checkpoints as resume

FILES = (resume.WEIGHTS, "optimizer.pt", "scheduler.pt")


def stage(folder, step):
    """A checkpoint in the staging folder."""
    checkpoint = resume.staging(folder) / f"checkpoint-{step}"
    checkpoint.mkdir(parents=True)
    for name in FILES:
        (checkpoint / name).write_text(f"{name} of step {step}")


@pytest.fixture
def kept(tmp_path):
    """The folder of the plan "key" with checkpoints of two steps."""
    assert resume.resumable(tmp_path, "key") is None
    for step in (2, 4):
        stage(tmp_path, step)
        resume.publish(tmp_path)
    assert resume.resumable(tmp_path, "key").name == "checkpoint-4"
    return tmp_path


def test_a_half_written_checkpoint_is_not_seen(kept):
    stage(kept, 8)
    (kept / "checkpoint-abc").mkdir()
    assert resume.latest(kept).name == "checkpoint-4"


def test_two_checkpoints_are_kept(kept):
    stage(kept, 10)
    resume.publish(kept)
    assert sorted(path.name for path in kept.glob("checkpoint-*")) == ["checkpoint-10", "checkpoint-4"]


DAMAGES = {
    "lost": lambda path: path.unlink(),
    "emptied": lambda path: path.write_bytes(b""),
    "cut short": lambda path: path.write_bytes(path.read_bytes()[:-9]),
    "overwritten": lambda path: path.write_bytes(b"\0" * path.stat().st_size),
}


@pytest.mark.parametrize("how", DAMAGES)
@pytest.mark.parametrize("name", [*FILES, resume.INVENTORY])
def test_a_damaged_checkpoint_is_named_and_the_one_before_serves(kept, capsys, name, how):
    DAMAGES[how](kept / "checkpoint-4" / name)
    assert resume.resumable(kept, "key").name == "checkpoint-2"
    assert re.search(rf"checkpoint-4 is damaged \({name} is [a-z ]+\): ", capsys.readouterr().out)


@pytest.mark.parametrize("text", ["[]", "{}", "null", "{", "3"])
def test_a_damaged_plan_of_a_training_starts_it_anew(kept, text):
    (kept / resume.PLAN).write_text(text)
    assert resume.resumable(kept, "key") is None
