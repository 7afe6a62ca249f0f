"""Tables behind the figures: read a run (or the seeds of one), and reduce it to what is drawn.

A results folder is one run (``evaluate/fidelity.csv`` lies in it) or a folder of ``seed-*`` folders, read together.
Values are shares in 0..1 and stay undefined (empty) where nothing was scored.  With one seed an interval is the 95 %
bootstrap over images that the evaluation wrote (a Wilson interval for LF+ and GF, which it writes without bounds);
with several seeds it is the range over seeds.  What is said about all of them together, with intervals, is estimated
from the answers (:attr:`Results.verdicts`, :mod:`textreg.fidelity.estimates`).  Not obvious: a mean that is drawn
counts runs as these estimates do (:func:`over_runs`), so that a figure and the table beside it say one number.
"""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from textreg.errors import InputError
from textreg.fidelity.estimates import CAPTION, CLASSES, KEYS, Estimate, Point, estimate

ENGLISH = "en"
#: Rows of every table and figure; further arms of a profile follow.
SYSTEM_ORDER = ("backbone", "BM", "EN", "TR-mono", "TR", "BM+M", "TR+M")
FIDELITY_COLUMNS = (
    *("seed", "system", "lambda", "language", "arm", "n", "n_scored"),
    *("lf", "lf_low", "lf_high", "lf_plus", "grounded"),
)
VISUAL_COLUMNS = ("seed", "system", "lambda", "task", "language", "n", "accuracy")


@dataclass(frozen=True)
class Results:
    """What the figures are drawn from; a table that the run did not write is empty.

    Every table of several runs has ``backbone``: the language model that was aligned, empty where none is named.
    ``losses`` holds ``seed, arm, step, loss``; ``sweep`` holds ``seed, system, lambda, split, lf, lf_plus, grounded,
    visual`` on the validation split, ``frontier`` the same on the test split, ``chosen`` the lambda of each merged
    system (``seed, system, lambda``).
    """

    folder: Path
    fidelity: pd.DataFrame
    visual: pd.DataFrame
    answers: pd.DataFrame
    mixture: pd.DataFrame
    losses: pd.DataFrame
    sweep: pd.DataFrame
    frontier: pd.DataFrame
    chosen: pd.DataFrame
    _known: dict[tuple, Estimate] = field(default_factory=dict, init=False, repr=False, compare=False)

    @cached_property
    def verdicts(self) -> pd.DataFrame:
        """The answers of every system at its own lambda, with what can be said of each; empty where none were kept."""
        return headline(self.answers, self.chosen)

    @cached_property
    def measured(self) -> pd.DataFrame:
        """The same without their texts: an estimate selects among all, and copies."""
        answers, words = self.verdicts, ["system", "arm", "task", "class"]
        texts = answers.select_dtypes(exclude=["number", "bool"]).columns.difference([*KEYS, *words])
        return answers.drop(columns=texts).astype({name: "category" for name in words if name in answers})

    def estimate(self, *terms: tuple[float, Point]) -> Estimate:
        """The weighted sum of points over everything that was drawn, computed once."""
        if terms not in self._known:
            self._known[terms] = estimate(self.measured, terms)
        return self._known[terms]

    @property
    def seeds(self) -> int:
        """Number of seeds that were scored."""
        return self.fidelity["seed"].nunique()

    @property
    def held_out(self) -> tuple[str, ...]:
        """Languages that were evaluated but have no text rows, English aside; none when the mixture is not known."""
        if self.mixture.empty:
            return ()
        missing = set(self.fidelity["language"]) - set(self.mixture["language"]) - {ENGLISH}
        return tuple(sorted(missing))


def seed_folders(folder: str | Path) -> list[Path]:
    """The runs of a results folder: its ``seed-*`` folders, or the folder itself when it is a run."""
    folder = Path(folder)
    runs = sorted(folder.glob("seed-*/"), key=lambda path: (len(path.name), path.name)) or [folder]
    for run in runs:
        if not (run / "evaluate" / "fidelity.csv").is_file():
            raise InputError(
                f"{run}: no evaluate/fidelity.csv here; give an evaluated run folder, or a folder of seed-* folders"
            )
    return runs


