"""Profiles: YAML files of settings, and the settings of one unit resolved from them.

A profile names its scale and seed, holds one section per stage and a list of arms.  There is no inheritance: what a
profile does not say is the default of the settings class, which is the laptop profile.  Precedence, weakest first:
class default, ``scale`` and ``seed`` of the profile, its section, the arm's row (``tune``), ``-p`` overrides.
Everything is checked before a kernel starts, settings that contradict each other or name what is not there as well, so
that no stage stumbles over them hours later; every error is one line that names the file or the option.
YAML is read safely and more strictly than its own rules (:mod:`textreg.runs.strict_yaml`).

    profile = load("smoke")
    settings = resolve(profile, "tune", arm="TR", overrides=("tune.steps=50", "seed=1"), run="runs/smoke")
"""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any

from textreg.errors import InputError, did_you_mean, quoted
from textreg.runs import notebooks, stages, strict_yaml
from textreg.runs.stages import Unit
from textreg.scenes import languages
from textreg.settings import Evaluate, Merge, PrepareData, Stage, Training, Tune, build, stage_classes, value_of

PROFILE_KEYS = ("name", "scale", "seed", "stages", "arms")
#: Set by the runner, not by a profile's section or an override.
RESERVED = ("run", "scale", "arm")
#: Kinds of text rows that the stage of a scale does not write.
NO_SUCH_ROWS = MappingProxyType({"hub": ("mono", "lists"), "pictures": ("lists",)})
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,39}")

#: A name or a query in an address, and keys that say what they are.
CREDENTIALS = re.compile(r"://[^/\s@]+@|://\S*\?|\b(sk|hf|ghp)[-_][A-Za-z0-9_-]{12,}")


@dataclass(frozen=True)
class Profile:
    """A validated profile.  ``sections``: stage -> settings given there; ``arms``: rows of Tune keys with ``arm``."""

    name: str
    path: Path
    scale: str
    seed: int
    stages: tuple[str, ...]
    sections: Mapping[str, Mapping[str, Any]]
    arms: tuple[Mapping[str, Any], ...]

    @property
    def units(self) -> tuple[Unit, ...]:
        """The units of a normal run, in running order."""
        return stages.units(self.stages, self.arms)


def available(root: Path) -> dict[str, Path]:
    """Profile name -> file, of the ``profiles`` folder of the repository ``root``."""
    return {path.stem: path for path in sorted((root / "profiles").glob("*.yaml"))}


def load(name: str | Path, root: Path | None = None) -> Profile:
    """The profile of that name in the repository, or of that file (ending in ``.yaml``).

    Raises :class:`InputError` for an unknown name, a damaged file, an unknown key, a wrong type or range, an unknown
    language, two arms of one name, or an evaluated system that no arm makes.
    """
    if str(name).endswith((".yaml", ".yml")):
        path = Path(name)
        if not path.is_file():
            raise InputError(f"profile file {name} does not exist")
    else:
        known = available(root or stages.repository())
        if name not in known:
            raise InputError(f"unknown profile {quoted(str(name))}{did_you_mean(name, known)}")
        path = known[str(name)]
    return parse(strict_yaml.read(path), path)


def parse(content: Mapping[str, Any], path: Path) -> Profile:
    """A profile from the mapping in its file; ``path`` is named in errors."""
    classes = stage_classes()
    for key in content:
        if key not in PROFILE_KEYS and key not in classes:
            raise InputError(f"{path}: unknown key {quoted(key)}{did_you_mean(key, (*PROFILE_KEYS, *classes))}")
    name = content.get("name", path.stem)
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise InputError(f"{path}: name = {quoted(name)}: letters, digits, '_', '.' and '-' are accepted")
    scale = value_of(Stage, "scale", content.get("scale", "scenes"), str(path))
    seed = value_of(Stage, "seed", content.get("seed", 0), str(path))
    chosen = content.get("stages", [stage for stage in classes if stage != "backbone"])
    if not isinstance(chosen, list):
        raise InputError(f"{path}: stages is a list of stage names")
    for stage in chosen:
        known_stage(stage, str(path))
    sections: dict[str, Mapping[str, Any]] = {}
    for stage, cls in classes.items():
        given = content.get(stage)
        if given is None:  # not there, or nothing but comments in it
            given = {}
        if not isinstance(given, dict):
            raise InputError(f"{path}: {stage} is a mapping of parameters, not {quoted(given)}")
        sections[stage] = {key: _value(cls, key, value, f"{path}: {stage}") for key, value in given.items()}
    profile = Profile(name, path, scale, seed, tuple(chosen), sections, _arms(content.get("arms", []), path))
    try:
        check(profile)
    except InputError as error:
        if str(path) in str(error):
            raise
        raise InputError(f"{path}: {error}") from None  # what two stages together show names no file
    return profile


def _value(cls: type[Stage], key: str, value: Any, where: str) -> Any:
    if key in RESERVED:
        raise InputError(f"{where}: {key} is set by the run itself; remove it here")
    given = value_of(cls, key, value, where)
    for text in given if isinstance(given, list) else [given]:
        if isinstance(text, str) and _holds_secret(text):
            raise InputError(f"{where}: {key} holds the value of a secret environment variable; remove it here")
    return given


