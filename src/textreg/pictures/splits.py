"""Which concept may be shown, told or asked: every concept has one role for good, whoever draws rows from it.

``picture``, ``validation`` and ``test`` are the picture concepts: shown in the training styles, named in English
alone.  The latter two are asked about, on their split, in the style that no training shows.  ``new`` concepts are
never shown or told, and asked about.  ``text`` concepts are never shown; their names stand in text rows, in every
language.

Two choices are not obvious.  Picture concepts are those that the frozen tower tells apart best, where the folder says
so, because a model cannot name what its tower does not see; otherwise, and among equals, a hash of the concept
decides.  And what a row may tell is checked on its words (:func:`tells`): no foreign name of a concept that is shown
or asked, be it as a key word of another, may stand in any training row.

Use: ``roles = roles_of(concepts)``.
"""

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Mapping
from functools import cached_property

from textreg.pictures.folder import Concepts

ASKED = ("validation", "test", "new")
SHOWN = ("picture", "validation", "test")
NEW_SHARE = 0.1  # of the concepts that are not shown
LONGEST = 1  # words of the English name of a concept that is drawn: right or wrong is plain then
SPACELESS = re.compile("[\u0e00-\u0e7f\u3040-\u30ff\u3400-\u9fff]")  # Thai, kana, Han


def roles_of(concepts: Concepts) -> dict[str, str]:
    """Concept -> ``picture``, ``validation``, ``test``, ``new`` or ``text``; of picture concepts a fifth is validation
    and two fifths are test."""
    named = [each for each in concepts.drawn if is_short(concepts.names["en"][each])]
    ranked = sorted(named, key=lambda each: (-concepts.told_apart.get(each, 0.0), draw_number(each)))
    shown = sorted(ranked[: concepts.picture_concepts], key=draw_number)
    cut = (len(shown) // 5, len(shown) // 5 + 2 * len(shown) // 5)
    roles = dict.fromkeys(shown[cut[1] :], "picture")
    roles |= dict.fromkeys(shown[: cut[0]], "validation") | dict.fromkeys(shown[cut[0] : cut[1]], "test")
    others = sorted({each for names in concepts.names.values() for each in names} - set(shown), key=draw_number)
    drawn = [each for each in others if each in set(named)]
    roles |= dict.fromkeys(drawn[: round(NEW_SHARE * len(drawn))], "new")
    return roles | {each: "text" for each in others if each not in roles}


def is_short(name: str) -> bool:
    """Whether an English name is one that a drawing may be asked for."""
    return len(name.split()) <= LONGEST


def draw_number(concept: str) -> int:
    """A number that orders concepts as if drawn by lot, the same for everybody."""
    return int.from_bytes(hashlib.sha256(concept.encode()).digest()[:8])


def plain(text: str) -> str:
    """Lower case, one apostrophe, marks of punctuation as spaces: the form in which names are compared."""
    text = unicodedata.normalize("NFKC", text).casefold().replace("’", "'")
    kept = "".join(sign if unicodedata.category(sign)[0] in "LMN" or sign == "'" else " " for sign in text)
    return " ".join(kept.split())


class Secrets:
    """The names that no training row may hold: those of shown and asked concepts in any language but English.

    A name that is spelt as the English one is no secret, for English rows must hold it.
    """

    def __init__(self, concepts: Concepts, roles: Mapping[str, str], languages: Iterable[str] | None = None) -> None:
        english = {plain(name) for name in concepts.names["en"].values()}
        kept = set(languages or concepts.names) - {"en"}
        self.names = {
            plain(name)
            for code in kept
            for concept, name in concepts.names[code].items()
            if roles.get(concept) in (*SHOWN, *ASKED)
        } - english

    @cached_property
    def _spaceless(self) -> list[str]:
        return [name for name in self.names if SPACELESS.search(name) and len(name) > 1]

    @cached_property
    def _longest(self) -> int:
        return max((len(name.split()) for name in self.names), default=0)

    def tells(self, text: str) -> str | None:
        """A secret name that stands in ``text`` as whole words (anywhere, in scripts without spaces), or None."""
        parts = plain(text).split()
        for start in range(len(parts)):
            for end in range(start + 1, min(len(parts), start + self._longest) + 1):
                if (name := " ".join(parts[start:end])) in self.names:
                    return name
        whole = " ".join(parts)
        return next((name for name in self._spaceless if name in whole), None) if SPACELESS.search(whole) else None
