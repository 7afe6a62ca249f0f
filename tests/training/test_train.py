"""Training computes what it says: losses, resumption, processes, and what happens when it goes wrong."""

import dataclasses
import itertools
import json
import os
import shutil

import forks
import pytest
import torch
import torch.distributed as dist
from accelerate.utils import FullyShardedDataParallelPlugin
from accelerate.utils.fsdp_utils import fsdp2_prepare_auto_wrap_policy
from conftest import Placeholders, image_table, row_table
from safetensors.torch import load_file, save_file
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from textreg.errors import InputError, RunError
from textreg.settings import Align, Tune
from textreg.training import checkpoints, learner
from textreg.training import train as training
from textreg.training.batches import IGNORE, StepBatches, encode
from textreg.training.train import Learner, train
from textreg.vlm.adapters import attach
from textreg.vlm.assembly import assemble
from textreg.vlm.features import open_features, projected

SETTINGS = Tune(steps=6, batch_size=8, learning_rate=5e-3, log_steps=2)
CHECKPOINTED = dataclasses.replace(SETTINGS, checkpoint_steps=2, micro_batch=4)


@pytest.fixture(scope="module")
def data(tiny_llm, tiny_tower):
    """What a training needs, with a fresh model at every call of ``model()``."""

    class Data:
        rows, images = row_table(), image_table()
        folders = tiny_llm, tiny_tower

        def model(self, adapter=True):
            model, self.processor = assemble(str(tiny_llm), str(tiny_tower))
            self.features = open_features(model, self.processor, self.images)
            return attach(model, rank=4, alpha=8) if adapter else model

        def train(self, settings, out, adapter=True, rows=None, **options):
            model = self.model(adapter)
            rows = self.rows if rows is None else rows
            log = train(model, self.processor, rows, self.features, settings, out, **options)
            return weights(model), log

    return Data()


@pytest.fixture(scope="module")
def plain(data, tmp_path_factory):
    """Weights, log and folder of a training by the settings above."""
    out = tmp_path_factory.mktemp("plain")
    return *data.train(SETTINGS, out), out


@pytest.fixture(scope="module")
def checkpointed(data, tmp_path_factory):
    """The same with checkpoints, which are left there, and smaller batches."""
    out = tmp_path_factory.mktemp("checkpointed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoints, "discard", lambda folder: None)
        return *data.train(CHECKPOINTED, out), out


def weights(model):
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


def gradients(model):
    return {name: p.grad for name, p in model.named_parameters() if p.requires_grad}


def items(data, rows, groups=1):
    """Rows as the batches of one step."""
    samples = encode(data.processor, rows, Placeholders(), max_length=128)
    plan = {"steps": 1, "batch_size": len(rows), "features": data.features}
    return StepBatches(samples, range(len(rows)), groups=groups, **plan)


def largest_difference(a, b):
    assert a.keys() == b.keys()
    return max(float((a[name] - b[name]).abs().max()) for name in a)


def test_the_loss_equals_the_models_own_loss(data):
    model = data.model().eval()
    (batch,) = items(data, data.rows)
    ours = Learner(model)(**batch)["loss"]
    vlm = model.get_base_model()
    logits = vlm(input_ids=batch["input_ids"], mm_encoder_outputs=projected(vlm, batch)).logits
    full = torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten(), ignore_index=IGNORE
    )
    assert abs(ours.item() - full.item()) < 1e-5


def test_a_head_that_runs_in_pieces_gives_the_same_loss_and_gradients(data, monkeypatch):
    def found(logits):
        monkeypatch.setattr(learner, "LOGITS", logits)
        model = data.model()
        loss = Learner(model)(**items(data, data.rows)[0])["loss"]
        loss.backward()
        return loss.item(), gradients(model)

    whole, pieces = found(2**28), found(4 * 400 * 7)  # seven positions at a time
    assert whole[0] == pytest.approx(pieces[0], abs=1e-6)
    assert largest_difference(whole[1], pieces[1]) < 1e-6


