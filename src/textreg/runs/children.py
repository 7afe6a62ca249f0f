"""The child processes of a run: started, listened to, and judged when they end.

On Linux, at the micro scale, a child is a fork of a process that has loaded what notebooks load, which takes five
seconds of a processor, a fork hundredths; elsewhere, and where a GPU may be in use, it loads for itself.  Nothing of
this package is among it, so that what runs is what its identity was computed from.  A child tells what it does through
a pipe; one that vanishes without a last word was killed from outside, and what its notebook held by then is kept as
evidence.
"""

import contextlib
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import connection
from pathlib import Path
from typing import Any

from textreg import processes
from textreg.errors import InputError
from textreg.runs import execution, notebooks
from textreg.runs.notebooks import Failure
from textreg.runs.plan import Place, State
from textreg.runs.profiles import Profile
from textreg.runs.stages import Unit, relative

PRELOADED = [
    *("accelerate", "ipykernel.ipkernel", "ipykernel.kernelapp", "matplotlib.pyplot", "nbclient", "pandas"),
    *("matplotlib_inline.backend_inline", "papermill.clientwrap", "peft", "pyarrow.parquet", "scipy.stats"),
    *("sklearn.linear_model", "torch", "transformers.trainer", "transformers.models.llama.modeling_llama"),
    *("transformers.models.llava.modeling_llava", "transformers.models.siglip.modeling_siglip"),
]
TICK_S = 0.5


@dataclass
class Child:
    """One running unit.  ``weight``: cores it uses; ``said``: its last word, once it has ended."""

    state: State
    process: Any
    events: connection.Connection
    started: float
    weight: int
    ended: bool = False
    said: Mapping[str, Any] | None = None

    @property
    def unit(self) -> Unit:
        """The unit that it executes."""
        return self.state.unit


def job_of(profile: Profile, place: Place, state: State, *, fresh: bool) -> execution.Job:
    """What the child of one unit is told."""
    notebook = (place.notebooks / state.unit.notebook).resolve()
    return execution.Job(state, profile.name, place.run.resolve(), _display(place.run), notebook, fresh)


def launch(profile: Profile, place: Place, state: State, weight: int, *, fresh: bool) -> Child:
    """Start the child of one unit."""
    unit, run = state.unit, place.run.resolve()
    for name in (".runner/runtime", ".runner/ipython", "logs"):
        (run / name).mkdir(parents=True, exist_ok=True)
    (run / ".runner" / "runtime").chmod(0o700)
    job = job_of(profile, place, state, fresh=fresh)
    forks = sys.platform == "linux" and profile.scale == "scenes"
    context: Any = multiprocessing.get_context("forkserver" if forks else "spawn")
    if forks:
        context.set_forkserver_preload(PRELOADED)
    reader, writer = context.Pipe(duplex=False)
    log = run / "logs" / f"{unit.stem}.log"
    with _surroundings(getattr(state.settings, "threads", 1), offline=profile.scale == "scenes"):
        # What it is a fork of may have started in another environment, and goes on for as long as this process does.
        process = context.Process(target=_work, args=(job, log, writer, dict(os.environ)))
        process.start()
    writer.close()
    return Child(state, process, reader, time.monotonic(), weight)


def _work(job: execution.Job, log: Path, events: connection.Connection, environment: Mapping[str, str]) -> None:
    """Execute a job in this process, whose output goes to the log, and tell how it ended."""
    os.environ.clear()
    os.environ.update(environment)
    if hasattr(os, "setsid"):
        os.setsid()  # what a terminal sends to the run's group is for the run to pass on
    processes.die_with_parent()
    with log.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    failure = execution.execute(job, events.send)
    events.send({"end": failure})


@contextlib.contextmanager
def _surroundings(threads: int, offline: bool) -> Iterator[None]:
    """The environment that a child starts in: a fixed hash seed, the thread counts of its settings, no network where
    none is needed."""
    before = dict(os.environ)
    os.environ |= {
        "PYTHONHASHSEED": "0",
        "PYTHONIOENCODING": "utf-8",  # of the log, whatever the terminal's
        "PYTHONLEGACYWINDOWSSTDIO": "1",  # a console object cannot write to the file that takes its place
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
        # glibc returns every large tensor to the system and faults its pages in anew: a tenth of a training's time.
        "MALLOC_MMAP_THRESHOLD_": "1073741824",
        "MALLOC_TRIM_THRESHOLD_": "1073741824",
        **{f"{library}_NUM_THREADS": str(threads) for library in ("OMP", "MKL", "OPENBLAS")},
        **({"HF_HUB_OFFLINE": "1"} if offline else {}),
    }
    # oneDNN keeps a kernel for every shape it meets; fewer of them save a gigabyte of an evaluation and cost seconds.
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")
    # Rows without pads make no two steps of one size, which leaves gaps in a GPU's memory that only segments that grow
    # do not have.
    os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    # Drawings go where those of a notebook go, which matplotlib decides when it is loaded.
    os.environ.setdefault("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _display(run: Path) -> str:
    word = relative(run)
    return f"runs/{run.name}" if os.path.isabs(word) else word


def watch(running: Sequence[Child], tell: Callable[[Unit, Mapping[str, Any]], None]) -> None:
    """Wait at most one tick for what the children say, and pass it on."""
    if not running:
        return
    ready = connection.wait([child.events for child in running if not child.ended], TICK_S)
    for child in (child for child in running if child.events in ready):
        try:
            event = child.events.recv()
        except (EOFError, OSError):
            child.ended = True
            continue
        if "end" in event:
            child.said = event
        else:
            tell(child.unit, event)


def verdict(child: Child, run: Path) -> Failure | None:
    """Why an ended child failed; None when its unit is done."""
    child.events.close()
    child.process.join()
    code = child.process.exitcode
    if child.said is not None:
        return child.said["end"]
    log = relative(run / "logs" / f"{child.unit.stem}.log")
    how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
    failure = Failure(
        f"its process {how}, often for want of memory; see {log}" if code < 0 else f"its process {how}; see {log}"
    )
    shelf = run / "notebooks"
    temporary = shelf / f".{child.unit.stem}.part-.ipynb"
    if temporary.is_file():
        places = notebooks.machine_places(run, _display(run))
        # On a full disk the evidence may be half written, or find no room; the failure itself must still be told.
        with contextlib.suppress(OSError, InputError):
            notebooks.publish(temporary, shelf / f"{child.unit.stem}.failed.ipynb", places, failure)
    return failure


def end_all(running: Sequence[Child]) -> None:
    """End every child with its kernel and workers, and wait for that (at most 3 s)."""
    processes.end([child.process.pid for child in running])
    for child in running:
        child.process.join()
        child.events.close()
