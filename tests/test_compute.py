"""What needs a GPU says so."""

import pytest
import torch

from textreg import compute
from textreg.errors import InputError


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
@pytest.mark.parametrize("options", [{"device": "cuda"}, {"precision": "4bit"}])
def test_what_needs_a_gpu_says_so(options):
    with pytest.raises(InputError, match="CUDA"):
        compute.set_up(1, **options)
