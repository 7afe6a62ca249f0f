"""A folder of concepts: their names and key words in many languages, and drawings of each in several styles.

This is how to bring pictures and words of one's own; ``textreg data pictures`` makes one of emoji:

* ``names.csv``: ``concept,language,name,words``, one line per concept and language; ``words`` are key words, with
  `` | `` between them.  English (``en``) names every concept.
* ``drawings/STYLE/CONCEPT.png`` (any format that opens): the same concepts in two styles or more.
* ``about.json``: ``held_out_style`` (never trained), ``picture_concepts`` (how many are shown in training), and
  whatever else is to be remembered.
* ``told_apart.csv`` (may be missing): ``concept,share``, how well the tower tells a concept from the others; the best
  become picture concepts (:mod:`textreg.pictures.splits`).

A name that two concepts share in a language tells nothing, and is left out there.

Use: ``concepts = read("runs/emoji/pictures")``; ``concepts.names["de"]["1f431"]``.
"""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import pandas as pd

from textreg.data.images import SUFFIXES
from textreg.errors import InputError, did_you_mean

BETWEEN = " | "
FORM = "textreg.pictures.folder says what it must hold"


@dataclass(frozen=True)
class Concepts:
    """What a folder holds.  ``names`` and ``words``: language -> concept -> name, or key words; ``styles``: style ->
    concept -> file; ``told_apart``: concept -> 0..1, empty where nobody measured it."""

    root: Path
    names: Mapping[str, Mapping[str, str]]
    words: Mapping[str, Mapping[str, tuple[str, ...]]]
    styles: Mapping[str, Mapping[str, Path]]
    held_out_style: str
    picture_concepts: int
    told_apart: Mapping[str, float]

    @property
    def drawn(self) -> list[str]:
        """Concepts that have a drawing in every style and an English name, in order."""
        return sorted(set(self.names["en"]).intersection(*self.styles.values()))

    def require(self, languages: list[str]) -> None:
        """Raise :class:`InputError` for a language in which nothing is named."""
        for code in languages:
            if code not in self.names:
                raise InputError(f"{self.root}: no name in {code!r}{did_you_mean(code, self.names)}; take it out")


@lru_cache(maxsize=8)
def read(root: str | Path) -> Concepts:
    """The folder of that place, checked.

    Raises :class:`InputError` for what is missing, damaged or not of the form above.
    """
    root = Path(root)
    try:
        table = pd.read_csv(root / "names.csv", keep_default_na=False, dtype=str)
        about = json.loads((root / "about.json").read_text("utf-8"))
        held_out, count = str(about["held_out_style"]), int(about["picture_concepts"])
        apart = root / "told_apart.csv"
        told = pd.read_csv(apart, dtype={"concept": str}) if apart.exists() else None
        shares = dict(zip(told["concept"], told["share"].astype(float), strict=True)) if told is not None else {}
        absent = {"concept", "language", "name", "words"} - set(table)
    except FileNotFoundError as error:
        raise InputError(f"{root}: {Path(error.filename).name} is missing; {FORM}") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{root}: damaged ({str(error).splitlines()[0][:120]}); {FORM}") from None
    if absent:
        raise InputError(f"{root}/names.csv: column {min(absent)!r} is missing; {FORM}")
    styles = {
        style.name: {path.stem: path for path in sorted(style.iterdir()) if path.suffix.lower() in SUFFIXES}
        for style in sorted((root / "drawings").glob("*/"))
    }
    if held_out not in styles or len(styles) < 2:
        raise InputError(
            f"{root}: held_out_style {held_out!r} is not one of two styles or more{did_you_mean(held_out, styles)}"
        )
    if "en" not in set(table["language"]):
        raise InputError(f"{root}/names.csv: no English name (en); {FORM}")
    names, words = {}, {}
    for code, rows in table.groupby("language"):
        often = Counter(name.casefold() for name in rows["name"])
        once = rows[[bool(name) and often[name.casefold()] == 1 for name in rows["name"]]]
        names[code] = dict(zip(once["concept"], once["name"], strict=True))
        split = ([word for word in each.split(BETWEEN) if word] for each in once["words"])
        words[code] = {concept: tuple(each) for concept, each in zip(once["concept"], split, strict=True)}
    return Concepts(root, names, words, styles, held_out, count, shares)
