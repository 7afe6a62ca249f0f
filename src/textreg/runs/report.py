"""What a run says: bars on a terminal or plain lines in a log while it runs, and its states as a table.

One row per running unit: stage, notebook cell, the last line the notebook printed, time.  Without a terminal the
same events become one line each when a unit starts, ends or fails, so that a log file stays readable.
``textreg status`` (:func:`show`) asks the plan with the profile and overrides that the run noted at its last start;
nothing is executed.
"""

import csv
import os
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from textreg.errors import InputError
from textreg.files import HashCache, read_json
from textreg.runs import manifest, plan
from textreg.runs import stages as graph
from textreg.runs.plan import Place, State
from textreg.runs.stages import Unit


class Report:
    """Shows the units of one run.  Use as a context manager; ``console`` decides between bars and lines."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=False, soft_wrap=True, highlight=False)
        self._tasks: dict[Unit, Any] = {}
        self._bars = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=16),
            TextColumn("cell {task.completed:.0f}/{task.total:.0f}"),
            TimeElapsedColumn(),
            TextColumn("[dim]{task.fields[line]}", markup=True),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )

    def __enter__(self) -> "Report":
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def say(self, text: str, style: str = "") -> None:
        """One line."""
        self.console.print(Text(text, style=style))

    def start(self, state: State) -> None:
        """A unit starts, for these reasons."""
        self.say(f"{time.strftime('%H:%M:%S')} {state.unit.name}: runs ({shortened(state.reasons) or 'asked for'})")
        self._tasks[state.unit] = self._bars.add_task(state.unit.name, total=1, line="")

    def event(self, unit: Unit, event: Mapping[str, Any]) -> None:
        """A cell started, or a line was printed."""
        if "cell" in event:
            self._bars.update(self._tasks[unit], completed=event["cell"], total=event["cells"])
        elif "line" in event:
            self._bars.update(self._tasks[unit], line=Text(str(event["line"])[:60]).plain.replace("[", "("))

    def finish(self, unit: Unit, text: str, *, ok: bool) -> None:
        """A unit ended."""
        self._bars.remove_task(self._tasks.pop(unit))
        self.say(f"{time.strftime('%H:%M:%S')} {unit.name}: {text}", style="" if ok else "bold red")

    def close(self, outcomes: Mapping[Unit, Any], seconds: float) -> None:
        """The closing table: per unit what happened, its seconds and its peak memory in MiB."""
        table = plain_table("unit", "", right=("seconds", "peak MiB"))
        for unit, outcome in outcomes.items():
            time_s = f"{outcome.seconds:.1f}" if outcome.seconds is not None else ""
            memory = f"{outcome.peak_memory_mb:.0f}" if outcome.peak_memory_mb else ""
            table.add_row(unit.name, outcome.what, time_s, memory)
        self.console.print(table)
        count = Counter(outcome.what for outcome in outcomes.values())
        failed = f", {count['failed']} failed" if count["failed"] else ""
        self.say(f"{count['ran']} ran, {count['kept']} up to date{failed}, {seconds:.1f} s")


def headline(run: Path) -> list[str]:
    """What an evaluated run found, in two lines: the asked language by system, and its claims, which are those of
    scenes and are told of no other scale.  Empty where nothing was evaluated.
    """
    folder = run / "evaluate"
    if not (folder / "claims.csv").is_file():
        return []
    shares: dict[str, list[float]] = {}
    for row in _rows(folder / "fidelity.csv"):
        if row["arm"] == "image" and row["language"] != "en":
            shares.setdefault(row["system"], []).append(float(row["class_asked"]))
    kept = ", ".join(f"{system} {100 * mean(values):.0f} %" for system, values in shares.items())
    first = f"asked language under pictures: {kept}"
    if read_json(folder / manifest.NAME)["parameters"]["scale"] != "scenes":
        return [first]
    counts = Counter(row["verdict"] for row in _rows(folder / "claims.csv"))
    told = ", ".join(f"{count} {verdict}" for verdict, count in counts.most_common())
    return [first, f"claims: {told} (evaluate/claims.csv)"]


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def plain_table(*left: str, right: Sequence[str] = ()) -> Table:
    """A table without lines, of columns of words and of columns of numbers."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in left:
        table.add_column(heading, overflow="fold", no_wrap=heading != "why")
    for heading in right:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def shortened(reasons: Sequence[str]) -> str:
    """The first three reasons, and how many more there are."""
    return "; ".join([*reasons[:3], *([f"and {len(reasons) - 3} more"] if len(reasons) > 3 else [])])


def states(found: Mapping[Unit, State]) -> Table:
    """The table of ``textreg status`` and ``--dry-run``: unit, state, why, time of its last run."""
    colours = {"done": "green", "stale": "yellow", "failed": "bold red", "missing": "dim"}
    table = plain_table("unit", "state", "why", right=("seconds",))
    for unit, state in found.items():
        seconds = f"{state.seconds:.1f}" if state.seconds is not None else ""
        word, why = Text(state.state, style=colours[state.state]), Text(shortened(state.reasons))
        table.add_row(unit.name, word, why, seconds)
    return table


def collect(run: Path, root: Path | None = None) -> dict[Unit, State]:
    """State of every unit of the run in ``run``, in running order.

    Raises :class:`textreg.errors.InputError` when there is no run or its ``run.json`` is damaged.
    """
    root = root or graph.repository()
    profile, overrides = plan.remembered(run, root)
    hashes = HashCache(run / ".runner" / "hashes.json")
    found = plan.survey(profile, Place(run, root / "notebooks", overrides), hashes)
    if os.access(run / ".runner", os.W_OK):  # so that the next look need not read the whole package again
        hashes.save()
    return found


def show(run: Path) -> None:
    """Print the table of :func:`collect`."""
    Console(soft_wrap=True, highlight=False).print(states(collect(run)))


def require_standing(run: Path, arm: str) -> None:
    """Refuse to hand out a system (``arm``; empty: the backbone) of which a stage, or the evaluation that its card
    would show, no longer stands.

    Raises :class:`InputError` naming the stage and why; a run that no ``textreg run`` started is taken as it is.
    """
    if not (run / plan.RUN_FILE).is_file():
        return
    for unit, state in collect(run).items():
        concerned = unit.arm == (arm or None) or unit.stage in ("align", "evaluate")
        if concerned and state.state == "stale":
            raise InputError(
                f"{run}: {unit.name} is stale ({state.reasons[0]}); bring it up to date: textreg run --run {run}"
            )
