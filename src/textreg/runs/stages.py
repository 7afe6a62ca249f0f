"""Which units a run consists of, what each needs and what each must leave behind.

A unit is one executed notebook: a stage runs once, ``tune`` and ``merge`` run once per arm of the profile.  The
graph is computed from the profile alone, so that ``--dry-run`` and ``textreg status`` need no kernel.  ``backbone``
is never part of a normal run: its product is shipped, and it runs only when asked for by name.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from textreg import settings
from textreg.errors import InputError, did_you_mean

PER_ARM = ("tune", "merge")

#: Files (patterns below the unit's folder) without which a notebook that ended well still counts as failed.
ARTEFACTS: Mapping[str, tuple[str, ...]] = {
    "prepare_data": ("visual.parquet", "text.parquet", "images.parquet", "requests.parquet", "mixture.csv"),
    "align": ("projector.safetensors", "base.json"),
    "tune": ("adapter/*.safetensors", "log.csv", "shown.csv"),
    "merge": ("sweep.csv", "choice.json", "model/*.safetensors"),
    "evaluate": ("answers.parquet", "fidelity.csv", "visual.csv"),
    "figures": ("*.svg",),
    "mechanism": ("arms.csv", "dose.csv", "update.csv", "patch.csv", "layers.csv", "verdicts.csv"),
}


@dataclass(frozen=True, order=True)
class Unit:
    """One notebook to execute: a stage, and the arm where the stage runs once per arm."""

    stage: str
    arm: str | None = None

    @property
    def name(self) -> str:
        """``tune[TR]``, ``evaluate``: the name in messages, manifests and tables."""
        return self.stage if self.arm is None else f"{self.stage}[{self.arm}]"

    @property
    def folder(self) -> str:
        """Folder below the run folder: ``align``, ``tune/TR``, ``merge/TR+M`` (a merge makes a new system)."""
        if self.arm is None:
            return self.stage
        return f"merge/{self.arm}+M" if self.stage == "merge" else f"{self.stage}/{self.arm}"

    @property
    def notebook(self) -> str:
        """File name of the source notebook: ``03_tune.ipynb``."""
        return f"{order().index(self.stage):02d}_{self.stage}.ipynb"

    @property
    def stem(self) -> str:
        """Stem of the executed notebook and of the log: ``03_tune-TR``."""
        stem = self.notebook.removesuffix(".ipynb")
        return stem if self.arm is None else f"{stem}-{self.arm}"


def order() -> tuple[str, ...]:
    """Stage names in the order in which they run; the position is the notebook's number."""
    return tuple(settings.stage_classes())


def units(stages: Sequence[str], arms: Sequence[Mapping[str, Any]]) -> tuple[Unit, ...]:
    """Units of ``stages`` in running order.  ``arms`` are rows of a profile (``arm``, optional ``merge: true``)."""
    found: list[Unit] = []
    for stage in order():
        if stage not in stages:
            continue
        if stage == "tune":
            found += [Unit(stage, arm["arm"]) for arm in arms]
        elif stage == "merge":
            found += [Unit(stage, arm["arm"]) for arm in arms if arm.get("merge")]
        else:
            found.append(Unit(stage))
    return tuple(found)


def require_known(unit: Unit, known: Sequence[Unit], where: str) -> Unit:
    """``unit``, which ``where`` names; raises :class:`InputError` when the profile does not train or merge it."""
    if unit in known:
        return unit
    merging = unit.stage == "merge"
    arms = [other.arm for other in known if other.arm and other.stage == unit.stage]
    what = f"system {unit.arm}+M" if merging else f"arm {unit.arm!r}"
    cure = "; give the arm 'merge: true'" if merging else "; add it to the profile's arms"
    raise InputError(f"{where} names {what}, which this profile does not make{did_you_mean(unit.arm, arms)}{cure}")


def missing_artefacts(unit: Unit, folder: Path) -> list[str]:
    """Patterns of :data:`ARTEFACTS` that match no non-empty file below ``folder``."""
    return [
        pattern
        for pattern in ARTEFACTS.get(unit.stage, ())
        if not any(path.is_file() and path.stat().st_size > 0 for path in folder.glob(pattern))
    ]


def repository() -> Path:
    """The repository: the nearest folder above the working directory, else above the package, with the notebooks.

    Raises :class:`InputError` outside of one: the notebooks and profiles are not part of the installed package.
    """
    here = Path(__file__).resolve()
    for folder in (*(Path.cwd() / "x").parents, *here.parents):
        if all((folder / name).exists() for name in ("notebooks", "profiles", "pyproject.toml")):
            return folder
    raise InputError("no notebooks and profiles here; run the command inside a clone of the repository")


def relative(path: Path) -> str:
    """``path`` relative to the working directory where it lies below it, else as it is."""
    full, here = Path(os.path.abspath(path)), Path.cwd()
    return str(full.relative_to(here)) if full.is_relative_to(here) else str(path)
