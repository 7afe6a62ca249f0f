"""The runner: executes the units that do not stand, side by side where they do not wait for each other.

Every unit is a child process (:mod:`textreg.execution`) in a process group of its own, one-threaded on a CPU; the children and
their kernels end with this process, however it ends.  Before each unit its identity is computed anew, because what ran before it
may have left the same bytes as last time.  Identical results do not depend on ``jobs``: units share nothing but finished files.

    from textreg import runner
    runner.run("smoke", jobs=2)
"""

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from textreg import config, execution, plan, processes, profiles, reporting
from textreg import stages as graph
from textreg.disk import HashCache, remove_tree, require_room, write_text
from textreg.errors import InputError, RunError
from textreg.plan import Place, State
from textreg.stages import Unit, shown

#: Free disk space asked for before a run, in bytes.
ROOM = {"scenes": 500 * 2**20, "hub": 40 * 2**30}
TICK_S = 0.5


@dataclass(frozen=True)
class Result:
    """What a run did.  ``ran``: unit name -> seconds; ``kept``: units that stood; ``failed``: unit name -> message."""

    run: Path
    ran: Mapping[str, float] = field(default_factory=dict)
    kept: tuple[str, ...] = ()
    failed: Mapping[str, str] = field(default_factory=dict)
    states: Mapping[Unit, State] = field(default_factory=dict)


@dataclass
class _Child:
    state: State
    process: subprocess.Popen[bytes]
    events: Any
    started: float
    weight: int
    buffer: str = ""
    failure: Mapping[str, Any] | None = None
    ended: bool = False
    peak_mb: float = 0.0


def run(
    profile: str | Path = "laptop",
    run_dir: str | Path | None = None,
    *,
    only: Sequence[str] = (),
    start: str | None = None,
    stop: str | None = None,
    arms: Sequence[str] = (),
    jobs: int | None = None,
    overrides: Sequence[str] = (),
    force: bool = False,
    dry_run: bool = False,
    root: Path | None = None,
    report: reporting.Report | None = None,
) -> Result:
    """Bring a run up to date.

    ``profile``: name or YAML file.  ``run_dir``: default ``runs/<profile>``, with ``-seed-N`` when ``-p seed=N`` differs.
    ``only``/``start``/``stop``/``arms``: see :func:`textreg.plan.select`.  ``jobs``: one-threaded processes at a time, default the
    number of cores (1 at hub scale).  ``overrides``: ``key=value`` words.  ``force``: run the chosen units even if they stand.
    ``root``: the repository, found by itself.

    Raises :class:`InputError` before anything starts, or when a notebook raised one; :class:`RunError` naming every failed unit;
    ``KeyboardInterrupt`` after Ctrl-C or SIGTERM, once every child has ended.
    """
    root = root or graph.repository()
    chosen_profile = profiles.load(profile, root)
    profiles.check(chosen_profile, overrides)
    folder = Path(run_dir) if run_dir else default_folder(chosen_profile, overrides, root)
    place = Place(folder, root / "notebooks", tuple(overrides))
    units = plan.select(chosen_profile, only, start, stop, arms)
    if jobs is not None and jobs < 1:
        raise InputError(f"--jobs {jobs}: at least 1 is needed")
    report = report or reporting.Report()
    if dry_run:
        states = plan.survey(chosen_profile, place, HashCache(), _with_upstream(chosen_profile, place, units))
        report.console.print(reporting.states({unit: states[unit] for unit in units}))
        return Result(folder, kept=tuple(u.name for u in units if states[u].state == "done"), states=states)
    require_room(folder, ROOM[chosen_profile.scale])
    with _sole(folder), _clean_ending():
        return _run(chosen_profile, place, root, units, jobs, force, report)


def default_folder(profile: profiles.Profile, overrides: Sequence[str], root: Path) -> Path:
    """``runs/<profile>`` in the repository; another seed gets a folder of its own."""
    seed = profiles.resolve(profile, "align", overrides=overrides).seed
    return root / "runs" / (profile.name if seed == profile.seed else f"{profile.name}-seed-{seed}")


def _with_upstream(profile: profiles.Profile, place: Place, units: Sequence[Unit]) -> tuple[Unit, ...]:
    wanted = set(units)
    for unit in units:
        waiting = [unit]
        while waiting:
            found = profiles.upstream(profile, waiting.pop(), place.overrides)
            waiting += [other for other in found if other not in wanted]
            wanted |= set(found)
    return tuple(unit for unit in graph.units(graph.order(), profile.arms) if unit in wanted)


