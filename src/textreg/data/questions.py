"""The user's own visual check: questions about pictures with short answers, in JSONL, asked of every system.

How an answer is scored is said in :mod:`textreg.fidelity.references`.

Say ``prepare_data.visual_check: my_questions.jsonl`` in a profile; each line
``{"image": "a.png", "question": "How many?", "answer": ["2", "two"], "language": "en"}``.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from textreg.data.codes import check_code
from textreg.data.images import BLANK
from textreg.data.mixture import PLACEHOLDER
from textreg.errors import InputError

TASK = "question"


def read_questions(path: str | Path) -> list[dict[str, Any]]:
    """The questions of a file: dictionaries with exactly ``image, question, answer`` (a list of texts), ``language``.

    In the file ``answer`` may be one text, number or yes/no value, and ``language`` may be left out (English).  Raises
    ``InputError`` naming file, line and column.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise InputError(
            f"prepare_data.visual_check {path}: no such file; expected JSONL with image, question, answer"
        )
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"prepare_data.visual_check {path}: not readable as UTF-8 text ({error})") from error
    found = [_question(line, f"{path.name}, line {n}") for n, line in enumerate(lines, start=1) if line.strip()]
    if not found:
        raise InputError(f"prepare_data.visual_check {path}: it holds no question")
    return found


def _question(line: str, where: str) -> dict[str, Any]:

    try:
        record = json.loads(line)
    except ValueError as error:
        raise InputError(f"{where}: not a JSON object ({error})") from error
    for column in ("image", "question", "answer"):
        if not isinstance(record, dict) or record.get(column) in (None, "", []):
            raise InputError(f"{where}: no {column}; expected image, question, answer")
    answers = record["answer"] if isinstance(record["answer"], list) else [record["answer"]]
    if any(not isinstance(answer, str | int | float) for answer in answers):
        raise InputError(f"{where}: answer holds {json.dumps(record['answer'])[:60]}; expected texts")
    try:
        language = check_code(str(record.get("language") or "en"))
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    return {
        "image": str(record["image"]),
        "question": str(record["question"]),
        "answer": [_text(answer) for answer in answers],
        "language": language,
    }


def _text(answer: str | int | float) -> str:
    return ("yes" if answer else "no") if isinstance(answer, bool) else str(answer)


def question_requests(questions: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Requests of the arms ``image`` and ``blank`` (a question without its image has no text arm).

    ``image`` of a question is the picture's id in ``images.parquet`` by now.
    """
    for number, question in enumerate(questions):
        for arm, image_id in (("image", question["image"]), ("blank", BLANK)):
            yield {
                "item_id": f"question/{number}",
                "split": "test",
                "arm": arm,
                "task": TASK,
                "language": question["language"],
                "image_id": image_id,
                "prompt": f"{PLACEHOLDER}\n{question['question']}",
                "reference": json.dumps(question["answer"], ensure_ascii=False),
            }
