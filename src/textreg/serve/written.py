"""Answers as people's models write them, made ready for what ``fidelity`` says of each.

Vowel points of Hebrew and Arabic, the stretching of Arabic words and stress marks on Cyrillic letters are in no text
that identifiers learned from (points make Hebrew the Bible's), so they are taken away before one is asked; Yiddish,
which has a point here and there, keeps them.  Not obvious: this, and the rules of :data:`parts.OUTSIDE`, happen before
``annotate``, because the scenes' answers hold nothing of the kind and their scores stay as they are.

Use: ``annotated(answers, open_identifier())``, with the columns of ``annotate``.
"""

import re
from collections.abc import Sequence
from unicodedata import normalize

import pandas as pd

from textreg.fidelity.annotation import Judge, Rules, annotate
from textreg.fidelity.labels import Identifier, Label
from textreg.fidelity.parts import outer_part, read_rules

_HEBREW = re.compile("[\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7]")
_FORMS = re.compile("[\ufb1d-\ufb4e]")  # letters with their point as one character
_MARKS = re.compile(r"[\u0640\u064b-\u0652\u0670\u06d6-\u06dc\u06df-\u06ed]|(?<=[\u0400-\u052f])[\u0300\u0301]")
_LINE_END = re.compile("\r\n?|[\x85\u2028\u2029]")
POINTED = 1 / 3  # points per letter and point from which a text is Hebrew with vowels


class Unpointed:
    """An identifier that is shown texts without vowel points and stress marks."""

    def __init__(self, identifier: Identifier):
        self.identifier = identifier
        self.name, self.version, self.candidates = identifier.name, identifier.version, identifier.candidates

    def identify(self, texts: Sequence[str]) -> list[Label]:
        """One label per text, in order."""
        return self.identifier.identify([text if text.isascii() else without_points(text) for text in texts])


def without_points(text: str) -> str:
    """The text without vowel points, stretched letters and stress marks."""
    if _FORMS.search(text):
        text = normalize("NFKC", text)
    if (points := len(_HEBREW.findall(text))) and points >= POINTED * (points + sum(map(str.isalpha, text))):
        text = _HEBREW.sub("", text)
    return _MARKS.sub("", normalize("NFC", text)) if _MARKS.search(text) else text


def annotated(
    answers: pd.DataFrame, identifier: Identifier, judge: Judge | str | None = "exact", rules: Rules | None = None
) -> pd.DataFrame:
    """``annotate`` of anyone's answers, with :data:`parts.OUTSIDE` among the rules (by default all of them)."""
    rules = rules or Rules(set_aside=read_rules("all"))
    texts = [_LINE_END.sub("\n", text) for text in answers["answer"].fillna("").astype(str)]
    found = [outer_part(text, rules.set_aside) for text in texts]
    table = annotate(answers.assign(answer=[text for text, _ in found]), Unpointed(identifier), judge, rules)
    names = [" ".join((*taken, *said.split())) for (_, taken), said in zip(found, table["set_aside"], strict=True)]
    return table.assign(answer=answers["answer"], set_aside=names)
