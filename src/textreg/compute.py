"""Threads, device, number format, and the fast fp32 matrix product on CPU.

The choices that are not obvious: small models run fastest with one thread per process; on AVX-512 CPUs without AMX
PyTorch sends fp32 products to a library that leaves half the rate unused, and permitting oneDNN
(``mkldnn.matmul.fp32_precision``) gets it back *while still computing in fp32 there*.  Because on other CPUs the same
switch may really round to bf16, its error is measured first and the switch stays off above 1e-6.  It slows the fused
attention kernel's small products down, so attention runs on PyTorch's math backend while it is on.  Nothing is
switched globally: ``fast_fp32`` restores what it found.

    >>> with fast_fp32(set_up(threads=1)):
    ...     loss = model(**batch).loss
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from textreg import processes, ranks
from textreg.errors import InputError

ERROR_LIMIT = 1e-6
DTYPES = {"fp32": "float32", "bf16": "bfloat16", "4bit": "bfloat16"}


@dataclass(frozen=True)
class Compute:
    """What a process computes with; ``note`` is the sentence for the log."""

    device: str
    dtype: "torch.dtype"
    threads: int
    fast_fp32: bool
    note: str


def set_up(threads: int = 1, *, precision: str = "fp32", device: str = "auto") -> Compute:
    """Set the number of threads and choose device and number format for this process.

    Of several processes on a machine each gets the GPU of its own number (``LOCAL_RANK``).

    Args:
        threads: threads of one tensor operation; 1 for small models, whose rate falls with more.
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
    fast, note = False, f"{chosen}, {precision}, {threads} thread{'s' if threads > 1 else ''}"
    if chosen == "cpu" and precision == "fp32":
        error = switch_error()
        fast = error is not None and error <= ERROR_LIMIT
        why = "changes nothing here" if error is None else f"relative error {error:.1e}, limit {ERROR_LIMIT:.0e}"
        note += f"; oneDNN fp32 products {'on' if fast else 'off'} ({why})"
    return Compute(chosen, getattr(torch, DTYPES[precision]), threads, fast, note)


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


@contextmanager
def fast_fp32(compute: Compute) -> Iterator[None]:
    """Fast fp32 products inside the block where ``compute.fast_fp32``; elsewhere nothing changes."""
    if not compute.fast_fp32:
        yield
        return

    with _switch("bf16"), sdpa_kernel(SDPBackend.MATH):
        yield


@contextmanager
def _switch(value: str) -> Iterator[None]:

    before = torch.backends.mkldnn.matmul.fp32_precision
    torch.backends.mkldnn.matmul.fp32_precision = value
    try:
        yield
    finally:
        torch.backends.mkldnn.matmul.fp32_precision = before


@lru_cache(maxsize=1)
def switch_error() -> float | None:
    """Largest relative error (Frobenius norm against float64) of fp32 products with the switch on, over four shapes.

    Returns None where the switch changes no bit of any product, because there is no oneDNN or it has no faster kernel
    for this CPU (one without AVX-512): then it must stay off, or attention would give up its fused kernel for nothing.
    """

    if not torch.backends.mkldnn.is_available() or not hasattr(torch.backends.mkldnn, "matmul"):
        return None
    generator, worst, differs = torch.Generator().manual_seed(0), 0.0, False
    for rows, inner, columns in ((64, 96, 160), (512, 160, 448), (1024, 448, 160), (33, 1024, 65)):
        a = torch.randn(rows, inner, generator=generator)
        b = torch.randn(inner, columns, generator=generator)
        exact, slow = a.double() @ b.double(), a @ b
        with _switch("bf16"):
            fast = a @ b
        differs = differs or not torch.equal(fast, slow)
        worst = max(worst, float((fast.double() - exact).norm() / exact.norm()))
    return worst if differs else None


def reset_peak_memory(device: str) -> None:
    """Begin a new peak of the CUDA allocator; a process's own peak, on CPU, cannot be forgotten."""
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()


def peak_memory_mb(device: str) -> float:
    """Peak memory in MiB: of the CUDA allocator where the model is there, else of this process."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated() / 2**20
    return processes.largest_memory_mb()
