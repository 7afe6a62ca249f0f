"""A score on the terminal: rich tables in per cent, undefined written as a dash, and what could not be scored.

Columns that are undefined throughout are left out, and on a narrow terminal the least important ones as well (it is
said which); a number is never broken or cut.  A pipe or a log has no width and gets every column.  Shares are shown
in per cent with one decimal, IFL and differences in percentage points.

Use: ``print_result(score_file("answers.jsonl"))``.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pandas as pd
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table

from textreg.display import visible_answer
from textreg.fidelity import judges
from textreg.fidelity.annotation import FLAGS
from textreg.fidelity.measures import CLASS_COLUMNS

if TYPE_CHECKING:
    from textreg.serve.score import Scores


UNLIMITED = 1000
LONGEST_LINE = 5000  # characters of one line below the tables
MEASURES = {  # column of fidelity.csv -> heading; the last ones are left out first
    "class_english": "English",
    "lf_plus": "LF+",
    "grounded": "GF",
    "class_mixed": "mixed",
    "lpr": "LPR",
    "class_other": "other",
    "undecided": "undecided",
    "class_empty": "empty",
    "class_short": "short",
    "class_asked": "asked",
    "refusal": "refusal",
    "repetition": "repeating",
    "wpr": "WPR",
    "parse_rate": "parsed",
    "exclusive_share": "exclusive",
}
ALWAYS = ("class_asked", "class_english", "class_other", "class_mixed")  # the others are shown where there are any


def print_result(result: "Scores", console: "Console | None" = None) -> None:
    """The tables, then one line each on the identifier, the judge and on what could not be scored."""

    console = console or Console()
    if not console.is_terminal:
        console = Console(file=console.file, width=UNLIMITED)
    table, left_out = fitting_table(result, console)
    show(console, table)
    if left_out:
        say(console, f"not shown, the terminal is too narrow: {', '.join(left_out)} (--out FILE.csv has them)")
    show(console, means_table(result.means))
    if result.ifl is not None:
        show(console, ifl_table(result.ifl))
    if result.comparisons is not None:
        show(console, comparison_table(result.comparisons))
    say(console, f"identifier: {result.identifier}")
    if result.disagreement == result.disagreement:
        say(
            console,
            f"differs: not restricted to these, it would call {_per_cent(result.disagreement)} % of the answers "
            "another language",
        )
    for line in (*judges.sentences(result.usage, result.agreement), *result.notes):
        say(console, line)


def say(console: "Console", line: str) -> None:
    """One line; what it quotes from a file cannot act on the terminal."""
    console.print(visible_answer(line, LONGEST_LINE), markup=False, highlight=False, soft_wrap=True)


def show(console: "Console", table: "Table") -> None:
    """Print a table at its own width, whatever the console's: a wrapped line is read more easily than cut numbers."""

    width = max(console.width, _width(console, table))
    wide = Console(
        file=console.file, width=width, force_terminal=console.is_terminal, color_system=console.color_system
    )
    wide.print(table)


def _width(console: "Console", table: "Table") -> int:

    return Measurement.get(console, console.options.update(max_width=UNLIMITED), table).maximum


def fitting_table(result: "Scores", console: "Console") -> tuple["Table", list[str]]:
    """The summary as far as it fits the console, and the headings of what does not."""
    counted = {*CLASS_COLUMNS, *FLAGS} - {*ALWAYS}
    told = result.summary[list(MEASURES)]
    shown = [name for name in MEASURES if told[name].notna().any() and not (name in counted and not told[name].any())]
    left_out: list[str] = []
    while True:
        table = summary_table(result.summary, result.differs, shown)
        if not shown or _width(console, table) <= console.width:
            return table, left_out
        left_out.insert(0, MEASURES[shown.pop()])


def summary_table(summary: pd.DataFrame, differs: pd.Series, shown: Sequence[str]) -> "Table":
    """A rich table of ``fidelity.csv`` rows in per cent with the measures ``shown``."""
    keys = _known(summary, ("seed", "system", "lambda", "language", "arm"))
    table = _table("Language fidelity and classes of answers, % (95 % interval)", keys)
    told = differs.notna().any()
    for name in ("n", "scored", "LF", "interval", *(["differs"] if told else []), *(MEASURES[name] for name in shown)):
        table.add_column(name, justify="right", no_wrap=True)
    for row, other in zip(summary.to_dict("records"), differs, strict=True):
        cells = [_text(row[key]) for key in (*keys, "n", "n_scored")]
        cells += [_per_cent(row["lf"]), _bounds(row["lf_low"], row["lf_high"]), *([_per_cent(other)] if told else [])]
        table.add_row(*cells, *(_per_cent(row[name]) for name in shown))
    return table


def means_table(means: pd.DataFrame) -> "Table":
    """A rich table of macro means of LF, each language counting the same."""
    keys = _known(means, ("seed", "system", "lambda", "arm"))
    bounded = means["low"].notna().any()
    table = _table(f"Means over languages, %{' (95 % interval over items)' if bounded else ''}", [*keys, "group"])
    for name in ("languages", "LF", *(["interval"] if bounded else [])):
        table.add_column(name, justify="right", no_wrap=True)
    for row in means.to_dict("records"):
        bounds = [_bounds(row["low"], row["high"])] if bounded else []
        table.add_row(*[_text(row[k]) for k in (*keys, "group", "languages")], _per_cent(row["lf"]), *bounds)
    return table


def ifl_table(losses: pd.DataFrame) -> "Table":
    """A rich table of IFL in percentage points."""
    keys = _known(losses, ("seed", "system", "lambda"))
    table = _table("Image-induced fidelity loss, points (text arm minus image arm, paired)", [*keys, "language"])
    for name in ("pairs", "text LF", "image LF", "IFL", "interval", "p"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in losses.to_dict("records"):
        numbers = [_per_cent(row[name]) for name in ("text_lf", "image_lf", "ifl")]
        table.add_row(*[_text(row[k]) for k in (*keys, "language", "n")], *numbers, *_found(row))
    return table


def comparison_table(found: pd.DataFrame) -> "Table":
    """A rich table of differences between systems; of more than two systems only those over all languages."""
    several = found["system"].nunique() > 1
    where = "; per language in --out FILE.json" if several else ""
    keys = _known(found, ("seed", "arm"))
    table = _table(f"Differences of LF, points (paired by item{where})", [*keys, "system", "against", "language"])
    for name in ("pairs", "difference", "interval", "p"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in found[found["language"] == "all"].to_dict("records") if several else found.to_dict("records"):
        cells = [_text(row[k]) for k in (*keys, "system", "against", "language", "n")]
        table.add_row(*cells, _per_cent(row["difference"]), *_found(row))
    return table


def _known(table: pd.DataFrame, keys: Sequence[str]) -> list[str]:
    return [key for key in keys if key in table and table[key].notna().any()]


def _table(title: str, keys: Sequence[str]) -> "Table":

    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for key in keys:
        table.add_column(key, no_wrap=True)
    return table


def _text(value: object) -> str:

    if value is None or value != value:
        return "–"
    return escape(f"{value:g}" if isinstance(value, float) else visible_answer(str(value)))


def _per_cent(share: float | None) -> str:
    return "–" if share is None or share != share else f"{100 * share:.1f}"


def _bounds(low: float, high: float) -> str:
    return "–" if low != low else f"{_per_cent(low)} to {_per_cent(high)}"


def _found(row: dict) -> tuple[str, str]:
    return _bounds(row["low"], row["high"]), f"{row['p_value']:.2g}" if row["n"] else "–"
