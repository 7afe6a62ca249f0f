"""The answer explorer: what was answered, to look through in a browser that has no server and no network.

Staging writes three things from ``answers.parquet`` of one seed: ``answers-data.js`` (every answer of the first test
pictures with whose each word is, its class and whether it is right), ``answers-pictures.png`` (the pictures in one
row), and the page's block with the controls and, for a browser without JavaScript, a table of the first pictures.
``book/_static/answers.js`` does the rest.  Not obvious: the data are a script and not JSON, because a page opened from
a disk may not fetch; strings are kept once and rows are a flat list in a known order, which keeps it far below 1 MB.
"""

import json
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from textreg.book.first import PAGES
from textreg.fidelity.estimates import CAPTION
from textreg.figures import marks
from textreg.figures.book import pictures
from textreg.figures.style import CLASSES, CONTEXTS, language_names, language_order
from textreg.figures.tables import Results
from textreg.scenes import grammar, scene

PICTURES = 40
WITHOUT_SCRIPT = 3  # pictures of the table that needs no JavaScript
SYSTEMS = ("backbone", "BM", "EN", "TR", "TR+M")
REQUESTS = ("image", "text", "text_en")
REQUEST = ["item_id", "language", "arm", "system"]
DATA, SHEET = "answers-data.js", "answers-pictures.png"
SIGNS = {marks.OWN: "o", marks.ENGLISH: "e", marks.FOREIGN: "f"}


@dataclass(frozen=True)
class Shelf:
    """The data of the explorer.

    ``texts`` holds (answer, sign per word, class, place of its gloss in ``strings``); ``rows`` and ``prompts`` are
    flat lists over pictures, languages, arms (and systems): ``rows`` holds 3 * place in ``texts`` + (0 wrong, 1 right,
    2 not judged) or -1, ``prompts`` the places of a prompt's context and question in ``strings``.
    """

    seed: int
    side: int
    pictures: list[tuple[str, str]]
    languages: list[tuple[str, str]]
    systems: list[str]
    arms: list[tuple[str, str]]
    classes: dict[str, str]
    strings: list[str]
    texts: list[tuple[str, str, str, int]]
    rows: list[int]
    prompts: list[tuple[int, int]]


def write(results: Results | None, static: Path, page: Path) -> None:
    """Fill ``static`` with data and pictures and write the block of the page; without answers the block says so."""
    rows = pd.DataFrame() if results is None else _chosen(results)
    if rows.empty:
        page.write_text(PAGES.get_template("explorer.html.jinja").render(shelf=None), encoding="utf-8")
        return
    seed = int(rows["seed"].iloc[0])
    items = list(dict.fromkeys(rows["item_id"]))
    drawn = pictures(results, seed, items)
    items = [item for item in items if item in drawn][:PICTURES]
    shelf = _shelf(rows[rows["item_id"].isin(items)], items, seed, next(iter(drawn.values())).width)
    Image.fromarray(np.hstack([drawn[item] for item in items])).save(static / SHEET)
    text = json.dumps(asdict(shelf), ensure_ascii=False, separators=(",", ":"))
    (static / DATA).write_text(f"window.textregAnswers={text}\n", encoding="utf-8")
    table = _first_rows(rows[rows["item_id"].isin(items[:WITHOUT_SCRIPT])], items)
    block = PAGES.get_template("explorer.html.jinja").render(shelf=shelf, table=table)
    page.write_text(block, encoding="utf-8")


def _chosen(results: Results) -> pd.DataFrame:
    """Captions of one backbone and seed, without doubles."""
    answers = results.verdicts
    if answers.empty or "class" not in answers:
        return answers.iloc[:0]
    rows = answers[
        (answers["task"] == CAPTION)
        & answers["arm"].isin(REQUESTS)
        & answers["system"].isin(SYSTEMS)
        & (answers["seed"] == answers["seed"].min())
    ]
    rows = rows[rows["backbone"] == rows["backbone"].iloc[0]] if len(rows) else rows
    rows = rows.drop_duplicates(REQUEST)
    first = list(dict.fromkeys(rows.loc[rows["arm"] == "image", "item_id"]))[:PICTURES]
    return rows[rows["item_id"].isin(first)]


