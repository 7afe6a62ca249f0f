"""Processes that end with the one that started them, however that one ends, and what they have held.

A notebook's kernel, and every worker it starts, must not outlive the run: after a kill, an orphan would go on
writing into the folder that the next run uses.  Every process here is one of :mod:`multiprocessing`, which hands its
children a pipe that closes with the parent; a thread waits for that.  Pools should be given :func:`die_with_parent`
as their ``initializer``.
"""

import multiprocessing
import os
import sys
import threading
from contextlib import suppress

import psutil


def die_with_parent() -> None:
    """Have this process end as soon as the one that started it is gone; nothing in a process that none started."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_follow, args=(parent,), daemon=True).start()


def _follow(parent: multiprocessing.process.BaseProcess) -> None:
    parent.join()
    os._exit(1)


def largest_memory_mb(of_children: bool = False) -> float | None:
    """Largest resident memory so far of this process, or of its ended children, in MiB; None where Windows does not
    tell."""
    try:
        import resource
    except ImportError:
        return None if of_children else psutil.Process().memory_info().peak_wset / 2**20
    who = resource.RUSAGE_CHILDREN if of_children else resource.RUSAGE_SELF
    return resource.getrusage(who).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def end(pids: list[int], grace_s: float = 1.5) -> None:
    """End the processes and all their descendants: SIGTERM, then SIGKILL after ``grace_s`` seconds."""
    members: list[psutil.Process] = []
    for pid in pids:
        with suppress(psutil.NoSuchProcess):
            root = psutil.Process(pid)
            members += [root, *root.children(recursive=True)]
    alive = members
    for how in (psutil.Process.terminate, psutil.Process.kill):
        for process in alive:
            with suppress(psutil.NoSuchProcess):
                how(process)
        _, alive = psutil.wait_procs(alive, timeout=grace_s)
