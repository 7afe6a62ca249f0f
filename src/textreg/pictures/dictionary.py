"""Two things of an answer, by looking it up: in which language it is, and whether it is right.

An answer at this scale is a name, too short for any language identifier, but names and key words of every language are
known.  Language: the answer is a name of the asked language, or of English, or of another; else all its words are
words of one of these; else its letters belong to the script of one language alone.  What fits the asked language and
English alike (``taxi``) is in ``either`` and left out of every share; words of both make it ``mixed``; what nobody
knows is ``none``.  Content: ``right`` is the concept's name in whatever language, ``wrong`` any other answer that can
be read, ``unreadable`` the rest.  **Right in English** is the loss of language alone: the picture was understood.

Use: ``Dictionary(table).look_up("cat face", "de", "1f431")``; the table is ``names.csv``.
"""

import unicodedata
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

import pandas as pd

from textreg.pictures.folder import BETWEEN
from textreg.pictures.splits import plain

ENGLISH = "en"
ASKED, OTHER, MIXED, EITHER, NONE, EMPTY = "asked", "other", "mixed", "either", "none", "empty"
RIGHT, WRONG, UNREADABLE = "right", "wrong", "unreadable"
SCRIPT_SHARE = 0.2  # of a language's letters, from which on a script is its own


class Found(NamedTuple):
    """``language``: ``asked``, ``english``, ``other``, ``mixed``, ``either``, ``none`` or ``empty``; ``content``:
    ``right``, ``wrong`` or ``unreadable``; ``code``: the language, where it is one."""

    language: str
    content: str
    code: str | None


class Dictionary:
    """Names and key words of every language of a table with ``concept, language, name, words``."""

    def __init__(self, table: pd.DataFrame) -> None:
        self.names: dict[str, dict[str, str]] = {}
        self.words: dict[str, set[str]] = {}
        owners: dict[str, list[str]] = {}
        for code, rows in table.groupby("language"):
            told = [plain(name) for name in rows["name"]]
            self.names[code] = dict(zip(told, rows["concept"], strict=True))
            phrases = [*told, *(plain(each) for words in rows["words"] for each in words.split(BETWEEN))]
            self.words[code] = {word for phrase in phrases for word in (phrase, *phrase.split()) if word}
            letters = scripts(told)
            for script, count in letters.items():
                if count >= SCRIPT_SHARE * letters.total():
                    owners.setdefault(script, []).append(code)
        self.script_of = {script: codes[0] for script, codes in owners.items() if len(codes) == 1}

    def look_up(self, answer: str, asked: str, concept: str) -> Found:
        """What an answer to a question in ``asked`` about ``concept`` is."""
        text = plain(answer)
        if not text:
            return Found(EMPTY, UNREADABLE, None)
        language, code = self._language(text, asked)
        named = {names[text] for names in self.names.values() if text in names}
        content = RIGHT if concept in named else UNREADABLE if language == NONE else WRONG
        return Found(language, content, code)

    def _language(self, text: str, asked: str) -> tuple[str, str | None]:
        words = text.split()
        others = [code for code in self.names if code not in (asked, ENGLISH)]
        for known in (lambda code: text in self.names[code], lambda code: all(w in self.words[code] for w in words)):
            own, english = known(asked), known(ENGLISH)
            if asked == ENGLISH and own:
                return ASKED, ENGLISH
            if own and english:
                return EITHER, None
            if own or english:
                return (ASKED, asked) if own else ("english", ENGLISH)
            if (other := next((code for code in others if known(code)), None)) is not None:
                return OTHER, other
        own_words, english_words = ([w in self.words[code] for w in words] for code in (asked, ENGLISH))
        pairs = list(zip(own_words, english_words, strict=True))
        if (True, False) in pairs and (False, True) in pairs:
            return MIXED, None
        owners = {self.script_of.get(script) for script in scripts([text])}
        if len(owners) == 1 and (owner := owners.pop()) is not None:
            return (ASKED if owner == asked else "english" if owner == ENGLISH else OTHER), owner
        return NONE, None


def scripts(texts: Iterable[str]) -> Counter[str]:
    """How many letters are of which script (the first word of a letter's Unicode name)."""
    letters = (sign for text in texts for sign in text if sign.isalpha())
    return Counter(unicodedata.name(sign, "?").split()[0] for sign in letters)
