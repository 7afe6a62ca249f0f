"""Shipped results: small files of a finished run, with their manifests, from which figures redraw without training.

``ship`` copies them from a run folder; ``stale`` compares the shipped manifests with the repository as it is now:
parameters of the profile, code, hashes of the files.  A result whose code has changed since is named with the
command that refreshes it.

    python -m textreg.runs.shipping check results
    python -m textreg.runs.shipping ship runs/laptop results/laptop/seed-0
"""

import json
import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import typer

from textreg.data.requests import read_requests
from textreg.errors import InputError, RunError
from textreg.files import HashCache, read_json, remove_tree, write_json
from textreg.runs import manifest, plan
from textreg.runs import stages as graph
from textreg.runs.plan import Place
from textreg.runs.report import shortened

#: What is shipped, below the run folder.
FILES = (
    "*/manifest.json",
    "*/*/manifest.json",
    "prepare_data/mixture.csv",
    "align/log.csv",
    "align/base.json",
    "tune/*/log.csv",
    "tune/*/shown.csv",
    "merge/*/*.csv",
    "merge/*/*.json",
    "evaluate/*.csv",
    "evaluate/answers.parquet",
    "mechanism/*.csv",
    "mechanism/*.json",
)
#: Stages whose files are redrawn from the shipped ones and therefore not shipped.
REDRAWN = ("figures",)
MAX_BYTES = 8 * 2**20


@dataclass(frozen=True)
class Stale:
    """A shipped result that no longer stands: where, why, and the commands that refresh it."""

    folder: Path
    unit: str
    reasons: tuple[str, ...]
    cure: str


def ship(run: Path, target: Path, root: Path | None = None) -> list[Path]:
    """Copy the files of a finished run to ``target`` (replaced as a whole) and return their new paths.

    Raises :class:`RunError` when a unit of the run does not stand, so that no half or stale result is shipped, and
    :class:`InputError` when a file is larger than :data:`MAX_BYTES` or ``target`` holds anything but shipped results.
    """
    root = root or graph.repository()
    _require_replaceable(run, target)
    profile, overrides = plan.remembered(run, root)
    states = plan.survey(profile, Place(run, root / "notebooks", overrides), HashCache())
    bad = [f"{unit.name} is {state.state}" for unit, state in states.items() if state.state != "done"]
    if bad:
        raise RunError(f"{run} cannot be shipped: {', '.join(bad)}; bring it up to date with textreg run")
    found = {path for pattern in FILES for path in run.glob(pattern)}
    chosen = sorted(path for path in found if path.relative_to(run).parts[0] not in REDRAWN)
    for path in chosen:
        if path.stat().st_size > MAX_BYTES:
            raise InputError(
                f"{path} has {path.stat().st_size / 2**20:.1f} MiB, {MAX_BYTES / 2**20:.0f} are shipped at most"
            )
    fresh = target.with_name(f".{target.name}.new")
    remove_tree(fresh)
    _copied(chosen, run, fresh)
    _ship_note(run, fresh)
    remove_tree(target)
    fresh.rename(target)
    return [target / path.relative_to(run) for path in chosen]


def _copied(files: Sequence[Path], run: Path, target: Path) -> list[Path]:
    """Copies of files of a run at the same places below ``target``."""
    copies = [target / path.relative_to(run) for path in files]
    for path, copy in zip(files, copies, strict=True):
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
    return copies


def _require_replaceable(run: Path, target: Path) -> None:
    """Shipping replaces its target as a whole, so that may only be an earlier shipment, an empty folder or nothing."""
    here, there = run.resolve(), target.resolve()
    if here.is_relative_to(there) or there.is_relative_to(here):
        raise InputError(f"{target} is, holds or lies in the run {run}; ship to another folder")
    if not os.path.lexists(target):
        return
    if not target.is_dir() or target.is_symlink():
        raise InputError(f"{target} is no folder; ship to another one")
    names = {path.name for path in target.iterdir()}
    if names and (plan.RUN_FILE not in names or ".runner" in names):
        what = "is a run" if plan.RUN_FILE in names else f"holds no {plan.RUN_FILE}, so it is no shipped result"
        raise InputError(f"{target} {what} and would be replaced; ship to an empty folder")


