"""Studies: a table of runs that differ in a few settings.

A file of ``profiles/studies`` holds a question and a prediction (written before the runs), ``profile``: what all runs
have in common, as a profile says it, ``seeds``, and ``tables``.  A table maps ``stage.key`` or ``ARM.key`` to a list
of values; its lists are crossed, or with ``zip: true`` read side by side, and ``arms`` names those arms of the profile
that its runs have (all).  Each row with each seed is a *point*: an ordinary run in ``runs/studies/NAME/POINT``.

A unit has a *key*, made of its settings, its code and the keys of what it reads: points of equal keys share the unit,
which is told before anything has run.  Whether it stands is for the plan of each run to say, as ever.

    found = points(load("text_share", root), "text_share", folder)
"""

import copy
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as checked

from textreg.errors import InputError, did_you_mean, quoted
from textreg.files import HashCache, digest
from textreg.runs import manifest, plan, profiles, strict_yaml
from textreg.runs.plan import Place, State
from textreg.runs.profiles import Profile
from textreg.runs.stages import Unit
from textreg.settings import STRICT, Seed, Some, stage_classes

RUNS, POINTS = "runs/studies", ".points"
BACKBONE = Unit("backbone")
LONGEST = 40  # characters of a point's name, as of a profile's


@checked(frozen=True, kw_only=True, config=STRICT)
class Expected:
    """What a table can decide of a prediction: ``measure`` of the rows that ``of`` names (columns and values), minus
    that of ``against``, is ``at_least``, ``at_most``, or ``within`` so much of zero; ``of`` and ``against`` may name
    a task, arm or group of their own."""

    says: str
    of: dict[str, Any]
    against: dict[str, Any] | None = None
    measure: str = "asked"
    task: str = "caption"
    arm: str = "image"
    group: str = "foreign"
    at_least: float | None = None
    at_most: float | None = None
    within: float | None = None

    def __post_init__(self) -> None:
        if [self.at_least, self.at_most, self.within].count(None) != 2:
            raise ValueError("give one of at_least, at_most and within")


@checked(frozen=True, kw_only=True, config=STRICT)
class Rule:
    """What the share of the asked language in the rows of ``of`` follows from: that in the rows of ``by`` (columns and
    values; captions under the picture in the foreign languages where nothing else is said)."""

    of: dict[str, Any]
    by: dict[str, Any]


@checked(frozen=True, kw_only=True, config=STRICT)
class Study:
    """A study's file.  ``prediction``: in words, and why; ``expects``: what of it the table decides; ``groups``:
    further groups of languages in its table, by name; ``planes``: the pairs of settings, across and down, of which it
    is a map; ``rule``: of which half of the runs of the first map is fitted and the other half predicted."""

    question: str
    prediction: str
    expects: list[Expected]
    profile: dict[str, Any]
    tables: list[dict[str, Any]]
    seeds: list[Seed]
    groups: dict[str, Some] | None = None
    planes: list[tuple[str, str]] | None = None
    rule: Rule | None = None


@dataclass(frozen=True)
class Point:
    """One run of a study.  ``settings``: what its table says of it; ``content``: its profile, as in a file."""

    name: str
    seed: int
    settings: Mapping[str, Any]
    content: Mapping[str, Any]
    profile: Profile


@dataclass(frozen=True)
class Job:
    """A unit of a point.  ``key``: equal where the same is computed from the same; ``after``: manifests to wait for,
    relative to the study's folder; ``twin``: another point makes it too, earlier."""

    point: str
    state: State
    key: str
    after: tuple[str, ...]
    twin: bool

    @property
    def manifest(self) -> str:
        """Its manifest, relative to the study's folder."""
        return f"{self.point}/{self.state.unit.folder}/{manifest.NAME}"


def load(name: str, root: Path) -> Study:
    """The study of that name; raises :class:`InputError` for an unknown name and for what its file may not say."""
    known = {path.stem: path for path in (root / "profiles" / "studies").glob("*.yaml")}
    if name not in known:
        raise InputError(f"unknown study {quoted(name)}{did_you_mean(name, known)}; they lie in profiles/studies")
    try:
        return TypeAdapter(Study).validate_python(strict_yaml.read(known[name]))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise InputError(f"{known[name]}: {place}: {first['msg'][0].lower()}{first['msg'][1:]}") from None


