"""The first screen: one picture, one question, what three systems answer, and three numbers of each.

Not obvious: the picture is the first test picture that ``BM`` describes rightly, but in clean English, because one
where it keeps the language or does not see would show nothing, in a language that it leaves as often as not; the text
says so, and the numbers beside it are those of all pictures and languages.  The
same is written twice, as HTML for the introduction and as an SVG for the README, which needs no page to be looked at.

    python -m textreg.book.first                 # book/_static/first.svg from results/laptop
"""

import base64
import io
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from textwrap import wrap
from types import MappingProxyType
from typing import Annotated

import pandas as pd
import typer
from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from textreg.book.outcome import ASKED, ENGLISH, RIGHT, Values
from textreg.errors import InputError
from textreg.fidelity.estimates import CAPTION
from textreg.figures import marks
from textreg.figures.book import pictures
from textreg.figures.style import language_names
from textreg.figures.tables import Results, load_results
from textreg.files import atomic_write
from textreg.micro import assets

LANGUAGES = ("it", "fr", "de", "es")  # the first that BM answers in English half of the time or more
SYSTEMS = MappingProxyType(
    {
        "BM": "tuned on English pictures",
        "TR": "with multilingual text beside them",
        "TR+M": "merged with its language model",
    }
)
#: What the columns say: the asked language, clean English, and the asked language with the right content.
NUMBERS = MappingProxyType({"asked": ASKED, "English": ENGLISH, "asked, right": RIGHT})
FILE, SHIPPED = Path("book/_static/first.svg"), Path("results/laptop")
PAGES = Environment(
    loader=PackageLoader("textreg.book", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True
)


@dataclass(frozen=True)
class Said:
    """One system's answer: its words with whose they are, what it says in English, and its means (per cent)."""

    system: str
    about: str
    answer: str
    words: tuple[tuple[str, str], ...]
    gloss: str
    kind: str
    right: bool
    numbers: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class First:
    """What the first screen shows; ``place`` is the number of the picture among the test pictures, from 1."""

    picture: str
    place: int
    item: str
    shows: str
    language: str
    code: str
    prompt: str
    gloss: str
    answers: tuple[Said, ...]
    kept: str
    english: str


def first(results: Results) -> First | None:
    """The first screen of results; None where they hold no judged answers of the three systems."""
    answers = results.verdicts
    if answers.empty or "class" not in answers or not set(SYSTEMS) <= set(answers["system"]):
        return None
    seed = answers["seed"].min()
    asked = answers[(answers["arm"] == "image") & (answers["task"] == CAPTION)]
    code = _language(asked[asked["system"] == "BM"])
    rows = asked[asked["seed"] == seed]
    rows = rows[rows["backbone"] == rows["backbone"].iloc[0]] if len(rows) else rows
    asked = rows[rows["language"] == code].set_index(["item_id", "system"])
    items = list(dict.fromkeys(asked.index.get_level_values("item_id")))
    if not items:
        return None
    lost = [item for item in items if asked.loc[(item, "BM"), "class"] == "english"]
    seen = [item for item in lost if asked["content"].eq(True).get((item, "BM"))]
    item = (seen or lost or items)[0]
    found = pictures(results, int(seed), [item])
    if item not in found:
        return None
    values = Values(results)
    told = asked.loc[item]
    prompt = told["prompt"].iloc[0].replace("<image>", "").strip()
    return First(
        picture=_address(found[item]),
        place=items.index(item) + 1,
        item=item,
        shows=marks.gloss(json.loads(told["reference"].iloc[0])[1], code),
        language=language_names([code])[code],
        code=code,
        prompt=prompt,
        gloss=marks.question(prompt, code),
        answers=tuple(_said(values, system, told.loc[system], code) for system in SYSTEMS),
        kept=_told(values, "BM", ("text", "asked", CAPTION, code)),
        english=_told(values, "BM", ("image", "english", CAPTION, code)),
    )


def _language(told: pd.DataFrame) -> str:
    """The first of :data:`LANGUAGES` of whose answers at least half are clean English, else the one with the most."""
    shares = (told["class"] == "english").groupby(told["language"]).mean().drop("en", errors="ignore")
    return next(
        (code for code in LANGUAGES if shares.get(code, 0) >= 0.5), str(shares.idxmax()) if len(shares) else ""
    )


def html(shown: First | None) -> str:
    """The block of the introduction."""
    return PAGES.get_template("first.html.jinja").render(first=shown)


def vlm(shown: First | None) -> str:
    """The way from pixel to answer, with the sizes of the shipped model."""
    sizes = json.loads((assets.FOLDER / assets.MANIFEST).read_text(encoding="utf-8"))["settings"]
    patches = (sizes["image_size"] // sizes["patch_size"]) ** 2
    picture, answer = (shown.picture, shown.answers[-1].answer) if shown else ("", "")
    return PAGES.get_template("vlm.html.jinja").render(s=sizes, patches=patches, picture=picture, answer=answer)


def svg(shown: First) -> str:
    """The drawing of the README: the same words, in lines that fit its width."""
    lines = {said.system: _lines(said.words) for said in shown.answers}
    return PAGES.get_template("first.svg.jinja").render(first=shown, lines=lines)


def _said(values: Values, system: str, row: pd.Series, code: str) -> Said:
    answer = str(row["answer"]).strip()
    numbers = tuple((name, _told(values, system, point)) for name, point in NUMBERS.items())
    content = bool(row["content"]) if pd.notna(row["content"]) else False
    said = marks.gloss(answer, code)
    words = tuple(marks.words(answer, code))
    return Said(system, SYSTEMS[system], answer, words, said, str(row["class"]), content, numbers)


def _told(values: Values, system: str, point: tuple) -> str:
    try:
        return values.told(system, point)
    except KeyError:
        return "–"


def _address(picture: Image.Image) -> str:
    held = io.BytesIO()
    picture.save(held, "PNG")
    return f"data:image/png;base64,{base64.b64encode(held.getvalue()).decode()}"


def _lines(words: tuple[tuple[str, str], ...], width: int = 54) -> list[list[tuple[str, str]]]:
    """The words in lines of at most ``width`` characters."""
    left, text = iter(words), " ".join(word for word, _ in words)
    return [
        [next(left) for _ in line.split()]
        for line in wrap(text, width, break_long_words=False, break_on_hyphens=False)
    ]


def main(
    results: Annotated[Path, typer.Option(help="folder of results")] = SHIPPED,
    out: Annotated[Path, typer.Option(help="drawing to write")] = FILE,
) -> None:
    """Draw the README's first screen from results."""
    shown = first(load_results(results))
    if shown is None:
        raise InputError(f"{results}: no judged answers of {', '.join(SYSTEMS)} here")
    with atomic_write(out) as path:
        path.write_text(svg(shown), encoding="utf-8")
    print(out)


if __name__ == "__main__":
    try:
        typer.run(main)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
