"""Bars: what the answers of every system are; LF, LF+ and GF side by side; languages in the text rows and left out.

The value stands in or beside each bar; what is undefined is written "n/a" and never drawn as zero.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from textreg.figures.style import (
    CLASSES,
    CONTEXTS,
    MEASURES,
    ON_COLOUR,
    SHORT_MEASURES,
    language_names,
    legend_above,
    per_cent,
    refuse_empty,
    size,
    style,
    system_marks,
)
from textreg.figures.tables import macro

WRITTEN = 0.09  # the smallest share whose number has room in its bar


def answer_classes(classes: pd.DataFrame, labels: Mapping[str, str] = MappingProxyType({})) -> Figure:
    """What the answers are, one stacked bar per system, one panel per arm.  ``classes``: :func:`tables.classes`;
    ``labels``: other words for some classes and arms."""
    refuse_empty(classes, "figure of answer classes")
    arms = list(dict.fromkeys(classes["arm"]))
    systems = list(dict.fromkeys(classes["system"]))
    found = set(classes.loc[classes["share"] > 0, "class"])
    shown = {name: mark for name, mark in CLASSES.items() if name in found}
    with style():
        fig = Figure(figsize=size("page", height=0.75 + len(arms) * (0.45 + 0.2 * len(systems))))
        axes = fig.subplots(len(arms), 1, squeeze=False, sharex=True).ravel()
        for ax, arm in zip(axes, arms, strict=True):
            here = classes[classes["arm"] == arm].pivot(index="system", columns="class", values="share")
            here = here.reindex(systems)
            left = np.zeros(len(systems))
            for name, mark in shown.items():
                widths = here[name].fillna(0).to_numpy()
                label = labels.get(name, mark.label)
                ax.barh(systems, widths, 0.8, left=left, color=mark.colour, edgecolor="white", label=label)
                for place, (start, width) in enumerate(zip(left, widths, strict=True)):
                    if width >= WRITTEN:
                        ink = "white" if name in ("asked", "english") else ON_COLOUR
                        ax.text(start + width / 2, place, f"{100 * width:.0f}", color=ink, ha="center", va="center")
                left += widths
            ax.set_title(f"asked with {labels.get(arm, CONTEXTS[arm])}", loc="left")
            ax.set_ylim(len(systems) - 0.5, -0.5)
        per_cent(axes[-1], "answers to prompts in other languages than English (%)")
        axes[-1].set_xlim(0, 1)  # type: ignore[attr-defined]
        legend_above(fig, axes[0], 2)
    return fig


def fidelity_and_grounding(fidelity: pd.DataFrame, systems: Sequence[str] | None = None) -> Figure:
    """LF, LF+ and GF of every system on image prompts, mean over non-English languages."""
    systems = list(systems or fidelity["system"].unique())
    fills = {"lf": "#CFE3F2", "lf_plus": "#56B4E9", "grounded": "#0072B2"}
    return _grouped_bars(
        {metric: macro(fidelity, metric, "image", systems) for metric in fills},
        systems,
        fills,
        {metric: SHORT_MEASURES[metric] for metric in fills},
        "Is the right language also right?",
        "mean over non-English languages, image prompts (%)",
    )


def held_out(
    fidelity: pd.DataFrame, left_out: Sequence[str], systems: Sequence[str] | None = None, metric: str = "lf_plus"
) -> Figure:
    """Languages present in the text rows against those left out of them, per system (image prompts)."""
    systems = list(systems or fidelity["system"].unique())
    seen = sorted(set(fidelity["language"]) - set(left_out) - {"en"})
    names = language_names(left_out)
    fills = {"seen": "#0072B2", "left out": "#E69F00"}
    labels = {
        "seen": f"in the text rows ({len(seen)})",
        "left out": f"left out ({', '.join(names[code] for code in left_out)})",
    }
    tables = {
        "seen": macro(fidelity, metric, "image", systems, seen),
        "left out": macro(fidelity, metric, "image", systems, list(left_out)),
    }
    return _grouped_bars(tables, systems, fills, labels, "Are languages without text kept?", MEASURES[metric])


def _grouped_bars(
    tables: Mapping[str, pd.DataFrame],
    systems: Sequence[str],
    fills: Mapping[str, str],
    labels: Mapping[str, str],
    title: str,
    axis_label: str,
) -> Figure:
    for table in tables.values():
        refuse_empty(table, "bar figure")
    systems = [system for system in systems if any(system in set(table["system"]) for table in tables.values())]
    marks, thickness = system_marks(systems), 0.8 / len(tables)
    with style():
        fig = Figure(figsize=size("page", height=1.2 + 0.21 * len(tables) * len(systems)))
        ax = fig.subplots()
        for position, (name, table) in enumerate(tables.items()):
            rows = table.set_index("system").reindex(systems)
            places = np.arange(len(systems)) + (position - (len(tables) - 1) / 2) * thickness
            ax.barh(places, rows["value"], thickness * 0.9, color=fills[name], label=labels[name])
            ax.hlines(places, rows["low"], rows["high"], color="#444444", linewidth=1)
            for place, value, high in zip(places, rows["value"], rows["high"], strict=True):
                text, edge = ("n/a", 0.0) if np.isnan(value) else (f"{100 * value:.0f}", np.nanmax([value, high]))
                ax.annotate(text, (edge, place), (4, 0), textcoords="offset points", va="center")
        ax.set_yticks(range(len(systems)), [marks[system].label for system in systems])
        ax.set_ylim(len(systems) - 0.5, -0.5)
        per_cent(ax, axis_label)
        ax.set(xlim=(0, 1.12), title=title)
        legend_above(fig, ax, len(tables))
    return fig
