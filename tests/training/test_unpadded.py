"""Padding is left out of every layer, and nothing that is computed changes by it."""

import pytest
import torch
from conftest import Placeholders, disturbed, write_llm
from torch import nn

from textreg.training.batches import StepBatches, encode
from textreg.training.learner import Learner
from textreg.training.train import prepare_parameters
from textreg.vlm.adapters import attach, plain
from textreg.vlm.assembly import assemble
from textreg.vlm.features import open_features


@pytest.fixture
def ready(tiny_vlm, tiny_images, tiny_rows):
    """A tuned model, and batches of eight rows of which a third is padding; half of a batch shows pictures."""
    model, processor = tiny_vlm
    features = open_features(model, processor, tiny_images)
    tuned = disturbed(attach(model, rank=4, alpha=8))
    samples = encode(processor, tiny_rows, Placeholders(), max_length=128)
    order = torch.randperm(16 * 25, generator=torch.Generator().manual_seed(0)).numpy() % 16
    return tuned, StepBatches(samples, order, steps=50, batch_size=8, groups=1, features=features)


def trained(learner, batches, steps, drop, rate=1e-3):
    """Losses of some steps, and the gradients of the last."""
    parameters = [each for each in learner.parameters() if each.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=rate)
    losses = []
    for step in range(steps):
        optimizer.zero_grad()
        batch = batches[step] if drop else {name: part for name, part in batches[step].items() if name != "lengths"}
        loss = learner(**batch)["loss"]
        loss.backward()
        losses.append(loss.item())
        optimizer.step()
    return losses, [each.grad.clone() for each in parameters]


def test_fifty_steps_without_pads_have_the_losses_of_fifty_with_them(ready):
    tuned, batches = ready
    learner = Learner(tuned.train())
    before = {name: each.clone() for name, each in tuned.state_dict().items()}
    padded, _ = trained(learner, batches, 50, drop=False)
    tuned.load_state_dict(before)
    dropped, _ = trained(learner, batches, 50, drop=True)
    assert dropped == pytest.approx(padded, abs=1e-5)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_are_the_same_also_where_activations_are_computed_again(ready, checkpointing):
    tuned, batches = ready
    prepare_parameters(tuned, checkpointing)
    learner = Learner(tuned.train())
    (_, padded), (_, dropped) = (trained(learner, batches, 1, drop, rate=0.0) for drop in (False, True))
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(padded, dropped, strict=True))


def test_no_linear_layer_computes_a_pad_and_the_head_only_what_is_learnt(ready):
    tuned, batches = ready
    seen = {}

    def counted(name):
        return lambda _, given, out: seen.update({name: given[0].numel() // given[0].shape[-1]})

    for name, module in plain(tuned).named_modules():
        if isinstance(module, nn.Linear) and "vision" not in name and "projector" not in name:
            module.register_forward_hook(counted(name))
    batch = batches[0]
    assert batch["input_ids"].numel() > 1.2 * batch["lengths"].sum()
    Learner(tuned)(**batch)
    head = seen.pop("lm_head")
    assert set(seen.values()) == {int(batch["lengths"].sum())}
    assert head == int((batch["labels"][:, 1:] != -100).sum())


def test_a_model_that_has_learnt_answers_a_padded_batch_as_before(ready):
    tuned, batches = ready
    ids = batches[0]["input_ids"][:, -6:]
    mask = torch.ones_like(ids)
    mask[2:, :3] = 0
    vlm = plain(tuned)
    with torch.no_grad():
        before = vlm(input_ids=ids.clamp(max=250), attention_mask=mask).logits
        Learner(tuned)
        assert torch.equal(vlm(input_ids=ids.clamp(max=250), attention_mask=mask).logits, before)


FAMILIES = [
    ("qwen2", {}, True), ("qwen3", {"head_dim": 8}, True), ("gemma", {"head_dim": 8}, True), ("olmo2", {}, True),
    ("mistral", {"sliding_window": None}, True), ("mistral", {"sliding_window": 4}, False),
    *(("gemma3_text", {"head_dim": 8, "sliding_window": window}, drops) for window, drops in ((4, False), (64, True))),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "options", "drops"), FAMILIES)
def test_families_give_the_same_loss_and_a_window_that_cuts_a_row_keeps_the_pads(
    kind, options, drops, tmp_path, tiny_tower, tiny_images, tiny_rows
):
    model, processor = assemble(str(write_llm(tmp_path / "llm", kind, **options)), str(tiny_tower))
    samples = encode(processor, tiny_rows, Placeholders(), max_length=128)
    features = open_features(model, processor, tiny_images)
    batch = StepBatches(samples, range(16), steps=1, batch_size=16, groups=1, features=features)[0]
    learner = Learner(model)
    dropped, padded = learner(**batch)["loss"].item(), learner(**batch | {"lengths": None})["loss"].item()
    assert (batch["input_ids"].shape[1] <= learner.reach) is drops
    assert dropped == pytest.approx(padded, abs=1e-5)