def points(study: Study, name: str, folder: Path) -> list[Point]:
    """Every point, in the order of the tables; raises :class:`InputError` for a table or a setting that is refused."""
    found: dict[str, Point] = {}
    for number, table in enumerate(study.tables):
        where = f"study {name}: tables[{number}]"
        for settings, seed in itertools.product(_rows(table, where), study.seeds):
            label = _label(name, table.get("arms") or [], settings, seed)
            content = _content(study, table.get("arms"), settings, seed, where)
            if BACKBONE.stage in content.get("stages", ()):  # of its own, in the run, where align finds it
                made = f"{RUNS}/{name}/{label}/{BACKBONE.stage}/model"
                content["backbone"] = {**content.get("backbone", {}), "out": made}
                content["align"] = {**content.get("align", {}), "llm": f"{made}/llm"}
            if label in found:
                raise InputError(
                    f"{where}: another run is called {label}: put both settings into one table, or remove one"
                )
            path = folder / POINTS / f"{label}.yaml"
            found[label] = Point(label, seed, settings, content, profiles.parse({**content, "name": label}, path))
    return list(found.values())


def _rows(table: Mapping[str, Any], where: str) -> Iterator[dict[str, Any]]:
    keys = [key for key in table if key not in ("arms", "zip")]
    for key in keys:
        if not isinstance(table[key], list) or not table[key]:
            raise InputError(f"{where}: {key} needs a list of values, not {quoted(table[key])}")
    lists = [table[key] for key in keys]
    if table.get("zip") and len({len(values) for values in lists}) > 1:
        raise InputError(f"{where}: zip needs lists of one length; {keys} have {[len(values) for values in lists]}")
    rows = zip(*lists, strict=True) if table.get("zip") else itertools.product(*lists)
    return (dict(zip(keys, row, strict=True)) for row in rows)


def _content(
    study: Study, arms: Sequence[str] | None, settings: Mapping[str, Any], seed: int, where: str
) -> dict[str, Any]:
    """The profile of one point."""
    content = {key: value for key, value in copy.deepcopy(study.profile).items() if value is not None}
    rows = {row["arm"]: row for row in content.get("arms") or []}
    for arm in arms or ():
        if arm not in rows:
            raise InputError(f"{where}: unknown arm {quoted(arm)}{did_you_mean(arm, rows)}")
    kept = [row for arm, row in rows.items() if arms is None or arm in arms]
    for key, value in settings.items():
        scope, _, field = key.rpartition(".")
        if scope in stage_classes():
            content.setdefault(scope, {})[field] = value
        elif scope in {row["arm"] for row in kept}:
            rows[scope][field] = value
        else:
            raise InputError(
                f"{where}: {key}: say stage.key, or ARM.key of an arm{did_you_mean(scope, (*stage_classes(), *rows))}"
            )
    merged = [f"{row['arm']}+M" for row in kept if row.get("merge")]
    content.setdefault("evaluate", {}).setdefault("systems", [*(row["arm"] for row in kept), *merged])
    return {**content, "seed": seed, "arms": kept}


def _label(name: str, arms: Sequence[str], settings: Mapping[str, Any], seed: int) -> str:
    """A name that stays when a table grows: arms, values, seed; cut, with a hash, where it would be too long."""
    said = [*arms]
    for key, value in settings.items():
        said += [key.rpartition(".")[2], *(map(str, value) if isinstance(value, list) else [str(value)])]
    label = re.sub(r"[^A-Za-z0-9.]+", "-", "-".join(said)).strip("-.") or name
    ending = f"-seed-{seed}"
    if len(label + ending) > LONGEST:
        label = f"{label[: LONGEST - len(ending) - 7]}-{digest(dict(settings))[:6]}"
    return label + ending


def survey(found: Sequence[Point], folder: Path, root: Path) -> list[Job]:
    """Every unit of every point with its state, in an order in which they can run."""
    jobs: list[Job] = []
    first: dict[str, Job] = {}
    hashes = HashCache(folder / POINTS / "hashes.json")
    for point in found:
        keys: dict[Unit, str] = {}
        place = Place(folder / point.name, root / "notebooks")
        for unit, state in plan.survey(point.profile, place, hashes).items():
            before = profiles.upstream(point.profile, unit)
            now, made = state.identity, {other.name for other in before}
            own = {name: value for name, value in now.inputs.items() if name not in made}
            parameters = dict(now.parameters)
            if unit.stage == "align" and BACKBONE in keys:  # known by its content once it is there
                before = (BACKBONE, *before)
                parameters |= {"llm": None}
                own = {name: value for name, value in own.items() if not name.startswith("llm:")}
            parts = [parameters, dict(now.code), own, [keys[other] for other in before]]
            keys[unit] = digest(parts)[:16]
            after = [f"{point.name}/{other.folder}/{manifest.NAME}" for other in before]
            twin = first.get(keys[unit])
            job = Job(point.name, state, keys[unit], (*after, *([twin.manifest] if twin else ())), twin is not None)
            first.setdefault(job.key, job)
            jobs.append(job)
    if folder.is_dir():
        hashes.save()
    return jobs
