"""The runner: executes the units that do not stand, side by side where they do not wait for each other.

Every unit is a child process (:mod:`textreg.runs.execution`) in a process group of its own, one-threaded on a CPU; the
children and their kernels end with this process, however it ends.  Before each unit its identity is computed anew,
because what ran before it may have left the same bytes as last time.  Results do not depend on ``jobs``: units share
nothing but finished files.

    from textreg.runs import runner
    runner.run("smoke", jobs=2)
"""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from textreg.errors import InputError, RunError
from textreg.files import HashCache, remove_tree, require_room, sweep, trouble, write_text
from textreg.runs import budget, children, manifest, plan, profiles
from textreg.runs import report as reporting
from textreg.runs import stages as graph
from textreg.runs.notebooks import Failure
from textreg.runs.plan import Place, State
from textreg.runs.profiles import Profile
from textreg.runs.stages import Unit, relative
from textreg.settings import Evaluate, Stage

#: Free disk space asked for before a run, in bytes; on real weights beside what its budget counts.
ROOM = 500 * 2**20


@dataclass(frozen=True)
class Outcome:
    """What became of one unit: ``ran``, ``kept`` (it stood), ``failed`` or ``not run`` (something before it
    failed)."""

    what: str
    seconds: float | None = None
    peak_memory_mb: float | None = None
    failure: Failure | None = None


