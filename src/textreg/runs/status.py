"""``textreg status``: each unit of a run as done, stale (with the reason), missing or failed (with the cell).

It asks the plan of :mod:`textreg.runs.plan` with the profile and overrides that the run noted at its last start;
nothing is executed.
"""

from pathlib import Path

from rich.console import Console

from textreg.files import HashCache
from textreg.runs import plan, report
from textreg.runs import stages as graph
from textreg.runs.plan import Place, State
from textreg.runs.stages import Unit


def collect(run: str | Path, root: Path | None = None) -> dict[Unit, State]:
    """State of every unit of the run in ``run``, in running order.

    Raises :class:`textreg.errors.InputError` when there is no run or its ``run.json`` is damaged.
    """
    root = root or graph.repository()
    run = Path(run)
    profile, overrides = plan.remembered(run, root)
    hashes = HashCache(run / ".runner" / "hashes.json")
    return plan.survey(profile, Place(run, root / "notebooks", overrides), hashes)


def show(run: str | Path, root: Path | None = None, console: Console | None = None) -> dict[Unit, State]:
    """Print the table of :func:`collect` and return its data."""
    found = collect(run, root)
    (console or Console(soft_wrap=True, highlight=False)).print(report.states(found))
    return found
