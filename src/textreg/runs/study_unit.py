"""One unit of a study: taken from the store where a run of any study has made the same, else made by the runner.

The store, ``.store`` beside the studies' folders, holds the files of finished units under their identity, as hard
links (copies where the disk has none), so that a point keeps its files when the store is deleted, and two studies that
run side by side make nothing twice: who comes second to an identity waits for its lock.  A unit also waits for the
others of its point, because a run folder is one process's at a time.

The engine calls it: ``python -m textreg.runs.study_unit NAME POINT tune TR``.
"""

import os
import shutil
import signal
import sys
import threading
from contextlib import suppress
from pathlib import Path

import psutil
import typer
from filelock import FileLock

from textreg.errors import InputError, RunError
from textreg.files import HashCache, remove_tree
from textreg.runs import manifest, plan, profiles, runner, study, study_table
from textreg.runs import stages as graph
from textreg.runs.plan import Place
from textreg.runs.stages import Unit

STORE = ".store"


def bring(name: str, point: str, unit: Unit, root: Path) -> None:
    """Bring one unit of a point up to date; what it reads is there.  Raises what :func:`textreg.runs.runner.run`
    does."""
    folder = root / study.RUNS / name
    path = folder / study.POINTS / f"{point}.yaml"
    profile, place = profiles.load(str(path), root), Place(folder / point, root / "notebooks")
    with FileLock(path.with_suffix(".lock")):
        state = plan.assess(profile, place, unit, {}, HashCache(folder / study.POINTS / "hashes.json"))
        if state.state != "done":
            entry = folder.parent / STORE / state.identity.digest
            entry.parent.mkdir(exist_ok=True)
            with FileLock(f"{entry}.lock"):
                if not take(entry, place.run, unit):
                    arms = [unit.arm] if unit.arm else []
                    runner.run(str(path), place.run, only=[unit.stage], arms=arms, root=root)
                    put(entry, place.run, unit)
    if unit.stage == "evaluate":
        study_table.write(name, root)


def take(entry: Path, run: Path, unit: Unit) -> bool:
    """Link the files of a stored unit into a run; False where none is stored, or a damaged one, which is removed."""
    if not entry.is_dir():
        return False
    try:
        content = manifest.read(entry / "files")
    except InputError:
        content = None
    notebook = entry / "executed.ipynb"
    if content is None or manifest.damage(entry / "files", content, HashCache()) or not notebook.is_file():
        remove_tree(entry)
        return False
    shelf = run / "notebooks"
    shelf.mkdir(parents=True, exist_ok=True)
    for stale in (f"{unit.stem}.ipynb", f"{unit.stem}.failed.ipynb"):
        (shelf / stale).unlink(missing_ok=True)
    _link(notebook, shelf / f"{unit.stem}.ipynb")
    remove_tree(run / unit.folder)
    _link_tree(entry / "files", run / unit.folder)
    return True


def put(entry: Path, run: Path, unit: Unit) -> None:
    """Keep the files of a finished unit for others."""
    fresh = entry.with_name(f".{entry.name}.part-")
    remove_tree(fresh)
    fresh.mkdir()
    _link(run / "notebooks" / f"{unit.stem}.ipynb", fresh / "executed.ipynb")
    _link_tree(run / unit.folder, fresh / "files")
    os.replace(fresh, entry)


def _link_tree(source: Path, target: Path) -> None:
    """A copy of a folder whose files are links; it gets its name when it is whole."""
    part = target.with_name(f".{target.name}.part-")
    remove_tree(part)
    shutil.copytree(source, part, copy_function=_link)
    os.replace(part, target)


def _link(source: str | Path, target: str | Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another disk, or one without links
        shutil.copy2(source, target)


def _end_with(engine: int) -> None:
    """Have this process end, as by Ctrl-C, when the one that started it is gone: nobody would wait for it."""

    def follow() -> None:
        with suppress(psutil.NoSuchProcess):
            psutil.Process(engine).wait()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=follow, daemon=True).start()


def main(name: str, point: str, stage: str, arm: str = typer.Argument(""), engine: int = 0) -> None:
    """Make one unit of a study; the engine, whose process is named, calls this."""
    if engine:
        _end_with(engine)
    try:
        bring(name, point, Unit(stage, arm or None), graph.repository())
    except (InputError, RunError) as error:
        typer.echo(f"textreg: {point}: {error}", err=True)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    typer.run(main)
