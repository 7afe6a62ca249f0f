"""The figures by language, by mixture and by arm: a table goes in, a drawing comes out; no file is read or written.

Languages stand on the vertical axis and shares run from 0 to 100 %, so that a figure stays readable on a telephone.
Systems differ by colour *and* marker or hatch, sizes are named (``style``); undefined values are left out or written
"n/a", never drawn as zero.  ``make figures`` redraws all of them.
"""

from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from textreg.figures.style import (
    ARMS,
    CONTEXTS,
    handle,
    language_names,
    language_order,
    legend_above,
    per_cent,
    refuse_empty,
    size,
    style,
    system_marks,
)
from textreg.figures.tables import per_language, require

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
        for system, offset in zip(systems, _offsets(len(systems), 0.5), strict=True):
            rows = table[table["system"] == system].set_index("language").reindex(codes)
            places = np.arange(len(codes)) + offset
            ax.hlines(places, rows["low"], rows["high"], color=marks[system].colour, linewidth=1.6)
            look = {"color": marks[system].colour, "label": marks[system].label, "markersize": 5, "clip_on": False}
            ax.plot(rows["value"], places, marks[system].marker, markeredgecolor="white", markeredgewidth=0.4, **look)
        _language_rows(ax, codes, left_out)
        per_cent(ax, label)
        legend_above(fig, ax, len(systems))
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
        for system, offset in zip(systems, _offsets(len(systems), 0.56), strict=True):
            lf, lf_plus = (
                table[table["system"] == system].set_index("language").reindex(codes) for table in (upper, lower)
            )
            places, look = np.arange(len(codes)) + offset, marks[system]
            ax.hlines(places, lf_plus["value"], lf["value"], color=look.colour, linewidth=3, alpha=0.55)
            ax.hlines(places, lf_plus["low"], lf_plus["high"], color=look.colour, linewidth=0.8)
            for end, fill in ((lf, look.colour), (lf_plus, "white")):
                mark = {"color": look.colour, "markersize": 5, "markerfacecolor": fill, "clip_on": False}
                ax.plot(end["value"], places, look.marker, **mark)
        _language_rows(ax, codes, set(left_out))
        per_cent(ax, "share of answers (%): LF+ hollow, LF filled")
        ax.set_title("Which languages are kept?")
        legend_above(fig, ax, len(systems), [handle(marks[system]) for system in systems])
    return fig


def _offsets(count: int, spread: float) -> np.ndarray:
    """Vertical places of ``count`` marks that share a row, centred on it."""
    return np.zeros(1) if count == 1 else np.linspace(-spread / 2, spread / 2, count)


def _language_rows(ax: Axes, codes: list[str], left_out: Set[str]) -> None:
    """Languages on the vertical axis, first on top; those without text rows have a star, which is explained below."""
    names = language_names(codes)
    ax.set_yticks(range(len(codes)), [names[code] + "*" * (code in left_out) for code in codes])
    ax.set_ylim(len(codes) - 0.4, -0.6)
    for row in range(0, len(codes), 2):
        ax.axhspan(row - 0.5, row + 0.5, color="#f5f5f5", zorder=0)
    if left_out & set(codes):
        place = {"xycoords": "axes fraction", "textcoords": "offset points", "annotation_clip": False}
        ax.annotate("* absent from the multilingual text", (0, 0), (0, -34), color="#444444", **place)


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
        ax.plot(theirs, places, "D", color="#882255", label="the paper's", clip_on=False)
        ax.plot(mine, places, "o", color="#44AA99", label="ours", clip_on=False)
        ax.set_yticks(places, [names[code] for code in named])
        ax.set(ylim=(len(named) - 0.4, -0.6), title="How much text?", xlabel="share of the text (%)")
        # Inside the axes a legend hides points; beside the title it cannot.
        ax.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2, columnspacing=1.0)
    return fig


def arms(means: pd.DataFrame) -> Figure:
    """LF in the arms of the same requests; text minus image is IFL.  ``means``: ``system, arm, value`` (0..1)."""
    shown = [arm for arm in ARMS if arm in {"image", "text", *means["arm"]}]
    marks = system_marks(means["system"])
    values = means.pivot(index="system", columns="arm", values="value").reindex(list(marks), columns=shown)
    beside = {"textcoords": "offset points", "ha": "right", "annotation_clip": False}
    with style():
        fig = Figure(figsize=size("page", height=0.8 + 0.75 + 0.32 * len(marks)))
        ax = fig.subplots()
        for place, (system, found) in enumerate(values.iterrows()):
            if found.notna().any():
                ax.hlines(place, found.min(), found.max(), color="#cccccc", linewidth=3)
            for arm, value in found.items():
                ax.plot(value, place, clip_on=False, **_shape(arm, marks[system].colour))
            loss = found["text"] - found["image"]
            told = "n/a" if np.isnan(loss) else f"{100 * loss:+.0f}"
            ax.annotate(told, (1.0, place), (28, 0), xycoords=("axes fraction", "data"), va="center", **beside)
        ax.annotate("IFL", (1.0, 1.0), (28, 5), xycoords="axes fraction", weight="bold", **beside)
        ax.set_yticks(range(len(marks)), [mark.label for mark in marks.values()])
        ax.set(ylim=(len(marks) - 0.4, -0.6), title="LF, by what stands before the question")
        per_cent(ax, "mean over non-English languages (%); IFL in points")
        handles = [Line2D([], [], linestyle="", label=CONTEXTS[arm], **_shape(arm, "#444444")) for arm in shown]
        fig.legend(handles=handles, loc="outside upper center", ncols=2)
    return fig


def _shape(arm: str, colour: str) -> dict[str, Any]:
    """The image is filled, the text a thick stroke."""
    large = {"markersize": 11, "markeredgewidth": 3} if arm == "text" else {"markersize": 6, "markeredgewidth": 1.4}
    face = colour if arm == "image" else "white"
    return {"marker": ARMS[arm].marker, "color": colour, "markerfacecolor": face, **large}
