"""The tables of a study: ``results/studies/NAME/table.csv`` and ``points.csv``, made anew whenever a run has ended.

``table.csv`` has a row for each run, system (at a lambda), task, arm and group of languages: its seed and settings,
the shares of the classes of answers (0..1, they sum to 1), LF, LF+, content (right about the picture) and n answers; a
mean is one over languages of means over requests, and an empty cell is undefined.  Groups are ``foreign`` (all but
English), ``tuned`` and ``held_out`` (with and without text rows), ``en``, and those of the study's file.
``points.csv`` says of each run which commit, machine and seconds made it, and the ``key`` of its definitions: a row
whose key is not that of today (:func:`standing`) was made by other settings or code.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from filelock import FileLock
from scipy import stats

from textreg.fidelity.annotation import ENGLISH
from textreg.fidelity.estimates import CAPTION, CLASSES, Bound, Estimate
from textreg.files import atomic_write, read_json
from textreg.runs import manifest, study
from textreg.runs.study import Expected, Job, Point, Rule

FOLDER = "results/studies"
MEASURES = (*CLASSES, "lf", "lf_plus", "content")


def rows(answers: pd.DataFrame, groups: Mapping[str, list[str]]) -> pd.DataFrame:
    """``system, lambda, task, arm, group``, the measures and n, of answers with their verdicts; questions of every
    kind are one task, and a merged system has rows for each lambda it was asked at."""
    values = pd.DataFrame({name: answers["class"] == name for name in CLASSES}).astype(float)
    for name in ("lf", "lf_plus", "content"):
        values[name] = answers[name].astype("Float64").astype(float)
    task = answers["task"].where(answers["task"] == CAPTION, "questions").rename("task")
    by = ["system", "lambda", "task", "arm"]
    keys = [answers["system"], answers["lambda"], task, answers["arm"], answers["language"]]
    means, counts = values.groupby(keys).mean(), values.groupby(keys).size().rename("n")
    language = means.index.get_level_values("language")
    parts = []
    for group, members in groups.items():
        mine = means[language.isin(members)].groupby(by)
        total = counts[language.isin(members)].groupby(by).sum()
        parts.append(mine.mean().join(total).reset_index().assign(group=group))
    return pd.concat(parts, ignore_index=True)[[*by, "group", *MEASURES, "n"]]


def write(name: str, root: Path) -> Path:
    """Write both tables of a study from its finished runs; returns the first.  A row of a run that is no longer in
    the study goes; one whose run is not here (it was shipped) stays.  Without a row there is no file."""
    asked, folder = study.load(name, root), root / study.RUNS / name
    found = study.points(asked, name, folder)
    target = root / FOLDER / name
    target.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / study.POINTS / "table.lock"):
        jobs = {job.point: job for job in study.survey(found, folder, root) if job.state.unit.stage == "evaluate"}
        done = [point for point in found if jobs[point.name].state.state == "done"]
        kept = {point.name for point in found} - {point.name for point in done}
        varied, nothing = list(dict.fromkeys(key for point in found for key in point.settings)), pd.DataFrame()
        tables = {
            "table": pd.concat([_of_run(point, folder, varied, asked.groups or {}) for point in done] or [nothing]),
            "points": pd.DataFrame([_of_point(point, folder, jobs[point.name]) for point in done]),
        }
        order = {point.name: place for place, point in enumerate(found)}
        for key, table in tables.items():
            path = target / f"{key}.csv"
            old = pd.read_csv(path) if path.is_file() else pd.DataFrame(columns=["run"])
            whole = pd.concat([part for part in (table, old[old["run"].isin(kept)]) if len(part)] or [old[:0]])
            whole = whole.sort_values("run", key=lambda names: names.map(order), kind="stable")
            if whole.empty:
                path.unlink(missing_ok=True)
                continue
            with atomic_write(path) as place:
                whole.to_csv(place, index=False, float_format="%.6g")
    return target / "table.csv"


def _of_run(point: Point, folder: Path, varied: list[str], groups: Mapping[str, list[str]]) -> pd.DataFrame:
    run = folder / point.name
    answers = pd.read_parquet(run / "evaluate" / "answers.parquet")
    languages = sorted(answers["language"].unique())
    mixture = set(pd.read_csv(run / "prepare_data" / "mixture.csv", keep_default_na=False)["language"])
    foreign = [code for code in languages if code != ENGLISH]
    tuned, held_out = [c for c in foreign if c in mixture], [c for c in foreign if c not in mixture]
    every = {"foreign": foreign, "tuned": tuned, "held_out": held_out, ENGLISH: [ENGLISH], **groups}
    settings = {key: _cell(point.settings.get(key)) for key in varied}
    return pd.DataFrame({"run": point.name, "seed": point.seed, **settings}, index=[0]).merge(
        rows(answers, every), how="cross"
    )


def _of_point(point: Point, folder: Path, job: Job) -> dict[str, Any]:
    record = read_json(folder / point.name / "evaluate" / manifest.NAME)
    # A backbone holds a manifest of its weights further down, so units are asked for by their place.
    units = [read_json(folder / point.name / unit.folder / manifest.NAME) for unit in point.profile.units]
    seconds = {unit["unit"]: unit["seconds"] for unit in sorted(units, key=lambda unit: unit["started"])}
    return {
        "run": point.name,
        "seed": point.seed,
        "settings": json.dumps(dict(point.settings), sort_keys=True),
        "key": job.key,
        "commit": record["git_commit"],
        "dirty": record["git_dirty"],
        "processor": record["processor"],
        "threads": record["threads"],
        "seconds": json.dumps(seconds),
    }


def _cell(value: Any) -> Any:
    return " ".join(map(str, value)) if isinstance(value, list) else value


def rows_of(table: pd.DataFrame, **asked: Any) -> pd.DataFrame:
    """The rows with these values (a list as a table writes it); none where a column is not there."""
    for key, value in asked.items():
        table = table[table[key] == _cell(value)] if key in table else table[:0]
    return table


def law(table: pd.DataFrame, rule: Rule) -> pd.DataFrame:
    """``run, by, of, fitted, predicted`` (shares, 0..1): a line through the runs of every other setting, in the
    order of ``by``, and what it says of all of them.  Empty with fewer than six settings."""
    usual = {"task": CAPTION, "arm": "image", "group": "foreign"}
    sides = {
        name: rows_of(table, **{**usual, **where}).groupby("run", sort=False)["asked"].mean()
        for name, where in {"by": rule.by, "of": rule.of}.items()
    }
    settings = list(table.columns[2 : table.columns.get_loc("system")])
    found = pd.DataFrame(sides).dropna().reset_index()
    found = found.merge(table[["run", *settings]].drop_duplicates("run"), on="run")
    places = found.groupby(settings, dropna=False)["by"].mean().rank(method="first").rename("place")
    if len(places) < 6:
        return found[:0]
    found["fitted"] = found.merge(places.reset_index(), on=settings)["place"] % 2 == 1
    line = stats.linregress(*found.loc[found["fitted"], ["by", "of"]].to_numpy().T)
    return found.assign(predicted=line.intercept + line.slope * found["by"])


def verdict(table: pd.DataFrame, expected: Expected) -> tuple[Estimate, str]:
    """What the seeds say of an expectation: mean and t-intervals over them, paired by seed, and met, missed, undecided
    or, with fewer than two seeds, undefined."""

    def by_seed(where: Mapping[str, Any]) -> pd.Series:
        usual: dict[str, Any] = {"task": expected.task, "arm": expected.arm, "group": expected.group}
        return rows_of(table, **{**usual, **where}).groupby("seed")[expected.measure].mean()

    values = by_seed(expected.of)
    values = (values - by_seed(expected.against) if expected.against else values).dropna()
    if len(values) < 2:
        nothing = float("nan")
        return Estimate(values.mean(), nothing, nothing, (nothing, nothing), len(values), 0), "undefined"
    spread = values.sem()
    wide, narrow = (stats.t.ppf(level, len(values) - 1) * spread for level in (0.975, 0.95))
    mean = float(values.mean())
    found = Estimate(mean, mean - wide, mean + wide, (mean - narrow, mean + narrow), len(values), 0)
    return found, Bound(expected.at_least, expected.at_most, expected.within).verdict(found)


def standing(jobs: Sequence[Job], folder: Path) -> dict[str, bool]:
    """Run in the tables of ``folder`` -> whether the study, as planned now, makes it from the same settings and code,
    not from others or not at all."""
    path = folder / "points.csv"
    today = {job.point: job.key for job in jobs if job.state.unit.stage == "evaluate"}
    shipped = pd.read_csv(path).set_index("run")["key"] if path.is_file() else pd.Series(dtype=str)
    return {run: today.get(run) == key for run, key in shipped.items()}