def load_results(folder: str | Path) -> Results:
    """Read every table of a results folder.  Raises :class:`InputError` on a missing file or column."""
    runs = {run: _backbone(run) for run in seed_folders(folder)}
    scores = {run: _read(run / "evaluate/fidelity.csv", FIDELITY_COLUMNS) for run in runs}
    losses, sweeps, chosen = [], [], []
    for run, backbone in runs.items():
        where = {"seed": scores[run]["seed"].iloc[0] if len(scores[run]) else 0, "backbone": backbone}
        for log in sorted(run.glob("tune/*/log.csv")):
            losses.append(_read(log, ("step", "loss")).assign(**where, arm=log.parent.name))
        for sweep in sorted(run.glob("merge/*/sweep.csv")):
            sweeps.append(_read(sweep, ("lambda", "lf")).pipe(_with_defaults, **where, system=sweep.parent.name))
        for choice in sorted(run.glob("merge/*/choice.json")):
            lam = json.loads(choice.read_text(encoding="utf-8"))["lambda"]
            chosen.append({"seed": where["seed"], "system": choice.parent.name, "lambda": float(lam)})
    return Results(
        folder=Path(folder),
        fidelity=_in_order(_concat([table.assign(backbone=runs[run]) for run, table in scores.items()])),
        visual=_in_order(_together(runs, "evaluate/visual.csv", VISUAL_COLUMNS)),
        answers=_together(runs, "evaluate/answers.parquet", ("system", "language", "arm", "answer")),
        mixture=_together(runs, "prepare_data/mixture.csv", ("source", "language", "rows", "share")),
        losses=_concat(losses),
        sweep=_concat(sweeps),
        frontier=_together(runs, "evaluate/frontier.csv", ("seed", "system", "lambda", "visual")),
        chosen=pd.DataFrame(chosen, columns=["seed", "system", "lambda"]),
    )


def _backbone(run: Path) -> str:
    base = run / "align" / "base.json"
    return json.loads(base.read_text(encoding="utf-8"))["llm"] if base.is_file() else ""


def over_runs(table: pd.DataFrame, by: Sequence[str], values: Sequence[str]) -> pd.DataFrame:
    """Means of ``values``, indexed by ``by`` in order of appearance: within a run, over the seeds of a backbone, then
    over backbones, as :func:`textreg.fidelity.estimates.estimate` counts them.  What is undefined is left out; a table
    that names no backbone or seed has one.
    """
    runs = _with_defaults(table, backbone="", seed=0)
    means = runs.groupby(["backbone", "seed", *by], sort=False)[list(values)].mean()
    means = means.groupby(level=["backbone", *by], sort=False).mean()
    return means.groupby(level=list(by), sort=False).mean()


def system_order(systems: Iterable[str]) -> list[str]:
    """Each system once: those of :data:`SYSTEM_ORDER` in that order, then others as they come."""
    given = list(dict.fromkeys(systems))
    return [*(name for name in SYSTEM_ORDER if name in given), *(name for name in given if name not in SYSTEM_ORDER)]


def losses_by_arm(
    answers: pd.DataFrame, measure: str = "asked", before: str = "backbone", resamples: int = 1000
) -> pd.DataFrame:
    """What each system lost against ``before`` on the same requests: ``system, arm, value, low, high`` (shares).

    Arms ``image``, ``text_en`` (the content as English text) and ``text``; and ``beyond``, the loss on images less
    that on English text: what the picture takes that an English document would not.
    """
    rows = []
    for system in system_order(answers["system"]):
        if system == before or before not in set(answers["system"]):
            continue
        lost = {
            arm: [(1.0, Point(before, arm, measure)), (-1.0, Point(system, arm, measure))]
            for arm in ("image", "text_en", "text")
        }
        lost["beyond"] = lost["image"] + [(-weight, point) for weight, point in lost["text_en"]]
        for arm, terms in lost.items():
            found = estimate(answers, terms, resamples=resamples)
            rows.append((system, arm, found.value, found.low, found.high))
    return pd.DataFrame(rows, columns=["system", "arm", "value", "low", "high"])


