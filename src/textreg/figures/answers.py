"""Answers themselves: which language was asked for and which came back, and test images with what was said of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from textwrap import wrap
from types import MappingProxyType

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from PIL import Image

from textreg.errors import InputError, did_you_mean
from textreg.figures.style import (
    language_names,
    language_order,
    size,
    style,
)


def confusion(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """Asked by answered language, one matrix per system.

    Each table holds counts: index = asked language, columns = answered language; codes outside the asked set are
    summed as "other", ``und`` is "none".  Rows are drawn as per cent of the answers asked for in that language.
    """

    if not tables:
        raise InputError("confusion figure: no table given; pass one asked x answered table per system")
    asked = language_order(code for table in tables.values() for code in table.index)
    extra = [name for name in ("other", "none") if any(name in _folded(table, asked) for table in tables.values())]
    columns = [*asked, *extra]
    stacked = len(asked) > 10 or len(tables) == 1
    with style():
        across = 1 if stacked else len(tables)
        # Square cells: the width that labels and the colour bar leave decides the height, or white space stays over.
        side = min(0.215, 3.65 / (across * len(columns))) * len(asked)
        shape = (len(tables), 1) if stacked else (1, len(tables))
        fig = Figure(figsize=size("page", height=1.2 + (side + 0.55) * shape[0] if stacked else 1.15 + side))
        axes = fig.subplots(*shape, squeeze=False, sharey=True).ravel()
        for ax, (system, table) in zip(axes, tables.items(), strict=True):
            folded = _folded(table, asked).reindex(index=asked, columns=columns, fill_value=0)
            shares = 100 * folded.div(folded.sum(axis=1).replace(0, np.nan), axis=0)
            sns.heatmap(
                shares,
                ax=ax,
                vmin=0,
                vmax=100,
                cmap="cividis",
                linewidths=0.5,
                linecolor="white",
                square=True,
                cbar=ax is axes[-1],
                cbar_kws={"label": "answers (%)", "shrink": 0.6},
            )
            ax.set(title=system, xlabel="answered", ylabel="asked" if ax is axes[0] or stacked else "")
            ax.set_xticks(np.arange(len(columns)) + 0.5, columns, rotation=90)
            ax.set_yticks(np.arange(len(asked)) + 0.5, asked, rotation=0)
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
        "right": ("✓", "#00664b", "asked language, right content"),
        "language": ("≈", "#8a5a00", "asked language, wrong content"),
        "wrong": ("✗", "#a33b00", "mixed, foreign or ungrammatical"),
    }
)


def gallery(items: Sequence[GalleryItem], columns: int = 46) -> Figure:
    """Images with the answers of several systems; a sign and a colour tell right, right language only, and wrong.

    ``columns`` is the width of the text in characters.  Long answers are cut after three lines.
    """
    if not items:
        raise InputError("gallery: no item to show")
    blocks = [_block(item, columns) for item in items]
    line = 0.165  # inches, at 9 pt
    heights = [max(line * (sum(len(text) for text, *_ in block) + 0.9), 0.95) for block in blocks]
    with style():
        fig = Figure(figsize=size("page", height=sum(heights) + 0.65))
        fig.set_layout_engine("none")  # every place is computed here
        total, top = fig.get_size_inches()[1], fig.get_size_inches()[1] - 0.6
        for position, (sign, colour, meaning) in enumerate(VERDICTS.values()):
            fig.text(0.02, 1 - (0.17 + 0.16 * position) / total, f"{sign} {meaning}", color=colour, va="center")
        for item, block, height in zip(items, blocks, heights, strict=True):
            side = min(0.85, height - 0.1)
            ax = fig.add_axes((0.02, (top - side - 0.05) / total, side / 5.0, side / total))
            ax.imshow(item.image, interpolation="nearest")
            ax.set(xticks=[], yticks=[])
            ax.grid(visible=False)
            ax.spines[:].set_visible(True)
            cursor = top - 0.02
            for text, colour, weight in block:
                fig.text(
                    0.215, cursor / total, "\n".join(text), color=colour, weight=weight, va="top", linespacing=1.2
                )
                cursor -= line * len(text)
            top -= height
    return fig


def _block(item: GalleryItem, columns: int) -> list[tuple[list[str], str, str]]:
    name = language_names([item.language])[item.language]
    block = [(_wrapped(f"{name}: {item.prompt}", columns), "#222222", "bold")]
    for system, answer, verdict in item.answers:
        if verdict not in VERDICTS:
            raise InputError(f"gallery: verdict {verdict!r} is not known{did_you_mean(verdict, VERDICTS)}")
        sign, colour, _ = VERDICTS[verdict]
        block.append((_wrapped(f"{sign} {system}: {answer or '(empty)'}", columns), colour, "normal"))
    return block


def _wrapped(text: str, columns: int) -> list[str]:
    # A dollar sign would start Matplotlib's formula mode; control characters have no glyph.
    clean = "".join(character for character in text if character.isprintable()).replace("$", r"\$")
    return wrap(clean, columns, max_lines=3, placeholder=" …") or [""]
