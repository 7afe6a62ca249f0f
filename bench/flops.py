"""Model FLOP utilisation: the useful floating-point work of a training step, and the rate of the machine it ran on.

Counted, not profiled: 2N forward and 2N backward per token for frozen blocks (no weight gradients), 6 per adapter and
projector parameter, the head on supervised positions only, attention without the half that causality cuts, the tower
forward only and only where its features are not kept.  Recomputation by activation checkpointing is not useful work.
Formulas as in Kaplan et al. 2020 and nanoGPT's estimate, with the frozen terms removed (ours).
"""

from collections.abc import Sequence
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np
import torch

from textreg.vlm.adapters import lora_layers, plain
from textreg.vlm.features import feature_shape, is_llava

if TYPE_CHECKING:
    from torch import nn

    from textreg.training.batches import Sample


def per_step(model: "nn.Module", samples: Sequence["Sample"], order: np.ndarray, *, cached: bool) -> np.ndarray:
    """FLOP of each optimizer step, float64 [steps].

    Args:
        samples: tokenised rows.
        order: row positions, [steps, rows per step].
        cached: the tower's features are kept, so it does not run.
    """

    vlm = plain(model)
    language, text = vlm.get_decoder(), vlm.config.get_text_config()
    adapters = sum(p.numel() for p in language.parameters() if p.requires_grad)
    frozen = sum(weights(p) for p in language.layers.parameters()) - (adapters if any(lora_layers(model)) else 0)
    seeing = 0
    if is_llava(vlm):  # of other families it is not known how often their towers run over a picture
        projector = sum(p.numel() for p in vlm.model.multi_modal_projector.parameters() if p.requires_grad)
        tower = sum(weights(p) for p in vlm.model.vision_tower.parameters())
        seeing = feature_shape(vlm)[0] * (6 * projector + (0 if cached else 2 * tower))

    lengths = np.array([len(sample) for sample in samples], dtype=np.float64)
    scored = np.array([sample.supervised for sample in samples], dtype=np.float64)
    images = np.array([sample.image_id is not None for sample in samples], dtype=np.float64)
    rows = lengths * (4 * frozen + 6 * adapters)
    rows += 6 * text.num_hidden_layers * text.hidden_size * lengths**2
    rows += scored * 4 * text.hidden_size * text.vocab_size
    rows += images * seeing
    return rows[order].sum(1)


def weights(parameter: "nn.Parameter") -> int:
    """Weights that ``parameter`` stands for: 4-bit ones lie packed, two in a byte, and multiply like any other."""
    if parameter.is_floating_point() or parameter.requires_grad:
        return parameter.numel()
    return 2 * parameter.numel() * parameter.element_size()


def matmul_peak(device: str, dtype: "torch.dtype", seconds: float = 0.1) -> float:
    """Measured rate of one large matrix product, in FLOP/s: the denominator of MFU.

    A data sheet's peak would make the same run look worse on a throttled card and needs a table that ages.  Side 1,024
    on CPU and 8,192 on CUDA, best of the products that fit into ``seconds``.
    """

    side = 8192 if device.startswith("cuda") else 1024
    a = torch.randn(side, side, device=device, dtype=dtype)
    b = torch.randn(side, side, device=device, dtype=dtype)
    torch.mm(a, b)  # the first product loads libraries, on a GPU for longer than all others take
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    best, deadline = 0.0, perf_counter() + seconds
    for _ in range(50):
        start = perf_counter()
        torch.mm(a, b)
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        best = max(best, 2 * side**3 / (perf_counter() - start))
        if perf_counter() > deadline:
            break
    return best
