"""How systems, arms and measures look: colour, marker, hatch and label, the same in every figure.

Colours are Okabe and Ito's colour-blind-safe set; a marker (points) or hatch (bars) carries the same distinction, so
that no figure depends on hue.  ``BM`` and the control ``EN`` have angular markers.
Names of languages come from the package's code book; a code that has none is its own label.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from textreg.errors import InputError
from textreg.figures.tables import ENGLISH


@dataclass(frozen=True)
class Mark:
    """Appearance of one system, arm or measure."""

    label: str
    colour: str
    marker: str
    hatch: str = ""
    line: str = "-"


SYSTEMS = MappingProxyType(
    {
        "BM": Mark("BM", "#D55E00", "s", "////", "--"),
        "TR": Mark("TR", "#0072B2", "o", "", "-"),
        "TR+M": Mark("TR+M", "#009E73", "^", "....", "-"),
        "BM+M": Mark("BM+M", "#E69F00", "D", "xxxx", "-."),
        "EN": Mark("EN", "#CC79A7", "X", "\\\\\\\\", ":"),
        "backbone": Mark("backbone", "#555555", "P", "++++", ":"),
    }
)
# Further arms of a profile take these in order of appearance.
SPARE = (
    ("#56B4E9", "v", "||||", "-"),
    ("#000000", "*", "----", "--"),
    ("#999933", "h", "oooo", "-."),
    ("#882255", "<", "**", ":"),
    ("#44AA99", ">", "|-|-", "-"),
    ("#661100", "p", "/o/o", "--"),
)
ARMS = MappingProxyType(
    {
        "image": Mark("image", "#222222", "o"),
        "blank": Mark("blank image", "#777777", "d"),
        "text": Mark("text only", "#222222", "|"),
    }
)
MEASURES = MappingProxyType(
    {
        "lf": "language fidelity, LF (%)",
        "lf_plus": "stricter fidelity, LF+ (%)",
        "grounded": "grounded fidelity, GF (%)",
        "english_rate": "answers in English (%)",
        "visual": "English captions right (%)",
        "chrf": "English captions, chrF",
        "questions": "English questions right (%)",
    }
)
SHORT_MEASURES = MappingProxyType(
    {
        "lf": "LF",
        "lf_plus": "LF+",
        "grounded": "GF",
        "scored": "scored",
        "english_rate": "in English",
        "exclusive_share": "own words",
        "parse_rate": "grammatical",
        "visual": "captions",
        "questions": "questions",
    }
)


def system_marks(systems: Iterable[str]) -> dict[str, Mark]:
    """Marks of ``systems`` in the order given; systems that are not in :data:`SYSTEMS` take spare ones in turn."""
    marks, spare = {}, 0
    for system in dict.fromkeys(systems):
        if system in SYSTEMS:
            marks[system] = SYSTEMS[system]
        else:
            marks[system] = Mark(system, *SPARE[spare % len(SPARE)])
            spare += 1
    return marks


def language_names(codes: Iterable[str]) -> dict[str, str]:
    """Code -> English name of the language, or the code itself where the code book has no entry for it."""
    from textreg.data.codes import code_book

    known = code_book()
    return {code: known[code].name if code in known else code for code in codes}


def language_order(codes: Iterable[str], held_out: Iterable[str] = ()) -> list[str]:
    """English first, then by name, held-out languages last."""
    codes = list(dict.fromkeys(codes))
    names, last = language_names(codes), set(held_out)
    return sorted(codes, key=lambda code: (code in last, code != ENGLISH, names[code]))


def language_rows(ax: Axes, codes: list[str], held_out: Iterable[str] = ()) -> None:
    """Languages on the vertical axis, first on top; held-out ones say so."""
    names, last = language_names(codes), set(held_out)
    labels = [f"{names[code]}*" if code in last else names[code] for code in codes]
    ax.set_yticks(range(len(codes)), labels)
    ax.set_ylim(len(codes) - 0.4, -0.6)
    for row in range(0, len(codes), 2):
        ax.axhspan(row - 0.5, row + 0.5, color="#f5f5f5", zorder=0)


def per_cent(ax: Axes, label: str, axis: str = "x") -> None:
    """A 0 to 100 % axis with room for a marker at either end."""
    low, high = -0.03, 1.03
    ticks = np.linspace(0, 1, 6)
    labels = [f"{100 * tick:.0f}" for tick in ticks]
    if axis == "x":
        ax.set(xlim=(low, high), xlabel=label)
        ax.set_xticks(ticks, labels)
    else:
        ax.set(ylim=(low, high), ylabel=label)
        ax.set_yticks(ticks, labels)


def offsets(count: int, spread: float = 0.5) -> np.ndarray:
    """Vertical places of ``count`` marks that share a row, centred on it."""
    return np.zeros(1) if count == 1 else np.linspace(-spread / 2, spread / 2, count)


def handle(look: Mark, *, line: bool = False, marker: bool = True) -> Line2D:
    return Line2D(
        [],
        [],
        color=look.colour,
        linestyle=look.line if line else "",
        marker=look.marker if marker else "",
        label=look.label,
    )


def legend_above(fig: Figure, ax: Axes, columns: int, handles: list | None = None) -> None:
    handles = handles if handles is not None else ax.get_legend_handles_labels()[0]
    fig.legend(handles=handles, loc="outside upper center", ncols=min(columns, 4), columnspacing=1.4)


def note(ax: Axes, text: str) -> None:
    ax.annotate(
        text,
        (0, 0),
        (0, -34),
        xycoords="axes fraction",
        textcoords="offset points",
        color="#444444",
        annotation_clip=False,
    )


def refuse_empty(table: pd.DataFrame, what: str) -> None:
    if table.empty:
        raise InputError(f"{what}: nothing to draw; the table has no rows for the systems asked for")
