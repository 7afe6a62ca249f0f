"""What an identifier of languages is: a label for each text, with the candidate languages it can answer.

Cleaning is the same for all: compatibility characters become ordinary ones (full-width letters, half-width kana,
Arabic presentation forms), a text mostly in capitals is lowered, and a text without any letter never reaches a
library: an empty one is ``und``, digits and signs alone are ``zxx``.  A label also carries what the identifier would
have said unrestricted, where its candidates are a choice.
"""

import re
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

UNDETERMINED, NO_LANGUAGE, UNDECIDED = "und", "zxx", "undecided"
MOST_CHARS = 2000  # of one text; longer answers are cut into pieces before they come here
# controls, direction marks, surrogates, noncharacters, tags; U+200C/D stay: they are Persian and Hindi spelling
_UNSEEN = re.compile(
    "[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\u00ad\u061c\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufdd0-\ufdef\ufeff"
    "\ufff9-\uffff\ud800-\udfff\U000e0000-\U000e007f]"
)


@dataclass(frozen=True, slots=True)
class Label:
    """What an identifier says of one text.

    ``code`` is a candidate, ``und`` (empty text, or nothing the identifier can tell anything from), ``zxx`` (no
    language) or ``undecided`` (identifiers disagree); ``confidence`` in 0..1; ``unrestricted`` the code or raw label
    with every label on offer, None where the identifier cannot say; ``votes`` what those said who disagree.
    """

    code: str
    confidence: float
    unrestricted: str | None = None
    votes: tuple[str, ...] = ()


class Identifier(Protocol):
    """What the metrics need of an identifier: who it is, what it can answer, and its labels in order."""

    name: str
    version: str
    candidates: tuple[str, ...]

    def identify(self, texts: Sequence[str]) -> list[Label]: ...


def clean(text: str, max_chars: int = MOST_CHARS) -> str:
    """What an identifier sees: the first ``max_chars`` characters on one line, folded (NFKC), without control and
    direction marks, in small letters if most words are in capitals."""
    text = text[:max_chars]
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    if not text.isprintable():
        text = _UNSEEN.sub("", text)
    words = text.split()
    text = " ".join(words)
    return text.lower() if 2 * sum(map(str.isupper, words)) > len(words) else text


class CleaningIdentifier(ABC):
    """Cleaning, texts without letters and duplicates, common to all; a subclass labels clean texts with a letter."""

    name: str
    version: str
    candidates: tuple[str, ...]

    def identify(self, texts: Sequence[str]) -> list[Label]:
        """One label per text, in order; equal texts are classified once.  No text makes it raise."""
        cleaned = [clean(text) for text in texts]
        known: dict[str, Label] = {}
        asked = []
        for text in dict.fromkeys(cleaned):
            if next(filter(str.isalpha, text), None) is not None:
                asked.append(text)
            else:
                known[text] = Label(NO_LANGUAGE if text else UNDETERMINED, 1.0)
        known.update(zip(asked, self._classify(asked), strict=True))
        return [known[text] for text in cleaned]

    @abstractmethod
    def _classify(self, texts: list[str]) -> list[Label]: ...

    def __str__(self) -> str:
        return f"{self.name} {self.version}, {len(self.candidates)} candidates: {' '.join(self.candidates)}"


def restrict(scores: np.ndarray, labels: Sequence[str], code_of: dict[str, str], chosen: bool = True) -> list[Label]:
    """Labels from probabilities (texts, labels): the best one that ``code_of`` names, and the best of all.

    ``code_of`` maps the labels on offer to codes; the confidence is the winner's share among the labels on offer.
    Where all of them are equally likely the text told nothing, and the code is ``und``.  Without a choice of
    candidates (``chosen``) the best of all is the same and not repeated.
    """
    offered = [i for i, label in enumerate(labels) if label in code_of]
    among = scores[:, offered]  # (texts, labels on offer)
    best, best_of_all = among.argmax(1), scores.argmax(1)
    total, highest = among.sum(1), among.max(1)
    share = np.divide(highest, total, out=np.full(len(total), 1 / max(len(offered), 1)), where=total > 0)
    told = highest > among.min(1)
    codes = [code_of[labels[i]] for i in offered]
    everything = [code_of.get(label, label) if chosen else None for label in labels]
    return [
        Label(codes[i], c, everything[j]) if t else Label(UNDETERMINED, c)
        for i, c, j, t in zip(best.tolist(), share.tolist(), best_of_all.tolist(), told.tolist(), strict=True)
    ]