def test_fsdp_wraps_the_layers_by_accelerates_own_policy(data):
    """A class name that the model does not hold, such as a text tower's, ends that policy with an error."""
    plugin = FullyShardedDataParallelPlugin(fsdp_version=2, auto_wrap_policy="transformer_based_wrap")
    wrapped = Learner(data.model())
    plugin.set_auto_wrap_policy(wrapped)
    policy = fsdp2_prepare_auto_wrap_policy(plugin, wrapped)
    kinds = [type(module).__name__ for module in wrapped.modules() if policy(module)]
    assert kinds.count("LlamaDecoderLayer") == kinds.count("SiglipEncoderLayer") == 2


def test_a_text_only_batch_gives_the_projector_true_zero_gradients(data):
    model = data.model()
    (batch,) = items(data, data.rows.iloc[[0, 4, 8]])
    assert set(batch) == {"input_ids", "labels", "lengths"}
    Learner(model)(**batch)["loss"].backward()
    found = [gradient for name, gradient in gradients(model).items() if "projector" in name]
    assert found and all(gradient is not None and not gradient.any() for gradient in found)


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


def test_accumulation_changes_nothing(tmp_path, data, plain):
    whole, log, _ = plain
    split, split_log = data.train(dataclasses.replace(SETTINGS, micro_batch=2), tmp_path)
    assert abs(log.loss - split_log.loss) < 1e-4
    assert largest_difference(whole, split) < 2e-3  # of weights that moved by 1e-2 and more


def test_accumulated_gradients_equal_those_of_one_batch(data):
    def found(groups):
        model = data.model()
        learner, parts = Learner(model), items(data, data.rows, groups)
        count = sum(sample.supervised for sample in parts.samples)
        for item in range(len(parts)):
            learner(**parts[item], num_items_in_batch=count)["loss"].backward()
        return gradients(model)

    whole = found(1)
    for groups in (4, 16):
        assert largest_difference(whole, found(groups)) < 1e-5


def test_the_same_seed_repeats_bit_for_bit(tmp_path, data, plain):
    first = plain[0]
    again, _ = data.train(SETTINGS, tmp_path / "b")
    other, _ = data.train(dataclasses.replace(SETTINGS, seed=1), tmp_path / "c")
    assert largest_difference(first, again) == 0.0
    assert largest_difference(first, other) > 0.0


def test_rows_are_learnt_in_the_order_given(tmp_path, data):
    settings = dataclasses.replace(SETTINGS, steps=2)
    by_order, _ = data.train(settings, tmp_path / "b", order=range(15, -1, -1))
    by_hand, _ = data.train(settings, tmp_path / "c", rows=data.rows.iloc[::-1], order=range(16))
    assert largest_difference(by_hand, by_order) == 0.0


class Stop(Exception):
    """Ends a training where a kill could."""


@pytest.mark.parametrize(("at", "spoilt", "step"), [(4, None, 2), (5, None, 4), (5, "optimizer.pt", 2)])
def test_a_resumed_training_equals_an_uninterrupted_one(
    tmp_path, data, checkpointed, monkeypatch, at, spoilt, step, capsys
):
    expected, log, whole = checkpointed
    step_end = training.EqualWindows.on_step_end

    def stopped(self, args, state, control, **kwargs):
        if state.global_step == at:
            raise Stop
        return step_end(self, args, state, control, **kwargs)

    with monkeypatch.context() as patch, pytest.raises(Stop):
        patch.setattr(training.EqualWindows, "on_step_end", stopped)
        data.train(CHECKPOINTED, tmp_path)
    if spoilt:
        (tmp_path / "checkpoints" / "checkpoint-4" / spoilt).unlink()
    found, resumed = data.train(CHECKPOINTED, tmp_path)
    assert resumed.resumed_from == step
    assert ("checkpoint-4 is damaged (optimizer.pt is missing" in capsys.readouterr().out) == bool(spoilt)
    assert largest_difference(expected, found) == 0.0
    assert (resumed.loss, resumed.rows, resumed.tokens) == (log.loss, log.rows, log.tokens)
    assert (tmp_path / "log.csv").read_text() == (whole / "log.csv").read_text()
    assert not (tmp_path / "checkpoints").exists()


