"""Answers made safe to show: a model's text is data, also in a page, a table or a figure.

:func:`visible_answer` is for terminals: one line, every invisible or reordering character spelled out.
:func:`drawn_answer` is for figures, where Matplotlib reads what stands between dollar signs as a formula.
:func:`counting` shows how far a long round of requests is.
"""

import base64
import html
import io
import sys
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

LIMIT = 300
LINE_BREAK = "↵"
JOINERS = "\u200c\u200d"  # change the letters of Persian, Hindi and others; nothing else
MAX_MARKS = 4  # stacked accents on one letter: Vietnamese needs two, Hebrew three


def well_formed(text: str) -> str:
    """The text with lone surrogates, which no file and no table can hold, as question marks."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


def visible_answer(text: str, limit: int = LIMIT) -> str:
    """One line of at most ``limit`` characters of ``text``, with a note of how many more there are.

    Control, format, private and unassigned characters appear as ``⟨U+202E⟩``, line breaks as ``↵``, runs of white
    space as one space, and more than four stacked accents are dropped.
    """
    shown, marks = [], 0
    for character in text[:limit]:
        category = unicodedata.category(character)
        marks = marks + 1 if category.startswith("M") else 0
        if character == "\n":
            shown.append(f" {LINE_BREAK} ")
        elif character.isspace():
            shown.append(" ")
        elif category.startswith("C") and character not in JOINERS:
            shown.append(f"⟨U+{ord(character):04X}⟩")
        elif marks <= MAX_MARKS:
            shown.append(character)
    left = len(text) - limit
    return " ".join("".join(shown).split()) + (f" … (+{left:,} characters)" if left > 0 else "")


def drawn_answer(text: str, limit: int = LIMIT) -> str:
    """:func:`visible_answer` for Matplotlib: a dollar sign is a dollar sign and begins no formula."""
    return visible_answer(text, limit).replace("$", r"\$")


@dataclass(frozen=True)
class Picture:
    """An image that Jupyter shows with its alternative text."""

    image: "Image"
    alt: str

    def _repr_html_(self) -> str:
        buffer = io.BytesIO()
        self.image.save(buffer, "PNG")
        data = base64.b64encode(buffer.getvalue()).decode()
        return f'<img alt="{html.escape(self.alt, quote=True)}" src="data:image/png;base64,{data}"/>'


@contextmanager
def counting(what: str, total: int, kept: int = 0, shown: bool = True) -> Iterator[Callable[[], None]]:
    """A function to call once per ``what`` that is done: a bar on a terminal, else a line every tenth of the way.

    ``kept`` of them were there before and count as done.
    """
    if not shown:
        yield lambda: None
    elif sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True)) as bar:
            task = bar.add_task(what, total=total + kept, completed=kept)
            yield lambda: bar.advance(task)
    else:
        done = 0

        def advance() -> None:
            nonlocal done
            done += 1
            if done == total or done * 10 // total > (done - 1) * 10 // total:
                print(f"{what}: {done + kept} of {total + kept}", file=sys.stderr, flush=True)

        yield advance
