"""The trial of a micro-batch runs as the training runs, and leaves nothing behind."""

from contextlib import nullcontext

import pytest
import torch
from conftest import Placeholders

from textreg import compute
from textreg.settings import Tune
from textreg.training.batches import StepBatches, encode
from textreg.training.learner import Learner
from textreg.training.probing import largest, one_pass
from textreg.training.train import StepTrainer, prepare_parameters, train
from textreg.vlm.adapters import attach
from textreg.vlm.assembly import assemble
from textreg.vlm.features import open_features


@pytest.fixture
def ready(tiny_llm, tiny_tower, tiny_images, tiny_rows):
    """A learner with checkpointed layers, and a batch."""
    model, processor = assemble(str(tiny_llm), str(tiny_tower))
    features = open_features(model, processor, tiny_images)
    learner = Learner(attach(model, rank=4, alpha=8))
    prepare_parameters(learner.model, activation_checkpointing=True)
    samples = encode(processor, tiny_rows, Placeholders(), max_length=128)
    return learner, StepBatches(samples, range(4), steps=1, batch_size=4, groups=1, features=features)[0]


def test_the_trial_checkpoints_every_layer_as_the_training_does(ready):
    learner, batch = ready
    calls, layers = [], learner.model.get_base_model().model.language_model.layers
    for layer in layers:
        original = layer._gradient_checkpointing_func

        def counted(*args, original=original, **kwargs):
            calls.append(1)
            return original(*args, **kwargs)

        layer._gradient_checkpointing_func = counted
    one_pass(learner, batch, bf16=False)
    assert len(calls) == len(layers)


@pytest.mark.parametrize("fits", [True, False])
def test_the_trial_leaves_modes_and_gradients_as_they_were_also_where_it_runs_out_of_memory(ready, monkeypatch, fits):
    learner, batch = ready
    before = {name: module.training for name, module in learner.named_modules()}

    def full(*_, **__):
        raise torch.cuda.OutOfMemoryError("out of memory")

    if not fits:
        monkeypatch.setattr(torch.Tensor, "backward", full)
    with nullcontext() if fits else pytest.raises(torch.cuda.OutOfMemoryError):
        one_pass(learner, batch, bf16=False)
    assert {name: module.training for name, module in learner.named_modules()} == before
    assert len(set(before.values())) == 2  # some trained, some not: one word for all of them would be wrong
    assert all(parameter.grad is None for parameter in learner.parameters())


@pytest.mark.parametrize(
    ("share", "room", "found"), [(16, 5, 4), (16, 100, 16), (12, 100, 4), (7, 100, 1), (16, 1, 1), (16, 0, 0)]
)
def test_the_largest_power_of_two_that_divides_the_share_and_fits_is_found(share, room, found):
    assert largest(share, lambda micro: micro <= room) == found


def test_the_memory_of_the_trial_does_not_count_as_the_trainings(ready, tmp_path, monkeypatch, tiny_vlm, tiny_rows):
    model, processor = tiny_vlm
    happened = []

    def noted(what, act):
        def call(*args, **kwargs):
            happened.append(what)
            return act(*args, **kwargs)

        return call

    monkeypatch.setattr("textreg.training.train.probe_micro_batch", noted("trial", lambda *_: 2))
    monkeypatch.setattr(compute, "reset_peak_memory", noted("reset", compute.reset_peak_memory))
    monkeypatch.setattr(StepTrainer, "train", noted("training", StepTrainer.train))
    settings = Tune(steps=1, batch_size=2)
    train(model, processor, tiny_rows.iloc[[0, 4]], None, settings, tmp_path, order=[0, 1])
    assert happened == ["trial", "reset", "training"]
