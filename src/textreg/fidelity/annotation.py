"""What can be said of one answer: right language, English, parsed, right about the image, line by line.

Every statement is a nullable flag: what cannot be said is missing, never right and never wrong.  Not obvious: an empty
answer counts as wrong; a short one is judged by word lists where they exist and is undefined otherwise (an identifier
is guessing below four words); a word that is both the asked language's and English's is left out.

Use: ``annotate(answers, open_identifier())``; the tables over many answers are in ``fidelity.py``.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import pandas as pd

from textreg.errors import InputError
from textreg.fidelity.labels import NO_LANGUAGE, UNDETERMINED, Identifier, clean
from textreg.fidelity.linewise import LineRules, kept_lines, line_pass, tokens, word_pass
from textreg.scenes import grammar, instructions, languages

ENGLISH, OTHER = "en", "other"
Judge = Callable[[Sequence[tuple[str, str, str]]], Sequence[object]]


@dataclass(frozen=True)
class Rules:
    """How answers are scored: shortest answer the identifier decides, and the line rules (None: no LPR, no WPR)."""

    min_words: int = 4
    lines: LineRules | None = field(default_factory=LineRules)


def lf_plus(identified_ok: pd.Series, judge_ok: pd.Series) -> pd.Series:
    """LF+ per answer: the identifier names the asked language *and* the judge accepts no other beside it.

    Both are nullable booleans; the result is missing where either is, so that an answer nobody judged is not counted.
    Our reconstruction: the paper's formula for LF+ is not known to us.
    """
    both = identified_ok & judge_ok
    return both.mask(identified_ok.isna() | judge_ok.isna())


def annotate(
    answers: pd.DataFrame, identifier: Identifier, judge: Judge | str | None = "exact", rules: Rules | None = None
) -> pd.DataFrame:
    """The answers with one column per thing that can be said of each.

    answers: ``answer`` and ``language``; ``task``, ``reference`` (JSON list whose first element is the meaning) and
    ``prompt`` are used where present.  Added columns:

    * ``identified`` (code, ``und`` empty, ``zxx`` no language), ``confidence`` (0..1), ``unrestricted`` (code or raw
      label)
    * ``words``, ``by_list`` (judged by the language's word lists instead of the identifier)
    * ``lf``, ``english``, ``other``: in the asked language, in English, in neither; missing where not scored
    * ``answered``: the language counted, ``other`` where a word list rejects it, missing where not scored
    * ``parsed``, ``grounded``, ``content``: the asked language's grammar accepts the answer; and it is right about the
      image; it is right in whatever language.  Missing without a grammar and a scene to compare with.
    * ``exclusive``: exclusive word share, of sentences only
    * ``judged``, ``lf_plus``; ``lpr``, ``wpr``, ``lines``, ``short_lines``

    judge: ``exact`` (the grammars, where they apply), None, or a function from (prompt, answer, language) rows to
    verdicts with an ``ok`` of True, False or None.  Raises InputError on a missing column or an unknown judge.
    """
    rules = rules or Rules()
    for column in ("answer", "language"):
        if column not in answers.columns:
            raise InputError(f"answers table: column {column!r} is missing; it needs 'answer' and 'language'")
    texts = answers["answer"].fillna("").astype(str).tolist()
    asked = answers["language"].astype(str).tolist()
    tasks = answers["task"].fillna("").astype(str).tolist() if "task" in answers else [""] * len(texts)
    lined = [kept_lines(text, rules.lines) if rules.lines else ([], 0) for text in texts]
    labels = identifier.identify([*texts, *(line for lines, _ in lined for line in lines)])
    found, of_lines = labels[: len(texts)], iter(labels[len(texts) :])

    table = answers.copy(deep=False)
    table["identified"] = [label.code for label in found]
    table["confidence"] = np.array([label.confidence for label in found], dtype=np.float32)
    table["unrestricted"] = [label.unrestricted for label in found]
    table["words"] = np.array([len(tokens(text[:2000])) for text in texts], dtype=np.int32)
    decided = [
        _decide(text, language, task, label.code, words, language in identifier.candidates, rules.min_words)
        for text, language, task, label, words in zip(texts, asked, tasks, found, table["words"], strict=True)
    ]
    table["answered"] = [answered for answered, _ in decided]
    table["by_list"] = [by_list for _, by_list in decided]
    table["lf"] = _flags(None if a is None else a == q for (a, _), q in zip(decided, asked, strict=True))
    table["english"] = _flags(None if a is None else a == ENGLISH for a, _ in decided)
    table["other"] = ~(table["lf"] | table["english"])
    _annotate_by_grammar(table, texts, asked, tasks)
    table["judged"] = _judged(table, texts, asked, judge)
    table["lf_plus"] = lf_plus(table["lf"], table["judged"])
    passes, word_passes = [], []
    for (lines, _), language in zip(lined, asked, strict=True):
        known = language in identifier.candidates
        passed = line_pass([next(of_lines) for _ in lines], language, rules.lines) if lines else None
        passes.append(passed if known else None)
        word_passes.append(word_pass(lines, language, passed, rules.lines) if known and lines else None)
    table["lpr"], table["wpr"] = _flags(passes), _flags(word_passes)
    table["lines"] = np.array([len(lines) for lines, _ in lined], dtype=np.int32)
    table["short_lines"] = np.array([short for _, short in lined], dtype=np.int32)
    return table


def _flags(values: Iterable[bool | None]) -> pd.arrays.BooleanArray:
    return pd.array(list(values), dtype="boolean")


def _decide(
    text: str, asked: str, task: str, code: str, words: int, known: bool, min_words: int
) -> tuple[str | None, bool]:
    """The language an answer counts as (None: not scored), and whether word lists said so."""
    own, english = _lists(asked, task)
    if own:
        word = _short_form(text)
        if word in own:
            return (None if asked != ENGLISH and word in english else asked), True
        if word in english:
            return ENGLISH, True
        if words < min_words and any(map(str.isalpha, word)):
            return OTHER, True
    if not known:
        return None, False
    if not text.strip() or (code == UNDETERMINED and not clean(text)):
        return UNDETERMINED, False
    if words < min_words:
        digits = any(c.isdigit() for c in text[:2000])
        return (NO_LANGUAGE if code == NO_LANGUAGE and not digits else None), False
    return code, False


@lru_cache(maxsize=512)
def _lists(asked: str, task: str) -> tuple[frozenset[str], frozenset[str]]:
    """Short answers of a question kind in the asked language and in English; empty where there is no list."""
    kind = task.removeprefix(instructions.READ)
    if kind not in grammar.ANSWER_TASKS or asked not in languages.codes():
        return frozenset(), frozenset()
    return grammar.short_answers(asked, kind), grammar.short_answers(ENGLISH, kind)


def _short_form(text: str) -> str:
    text = clean(text).replace("’", "'").lower()
    return text[:-1].rstrip() if text.endswith(".") else text


def _annotate_by_grammar(table: pd.DataFrame, texts: list[str], asked: list[str], tasks: list[str]) -> None:
    """Add ``exclusive``, ``parsed``, ``grounded`` and ``content``; missing in rows without a grammar and a meaning."""
    known = set(languages.codes())
    references = table["reference"].tolist() if "reference" in table else [None] * len(texts)
    exclusive = np.full(len(texts), np.nan, dtype=np.float32)
    parsed, grounded, content = [], [], []
    for i, (text, language, task, reference) in enumerate(zip(texts, asked, tasks, references, strict=True)):
        meaning = _meaning(reference, task) if language in known else None
        if meaning is None:
            parsed.append(None)
            grounded.append(None)
            content.append(None)
            continue
        read = instructions.meaning_in(text, task, language)
        parsed.append(read is not None)
        grounded.append(read == meaning)
        content.append(read == meaning or instructions.meaning_in_any_language(text, task) == meaning)
        if language != ENGLISH and instructions.is_sentence_task(task):
            share = grammar.exclusive_share(text[:2000], language)
            exclusive[i] = np.nan if share is None else share
    table["exclusive"] = exclusive
    table["parsed"], table["grounded"], table["content"] = _flags(parsed), _flags(grounded), _flags(content)


@lru_cache(maxsize=65536)
def _meaning(reference: str | None, task: str) -> str | None:
    """What an answer is compared with: the first reference, if it is a scene or answers a known question kind."""
    if not isinstance(reference, str) or not reference.startswith("["):
        return None
    try:
        meanings = json.loads(reference)
    except ValueError:
        return None
    meaning = meanings[0] if meanings and isinstance(meanings[0], str) else None
    kind = task.removeprefix(instructions.READ)
    if kind in grammar.ANSWER_TASKS:
        return meaning
    is_scene = (
        meaning is not None
        and meaning.startswith("{")
        and (task == instructions.CAPTION or task in instructions.TEXT_TASKS)
    )
    return meaning if is_scene else None


def _judged(table: pd.DataFrame, texts: list[str], asked: list[str], judge: Judge | str | None) -> pd.Series:
    if judge == "exact":
        return table["parsed"]
    if judge in (None, "none"):
        return pd.Series(pd.array([None] * len(table), dtype="boolean"), index=table.index)
    if not callable(judge):
        raise InputError(f"unknown judge {judge!r}: 'exact', 'none' or a function")
    prompts = table["prompt"].fillna("").astype(str).tolist() if "prompt" in table else [""] * len(texts)
    verdicts = judge(list(zip(prompts, texts, asked, strict=True)))
    return pd.Series(_flags(verdict.ok for verdict in verdicts), index=table.index)
