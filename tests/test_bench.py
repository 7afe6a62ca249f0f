"""The benchmark of the tuning step measures the profile it names."""

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from textreg.errors import InputError
from textreg.runs import budget, profiles, sizes

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def gpu_step():
    spec = importlib.util.spec_from_file_location("gpu_step", REPOSITORY / "bench" / "gpu_step.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.mark.parametrize("name", ["gpu", "gpu-7b"])
def test_the_step_has_the_settings_and_shapes_of_the_profile(gpu_step, name):
    step = gpu_step.step_of(name, steps=3)
    tuned = profiles.resolve(profiles.load(name, REPOSITORY), "tune", "TR")
    for key in ("rank", "alpha", "max_length", "batch_size", "packing", "activation_checkpointing", "text_share"):
        assert getattr(step.settings, key) == getattr(tuned, key), key
    assert step.settings.steps == 3
    size = "7b" if name == "gpu-7b" else "2b"
    assert step.llm == sizes.find(f"BSC-LT/salamandra-{size}-instruct", "llm")


def test_the_rows_have_the_profiles_share_of_text_and_the_words_of_its_plan(gpu_step):
    step = gpu_step.step_of("gpu", ["tune.batch_size=100"], steps=10)
    rows = gpu_step.rows_of(step)
    words = rows["messages"].map(lambda turns: sum(len(turn["content"].split()) for turn in turns))
    shown = rows["image_id"].notna()
    assert len(rows) == 1000 and (~shown).mean() == 0.25
    assert words[shown].mean() == pytest.approx(step.seen, rel=0.2)
    assert words[~shown].mean() == pytest.approx(step.read, rel=0.2)
    said = rows["messages"].map(lambda turns: len(turns[1]["content"].split()))
    assert said.sum() / words.sum() == pytest.approx(budget.ANSWERED, abs=0.02)
    assert (words + 8 + 729 * shown <= 2048 + 1).all()


@pytest.mark.parametrize("runs_tower", [True, False])
def test_the_step_trains(gpu_step, runs_tower, tmp_path):
    overrides = ["tune.batch_size=4", "tune.micro_batch=2", "tune.workers=0", "tune.threads=1", "tune.max_length=900"]
    small = {"llm": sizes.LanguageModel(2, 32, 48, 4, 2, 1200, False), "tower": sizes.Tower(2, 64, 48, 56, 14)}
    step = replace(gpu_step.step_of("gpu", overrides, steps=2), seen=20, read=20, **small)
    model, processor = gpu_step.build(step.llm, step.tower, device="cpu")
    tuned = gpu_step.attach(model, rank=2, alpha=4)
    images = gpu_step.RandomImages(step.tower, runs_tower)
    rows = gpu_step.rows_of(step)
    log = gpu_step.train(tuned, processor, rows, images, step.settings, tmp_path, order=range(len(rows)))
    assert log.rows == 8 and log.loss > 0


def test_what_cannot_be_measured_is_one_line(gpu_step):
    with pytest.raises(InputError, match="random weights are not quantized"):
        gpu_step.step_of("gpu", ["tune.precision=4bit"])
    with pytest.raises(InputError, match="the shape of its models is not known"):
        gpu_step.step_of("gpu", ["align.llm=nobody/never-heard-of"])