def _holds_secret(text: str) -> bool:
    """Whether a setting, which is written into the run, holds what an environment variable keeps secret."""
    return any(secret in text for secret in notebooks.secrets(os.environ))


def _arms(rows: Any, path: Path) -> tuple[Mapping[str, Any], ...]:
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise InputError(f"{path}: arms is a list of mappings, each with a key 'arm'")
    arms: list[Mapping[str, Any]] = []
    for place, row in enumerate(rows):
        arm = row.get("arm")
        where = f"{path}: arms[{place}]"
        if not isinstance(arm, str) or not NAME.fullmatch(arm) or arm == "backbone":
            raise InputError(
                f"{where}: arm = {quoted(arm)}: a name of letters, digits, '_', '.' and '-' is needed (not 'backbone')"
            )
        if any(arm.casefold() == other["arm"].casefold() for other in arms):
            raise InputError(f"{where}: arm {arm!r} is there twice (names that differ in case only count as one)")
        if not isinstance(row.get("merge", False), bool):
            raise InputError(f"{where} ({arm}): merge is true or false, not {quoted(row['merge'])}")
        values = {
            key: _value(Tune, key, value, f"{where} ({arm})")
            for key, value in row.items()
            if key not in ("arm", "merge")
        }
        arms.append({"arm": arm, "merge": row.get("merge", False), **values})
    return tuple(arms)


def known_stage(stage: Any, where: str) -> str:
    """``stage`` if it is one; raises :class:`InputError` with a suggestion."""
    if not isinstance(stage, str) or stage not in stage_classes():
        raise InputError(f"{where}: unknown stage {quoted(stage)}{did_you_mean(stage, stage_classes())}")
    return str(stage)


def resolve(
    profile: Profile, stage: str, arm: str | None = None, overrides: Sequence[str] = (), run: str | None = None
) -> Stage:
    """Settings of ``stage`` (of ``arm`` where the stage runs once per arm) as a frozen settings object.

    ``overrides``: ``key=value`` (every stage that has the key), ``stage.key=value`` or ``arm.key=value``; the value
    is read as the type of its field.  ``run``: the run folder as the notebook shall see it; default
    ``runs/<profile>``.
    """
    cls = stage_classes()[known_stage(stage, "resolve")]
    values: dict[str, Any] = {"run": run or f"runs/{profile.name}", "scale": profile.scale, "seed": profile.seed}
    values |= profile.sections[stage]
    if stage in stages.PER_ARM:
        rows = {row["arm"]: row for row in profile.arms}
        if arm not in rows:
            raise InputError(f"{stage}: unknown arm {arm!r}{did_you_mean(arm, rows)}")
        values["arm"] = arm
        if stage == "tune":
            values |= {key: value for key, value in rows[arm].items() if key != "merge"}
    for text in overrides:
        scope, key, word = split_override(text, profile)
        if scope in (None, stage, arm) and key in {field.name for field in fields(cls)}:
            values[key] = value_of(cls, key, word, f"-p {text[:80]}", text=True)
    if stage == "prepare_data" and getattr(resolve(profile, "align", None, overrides), "steps", 1) == 0:
        values["align_rows"] = 0  # what a published model would be aligned on is never asked for
    return build(cls, values, f"{profile.path}: {stage}")


def split_override(text: str, profile: Profile) -> tuple[str | None, str, str]:
    """``(scope, key, value)`` of ``[stage.|arm.]key=value``; the key and the scope are known ones, else InputError."""
    name, equals, word = text.partition("=")
    if CREDENTIALS.search(word) or _holds_secret(word):  # first: no other error may show it
        raise InputError(
            f"-p {name.strip()[:60]}=...: looks like a credential; put it into an environment variable, never here"
        )
    scope, dot, key = name.strip().rpartition(".")
    classes = stage_classes()
    text = text if len(text) <= 80 else f"{text[:77]}..."
    if not equals or not key or (dot and not scope):
        raise InputError(f"-p {text}: expected key=value, stage.key=value or arm.key=value")
    arms = [row["arm"] for row in profile.arms]
    if scope and scope not in classes and scope not in arms:
        raise InputError(f"-p {text}: {quoted(scope)} is no stage and no arm{did_you_mean(scope, (*classes, *arms))}")
    holders = [classes[scope]] if scope in classes else [Tune, Merge] if scope else list(classes.values())
    known = {field.name for cls in holders for field in fields(cls)} - set(RESERVED)
    if key in RESERVED:
        raise InputError(f"-p {text}: {key} cannot be overridden (see --run, --profile and --arm)")
    if key not in known:
        raise InputError(f"-p {text}: unknown parameter {quoted(key)}{did_you_mean(key, known)}")
    return scope or None, key, word.strip()