@contextlib.contextmanager
def _sole(folder: Path) -> Iterator[None]:
    hidden = folder / ".runner"
    hidden.mkdir(exist_ok=True)
    lock, owner = FileLock(hidden / "lock"), hidden / "pid"
    try:
        lock.acquire(timeout=0.5)
    except Timeout:
        pid = owner.read_text(encoding="utf-8").strip() if owner.is_file() else "unknown"
        raise InputError(f"{shown(folder)} is in use by process {pid}; wait for it or choose another folder") from None
    try:
        write_text(owner, f"{os.getpid()}\n")
        yield
    finally:
        owner.unlink(missing_ok=True)
        lock.release()


@contextlib.contextmanager
def _clean_ending() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end a run as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    old = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def _run(
    profile: profiles.Profile,
    place: Place,
    root: Path,
    units: tuple[Unit, ...],
    jobs: int | None,
    force: bool,
    report: reporting.Report,
) -> Result:
    hashes = HashCache(place.run / ".runner" / "hashes.json")
    states = plan.survey(profile, place, hashes, _with_upstream(profile, place, units))
    plan.claim(profile, place, root)
    for unit in units:
        for other in profiles.upstream(profile, unit, place.overrides):
            if other not in units and states[other].state in ("missing", "failed"):
                raise InputError(f"{unit.name} needs {other.name}, which has not run; run without --only, --from and --arm")
            if other not in units and states[other].state == "stale":
                report.say(f"note: {other.name}, which {unit.name} reads, is stale ({states[other].reasons[0]})", "yellow")
    _clear_leftovers(place.run)
    width = jobs or (1 if profile.scale == "hub" else os.cpu_count() or 1)
    started = time.monotonic()
    waiting, running = list(units), []
    rows: dict[Unit, tuple[str, str, float | None, float | None]] = {}
    ran: dict[str, float] = {}
    failed: dict[str, Mapping[str, Any]] = {}
    pending = set(units)
    with report:
        try:
            while waiting or running:
                for unit in list(waiting):
                    upstream = [other for other in profiles.upstream(profile, unit, place.overrides) if other in units]
                    if any(other.name in failed or (other in rows and rows[other][1] == "not run") for other in upstream):
                        waiting.remove(unit)
                        pending.discard(unit)
                        rows[unit] = (unit.name, "not run", None, None)
                        continue
                    if any(other in pending for other in upstream):
                        continue
                    state = plan.assess(profile, place, unit, {}, hashes)
                    if state.state == "done" and not force:
                        waiting.remove(unit)
                        pending.discard(unit)
                        rows[unit] = (unit.name, "kept", state.seconds, state.peak_memory_mb)
                        continue
                    weight = min(width, _weight(state.settings))
                    if sum(child.weight for child in running) + weight > width:
                        continue
                    waiting.remove(unit)
                    report.start(state)
                    running.append(_launch(profile, place, state, weight, force))
                _watch(running, report)
                for child in [child for child in running if child.process.poll() is not None]:
                    running.remove(child)
                    unit = child.state.unit
                    pending.discard(unit)
                    seconds = time.monotonic() - child.started
                    failure = _failure(child, place.run)
                    if failure is None:
                        ran[unit.name] = seconds
                        rows[unit] = (unit.name, "ran", seconds, child.peak_mb)
                        report.finish(unit, f"done in {seconds:.1f} s", ok=True)
                    else:
                        failed[unit.name] = failure
                        rows[unit] = (unit.name, "failed", seconds, child.peak_mb)
                        report.finish(unit, f"failed after {seconds:.1f} s: {failure['message']}", ok=False)
        except KeyboardInterrupt:
            report.say("interrupted; the same command goes on from here", "yellow")
            raise
        finally:
            processes.end([child.process.pid for child in running])
            for child in running:
                child.process.wait()
                child.events.close()
            hashes.save()
    report.console.print(reporting.times([rows[unit] for unit in units]))
    report.say(f"{len(ran)} ran, {sum(row[1] == 'kept' for row in rows.values())} up to date, {time.monotonic() - started:.1f} s")
    if failed:
        _raise(failed, place.run)
    kept = tuple(unit.name for unit in units if rows[unit][1] == "kept")
    return Result(place.run, ran, kept, {}, states)


