"""Packed rows compute what separate rows compute."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from textreg.batches import IGNORE, encode, padded
from textreg.features import open_features, projected
from textreg.packing import balanced_groups, packed


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_packed_logits_equal_separate_logits(tmp_path, tiny_tower, tiny_images, tiny_rows, kind):
    from conftest import write_llm

    from textreg.assembly import assemble

    model, processor = assemble(str(write_llm(tmp_path, kind)), str(tiny_tower))
    features = open_features(model, processor, tiny_images)
    samples = encode(processor, tiny_rows.iloc[:6], image_tokens=4, max_length=128)

    def logits(batch, images):
        seen = projected(model, features.fetch(images)) if images else None
        ids, positions = batch["input_ids"], batch.get("position_ids")
        with torch.no_grad():
            return model(input_ids=ids, position_ids=positions, mm_encoder_outputs=seen, use_cache=False).logits[0]

    together = logits(packed(samples), [sample.image_id for sample in samples if sample.image_id])
    apart = [logits(padded([sample], 0), [sample.image_id] if sample.image_id else []) for sample in samples]
    assert {sample.image_id is None for sample in samples} == {True, False}
    assert (together - torch.cat(apart)).abs().max() < 1e-5


def test_the_first_token_of_a_sample_is_not_predicted_by_the_one_before(tiny_vlm, tiny_rows):
    samples = encode(tiny_vlm[1], tiny_rows.iloc[:5], image_tokens=4, max_length=128)
    batch = packed(samples)
    starts = batch["position_ids"][0] == 0
    assert starts.sum() == 5
    assert (batch["labels"][0][starts] == IGNORE).all()
    assert (batch["labels"] != IGNORE).sum() == sum(sample.supervised for sample in samples)


@given(st.lists(st.integers(1, 500), min_size=1, max_size=60), st.integers(1, 8))
def test_groups_hold_every_sample_once_and_differ_by_one_sample_at_most(lengths, groups):
    members = balanced_groups(lengths, groups)
    assert sorted(position for group in members for position in group) == list(range(len(lengths)))
    totals = [sum(lengths[position] for position in group) for group in members]
    assert max(totals) - min(totals) <= max(lengths)
