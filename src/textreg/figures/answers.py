"""Answers themselves: which language was asked for and which came back, and test images with what was said of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from textwrap import wrap
from types import MappingProxyType

import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg, RendererAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from PIL import Image

from textreg.errors import InputError, did_you_mean
from textreg.figures import marks
from textreg.figures.style import CLASSES, language_names, language_order, size, style


def confusion(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """Asked by answered language, as identified, one matrix per system, per cent of a row in the cells.

    Each table holds counts: index = asked language, columns = answered language; codes outside the asked set are
    summed as "other", ``und`` is "none".  A cell below :data:`WRITTEN` per cent has no number.
    """
    if not tables:
        raise InputError("confusion figure: no table given; pass one asked x answered table per system")
    asked = language_order(code for table in tables.values() for code in table.index)
    extra = [name for name in ("other", "none") if any(name in _folded(table, asked) for table in tables.values())]
    columns, names = [*asked, *extra], language_names(asked)
    with style():
        # Square cells: the width that the names leave decides the height, or white space stays over.
        side = min(0.34, 4.0 / len(columns)) * len(asked)
        fig = Figure(figsize=size("page", height=0.3 + (side + 0.55) * len(tables)))
        axes = fig.subplots(len(tables), 1, squeeze=False, sharex=True).ravel()
        for ax, (system, table) in zip(axes, tables.items(), strict=True):
            folded = _folded(table, asked).reindex(index=asked, columns=columns, fill_value=0)
            shares = 100 * folded.div(folded.sum(axis=1).replace(0, np.nan), axis=0)
            for (row, column), share in np.ndenumerate(shares.to_numpy(float)):
                if share >= WRITTEN:
                    look = CLASSES["asked" if row == column else "english"]
                    box = (column - 0.5, row - 0.5), 1, 1
                    ax.add_patch(Rectangle(*box, color=look.colour, alpha=share / 100, linewidth=0))
                    ink = "white" if share > 60 else "#222222"
                    ax.text(column, row, f"{share:.0f}", color=ink, ha="center", va="center", fontsize=8.5)
            ax.grid(visible=False, axis="x")
            ax.grid(visible=True, axis="y")
            ax.set(title=system, xlim=(-0.5, len(columns) - 0.5), ylim=(len(asked) - 0.5, -0.5))
            ax.set_xticks(range(len(columns)), columns, rotation=90)
            ax.set_yticks(range(len(asked)), [names[code] for code in asked])
            ax.tick_params(labelbottom=True)
        axes[-1].set_xlabel("answered in, as identified (%)")  # type: ignore[attr-defined]
    return fig


def _folded(table: pd.DataFrame, asked: Sequence[str]) -> pd.DataFrame:
    names = {code: code if code in asked else ("none" if code == "und" else "other") for code in table.columns}
    return table.rename(columns=names).T.groupby(level=0, sort=False).sum().T


@dataclass(frozen=True)
class GalleryItem:
    """One item of the gallery: a picture, the prompt, and ``(system, answer, verdict)`` per system.

    ``verdict`` is ``right`` (asked language, right content), ``language`` (asked language only) or ``wrong``.
    """

    image: Image.Image
    language: str
    prompt: str
    answers: tuple[tuple[str, str, str], ...]


VERDICTS = MappingProxyType(
    {
        "right": ("✓", "asked language, right"),
        "language": ("≈", "asked language, wrong"),
        "wrong": ("✗", "mixed, foreign or broken"),
    }
)
#: Words that are not the asked language's: colour, line and meaning.
WORDS = MappingProxyType(
    {marks.ENGLISH: ("#a33b00", "-", "an English word"), marks.FOREIGN: ("#6b2f8f", ":", "a word of neither")}
)
WRITTEN = 3  # per cent; a smaller share has no number in its cell


def gallery(items: Sequence[GalleryItem], columns: int = 52) -> Figure:
    """Images with the answers of several systems, and below each what it says in English.

    Words that are not of the asked language are coloured and underlined; a sign tells right, right language only, and
    wrong.  ``columns`` is the width of the text in characters.  Long answers are cut after three lines.
    """
    if not items:
        raise InputError("gallery: no item to show")
    blocks = [_block(item, columns) for item in items]
    line = 0.165  # inches, at 9 pt
    heights = [max(line * (len(block) + 0.9), 0.95) for block in blocks]
    with style():
        fig = Figure(figsize=size("page", height=sum(heights) + 0.65))
        fig.set_layout_engine("none")  # every place is computed here
        renderer = FigureCanvasAgg(fig).get_renderer()
        total, top = fig.get_size_inches()[1], fig.get_size_inches()[1] - 0.6
        for position, (sign, meaning) in enumerate(VERDICTS.values()):
            fig.text(0.02, 1 - (0.17 + 0.16 * position) / total, f"{sign} {meaning}", va="center")
        for position, (colour, dash, meaning) in enumerate(WORDS.values()):
            place = 1 - (0.17 + 0.16 * position) / total
            _underlined(fig, renderer, 0.62, place, meaning, colour, dash, align="center")
        for item, block, height in zip(items, blocks, heights, strict=True):
            side = min(0.85, height - 0.1)
            ax = fig.add_axes((0.02, (top - side - 0.05) / total, side / 5.0, side / total))
            ax.imshow(item.image, interpolation="nearest")
            ax.set(xticks=[], yticks=[])
            ax.grid(visible=False)
            ax.spines[:].set_visible(True)
            for number, words in enumerate(block):
                _write(fig, renderer, (top - 0.12 - line * number) / total, words, item.language)
            top -= height
    return fig


@dataclass(frozen=True)
class _Line:
    """A line of the gallery: its text, how it looks, and whether its words are looked at."""

    text: str
    colour: str = "#222222"
    weight: str = "normal"
    marked: bool = False


def _block(item: GalleryItem, columns: int) -> list[_Line]:
    name = language_names([item.language])[item.language]
    block = [_Line(text, weight="bold") for text in _wrapped(f"{name}: {item.prompt}", columns)]
    for (answer, verdict), same in groupby(item.answers, key=itemgetter(1, 2)):
        if verdict not in VERDICTS:
            raise InputError(f"gallery: verdict {verdict!r} is not known{did_you_mean(verdict, VERDICTS)}")
        systems = ", ".join(system for system, *_ in same)
        block.append(_Line(f"{VERDICTS[verdict][0]} {systems}", weight="bold"))
        block += [_Line(text, marked=True) for text in _wrapped(answer or "(empty)", columns)]
        said = marks.gloss(answer, item.language)
        if any(kind != marks.ENGLISH for _, kind in marks.words(answer, item.language)) and said:
            block += [_Line(text, "#555555") for text in _wrapped(f"“{said}”", columns)]
    return block


def _write(fig: Figure, renderer: RendererAgg, height: float, line: _Line, code: str) -> None:
    """One line, word by word where words are looked at; ``height`` in 0..1 of the figure."""
    if not line.marked:
        fig.text(0.215, height, line.text, color=line.colour, weight=line.weight, va="baseline")
        return
    left = 0.215
    for word in line.text.split():
        ((_, kind),) = marks.words(word, code)
        colour, dash, _ = WORDS.get(kind, (line.colour, "", ""))
        left = _underlined(fig, renderer, left, height, word, colour, dash) + 0.011  # a space


def _underlined(
    fig: Figure, renderer: RendererAgg, left: float, height: float, text: str, colour: str, dash: str, align="baseline"
) -> float:
    """Write, underline where there is a ``dash``, and return where the text ends (0..1 of the width)."""
    box = fig.text(left, height, text, color=colour, va=align).get_window_extent(renderer)
    end, under = (x / size_in_pixels for x, size_in_pixels in zip((box.x1, box.y0 - 1), fig.bbox.size, strict=True))
    if dash:
        fig.add_artist(Line2D([left, end], [under, under], color=colour, linestyle=dash, linewidth=1))
    return end


def _wrapped(text: str, columns: int) -> list[str]:
    # A dollar sign would start Matplotlib's formula mode; control characters have no glyph.
    clean = "".join(character for character in text if character.isprintable()).replace("$", r"\$")
    return wrap(clean, columns, max_lines=3, placeholder=" …") or [""]