def _ship_note(run: Path, fresh: Path) -> None:
    """The run's note, without a path of this machine: a profile from outside the repository is shipped along."""
    content = read_json(run / plan.RUN_FILE)
    if Path(content["file"]).is_absolute():
        content["file"] = plan.PROFILE_COPY
        shutil.copyfile(run / plan.PROFILE_COPY, fresh / plan.PROFILE_COPY)
    write_json(fresh / plan.RUN_FILE, content)


def stale(results: Path, root: Path | None = None) -> list[Stale]:
    """Every shipped result under ``results`` that no longer stands; empty when all do.

    A folder with a ``run.json`` is a shipped run.  Raises :class:`InputError` for a damaged one.
    """
    root = root or graph.repository()
    found: list[Stale] = []
    for path in sorted(results.rglob(plan.RUN_FILE)):
        folder = path.parent
        profile, overrides = plan.remembered(folder, root)
        again = f"runs/{profile.name}-{folder.name}"
        options = "".join(f" -p {shlex.quote(word)}" for word in overrides)
        start = f"textreg run --profile {profile.name} --run {again}{options}"
        cure = f"{start} && python -m textreg.runs.shipping ship {again} {graph.relative(folder)}"
        there = [unit for unit in profile.units if unit.stage not in REDRAWN]
        place = Place(folder, root / "notebooks", overrides, shipped=True)
        for unit, state in plan.survey(profile, place, HashCache(), there).items():
            if state.state == "missing" and not (folder / unit.folder / manifest.NAME).is_file():
                found.append(Stale(folder, unit.name, ("its manifest was not shipped",), cure))
            elif state.state != "done":
                found.append(Stale(folder, unit.name, state.reasons, cure))
    return found


def ship_systems(run: Path, target: Path) -> list[Path]:
    """Copy what answers (aligned projector, adapters, chosen lambdas) of a finished run, and its first test picture.

    ``target`` then holds a run folder that ``textreg ask`` can open, ``sample.png`` and ``sample.json`` (its scene).
    Raises :class:`InputError` for a run without these.
    """
    patterns = ("align/base.json", "align/projector.safetensors", "tune/*/adapter/*", "merge/*/choice.json")
    found = sorted(path for pattern in patterns for path in run.glob(pattern))
    asked = read_requests(run, "test", ["image"], ["caption"])
    if asked.empty or not any(path.parent.name == "adapter" for path in found):
        raise InputError(f"{run}: no tuned arm or no test picture here; finish the run first")
    first = asked.iloc[0]
    pictures = pd.read_parquet(run / "prepare_data/images.parquet", filters=[("image_id", "==", first["image_id"])])
    remove_tree(target)
    copies = _copied(found, run, target)
    (target / "sample.png").write_bytes(pictures["image"].iloc[0]["bytes"])
    write_json(target / "sample.json", {"scene": json.loads(first["reference"])[0]})
    return [*copies, target / "sample.png", target / "sample.json"]


app = typer.Typer(add_completion=False, help="Ship small results of a run, and check shipped ones.")


@app.command("check")
def check_command(results: Path) -> None:
    """Name every stale result under RESULTS with the command that refreshes it; exit code 1 if there is one."""
    found = stale(results)
    for item in found:
        typer.echo(f"stale: {graph.relative(item.folder)} {item.unit}: {shortened(item.reasons)}")
    for cure in sorted({item.cure for item in found}):
        typer.echo(f"refresh with: {cure}")
    if found:
        raise typer.Exit(1)
    typer.echo(f"{graph.relative(results)}: every shipped result stands")


@app.command("ship")
def ship_command(run: Path, target: Path) -> None:
    """Copy the small files of the finished run RUN to TARGET."""
    typer.echo(f"{len(ship(run, target))} files in {graph.relative(target)}")


@app.command("systems")
def systems_command(run: Path, target: Path) -> None:
    """Copy adapters, projector, lambdas and a test picture of the finished run RUN to TARGET, for ``textreg ask``."""
    size = sum(path.stat().st_size for path in ship_systems(run, target))
    typer.echo(f"{graph.relative(target)}: {size / 2**20:.1f} MiB")


if __name__ == "__main__":
    try:
        app()
    except (InputError, RunError) as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)
