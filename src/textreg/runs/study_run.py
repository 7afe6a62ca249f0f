"""A study brought up to date by Snakemake: what it costs, the engine, and what is told of it.

Three choices are not obvious.  What stands is decided by the plan of each run alone: a manifest that no longer stands
is taken away, and the engine (``workflow/Snakefile``) makes what is missing, so that it needs no record of its own,
and none can be stale.  It is told jobs, not rules: one per unit, with the manifests it waits for; a unit that another
point makes as well waits for that one, and takes its files (:mod:`textreg.runs.study_unit`).  And a run whose row in
the table is that of today is not made, so that a study goes on where its table ends, on any machine.

    textreg study text_share --dry-run && textreg study text_share
"""

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from textreg.display import counting
from textreg.errors import InputError, RunError, did_you_mean
from textreg.files import read_json, write_json, write_text
from textreg.runs import manifest, plan, study, study_table
from textreg.runs import stages as graph
from textreg.runs.plan import Place
from textreg.runs.report import plain_table
from textreg.runs.runner import clean_ending, cores, sole
from textreg.runs.study import POINTS, Job, Point

ENGINE_MISSING = (
    "studies need Snakemake 9, which is not installed: pip install -c constraints.txt -e '.[study]', or apart from "
    "this environment: uv tool install 'snakemake>=9.15,<10' --with snakemake-executor-plugin-slurm"
)


def run(
    name: str,
    *,
    jobs: int | None = None,
    where: str = "local",
    dry_run: bool = False,
    again: bool = False,
    root: Path | None = None,
    console: Console | None = None,
) -> Path:
    """Bring a study up to date and return its table.  ``jobs``: cores, or jobs at a time of a cluster; ``where``: a
    folder of ``workflow/profiles``; ``again``: runs whose rows stand are made as well.

    Raises :class:`InputError` before anything starts, and :class:`RunError` that lists what failed, when all others
    are done; ``KeyboardInterrupt`` after Ctrl-C.
    """
    if jobs is not None and jobs < 1:
        raise InputError(f"--jobs {jobs}: at least 1 is needed")
    root, console = root or graph.repository(), console or Console(soft_wrap=True, highlight=False)
    folder = root / study.RUNS / name
    found = study.points(study.load(name, root), name, folder)
    planned = study.survey(found, folder, root)
    table = root / study_table.FOLDER / name / "table.csv"
    rows = study_table.standing(planned, table.parent)
    if old := [run for run, stands in rows.items() if not stands]:
        console.print(f"{graph.relative(table)}: {len(old)} runs are of other settings or code ({', '.join(old[:3])})")
    if (count := sum(rows.values())) and not again:
        console.print(f"{graph.relative(table)}: the rows of {count} runs stand; --again makes them, too")
        found = [point for point in found if not rows.get(point.name)]
        planned = study.survey(found, folder, root)
    console.print(_overview(planned, cost(planned, folder, root)))
    if dry_run or not found:
        return table
    words = _engine(root, where)
    with sole(folder, POINTS, "wait for it"), clean_ending():
        claim(found, folder, root)
        for job in (job for job in planned if job.state.state != "done"):
            (folder / job.manifest).unlink(missing_ok=True)
        write_json(folder / POINTS / "jobs.json", {job.manifest: _told(job) for job in planned})
        words += ["--directory", str(folder), "--cores" if where == "local" else "--jobs"]
        words += [str(jobs or os.cpu_count() or 1), "--config", f"python={sys.executable}", f"repository={root}"]
        code = _follow(words, planned, folder)
        planned = study.survey(found, folder, root)
        study_table.write(name, root)
    if table.is_file():
        console.print(f"table: {graph.relative(table)}")
    left = [job for job in planned if job.state.state != "done"]
    failed = [
        f"{job.point} {job.state.unit.name}: {job.state.reasons[0]}" for job in left if job.state.state == "failed"
    ]
    if left or code:
        log = f"see {graph.relative(folder / 'engine.log')}; the same command goes on"
        raise RunError("; ".join([*failed, f"{len(left) - len(failed)} units not made, {log}"]))
    return table


def claim(found: Sequence[Point], folder: Path, root: Path) -> None:
    """Write the profile of every point, and note in its run folder that it is its."""
    for point in found:
        write_text(point.profile.path, json.dumps({**point.content, "name": point.name}, indent=1) + "\n")
        plan.claim(point.profile, Place(folder / point.name, root / "notebooks"), root)


