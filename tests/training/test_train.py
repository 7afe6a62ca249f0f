"""Training computes what it says: losses, resumption, processes, and what happens when it goes wrong."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from textreg.errors import InputError, RunError
from textreg.settings import Align, Tune
from textreg.training import checkpoints
from textreg.training import train as training
from textreg.training.batches import IGNORE, StepBatches, encode
from textreg.training.train import Learner, train
from textreg.vlm.adapters import attach
from textreg.vlm.assembly import assemble
from textreg.vlm.features import open_features, projected

SETTINGS = Tune(steps=6, batch_size=8, learning_rate=5e-3, log_steps=2)
SCRIPT = Path(__file__).parents[1] / "train_script.py"


@pytest.fixture
def data(tiny_llm, tiny_tower, tiny_images, tiny_rows):
    """What a training needs, with a fresh model at every call of ``model()``."""

    class Data:
        rows = tiny_rows
        folders = tiny_llm, tiny_tower

        def model(self, adapter=True):
            model, self.processor = assemble(str(tiny_llm), str(tiny_tower))
            self.features = open_features(model, self.processor, tiny_images)
            return attach(model, rank=4, alpha=8) if adapter else model

        def train(self, settings, out, adapter=True, rows=None, **options):
            model = self.model(adapter)
            rows = self.rows if rows is None else rows
            log = train(model, self.processor, rows, self.features, settings, out, **options)
            return weights(model), log

    return Data()


def weights(model):
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


def largest_difference(a, b):
    assert a.keys() == b.keys()
    return max(float((a[name] - b[name]).abs().max()) for name in a)


def test_the_loss_equals_the_models_own_loss(data):
    model = data.model().eval()
    samples = encode(data.processor, data.rows, image_tokens=4, max_length=128)
    batch = StepBatches(samples, range(16), steps=1, batch_size=16, groups=1, features=data.features)[0]
    ours = Learner(model)(**batch)["loss"]
    logits = model.get_base_model()(
        input_ids=batch["input_ids"], mm_encoder_outputs=projected(model.get_base_model(), batch)
    ).logits
    full = torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten(), ignore_index=IGNORE
    )
    assert abs(ours.item() - full.item()) < 1e-5


def test_a_text_only_batch_gives_the_projector_true_zero_gradients(data):
    model = data.model()
    samples = encode(data.processor, data.rows.iloc[[0, 4, 8]], image_tokens=4, max_length=128)
    batch = StepBatches(samples, range(3), steps=1, batch_size=3, groups=1, features=None)[0]
    assert set(batch) == {"input_ids", "labels"}
    Learner(model)(**batch)["loss"].backward()
    gradients = [p.grad for name, p in model.named_parameters() if p.requires_grad and "projector" in name]
    assert gradients and all(gradient is not None and not gradient.any() for gradient in gradients)


def test_training_lowers_the_loss_and_leaves_the_frozen_parts_alone(tmp_path, data):
    model = data.model()
    frozen = {name: p.detach().clone() for name, p in model.named_parameters() if not p.requires_grad}
    settings = dataclasses.replace(SETTINGS, steps=30)
    log = train(model, data.processor, data.rows, data.features, settings, tmp_path)
    lines = (tmp_path / "log.csv").read_text().splitlines()
    assert log.loss < 0.7 * float(lines[1].split(",")[1])
    assert all(torch.equal(p, frozen[name]) for name, p in model.named_parameters() if name in frozen)


def test_the_projector_learns_at_a_rate_of_its_own(tmp_path, data):
    settings = dataclasses.replace(SETTINGS, steps=1, warmup=0.0, projector_learning_rate=1e-4)
    before = weights(data.model())
    after, _ = data.train(settings, tmp_path)
    moved = {name: float((after[name] - before[name]).abs().max()) for name in after}
    # Adam's first step moves a weight by its learning rate, whatever the gradient.
    rates = {True: 1e-4, False: 5e-3}
    for projector, rate in rates.items():
        largest = max(change for name, change in moved.items() if ("multi_modal_projector" in name) == projector)
        assert largest == pytest.approx(rate, rel=1e-2)


def test_alignment_trains_the_projector_and_nothing_else(tmp_path, data):
    model = data.model(adapter=False)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    settings = Align(steps=3, batch_size=8, log_steps=1)
    train(model, data.processor, data.rows, data.features, settings, tmp_path)
    changed = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert changed == {name for name in before if "multi_modal_projector" in name}


@pytest.mark.parametrize(
    "changes", [{"micro_batch": 2}, {"micro_batch": 1}, {"packing": True}, {"micro_batch": 4, "packing": True}]
)
def test_accumulation_and_packing_change_nothing(tmp_path, data, changes):
    whole, log = data.train(SETTINGS, tmp_path / "whole")
    split, split_log = data.train(dataclasses.replace(SETTINGS, **changes), tmp_path / "split")
    assert abs(log.loss - split_log.loss) < 1e-4
    assert largest_difference(whole, split) < 2e-3  # of weights that moved by 1e-2 and more


def test_accumulated_gradients_equal_those_of_one_batch(data):
    def gradients(groups, packing):
        model = data.model()
        learner = Learner(model)
        samples = encode(data.processor, data.rows, image_tokens=4, max_length=128)
        items = StepBatches(
            samples,
            range(16),
            steps=1,
            batch_size=16,
            groups=groups,
            features=data.features,
            row_length=64 if packing else 0,
        )
        count = sum(sample.supervised for sample in samples)
        for item in range(len(items)):
            learner(**items[item], num_items_in_batch=count)["loss"].backward()
        return {name: p.grad for name, p in learner.named_parameters() if p.grad is not None}

    whole = gradients(1, False)
    for groups, packing in ((4, False), (16, False), (1, True), (4, True)):
        assert largest_difference(whole, gradients(groups, packing)) < 1e-5


def test_the_same_seed_repeats_bit_for_bit(tmp_path, data):
    first, _ = data.train(SETTINGS, tmp_path / "a")
    again, _ = data.train(SETTINGS, tmp_path / "b")
    other, _ = data.train(dataclasses.replace(SETTINGS, seed=1), tmp_path / "c")
    assert largest_difference(first, again) == 0.0
    assert largest_difference(first, other) > 0.0


def test_rows_are_learnt_in_the_order_given(tmp_path, data):
    by_hand, _ = data.train(SETTINGS, tmp_path / "a", rows=data.rows.iloc[::-1])
    by_order, _ = data.train(SETTINGS, tmp_path / "b", order=[15 - n % 16 for n in range(48)])
    order = [n % 16 for n in range(48)]
    by_hand, _ = data.train(SETTINGS, tmp_path / "c", rows=data.rows.iloc[::-1], order=order)
    assert largest_difference(by_hand, by_order) == 0.0


class Stop(Exception):
    pass


def interrupted(monkeypatch, at):
    """Make the training die right after optimizer step ``at``."""
    original = training.StepLog.on_step_end

    def on_step_end(self, args, state, control, **kwargs):
        control = original(self, args, state, control, **kwargs)
        if state.global_step == at:
            raise Stop
        return control

    monkeypatch.setattr(training.StepLog, "on_step_end", on_step_end)


@pytest.mark.parametrize("at", [3, 4, 5])
def test_a_resumed_training_equals_an_uninterrupted_one(tmp_path, data, monkeypatch, at):
    settings = dataclasses.replace(SETTINGS, checkpoint_steps=2, micro_batch=4)
    expected, log = data.train(settings, tmp_path / "whole")
    with monkeypatch.context() as patch:
        interrupted(patch, at)
        with pytest.raises(Stop):
            data.train(settings, tmp_path / "cut")
    found, resumed = data.train(settings, tmp_path / "cut")
    assert resumed.resumed_from == (at - 1) // 2 * 2
    assert largest_difference(expected, found) == 0.0
    assert (resumed.loss, resumed.rows, resumed.tokens) == (log.loss, log.rows, log.tokens)

    def losses(folder):
        return [line.split(",")[:6] for line in (folder / "log.csv").read_text().splitlines()]

    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")
    assert not (tmp_path / "cut" / "checkpoints").exists()


def test_a_checkpoint_of_another_plan_is_not_continued_and_the_log_says_so(tmp_path, data, monkeypatch, capsys):
    settings = dataclasses.replace(SETTINGS, checkpoint_steps=2)
    with monkeypatch.context() as patch:
        interrupted(patch, 5)
        with pytest.raises(Stop):
            data.train(settings, tmp_path)
    assert checkpoints.latest(tmp_path / "checkpoints").name == "checkpoint-4"
    _, log = data.train(dataclasses.replace(settings, learning_rate=1e-3), tmp_path)
    assert log.resumed_from == 0
    assert f"{tmp_path / 'checkpoints' / 'checkpoint-4'}: of a training with other settings" in capsys.readouterr().out


def test_a_training_that_died_after_its_last_step_only_reports(tmp_path, data, monkeypatch):
    settings = dataclasses.replace(SETTINGS, checkpoint_steps=2)
    expected, log = data.train(settings, tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "discard", lambda folder: None)
        data.train(settings, tmp_path / "late")
    found, its_log = data.train(settings, tmp_path / "late")
    assert its_log.resumed_from == 6 and its_log.loss == pytest.approx(log.loss, rel=1e-5)
    assert largest_difference(expected, found) == 0.0


def test_the_last_steps_are_logged_even_in_a_short_window(tmp_path, data):
    _, log = data.train(dataclasses.replace(SETTINGS, steps=3, log_steps=10), tmp_path)
    assert log.loss > 0
    assert (tmp_path / "log.csv").read_text().splitlines()[-1].startswith("3,")


def test_not_a_number_stops_the_run_and_keeps_the_last_good_checkpoint(tmp_path, data, monkeypatch):
    original, calls = Learner.forward, []

    def forward(self, *args, **kwargs):
        calls.append(1)
        out = original(self, *args, **kwargs)
        return {"loss": out["loss"] * (float("nan") if len(calls) == 5 else 1.0)}

    monkeypatch.setattr(Learner, "forward", forward)
    settings = dataclasses.replace(SETTINGS, checkpoint_steps=2)
    with pytest.raises(RunError, match=r"step 5.*learning_rate.* discards that checkpoint") as caught:
        data.train(settings, tmp_path)
    assert str(tmp_path / "checkpoints" / "checkpoint-4") in str(caught.value)
    kept = checkpoints.latest(tmp_path / "checkpoints")
    from safetensors.torch import load_file

    assert all(torch.isfinite(tensor).all() for tensor in load_file(kept / checkpoints.WEIGHTS).values())


def test_a_batch_that_does_not_divide_is_refused(tmp_path, data):
    with pytest.raises(InputError, match="no multiple of micro_batch=3"):
        data.train(dataclasses.replace(SETTINGS, micro_batch=3), tmp_path)


def test_activation_checkpointing_changes_no_loss(tmp_path, data):
    plain, log = data.train(SETTINGS, tmp_path / "a")
    saved, its_log = data.train(dataclasses.replace(SETTINGS, activation_checkpointing=True), tmp_path / "b")
    assert abs(log.loss - its_log.loss) < 1e-5
    assert largest_difference(plain, saved) < 1e-4


def test_pixels_and_loader_workers_give_what_kept_features_give(tmp_path, data, tiny_images):
    kept, _ = data.train(SETTINGS, tmp_path / "a")
    model = data.model()
    features = open_features(model.get_base_model(), data.processor, tiny_images, cache=False)
    settings = dataclasses.replace(SETTINGS, workers=1, cache_features=False)
    train(model, data.processor, data.rows, features, settings, tmp_path / "b")
    assert largest_difference(kept, weights(model)) < 1e-5


def test_the_log_holds_planned_rows_and_tokens(tmp_path, data):
    import pandas as pd

    _, log = data.train(SETTINGS, tmp_path)
    table = pd.read_csv(tmp_path / "log.csv")
    assert table["step"].tolist() == [2, 4, 6]
    assert table["rows"].sum() == log.rows == 48 and table["tokens"].sum() == log.tokens
    assert (table["mfu"] > 0).all() and (table["mfu"] < 1).all()
    assert list((tmp_path / "events").glob("events.*"))


def script(tmp_path, name, data, order=None, *, launcher=(), **settings):
    """Command that trains in a process of its own and writes its weights."""
    job = tmp_path / f"{name}.json"
    chosen = dataclasses.asdict(SETTINGS) | settings
    llm, tower = map(str, data.folders)
    said = {"llm": llm, "tower": tower, "out": str(tmp_path / name), "settings": chosen, "order": order}
    job.write_text(json.dumps(said))
    return [sys.executable, *launcher, str(SCRIPT), str(job)]


def environment():
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": "src" + os.pathsep + os.environ.get("PYTHONPATH", "")}


def test_a_killed_training_resumes_bit_for_bit(tmp_path, data):
    from safetensors.torch import load_file

    settings = {"steps": 60, "checkpoint_steps": 3}
    expected, _ = data.train(dataclasses.replace(SETTINGS, **settings), tmp_path / "whole")
    command = script(tmp_path, "killed", data, **settings)
    process = subprocess.Popen(command, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while checkpoints.step_of(checkpoints.latest(tmp_path / "killed" / "checkpoints")) < 6:
        assert process.poll() is None
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "killed" / "weights.safetensors").exists()
    subprocess.run(command, env=environment(), check=True, capture_output=True)
    found = load_file(tmp_path / "killed" / "weights.safetensors")
    assert json.loads((tmp_path / "killed" / "log.json").read_text())["resumed_from"] >= 6
    assert largest_difference(expected, found) == 0.0


def test_two_processes_learn_what_one_learns(tmp_path, data):
    """Rows are sorted by length inside a step, so one process gets text-only batches while the other sees images."""
    from safetensors.torch import load_file

    order = [0, 4, 8, 0, 13, 14, 15, 13] * SETTINGS.steps  # four short text-only rows and four long ones with images
    expected, log = data.train(SETTINGS, tmp_path / "whole", order=order)
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    done = subprocess.run(
        script(tmp_path, "pair", data, order, launcher=launcher), env=environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = load_file(tmp_path / "pair" / "weights.safetensors")
    pair = json.loads((tmp_path / "pair" / "log.json").read_text())
    assert pair["micro_batch"] == 4
    assert json.loads((tmp_path / "pair" / "shows_images.json").read_text()) == [True, False] * SETTINGS.steps
    assert abs(pair["loss"] - log.loss) < 1e-4
    assert largest_difference(expected, found) < 2e-3


def test_sharded_processes_find_the_gradients_of_one_though_only_one_of_them_sees_images(tmp_path, data):
    """FSDP on CPU: layers that finish in another order in a text-only process would mix up the shards."""
    from safetensors.torch import load_file

    rows, folders = [0, 4, 13, 14], [str(folder) for folder in data.folders]
    job = {"llm": folders[0], "tower": folders[1], "rows": rows, "out": str(tmp_path)}
    (tmp_path / "job.json").write_text(json.dumps(job))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*command, str(SCRIPT.with_name("shard_script.py")), str(tmp_path / "job.json")],
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]

    model = data.model()
    samples = encode(data.processor, data.rows, image_tokens=4, max_length=256)
    plan = {"steps": 1, "batch_size": len(rows), "features": data.features}
    parts = StepBatches(samples, rows, groups=2, **plan)
    assert ["image_features" in parts[group] for group in range(2)] == [True, False]
    Learner(model)(**StepBatches(samples, rows, groups=1, **plan)[0])["loss"].backward()
    expected = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    found = load_file(tmp_path / "gradients.safetensors")
    assert max(float(gradient.abs().max()) for gradient in expected.values()) > 1e-2
    assert largest_difference(expected, found) < 1e-5
    assert json.loads((tmp_path / "share.json").read_text()) < 0.51  # each process keeps half of the model

    # The trained weights, gathered from their shards, have the names and values of a model in one piece.
    learner = Learner(model)
    assert largest_difference(weights(learner), load_file(tmp_path / "gathered.safetensors")) == 0.0
