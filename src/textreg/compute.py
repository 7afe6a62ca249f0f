"""Threads, device and number format of a process, and its memory.

Not obvious: small models use a core best with one thread per process, so arms run side by side instead; what nothing
can run beside may take more.

    >>> how = set_up(threads=1)
"""

from dataclasses import dataclass

import torch

from textreg import processes, ranks
from textreg.errors import InputError

DTYPES = {"fp32": "float32", "bf16": "bfloat16", "4bit": "bfloat16"}


@dataclass(frozen=True)
class Compute:
    """What a process computes with; ``note`` is the sentence for the log."""

    device: str
    dtype: "torch.dtype"
    threads: int
    note: str


def set_up(threads: int = 1, *, precision: str = "fp32", device: str = "auto") -> Compute:
    """Set the number of threads and choose device and number format for this process.

    Of several processes on a machine each gets the GPU of its own number (``LOCAL_RANK``).

    Args:
        threads: threads of one tensor operation; each takes its part of a tensor, whose ends can round otherwise.
        precision: ``fp32``, ``bf16`` or ``4bit`` (weights in 4 bits, arithmetic in bf16; CUDA only).
        device: ``auto`` (CUDA where there is one), ``cpu`` or ``cuda``.

    Raises:
        InputError: CUDA asked for and absent, 4-bit weights without CUDA, or more processes than GPUs.
    """

    torch.set_num_threads(threads)
    has_cuda = torch.cuda.is_available()
    if device == "cuda" and not has_cuda:
        raise InputError("device=cuda, but PyTorch sees no CUDA device here: use device=auto or cpu")
    chosen = "cuda" if device != "cpu" and has_cuda else "cpu"
    if chosen == "cuda":
        own_gpu()
    if precision not in DTYPES:
        raise InputError(f"precision={precision!r} is not one of {', '.join(DTYPES)}")
    if precision == "4bit" and chosen == "cpu":
        raise InputError("precision=4bit needs a CUDA device: use precision=fp32 or bf16 on CPU")
    note = f"{chosen}, {precision}, {threads} thread{'s' if threads > 1 else ''}"
    return Compute(chosen, getattr(torch, DTYPES[precision]), threads, note)


def own_gpu() -> None:
    """Make the GPU of this process's number the one that ``cuda`` means here; nothing without a launcher."""

    number, there = ranks.local(), torch.cuda.device_count()
    if number is None:
        return
    if number >= there:
        raise InputError(
            f"process {number + 1} of this machine finds {there} GPU{'s' if there != 1 else ''}: "
            f"start as many processes as GPUs (torchrun --nproc-per-node={there})"
        )
    torch.cuda.set_device(number)


def reset_peak_memory(device: str) -> None:
    """Begin a new peak of the CUDA allocator; a process's own peak, on CPU, cannot be forgotten."""
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()


def peak_memory_mb(device: str) -> float:
    """Peak memory in MiB: of the CUDA allocator where the model is there, else of this process."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated() / 2**20
    return processes.largest_memory_mb()
