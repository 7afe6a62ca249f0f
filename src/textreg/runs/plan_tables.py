"""The plan of a hub-scale run as tables for a terminal.

A total that lacks a size says "at least"; a machine that the run does not fit shows no hours.

Try it: ``plan_tables.show(planning.plan(profiles.load("gpu")))``.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from textreg.runs.budget import Plan
from textreg.runs.planned_sizes import Size

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


def tables(plan: Plan) -> "Iterator[Table]":
    """The plan as tables for a terminal."""
    from rich.table import Table

    work = Table("unit", "rows", "million tokens", "PFLOP", title=f"Plan of profile {plan.profile}")
    for item in plan.work:
        work.add_row(item.unit, f"{item.rows:,}", f"{item.tokens / 1e6:,.1f}", f"{item.flop / 1e15:,.0f}")
    yield work
    for title, sizes, whole in (
        ("Downloads", plan.downloads, True),
        ("On disk", plan.disk, not plan.unknown),
        ("Memory of the host", plan.host, True),
    ):
        if sizes:
            total = max(item.size for item in sizes) if sizes is plan.host else sum(item.size for item in sizes)
            yield _sizes(title, sizes, total, whole)
    cards = Table("GPU", "fits", "micro-batch", "peak GB", "align h", "tune h", "answers h", "all h", title="Hours")
    for card in plan.cards:
        groups = [sum(h for unit, h in card.hours.items() if unit.startswith(kind)) for kind in ("align", "tune")]
        total = sum(card.hours.values())
        cells = [f"{value:,.1f}" for value in (*groups, total - sum(groups), total)] if card.fits else ["-"] * 4
        micro = str(card.micro) if card.fits else "-"
        cards.add_row(card.name, "yes" if card.fits else "no", micro, f"{card.memory / 1e9:,.1f}", *cells)
    yield cards


def _sizes(title: str, sizes: Sequence[Size], total: float, whole: bool) -> "Table":
    from rich.table import Table

    least = "" if whole and all(item.size for item in sizes) else "at least "
    table = Table("what", "GB", "from", title=f"{title}: {least}{total / 1e9:,.1f} GB")
    for item in sizes:
        table.add_row(item.name, f"{item.size / 1e9:,.2f}" if item.size else "?", item.source)
    return table


def show(plan: Plan, console: "Console | None" = None) -> None:
    """Print the plan with its assumptions, and what is not known."""
    from rich.console import Console

    console = console or Console()
    for table in tables(plan):
        console.print(table)
    for reason in plan.unknown:
        console.print(f"no hours or memory: {reason}")
    for line in plan.assumptions:
        console.print(f"assumed: {line}")
