"""The numbers of ``bench/compare.py`` as one table and one figure, which the book's page includes.

A ratio is ours over the peer's per piece of work, taken within a turn; shown is the median over the turns, with the
smallest and the largest.  Where ours is the slower, the row says so in words.

    python bench/show.py
"""

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy.stats import linregress

from textreg.book.pages import table
from textreg.book.results import dropdown
from textreg.figures.style import legend_above, save_figure, size, style

HERE = Path(__file__).parent / "results"
#: (group, row, ours, peer, the largest ratio that was aimed at)
COMPARED = (
    ("tune", "tuning step", "ours", "bare loop", 1.10),
    ("tune", "tuning step", "ours", "Trainer", None),
    ("tune", "tuning step", "ours", "TRL", None),
    ("answer", "answers, batch 128", "ours", "bare static-cache loop", 1.10),
    ("answer", "answers, batch 128", "ours", "generate", 1 / 2.2),
    ("answer", "answers, batch 128", "ours", "generate, one at a time", 1 / 12),
    ("score", "answers scored", "ours", "py3langid, a loop", None),
    ("score", "answers scored", "ours", "fastText lid.176, a loop", None),
    ("score", "answers scored", "ours", "lingua, a loop", None),
    ("merge", "merge", "ours", "ours, --no-check", 1.5),
    ("merge", "merge", "ours, first of its layout", "ours, --no-check", 1.5),
    ("merge", "merge", "ours", "mergekit", 1 / 4),
    ("merge", "merge", "ours, first of its layout", "mergekit", 1 / 4),
    ("merge", "merge", "ours", "cp", None),
)
#: Command -> seconds that were aimed at.
SECONDS = {
    "textreg --help": 0.2, "textreg status": 0.4, "a run with nothing to do": 0.6, "make figures": 10, "make book": 30,
}  # fmt: skip
STEEPEST = 1.1  # exponent of growth that was aimed at


def read(folder: Path) -> pd.DataFrame:
    """All measurements, a column ``group`` in front."""
    parts = [pd.read_csv(path).assign(group=path.stem) for path in sorted(folder.glob("*.csv"))]
    return pd.concat(parts, ignore_index=True)


def ratios(found: pd.DataFrame) -> pd.DataFrame:
    """A line per comparison of :data:`COMPARED`: ``processor`` and ``wall`` (median), ``low``, ``high``; NaN where the
    peer was not there."""
    lines = []
    for group, row, own, peer, most in COMPARED:
        here = found[(found["group"] == group) & (found["row"] == row)]
        if here.empty:
            lines.append({"row": row, "ours": own, "peer": peer, "processor": np.nan, "most": most, "note": ""})
            continue
        cost = here.assign(processor=here["processor_s"] / here["units"], wall=here["wall_s"] / here["units"])
        by_turn = cost.pivot_table(index="turn", columns="side", values=["processor", "wall"])
        line = {"row": row, "ours": own, "peer": peer, "most": most}
        if ("processor", peer) in by_turn:
            share = by_turn["processor"][own] / by_turn["processor"][peer]
            line |= {"processor": share.median(), "low": share.min(), "high": share.max(), "turns": len(share)}
            line |= {"wall": (by_turn["wall"][own] / by_turn["wall"][peer]).median()}
        note = here.loc[here["side"] == peer, "note"].dropna()
        lines.append(line | {"note": note.iloc[0] if len(note) else ""})
    return pd.DataFrame(lines)


def exponents(found: pd.DataFrame) -> pd.DataFrame:
    """A line per thing that grows: slope of log cost against log amount, its standard error, turns that ended."""
    grown = found[found["group"] == "growth"]
    lines = []
    for row, each in grown.groupby("row", sort=False):
        fit = linregress(np.log(each["units"].astype(float)), np.log(each["processor_s"]))
        lines.append({"row": row, "exponent": fit.slope, "error": fit.stderr, "turns": each["turn"].nunique()})
    return pd.DataFrame(lines)


