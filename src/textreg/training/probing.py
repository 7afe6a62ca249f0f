"""The micro-batch: how many rows go through the model at once, found by trying.

The choices that are not obvious: the trial runs in training mode, because activation checkpointing works in that mode
alone and without it a row takes several times the memory; it uses the longest rows there are, so that no later
micro-batch is larger; a tenth of the GPU is left free for the optimizer's state and for fragments.  On CPU nothing is
tried: memory is no limit there, and a process takes all of its share.  Of several processes the one with the least
room decides, because all take the same number of micro-batches.  ``training.train`` calls it where
``micro_batch`` is 0.  Checked by ``python -m pytest tests/training/test_probing.py``.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from textreg import ranks
from textreg.errors import RunError
from textreg.training.batches import StepBatches

if TYPE_CHECKING:
    from textreg.settings import Training
    from textreg.vlm.features import Features

USABLE = 0.9


def probe_micro_batch(
    learner: nn.Module,
    samples: Sequence[Any],
    features: "Features | None",
    settings: "Training",
    device: str,
) -> int:
    """Rows per forward pass: on CPU all of a process's share, on CUDA the largest power of two that fits.

    Tried on the longest rows with a forward and a backward pass; the last size that leaves a tenth of the memory free
    wins, and of several processes the smallest: each of them must call.

    Raises:
        RunError: one row does not fit into the GPU.
    """
    share = settings.batch_size // ranks.world()
    if device == "cpu" or share < 1:
        return max(share, 1)
    longest = np.argsort([-len(sample) for sample in samples])[:share]
    longest = np.resize(longest, share)
    total = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory

    def fits(micro: int) -> bool:
        trial = StepBatches(
            samples,
            longest[:micro],
            steps=1,
            batch_size=micro,
            groups=1,
            features=features,
        )
        torch.cuda.reset_peak_memory_stats()
        try:
            batch = {name: tensor.to(device) for name, tensor in trial[0].items()}
            one_pass(learner, batch, bf16=settings.precision != "fp32")
            small = torch.cuda.max_memory_allocated() <= USABLE * total
        except torch.cuda.OutOfMemoryError:
            small = False
        batch = None  # or the cache could not let go of it
        torch.cuda.empty_cache()
        return small

    micro = ranks.smallest(largest(share, fits), device)
    if not micro:
        raise RunError(
            f"one row of {len(samples[longest[0]])} tokens does not fit into {total / 2**30:.0f} GiB of GPU memory: "
            "set precision=4bit, activation_checkpointing=true, or a smaller max_length"
        )
    return micro


def largest(share: int, fits: Callable[[int], bool]) -> int:
    """The largest power of two that divides ``share`` and ``fits``, tried upwards; 0 when not even 1 does."""
    found, micro = 0, 1
    while micro <= share and share % micro == 0 and fits(micro):
        found, micro = micro, micro * 2
    return found


def one_pass(learner: nn.Module, batch: dict[str, torch.Tensor], *, bf16: bool) -> None:
    """A forward and a backward pass as the training makes them; afterwards modes and gradients are as before."""
    modes = [(module, module.training) for module in learner.modules()]
    learner.train()
    try:
        with torch.autocast(batch["input_ids"].device.type, torch.bfloat16, enabled=bf16):
            learner(**batch)["loss"].backward()
    finally:
        learner.zero_grad(set_to_none=True)
        for module, mode in modes:
            module.training = mode