def classes(answers: pd.DataFrame, arms: Sequence[str] = ("image", "text_en", "text")) -> pd.DataFrame:
    """What the answers to caption requests in other languages than English are: ``system, arm, class, share``.

    A share (0..1) is a mean over languages and runs (:func:`over_runs`); those of a system and arm sum to 1 where
    every answer has a class.
    """
    require(answers, ("backbone", "seed", "class"), "answers")
    rows = answers[(answers["task"] == CAPTION) & (answers["language"] != ENGLISH) & answers["arm"].isin(arms)]
    keys = ["backbone", "seed", "system", "arm", "language"]
    shares = pd.DataFrame({name: rows["class"] == name for name in CLASSES}).groupby([rows[key] for key in keys])
    table = over_runs(shares.mean().reset_index(), ["system", "arm"], CLASSES)
    order = [(name, arm) for name in system_order(rows["system"]) for arm in arms if (name, arm) in table.index]
    return table.loc[order].rename_axis(columns="class").stack().rename("share").reset_index()


def headline(table: pd.DataFrame, chosen: pd.DataFrame | None = None) -> pd.DataFrame:
    """One lambda per seed and system: the tuned model itself (the largest), and for ``+M`` systems the chosen one.

    ``chosen`` (``seed, system, lambda``) is needed only where a table holds several lambdas of a merged system; each
    seed chooses its own.
    """
    if table.empty:
        return table
    named = {} if chosen is None else {(row.seed, row.system): row[3] for row in chosen.itertuples()}
    groups, wanted = table.groupby(["seed", "system"], sort=False), []
    for (seed, system), found in groups["lambda"].unique().items():
        lambdas, merged = sorted(found[~np.isnan(found)]), system.endswith("+M")
        if len(lambdas) > 1 and merged and (seed, system) not in named:
            raise InputError(f"system {system}: lambdas {lambdas} and none named as chosen (merge/*/choice.json)")
        # With nothing to choose every row stays.
        wanted.append(np.nan if len(lambdas) < 2 else named[seed, system] if merged else lambdas[-1])
    place = groups.ngroup().to_numpy()
    lams = np.array(wanted)[place]
    kept = np.flatnonzero((place >= 0) & (np.isnan(lams) | (np.abs(table["lambda"] - lams) < 1e-9)))
    # All rows are copied at once: most of a table of answers is text.
    return table.iloc[kept[np.argsort(place[kept], kind="stable")]].reset_index(drop=True)


def per_language(
    fidelity: pd.DataFrame, metric: str = "lf", arm: str = "image", systems: Iterable[str] | None = None
) -> pd.DataFrame:
    """``system, language, value, low, high, seeds, n``: one row per system and language, the mean over runs."""
    rows = _select(fidelity, metric, arm, systems)
    means, table = over_runs(rows, ["system", "language"], [metric])[metric], []
    for (system, language), group in rows.groupby(["system", "language"], sort=False):
        known = group.dropna(subset=[metric])
        low, high = _interval(known, metric)
        table.append((system, language, means[system, language], low, high, len(known), int(group["n"].sum())))
    return pd.DataFrame(table, columns=["system", "language", "value", "low", "high", "seeds", "n"])


def macro(
    fidelity: pd.DataFrame,
    metric: str = "lf",
    arm: str = "image",
    systems: Iterable[str] | None = None,
    languages: Collection[str] | None = None,
) -> pd.DataFrame:
    """``system, value, low, high, seeds, languages``: mean over languages (default: all but English), then over runs.

    With one seed the interval is left undefined: bounds per language cannot be combined, since languages share images.
    """
    rows = _select(fidelity, metric, arm, systems)
    rows = rows[rows["language"] != ENGLISH] if languages is None else rows[rows["language"].isin(languages)]
    means, table = over_runs(rows, ["system"], [metric])[metric], []
    for system, group in rows.groupby("system", sort=False):
        by_seed = group.groupby("seed")[metric].mean().dropna()
        several = len(by_seed) > 1
        low, high = (by_seed.min(), by_seed.max()) if several else (float("nan"), float("nan"))
        table.append((system, means[system], low, high, len(by_seed), group["language"].nunique()))
    return pd.DataFrame(table, columns=["system", "value", "low", "high", "seeds", "languages"])


