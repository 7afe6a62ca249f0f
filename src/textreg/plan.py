"""The plan: for every unit of a run, whether its result stands, and if not, why.

``textreg run``, its ``--dry-run`` and ``textreg status`` ask the same function, so they cannot disagree.  A unit is
*done* when its manifest carries the identity it would have now and its files are as recorded; else it is *stale*
(with reasons), *failed* (its failed notebook is there) or *missing*.  What depends on a unit that is not done is
stale too ("follows ..."): when that one has run and left the same bytes as before, the dependent one is kept after
all, because inputs are compared by content.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from textreg import config, identity, manifest, notebooks, profiles
from textreg import stages as graph
from textreg.disk import HashCache, read_json, write_json
from textreg.errors import InputError, did_you_mean
from textreg.profiles import Profile
from textreg.stages import Unit, order, shown

RUN_FILE = "run.json"


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
    phrases."""

    unit: Unit
    state: str
    reasons: tuple[str, ...]
    settings: config.Stage
    identity: identity.Identity
    seconds: float | None = None
    peak_memory_mb: float | None = None
    failed_cell: int | None = None


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
    settings = profiles.resolve(profile, unit.stage, unit.arm, place.overrides, shown(place.run))
    notebook = place.notebooks / unit.notebook
    notebooks.require_parameters(notebook, settings)
    upstream = profiles.upstream(profile, unit, place.overrides)
    inputs: dict[str, str] = {}
    for other in upstream:
        content = _manifest(place.run / other.folder)
        inputs[other.name] = content["outputs_digest"] if content else "missing"
    now = identity.of(settings, notebook, inputs, hashes)
    folder = place.run / unit.folder
    reasons = [f"follows {other.name}" for other in upstream if other in before and before[other].state != "done"]
    try:
        content = manifest.read(folder)
    except InputError as error:
        return State(unit, "stale", (str(error),), settings, now)
    failure = _failure(place.run, unit)
    if content is None:
        if failure is not None:
            return State(unit, "failed", (failure[0],), settings, now, failed_cell=failure[1])
        return State(
            unit, "missing", ("has not run", *reasons) if not folder.is_dir() else ("did not finish",), settings, now
        )
    changed = identity.differences(content, now)
    reasons = changed + [reason for reason in reasons if reason not in changed]
    reasons += manifest.damage(folder, content, hashes, shipped=place.shipped)
    return State(
        unit,
        "stale" if reasons else "done",
        tuple(reasons),
        settings,
        now,
        content.get("seconds"),
        content.get("peak_memory_mb"),
    )


def _manifest(folder: Path) -> dict[str, Any] | None:
    try:
        return manifest.read(folder)
    except InputError:
        # The unit that owns it is reported as damaged; for what follows it counts as not done.
        return None


def _failure(run: Path, unit: Unit) -> tuple[str, int | None] | None:
    path = run / "notebooks" / f"{unit.stem}.failed.ipynb"
    if not path.is_file():
        return None
    try:
        record = notebooks.read(path).get("metadata", {}).get("textreg", {})
    except InputError as error:
        return str(error), None
    return str(record.get("failure", "failed")), record.get("cell")


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
    if only:
        chosen: Sequence[str] = [stage for stage in stages if stage in only]
    else:
        first = stages.index(start) if start else 0
        last = stages.index(stop) if stop else len(stages) - 1
        chosen = [stage for stage in stages[first : last + 1] if stage in profile.stages]
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


def claim(profile: Profile, place: Place, root: Path) -> None:
    """Note in the run folder which profile it belongs to; refuse one that belongs to another profile, scale or
    seed."""
    path = place.run / RUN_FILE
    seed = profiles.resolve(profile, "align", overrides=place.overrides).seed
    try:
        source = profile.path.resolve().relative_to(root.resolve()).as_posix()
    except ValueError:
        source = str(profile.path)
    mine = {"profile": profile.name, "scale": profile.scale, "seed": seed}
    if path.is_file():
        theirs = read_json(path)
        other = {key: theirs.get(key) for key in mine} if isinstance(theirs, dict) else {}
        if other != mine:
            text = ", ".join(f"{key} {value}" for key, value in other.items())
            raise InputError(f"{shown(place.run)} is the run folder of {text}; choose another one with --run")
    write_json(path, {**mine, "file": source, "overrides": list(place.overrides)})


def remembered(run: Path, root: Path) -> tuple[Profile, tuple[str, ...]]:
    """Profile and overrides of the run in ``run``, as its last start noted them."""
    path = run / RUN_FILE
    if not path.is_file():
        raise InputError(f"{shown(run)} holds no run; start one with: textreg run --run {shown(run)}")
    content = read_json(path)
    try:
        file, overrides = Path(content["file"]), tuple(map(str, content["overrides"]))
    except (TypeError, KeyError):
        raise InputError(f"{path} is damaged; delete it and start the run again") from None
    return profiles.load(str(root / file)), overrides
