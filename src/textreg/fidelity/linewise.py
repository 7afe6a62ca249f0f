"""Line and word pass rates of the Language Confusion Benchmark (Marchisio et al. 2024, arXiv 2406.20052).

A response passes by line if every line long enough to judge is in the asked language; among those, it passes by word
if no line holds an English word.  The defaults of :class:`LineRules` are the benchmark's.  Two things differ, on
purpose: where no line is long enough the result is undefined (the benchmark counts a pass), and without its Chinese
and Japanese tokenisers every character of a script written without spaces counts as one token.  The English words are
SCOWL's (``english_words.txt``).

``pieces`` cuts an answer for the question what language it is in as a whole: line by line, long lines in parts, lines
of too few words together, so that nothing of it goes unread.

Use: ``kept_lines(answer)``, then ``line_pass(found, labels)`` with what was found of the kept lines.
"""

import re
import string
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files

from textreg.fidelity.labels import Label

# Thai, Lao, Burmese, Khmer, kana, Han
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_LETTERS = re.compile(r"[^\W\d_]\W*[^\W\d_]|[^\W\d_\x00-\x7f]")  # two letters, or one that is not ASCII
LONGEST = 1000  # characters of a line that are judged together
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


def tokens(text: str) -> list[str]:
    """Words between spaces; each character by itself in scripts written without spaces."""
    return text.split() if text.isascii() or not _HAS_UNSPACED.search(text) else _TOKEN.findall(text)


def words(text: str) -> int:
    """How many tokens are words: bullets, numbers, signs and markers such as ``A.`` or ``(b)`` are none."""
    return sum([token.isalpha() or _LETTERS.search(token) is not None for token in tokens(text)])


def lines_of(text: str) -> list[tuple[str, int]]:
    """The non-empty lines of a text with their numbers of words."""
    return [(line, words(line)) for line in map(str.strip, text.split("\n")) if line]


def pieces(lines: Sequence[tuple[str, int]], min_words: int) -> list[str]:
    """Lines (:func:`lines_of`) in parts that an identifier can judge, none left out; nothing if all of them together
    have fewer words."""
    found, waiting, count = [], [], 0
    for line, here in lines:
        if not here:
            continue
        if not waiting and here >= min_words and len(line) <= LONGEST:
            found.append(line)
            continue
        for part in [line] if len(line) <= LONGEST else textwrap.wrap(line, LONGEST):
            waiting.append(part)
            count += here if part is line else words(part)
            if count >= min_words:
                found.append(" ".join(waiting))
                waiting, count = [], 0
    if waiting and found:
        found[-1] = " ".join([found[-1], *waiting])
    return found


def kept_lines(answer: str, rules: LineRules | None = None) -> tuple[list[str], int]:
    """The lines long enough to judge, as they are, and how many non-empty lines were too short."""
    rules = rules or LineRules()
    return kept(lines_of(answer.split(rules.cut_at)[0]), rules)


def kept(lines: Sequence[tuple[str, int]], rules: LineRules) -> tuple[list[str], int]:
    """:func:`kept_lines` of lines whose words are counted."""
    deleted, spaced = _patterns(rules)
    wanted = rules.min_tokens
    long = [
        line
        for line, count in lines
        if count >= wanted or len(tokens(spaced.sub(" ", deleted.sub("", line)))) >= wanted
    ]
    return long, len(lines) - len(long)


@lru_cache(maxsize=8)
def _patterns(rules: LineRules) -> tuple[re.Pattern, re.Pattern]:
    """What is deleted and what becomes a space; a search that finds nothing costs less than a translation."""
    return tuple(re.compile(f"[{re.escape(marks)}]" if marks else "(?!)") for marks in (rules.delete, rules.to_space))


def line_pass(found: Sequence[bool | None], labels: Sequence[Label], rules: LineRules | None = None) -> bool | None:
    """Whether every kept line is in the language (``found``); None (undefined) if no line was kept or decided."""
    rules = rules or LineRules()
    decided = [
        is_in and label.confidence > rules.unknown_up_to
        for is_in, label in zip(found, labels, strict=True)
        if is_in is not None
    ]
    return all(decided) if decided else None


def word_pass(lines: Sequence[str], language: str, passed: bool | None, rules: LineRules | None = None) -> bool | None:
    """Whether no kept line holds an English word, as written (a capitalised one is a name).

    Undefined unless the response passed by line and the language has a word rate.
    """
    rules = rules or LineRules()
    if not passed or language not in rules.word_languages:
        return None
    english, (deleted, spaced) = english_words(rules.min_letters), _patterns(rules)
    return not any(word in english for line in lines for word in tokens(spaced.sub(" ", deleted.sub("", line))))


@lru_cache(maxsize=4)
def english_words(min_letters: int = 4) -> frozenset[str]:
    """Lower-case English words of at least so many letters (the file has none shorter than four)."""
    text = files(__package__).joinpath("english_words.txt").read_text("ascii")
    return frozenset(w for w in text.splitlines() if len(w) >= min_letters and not w.startswith("#"))
