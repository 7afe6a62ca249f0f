"""Processes that end with the one that started them, however that one ends.

A notebook's kernel, and every worker it starts, must not outlive the run: after a kill, an orphan would go on
writing into the folder that the next run uses.  On Linux the kernel of the system does it (``PR_SET_PDEATHSIG``);
elsewhere a thread looks every half second.  Pools should be given :func:`die_with_parent` as their ``initializer``.
"""

import ctypes
import os
import signal
import sys
import threading
import time

import psutil

PR_SET_PDEATHSIG = 1


def die_with_parent(parent: int | None = None) -> None:
    """Have this process killed as soon as its parent is gone.

    ``parent``: process id of the expected parent; when it is gone already, the process ends at once.
    """
    expected = os.getppid() if parent is None else parent
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != expected:
            os._exit(1)
        return
    threading.Thread(target=_watch, args=(expected,), daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGKILL)


def family(pid: int) -> list[psutil.Process]:
    """The process ``pid`` and all its living descendants; empty when it is gone."""
    try:
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def memory_mb(pid: int) -> float:
    """Resident memory of ``pid`` and its descendants in MiB (shared pages counted once per process)."""
    total = 0
    for process in family(pid):
        try:
            total += process.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total / 2**20


def end(pids: list[int], grace_s: float = 1.5) -> None:
    """End the processes and all their descendants: SIGTERM, then SIGKILL after ``grace_s`` seconds."""
    members = [process for pid in pids for process in family(pid)]
    for process in members:
        try:
            process.terminate()
        except psutil.NoSuchProcess:
            continue
    _, alive = psutil.wait_procs(members, timeout=grace_s)
    for process in alive:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(alive, timeout=grace_s)