def cost(jobs: Sequence[Job], folder: Path, root: Path) -> dict[str, float]:
    """Stage -> seconds of what does not stand, from the seconds by work that units of that stage have taken: in
    studies where one has run, else in the shipped results.  A stage that nobody has measured is left out."""
    rates: dict[str, float] = {}
    for runs in ((root / "results").glob("*/*/"), folder.parent.glob("*/*/")):
        seen: dict[str, list[float]] = {}
        for above in runs:
            prepared = manifest.read(above / "prepare_data")
            if prepared is None:
                continue
            deeper = [path for stage in graph.PER_ARM for path in above.glob(f"{stage}/*/{manifest.NAME}")]
            for path in [*above.glob(f"*/{manifest.NAME}"), *deeper]:
                record = read_json(path)
                work = _work(record["stage"], record["parameters"], prepared["parameters"])
                seen.setdefault(record["stage"], []).append(record["seconds"] / work)
        rates |= {stage: median(values) for stage, values in seen.items()}
    prepared_of = {job.point: job.state.identity.parameters for job in jobs if job.state.unit.stage == "prepare_data"}
    total: dict[str, float] = {}
    for job in jobs:
        stage = job.state.unit.stage
        if job.state.state != "done" and not job.twin and stage in rates:
            work = _work(stage, job.state.identity.parameters, prepared_of[job.point])
            total[stage] = total.get(stage, 0.0) + rates[stage] * work
    return total


def _work(stage: str, own: Mapping[str, Any], prepared: Mapping[str, Any]) -> float:
    """What the seconds of a unit grow with: rows, or answers."""
    if "steps" in own:
        return max(1, own["steps"] * own["batch_size"])
    asked = len(prepared["languages"])
    if stage == "merge":
        return len(own["lambdas"]) * prepared["validation_images"] * asked
    if stage == "evaluate":
        return len(own["systems"]) * (len(own["arms"]) * prepared["test_images"] * asked + prepared["test_questions"])
    return prepared["align_rows"] + prepared["visual_rows"] + prepared["text_rows"]


def _told(job: Job) -> dict[str, Any]:
    """What the engine is told of a job."""
    return {"arm": job.state.unit.arm or "", "after": list(job.after), "threads": cores(job.state.settings)}


def _engine(root: Path, where: str) -> list[str]:
    """The command that starts Snakemake with the profile ``where``."""
    profile = root / "workflow" / "profiles" / where
    if not profile.is_dir():
        known = [path.name for path in profile.parent.iterdir()]
        raise InputError(f"--on {where}: no such folder in workflow/profiles{did_you_mean(where, known)}")
    found = shutil.which("snakemake", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if found is None:
        raise InputError(ENGINE_MISSING)
    return [found, "--snakefile", str(root / "workflow" / "Snakefile"), "--workflow-profile", str(profile)]


def _follow(words: Sequence[str], planned: Sequence[Job], folder: Path) -> int:
    """Run the engine, whose words go into a log, and count the manifests that appear; its exit code."""
    waiting = {folder / job.manifest for job in planned if job.state.state != "done"}
    with (
        (folder / "engine.log").open("ab") as log,
        counting("units", len(waiting), len(planned) - len(waiting)) as tick,
    ):
        engine = subprocess.Popen(words, stdout=log, stderr=log, cwd=folder)
        try:
            while engine.poll() is None:
                for path in [path for path in waiting if path.is_file()]:
                    waiting.remove(path)
                    tick()
                try:
                    engine.wait(0.5)
                except subprocess.TimeoutExpired:
                    continue
        except KeyboardInterrupt:
            for end in (lambda: None, engine.terminate, engine.kill):  # a terminal has told the engine already
                with contextlib.suppress(subprocess.TimeoutExpired):
                    end()
                    engine.wait(10)
            raise
    return engine.returncode


def _overview(planned: Sequence[Job], seconds: Mapping[str, float]) -> Table:
    """Per stage: units, those that stand, those that another makes too, those to make, and what these cost."""
    table = plain_table("stage", right=("units", "done", "shared", "to make", "minutes"))
    for stage in [*dict.fromkeys(job.state.unit.stage for job in planned), "all"]:
        mine = [job for job in planned if stage in (job.state.unit.stage, "all")]
        done = sum(job.state.state == "done" for job in mine)
        shared = sum(job.state.state != "done" and job.twin for job in mine)
        time = sum(seconds.values()) if stage == "all" else seconds.get(stage)
        counts = (len(mine), done, shared, len(mine) - done - shared)
        table.add_row(stage, *map(str, counts), "?" if time is None else f"{time / 60:.1f}")
    return table
