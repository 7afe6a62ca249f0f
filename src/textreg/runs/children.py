"""The child processes of a run: started, listened to, and judged when they end.

A child writes its events as JSON lines into a pipe of its own (its standard output goes to a log, because a kernel
inherits it). A child that vanishes without a last word was killed from outside; what its notebook held by then is
kept as evidence.
"""

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from textreg import processes
from textreg.errors import InputError
from textreg.runs import execution, notebooks
from textreg.runs.notebooks import Failure
from textreg.runs.plan import Place, State
from textreg.runs.profiles import Profile
from textreg.runs.stages import Unit, relative

TICK_S = 0.5
MEMORY_EVERY_S = 2.0


@dataclass
class Child:
    """One running unit.  ``weight``: cores it uses; ``peak_mb``: largest resident memory seen, kernel and workers
    included."""

    state: State
    process: subprocess.Popen[bytes]
    events: Any
    started: float
    weight: int
    buffer: bytes = b""
    last: Mapping[str, Any] | None = None
    ended: bool = False
    peak_mb: float = 0.0
    measured: float = 0.0

    @property
    def unit(self) -> Unit:
        """The unit that it executes."""
        return self.state.unit


def launch(profile: Profile, place: Place, state: State, weight: int, *, fresh: bool) -> Child:
    """Start the child of one unit."""
    unit, run = state.unit, place.run.resolve()
    hidden, logs = run / ".runner", run / "logs"
    for folder in (hidden / "jobs", hidden / "runtime", hidden / "ipython", logs):
        folder.mkdir(parents=True, exist_ok=True)
    os.chmod(hidden / "runtime", 0o700)
    job = execution.Job(
        stage=unit.stage,
        arm=unit.arm,
        profile=profile.name,
        run=str(run),
        shown=_display(place.run),
        notebook=str((place.notebooks / unit.notebook).resolve()),
        parameters=asdict(state.settings),
        identity=asdict(state.identity),
        fresh=fresh,
    )
    path = hidden / "jobs" / f"{unit.stem}.json"
    execution.save(job, path)
    environment = execution.environment(run, getattr(state.settings, "threads", 1), profile.scale == "scenes")
    environment["TEXTREG_PARENT"] = str(os.getpid())
    reader, writer = os.pipe()
    try:
        with (logs / f"{unit.stem}.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "textreg.runs.execution", str(path), str(writer)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                pass_fds=(writer,),
                start_new_session=True,
            )
    finally:
        os.close(writer)
    os.set_blocking(reader, False)
    return Child(state, process, os.fdopen(reader, "rb", buffering=0), time.monotonic(), weight)


def _display(run: Path) -> str:
    word = relative(run)
    return f"runs/{run.name}" if os.path.isabs(word) else word


def watch(running: Sequence[Child], tell: Callable[[Unit, Mapping[str, Any]], None]) -> None:
    """Wait at most one tick for events of the children, and pass them on."""
    open_ones = [child for child in running if not child.ended]
    if not open_ones:
        time.sleep(0.05)
        return
    with selectors.DefaultSelector() as selector:
        for child in open_ones:
            selector.register(child.events, selectors.EVENT_READ, child)
        ready = selector.select(TICK_S)
    for key, _ in ready:
        for event in _events(key.data):
            tell(key.data.unit, event)
    for child in running:
        if time.monotonic() - child.measured > MEMORY_EVERY_S:
            child.measured = time.monotonic()
            child.peak_mb = max(child.peak_mb, processes.memory_mb(child.process.pid))


def _events(child: Child) -> list[Mapping[str, Any]]:
    block = child.events.read(65536)
    child.ended = block == b""
    *lines, child.buffer = (child.buffer + (block or b"")).split(b"\n")
    events = [json.loads(line) for line in lines if line]
    for event in events:
        if "end" in event:
            child.last = event
    return [event for event in events if "end" not in event]


def verdict(child: Child, run: Path) -> Failure | None:
    """Why an ended child failed; None when its unit is done."""
    while not child.ended:
        _events(child)
    child.events.close()
    code = child.process.wait()
    if child.last is not None:
        record = child.last["end"]
        return None if record is None else Failure(**record)
    log = relative(run / "logs" / f"{child.unit.stem}.log")
    how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
    failure = Failure(
        f"its process {how}, often for want of memory; see {log}" if code < 0 else f"its process {how}; see {log}"
    )
    shelf = run / "notebooks"
    temporary = shelf / f".{child.unit.stem}.part.ipynb"
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
        child.process.wait()
        child.events.close()