def test_a_checkpoint_holds_all_that_a_training_needs_to_go_on(checkpointed):
    inventory = json.loads((checkpointed[2] / "checkpoints" / "checkpoint-4" / checkpoints.INVENTORY).read_text())
    assert {"model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"} <= set(
        inventory
    )


def test_a_checkpoint_of_another_plan_is_not_continued_and_the_log_says_so(tmp_path, data, checkpointed, capsys):
    out = shutil.copytree(checkpointed[2], tmp_path / "copy")
    _, log = data.train(dataclasses.replace(CHECKPOINTED, steps=1), out)
    assert log.resumed_from == 0
    assert f"{out / 'checkpoints' / 'checkpoint-6'}: of a training with other settings" in capsys.readouterr().out


def test_a_training_that_died_after_its_last_step_only_reports(tmp_path, data, checkpointed):
    expected, log, whole = checkpointed
    found, its_log = data.train(CHECKPOINTED, shutil.copytree(whole, tmp_path / "copy"))
    assert its_log.resumed_from == 6 and its_log.loss == pytest.approx(log.loss, rel=1e-5)
    assert largest_difference(expected, found) == 0.0


def test_the_last_steps_are_logged_even_in_a_short_window(tmp_path, data):
    _, log = data.train(dataclasses.replace(SETTINGS, steps=1, log_steps=10), tmp_path)
    assert log.loss > 0
    assert (tmp_path / "log.csv").read_text().splitlines()[-1].startswith("1,")


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
    assert all(torch.isfinite(tensor).all() for tensor in load_file(kept / checkpoints.WEIGHTS).values())


def test_a_batch_that_does_not_divide_is_refused(tmp_path, data):
    with pytest.raises(InputError, match="no multiple of micro_batch=3"):
        data.train(dataclasses.replace(SETTINGS, micro_batch=3), tmp_path)


def test_activation_checkpointing_changes_no_loss(tmp_path, data, plain):
    saved, its_log = data.train(dataclasses.replace(SETTINGS, activation_checkpointing=True), tmp_path)
    assert abs(plain[1].loss - its_log.loss) < 1e-5
    assert largest_difference(plain[0], saved) < 1e-4


def test_pixels_and_loader_workers_give_what_kept_features_give(tmp_path, data, plain):
    model = data.model()
    features = open_features(model.get_base_model(), data.processor, data.images, cache=False)
    settings = dataclasses.replace(SETTINGS, workers=1, cache_features=False)
    train(model, data.processor, data.rows, features, settings, tmp_path)
    assert largest_difference(plain[0], weights(model)) < 1e-5


def test_the_loss_of_every_window_is_kept_as_a_table_and_as_events(plain):
    _, log, out = plain
    lines = (out / "log.csv").read_text().splitlines()
    assert lines[0] == "step,loss,learning_rate,grad_norm"
    assert [line.split(",")[0] for line in lines[1:]] == ["2", "4", "6"] and log.rows == 48
    assert float(lines[-1].split(",")[1]) == log.loss
    assert list((out / "events").glob("events.*"))


def kept(data, settings, out, order=None):
    """Train, for a fork: what was trained and what was said are left in the folder by the first process."""
    trained, log = data.train(settings, out, order=order)
    if os.environ.get("RANK", "0") == "0":
        save_file({name: tensor.contiguous() for name, tensor in trained.items()}, out / "weights.safetensors")
        (out / "log.json").write_text(json.dumps(dataclasses.asdict(log)))


@pytest.mark.parametrize(
    "numbers", [(9, 14, 19), pytest.param(itertools.count(1), marks=pytest.mark.slow)], ids=["some", "all"]
)
def test_a_training_that_ends_at_any_change_of_a_file_goes_on_bit_for_bit(tmp_path, data, numbers):
    settings = dataclasses.replace(SETTINGS, steps=2, checkpoint_steps=1)
    expected, _ = data.train(settings, tmp_path / "whole")
    for number in numbers:
        out = tmp_path / str(number)
        code = forks.ended_at(number, out, kept, data, settings, out)
        if code == 0:
            break
        assert code == forks.KILLED and forks.ended(kept, data, settings, out) == 0, number
        assert largest_difference(expected, load_file(out / "weights.safetensors")) == 0.0, number
    assert number > 18