def questions_by_task(visual: pd.DataFrame) -> pd.DataFrame:
    """``task, n`` (English questions of all runs) and a column per system: the share it got right, mean over runs."""
    rows = visual[(visual["language"] == ENGLISH) & (visual["task"] != "caption")]
    shares = over_runs(rows, ["task", "system"], ["accuracy"])["accuracy"].unstack("system").sort_index()
    counts = rows.groupby(["task", "system"])["n"].sum().groupby(level="task").max().astype(int)
    return shares[system_order(shares.columns)].assign(n=counts).rename_axis(columns=None).reset_index()


def group_small(mixture: pd.DataFrame, threshold: float = 0.03) -> pd.DataFrame:
    """``language, share``: summed over sources, largest first; languages below ``threshold`` become ``Others``."""
    require(mixture, ("language", "share"), "mixture table")
    shares = mixture.groupby("language")["share"].sum() / mixture["share"].sum()
    large = shares[shares >= threshold].sort_values(ascending=False, kind="stable")
    small = shares[shares < threshold]
    table = large.rename_axis("language").reset_index(name="share")
    if len(small):
        table.loc[len(table)] = ["Others", small.sum()]
    return table


def describe(table: pd.DataFrame, value: str = "value") -> str:
    """``"BM 41 %, TR 96 %"``: the mean of ``value`` per system in per cent, for alternative texts."""
    means = table.groupby("system", sort=False)[value].mean()
    shown = {system: "undefined" if pd.isna(mean) else f"{100 * mean:.0f} %" for system, mean in means.items()}
    return ", ".join(f"{system} {mean}" for system, mean in shown.items())


def require(table: pd.DataFrame, columns: Iterable[str], what: str) -> None:
    """Raise :class:`InputError` unless ``table`` has all ``columns``."""
    missing = [column for column in columns if column not in table.columns]
    if missing:
        raise InputError(f"{what}: column {missing[0]!r} is missing (found: {', '.join(map(str, table.columns))})")


def _select(fidelity: pd.DataFrame, metric: str, arm: str, systems: Iterable[str] | None) -> pd.DataFrame:
    require(fidelity, ("seed", "system", "language", "arm", "n", metric), "fidelity table")
    rows = fidelity[fidelity["arm"] == arm]
    if systems is None:
        return rows
    wanted = list(systems)
    rows = rows[rows["system"].isin(wanted)]
    return rows.sort_values("system", key=lambda column: column.map(wanted.index), kind="stable")


def _interval(group: pd.DataFrame, metric: str) -> tuple[float, float]:
    if not len(group):
        return float("nan"), float("nan")
    if len(group) > 1:
        return group[metric].min(), group[metric].max()
    row = group.iloc[0]
    if metric == "lf" and pd.notna(row.get("lf_low")):
        return row["lf_low"], row["lf_high"]

    from scipy.stats import binomtest

    scored = int(row.get("n_scored", row["n"]))
    bounds = binomtest(round(row[metric] * scored), scored).proportion_ci(method="wilson")
    return bounds.low, bounds.high


def _read(path: Path, columns: Iterable[str]) -> pd.DataFrame:
    stored = path.suffix == ".parquet"
    table = pd.read_parquet(path) if stored else pd.read_csv(path, keep_default_na=False, na_values=[""])
    require(table, columns, str(path))
    return table


def _together(runs: Mapping[Path, str], name: str, columns: Iterable[str]) -> pd.DataFrame:
    found = {run: run / name for run in runs if (run / name).is_file()}
    return _concat([_read(path, columns).assign(backbone=runs[run]) for run, path in found.items()])


def _in_order(table: pd.DataFrame) -> pd.DataFrame:
    if table.empty:
        return table
    rank = {name: place for place, name in enumerate(system_order(table["system"]))}
    return table.sort_values("system", key=lambda column: column.map(rank), kind="stable", ignore_index=True)


def _concat(tables: list[pd.DataFrame]) -> pd.DataFrame:
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def _with_defaults(table: pd.DataFrame, **columns: object) -> pd.DataFrame:
    return table.assign(**{name: value for name, value in columns.items() if name not in table.columns})
