"""A score on the terminal: rich tables in per cent, undefined written as a dash, and what could not be scored.

Columns that are undefined throughout are left out, and on a narrow terminal the least important ones as well (it is
said which); a number is never broken or cut.  A pipe or a log has no width and gets every column.  Shares are shown
in per cent with one decimal, IFL and differences in percentage points.

Use: ``print_result(score_file("answers.jsonl"))``.
"""

from collections.abc import Sequence

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
from textreg.serve.score import Scores

UNLIMITED = 1000
LONGEST_LINE = 5000  # characters of one line below the tables
MEASURES = {  # column of fidelity.csv -> heading; the last ones are left out first
    "class_english": "English", "lf_plus": "LF+", "grounded": "GF", "class_mixed": "mixed", "lpr": "LPR",
    "class_other": "other", "undecided": "undecided", "class_empty": "empty", "class_short": "short",
    "class_asked": "asked", "refusal": "refusal", "repetition": "repeating", "wpr": "WPR", "parse_rate": "parsed",
    "exclusive_share": "exclusive",
}  # fmt: skip
KEYS = ("seed", "system", "against", "lambda", "language", "arm", "group")
ALWAYS = ("class_asked", "class_english", "class_other", "class_mixed")  # the others are shown where there are any


def print_result(result: Scores, console: Console | None = None) -> None:
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


def say(console: Console, line: str) -> None:
    """One line; what it quotes from a file cannot act on the terminal."""
    console.print(visible_answer(line, LONGEST_LINE), markup=False, highlight=False, soft_wrap=True)


def show(console: Console, table: Table) -> None:
    """Print a table at its own width, whatever the console's: a wrapped line is read more easily than cut numbers."""
    width = max(console.width, _width(console, table))
    wide = Console(
        file=console.file, width=width, force_terminal=console.is_terminal, color_system=console.color_system
    )
    wide.print(table)


def _width(console: Console, table: Table) -> int:

    return Measurement.get(console, console.options.update(max_width=UNLIMITED), table).maximum


def fitting_table(result: Scores, console: Console) -> tuple[Table, list[str]]:
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


def summary_table(summary: pd.DataFrame, differs: pd.Series, shown: Sequence[str]) -> Table:
    """A rich table of ``fidelity.csv`` rows in per cent with the measures ``shown``."""
    named = {"n_scored": "scored", "lf": "LF", "lf_low": "low", "lf_high": "high"} | MEASURES
    rows = _bounded(summary.assign(differs=differs).rename(columns=named))
    several = ["differs"] if differs.notna().any() else []
    columns = ["n", "scored", "LF", "interval", *several, *(MEASURES[name] for name in shown)]
    return _table("Language fidelity and classes of answers, % (95 % interval)", rows, columns)


def means_table(means: pd.DataFrame) -> Table:
    """A rich table of macro means of LF, each language counting the same."""
    bounds = ["interval"] if means["low"].notna().any() else []
    title = f"Means over languages, %{' (95 % interval over items)' if bounds else ''}"
    return _table(title, _bounded(means.rename(columns={"lf": "LF"})), ["languages", "LF", *bounds])


def ifl_table(losses: pd.DataFrame) -> Table:
    """A rich table of IFL in percentage points."""
    rows = _bounded(losses.rename(columns={"n": "pairs", "text_lf": "text LF", "image_lf": "image LF", "ifl": "IFL"}))
    title = "Image-induced fidelity loss, points (text arm minus image arm, paired)"
    return _table(title, rows, ["pairs", "text LF", "image LF", "IFL", "interval", "p"])


def comparison_table(found: pd.DataFrame) -> Table:
    """A rich table of differences between systems; of more than two systems only those over all languages."""
    several = found["system"].nunique() > 1
    title = f"Differences of LF, points (paired by item{'; per language in --out FILE.json' if several else ''})"
    rows = _bounded((found[found["language"] == "all"] if several else found).rename(columns={"n": "pairs"}))
    return _table(title, rows, ["pairs", "difference", "interval", "p"])


def _bounded(rows: pd.DataFrame) -> pd.DataFrame:
    """With ``interval`` and, where something was tested, ``p`` as they are shown."""
    cells = {"interval": [_bounds(low, high) for low, high in zip(rows["low"], rows["high"], strict=True)]}
    if "p_value" in rows:
        cells["p"] = [f"{p:.2g}" if n else "–" for p, n in zip(rows["p_value"], rows["pairs"], strict=True)]
    return rows.assign(**cells)


def _table(title: str, rows: pd.DataFrame, columns: Sequence[str]) -> Table:
    """A table of the keys that the rows have and of ``columns``, in which what is no count or text is a share."""
    keys = [key for key in rows if key in KEYS and rows[key].notna().any()]
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for name in (*keys, *columns):
        table.add_column(name, justify="left" if name in keys else "right", no_wrap=True)
    for row in rows.to_dict("records"):
        cells = (row[name] for name in columns)
        told = (str(cell) if isinstance(cell, int | str) else _per_cent(cell) for cell in cells)
        table.add_row(*(_text(row[key]) for key in keys), *told)
    return table


def _text(value: object) -> str:

    if value is None or value != value:
        return "–"
    return escape(f"{value:.15g}" if isinstance(value, float) else visible_answer(str(value)))


def _per_cent(share: float | None) -> str:
    return "–" if share is None or share != share else f"{100 * share:.1f}"


def _bounds(low: float, high: float) -> str:
    return "–" if low != low else f"{_per_cent(low)} to {_per_cent(high)}"