def test_two_processes_learn_what_one_learns(tmp_path, data):
    """Rows are sorted by length inside a step, so one process gets text-only batches while the other sees images."""
    order = [0, 4, 8, 0, 13, 14, 15, 13] * SETTINGS.steps  # four short text-only rows and four long ones with images
    expected, log = data.train(SETTINGS, tmp_path / "whole", order=order)
    assert forks.together(2, tmp_path, kept, data, SETTINGS, tmp_path / "pair", order) == [0, 0]
    found = load_file(tmp_path / "pair" / "weights.safetensors")
    pair = json.loads((tmp_path / "pair" / "log.json").read_text())
    assert pair["micro_batch"] == 4 and abs(pair["loss"] - log.loss) < 1e-4
    assert largest_difference(expected, found) < 2e-3
    samples = encode(data.processor, data.rows, Placeholders(), max_length=SETTINGS.max_length)
    plan = {"steps": SETTINGS.steps, "batch_size": SETTINGS.batch_size, "groups": 2, "features": data.features}
    items = StepBatches(samples, order, **plan)
    shown = [any(samples[row].image_id for row in items.members(item)) for item in range(len(items))]
    assert shown == [True, False] * SETTINGS.steps


def sharded(data, samples, rows, out):
    """One loss with the model shared out over the processes (FSDP2): the first keeps the gradients, summed over all,
    and the gathered weights."""
    rank, world, model = dist.get_rank(), dist.get_world_size(), data.model()
    learner = Learner(model)
    trained = [name for name, parameter in learner.named_parameters() if parameter.requires_grad]
    mesh = init_device_mesh("cpu", (world,))
    for part in (*model.get_base_model().model.language_model.layers, learner):
        fully_shard(part, mesh=mesh)
    batches = StepBatches(samples, rows, steps=1, batch_size=len(rows), groups=world, features=data.features)
    count = sum(int((batches[group]["labels"][:, 1:] != IGNORE).sum()) for group in range(world))
    learner(**{**batches[rank], "num_items_in_batch": count})["loss"].backward()
    found = {  # FSDP averages over the processes
        name: gradient.full_tensor().contiguous() * world for name, gradient in gradients(model).items()
    }
    shards = sum(parameter.to_local().numel() for parameter in learner.parameters())
    assert shards / sum(parameter.numel() for parameter in learner.parameters()) < 0.51  # each keeps half of the model
    state = checkpoints.gathered(learner, trained)
    if rank == 0:
        save_file(state, out / "gathered.safetensors")
        save_file(found, out / "gradients.safetensors")


def test_sharded_processes_find_the_gradients_of_one_though_only_one_of_them_sees_images(tmp_path, data):
    """FSDP on CPU: layers that finish in another order in a text-only process would mix up the shards."""
    rows, model = [0, 4, 13, 14], data.model()
    samples = encode(data.processor, data.rows, Placeholders(), max_length=256)
    assert forks.together(2, tmp_path, sharded, data, samples, rows, tmp_path) == [0, 0]
    plan = {"steps": 1, "batch_size": len(rows), "features": data.features}
    parts = StepBatches(samples, rows, groups=2, **plan)
    assert ["image_features" in parts[group] for group in range(2)] == [True, False]
    learner = Learner(model)
    learner(**StepBatches(samples, rows, groups=1, **plan)[0])["loss"].backward()
    expected = gradients(model)
    assert max(float(gradient.abs().max()) for gradient in expected.values()) > 1e-2
    assert largest_difference(expected, load_file(tmp_path / "gradients.safetensors")) < 1e-5
    # The trained weights, gathered from their shards, have the names and values of a model in one piece.
    assert largest_difference(weights(learner), load_file(tmp_path / "gathered.safetensors")) == 0.0
