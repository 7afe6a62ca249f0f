"""The figures of a score: LF per language with intervals, and who was answered in which language.

They come from the same drawing functions as the book's.  A drawing holds the arms of one system, or the systems of
one arm: both at once can no longer be told apart.  Then the arm ``image`` keeps the plain names ``fidelity`` and
``confusion``, and every other arm has its own pair (``fidelity_text``, ``confusion_text``).  What does not fit into
one drawing goes on in ``fidelity_2``.  Names come from somebody's file and are drawn as plain characters.

Use: ``score_and_draw("answers.jsonl", "scores.csv", "figures")``.
"""

import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from textreg.display import drawn_answer, visible_answer
from textreg.errors import InputError
from textreg.serve.paired import names, series
from textreg.serve.score import READ_BACK, Scores, check_places, score_file, write

FEW = 4  # systems with their arms that can be told apart in one drawing; matrices that fit side by side
LONGEST = 80  # letters of a name that are drawn
LETTERS = 40  # of a name that fit across a drawing
MANY = 6  # rows of marks that one language has room for


def score_and_draw(
    path: str | Path, out: str | Path | None = None, figures: str | Path | None = None, must: bool = True, **how: Any
) -> Scores:
    """:func:`textreg.serve.score.score_file` (``how``: its further arguments) with drawings in the folder ``figures``.

    Raises InputError, also where drawings ``must`` be and nothing was scored; nothing is written then, and never over
    the answers.
    """
    check_places(path, out, figures)
    result = score_file(path, **how)
    nothing = result.summary["lf"].isna().all()
    if figures is not None and nothing and must:
        raise InputError(
            f"{path}: no answer could be scored, so there is nothing to draw: leave --figures out and read the notes "
            "of the table"
        )
    if out is not None:
        write(result, out)
    if figures is not None and not nothing:
        try:
            _draw(result, Path(figures))
        except OSError as failure:
            reason = failure.strerror or type(failure).__name__
            raise InputError(f"{figures}: figures cannot be written ({reason}): name another folder") from failure
    return result


def _draw(result: Scores, folder: Path) -> None:
    from textreg.figures import answers, per_language, style

    source = visible_answer(Path(result.path).name)
    table = result.summary.rename(columns={"lf": "value", "lf_low": "low", "lf_high": "high"})
    table["name"], table["series"] = names(table), series(table)
    table = table.dropna(subset=["value"])
    for suffix, arm, rows in _drawings(table):
        shown = rows.assign(system=rows["name"] if arm is None else rows["series"])
        of_arm = "" if arm is None else f", arm {visible_answer(arm)}"
        alt = f"Language fidelity per prompt language, with 95 % intervals, of the answers in {source}{of_arm}."
        for number, part in _parts(shown["system"], MANY):
            data = shown.loc[shown["system"].isin(part), ["system", "language", "value", "low", "high"]]
            named = data.assign(system=data["system"].map(_broken(part)))
            fig = per_language.per_language_plot(named, drawn_answer(f"Language fidelity{of_arm} (%)"))
            saved = data.replace({"language": READ_BACK})
            style.save_figure(fig, folder / f"fidelity{suffix}{number}", alt=alt, data=saved)
        called = dict(zip(shown["system"], shown["name"], strict=True))
        alt = f"Share of answers in each language (columns) for each asked language (rows){of_arm}."
        for number, part in _parts(shown["system"], FEW):
            counts = {system: result.confusion[called[system]] for system in part}
            data = pd.concat(counts, names=["system"]).reset_index().replace({"asked": READ_BACK})
            broken = _broken(part)
            fig = answers.confusion({broken[system]: table for system, table in counts.items()})
            style.save_figure(fig, folder / f"confusion{suffix}{number}", alt=alt, data=data)


def _broken(systems: list[str]) -> dict[str, str]:
    """Names as they are drawn: with line breaks, so that as many as stand side by side do not run into each other.

    Two names that look alike, because they differ in what cannot be seen, are numbered.
    """
    seen: dict[str, str] = {}
    for name in systems:
        looks = visible_answer(name, LONGEST)
        numbered = [looks, *(f"{looks} ({number})" for number in range(2, len(systems) + 2))]
        seen[name] = next(look for look in numbered if look not in seen.values())
    width = max(10, LETTERS // min(len(systems), FEW))
    # Broken first and escaped line by line: a line break is white space to what makes text visible.
    return {
        name: "\n".join(drawn_answer(line) for line in textwrap.wrap(looks, width)) for name, looks in seen.items()
    }


def _parts(systems: pd.Series, size: int) -> Iterator[tuple[str, list[str]]]:
    """Suffix and systems of each drawing of at most ``size``."""
    distinct = list(dict.fromkeys(systems))
    for start in range(0, len(distinct), size):
        yield f"_{start // size + 1}" if start else "", distinct[start : start + size]


def _drawings(table: pd.DataFrame) -> Iterator[tuple[str, str | None, pd.DataFrame]]:
    """Suffix of the file, arm (None: all together) and rows of each drawing."""
    several = table["series"].nunique() > 1 and table["arm"].nunique() > 1
    if not several or table["name"].nunique() <= FEW:
        yield "", None, table
        return
    arms = sorted(table["arm"].dropna().unique(), key=lambda arm: (arm != "image", arm))
    names = {arm: re.sub(r"[^\w-]+", "-", arm)[:40] for arm in arms}
    for number, arm in enumerate(arms):
        place = [other for other in arms if names[other] == names[arm]].index(arm)
        suffix = f"_{names[arm]}{f'-{place + 1}' if place else ''}" if number else ""
        yield suffix, arm, table[table["arm"] == arm]