def check(profile: Profile, overrides: Sequence[str] = ()) -> None:
    """Resolve every unit and check what one field alone cannot show: its settings together, systems against arms."""
    for text in overrides:
        scope, key, word = split_override(text, profile)
        for stage, cls in stage_classes().items():
            if scope in (None, stage) and key in {field.name for field in fields(cls)}:
                value_of(cls, key, word, f"-p {text[:80]}", text=True)
    for unit in profile.units:
        check_settings(resolve(profile, unit.stage, unit.arm, overrides), f"{profile.path}: {unit.name}")
        upstream(profile, unit, overrides)


def upstream(profile: Profile, unit: Unit, overrides: Sequence[str] = ()) -> tuple[Unit, ...]:
    """The units whose files ``unit`` reads, in running order: an arm that no evaluated system uses is not waited for,
    and ``TR+M`` needs the merge of ``TR``.

    Raises :class:`InputError` for a system or an arm that the profile does not train or merge.
    """
    known = stages.units(stages.order(), profile.arms)
    if unit.stage == "figures":  # loss curves and sweeps of every arm are drawn beside the scores
        drawn = {"prepare_data", "tune", "merge", "evaluate"} & set(profile.stages)
        return tuple(other for other in known if other.stage in drawn)
    number = stages.order().index(unit.stage)
    wanted = [Unit(stage) for stage in ("prepare_data", "align") if stages.order().index(stage) < number]
    settings: Any = resolve(profile, unit.stage, unit.arm, overrides)
    if unit.stage == "merge":
        wanted.append(Unit("tune", unit.arm))
    elif unit.stage == "mechanism":
        wanted += [stages.require_known(Unit("tune", arm), known, "mechanism.arms") for arm in settings.arms]
    elif unit.stage == "evaluate":
        for system in (system for system in settings.systems if system != "backbone"):
            arm = system.removesuffix("+M")
            for stage in ("tune", "merge") if system != arm else ("tune",):
                wanted.append(stages.require_known(Unit(stage, arm), known, "evaluate.systems"))
    return tuple(other for other in known if other in wanted)


def check_settings(settings: Stage, where: str) -> None:
    """Raises :class:`InputError`, beginning with ``where``, for settings of one unit that cannot work together."""
    for field in fields(settings):
        value = getattr(settings, field.name)
        for text in value if isinstance(value, list) else [value]:
            if isinstance(text, str) and CREDENTIALS.search(text):
                raise InputError(f"{where}: {field.name} looks like a credential; put it into an environment variable")
    if isinstance(settings, PrepareData):
        _check_languages(settings, where)
    if isinstance(settings, Training) and settings.micro_batch:
        rows, part = settings.batch_size, settings.micro_batch
        if rows % part:
            raise InputError(
                f"{where}: batch_size {rows} is no multiple of micro_batch {part}; change one, or set micro_batch 0"
            )
    if isinstance(settings, Tune) and settings.text != "none" and settings.text_share == 0:
        raise InputError(f"{where}: text = {settings.text} with text_share 0; say text: none, or give it a share")
    if isinstance(settings, Tune) and settings.text in NO_SUCH_ROWS.get(settings.scale, ()):
        raise InputError(
            f"{where}: text = {settings.text}: {settings.scale} scale makes no such rows; take another text"
        )
    if isinstance(settings, Tune) and settings.text_answers == "own" and settings.text_image != "none":
        raise InputError(f"{where}: text_answers = own answers rows without an image; set text_image: none")
    if isinstance(settings, Merge) and 1.0 not in settings.lambdas:
        raise InputError(
            f"{where}: lambdas lack 1.0, the tuned model that the others are compared with; add it to the list"
        )
    if isinstance(settings, Evaluate) and settings.endpoint and (settings.scale != "hub" or settings.frontier_lambdas):
        raise InputError(
            f"{where}: a server at endpoint answers at hub scale, for the systems and no further lambdas: "
            "set frontier_lambdas: [], or endpoint to nothing"
        )
    if isinstance(settings, Evaluate) and settings.judge == "llm":
        for key in ("judge_endpoint", "judge_model"):
            if not getattr(settings, key):
                raise InputError(f"{where}: judge = llm needs {key}; set it, or take another judge")


def _check_languages(settings: PrepareData, where: str) -> None:
    known = set(languages.codes())
    evaluated = known
    if settings.scale != "scenes":
        from textreg.data import crossmodal  # with pandas, which nothing else here needs

        evaluated = set(crossmodal.languages())
        known = known | evaluated
    for key, accepted in (("languages", evaluated), ("held_out", evaluated), ("text_languages", known)):
        given = getattr(settings, key)
        for code in given:
            if code not in accepted:
                raise InputError(f"{where}: {key}: unknown language {code!r}{did_you_mean(code, accepted)}")
    if "en" not in settings.languages:
        raise InputError(f"{where}: languages lack en; seeing is measured in English, add it")
    both = sorted(set(settings.held_out) & set(settings.text_languages))
    if both:
        raise InputError(
            f"{where}: {', '.join(both)} is in held_out and in text_languages; it can be in one of them only"
        )
