"""Packed rows compute what separate rows compute."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from textreg.training.batches import IGNORE, balanced_groups, encode, first_fit, packed, padded
from textreg.vlm.features import open_features, projected


def kept(batch):
    """What is no pad: the first position 0 of a segment is followed by 1, a pad's is not (no sample has one token)."""
    after = torch.nn.functional.pad(batch["position_ids"], (0, 1))[:, 1:]
    return (batch["position_ids"] > 0) | (after == 1)


@pytest.mark.parametrize(("row_length", "rows"), [(1000, 1), (70, 3)])
@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_packed_logits_equal_separate_logits(tmp_path, tiny_tower, tiny_images, tiny_rows, kind, row_length, rows):
    from conftest import write_llm

    from textreg.vlm.assembly import assemble

    model, processor = assemble(str(write_llm(tmp_path, kind)), str(tiny_tower))
    features = open_features(model, processor, tiny_images)
    samples = encode(processor, tiny_rows.iloc[:6], image_tokens=4, max_length=128)

    def logits(batch, images):
        seen = projected(model, features.fetch(images)) if images else None
        ids, positions = batch["input_ids"], batch.get("position_ids")
        with torch.no_grad():
            return model(input_ids=ids, position_ids=positions, mm_encoder_outputs=seen, use_cache=False).logits

    batch, order = packed(samples, row_length)
    samples = [samples[place] for place in order]
    together = logits(batch, [sample.image_id for sample in samples if sample.image_id])[kept(batch)]
    apart = [logits(padded([sample], 0), [sample.image_id] if sample.image_id else [])[0] for sample in samples]
    assert batch["input_ids"].shape[0] == rows
    assert {sample.image_id is None for sample in samples} == {True, False}
    assert (together - torch.cat(apart)).abs().max() < 1e-5


def test_the_first_token_of_a_sample_is_not_predicted_by_the_one_before(tiny_vlm, tiny_rows):
    samples = encode(tiny_vlm[1], tiny_rows.iloc[:5], image_tokens=4, max_length=128)
    batch, _ = packed(samples, 64)
    starts = batch["position_ids"] == 0
    assert starts[kept(batch)].sum() == 5
    assert (batch["labels"][starts] == IGNORE).all()
    assert (batch["labels"] != IGNORE).sum() == sum(sample.supervised for sample in samples)


@given(st.lists(st.integers(1, 500), min_size=1, max_size=60), st.integers(1, 8))
def test_groups_hold_every_sample_once_and_differ_by_one_sample_at_most(lengths, groups):
    members = balanced_groups(lengths, groups)
    assert sorted(position for group in members for position in group) == list(range(len(lengths)))
    totals = [sum(lengths[position] for position in group) for group in members]
    assert max(totals) - min(totals) <= max(lengths)


@given(st.lists(st.integers(1, 100), min_size=1, max_size=60))
def test_bins_hold_every_sample_once_and_none_overflows(lengths):
    bins = first_fit(lengths, 100)
    assert sorted(position for members in bins for position in members) == list(range(len(lengths)))
    assert all(sum(lengths[position] for position in members) <= 100 for members in bins)
    assert len(bins) <= 2 * -(-sum(lengths) // 100)