def page(found: pd.DataFrame) -> str:
    """Tables and the sentence on where ours loses, as Markdown."""
    compared = ratios(found)
    rows, lost = [], []
    for line in compared.itertuples():
        if pd.isna(line.processor):
            rows.append([line.row, line.ours, line.peer, line.note or "not measured", "–", "–", "–"])
            continue
        aim = "–" if pd.isna(line.most) else f"{line.most:.2f}, {'met' if line.processor <= line.most else 'missed'}"
        spread = f"{line.processor:.2f} [{line.low:.2f}, {line.high:.2f}]"
        rows.append([line.row, line.ours, line.peer, spread, f"{line.wall:.2f}", int(line.turns), aim])
        if line.processor > 1.02:
            lost.append(f"{line.row}: {line.ours} costs {line.processor:.2f} times {line.peer}")
        elif line.processor > line.most:
            lost.append(f"{line.row}: {line.ours} costs {line.processor:.2f} of {line.peer}, not {line.most:.2f}")
    parts = [table(["work", "ours", "beside", "processor, ours over theirs", "wall", "turns", "aim"], rows,
                   "Ratios below 1: ours is faster")]  # fmt: skip
    told = found[found["group"].isin(["commands", "pages"])]
    if len(told):
        by_row = told.groupby("row", sort=False)
        cost = by_row[["processor_s", "wall_s"]].median().assign(turns=by_row.size())
        rows = [
            [name, f"{each.processor_s:#.3g}", f"{each.wall_s:#.3g}", SECONDS.get(name, "–"), int(each.turns),
             "met" if each.processor_s <= SECONDS.get(name, np.inf) else "missed"]
            for name, each in cost.iterrows()
        ]  # fmt: skip
        parts.append(
            table(["command", "processor s", "wall s", "aim, s", "turns", "by processor time"], rows, "Commands")
        )
        lost += [f"{row[0]}: {row[1]} s where {row[3]} were aimed at" for row in rows if row[-1] == "missed"]
    if len(grown := exponents(found)):
        rows = [
            [each.row, f"{each.exponent:.2f} ± {each.error:.2f}", each.turns,
             f"{STEEPEST}, {'met' if each.exponent <= STEEPEST else 'missed'}"]
            for each in grown.itertuples()
        ]  # fmt: skip
        parts.append(table(["of", "exponent", "turns", "aim"], rows, "Growth of the cost from 1 to 16 times as much"))
    lines = [f"- {word}" for word in lost] or ["- nowhere among these rows"]
    parts.append("Where ours loses or misses its aim by time:\n\n" + "\n".join(lines) + "\n")
    how = found.drop_duplicates(["group", "hardware", "threads"]).sort_values("group")
    rows = [[each.group, each.hardware, each.threads, each.command] for each in how.itertuples()]
    made = [table(["group", "hardware", "threads", "command"], rows)]
    made += [
        f"{', '.join(groups)}: {versions}.\n" for versions, groups in how.groupby("versions")["group"].unique().items()
    ]
    return "\n".join([*parts, dropdown("How it was measured", made)])


def accelerator(report: dict[str, Any]) -> str:
    """What ``bench/accelerator.py`` wrote, as a table."""
    rows = []
    for row in report["rows"]:
        rate = f"{row['tokens_per_s']:,.0f} tokens" if "tokens_per_s" in row else ""
        rate = f"{row['answers_per_s']:.1f} answers" if "answers_per_s" in row else rate
        memory = f"{row['peak_memory_gib']:.0f}" if "peak_memory_gib" in row else "–"
        note = (row.get("failed") or row.get("said") or row.get("note") or "").partition(":")[0]
        cells = [row.get("micro_batch", "–"), rate or note, row.get("useful_tflops", "–"), memory]
        rows.append([row["what"], row.get("side", "–"), *cells, row.get("seconds", "–")])
    head = ["work", "by", "micro-batch", "a second", "useful TFLOP/s", "peak GiB", "seconds"]
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    return table(head, rows, report["device"]) + f"\n`{report['command']}`; {versions}; {report['note']}.\n"


def figure(found: pd.DataFrame, path: Path) -> None:
    """Ratios on a logarithmic axis, with their range over the turns."""
    compared = ratios(found).dropna(subset=["processor"]).iloc[::-1].reset_index(drop=True)
    aimed = compared.dropna(subset=["most"])
    named = [f"{each.row}{each.ours.removeprefix('ours')}\n{each.peer}" for each in compared.itertuples()]
    with style():
        drawn = Figure(figsize=size("page", height=1.0 + 0.34 * len(compared)))
        ax = drawn.subplots()
        ax.hlines(compared.index, compared["low"], compared["high"], color="#0072B2")
        ax.plot(compared["processor"], compared.index, "o", color="#0072B2", label="measured, range over the turns")
        ax.plot(aimed["most"], aimed.index, "|", color="#D55E00", markersize=12, label="aim, at most")
        ax.axvline(1, color="#555555")
        ax.set(xscale="log", xlabel="processor time, ours over the other's", title="Left of 1, ours is faster")
        ax.set_xticks([0.1, 0.3, 1, 3, 10], ["0.1", "0.3", "1", "3", "10"])
        ax.set_yticks(compared.index, named)
        legend_above(drawn, ax, 2)
    told = "Processor time of ours over that of each other tool, with the range over the turns"
    with TemporaryDirectory() as place:
        saved = save_figure(drawn, Path(place) / path.stem, alt=told, data=compared)
        path.write_bytes(saved.paths["svg"].read_bytes())


def write(folder: Path = HERE) -> None:
    """Write ``table.md``, ``accelerator.md`` and ``speed.svg`` from the measurements in ``folder``."""
    found = read(folder)
    (folder / "table.md").write_text(page(found), encoding="utf-8")
    if (path := folder / "accelerator.json").is_file():
        report = json.loads(path.read_text(encoding="utf-8"))
        (folder / "accelerator.md").write_text(accelerator(report), encoding="utf-8")
    figure(found, folder / "speed.svg")


if __name__ == "__main__":
    write()