@dataclass(frozen=True)
class Result:
    """What a run did.  ``states``: how each unit stood before; ``outcomes``: what became of it (empty on a dry
    run)."""

    run: Path
    states: Mapping[Unit, State]
    outcomes: Mapping[Unit, Outcome] = field(default_factory=dict)

    def units(self, what: str) -> tuple[str, ...]:
        """Names of the units with that outcome, in running order."""
        return tuple(unit.name for unit, outcome in self.outcomes.items() if outcome.what == what)


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

    ``profile``: name or YAML file.  ``run_dir``: default ``runs/<profile>``, with ``-seed-N`` when ``-p seed=N``
    differs. ``only``/``start``/``stop``/``arms``: see :func:`textreg.runs.plan.select`.  ``jobs``: cores to use at a
    time, default all (one unit at a time at hub scale).  ``overrides``: ``key=value`` words.  ``force``: run the
    chosen units even if they stand, from scratch.  ``root``: the repository, found by itself.

    Raises :class:`InputError` before anything starts, or when a notebook raised one; :class:`RunError` naming every
    failed unit, or what the disk refused; ``KeyboardInterrupt`` after Ctrl-C, SIGTERM or SIGHUP, once every child has
    ended.
    """
    root = root or graph.repository()
    chosen = profiles.load(profile, root)
    profiles.check(chosen, overrides)
    folder = Path(run_dir) if run_dir else default_folder(chosen, overrides, root)
    place = Place(folder, root / "notebooks", tuple(overrides))
    units = plan.select(chosen, only, start, stop, arms)
    if jobs is not None and jobs < 1:
        raise InputError(f"--jobs {jobs}: at least 1 is needed")
    plan.require_own(chosen, place, root)
    report = report or reporting.Report()
    planned = None if chosen.scale != "hub" else budget.estimate(chosen, overrides)
    if planned is not None:
        report.console.print(*budget.tables(planned), sep="\n")
    if dry_run:
        found = plan.survey(chosen, place, HashCache(), plan.with_upstream(chosen, place, units))
        states = {unit: found[unit] for unit in units}
        report.console.print(reporting.states(states))
        for line in _missing_packages(states, force):
            report.say(f"not yet: {line}", "yellow")
        return Result(folder, states)
    if planned is None:
        require_room(folder, ROOM)
    else:
        budget.require_disk(planned, folder, {unit.stage for unit in units}, ROOM)
    try:
        with sole(folder), clean_ending():
            plan.claim(chosen, place, root)
            run_of_units = _Run(chosen, place, units, force, report)
            return run_of_units.execute(jobs or (1 if chosen.scale == "hub" else os.cpu_count() or 1))
    except BrokenPipeError:
        raise
    except OSError as error:
        raise RunError(trouble(error, relative(folder))) from None


def _missing_packages(states: Mapping[Unit, State], force: bool) -> list[str]:
    """Lines about the packages that the units still to run need and that are not installed."""
    return plan.missing_packages(
        {unit: state.settings for unit, state in states.items() if force or state.state != "done"}
    )


def default_folder(profile: Profile, overrides: Sequence[str], root: Path) -> Path:
    """``runs/<profile>`` in the repository; another seed gets a folder of its own."""
    seed = profiles.resolve(profile, "align", overrides=overrides).seed
    return root / "runs" / (profile.name if seed == profile.seed else f"{profile.name}-seed-{seed}")


@contextlib.contextmanager
def sole(
    folder: Path, hidden: str = ".runner", cure: str = "wait for it or choose another with --run"
) -> Iterator[None]:
    """Hold a folder by a lock in ``hidden`` that ends with this process, however that ends; raises
    :class:`InputError` naming the process that holds it."""
    place = folder / hidden
    place.mkdir(parents=True, exist_ok=True)
    lock, owner = FileLock(place / "lock"), place / "pid"
    try:
        lock.acquire(timeout=0.5)
    except Timeout:
        pid = owner.read_text(encoding="utf-8").strip() if owner.is_file() else "unknown"
        raise InputError(f"{relative(folder)} is in use by process {pid}; {cure}") from None
    try:
        write_text(owner, f"{os.getpid()}\n")
        yield
    finally:
        owner.unlink(missing_ok=True)
        lock.release()


@contextlib.contextmanager
def clean_ending() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end a run as Ctrl-C does (under nohup SIGHUP stays ignored)."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    names = ("SIGINT", "SIGTERM", "SIGHUP")  # Windows has no SIGHUP
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    old = {number: signal.getsignal(number) for number in numbers}
    for number in numbers:
        if old[number] != signal.SIG_IGN or number == signal.SIGTERM:
            signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


class _Run:
    """The units of one run on their way through: waiting, running, ended."""

    def __init__(
        self, profile: Profile, place: Place, units: Sequence[Unit], force: bool, report: reporting.Report
    ) -> None:
        self.profile, self.place, self.force, self.report = profile, place, force, report
        self.hashes = HashCache(place.run / ".runner" / "hashes.json")
        self.states = plan.survey(profile, place, self.hashes, plan.with_upstream(profile, place, units))
        self.units = tuple(units)
        self.upstream = {unit: profiles.upstream(profile, unit, place.overrides) for unit in units}
        self.waiting = list(units)
        self.running: list[children.Child] = []
        self.ready: dict[Unit, State] = {}
        self.ended: dict[Unit, Outcome] = {}
        self._require_upstream()
        if missing := _missing_packages({unit: self.states[unit] for unit in units}, force):
            raise InputError("; ".join(missing))

    def _require_upstream(self) -> None:
        for unit in self.units:
            for other in (other for other in self.upstream[unit] if other not in self.units):
                state, folder = self.states[other], self.place.run / other.folder
                content = manifest.read(folder)
                # What is computed from files that no notebook wrote would be noted as the result of those it did.
                if found := manifest.damage(folder, content, self.hashes) if content else []:
                    raise InputError(
                        f"{unit.name} reads {other.name}, of which {found[0]}; leave --only, --from and --arm out to "
                        "make it anew, or put the file back"
                    )
                if state.state in ("missing", "failed"):
                    raise InputError(
                        f"{unit.name} needs {other.name}, which has not run; leave --only, --from and --arm out"
                    )
                if state.state == "stale":
                    told = f"note: {other.name}, read by {unit.name}, is stale ({state.reasons[0]})"
                    self.report.say(told, "yellow")

    def execute(self, width: int) -> Result:
        """Run until nothing waits; ``width`` cores at a time."""
        clock = time.monotonic()
        remove_tree(self.place.run / ".runner" / "runtime")
        sweep(self.place.run)
        with self.report:
            try:
                while self.waiting or self.running:
                    self._start_ready(width)
                    children.watch(self.running, self.report.event)
                    self._collect()
            except KeyboardInterrupt:
                self.report.say("interrupted; the same command goes on from here", "yellow")
                raise
            finally:
                children.end_all(self.running)
                with contextlib.suppress(OSError):  # the hashes only save time
                    self.hashes.save()
        outcomes = {unit: self.ended[unit] for unit in self.units}
        result = Result(self.place.run, {unit: self.states[unit] for unit in self.units}, outcomes)
        self.report.close(outcomes, time.monotonic() - clock)
        failures = {unit: outcome.failure for unit, outcome in outcomes.items() if outcome.failure is not None}
        if not failures:
            return result
        text = "; ".join(f"{unit.name}: {failure.message}" for unit, failure in failures.items())
        if all(failure.user for failure in failures.values()):
            raise InputError(text)
        raise RunError(f"{text} (the failed notebook is in {relative(self.place.run / 'notebooks')})")

    def _start_ready(self, width: int) -> None:
        for unit in list(self.waiting):
            before = [other for other in self.upstream[unit] if other in self.units]
            if any(other in self.ended and self.ended[other].what in ("failed", "not run") for other in before):
                self._end(unit, Outcome("not run"))
            elif all(other in self.ended for other in before):
                if unit not in self.ready:
                    self.ready[unit] = plan.assess(self.profile, self.place, unit, {}, self.hashes)
                state = self.ready[unit]
                weight = min(width, cores(state.settings))
                if state.state == "done" and not self.force:
                    self._end(unit, Outcome("kept", state.seconds, state.peak_memory_mb))
                elif sum(child.weight for child in self.running) + weight <= width:
                    self.waiting.remove(unit)
                    self.report.start(state)
                    self.running.append(children.launch(self.profile, self.place, state, weight, fresh=self.force))

    def _end(self, unit: Unit, outcome: Outcome) -> None:
        self.waiting.remove(unit)
        self.ended[unit] = outcome

    def _collect(self) -> None:
        for child in [child for child in self.running if child.ended]:
            self.running.remove(child)
            failure = children.verdict(child, self.place.run.resolve())
            seconds = time.monotonic() - child.started
            record = None if failure else manifest.read(self.place.run / child.unit.folder)
            peak = record["peak_memory_mb"] if record else None
            self.ended[child.unit] = Outcome("failed" if failure else "ran", seconds, peak, failure)
            text = f"failed after {seconds:.1f} s: {failure.message}" if failure else f"done in {seconds:.1f} s"
            self.report.finish(child.unit, text, ok=failure is None)


def cores(settings: Stage) -> int:
    """Cores that a unit uses."""
    threads = getattr(settings, "threads", 1)
    return int(threads * (settings.workers if isinstance(settings, Evaluate) else 1))
