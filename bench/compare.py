"""Ours beside what people would otherwise run: every row against its peer, in turns, and the numbers kept.

Sides of a row take turns inside one process (commands have one each), at least five times, so that what the machine
does meanwhile falls on all of them; the result is the median of the ratios within a turn.  Processor seconds lead: on
a shared machine the wall clock says more of the others than of the program.  A peer that is not installed has a row
that says so.  ``make bench`` runs everything and writes ``bench/results/GROUP.csv`` with hardware, threads, versions
and command, then the figure and the table of the book (``bench/show.py``).

    python bench/compare.py --only tune --repeats 5
"""

import csv
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated

import typer

from textreg.runs.manifest import processor

RESULTS = Path(__file__).parent / "results"
VERSIONS = ("torch", "transformers", "peft", "trl", "mergekit", "py3langid", "pycld2", "lingua-language-detector")
FIELDS = (
    "row", "side", "turn", "wall_s", "processor_s", "units", "peak_mb", "note", "hardware", "threads", "versions",
    "command",
)  # fmt: skip


@dataclass(frozen=True)
class Cost:
    """Seconds of wall clock and of processor for ``units`` pieces of work; the peak where a process was measured."""

    wall: float
    processor: float
    units: float = 1.0
    peak_mb: float | None = None


@dataclass(frozen=True)
class Side:
    """One way of doing the work of a row.  ``lacks``: the package that is not there; then it is not called."""

    row: str
    name: str
    call: Callable[[], Cost]
    lacks: str = ""
    warm_up: bool = True


def timed(call: Callable[[], object], units: float = 1.0) -> Cost:
    """The cost of a call in this process."""
    wall, processor = time.perf_counter(), time.process_time()
    call()
    return Cost(time.perf_counter() - wall, time.process_time() - processor, units)


def later(call: Callable[[], object], units: float = 1.0) -> Callable[[], Cost]:
    """:func:`timed` of a call, when its turn comes."""
    return lambda: timed(call, units)


def marginal(prepared: Callable[[int], Callable[[], object]], few: int, many: int) -> Cost:
    """The cost of one more step: a run of ``many`` less one of ``few``, each ready to go, so that no start counts."""
    short, long = (timed(prepared(steps)) for steps in (few, many))
    steps = many - few
    return Cost((long.wall - short.wall) / steps, (long.processor - short.processor) / steps)


def lacking(*packages: str) -> str:
    """Names of the packages that are not installed."""
    return ", ".join(name for name in packages if not installed(name))


def installed(package: str) -> str:
    """Its version; '' where it is not there."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def hardware() -> str:
    """The processor by its name, the cores this process may use, and how busy the machine was when it began."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{processor()}, {cores} core(s) used, load {os.getloadavg()[0]:.1f}"


def measure(group: str, sides: Sequence[Side], repeats: int) -> None:
    """Let the sides of every row take turns and write ``GROUP.csv`` anew after each turn."""
    constant = {
        "hardware": hardware(),
        "threads": os.environ.get("OMP_NUM_THREADS", "all"),
        "versions": "; ".join(f"{name} {installed(name)}" for name in VERSIONS if installed(name)),
        "command": f"python bench/compare.py --only {group} --repeats {repeats}",
    }
    rows = [{"row": side.row, "side": side.name, "note": f"not installed: {side.lacks}"} | constant
            for side in sides if side.lacks]  # fmt: skip
    for side in sides:  # what is loaded or compiled at the first call is not measured
        if side.warm_up and not side.lacks:
            side.call()
    for turn in range(repeats):
        for side in sides:
            if side.lacks:
                continue
            cost = side.call()
            rows.append({
                "row": side.row, "side": side.name, "turn": turn, "wall_s": round(cost.wall, 4),
                "processor_s": round(cost.processor, 4), "units": cost.units, "peak_mb": cost.peak_mb,
            } | constant)  # fmt: skip
            print(
                f"{group} {turn + 1}/{repeats} {side.row}, {side.name}: {cost.processor:.3f} s of processor",
                flush=True,
            )
        with open(RESULTS / f"{group}.csv", "w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


def main(
    only: Annotated[str, typer.Option(help="one group: tune, answer, score, merge, commands, pages or growth")] = "",
    repeats: Annotated[int, typer.Option(help="turns of every row", min=1)] = 5,
) -> None:
    """Measure all groups, or one, and draw the table and the figure anew."""
    import models
    import show
    import tools

    groups = {**models.GROUPS, **tools.GROUPS}
    if only and only not in groups:
        raise typer.BadParameter(f"no group {only!r}; there are {', '.join(groups)}")
    for group in [only] if only else groups:
        with tempfile.TemporaryDirectory(prefix=f"bench-{group}-") as work:
            measure(group, groups[group](Path(work)), repeats)
    show.write(RESULTS)


if __name__ == "__main__":
    typer.run(main)