def _raise(failed: Mapping[str, Mapping[str, Any]], run: Path) -> None:
    lines = [f"{name}: {failure['message']}" for name, failure in failed.items()]
    if all(failure.get("user") for failure in failed.values()):
        raise InputError("; ".join(lines))
    raise RunError("; ".join(lines) + f" (see {shown(run / 'notebooks')} and textreg status)")


def _weight(settings: config.Stage) -> int:
    threads = getattr(settings, "threads", 1)
    return int(threads * (settings.workers if isinstance(settings, config.Evaluate) else 1))


def _clear_leftovers(run: Path) -> None:
    for name in ("runtime", "jobs"):
        remove_tree(run / ".runner" / name)
    for path in (run / "notebooks").glob(".*.part.ipynb"):
        path.unlink()


def _launch(profile: profiles.Profile, place: Place, state: State, weight: int, fresh: bool) -> _Child:
    unit, run_dir = state.unit, place.run.resolve()
    hidden, logs = run_dir / ".runner", run_dir / "logs"
    for folder in (hidden / "jobs", hidden / "runtime", hidden / "ipython", logs):
        folder.mkdir(parents=True, exist_ok=True)
    os.chmod(hidden / "runtime", 0o700)
    job = execution.Job(
        stage=unit.stage,
        arm=unit.arm,
        profile=profile.name,
        run=str(run_dir),
        shown=_display(place.run),
        notebook=str((place.notebooks / unit.notebook).resolve()),
        parameters=asdict(state.settings),
        identity=asdict(state.identity),
        fresh=fresh,
    )
    path = hidden / "jobs" / f"{unit.stem}.json"
    execution.save(job, path)
    reader, writer = os.pipe()
    environment = execution.environment(run_dir, getattr(state.settings, "threads", 1), profile.scale == "scenes")
    environment["TEXTREG_PARENT"] = str(os.getpid())
    with (logs / f"{unit.stem}.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "textreg.execution", str(path), str(writer)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment,
            pass_fds=(writer,),
            start_new_session=True,
        )
    os.close(writer)
    os.set_blocking(reader, False)
    return _Child(state, process, os.fdopen(reader, "rb", buffering=0), time.monotonic(), weight)


def _display(run: Path) -> str:
    word = shown(run)
    return f"runs/{run.name}" if os.path.isabs(word) or word.startswith("..") else word


def _watch(running: Sequence[_Child], report: reporting.Report) -> None:
    """Wait one tick for events of the children and pass them on."""
    if not running:
        return
    with selectors.DefaultSelector() as selector:
        for child in running:
            if not child.ended:
                selector.register(child.events, selectors.EVENT_READ, child)
        ready = selector.select(TICK_S) if selector.get_map() else []
        if not selector.get_map():
            time.sleep(0.05)
    for key, _ in ready:
        _read(key.data, report)
    for child in running:
        child.peak_mb = max(child.peak_mb, processes.memory_mb(child.process.pid))


def _read(child: _Child, report: reporting.Report) -> None:
    block = child.events.read(65536)
    if block == b"":
        child.ended = True
    child.buffer += (block or b"").decode("utf-8", errors="replace")
    *lines, child.buffer = child.buffer.split("\n")
    for line in filter(None, lines):
        event = json.loads(line)
        if event.get("end"):
            child.failure = event["failure"]
        else:
            report.event(child.state.unit, event)


def _failure(child: _Child, run: Path) -> Mapping[str, Any] | None:
    while not child.ended:
        block = child.events.read(65536)
        if not block:
            break
        child.buffer += block.decode("utf-8", errors="replace")
    child.events.close()
    for line in filter(None, child.buffer.split("\n")):
        event = json.loads(line)
        child.failure = event["failure"] if event.get("end") else child.failure
    code = child.process.returncode
    if child.failure is not None:
        return child.failure
    if code == 0:
        return None
    log = shown(run / "logs" / f"{child.state.unit.stem}.log")
    if code < 0:
        name = signal.Signals(-code).name
        return {"message": f"its process was ended by {name} (often for want of memory); see {log}"}
    return {"message": f"its process ended with code {code}; see {log}"}
