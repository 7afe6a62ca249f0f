"""The fast product is as exact as the slow one, and leaves no switch behind."""

import pytest
import torch

from textreg import compute
from textreg.errors import InputError


def test_the_switch_is_on_only_where_its_error_is_small():
    how = compute.set_up(1, device="cpu")
    error = compute.switch_error()
    assert how.fast_fp32 == (error is not None and error <= 1e-6)
    assert ("changes nothing" if error is None else f"{error:.1e}") in how.note


@pytest.mark.parametrize("error", [2e-3, None])
def test_an_inexact_or_idle_switch_stays_off(monkeypatch, error):
    monkeypatch.setattr(compute, "switch_error", lambda: error)
    how = compute.set_up(1, device="cpu")
    assert not how.fast_fp32 and "off" in how.note


def test_the_block_restores_what_it_found():
    before = torch.backends.mkldnn.matmul.fp32_precision
    fast = compute.Compute("cpu", torch.float32, 1, True, "")
    with pytest.raises(KeyError), compute.fast_fp32(fast):
        raise KeyError
    assert torch.backends.mkldnn.matmul.fp32_precision == before


def test_products_inside_the_block_are_within_the_limit():
    if not (how := compute.set_up(1, device="cpu")).fast_fp32:
        pytest.skip("the switch is off on this CPU")
    a, b = torch.randn(300, 200), torch.randn(200, 100)
    with compute.fast_fp32(how):
        error = ((a @ b).double() - a.double() @ b.double()).norm() / (a.double() @ b.double()).norm()
    assert error < compute.ERROR_LIMIT


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
@pytest.mark.parametrize("options", [{"device": "cuda"}, {"precision": "4bit"}])
def test_what_needs_a_gpu_says_so(options):
    with pytest.raises(InputError, match="CUDA"):
        compute.set_up(1, **options)
