"""The visual check: questions about pictures with short answers, asked of every system at hub scale.

``prepare_data.visual_check`` names a JSONL file of one's own, each line ``{"image": "a.png", "question": "How many?",
"answer": ["2", "two"], "language": "en"}``, or a data set with these columns (``lmms-lab/POPE``).  Not obvious: a
picture belongs to one split only, with all its questions, so that lambda is chosen on other pictures than those that
the results are about; and a data set is streamed, because its pictures are larger than what is asked about them.
How an answer is scored is said in :mod:`textreg.fidelity.references`.

Try it: ``next(read_questions("my_questions.jsonl"))``.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from textreg.data import hub
from textreg.data.codes import check_code
from textreg.data.images import BLANK
from textreg.data.mixture import PLACEHOLDER, largest_remainder
from textreg.data.sources import records
from textreg.errors import InputError

TASK = "question"
COLUMNS = ("image", "question", "answer", "answers", "language")


def read_questions(name: str | Path) -> Iterator[dict[str, Any]]:
    """The questions of a file, a folder or a hub id, in order: ``number`` (from 0), ``image`` (a path, or the picture
    itself), ``question``, ``answer`` (a list of texts), ``language``.

    In the data ``answer`` may be one text, number or yes/no value, and ``language`` may be left out (English).  Raises
    ``InputError`` naming file, question and column.
    """
    folder, number = hub.resolve(str(name), kind="dataset"), -1
    for path in hub.data_files(str(name), folder):
        for record in records(path, COLUMNS):
            number += 1
            yield {"number": number, **_question(record, f"{path.name}, question {number + 1}")}
    if number < 0:
        raise InputError(f"prepare_data.visual_check {name}: it holds no question")


def _question(record: Any, where: str) -> dict[str, Any]:
    given = {"answer": record.get("answers"), **record} if isinstance(record, dict) else {}
    for column in ("image", "question", "answer"):
        if given.get(column) in (None, "", []):
            raise InputError(f"{where}: no {column}; expected image, question, answer")
    answers = given["answer"] if isinstance(given["answer"], list) else [given["answer"]]
    if any(not isinstance(answer, str | int | float) for answer in answers):
        raise InputError(f"{where}: answer holds {json.dumps(given['answer'])[:60]}; expected texts")
    try:
        language = check_code(str(given.get("language") or "en"))
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    return {
        "image": given["image"] if isinstance(given["image"], dict) else str(given["image"]),
        "question": str(given["question"]),
        "answer": [_text(answer) for answer in answers],
        "language": language,
    }


def _text(answer: str | int | float) -> str:
    return ("yes" if answer else "no") if isinstance(answer, bool) else str(answer)


def split_questions(questions: Iterable[Mapping[str, Any]], wanted: Mapping[str, int], seed: int) -> dict[int, str]:
    """Number of a question -> its split, for a seeded choice of ``wanted`` (split -> questions) whole pictures.

    Where there are fewer questions than wanted, the splits share them in proportion.
    """
    pictures: dict[str, list[int]] = {}
    for question in questions:
        image = question["image"]
        key = image if isinstance(image, str) else hashlib.sha256(image.get("bytes") or b"").hexdigest()
        pictures.setdefault(key, []).append(question["number"])
    total = sum(map(len, pictures.values()))
    parts = largest_remainder(list(wanted.values()), min(total, sum(wanted.values())))
    order = iter(np.random.default_rng([seed, 6]).permutation(len(pictures)))
    members, found = list(pictures.values()), {}
    for split, left in zip(wanted, parts, strict=True):
        while left > 0 and (picture := next(order, None)) is not None:
            chosen = members[picture][:left]
            found |= dict.fromkeys(chosen, split)
            left -= len(chosen)
    return found


def question_requests(questions: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Requests of the arms ``image`` and ``blank`` (a question without its image has no text arm).

    ``image`` of a question is the picture's id in ``images.parquet`` by now, and ``split`` is known.
    """
    for question in questions:
        for arm, image_id in (("image", question["image"]), ("blank", BLANK)):
            yield {
                "item_id": f"question/{question['number']}",
                "split": question["split"],
                "arm": arm,
                "task": TASK,
                "language": question["language"],
                "image_id": image_id,
                "prompt": f"{PLACEHOLDER}\n{question['question']}",
                "reference": json.dumps(question["answer"], ensure_ascii=False),
            }
