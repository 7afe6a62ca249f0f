"""A score on the terminal: rich tables in per cent, undefined written as a dash, and what could not be scored.

Columns that are undefined throughout are left out, so that a plain caption file stays narrow.  Shares are
shown in per cent with one decimal, IFL in percentage points.

Use: ``print_result(scoring.score_file("answers.jsonl"))``.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from textreg.scoring import Result


def print_result(result: "Result", console: "Console | None" = None) -> None:
    """The tables, then one line each on the identifier and on what could not be scored."""
    from rich.console import Console

    console = console or Console()
    console.print(summary_table(result.summary))
    for row in result.means.to_dict("records"):
        names = [str(row[k]) for k in ("system", "arm") if k in row and row[k] == row[k]]
        label = " ".join([*names, f"mean over {row['languages']} languages, {row['group']}:"])
        console.print(f"{label} {_per_cent(row['lf'])}", markup=False, highlight=False)
    if result.ifl is not None:
        console.print(ifl_table(result.ifl))
    same = "" if np.isnan(result.disagreement) else f"; unrestricted it differs on {_per_cent(result.disagreement)} %"
    for line in (f"{result.identifier}{same}", *result.notes):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def summary_table(summary: pd.DataFrame) -> "Table":
    """A rich table of ``fidelity.csv`` rows in per cent; columns that are undefined throughout are left out."""
    keys = [key for key in ("seed", "system", "lambda", "arm") if summary[key].notna().any()]
    measures = {
        "english_rate": "English",
        "other_rate": "other",
        "lf_plus": "LF+",
        "grounded": "GF",
        "parse_rate": "parsed",
        "exclusive_share": "exclusive",
        "lpr": "LPR",
        "wpr": "WPR",
    }
    shown = [name for name in measures if summary[name].notna().any()]
    table = _table("Language fidelity, % (95 % interval)", [*keys, "language"])
    for name in ("n", "scored", "LF", "interval", *(measures[name] for name in shown)):
        table.add_column(name, justify="right")
    for row in summary.to_dict("records"):
        bounds = f"{_per_cent(row['lf_low'])} to {_per_cent(row['lf_high'])}" if row["n_scored"] else "–"
        cells = [_text(row[k]) for k in (*keys, "language", "n", "n_scored")]
        table.add_row(*cells, _per_cent(row["lf"]), bounds, *(_per_cent(row[name]) for name in shown))
    return table


def ifl_table(losses: pd.DataFrame) -> "Table":
    """A rich table of IFL in percentage points."""
    keys = [key for key in ("seed", "system", "lambda") if losses[key].notna().any()]
    table = _table("Image-induced fidelity loss, points (text arm minus image arm, paired)", [*keys, "language"])
    for name in ("pairs", "text LF", "image LF", "IFL", "interval", "p"):
        table.add_column(name, justify="right")
    for row in losses.to_dict("records"):
        numbers = [_per_cent(row[name]) for name in ("text_lf", "image_lf", "ifl")]
        bounds = f"{_per_cent(row['low'])} to {_per_cent(row['high'])}" if row["n"] else "–"
        p = f"{row['p_value']:.2g}" if row["n"] else "–"
        table.add_row(*[_text(row[k]) for k in (*keys, "language", "n")], *numbers, bounds, p)
    return table


def _table(title: str, keys: Sequence[str]) -> "Table":
    from rich import box
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for key in keys:
        table.add_column(key)
    return table


def _text(value: object) -> str:
    from rich.markup import escape

    return "–" if value is None or value != value else escape(f"{value:g}" if isinstance(value, float) else str(value))


def _per_cent(share: float) -> str:
    return "–" if share is None or np.isnan(share) else f"{100 * share:.1f}"
