"""Bars: what the answers of every system are, and measures of every system side by side.

The value stands in or beside each bar; what is undefined is written "n/a" and never drawn as zero.
"""

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from textreg.figures.style import CLASSES, CONTEXTS, ON_COLOUR, legend_above, per_cent, refuse_empty, size, style

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


def grouped(bars: Mapping[str, tuple[str, pd.DataFrame]], title: str, axis_label: str) -> Figure:
    """Bars side by side for every system.  ``bars``: label -> colour and ``system, value, low, high`` (0..1)."""
    for _, table in bars.values():
        refuse_empty(table, "bar figure")
    systems = list(dict.fromkeys(system for _, table in bars.values() for system in table["system"]))
    thickness = 0.8 / len(bars)
    with style():
        fig = Figure(figsize=size("page", height=1.2 + 0.21 * len(bars) * len(systems)))
        ax = fig.subplots()
        for position, (label, (colour, table)) in enumerate(bars.items()):
            rows = table.set_index("system").reindex(systems)
            places = np.arange(len(systems)) + (position - (len(bars) - 1) / 2) * thickness
            ax.barh(places, rows["value"], thickness * 0.9, color=colour, label=label)
            ax.hlines(places, rows["low"], rows["high"], color="#444444", linewidth=1)
            for place, value, high in zip(places, rows["value"], rows["high"], strict=True):
                text, edge = ("n/a", 0.0) if np.isnan(value) else (f"{100 * value:.0f}", np.nanmax([value, high]))
                ax.annotate(text, (edge, place), (4, 0), textcoords="offset points", va="center")
        ax.set_yticks(range(len(systems)), systems)
        ax.set_ylim(len(systems) - 0.5, -0.5)
        per_cent(ax, axis_label)
        ax.set(xlim=(0, 1.12), title=title)
        legend_above(fig, ax, len(bars))
    return fig
