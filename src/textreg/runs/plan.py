"""The plan: for every unit of a run, whether its result stands, and if not, why.

``textreg run``, its ``--dry-run`` and ``textreg status`` ask the same function, so they cannot disagree.  A unit is
*done* when its manifest carries the identity it would have now and its files are as recorded; else it is *stale*
(with reasons), *failed* (its failed notebook is there) or *missing*.  What depends on a unit that is not done is
stale too ("follows ..."): when that one has run and left the same bytes as before, the dependent one is kept after
all, because inputs are compared by content.

Before anything runs, the optional packages that its settings need are asked for: each would otherwise end a run of
hours in its last stage.
"""

import importlib.util
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from textreg.errors import InputError, did_you_mean
from textreg.files import Foreign, HashCache, read_as, write_json, write_text
from textreg.runs import identity, manifest, notebooks, profiles
from textreg.runs import stages as graph
from textreg.runs.profiles import Profile
from textreg.runs.stages import Unit, order, relative
from textreg.settings import Stage

RUN_FILE = "run.json"
#: Copy of a profile that lies outside the repository, in the run folder.
PROFILE_COPY = "profile.yaml"
#: Folders of the repository that a run must never empty or fill.
SOURCES = (".ci", ".git", "bench", "book", "notebooks", "profiles", "results", "src", "tests")

#: (setting, value) -> the module it needs, and the extra of this package that brings it.
PACKAGES = {
    ("identifier", "glotlid"): ("fasttext", "glotlid"),
    ("identifier", "lingua"): ("lingua", "lingua"),
    ("precision", "4bit"): ("bitsandbytes", "gpu"),
}


@dataclass(frozen=True)
class Place:
    """Where a run happens.  ``run``: its folder; ``notebooks``: the folder of the source notebooks."""

    run: Path
    notebooks: Path
    overrides: tuple[str, ...] = ()
    shipped: bool = False


@dataclass(frozen=True)
class State:
    """What is known of one unit.  ``state``: ``done``, ``stale``, ``failed`` or ``missing``; ``reasons`` are short
    phrases; ``product`` is the hash of the files that it left."""

    unit: Unit
    state: str
    reasons: tuple[str, ...]
    settings: Stage
    identity: identity.Identity
    seconds: float | None = None
    peak_memory_mb: float | None = None
    product: str | None = None


def survey(profile: Profile, place: Place, hashes: HashCache, units: Sequence[Unit] = ()) -> dict[Unit, State]:
    """State of every unit (default: all of the profile) in running order.

    Raises :class:`InputError` for a missing or unfit notebook and for any setting that is refused.
    """
    found: dict[Unit, State] = {}
    for unit in units or profile.units:
        found[unit] = assess(profile, place, unit, found, hashes)
    return found


def assess(profile: Profile, place: Place, unit: Unit, before: Mapping[Unit, State], hashes: HashCache) -> State:
    """State of one unit, given those of the units it reads (others are assumed to stand)."""
    settings = profiles.resolve(profile, unit.stage, unit.arm, place.overrides, relative(place.run))
    notebook = place.notebooks / unit.notebook
    notebooks.require_parameters(notebook, settings)
    upstream = profiles.upstream(profile, unit, place.overrides)
    products = {
        other.name: before[other].product if other in before else _product(place.run / other.folder)
        for other in upstream
    }
    inputs = {name: product or "missing" for name, product in products.items()}
    now = identity.of(settings, notebook, inputs, hashes)
    folder = place.run / unit.folder
    follows = [f"follows {other.name}" for other in upstream if other in before and before[other].state != "done"]
    try:
        content = manifest.read(folder)
    except InputError as error:
        return State(unit, "stale", (str(error),), settings, now)
    if content is None:
        if failure := _failure(place.run, unit):
            return State(unit, "failed", (failure,), settings, now)
        reasons = ["did not finish"] if folder.is_dir() else ["has not run", *follows]
        return State(unit, "missing", tuple(reasons), settings, now)
    reasons = identity.differences(content, now) + follows
    reasons += manifest.damage(folder, content, hashes, shipped=place.shipped)
    executed = f"notebooks/{unit.stem}.ipynb"
    # An arm that was tuned on several GPUs has no notebook, and its manifest names none.
    if content.get("notebook") == executed and not place.shipped:
        reasons += _lacking_notebook(place.run / executed)
    took = content.get("seconds"), content.get("peak_memory_mb")
    product = content["outputs_digest"]
    return State(unit, "stale" if reasons else "done", tuple(reasons), settings, now, *took, product=product)


def _lacking_notebook(path: Path) -> list[str]:
    """The executed notebook is what a reader of the run is shown, so a unit without one is not done."""
    try:
        notebooks.read(path)
    except InputError:
        return [f"its executed notebook is {'damaged' if path.is_file() else 'missing'}"]
    return []


def _product(folder: Path) -> str | None:
    try:
        content = manifest.read(folder)
    except InputError:
        # The unit that owns it is reported as damaged; for what follows it counts as not done.
        return None
    return content["outputs_digest"] if content else None


def _failure(run: Path, unit: Unit) -> str | None:
    path = run / "notebooks" / f"{unit.stem}.failed.ipynb"
    if not path.is_file():
        return None
    try:
        record = notebooks.read(path).get("metadata", {}).get("textreg", {})
    except InputError as error:
        return str(error)
    return str(record.get("failure", "failed"))


