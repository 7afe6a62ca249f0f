"""The two identifiers that need an extra package: lingua (second opinion) and GlotLID v3 (the hub's best coverage).

lingua is asked only about the candidates: all 75 of its languages at once cost a gigabyte, so it has no unrestricted
label. It has no Galician, which then stays undefined.  GlotLID is a fastText model of 2,102 labels; its probabilities
are computed from the sentence vectors in one product for all texts, which gives the restricted and the unrestricted
label together and avoids fastText's slow top-k of everything.  That is exact for a softmax model, and is verified when
the model is loaded.

Use: ``open_identifier("lingua")``, ``open_identifier("glotlid", model="model_v3.bin")``.
"""

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np

from textreg.data.codes import code_book
from textreg.errors import InputError
from textreg.fidelity.labels import NO_LANGUAGE, UNDETERMINED, Label, RestrictedIdentifier, restrict

GLOTLID = "cis-lmu/glotlid"
GLOTLID_FILE = "model_v3.bin"
_BATCH = 2048
_PROBE = "a red circle above a blue square"


class Lingua(RestrictedIdentifier):
    """lingua's high-accuracy n-gram models, restricted to the candidates it knows."""

    name = "lingua"

    def __init__(self, codes: Sequence[str], max_chars: int = 2000):
        super().__init__(max_chars)
        try:
            from lingua import Language, LanguageDetectorBuilder
        except ImportError as failure:
            raise InputError("the lingua identifier needs a package: pip install 'textreg[lingua]'") from failure
        self.version = version("lingua-language-detector")
        labels = {label: code for code in codes for label in code_book()[code].lingua}
        self._code_of = {getattr(Language, label): code for label, code in labels.items()}
        if len(self._code_of) < 2:
            raise InputError(f"lingua needs at least two candidates it knows, got {' '.join(codes)}")
        self.candidates = tuple(dict.fromkeys(self._code_of.values()))
        self._detector = LanguageDetectorBuilder.from_languages(*self._code_of).build()

    def _classify(self, texts: list[str]) -> list[Label]:
        labels = []
        for start in range(0, len(texts), _BATCH):
            for values in self._detector.compute_language_confidence_values_in_parallel(texts[start : start + _BATCH]):
                best = values[0]
                code = self._code_of[best.language] if best.value > 0 else UNDETERMINED
                labels.append(Label(code, float(best.value), None))
        return labels


class GlotLID(RestrictedIdentifier):
    """GlotLID v3 (Kargaran et al. 2023) from a local ``.bin`` or a hub id; its junk labels count as ``zxx``."""

    name = "glotlid"

    def __init__(self, codes: Sequence[str], max_chars: int = 2000, model: str = ""):
        super().__init__(max_chars)
        try:
            import fasttext
        except ImportError as failure:
            raise InputError("the glotlid identifier needs a package: pip install 'textreg[glotlid]'") from failure
        path, self.version = _model_file(model)
        try:
            self._model = fasttext.load_model(str(path))
            self._output = np.asarray(self._model.get_output_matrix(), dtype=np.float32)  # (labels, width)
        except ValueError as failure:
            raise InputError(
                f"{path}: not an unquantised fastText model ({failure}); give GlotLID's .bin"
            ) from failure
        self._labels = [label.removeprefix("__label__") for label in self._model.get_labels()]
        known = {label: code for code in codes for label in code_book()[code].glotlid}
        known |= {label: NO_LANGUAGE for label in self._labels if label.startswith(("und_", "zxx_"))}
        self._code_of = {label: known[label] for label in self._labels if label in known}
        self.candidates = tuple(dict.fromkeys(self._code_of.values()))
        self._verify(path)

    def _verify(self, path: Path) -> None:
        """Raise InputError unless our probabilities are the model's own and some candidate has a label."""
        if not self._code_of:
            raise InputError(f"{path}: none of its {len(self._labels)} labels is a candidate language; is it GlotLID?")
        (label,), (probability,) = self._model.predict(_PROBE, k=1)
        ours = dict(zip(self._labels, self._probabilities([_PROBE])[0].tolist(), strict=True))
        if abs(ours[label.removeprefix("__label__")] - float(probability)) > 1e-2:
            raise InputError(f"{path}: not a softmax model, so its labels cannot be restricted; give GlotLID's .bin")

    def _probabilities(self, texts: list[str]) -> np.ndarray:
        vectors = np.stack([self._model.get_sentence_vector(text) for text in texts])  # (texts, width)
        scores = vectors @ self._output.T  # (texts, labels)
        scores = np.exp(scores - scores.max(axis=1, keepdims=True))
        return scores / scores.sum(axis=1, keepdims=True)

    def _classify(self, texts: list[str]) -> list[Label]:
        labels = []
        for start in range(0, len(texts), _BATCH):
            scores = self._probabilities(texts[start : start + _BATCH])
            labels.extend(restrict(scores, self._labels, self._code_of))
        return labels


def _model_file(model: str) -> tuple[Path, str]:
    """Path and version of a local model file, or of one fetched from the hub (or found in its cache)."""
    if model.endswith(".bin") or Path(model).is_file():
        path = Path(model)
        if not path.is_file():
            raise InputError(f"{path}: no such GlotLID model; download {GLOTLID_FILE} of {GLOTLID} there")
        return path, path.name
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    hub_id = model or GLOTLID
    try:
        path = hf_hub_download(hub_id, GLOTLID_FILE)
    except (HfHubHTTPError, HFValidationError, OSError) as failure:
        cure = f"connect once, or download {GLOTLID_FILE} and name the file"
        raise InputError(f"{hub_id}: {GLOTLID_FILE} is not in the cache nor reachable; {cure}") from failure
    return Path(path), f"{hub_id} {GLOTLID_FILE}"
