"""py3langid, many texts at once: the library's labels, ten times faster.

The library walks its automaton text by text.  Here the automaton is walked for thousands of texts at once, position by
position, the longest first, so that the texts still being read are a prefix; tests hold every label equal to the
library's own.

Use: ``Py3Langid(["en", "de", "zxx"]).identify(["ein roter Kreis"])``.
"""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version

import numpy as np
from py3langid.langid import MODEL_FILE, LanguageIdentifier
from scipy import sparse

from textreg.data.codes import check_code, code_book
from textreg.errors import InputError
from textreg.fidelity.asked import label_code
from textreg.fidelity.labels import NO_LANGUAGE, CleaningIdentifier, Label, restrict

_BATCH = 4096  # texts per walk: beyond this the arrays leave the cache and nothing is gained


class Py3Langid(CleaningIdentifier):
    """py3langid (offline): naive Bayes over the byte n-grams that a finite automaton finds.

    ``codes``: the languages it may answer; default all it knows.  ``zxx`` is always on offer.
    """

    name = "py3langid"

    def __init__(self, codes: Sequence[str] | None = None):
        self.version = version("py3langid")
        self._model = _py3langid_model()
        labels = set(self._model.labels)
        self._chosen = codes is not None
        if codes is None:
            self._code_of = {label: label if label == NO_LANGUAGE else label_code(label) for label in labels}
        else:
            known = {label_code(label): {label} for label in labels}
            known |= {code: set(entry.py3langid) & labels for code, entry in code_book().items()}
            chosen = [check_code(code, known) for code in codes]
            self._code_of = {label: code for code in chosen for label in known[code]} | {NO_LANGUAGE: NO_LANGUAGE}
            if len(self._code_of) < 3:
                raise InputError(f"py3langid needs at least two candidates it knows, got {' '.join(codes)}")
        self.candidates = tuple(dict.fromkeys(self._code_of.values()))

    def _classify(self, texts: list[str]) -> list[Label]:
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))  # texts of one length walk together
        found: list[Label | None] = [None] * len(texts)
        for start in range(0, len(order), _BATCH):
            batch = order[start : start + _BATCH]
            scores = self._model.probabilities([texts[i] for i in batch])
            for i, label in zip(batch, restrict(scores, self._model.labels, self._code_of, self._chosen), strict=True):
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
