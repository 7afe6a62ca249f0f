"""Stored floats to float32 and back, against torch's own conversions, bit for bit."""

import numpy as np
import pytest
import torch

from textreg.merging.tensors import narrow, widen

TORCH = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def every_pattern() -> torch.Tensor:
    return torch.arange(1 << 16, dtype=torch.int32).to(torch.uint16).view(torch.bfloat16)


def awkward_floats() -> torch.Tensor:
    """Every bfloat16 but NaN, with each kind of lower half: exact, just below, at and just above a tie."""
    upper = torch.arange(1 << 16, dtype=torch.int64).repeat_interleave(6) << 16
    lower = torch.tensor([0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF]).repeat(1 << 16)
    values = (upper + lower).to(torch.uint32).view(torch.float32)
    return values[~values.isnan()]


@pytest.mark.parametrize("dtype", ["F16", "BF16"])
def test_every_value_of_a_half_precision_dtype_widens_as_in_torch(dtype):
    stored = every_pattern().view(TORCH[dtype])
    stored = stored[~stored.isnan()]  # of NaN, only that it stays NaN is anyone's promise
    raw = stored.view(torch.uint8).numpy().view(np.uint16 if dtype == "BF16" else np.float16)
    assert np.array_equal(widen(raw, dtype).view(np.uint32), stored.float().numpy().view(np.uint32))


@pytest.mark.parametrize("dtype", sorted(TORCH))
def test_values_are_rounded_once_to_the_nearest_even_as_in_torch(dtype):
    values = awkward_floats()
    with np.errstate(over="ignore"):
        rounded = narrow(values.numpy().copy(), dtype)
    assert np.array_equal(rounded.view(np.uint8), values.to(TORCH[dtype]).view(torch.uint8).numpy())
