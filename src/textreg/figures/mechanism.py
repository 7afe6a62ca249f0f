"""The figures of ``07_mechanism``: what pulls an answer into English, how much it takes, and where tuning adds to it.

Each function takes a table of :mod:`textreg.evaluation.mechanism`, draws it and saves it in ``out``.  Two choices are
not obvious.  Languages count alike: every number is a mean over languages of means within one.  Files are called
``*_figure``, because the notebook keeps its tables in the same folder, under the plain names.

Use: ``arms(table, "runs/laptop/mechanism")``.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from textreg.figures.style import (
    ARMS,
    CLASSES,
    ON_COLOUR,
    Mark,
    Saved,
    handle,
    language_names,
    legend_above,
    per_cent,
    refuse_empty,
    save_figure,
    size,
    style,
    system_marks,
)
from textreg.figures.tables import require

OPENINGS = {
    "asked": ("asked language", CLASSES["asked"].colour, ""),
    "english": ("English", CLASSES["english"].colour, "////"),
}
LABELLED = 0.09  # share of the axis that a two-digit number needs
ENGLISH_FIRST = "first word English (%)"
DOSES = {"words": "English words of a text (%)", "visual tokens": "visual tokens that keep\ntheir English part (%)"}


def arms(table: pd.DataFrame, out: str | Path) -> Saved:
    """Probability of the first answer token: openings of the asked language against English ones.

    ``table``: ``system, arm, language, asked, english``, one row per request (probabilities in 0..1).
    """
    require(table, ("system", "arm", "language", "asked", "english"), "arms table")
    refuse_empty(table, "figure of the arms")
    means = macro_means(table, ["arm", "system"], ["asked", "english"])
    drawn = [arm for arm in ARMS if arm in set(means["arm"])]
    marks = system_marks(table["system"])
    with style():
        fig = Figure(figsize=size("page", height=1.0 + len(drawn) * (0.42 + 0.27 * len(marks))))
        axes = fig.subplots(len(drawn), 1, squeeze=False, sharex=True)[:, 0]
        for ax, arm in zip(axes, drawn, strict=True):
            _stacked_bars(ax, means[means["arm"] == arm].set_index("system").reindex(list(marks)))
            ax.set_yticks(range(len(marks)), [mark.label for mark in marks.values()])
            ax.set(ylim=(len(marks) - 0.5, -0.5), title=ARMS[arm].label)
            per_cent(ax, "probability of the first token (%); white: any other word" if ax is axes[-1] else "")
            ax.set_xlim(0, 1)
        legend_above(fig, axes[0], len(OPENINGS))
    told = "; ".join(
        f"{ARMS[arm].label}: " + _told(rows, "asked", "english", "asked language {} %, English {} %")
        for arm, rows in ((arm, means[means["arm"] == arm]) for arm in drawn)
    )
    alt = (
        f"Stacked bars of the probability that the first token opens a caption of the asked language or an English "
        f"one, per system, mean over {_languages(table)}. {told}."
    )
    return save_figure(fig, Path(out) / "arms_figure", alt=alt, data=means)


def _stacked_bars(ax: Axes, rows: pd.DataFrame) -> None:
    left = np.zeros(len(rows))
    for name, (label, colour, hatch) in OPENINGS.items():
        width = rows[name].to_numpy(float)
        ax.barh(
            range(len(rows)), width, 0.72, left, label=label, color=colour, hatch=hatch, edgecolor="white", linewidth=0
        )
        for place, (start, share) in enumerate(zip(left, width, strict=True)):
            if share >= LABELLED:
                box = {"facecolor": colour, "edgecolor": "none", "pad": 1.2}
                text = "white" if name == "asked" else ON_COLOUR
                ax.text(start + share / 2, place, f"{100 * share:.0f}", color=text, ha="center", va="center", bbox=box)
        left = left + np.nan_to_num(width)


def dose(table: pd.DataFrame, out: str | Path) -> Saved:
    """Probability that the answer begins in English, against the share of the context that is English.

    ``table``: ``system, context, share, language, english`` (shares and probabilities in 0..1).
    """
    require(table, ("system", "context", "share", "language", "english"), "dose table")
    refuse_empty(table, "dose figure")
    means = macro_means(table, ["context", "system", "share"], ["english"])
    marks, contexts = system_marks(table["system"]), [name for name in DOSES if name in set(table["context"])]
    with style():
        fig = Figure(figsize=size("wide", height=3.0))
        axes = fig.subplots(1, len(contexts), squeeze=False, sharey=True)[0]
        for ax, context in zip(axes, contexts, strict=True):
            for system, mark in marks.items():
                rows = means[(means["context"] == context) & (means["system"] == system)]
                _curve(ax, rows, "share", "english", mark)
            per_cent(ax, ENGLISH_FIRST if ax is axes[0] else "", axis="y")
            per_cent(ax, DOSES[context])
            ax.grid(axis="both")
        legend_above(fig, axes[0], len(marks), [handle(mark, line=True) for mark in marks.values()])
    ends = means[means["share"].isin([0.0, 1.0])].pivot(index=["context", "system"], columns="share", values="english")
    told = "; ".join(
        f"{context}: "
        + ", ".join(f"{name} from {100 * rows.loc[name, 0]:.0f} to {100 * rows.loc[name, 1]:.0f} %" for name in marks)
        for context, rows in ((context, ends.loc[context]) for context in contexts)
    )
    alt = (
        f"Rising curves of the probability that an answer begins in English against how much of the context is "
        f"English, mean over {_languages(table)}. From none to all, {told}."
    )
    return save_figure(fig, Path(out) / "dose_figure", alt=alt, data=means)


def update(table: pd.DataFrame, out: str | Path) -> Saved:
    """Share of tuning's update that points towards English context, layer by layer.

    ``table``: ``system, layer, along, length``; drawn is ``along / length``, the cosine (-1..1).
    """
    require(table, ("system", "layer", "along", "length"), "update table")
    refuse_empty(table, "update figure")
    drawn = table.assign(cosine=table["along"] / table["length"])
    marks = system_marks(table["system"])
    with style():
        fig = Figure(figsize=size("page", height=2.6))
        ax = fig.subplots()
        ax.axhline(0, color="#777777", linewidth=1)
        for system, mark in marks.items():
            _curve(ax, drawn[drawn["system"] == system], "layer", "cosine", mark)
        ax.set(xlabel="layer", ylabel="update towards\nEnglish context (cosine)", ylim=(-1.03, 1.03))
        ax.set_xticks(sorted(drawn["layer"].unique()))
        ax.grid(axis="both")
        legend_above(fig, ax, len(marks), [handle(mark, line=True) for mark in marks.values()])
    told = "; ".join(
        f"{system} {', '.join(f'{value:.2f}' for value in rows['cosine'])}"
        for system, rows in drawn.groupby("system", sort=False)
    )
    alt = f"Curves of the cosine between tuning's update and the direction of English context, per layer. {told}."
    return save_figure(fig, Path(out) / "update_figure", alt=alt, data=drawn)


def patch(table: pd.DataFrame, untouched: pd.DataFrame, out: str | Path) -> Saved:
    """Answers that begin in English after the component was taken out of one system, and put into another.

    ``table``: ``system, done, layer, language, english``; ``untouched``: the table of the arms, for the dotted lines.
    """
    require(table, ("system", "done", "layer", "language", "english"), "patch table")
    names = table.groupby("system", sort=False)["done"].first()
    labels = {system: f"{system}, {done}" for system, done in names.items()}
    stem = Path(out) / "patch_figure"
    return _by_layer(table, untouched, "system", labels, stem, "the component along English context patched")


def layers(table: pd.DataFrame, untouched: pd.DataFrame, out: str | Path) -> Saved:
    """Answers that begin in English with the adapter in all layers but one, and in one alone.

    ``table``: ``system, kept, layer, language, english``; ``untouched`` as for :func:`patch`.
    """
    require(table, ("system", "kept", "layer", "language", "english"), "layers table")
    labels = {"without": "adapter without this layer", "alone": "adapter in this layer alone"}
    return _by_layer(table, untouched, "kept", labels, Path(out) / "layers_figure", "parts of the adapter left out")


def _by_layer(
    table: pd.DataFrame, untouched: pd.DataFrame, by: str, labels: dict[str, str], stem: Path, what: str
) -> Saved:
    refuse_empty(table, stem.name)
    means = macro_means(table, [by, "layer"], ["english"])
    level = macro_means(untouched[untouched["arm"] == "image"], ["system"], ["english"]).set_index("system")["english"]
    looks = dict(zip(labels, (Mark("", "#D55E00", "s", "", "--"), Mark("", "#555555", "P", "", ":")), strict=False))
    with style():
        fig = Figure(figsize=size("page", height=2.9))
        ax = fig.subplots()
        for system in dict.fromkeys(table["system"]):
            mark = system_marks([system])[system]
            ax.axhline(level[system], color=mark.colour, linewidth=1)
            ax.annotate(
                f"{system} as it is",
                (1.01, level[system]),
                xycoords=("axes fraction", "data"),
                color=mark.colour,
                va="center",
                annotation_clip=False,
            )
        for name, look in looks.items():
            _curve(ax, means[means[by] == name], "layer", "english", look)
        per_cent(ax, ENGLISH_FIRST, axis="y")
        ax.set(xlabel="layer")
        ax.set_xticks(sorted(means["layer"].unique()))
        ax.grid(axis="both")
        shown = [Mark(labels[name], look.colour, look.marker, "", look.line) for name, look in looks.items()]
        legend_above(fig, ax, 2, [handle(mark, line=True) for mark in shown])
    told = "; ".join(
        f"{labels[name]}: {', '.join(f'{100 * value:.0f}' for value in rows['english'])} %"
        for name, rows in means.groupby(by, sort=False)
    )
    before = ", ".join(f"{name} {100 * value:.0f} %" for name, value in level.items() if name in set(table["system"]))
    alt = f"Answers to pictures that begin in English, with {what}, layer by layer. As they are: {before}. {told}."
    return save_figure(fig, stem, alt=alt, data=means)


def macro_means(table: pd.DataFrame, by: list[str], values: list[str]) -> pd.DataFrame:
    """Mean over languages of the mean within each, per group of ``by``, in order of appearance."""
    within = table.groupby([*by, "language"], sort=False)[values].mean()
    return within.groupby(level=by, sort=False).mean().reset_index()


def _curve(ax: Axes, rows: pd.DataFrame, x: str, y: str, mark: Mark) -> None:
    """One system."""
    rows = rows.sort_values(x)
    ax.plot(
        rows[x],
        rows[y],
        color=mark.colour,
        linestyle=mark.line,
        marker=mark.marker,
        linewidth=1.6,
        markersize=4.5,
        markeredgecolor="white",
        markeredgewidth=0.4,
        clip_on=False,
    )


def _told(rows: pd.DataFrame, first: str, second: str, words: str) -> str:
    numbers = zip(rows["system"], rows[first], rows[second], strict=True)
    return ", ".join(f"{name} " + words.format(f"{100 * one:.0f}", f"{100 * two:.0f}") for name, one, two in numbers)


def _languages(table: pd.DataFrame) -> str:
    names: Iterable[str] = language_names(dict.fromkeys(table["language"])).values()
    return f"{table['language'].nunique()} languages ({', '.join(names)})"
