"""Identity: what decides whether a finished unit may be kept.

Three parts: the resolved parameters that change results, the hashes of the inputs, and the fingerprint of the code
(:mod:`textreg.runs.fingerprint`).  A folder or file that a setting names counts by its content, not by its place;
where a glob chooses among data files (``folder:data/train*.parquet``), the others do not count.  Of a single file,
what it refers to (pictures) is not looked at.  Versions, times and hardware are provenance: they are recorded
(:mod:`textreg.runs.manifest`) and decide nothing.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from textreg.data import hub
from textreg.errors import InputError
from textreg.files import HashCache, digest, files_under
from textreg.runs.fingerprint import LENGTH, code, stamp
from textreg.settings import Stage

#: Notebooks whose product is drawings: only there does the code that draws decide what the result is.
DRAWING = ("06_figures.ipynb", "07_mechanism.ipynb")
#: Modules that a scale never runs (tested by running each), so that work on one scale leaves the others' results be.
CONCEPTS = ("pictures.rows", "pictures.folder", "pictures.splits", "pictures.dictionary", "evaluation.named")
HUB = ("data.prepare", "data.sources", "data.pictures", "data.crossmodal", "evaluation.served")
OTHER_SCALES = {"scenes": (*CONCEPTS, *HUB), "pictures": HUB, "hub": CONCEPTS}
#: Settings that change no result: where, how fast, how often told; threads at most by rounding, as processors do.
WITHOUT_EFFECT = frozenset(
    {"run", "out", "device", "threads", "workers", "log_steps", "checkpoint_steps", "cache_features"}
)
#: Settings that may name a local file or folder; its content counts, not its place.
LOCAL_DATA = frozenset(
    {"llm", "tower", "vlm", "align_data", "visual_data", "text_data", "evaluation_data", "visual_check"}
    | {"image_folder", "identifier_model", "results"}
)


@dataclass(frozen=True)
class Identity:
    """Why a unit's result is what it is.  Plain JSON values; equal identities mean equal results."""

    parameters: Mapping[str, Any]
    code: Mapping[str, str]
    inputs: Mapping[str, str]

    @property
    def digest(self) -> str:
        """One hash of all three parts."""
        return digest({"parameters": self.parameters, "code": self.code, "inputs": self.inputs})


def parameters(settings: Stage) -> dict[str, Any]:
    """The settings that change results, as JSON values; a local folder is shown by its name alone."""
    values = {key: value for key, value in asdict(settings).items() if key not in WITHOUT_EFFECT}
    for key in LOCAL_DATA & values.keys():
        value = values[key]
        values[key] = [_place(word) for word in value] if isinstance(value, list) else _place(value)
    return values


def _local(word: str) -> hub.Name | None:
    """The parts of a name that is a file or folder here; ``None`` for a hub id and for a path that is not there."""
    try:
        parts = hub.parse(word) if word else None
    except InputError:  # no such folder: the stage itself says so
        return None
    return parts if parts is not None and parts.local else None


def _place(word: str) -> str:
    parts = _local(word)
    return f"local:{parts.short}" if parts else word


def local_data(settings: Stage, hashes: HashCache) -> dict[str, str]:
    """Setting -> hash of the local file or folder that it names."""
    found: dict[str, str] = {}
    for name, value in asdict(settings).items():
        for word in (value if isinstance(value, list) else [value]) if name in LOCAL_DATA else ():
            if parts := _local(word):
                key = f"{name}:{parts.short}"
                while key in found:  # another folder of that name
                    key += "'"
                found[key] = digest(_content(parts, hashes))[:LENGTH]
    return found


def _content(parts: hub.Name, hashes: HashCache) -> dict[str, str]:
    path = Path(parts.base).expanduser()
    if not path.is_dir():
        return {path.name: hashes.file(path)}
    if not parts.glob:
        return hashes.folder(path)
    used = {file for file in path.glob(parts.glob) if file.is_file()}
    used |= {file for file in files_under(path) if file.suffix not in hub.DATA_SUFFIXES}  # pictures, archives
    return {file.relative_to(path).as_posix(): hashes.file(file) for file in sorted(used)}


def of(settings: Stage, notebook: Path, inputs: Mapping[str, str], hashes: HashCache) -> Identity:
    """Identity of the unit that runs ``notebook`` with ``settings`` on ``inputs`` (upstream unit -> hash of its
    files)."""
    # Reading the package takes most of a second, and a run asks for every unit; the cure is to ask once.
    drawing = notebook.name in DRAWING
    without = OTHER_SCALES[settings.scale]
    prints = hashes.kept(
        f"code of {notebook} at {settings.scale}",
        stamp(notebook),
        lambda: code(notebook, drawing=drawing, without=without),
    )
    return Identity(parameters(settings), prints, {**inputs, **local_data(settings, hashes)})


def differences(old: Mapping[str, Any], new: Identity) -> list[str]:
    """What changed from a manifest's identity fields to ``new``, one short phrase each; empty when nothing did."""
    reasons: list[str] = []
    before, now = old.get("parameters", {}), new.parameters
    for key in sorted({*before, *now}):
        if key not in before or key not in now:
            reasons.append(f"parameter {key} is {'new' if key in now else 'gone'}")
        elif before[key] != now[key]:
            reasons.append(f"parameter {key}: {_short(before[key])} -> {_short(now[key])}")
    for what, old_part, new_part in (
        ("code", old.get("code", {}), new.code),
        ("input", old.get("inputs", {}), new.inputs),
    ):
        changed = sorted(key for key in {*old_part, *new_part} if old_part.get(key) != new_part.get(key))
        reasons += [f"{what} {key} changed" for key in changed]
    return reasons


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else f"{text[:37]}..."