def _shelf(rows: pd.DataFrame, items: list[str], seed: int, side: int) -> Shelf:
    codes = _codes(rows)
    systems = [name for name in SYSTEMS if name in set(rows["system"])]
    arms = [arm for arm in REQUESTS if arm in set(rows["arm"])]
    strings, texts = {}, {}
    found = {tuple(row[key] for key in REQUEST): row for row in rows.to_dict("records")}
    flat, prompts = [], []
    for item, code, arm in product(items, codes, arms):
        asked = next((found[key] for name in systems if (key := (item, code, arm, name)) in found), None)
        context, question = _parts(asked["prompt"], arm) if asked else ("", "")
        prompts.append((_place(strings, context), _place(strings, question)))
        for name in systems:
            row = found.get((item, code, arm, name))
            if row is None:
                flat.append(-1)
                continue
            answer = str(row["answer"]).strip()
            signs = "".join(SIGNS[kind] for _, kind in marks.words(answer, code))
            kind = "" if pd.isna(row["class"]) else str(row["class"])
            text = (answer, signs.rstrip("o"), kind, _place(strings, marks.gloss(answer, code)))
            flat.append(3 * _place(texts, text) + (2 if pd.isna(row["content"]) else int(bool(row["content"]))))
    names = language_names(codes)
    scenes = rows.drop_duplicates("item_id").set_index("item_id")["reference"]
    return Shelf(
        seed=seed,
        side=side,
        pictures=[(item, _scene(scenes[item])) for item in items],
        languages=[(code, names[code]) for code in codes],
        systems=systems,
        arms=[(arm, CONTEXTS[arm]) for arm in arms],
        classes={name: mark.label for name, mark in CLASSES.items()},
        strings=list(strings),
        texts=list(texts),
        rows=flat,
        prompts=prompts,
    )


def _codes(rows: pd.DataFrame) -> list[str]:
    """Languages by name, English last: what happens, happens in the others."""
    return sorted(language_order(rows["language"]), key=lambda code: code == "en")


def _place(kept: dict[Any, int], thing: Any) -> int:
    """Where a thing that is kept once stands."""
    return kept.setdefault(thing, len(kept))


def _parts(prompt: str, arm: str) -> tuple[str, str]:
    """Context (empty for a picture) and question of a prompt, which is its last line."""
    context, _, question = prompt.rpartition("\n")
    return ("" if arm == "image" else context.strip()), question.strip()


def _scene(reference: str) -> str:
    return grammar.caption(scene.from_json(json.loads(reference)[0]), "en", frame=0)


def _first_rows(rows: pd.DataFrame, items: list[str]) -> list[dict[str, Any]]:
    """Rows of the table without JavaScript: the image arm of the first pictures, every language and system."""
    names = language_names(rows["language"])
    codes, rank = _codes(rows), {name: place for place, name in enumerate(SYSTEMS)}
    shown = rows[rows["arm"] == "image"].to_dict("records")
    shown.sort(key=lambda row: (items.index(row["item_id"]), codes.index(row["language"]), rank[row["system"]]))
    return [
        {
            "picture": items.index(row["item_id"]),
            "language": names[row["language"]],
            "code": row["language"],
            "system": row["system"],
            "words": marks.words(str(row["answer"]).strip(), row["language"]),
            "gloss": marks.gloss(str(row["answer"]).strip(), row["language"]),
            "kind": CLASSES[row["class"]].label if row["class"] in CLASSES else "–",
            "content": "–" if pd.isna(row["content"]) else "right" if row["content"] else "wrong",
        }
        for row in shown
    ]
