"""What can be said of one answer: right language, English, parsed, right about the image, line by line.

Every statement is a nullable flag: what cannot be said is missing, never right and never wrong.  Not obvious: what is
judged is the answer without reasoning, code and the like (``parts``), all of it, in pieces; the answer counts as in
the language of most of its letters, and is ``mixed`` where a tenth of them or more is in another.  A short one is
judged by word lists where they exist and is unscored otherwise (an identifier is guessing below four words); a word
that is both the asked language's and English's is left out; an empty answer is wrong, and in no language.

Use: ``annotate(answers, open_identifier())``; the tables over many answers are in ``measures``.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from operator import itemgetter
from typing import Any

import numpy as np
import pandas as pd

from textreg.data.codes import base_code
from textreg.errors import InputError, quoted
from textreg.fidelity.asked import NEAR, TOGETHER, can_tell, in_language, same_language, script_of
from textreg.fidelity.labels import NO_LANGUAGE, UNDECIDED, UNDETERMINED, Identifier, Label, clean
from textreg.fidelity.linewise import LineRules, kept, kept_lines, line_pass, lines_of, pieces, word_pass, words
from textreg.fidelity.parts import RULES, judged_part, refusals, without_repetition
from textreg.scenes import grammar, instructions, languages

ENGLISH, OTHER = "en", "other"
__all__ = ["CLASSES", "ENGLISH", "FLAGS", "Judge", "Rules", "annotate", "lf_plus"]
CLASSES = ("asked", "english", "other", "mixed", "short", "empty")
FLAGS = ("undecided", "repetition", "refusal")
NOTHING = (UNDECIDED, UNDETERMINED)
SURELY = 8  # words from which two identifiers that both reject a language need not agree on another
PURE = 0.9  # share of an answer's letters from which on it is in one language
Judge = Callable[[Sequence[tuple[str, str, str]]], Sequence[Any]]


@dataclass(frozen=True)
class Rules:
    """How answers are scored.

    ``min_words``: the shortest answer an identifier decides; ``lines``: of the line rates (None: no LPR, no WPR);
    ``set_aside``: names of what is not judged (``parts.RULES``); ``near``: whether near languages count as one.
    """

    min_words: int = 4
    lines: LineRules | None = field(default_factory=LineRules)
    set_aside: tuple[str, ...] = tuple(RULES)
    near: str = TOGETHER

    def __post_init__(self) -> None:
        if self.near not in NEAR:
            raise InputError(f"--near {quoted(self.near)}: together or apart")


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

    * ``identified`` (code, ``und`` nothing to tell by, ``zxx`` no language, ``undecided``), ``confidence`` (0..1),
      ``unrestricted`` (code or raw label)
    * ``words``, ``by_list`` (judged by the language's word lists instead of the identifier)
    * ``lf``, ``english``, ``other``: in the asked language, in English, in neither; missing where not scored
    * ``answered``: the language counted, ``other`` where a word list rejects it, missing where not scored
    * ``class``: one of ``CLASSES``, missing where the identifiers disagree or cannot tell the asked language; flags
      ``undecided``, ``repetition``, ``refusal``; ``set_aside``: names of the parts that were not judged
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
    texts, tasks, prompts = (
        answers[name].fillna("").astype(str).tolist() if name in answers else [""] * len(answers)
        for name in ("answer", "task", "prompt")
    )
    asked = answers["language"].astype(str).tolist()
    parts = [judged_part(text, prompt, rules.set_aside) for text, prompt in zip(texts, prompts, strict=True)]
    once = [without_repetition(text) for text, _ in parts]
    split = [lines_of(text) for text, _ in once]
    cut = [pieces(lines, rules.min_words) for lines in split]
    lined = [_lined(text, lines, rules.lines) for (text, _), lines in zip(once, split, strict=True)]
    distinct = list(dict.fromkeys(text for found in (*cut, *(lines for lines, _ in lined)) for text in found))
    label_of = dict(zip(distinct, identifier.identify(distinct), strict=True))
    said = _agreed(identifier, cut, [[label_of[text] for text in found] for found in cut])
    asking = {q: _Asked(q, identifier.candidates, rules.near) for q in set(asked)}
    decided = [
        _decide(text, task, asking[language], found, labelled)
        for (text, _), task, language, found, labelled in zip(once, tasks, asked, cut, said, strict=True)
    ]

    table = answers.copy(deep=False)
    for name in ("identified", "unrestricted", "answered", "by_list"):
        table[name] = [getattr(verdict, name) for verdict in decided]
    table["confidence"] = np.array([verdict.confidence for verdict in decided], dtype=np.float32)
    table["words"] = np.array([sum(count for _, count in lines) for lines in split], dtype=np.int32)
    counted = [verdict.answered for verdict in decided]
    table["lf"] = _flags(None if a is None else a == q for a, q in zip(counted, asked, strict=True))
    table["english"] = _flags(None if a is None else a == ENGLISH for a in counted)
    table["other"] = _flags(
        None if a is None else a not in (q, ENGLISH, UNDETERMINED) for a, q in zip(counted, asked, strict=True)
    )
    table["undecided"] = np.array([verdict.identified == UNDECIDED for verdict in decided])
    table["repetition"] = np.array([repeated for _, repeated in once])
    table["refusal"] = refusals([text for text, _ in parts])
    table["set_aside"] = [" ".join(names) for _, names in parts]
    judged_texts = [text for text, _ in parts]
    _annotate_by_grammar(table, judged_texts, asked, tasks)
    table["judged"] = _judged(table, judged_texts, asked, prompts, judge)
    table["lf_plus"] = lf_plus(table["lf"], table["judged"])
    table["class"] = _classes(table, [verdict.kind for verdict in decided], judged_texts, asked, tasks)
    passes, word_passes = [], []
    for (lines, _), language in zip(lined, asked, strict=True):
        found = [label_of[line] for line in lines]
        right = [asking[language].right(label, line) for line, label in zip(lines, found, strict=True)]
        passes.append(line_pass(right, found, rules.lines) if asking[language].known else None)
        word_passes.append(word_pass(lines, base_code(language), passes[-1], rules.lines))
    table["lpr"], table["wpr"] = _flags(passes), _flags(word_passes)
    table["lines"] = np.array([len(lines) for lines, _ in lined], dtype=np.int32)
    table["short_lines"] = np.array([short for _, short in lined], dtype=np.int32)
    return table


def _flags(values: Iterable[bool | None]) -> pd.arrays.BooleanArray:
    return pd.array(list(values), dtype="boolean")


def _lined(text: str, lines: list[tuple[str, int]], rules: LineRules | None) -> tuple[list[str], int]:
    if rules is None:
        return [], 0
    return kept_lines(text, rules) if rules.cut_at in text else kept(lines, rules)


def _agreed(identifier: Identifier, cut: Sequence[list[str]], labels: list[list[Label]]) -> list[list[Label]]:
    """The labels, where undecided pieces of an answer take what is said of the answer as a whole."""
    open_ones = [i for i, found in enumerate(labels) if len(found) > 1 and any(one.code in NOTHING for one in found)]
    for i, whole in zip(open_ones, identifier.identify([" ".join(cut[i]) for i in open_ones]), strict=True):
        labels[i] = [whole if one.code in NOTHING else one for one in labels[i]]
    return labels


@dataclass(frozen=True)
class _Asked:
    """An asked language, beside what the identifier can say."""

    language: str
    candidates: tuple[str, ...]
    near: str

    @cached_property
    def known(self) -> bool:
        return can_tell(self.language, self.candidates, self.near)

    def right(self, label: Label, text: str) -> bool | None:
        """Whether a labelled text is in the asked language; None where nobody can say."""
        if label.code in NOTHING:  # identifiers that disagree may still agree that it is neither this nor English
            could = (self.language, ENGLISH, *NOTHING, NO_LANGUAGE)
            rejected = label.votes and not any(same_language(vote, code) for vote in label.votes for code in could)
            return False if rejected and words(text) >= SURELY else None
        return self.language == label.code or in_language(self.language, label.code, text, self.near, self.candidates)


@dataclass(frozen=True, slots=True)
class _Verdict:
    """What one answer counts as; ``kind`` is its class as far as an identifier or word list tells it."""

    answered: str | None
    kind: str | None
    by_list: bool = False
    identified: str = UNDETERMINED
    confidence: float = 1.0
    unrestricted: str | None = None


def _decide(text: str, task: str, asked: _Asked, found: list[str], labels: list[Label]) -> _Verdict:
    """The language an answer counts as (None: not scored), by word lists, or by the letters of its pieces."""
    own, english = _lists(asked.language, task)
    if own:
        word = _short_form(text)
        if word in own:
            shared = asked.language != ENGLISH and word in english
            return _Verdict(None if shared else asked.language, "short" if shared else "asked", True)
        if word in english:
            return _Verdict(ENGLISH, "english", True)
        if not found and any(map(str.isalpha, word)):
            return _Verdict(OTHER, "other", True)
    if not found:
        empty = not clean(text)
        return _Verdict(UNDETERMINED if empty and asked.known else None, "empty" if empty else "short")
    weights: dict[str, int] = defaultdict(int)
    longest: dict[str, tuple[int, Label]] = {}
    for piece, label in zip(found, labels, strict=True):
        right = asked.right(label, piece)
        code = asked.language if right else UNDECIDED if right is None else OTHER if label.votes else label.code
        if code == base_code(asked.language) != asked.language:
            code = f"{code}-{script_of(piece)}"
        weights[code] += len(piece)
        longest[code] = max(longest.get(code, (0, label)), (len(piece), label), key=itemgetter(0))
    undecided, nothing = weights.pop(UNDECIDED, 0), weights.pop(NO_LANGUAGE, 0)
    total = sum(weights.values())
    if undecided and undecided >= total + nothing:
        alone = all(label.code == UNDETERMINED for label in labels)
        return _Verdict(None, "short" if alone else None, identified=UNDETERMINED if alone else UNDECIDED)
    if not total:
        kind = (NO_LANGUAGE, "mixed") if asked.known else (None, None)
        return _Verdict(*kind, identified=NO_LANGUAGE)
    main = max(weights, key=weights.__getitem__)
    label = longest[main][1]
    said = {
        "identified": OTHER if label.votes else label.code,
        "confidence": label.confidence,
        "unrestricted": label.unrestricted,
    }
    if not asked.known:
        return _Verdict(None, "english" if main == ENGLISH else None, **said)
    kind = "asked" if main == asked.language else "english" if main == ENGLISH else "other"
    return _Verdict(main, kind if weights[main] >= PURE * total else "mixed", **said)


def _classes(
    table: pd.DataFrame, kinds: list[str | None], texts: list[str], asked: list[str], tasks: list[str]
) -> list[str | None]:
    """Classes by identifier, made stricter where a grammar or a judge says more: clean is what they accept."""
    found = []
    columns = (kinds, table["parsed"].tolist(), table["judged"].tolist(), texts, asked, tasks)
    for kind, parsed, judged, text, language, task in zip(*columns, strict=True):
        if parsed is not pd.NA and kind in ("asked", "english", "other", "mixed", None) and _is_sentence(task):
            kind = "asked" if parsed else _spoken(text, task, language)
        elif judged is not pd.NA and not judged and kind == "asked":
            kind = "mixed"
        found.append(kind)
    return found


def _is_sentence(task: str) -> bool:
    return task.removeprefix(instructions.READ) not in grammar.ANSWER_TASKS


def _spoken(text: str, task: str, asked: str) -> str:
    """Class of a sentence that the asked language's grammar rejects."""
    if asked != ENGLISH and instructions.meaning_in(text, task, ENGLISH) is not None:
        return "english"
    others = (code for code in languages.codes() if code not in (asked, ENGLISH))
    return "other" if any(instructions.meaning_in(text, task, code) is not None for code in others) else "mixed"


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


def _judged(
    table: pd.DataFrame, texts: list[str], asked: list[str], prompts: list[str], judge: Judge | str | None
) -> pd.Series:
    if judge == "exact":
        return table["parsed"]
    if judge in (None, "none"):
        return pd.Series(pd.array([None] * len(table), dtype="boolean"), index=table.index)
    if not callable(judge):
        raise InputError(f"unknown judge {judge!r}: 'exact', 'none' or a function")
    verdicts = judge(list(zip(prompts, texts, asked, strict=True)))
    return pd.Series(_flags(verdict.ok for verdict in verdicts), index=table.index)
