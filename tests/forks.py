"""Work in forks of the test process, which has its libraries loaded: a fork costs hundredths of a second.

``ended(work, ...)`` is the exit code of a fork that did it; ``ended_at(number, folder, work, ...)`` of one that was
ended, as by a kill, at its change of a file of that number below the folder: before a rename, a removal, a new folder,
or with a file opened for writing that is still empty.  Python tells of all of them (audit events).
"""

import multiprocessing
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

KILLED = 77
CHANGES = ("os.rename", "os.remove", "os.rmdir", "os.mkdir")
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


def ended(work: Callable[..., Any], *given: Any) -> int:
    """Exit code of a fork that did ``work(*given)``: 0, or 1 after an exception, which it prints."""
    process = multiprocessing.get_context("fork").Process(target=work, args=given)
    process.start()
    process.join()
    return process.exitcode


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
