"""The figures of ``07_mechanism``: first words, where an answer turns, given first words, and the probe.

Each function takes a table of :mod:`textreg.evaluation.mechanism` with a column ``system`` added, draws it in the
style of every other figure (:mod:`textreg.figures.per_language`) and saves it in ``out``.  Two choices are not
obvious.  Languages count alike: every number is a mean over languages of means within one.  Files are called
``*_figure``, because the notebook keeps its tables in the same folder, under the plain names.

Use: ``first_token(table, "runs/laptop/mechanism")``.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from textreg.figures.style import (
    ARMS,
    MEASURES,
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

OPENINGS = {"asked": ("asked language", "#0072B2", ""), "english": ("English", "#E69F00", "////")}
LABELLED = 0.09  # share of the axis that a two-digit number needs


def first_token(table: pd.DataFrame, out: str | Path) -> Saved:
    """Probability of the first answer token: openings of the asked language against English ones.

    ``table``: ``system, arm, language, asked, english``, one row per request (probabilities in 0..1).
    """
    require(table, ("system", "arm", "language", "asked", "english"), "first-token table")
    refuse_empty(table, "first-token figure")
    means = macro_means(table, ["arm", "system"], ["asked", "english"])
    arms = [arm for arm in ARMS if arm in set(means["arm"])]
    marks = system_marks(table["system"])
    with style():
        fig = Figure(figsize=size("page", height=1.0 + len(arms) * (0.42 + 0.27 * len(marks))))
        axes = fig.subplots(len(arms), 1, squeeze=False, sharex=True)[:, 0]
        for ax, arm in zip(axes, arms, strict=True):
            _stacked_bars(ax, means[means["arm"] == arm].set_index("system").reindex(list(marks)))
            ax.set_yticks(range(len(marks)), [mark.label for mark in marks.values()])
            ax.set(ylim=(len(marks) - 0.5, -0.5), title=ARMS[arm].label)
            per_cent(ax, "probability of the first token (%); white: any other word" if ax is axes[-1] else "")
            ax.set_xlim(0, 1)
        legend_above(fig, axes[0], len(OPENINGS))
    told = "; ".join(
        f"{ARMS[arm].label}: " + _told(rows, "asked", "english", "asked language {} %, English {} %")
        for arm, rows in ((arm, means[means["arm"] == arm]) for arm in arms)
    )
    alt = (
        f"Stacked bars of the probability that the first token opens a caption of the asked language or an English "
        f"one, per system, mean over {_languages(table)}. {told}."
    )
    return save_figure(fig, Path(out) / "first_token_figure", alt=alt, data=means)


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
                text = "white" if name == "asked" else "black"
                ax.text(start + share / 2, place, f"{100 * share:.0f}", color=text, ha="center", va="center", bbox=box)
        left = left + np.nan_to_num(width)


def turning(table: pd.DataFrame, out: str | Path) -> Saved:
    """Share of answers still in the asked language after each word, one panel per arm; languages faint.

    ``table``: ``system, language, arm, words, n, kept`` (shares in 0..1).
    """
    require(table, ("system", "language", "arm", "words", "n", "kept"), "turning table")
    refuse_empty(table, "turning figure")
    arms = [arm for arm in ARMS if arm in set(table["arm"])]
    means = macro_means(table, ["arm", "system", "words"], ["kept"])
    marks = system_marks(table["system"])
    with style():
        fig = Figure(figsize=size("wide"))
        axes = fig.subplots(1, len(arms), squeeze=False, sharey=True)[0]
        for ax, arm in zip(axes, arms, strict=True):
            within, shown = (rows[rows["arm"] == arm] for rows in (table, means))
            for behind, (system, mark) in zip(range(len(marks) - 1, -1, -1), marks.items(), strict=True):
                for _, rows in within[within["system"] == system].sort_values("words").groupby("language"):
                    ax.plot(rows["words"], rows["kept"], color=mark.colour, alpha=0.22, linewidth=0.8)
                _curve(ax, shown[shown["system"] == system], "words", "kept", mark, behind)
            per_cent(ax, "still in the asked language (%)" if ax is axes[0] else "", axis="y")
            ax.set(xlabel="words of the answer", title=ARMS[arm].label, xlim=(-0.2, means["words"].max() + 0.2))
            ax.set_xticks(range(0, int(means["words"].max()) + 1, 3))
            ax.grid(axis="both")
        legend_above(fig, axes[0], len(marks), [handle(mark, line=True) for mark in marks.values()])
    counts = [count for count in (1, 3, 6, means["words"].max()) if count in set(means["words"])]
    chosen = means[means["words"].isin(counts)].sort_values("words")
    told = "; ".join(
        f"{ARMS[arm].label}: "
        + ", ".join(
            f"{system} {', '.join(f'{100 * kept:.0f}' for kept in rows['kept'])} %"
            for system, rows in chosen[chosen["arm"] == arm].groupby("system", sort=False)
        )
        for arm in arms
    )
    alt = (
        f"Falling curves of the share of answers whose words so far are all of the asked language, a faint line per "
        f"language and their mean, {_languages(table)}. After {', '.join(f'{c:g}' for c in counts)} words, {told}."
    )
    return save_figure(fig, Path(out) / "turning_figure", alt=alt, data=means)


def forced_prefix(table: pd.DataFrame, out: str | Path) -> Saved:
    """LF+ of image captions against the number of given first words; languages faint, their mean in front.

    ``table``: ``system, language, words, n, lf_plus`` (shares in 0..1).
    """
    require(table, ("system", "language", "words", "n", "lf_plus"), "forced-prefix table")
    refuse_empty(table, "forced-prefix figure")
    means = macro_means(table, ["system", "words"], ["lf_plus"])
    marks = system_marks(table["system"])
    with style():
        fig = Figure(figsize=size("page"))
        ax = fig.subplots()
        for behind, (system, mark) in zip(range(len(marks) - 1, -1, -1), marks.items(), strict=True):
            for _, rows in table[table["system"] == system].sort_values("words").groupby("language"):
                ax.plot(rows["words"], rows["lf_plus"], color=mark.colour, alpha=0.22, linewidth=0.8)
            _curve(ax, means[means["system"] == system], "words", "lf_plus", mark, behind)
        per_cent(ax, MEASURES["lf_plus"], axis="y")
        given = sorted(means["words"].unique())
        ax.set(xlabel="first words given", xlim=(given[0] - 0.1, given[-1] + 0.1))
        ax.set_xticks(given, [f"{number:g}" for number in given])
        ax.grid(axis="both")
        _name_ends(ax, means, "words", "lf_plus", marks)
    told = "; ".join(
        f"{system} " + ", ".join(f"{100 * v:.0f}" for v in rows.sort_values("words")["lf_plus"]) + " %"
        for system, rows in means.groupby("system", sort=False)
    )
    alt = (
        f"Curves of LF+ on image captions against the number of given first words, a faint line per language and "
        f"their mean, {_languages(table)}. Mean with {', '.join(f'{g:g}' for g in given)} words: {told}."
    )
    return save_figure(fig, Path(out) / "forced_prefix_figure", alt=alt, data=means)


def probe(table: pd.DataFrame, out: str | Path) -> Saved:
    """Accuracy of the linear probe for the asked language along the layers, one panel per arm.

    ``table``: ``system, arm, layer, accuracy, chance`` (shares in 0..1; layer 0 is the embedding).
    """
    require(table, ("system", "arm", "layer", "accuracy", "chance"), "probe table")
    refuse_empty(table, "probe figure")
    arms = [arm for arm in ARMS if arm in set(table["arm"])]
    marks = system_marks(table["system"])
    layers = sorted(table["layer"].unique())
    with style():
        fig = Figure(figsize=size("wide"))
        axes = fig.subplots(1, len(arms), squeeze=False, sharey=True)[0]
        for ax, arm in zip(axes, arms, strict=True):
            shown = table[table["arm"] == arm]
            ax.axhline(shown["chance"].mean(), color="#777777", linestyle=":", linewidth=1.2)
            for behind, (system, mark) in zip(range(len(marks) - 1, -1, -1), marks.items(), strict=True):
                _curve(ax, shown[shown["system"] == system], "layer", "accuracy", mark, behind)
            per_cent(ax, "probe accuracy (%)" if ax is axes[0] else "", axis="y")
            ax.set(xlabel="layer", title=ARMS[arm].label)
            ax.set_xticks(layers[:: max(1, len(layers) // 6)])
            ax.grid(axis="both")
        axes[-1].text(layers[-1], table["chance"].mean() + 0.02, "chance", color="#555555", ha="right", va="bottom")
        handles = [handle(mark, line=True) for mark in marks.values()]
        legend_above(fig, axes[0], len(marks), handles)
    last, best = table[table["layer"] == layers[-1]], table.groupby(["arm", "system"], sort=False)["accuracy"].max()
    told = "; ".join(
        f"{ARMS[arm].label}: "
        + ", ".join(
            f"{row.system} {100 * row.accuracy:.0f} % (best layer {100 * best[arm, row.system]:.0f} %)"
            for row in last[last["arm"] == arm].itertuples()
        )
        for arm in arms
    )
    alt = (
        f"Accuracy of a linear probe that reads the asked language off the state before the first answer token, per "
        f"layer; chance is {100 * table['chance'].mean():.0f} %. At the last layer, {told}."
    )
    return save_figure(fig, Path(out) / "probe_figure", alt=alt, data=table)


def macro_means(table: pd.DataFrame, by: list[str], values: list[str]) -> pd.DataFrame:
    """Mean over languages of the mean within each, per group of ``by``, in order of appearance."""
    within = table.groupby([*by, "language"], sort=False)[values].mean()
    return within.groupby(level=by, sort=False).mean().reset_index()


def _curve(ax: Axes, rows: pd.DataFrame, x: str, y: str, mark: Mark, behind: int = 0) -> None:
    """One system; the markers that others are drawn over are larger, so that equal values stay visible."""
    rows = rows.sort_values(x)
    ax.plot(
        rows[x],
        rows[y],
        color=mark.colour,
        linestyle=mark.line,
        marker=mark.marker,
        linewidth=1.6,
        markersize=4.5 + 2.5 * behind,
        markeredgecolor="white",
        markeredgewidth=0.4,
        clip_on=False,
    )


def _name_ends(ax: Axes, means: pd.DataFrame, x: str, y: str, marks: dict[str, Mark]) -> None:
    """Write each system at the right end of its curve, no two names on top of each other."""
    ends = means[means[x] == means[x].max()].set_index("system")[y].dropna().sort_values()
    places = spread(ends.to_numpy())
    for system, value, place in zip(ends.index, ends, places, strict=True):
        ax.annotate(
            f"{marks[system].label} {100 * value:.0f}",
            (1.0, place),
            (6, 0),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            color=marks[system].colour,
            weight="bold",
            va="center",
            annotation_clip=False,
        )


def spread(values: np.ndarray, apart: float = 0.075, highest: float = 1.0) -> np.ndarray:
    """Rising ``values`` moved as little as possible downwards until neighbours stand ``apart`` from each other."""
    places = np.minimum(values.astype(float), highest)
    for row in range(len(places) - 2, -1, -1):
        places[row] = min(places[row], places[row + 1] - apart)
    return places


def _told(rows: pd.DataFrame, first: str, second: str, words: str) -> str:
    numbers = zip(rows["system"], rows[first], rows[second], strict=True)
    return ", ".join(f"{name} " + words.format(f"{100 * one:.0f}", f"{100 * two:.0f}") for name, one, two in numbers)


def _languages(table: pd.DataFrame) -> str:
    names: Iterable[str] = language_names(dict.fromkeys(table["language"])).values()
    return f"{table['language'].nunique()} languages ({', '.join(names)})"
