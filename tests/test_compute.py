"""What needs a GPU says so, and the forks that tests work in can compute in several threads."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import forks
import pytest
import torch

from textreg import compute
from textreg.errors import InputError


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
@pytest.mark.parametrize("options", [{"device": "cuda"}, {"precision": "4bit"}])
def test_what_needs_a_gpu_says_so(options):
    with pytest.raises(InputError, match="CUDA"):
        compute.set_up(1, **options)


def converted_at_once() -> None:
    """Convert numbers in 32 threads that begin together, as a reader of weights does."""
    numbers, begin = torch.ones(100_000), Barrier(32)

    def convert(_: int) -> float:
        begin.wait()
        return numbers.to(torch.bfloat16).sum().item()

    with ThreadPoolExecutor(32) as pool:
        assert len(set(pool.map(convert, range(32)))) == 1


def test_several_threads_compute_at_once_in_a_fork_of_a_process_with_a_pool_of_its_own():
    def in_forks() -> None:
        torch.set_num_threads(16)
        assert [forks.ended(converted_at_once) for _ in range(5)] == [0] * 5

    assert forks.ended(in_forks) == 0
