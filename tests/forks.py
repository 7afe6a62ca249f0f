"""Work in forks of the test process, which has its libraries loaded: a fork costs hundredths of a second.

``ended(work, ...)`` is the exit code of a fork that did it; ``ended_at(number, folder, work, ...)`` of one that was
ended, as by a kill, at its change of a file of that number below the folder: before a rename, a removal, a new folder,
or with a file opened for writing that is still empty.  Python tells of all of them (audit events).
``together(2, folder, work, ...)`` does it in two forks that are the processes of one training.

PyTorch's pool of threads does not outlive a fork, and the first use in the fork renews it without a lock: a fork does
so before its work, in which several threads may compute at once (transformers reads weights so).
"""

import multiprocessing
import os
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from accelerate.state import AcceleratorState

KILLED = 77
CHANGES = ("os.rename", "os.remove", "os.rmdir", "os.mkdir")
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


def ended(work: Callable[..., Any], *given: Any) -> int:
    """Exit code of a fork that did ``work(*given)``: 0, or 1 after an exception, which it prints."""
    process = multiprocessing.get_context("fork").Process(target=_begun, args=(work, given))
    process.start()
    process.join()
    return process.exitcode


def _begun(work: Callable[..., Any], given: tuple[Any, ...]) -> None:
    torch.set_num_threads(torch.get_num_threads())
    work(*given)


def ended_at(number: int, folder: Path, work: Callable[..., Any], *given: Any) -> int:
    """Exit code of a fork that did ``work(*given)``: :data:`KILLED`, or as :func:`ended` after fewer changes."""
    return ended(_counted, number, str(folder), work, given)


def _counted(number: int, folder: str, work: Callable[..., Any], given: tuple[Any, ...]) -> None:
    left = number

    def watch(event: str, given: tuple[Any, ...]) -> None:
        nonlocal left
        if left <= 0 or not (event in CHANGES or (event == "open" and given[2] and given[2] & WRITING)):
            return
        # Below a folder that is removed the names are relative to an open folder.
        if str(given[0]).startswith(folder) or (event != "open" and given[-1] not in (-1, None)):
            left -= 1
            if left == 0:
                if event == "open" and not os.path.isdir(given[0]):  # where a temporary file is about to be
                    os.close(os.open(given[0], os.O_CREAT | os.O_WRONLY | os.O_TRUNC))
                os._exit(KILLED)

    sys.addaudithook(watch)
    work(*given)


def together(count: int, folder: Path, work: Callable[..., Any], *given: Any) -> list[int]:
    """Exit codes of ``count`` forks that do ``work(*given)`` as the processes that torchrun starts; they meet in a
    file below ``folder``."""
    fork = multiprocessing.get_context("fork")
    places = ((rank, count, folder, work, given) for rank in range(count))
    processes = [fork.Process(target=_begun, args=(_ranked, place)) for place in places]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    return [process.exitcode for process in processes]


def _ranked(rank: int, count: int, folder: Path, work: Callable[..., Any], given: tuple[Any, ...]) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}  # asked for, and not used once a group is there
    AcceleratorState._reset_state(reset_partial_state=True)  # what the test process found holds for it alone
    meeting = f"file://{folder / 'meeting'}"
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=count, timeout=timedelta(minutes=2))
    work(*given)
    dist.destroy_process_group()
