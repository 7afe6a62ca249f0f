"""Answers against what people wrote: chrF of captions, and the score of short answers as VQA counts it.

Captions are scored by chrF (sacrebleu), which needs no word splitting and so treats all languages alike; CIDEr is left
out because its reference code needs a Java tokenizer and is made for English.  A short answer is compared as VQA does
(Antol et al. 2015): case, punctuation, and in English articles and number words do not count; with ten or more human
answers it scores a third for every other person who said the same, at most 1, and with fewer it is right if it is one
of them.  Because a tuned model may answer in a whole sentence, the share of answers that *contain* a right one as
whole words stands beside it, as a task of its own.

Use: ``caption_scores(answers)``, ``question_accuracy(answers)``.
"""

import json
import unicodedata
from collections.abc import Sequence
from functools import cache

import pandas as pd
from sacrebleu.metrics import CHRF

from textreg.data.questions import TASK
from textreg.fidelity.intervals import mean_bounds
from textreg.fidelity.measures import VISUAL_COLUMNS

CONTAINED = "question, answer contained"
HUMANS = 10  # answers from which on people are counted instead of synonyms
ARTICLES = frozenset({"a", "an", "the"})
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


def caption_scores(answers: "pd.DataFrame") -> "pd.DataFrame":
    """chrF (0..100, corpus level) of caption answers per seed, system, lambda, language and arm, with ``n`` and the
    share ``cut`` (0..1) of them that the token limit cut off, undefined where nobody noted it (column ``finish``).

    ``answers``: columns of ``answers.parquet``; rows of other tasks are ignored, and so is the arm ``text``, whose
    prompt holds a reference.  The arm ``blank`` tells what a caption scores that knows nothing of its image.
    ``reference`` is a JSON list.  An empty answer counts as wrong, not as missing.  Source: Popović 2015, as in
    sacrebleu.
    """

    chrf = CHRF()
    keys = ["seed", "system", "lambda", "language", "arm"]
    rows = []
    captions = answers[(answers["task"] == "caption") & (answers["arm"] != "text")]
    for values, group in captions.groupby(keys, dropna=False, sort=False):
        references = [json.loads(text) for text in group["reference"]]
        width = max(len(texts) for texts in references)
        columns = [[texts[i] if i < len(texts) else None for texts in references] for i in range(width)]
        score = chrf.corpus_score(group["answer"].fillna("").tolist(), columns).score
        cut = group["finish"].eq("length").mean() if "finish" in group else float("nan")
        rows.append([*values, len(group), score, cut])
    return pd.DataFrame(rows, columns=[*keys, "n", "chrf", "cut"])


def caption_means(scores: "pd.DataFrame") -> "pd.DataFrame":
    """Mean chrF per system (index), for English and for the other languages, and per arm (columns); beside it the
    per cent of answers that the token limit cut off, where that was noted.

    ``scores``: what :func:`caption_scores` gave, one lambda a system.  Every language counts alike, as for LF.
    """
    spoken = scores["language"].eq("en").map({True: "English", False: "other languages"})
    told = scores.assign(languages=spoken, cut=100 * scores["cut"])
    chrf = told.pivot_table(index="system", columns=["languages", "arm"], values="chrf")
    cut = told.assign(languages="cut off, %").pivot_table(index="system", columns=["languages", "arm"], values="cut")
    return chrf.join(cut)


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


def question_accuracy(answers: "pd.DataFrame", bootstrap: int = 1000, seed: int = 0) -> "pd.DataFrame":
    """Rows of ``visual.csv`` for the user's questions, arm ``image``: per seed, system, lambda and language.

    ``answers``: columns of ``answers.parquet``, ``reference`` a JSON list; other tasks and arms are ignored.  Two
    tasks: ``question`` (VQA accuracy) and ``question, answer contained``.  Bounds resample questions.
    """

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
