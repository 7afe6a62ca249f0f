"""What an identifier of languages is: a label for each text, restricted to a stated list of candidate languages.

Three choices are not obvious.  The candidates hold more than the asked languages (Danish must not be counted as
Swedish because Danish was not on offer), and every label also carries what the identifier would have said
unrestricted.  A text without any letter never reaches a library: an empty one is ``und``, digits and signs alone are
``zxx``.  Cleaning, empty texts and duplicates are the same for all; a subclass labels what is left.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

UNDETERMINED, NO_LANGUAGE = "und", "zxx"
# controls, direction marks, surrogates, tags; the joiners U+200C/D stay: they are Persian and Hindi spelling
_UNSEEN = re.compile(
    "[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\u00ad\u061c\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)


@dataclass(frozen=True, slots=True)
class Label:
    """What an identifier says of one text.

    ``code`` is a candidate, ``und`` (empty text, or nothing the identifier can tell anything from) or ``zxx`` (no
    language); ``confidence`` in 0..1 among the candidates; ``unrestricted`` the code or raw label with every label on
    offer, None where the identifier cannot say.
    """

    code: str
    confidence: float
    unrestricted: str | None


class Identifier(Protocol):
    """What the metrics need of an identifier: who it is, what it can answer, and its labels in order."""

    name: str
    version: str
    candidates: tuple[str, ...]

    def identify(self, texts: Sequence[str]) -> list[Label]: ...


def clean(text: str, max_chars: int = 2000) -> str:
    """What an identifier sees: the first ``max_chars`` characters on one line, without control and direction marks."""
    text = text[:max_chars]
    if not text.isprintable():
        text = _UNSEEN.sub("", text)
    return " ".join(text.split())


class RestrictedIdentifier(ABC):
    """Cleaning, empty texts and duplicates, common to all; a subclass labels clean texts that hold a letter."""

    name: str
    version: str
    candidates: tuple[str, ...]

    def __init__(self, max_chars: int):
        self.max_chars = max_chars

    def identify(self, texts: Sequence[str]) -> list[Label]:
        """One label per text, in order; equal texts are classified once.  No text makes it raise."""
        cleaned = [clean(text, self.max_chars) for text in texts]
        known: dict[str, Label] = {}
        asked = []
        for text in dict.fromkeys(cleaned):
            if next(filter(str.isalpha, text), None) is not None:
                asked.append(text)
            else:
                known[text] = Label(NO_LANGUAGE if text else UNDETERMINED, 1.0, None)
        known.update(zip(asked, self._classify(asked), strict=True))
        return [known[text] for text in cleaned]

    @abstractmethod
    def _classify(self, texts: list[str]) -> list[Label]: ...

    def __str__(self) -> str:
        return f"{self.name} {self.version}, {len(self.candidates)} candidates: {' '.join(self.candidates)}"


def restrict(scores: np.ndarray, labels: Sequence[str], code_of: dict[str, str]) -> list[Label]:
    """Labels from probabilities (texts, labels): the best one that ``code_of`` names, and the best of all.

    ``code_of`` maps the labels on offer to codes; the confidence is the winner's share among the labels on offer.
    Where all of them are equally likely the text told nothing, and the code is ``und``.
    """
    offered = [i for i, label in enumerate(labels) if label in code_of]
    among = scores[:, offered]  # (texts, labels on offer)
    best, best_of_all = among.argmax(1), scores.argmax(1)
    total = among.sum(1)
    share = np.divide(among.max(1), total, out=np.full(len(total), 1 / max(len(offered), 1)), where=total > 0)
    told = among.max(1) > among.min(1)
    codes = [code_of[labels[i]] for i in offered]
    everything = [code_of.get(label, label) for label in labels]
    return [
        Label(codes[i], c, everything[j]) if t else Label(UNDETERMINED, c, None)
        for i, c, j, t in zip(best.tolist(), share.tolist(), best_of_all.tolist(), told.tolist(), strict=True)
    ]
