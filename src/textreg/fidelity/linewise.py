"""Line and word pass rates of the Language Confusion Benchmark (Marchisio et al. 2024, arXiv 2406.20052).

A response passes by line if every line long enough to judge is in the asked language; among those, it passes by word
if no line holds an English word.  The defaults of :class:`LineRules` are the benchmark's.  Two things differ, on
purpose: where no line is long enough the result is undefined (the benchmark counts a pass), and without its Chinese
and Japanese tokenisers every character of a script written without spaces counts as one token.  The English words are
SCOWL's (``english_words.txt``).

Use: ``kept_lines(answer)``, then ``line_pass(labels, "ru")`` with the labels of the kept lines.
"""

import re
import string
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files

from textreg.fidelity.labels import Label

# Thai, Lao, Burmese, Khmer, kana, Han
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_HAS_UNSPACED = re.compile(f"[{_UNSPACED}]")
_TOKEN = re.compile(f"[{_UNSPACED}]|[^\\s{_UNSPACED}]+")


@dataclass(frozen=True)
class LineRules:
    """The rules of the two rates; the defaults are those of the benchmark's code.

    ``cut_at`` ends the response where a base model invents the next question; ``delete`` are removed characters and
    ``to_space`` those that become a space; ``min_tokens`` is the shortest line that is judged; a confidence not above
    ``unknown_up_to`` is no language; ``word_languages`` have a word rate, because an English word shows in their
    script.
    """

    cut_at: str = "\nQ:"
    delete: str = string.punctuation + "،"
    to_space: str = "—"
    min_tokens: int = 5
    unknown_up_to: float = 0.3
    word_languages: tuple[str, ...] = ("ar", "hi", "ja", "ko", "ru", "zh")
    min_letters: int = 4
    max_chars: int = 2000


def tokens(text: str) -> list[str]:
    """Words between spaces; each character by itself in scripts written without spaces."""
    return text.split() if text.isascii() or not _HAS_UNSPACED.search(text) else _TOKEN.findall(text)


def kept_lines(answer: str, rules: LineRules | None = None) -> tuple[list[str], int]:
    """The normalised lines long enough to judge, and how many non-empty lines were too short.

    Only the first ``max_chars`` characters are read.
    """
    rules = rules or LineRules()
    deleted, spaced = _patterns(rules)
    text = answer[: rules.max_chars].split(rules.cut_at)[0].strip()
    text = spaced.sub(" ", deleted.sub("", text))
    lines = text.split("\n")
    kept = [line for line in lines if len(tokens(line)) >= rules.min_tokens]
    return kept, sum(1 for line in lines if line.strip()) - len(kept)


@lru_cache(maxsize=8)
def _patterns(rules: LineRules) -> tuple[re.Pattern, re.Pattern]:
    """What is deleted and what becomes a space; a search that finds nothing costs less than a translation."""
    return tuple(re.compile(f"[{re.escape(marks)}]" if marks else "(?!)") for marks in (rules.delete, rules.to_space))


def line_pass(labels: Sequence[Label], language: str, rules: LineRules | None = None) -> bool | None:
    """Whether every kept line is in the language; None (undefined) if no line was kept."""
    rules = rules or LineRules()
    if not labels:
        return None
    return all(label.code == language and label.confidence > rules.unknown_up_to for label in labels)


def word_pass(lines: Sequence[str], language: str, passed: bool | None, rules: LineRules | None = None) -> bool | None:
    """Whether no kept line holds an English word, as written (a capitalised one is a name).

    Undefined unless the response passed by line and the language has a word rate.
    """
    rules = rules or LineRules()
    if not passed or language not in rules.word_languages:
        return None
    words = english_words(rules.min_letters)
    return not any(token in words for line in lines for token in tokens(line))


@lru_cache(maxsize=4)
def english_words(min_letters: int = 4) -> frozenset[str]:
    """Lower-case English words of at least so many letters (the file has none shorter than four)."""
    text = files(__package__).joinpath("english_words.txt").read_text("ascii")
    return frozenset(w for w in text.splitlines() if len(w) >= min_letters and not w.startswith("#"))
