"""Manifests: one small JSON per finished unit, written last.

``manifest.json`` in a unit's folder says that the unit is done: it is written, atomically, after every artefact.
Its identity fields decide reruns (:mod:`textreg.runs.identity`); its provenance fields (versions, commit, hardware,
times) are a record and decide nothing.  All paths in it are relative to the unit's folder; nothing of the
environment's variables is ever read into it.
"""

import os
import platform
import shutil
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from textreg.errors import InputError
from textreg.files import Foreign, HashCache, digest, inside, read_as, write_json
from textreg.runs.identity import Identity
from textreg.runs.stages import Unit

NAME = "manifest.json"
FORMAT = 1
PACKAGES = ("textreg", "torch", "transformers", "peft", "tokenizers", "datasets", "numpy", "pandas", "papermill")
#: Files that tell how a run went or show what it made; they are hashed, but what follows does not depend on them.
RECORDS = ("log.csv", "README.md", *(f"loss.{suffix}" for suffix in ("svg", "pdf", "png", "csv", "json")))


def write(
    folder: Path,
    unit: Unit,
    identity: Identity,
    outputs: Mapping[str, str],
    *,
    profile: str,
    notebook: str,
    began: datetime,
    peak_memory_mb: float | None,
    threads: int,
    resumed: bool,
) -> dict[str, Any]:
    """Write the manifest of a unit that ``began`` then (UTC) and finishes now, and return it.

    ``outputs``: path below ``folder`` -> SHA-256.
    """
    content: dict[str, Any] = {
        "format": FORMAT,
        "unit": unit.name,
        "stage": unit.stage,
        "arm": unit.arm,
        "profile": profile,
        "identity": identity.digest,
        "parameters": dict(identity.parameters),
        "code": dict(identity.code),
        "inputs": dict(identity.inputs),
        "outputs": dict(outputs),
        "outputs_digest": outputs_digest(outputs),
        "notebook": notebook,
        "started": began.isoformat(timespec="seconds"),
        "seconds": round((datetime.now(UTC) - began).total_seconds(), 2),
        "peak_memory_mb": round(peak_memory_mb or 0) or None,
        "threads": threads,
        "resumed": resumed,
        **provenance(),
    }
    write_json(folder / NAME, content)
    return content


class _Manifest(Foreign):
    """What must be in a manifest for a unit to be compared with it."""

    format: int
    parameters: dict[str, Any]
    code: dict[str, str]
    inputs: dict[str, str]
    outputs: dict[str, str]


def read(folder: Path) -> dict[str, Any] | None:
    """The manifest in ``folder``; None when there is none.  Raises :class:`InputError` when it is damaged."""
    path = folder / NAME
    if not path.is_file():
        return None
    content = read_as(path, _Manifest, "delete it and run the stage again").model_dump()
    if content["format"] != FORMAT:
        raise InputError(f"{path} has format {content['format']}, this version reads {FORMAT}; run the stage again")
    for relative in content["outputs"]:
        inside(folder, relative)
    return content


def outputs_digest(outputs: Mapping[str, str]) -> str:
    """The hash by which a unit's files are an input of what follows; records of speed and memory do not count."""
    return digest({path: value for path, value in outputs.items() if Path(path).name not in RECORDS})[:16]


def damage(folder: Path, content: Mapping[str, Any], hashes: HashCache, *, shipped: bool = False) -> list[str]:
    """Outputs that are missing or differ from the manifest.  ``shipped``: files that were not shipped are not
    missed."""
    found: list[str] = []
    for relative, expected in content["outputs"].items():
        path = inside(folder, relative)
        if not path.is_file():
            if not shipped:
                found.append(f"{relative} is missing")
        elif hashes.file(path) != expected:
            found.append(f"{relative} was changed")
    return found


@cache
def provenance() -> dict[str, Any]:
    """Versions, commit and hardware of this process: a record, never part of the identity."""
    versions: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    commit, dirty = _commit()
    return {
        "python": platform.python_version(),
        "versions": versions,
        "git_commit": commit,
        "git_dirty": dirty,
        "system": f"{platform.system()} {platform.machine()}",
        "processor": processor(),
        "instructions": _instructions(),
        "cores": os.cpu_count(),
        "accelerator": _accelerator(),
    }


def _answer(command: list[str], cwd: Path | None = None) -> str | None:
    try:
        done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _commit() -> tuple[str | None, bool | None]:
    folder = Path(__file__).parent
    commit = _answer(["git", "rev-parse", "HEAD"], folder)
    changes = _answer(["git", "status", "--porcelain", "--untracked-files=no"], folder) if commit else None
    return commit, None if changes is None else bool(changes)


def processor() -> str:
    """The processor's name."""
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def _instructions() -> str | None:
    """The widest vector instructions, on which the order of sums depends (x86 on Linux; elsewhere None)."""
    flags = (_cpuinfo("flags") or "").split()
    return next((name for name in ("amx_bf16", "avx512_bf16", "avx512f", "avx2", "avx") if name in flags), None)


def _cpuinfo(key: str) -> str | None:
    """A field of the first core in Linux's ``/proc/cpuinfo``; None elsewhere."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    found = (line.partition(":")[2].strip() for line in text.splitlines() if line.partition("\t")[0].strip() == key)
    return next(found, None)


def _accelerator() -> str | None:
    if shutil.which("nvidia-smi") is None:
        return None
    return _answer(["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"]) or None
