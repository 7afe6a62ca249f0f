"""The user's own visual check: questions about pictures with short answers, in JSONL, asked of every system.

Two choices are not obvious.  An answer is compared as VQA does (Antol et al. 2015): case, punctuation, and in English
articles and number words do not count; with ten or more human answers it scores a third for every other person who
said the same, at most 1, and with fewer it is right if it is one of them.  Because a tuned model may answer in a whole
sentence, the share of answers that *contain* a right one as whole words stands beside it, as a task of its own.

Say ``prepare_data.visual_check: my_questions.jsonl`` in a profile; each line
``{"image": "a.png", "question": "How many?", "answer": ["2", "two"], "language": "en"}``.
"""

import json
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from textreg.data.mixture import BLANK, PLACEHOLDER
from textreg.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

TASK = "question"
CONTAINED = "question, answer contained"
HUMANS = 10  # answers from which on people are counted instead of synonyms
ARTICLES = frozenset({"a", "an", "the"})
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


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
    from textreg.data.codes import check_code

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


def normal(text: str, language: str = "en") -> str:
    """A short answer as it is compared: lower case, no punctuation, single spaces; in English no articles, and number
    words up to ten as digits.  A point or comma between digits stays.
    """
    text = unicodedata.normalize("NFKC", text).casefold().replace("’", "'")
    kept = []
    for place, letter in enumerate(text):
        within = text[place - 1 : place].isdigit() and text[place + 1 : place + 2].isdigit()
        marks = unicodedata.category(letter)[0] in "PSC" and letter != "'" and not (letter in ".,:" and within)
        kept.append(" " if marks else letter)
    words = "".join(kept).split()
    if language == "en":
        words = [_numbers().get(word, word) for word in words if word not in ARTICLES]
    return " ".join(words)


@cache
def _numbers() -> dict[str, str]:
    return {"none": "0"} | {word: str(number) for number, word in enumerate(NUMBERS)}


def vqa_score(answer: str, right: Sequence[str], language: str = "en") -> float:
    """0..1 by the rule of VQA (see above); an empty answer scores 0."""
    said, known = normal(answer, language), [normal(text, language) for text in right]
    if not said:
        return 0.0
    if len(known) < HUMANS:
        return float(said in known)
    same = sum(text == said for text in known)
    # The mean over all ways to leave one person out: those who agree with the answer lose one supporter.
    agreeing, others = min(1.0, max(same - 1, 0) / 3), min(1.0, same / 3)
    return (same * agreeing + (len(known) - same) * others) / len(known)


def contains(answer: str, right: Sequence[str], language: str = "en") -> bool:
    """Whether a right answer stands in ``answer`` as whole words."""
    said = f" {normal(answer, language)} "
    return any(f" {text} " in said for text in (normal(text, language) for text in right) if text)


def accuracy(answers: "pd.DataFrame", bootstrap: int = 1000, seed: int = 0) -> "pd.DataFrame":
    """Rows of ``visual.csv`` for the user's questions, arm ``image``: per seed, system, lambda and language.

    ``answers``: columns of ``answers.parquet``, ``reference`` a JSON list; other tasks and arms are ignored.  Two
    tasks: ``question`` (VQA accuracy) and ``question, answer contained``.  Bounds resample questions.
    """
    import pandas as pd

    from textreg.fidelity.intervals import mean_bounds
    from textreg.fidelity.measures import VISUAL_COLUMNS

    asked = answers[(answers["task"] == TASK) & (answers["arm"] == "image")]
    rows = []
    for (number, name, lam, language), group in asked.groupby(["seed", "system", "lambda", "language"], sort=False):
        said = group["answer"].fillna("").astype(str).tolist()
        pairs = list(zip(said, map(json.loads, group["reference"]), strict=True))
        for task, score in ((TASK, vqa_score), (CONTAINED, contains)):
            scores = [float(score(answer, right, language)) for answer, right in pairs]
            bounds = mean_bounds(scores, resamples=bootstrap, seed=seed)
            rows.append((number, name, lam, task, language, len(scores), sum(scores) / len(scores), *bounds))
    return pd.DataFrame(rows, columns=list(VISUAL_COLUMNS))
