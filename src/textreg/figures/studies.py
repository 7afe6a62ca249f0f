"""A study as a drawing: its settings down the side, one panel for each of the things that are weighed; or a map of two
settings, and the line that half of its runs draw for the other half.

Not obvious: a point is the mean over seeds and the small ones behind it are the seeds, because three of them carry no
interval worth drawing; what the study says of its predictions stands in its table of verdicts.

    settings(drawn(pd.read_csv("results/studies/text_share/table.csv")))
"""

from collections.abc import Iterable
from textwrap import fill
from typing import Any

import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from textreg.figures.style import ON_COLOUR, handle, per_cent, size, style, system_marks

#: Title of a panel -> task, arm, group, measure of the study's table.
PANELS = {
    "asked language, with the picture": ("caption", "image", "foreign", "asked"),
    "English questions right": ("questions", "image", "en", "content"),
}
SHOWN = 4  # words of a setting that is a list


def varied(table: pd.DataFrame) -> list[str]:
    """The columns of the settings that a study varies."""
    return [name for name in table.columns[2 : table.columns.get_loc("system")] if table[name].notna().any()]


def drawn(table: pd.DataFrame) -> pd.DataFrame:
    """``setting, system, seed`` and a column of shares (0..1) per panel that has any; in the order of the table, of
    lambdas the largest first."""
    names, lambdas = varied(table), table["lambda"].nunique() > 1
    table = table.sort_values("lambda", ascending=False, kind="stable") if lambdas else table
    texts = [in_words(values, names) for values in table[names].itertuples(index=False)]
    if lambdas:
        texts = [
            ", ".join([text] * bool(text) + [f"λ {value:g}"])
            for text, value in zip(texts, table["lambda"], strict=True)
        ]
    keyed = table.assign(setting=texts)
    keyed.loc[keyed["setting"] == "", "setting"] = keyed["system"]
    parts = []
    for title, asked in PANELS.items():
        rows = keyed[(keyed[["task", "arm", "group"]] == list(asked[:3])).all(axis=1)]
        parts.append(rows.set_index(["setting", "system", "seed"])[asked[3]].rename(title))
    return pd.concat(parts, axis=1).dropna(axis=1, how="all").reset_index()


def in_words(values: Iterable[object], names: list[str]) -> str:
    """The settings ``names`` of a run, those that it has: ``text share 0.1, text phases 2``."""
    told = []
    for name, value in zip(names, values, strict=True):
        if not pd.isna(value):
            words = str(f"{value:g}" if isinstance(value, float) else value).split()
            text = " ".join(words) if len(words) <= SHOWN else f"{' '.join(words[:SHOWN])} … ({len(words)})"
            told.append(f"{setting_name(name)} {text}")
    return ", ".join(told)


#: Title of a map -> system, arm, measure.
MAPS = {
    "untuned, English text: asked language": ("backbone", "text_en", "asked"),
    "untuned, picture: asked language": ("backbone", "image", "asked"),
    "BM, picture: asked language": ("BM", "image", "asked"),
    "BM, picture: clean English": ("BM", "image", "english"),
    "BM, picture: mixed or broken": ("BM", "image", "mixed"),
    "TR, picture: asked language": ("TR", "image", "asked"),
}


def plane(table: pd.DataFrame, across: str, down: str) -> Figure:
    """Maps (per cent, means over seeds) of what the untuned model, BM and TR answer in the foreign languages.
    ``table``: of a study whose runs vary ``across`` and ``down``; runs that do not are left out."""
    rows = table[(table["task"] == "caption") & (table["group"] == "foreign")].dropna(subset=[across, down])
    with style():
        fig = Figure(figsize=size("page", height=6.4))
        for ax, (title, (system, arm, measure)) in zip(fig.subplots(3, 2).flat, MAPS.items(), strict=True):
            mine = rows[(rows["system"] == system) & (rows["arm"] == arm)]
            cells = mine.pivot_table(index=down, columns=across, values=measure).sort_index(ascending=False) * 100
            sns.heatmap(cells, vmin=0, vmax=100, cmap="cividis", annot=True, fmt=".0f", cbar=False, ax=ax)
            for number in ax.texts:  # ink on colour stays as it is on a dark page; below 45 % cividis is dark itself
                number.set_color("#FAFAFA" if float(number.get_text()) < 45 else ON_COLOUR)
            ax.set_title(title.replace(": ", ":\n"), loc="left")
            ax.set(xlabel=setting_name(across), ylabel=setting_name(down))
            ax.grid(False)
    return fig


def line(points: pd.DataFrame, by: str, of: str) -> Figure:
    """What a line through half of the runs says of the others, per cent.  ``points``: of the study's table
    (:func:`textreg.runs.study_table.law`); ``by`` and ``of`` in words."""
    ordered = points.sort_values("by")
    with style():
        fig = Figure(figsize=size("page", height=3.0))
        ax = fig.subplots()
        ax.plot(ordered["by"], ordered["predicted"], color="#555555", zorder=1)
        for fitted, face, label in ((True, "#222222", "fitted to these"), (False, "none", "predicted")):
            mine = points[points["fitted"] == fitted]
            ax.scatter(mine["by"], mine["of"], s=28, facecolors=face, edgecolors="#222222", label=label)
        per_cent(ax, fill(by, 40))
        per_cent(ax, fill(of, 34), "y")
        fig.legend(loc="outside upper center", ncols=2)
    return fig


def setting_name(setting: str) -> str:
    """A setting in words, without its stage: ``text share``."""
    return setting.rpartition(".")[2].replace("_", " ")


def settings(rows: pd.DataFrame) -> Figure:
    """Means over seeds (per cent) by setting and system, the seeds small behind them.  ``rows``: :func:`drawn`."""
    places = list(dict.fromkeys(rows["setting"]))
    together = rows.groupby("setting")["system"].nunique().max()
    several = together > 1
    marks, panels = system_marks(rows["system"]), [title for title in PANELS if title in rows]
    look: dict[str, Any] = {"data": rows, "y": "setting", "order": places, "hue": "system", "legend": False}
    look |= {"palette": {system: mark.colour for system, mark in marks.items()}}
    apart = 0.8 * (len(marks) - 1) / len(marks) if several else False  # as far as the seeds are
    with style():
        fig = Figure(figsize=size("page", height=1.2 + 0.15 * (together + 1) * len(places)))
        axes = list(fig.subplots(1, len(panels), sharey=True, squeeze=False)[0])
        for ax, title in zip(axes, panels, strict=True):
            sns.stripplot(x=title, size=3.5, alpha=0.45, jitter=False, dodge=several, ax=ax, **look)
            markers = [mark.marker for mark in marks.values()]
            sns.pointplot(
                x=title, dodge=apart, errorbar=None, linestyle="none", markersize=6, markers=markers, ax=ax, **look
            )
            ax.set_title(fill(title, 18), loc="left")
            ax.set(ylabel="")
            per_cent(ax, "%")
            ax.set_xticks([0, 0.5, 1], ["0", "50", "100"])
        axes[0].set_yticks(range(len(places)), [fill(text, 24) for text in places])
        if several:
            handles = [handle(mark) for mark in marks.values()]
            fig.legend(handles=handles, loc="outside upper center", ncols=min(4, len(marks)))
    return fig
