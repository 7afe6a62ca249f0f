"""Before a run starts: the optional packages that its settings need, and room on the disks that it fills.

Both are known from the settings and the plan alone, and each would otherwise end a run of hours in its last stage.
What is stored already, in the run folder and in the hub's cache, is not asked for again.

    preflight.missing_packages({"evaluate": settings})  # ["evaluate: identifier = glotlid needs a package: pip ..."]
"""

import importlib.util
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from textreg.files import require_room
from textreg.settings import Stage

if TYPE_CHECKING:
    from textreg.runs.budget import Plan

#: (setting, value) -> the module it needs, and the extra of this package that brings it.
PACKAGES = {
    ("identifier", "glotlid"): ("fasttext", "glotlid"),
    ("identifier", "lingua"): ("lingua", "lingua"),
    ("precision", "4bit"): ("bitsandbytes", "gpu"),
}
#: Stages that load no model from the hub.
WITHOUT_MODEL = ("prepare_data", "figures")


def missing_packages(settings: Mapping[str, Stage]) -> list[str]:
    """One line per optional package that is not installed; ``settings``: unit name -> its settings."""
    found: dict[str, str] = {}
    for unit, chosen in settings.items():
        for (key, value), (module, extra) in PACKAGES.items():
            if getattr(chosen, key, None) == value and importlib.util.find_spec(module) is None:
                found.setdefault(
                    module, f"{unit}: {key} = {value} needs a package: pip install 'textreg[{extra}]', or change {key}"
                )
    return list(found.values())


def require_disk(plan: "Plan", run: Path, stages: Iterable[str], least: int) -> None:
    """Refuse a hub-scale run of ``stages`` whose plan does not fit the disk of ``run`` or that of the hub's cache.

    ``least``: bytes asked for in any case.  Raises :class:`InputError` naming the folder, what is free and the cure.
    """
    from huggingface_hub import constants

    stages = set(stages)
    for_run, for_cache = least + _still_to_write(plan, run, stages), _still_to_fetch(plan, stages)
    cache = Path(constants.HF_HUB_CACHE)
    if constants.HF_HUB_OFFLINE or not for_cache:
        require_room(run, for_run)
    elif _device(run) == _device(cache):
        cure = f"choose another folder with --run, or set HF_HOME (downloads go to {cache})"
        require_room(run, for_run + for_cache, cure)
    else:
        require_room(run, for_run)
        require_room(cache, for_cache, "set HF_HOME to a folder on a larger disk")


def _still_to_write(plan: "Plan", run: Path, stages: set[str]) -> int:
    planned: dict[str, float] = {}
    for item in plan.disk:
        planned[item.stage] = planned.get(item.stage, 0) + item.size
    return int(sum(max(0, size - _bytes(run / stage)) for stage, size in planned.items() if stage in stages))


def _still_to_fetch(plan: "Plan", stages: set[str]) -> int:
    from huggingface_hub import constants

    cache = Path(constants.HF_HUB_CACHE)
    planned: dict[str, float] = {}
    for item in plan.downloads:
        data = item.stage == "prepare_data"
        if "prepare_data" in stages if data else stages - set(WITHOUT_MODEL):
            planned[item.repository] = planned.get(item.repository, 0) + item.size
    return int(sum(max(0, n - _bytes(cache / name.replace("/", "--"))) for name, n in planned.items()))


def _bytes(folder: Path) -> int:
    """Bytes of the files below a folder; links (the hub's snapshots are made of them) are not followed."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def _device(folder: Path) -> int:
    while not folder.exists():
        folder = folder.parent
    return os.stat(folder).st_dev
