"""The benchmark of the tuning step: it trains, and counts work by what is multiplied."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Placeholders
from torch import nn

from textreg.training.batches import encode
from textreg.vlm.adapters import attach

sys.path.append(str(Path(__file__).parents[1] / "bench"))
import flops
import gpu_step

SMALL = {
    "llm": {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
            "vocab_size": 1200, "max_position_embeddings": 8192},
    "tower": {"hidden_size": 64, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
              "image_size": 56, "patch_size": 14},
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("runs_tower", [True, False])
def test_the_step_of_a_profile_trains_at_miniature_size(runs_tower, tmp_path):
    overrides = ["tune.batch_size=4", "tune.micro_batch=2", "tune.workers=0", "tune.threads=1", "tune.max_length=900"]
    step = replace(gpu_step.step_of("gpu", overrides, steps=2), **SMALL)
    model, processor = gpu_step.build(step, device="cpu")
    rows, images = gpu_step.rows_of(step), gpu_step.RandomImages(step, runs_tower)
    tuned = attach(model, rank=2, alpha=4)
    assert gpu_step.work_of(tuned, processor, rows, images, step.settings) > 0
    log = gpu_step.train(tuned, processor, rows, images, step.settings, tmp_path, order=range(len(rows)))
    assert log.rows == 8 and log.loss > 0


@pytest.mark.parametrize("adapter", [False, True])
def test_weights_packed_into_four_bits_are_as_much_work_as_whole_ones(tiny_vlm, tiny_rows, adapter):
    model, processor = tiny_vlm
    samples = encode(processor, tiny_rows, Placeholders(), max_length=128)
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