def select(
    profile: Profile,
    only: Sequence[str] = (),
    start: str | None = None,
    stop: str | None = None,
    arms: Sequence[str] = (),
) -> tuple[Unit, ...]:
    """The units asked for: ``only`` these stages, or all from ``start`` to ``stop``; ``arms`` narrows tune and merge.

    Raises :class:`InputError` for unknown stages and arms and for a choice that holds nothing.
    """
    stages = order()
    for option, names in (("--only", only), ("--from", [start] if start else []), ("--to", [stop] if stop else [])):
        for name in names:
            profiles.known_stage(name, option)
    if only and (start or stop):
        raise InputError("--only cannot be combined with --from and --to")
    known_arms = [arm["arm"] for arm in profile.arms]
    for arm in arms:
        if arm not in known_arms:
            raise InputError(f"--arm: unknown arm {arm!r} in profile {profile.name}{did_you_mean(arm, known_arms)}")
    first = stages.index(start) if start else 0
    last = stages.index(stop) if stop else len(stages) - 1
    chosen = only or [stage for stage in stages[first : last + 1] if stage in profile.stages]
    found = graph.units(chosen, profile.arms)
    units = tuple(unit for unit in found if not arms or unit.arm is None or unit.arm in arms)
    if not units:
        raise InputError(f"nothing to run: no stage of profile {profile.name} fits --only, --from, --to and --arm")
    return units


def with_upstream(profile: Profile, place: Place, units: Sequence[Unit]) -> tuple[Unit, ...]:
    """``units`` and everything they need, directly or not, in running order."""
    wanted, waiting = set(units), list(units)
    while waiting:
        found = set(profiles.upstream(profile, waiting.pop(), place.overrides)) - wanted
        waiting += found
        wanted |= found
    return tuple(unit for unit in graph.units(order(), profile.arms) if unit in wanted)


def require_own(profile: Profile, place: Place, root: Path) -> dict[str, Any]:
    """Refuse a run folder that is not this run's to empty and fill; returns what :func:`claim` notes in it.

    Raises :class:`InputError` for the repository itself, for what lies in its sources or holds the notebooks, for a
    folder with files that no run made, and for the run of another profile, scale or seed.  Nothing is written.
    """
    run, base = place.run.resolve(), root.resolve()
    lies_in = run.relative_to(base).parts[:1] if run.is_relative_to(base) else ()
    if place.notebooks.resolve().is_relative_to(run) or base.is_relative_to(run) or set(lies_in) & set(SOURCES):
        raise InputError(f"{relative(place.run)} belongs to the repository; choose another run folder with --run")
    mine = {
        "profile": profile.name,
        "scale": profile.scale,
        "seed": profiles.resolve(profile, "align", overrides=place.overrides).seed,
    }
    if os.path.lexists(place.run / RUN_FILE):
        theirs = _note(place.run).model_dump()
        if any(theirs[key] != value for key, value in mine.items()):
            text = ", ".join(f"{key} {theirs[key]}" for key in mine)
            raise InputError(f"{relative(place.run)} is the run folder of {text}; choose another one with --run")
        return mine
    # Hidden names are left alone by a run, and a start that was killed early has left some.
    try:
        foreign = sorted(name for name in os.listdir(place.run) if not name.startswith("."))
    except FileNotFoundError:
        return mine
    except OSError as error:
        raise InputError(
            f"{relative(place.run)} cannot be a run folder ({error.strerror}); choose another with --run"
        ) from None
    if foreign:
        some = ", ".join(foreign[:3]) + (", ..." if len(foreign) > 3 else "")
        raise InputError(
            f"{relative(place.run)} holds {some} but no {RUN_FILE}: no run made it, and a run would replace what is "
            "there; choose an empty folder with --run, or delete it if notebooks run by hand have left it"
        )
    return mine


def claim(profile: Profile, place: Place, root: Path) -> None:
    """Note in the run folder which profile it belongs to.  Raises what :func:`require_own` does.

    A profile outside the repository is noted by its full path, and copied beside the note for the day it is gone.
    """
    mine = require_own(profile, place, root)
    path, source = profile.path.resolve(), str(profile.path.resolve())
    if path.is_relative_to(root.resolve()):
        source = path.relative_to(root.resolve()).as_posix()
    else:
        write_text(place.run / PROFILE_COPY, path.read_text(encoding="utf-8"))
    write_json(place.run / RUN_FILE, {**mine, "file": source, "overrides": list(place.overrides)})


def remembered(run: Path, root: Path) -> tuple[Profile, tuple[str, ...]]:
    """Profile and overrides of the run in ``run``, as its last start noted them."""
    if not os.path.lexists(run / RUN_FILE):
        raise InputError(f"{relative(run)} holds no run; start one with: textreg run --run {relative(run)}")
    note = _note(run)
    path = root / note.file
    if not path.is_file() and (run / PROFILE_COPY).is_file():
        path = run / PROFILE_COPY
    return profiles.load(str(path), root), tuple(note.overrides)


class _Note(Foreign):
    """``run.json``."""

    profile: str
    scale: str
    seed: int
    file: str
    overrides: list[str]


def _note(run: Path) -> _Note:
    return read_as(run / RUN_FILE, _Note, "put a whole one back, or choose another folder with --run")


def missing_packages(settings: Mapping[Unit, Stage]) -> list[str]:
    """One line per optional package that units with these settings need and that is not installed."""
    found: dict[str, str] = {}
    for unit, chosen in settings.items():
        for (key, value), (module, extra) in PACKAGES.items():
            if getattr(chosen, key, None) == value and importlib.util.find_spec(module) is None:
                cure = f"pip install 'textreg[{extra}]', or change {key}"
                found.setdefault(module, f"{unit.name}: {key} = {value} needs a package: {cure}")
    return list(found.values())
