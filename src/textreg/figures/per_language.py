"""The figures by language, by mixture and by arm: a table goes in, a drawing comes out; no file is read or written.

Languages stand on the vertical axis and shares run from 0 to 100 %, so that a figure stays readable on a telephone.
Systems differ by colour *and* marker or hatch, sizes are named (``style``); undefined values are left out or written
"n/a", never drawn as zero.  ``make figures`` redraws all of them.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from textreg.figures.style import (
    ARMS,
    CONTEXTS,
    SHORT_MEASURES,
    handle,
    language_names,
    language_order,
    language_rows,
    legend_above,
    note,
    offsets,
    per_cent,
    refuse_empty,
    size,
    style,
    system_marks,
)
from textreg.figures.tables import macro, per_language, require

PAPER_SYSTEMS = ("BM", "TR", "TR+M")


def per_language_plot(
    table: pd.DataFrame, label: str, systems: Sequence[str] | None = None, *, left_out: Iterable[str] = ()
) -> Figure:
    """Points with intervals from a table ``system, language, value, low, high`` (shares in 0..1), as in the paper's
    Fig. 1; ``left_out`` languages are starred as absent from the text rows."""
    require(table, ("system", "language", "value", "low", "high"), "table of a figure")
    refuse_empty(table, "per-language figure")
    left_out = set(left_out)
    systems = [system for system in systems or table["system"].unique() if system in set(table["system"])]
    codes = language_order(table["language"], left_out)
    marks = system_marks(systems)
    with style():
        fig = Figure(figsize=size("page", height=1.15 + 0.3 * len(codes)))
        ax = fig.subplots()
        for system, offset in zip(systems, offsets(len(systems)), strict=True):
            rows = table[table["system"] == system].set_index("language").reindex(codes)
            places = np.arange(len(codes)) + offset
            ax.hlines(places, rows["low"], rows["high"], color=marks[system].colour, linewidth=1.6)
            look = {"color": marks[system].colour, "label": marks[system].label, "markersize": 5, "clip_on": False}
            ax.plot(rows["value"], places, marks[system].marker, markeredgecolor="white", markeredgewidth=0.4, **look)
        language_rows(ax, codes, left_out)
        per_cent(ax, label)
        legend_above(fig, ax, len(systems))
        if left_out & set(codes):
            note(ax, "* absent from the multilingual text")
    return fig


def interval_plot(
    fidelity: pd.DataFrame, systems: Sequence[str] = PAPER_SYSTEMS, *, left_out: Iterable[str] = ()
) -> Figure:
    """For each language a bar from LF+ (hollow end) up to LF (filled end) (counterpart of the paper's Fig. 3).

    Thin lines: the range of LF+ over seeds, or with one seed its 95 % interval.
    """
    upper, lower = per_language(fidelity, "lf", "image", systems), per_language(fidelity, "lf_plus", "image", systems)
    refuse_empty(upper, "interval plot")
    systems = [system for system in systems if system in set(upper["system"])]
    codes, marks = language_order(upper["language"], left_out), system_marks(systems)
    with style():
        fig = Figure(figsize=size("page", height=1.35 + 0.32 * len(codes)))
        ax = fig.subplots()
        for system, offset in zip(systems, offsets(len(systems), 0.56), strict=True):
            lf, lf_plus = (
                table[table["system"] == system].set_index("language").reindex(codes) for table in (upper, lower)
            )
            places, look = np.arange(len(codes)) + offset, marks[system]
            ax.hlines(places, lf_plus["value"], lf["value"], color=look.colour, linewidth=3, alpha=0.55)
            ax.hlines(places, lf_plus["low"], lf_plus["high"], color=look.colour, linewidth=0.8)
            for end, fill in ((lf, look.colour), (lf_plus, "white")):
                mark = {"color": look.colour, "markersize": 5, "markerfacecolor": fill, "clip_on": False}
                ax.plot(end["value"], places, look.marker, **mark)
        language_rows(ax, codes, left_out)
        per_cent(ax, "share of answers (%): LF+ hollow, LF filled")
        ax.set_title("Which languages are kept?")
        legend_above(fig, ax, len(systems), [handle(marks[system]) for system in systems])
        if set(left_out) & set(codes):
            note(ax, "* absent from the multilingual text")
    return fig


def mixture(table: pd.DataFrame, paper: Mapping[str, float]) -> Figure:
    """Our share of the text rows beside the paper's, for the languages that the caption of its Fig. 2 names.

    ``table`` has ``language, share`` (``mixture.csv``); ``paper`` maps languages to shares (0..1).
    """
    shares = table.groupby("language")["share"].sum() / table["share"].sum()
    named = sorted(paper, key=paper.__getitem__, reverse=True)
    names, places = language_names(named), np.arange(len(named))
    theirs, mine = [100 * paper[code] for code in named], [100 * shares.get(code, 0.0) for code in named]
    with style():
        fig = Figure(figsize=size("page", height=1.3 + 0.27 * len(named)))
        ax = fig.subplots()
        ax.hlines(places, theirs, mine, color="#cccccc", linewidth=1.2)
        ax.plot(theirs, places, "D", color="#D55E00", label="the paper's", clip_on=False)
        ax.plot(mine, places, "o", color="#0072B2", label="ours", clip_on=False)
        ax.set_yticks(places, [names[code] for code in named])
        ax.set(ylim=(len(named) - 0.4, -0.6), title="How much text?", xlabel="share of the text (%)")
        # Inside the axes a legend hides points; beside the title it cannot.
        ax.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2, columnspacing=1.0)
    return fig


def arms(fidelity: pd.DataFrame, systems: Sequence[str] | None = None, metrics: Sequence[str] = ("lf",)) -> Figure:
    """The arms of the same requests, mean over non-English languages; text minus image is IFL."""
    systems = [system for system in systems or fidelity["system"].unique() if system in set(fidelity["system"])]
    marks = system_marks(systems)
    asked = set(fidelity["arm"]) | {"image", "text"}
    looks = {arm: look for arm, look in ARMS.items() if arm in asked}
    beside = {"textcoords": "offset points", "ha": "right", "annotation_clip": False}
    with style():
        fig = Figure(figsize=size("page", height=0.8 + len(metrics) * (0.75 + 0.32 * len(systems))))
        axes = fig.subplots(len(metrics), 1, squeeze=False, sharex=True)[:, 0]
        for ax, metric in zip(axes, metrics, strict=True):
            values = {arm: macro(fidelity, metric, arm, systems).set_index("system")["value"] for arm in looks}
            for place, system in enumerate(systems):
                found = {arm: values[arm].get(system, np.nan) for arm in looks}
                if not np.isnan(known := list(found.values())).all():
                    ax.hlines(place, np.nanmin(known), np.nanmax(known), color="#cccccc", linewidth=3)
                for arm, look in looks.items():
                    ax.plot(found[arm], place, clip_on=False, **_shape(arm, look.marker, marks[system].colour))
                loss = found["text"] - found["image"]
                told = "n/a" if np.isnan(loss) else f"{100 * loss:+.0f}"
                ax.annotate(told, (1.0, place), (28, 0), xycoords=("axes fraction", "data"), va="center", **beside)
            ax.annotate("IFL", (1.0, 1.0), (28, 5), xycoords="axes fraction", weight="bold", **beside)
            ax.set_yticks(range(len(systems)), [marks[system].label for system in systems])
            title = f"{SHORT_MEASURES[metric]}, by what stands before the question"
            ax.set(ylim=(len(systems) - 0.4, -0.6), title=title)
            per_cent(ax, "mean over non-English languages (%); IFL in points" if ax is axes[-1] else "")
        handles = [
            Line2D([], [], linestyle="", label=CONTEXTS[arm], **_shape(arm, look.marker, "#444444"))
            for arm, look in looks.items()
        ]
        fig.legend(handles=handles, loc="outside upper center", ncols=2)
    return fig


def _shape(arm: str, marker: str, colour: str) -> dict[str, Any]:
    """The image is filled, the text a thick stroke."""
    large = {"markersize": 11, "markeredgewidth": 3} if arm == "text" else {"markersize": 6, "markeredgewidth": 1.4}
    return {"marker": marker, "color": colour, "markerfacecolor": colour if arm == "image" else "white", **large}
