"""Language identifiers behind one small interface, restricted to a stated list of candidate languages.

Three choices are not obvious.  The candidates hold more than the asked languages (Danish must not be counted as
Swedish because Danish was not on offer), and every label also carries what the identifier would have said
unrestricted.  A text without any letter never reaches a library: an empty one is ``und``, digits and signs alone are
``zxx``.  py3langid is not called text by text: its automaton is walked for thousands of texts at once (the labels are
the library's, ten times faster).

Use: ``open_identifier("py3langid").identify(["un cercle rouge au-dessus d'un carré"])``; the optional ones are in
``identifiers_optional.py``.
"""

import re
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from typing import Protocol

import numpy as np

from textreg.data.codes import check_code, code_book
from textreg.errors import InputError, did_you_mean

UNDETERMINED, NO_LANGUAGE = "und", "zxx"
NAMES = ("py3langid", "lingua", "glotlid")
_BATCH = 4096  # texts per walk: beyond this the arrays leave the cache and nothing is gained
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


def open_identifier(
    name: str = "py3langid", *, candidates: Iterable[str] | None = None, model: str = "", max_chars: int = 2000
) -> Identifier:
    """An identifier by name.

    ``candidates``: language codes (default: the whole code book); ``zxx`` is added where the library knows it.
    Languages the library has no label for are left out of its ``candidates``.  ``model`` is for GlotLID: a ``.bin``
    file or a hub id.  ``max_chars`` bounds the work per text.  Raises InputError on an unknown name or code, a missing
    package or model.
    """
    if name not in NAMES:
        raise InputError(f"unknown identifier {name!r}{did_you_mean(name, NAMES)}")
    if name == "py3langid":
        return Py3Langid(candidates, max_chars)
    from textreg.fidelity import optional

    codes = tuple(check_code(code) for code in (code_book() if candidates is None else candidates))
    return optional.Lingua(codes, max_chars) if name == "lingua" else optional.GlotLID(codes, max_chars, model)


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


class Py3Langid(RestrictedIdentifier):
    """py3langid (offline, default): naive Bayes over the byte n-grams that a finite automaton finds."""

    name = "py3langid"

    def __init__(self, candidates: Iterable[str] | None = None, max_chars: int = 2000):
        super().__init__(max_chars)
        self.version = version("py3langid")
        self._model = _py3langid_model()
        labels = set(self._model.labels)
        known = {code: set(entry.py3langid) & labels for code, entry in code_book().items()}
        taken = set().union(*known.values())
        for label in labels - taken - set(known):
            known[label] = {label}  # its other languages can be asked for under their own label
        if candidates is None:
            codes = [code for code in code_book() if known[code]]
        else:
            codes = [check_code(code, known) for code in candidates]
        self._code_of = {label: code for code in (*codes, NO_LANGUAGE) for label in known[code]}
        self.candidates = tuple(dict.fromkeys(self._code_of.values()))

    def _classify(self, texts: list[str]) -> list[Label]:
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))  # texts of one length walk together
        found: list[Label | None] = [None] * len(texts)
        for start in range(0, len(order), _BATCH):
            batch = order[start : start + _BATCH]
            scores = self._model.probabilities([texts[i] for i in batch])
            for i, label in zip(batch, restrict(scores, self._model.labels, self._code_of), strict=True):
                found[i] = label
        return found


@dataclass(frozen=True)
class _NaiveBayes:
    """The arrays of py3langid's model: automaton, feature emitted per state, log-probability per feature and label."""

    labels: tuple[str, ...]
    step: np.ndarray  # (rows * 256,) next state
    row: np.ndarray  # (states,) offset of a state's row in step
    emits: np.ndarray  # (states,) feature, or -1
    weights: np.ndarray  # (features, columns) float32
    prior: np.ndarray  # (columns,) float32
    doubled: tuple[tuple[int, int], ...]  # columns of the same label (two scripts of one language)
    first: np.ndarray  # (labels,) column of each label

    def probabilities(self, texts: list[str]) -> np.ndarray:
        """(texts, labels) float32; rows sum to 1, tempered by the root of the length in bytes as py3langid does."""
        from scipy import sparse

        encoded = [_encode(text) for text in texts]
        size = np.array([len(e) for e in encoded])
        order = np.argsort(-size, kind="stable")  # longest first, so the texts still being read are a prefix
        at = (np.cumsum(size) - size)[order]
        reading = np.searchsorted(-size[order], -np.arange(size.max()), side="left")
        data = np.frombuffer(b"".join(encoded), dtype=np.uint8)
        state = np.zeros(len(texts), dtype=np.int64)
        rows, features = [], []
        for position, count in enumerate(reading):
            state = self.step[self.row[state[:count]] + data[at[:count] + position]]
            feature = self.emits[state]
            seen = np.flatnonzero(feature >= 0)
            rows.append(order[seen])
            features.append(feature[seen])
        rows, features = np.concatenate(rows), np.concatenate(features)
        shape = (len(texts), len(self.weights))
        counts = sparse.coo_array((np.ones(len(rows), np.float32), (rows, features)), shape=shape).tocsr()
        scores = np.log1p(counts) @ self.weights + self.prior  # (texts, columns)
        scores[np.diff(counts.indptr) == 0] = 0.0  # no feature: every label alike
        scores /= np.sqrt(size, dtype=np.float32)[:, None]
        scores = np.exp(scores - scores.max(axis=1, keepdims=True))
        for kept, double in self.doubled:
            scores[:, kept] += scores[:, double]
        return (scores / scores[:, self.first].sum(axis=1, keepdims=True))[:, self.first]  # (texts, labels)


def _encode(text: str) -> bytes:
    """Bytes as py3langid reads them: capitals only when not all are, composed."""
    return unicodedata.normalize("NFC", text.lower() if text.isupper() else text).encode("utf-8")


@lru_cache(maxsize=1)
def _py3langid_model() -> _NaiveBayes:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    model = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    columns = list(model.nb_classes)
    return _NaiveBayes(
        labels=tuple(dict.fromkeys(columns)),
        step=np.frombuffer(model.tk_nextmove, dtype=f"u{model.tk_nextmove.itemsize}"),
        row=np.asarray(model.tk_row, dtype=np.int64) << 8,
        emits=np.asarray(model.tk_output, dtype=np.int32),
        weights=np.asarray(model.nb_ptc, dtype=np.float32),
        prior=np.asarray(model.nb_pc, dtype=np.float32),
        doubled=tuple((columns.index(c), i) for i, c in enumerate(columns) if columns.index(c) != i),
        first=np.array([columns.index(c) for c in dict.fromkeys(columns)]),
    )
