"""Outcome against learning rate: is the loss of language there at a gentle rate, or only next to divergence?

The table is what ``bench/tuning_rate.py`` prints, so that figure and table cannot differ.

    rates(read_table("bench/results/tuning_rate.md"))
"""

import re
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from textreg.figures.style import CLASSES, SYSTEMS, legend_above, per_cent, size, style
from textreg.figures.tables import require

RATE, RISE = "learning rate", "loss rises by, %"
OUTCOMES = {"asked": CLASSES["asked"], "clean English": CLASSES["english"]}
GENTLE = 10  # per cent that the training loss may rise above its start


def read_table(path: str | Path) -> pd.DataFrame:
    """The Markdown table of a file, numbers as numbers."""
    lines = [line.strip("| ") for line in Path(path).read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    cells = [re.split(r"\s*\|\s*", line) for line in lines if not set(line) <= set(":-|")]
    table = pd.DataFrame(cells[1:], columns=cells[0])
    require(table, ("system", RATE, RISE, *OUTCOMES), str(path))
    return table.assign(**{name: table[name].astype(float) for name in table.columns if name != "system"})


def rates(table: pd.DataFrame) -> Figure:
    """Answers to pictures (per cent) in the asked language and in clean English against the rate of ``BM``'s tuning;
    grey where the training loss rises by more than a tenth; dotted the untuned model."""
    tuned = table.dropna(subset=[RATE]).sort_values(RATE)
    with style():
        fig = Figure(figsize=size("wide", height=3.0))
        ax = fig.subplots()
        for name, look in OUTCOMES.items():
            ax.plot(tuned[RATE], tuned[name] / 100, "-", marker=look.marker, color=look.colour, label=look.label)
        base, untuned = SYSTEMS["backbone"], table.loc[table[RATE].isna(), "asked"]
        for height in untuned / 100:
            ax.axhline(height, linestyle=":", color=base.colour, label="untuned, asked language")
        wild = tuned.loc[tuned[RISE] > GENTLE, RATE]
        ax.set(xscale="log", xlabel="learning rate of BM", title="Is it the learning rate?")
        if len(wild):
            ax.axvspan(
                wild.min() / 1.8, tuned[RATE].max() * 1.3, color="#888888", alpha=0.25, label="loss rises", lw=0
            )
        per_cent(ax, "answers to pictures (%)", axis="y")
        legend_above(fig, ax, 2)
    return fig
