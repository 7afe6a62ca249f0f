"""Work is counted by what is multiplied, not by how the weights are stored."""

import numpy as np
import pytest
import torch
from torch import nn

from textreg.training import flops
from textreg.training.batches import encode
from textreg.vlm.adapters import attach


@pytest.mark.parametrize("adapter", [False, True])
def test_weights_packed_into_four_bits_are_as_much_work_as_whole_ones(tiny_vlm, tiny_rows, adapter):
    model, processor = tiny_vlm
    samples = encode(processor, tiny_rows, image_tokens=4, max_length=128)
    order = np.arange(16).reshape(2, 8)
    tuned = attach(model, rank=4, alpha=8) if adapter else model.requires_grad_(False)
    whole = flops.per_step(tuned, samples, order, cached=False)
    for part in (model.model.language_model.layers, model.model.vision_tower.encoder):
        for module in part.modules():
            if isinstance(module, nn.Linear) and not module.weight.requires_grad:
                # As bitsandbytes stores them: a column of bytes, two weights in each.
                packed = torch.zeros(module.weight.numel() // 2, 1, dtype=torch.uint8)
                module.weight = nn.Parameter(packed, requires_grad=False)
    assert (flops.per_step(tuned, samples, order, cached=False) == whole).all()
    assert (whole > 0).all()
