"""The studies for the book: question, prediction, table and verdicts, from ``profiles/studies`` and
``results/studies``: what came of each prediction first, the figure, then the numbers, folded.

A cell is the mean over seeds, in per cent, with the range of the seeds beside it; where a table has no rows, the study
has not been run, and the block says so.  ``block("text_share", root, drawings)`` is Markdown.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from textreg.book.pages import UNDEFINED, over_seeds, per_cent, table, verdict
from textreg.book.results import dropdown, figure
from textreg.figures import studies as drawing
from textreg.figures.style import CONTEXTS, save_figure
from textreg.runs import profiles, study, study_table

#: Column -> what it shows: task, arm, group, measure.
COLUMNS = {
    "asked, picture": ("caption", "image", "foreign", "asked"),
    "English instead": ("caption", "image", "foreign", "english"),
    "asked, no text row": ("caption", "image", "held_out", "asked"),
    "asked, English text": ("caption", "text_en", "foreign", "asked"),
    "content": ("caption", "image", "foreign", "content"),
    "English questions right": ("questions", "image", "en", "content"),
}
FIGURES = "figures-studies"


def write(target: Path, root: Path) -> None:
    """What the page includes: the block of every study with its drawing, and their size on real weights."""
    names = sorted(path.stem for path in (root / "profiles" / "studies").glob("*.yaml"))
    for name in names:
        (target / f"study_{name}.md").write_text(block(name, root, target), encoding="utf-8")
    if names:
        (target / "studies_hub.md").write_text(hub_table(names, root), encoding="utf-8")


def block(name: str, root: Path, target: Path) -> str:
    """One study as Markdown; its drawing goes below ``target``."""
    asked = study.load(name, root)
    planned, lines = [f"*Question.* {asked.question}\n", f"*Prediction.* {asked.prediction}\n"], []
    found = read(name, root)
    if found.empty:
        return "\n".join([*planned, f"This study has not been run; `textreg study {name} --dry-run` says more.\n"])
    points = study.points(asked, name, root / study.RUNS / name)
    made = found["run"].nunique()
    if made < len(points):
        lines.append(f"{made} of {len(points)} runs are in the table; `textreg study {name}` goes on with the rest.\n")
    folder = target / FIGURES
    planes = [pair for pair in asked.planes or [] if len(found.reindex(columns=pair).dropna())]
    drawings = [draw_plane(found, *pair, name, folder) for pair in planes] or [draw(found, name, folder)]
    points_of = study_table.law(found.dropna(subset=planes[0]), asked.rule) if asked.rule and planes else found[:0]
    said = []
    if asked.rule and len(points_of):
        drawings.append(draw_line(points_of, asked.rule, name, folder))
        said = [rule_in_words(points_of), ""]
    shown = map(figure, drawings)
    said += [groups_table(found, list(asked.groups))] if asked.groups else []
    folded = dropdown("What was asked and predicted, and every setting", [*planned, runs_table(found)])
    return "\n".join([*lines, verdicts_table(found, asked.expects), *said, *shown, folded])


def rule_in_words(points_of: pd.DataFrame) -> str:
    """How far the line through half of the runs is off in the other half, beside the mean of the first."""
    seen, rest = points_of[points_of["fitted"]], points_of[~points_of["fitted"]]
    off = (rest["of"] - rest["predicted"]).abs().mean()
    mean = (rest["of"] - seen["of"].mean()).abs().mean()
    return (
        f"*Rule.* A line through {len(seen)} runs, those of every other setting, is off by {100 * off:.0f} points on "
        f"average in the {len(rest)} others; the mean of the first alone would be off by {100 * mean:.0f}.  "
        f"The ranks of all agree by {points_of['by'].corr(points_of['of'], method='spearman'):.2f} (Spearman)."
    )


def draw_plane(found: pd.DataFrame, across: str, down: str, name: str, out: Path) -> Path:
    """The map of a study as SVG."""
    drawn = drawing.plane(found, across, down)
    alt = f"Six maps of {across} and {down}, in per cent: {'; '.join(drawing.MAPS)}. The table below has the numbers."
    seeds = found.dropna(subset=[across, down])["seed"].nunique()
    means = f"means over up to {seeds} seeds" if seeds > 1 else "one seed"
    caption = f"Study {name}: {means}, foreign captions; empty where no run has ended."
    place = out / f"{name}_{down.rpartition('.')[2]}"
    return save_figure(drawn, place, alt=alt, data=found, caption=caption).paths["svg"]


def draw_line(points_of: pd.DataFrame, rule: study.Rule, name: str, out: Path) -> Path:
    """The rule of a study as SVG."""
    by, of = (
        f"{side['system']}, {CONTEXTS[side.get('arm', 'image')]}: asked language (%)" for side in (rule.by, rule.of)
    )
    told = "; ".join(f"{100 * each.by:.0f} and {100 * each.of:.0f}" for each in points_of.itertuples())
    alt = f"A point for each run and a line through half of them, in per cent, {by} and {of}: {told}."
    caption = f"Study {name}: half of the runs draw the line, the others are predicted."
    return save_figure(
        drawing.line(points_of, by, of), out / f"{name}_rule", alt=alt, data=points_of, caption=caption
    ).paths["svg"]


def draw(found: pd.DataFrame, name: str, out: Path) -> Path:
    """The drawing of a study's table as SVG."""
    rows = drawing.drawn(found)
    panels = [title for title in drawing.PANELS if title in rows]
    means = rows.groupby(["setting", "system"], sort=False)[panels].mean() * 100
    told = "; ".join(
        f"{system}{'' if setting == system else f' at {setting}'} {' and '.join(f'{each:.0f}' for each in values)}"
        for (setting, system), values in zip(means.index, means.to_numpy(), strict=True)
    )
    alt = f"Points by setting, in per cent, {' and '.join(panels)}: {told}."
    caption = f"Study {name}: means over {found['seed'].nunique()} seeds, which stand small behind them."
    saved = save_figure(drawing.settings(rows), out / name, alt=alt, data=rows, caption=caption)
    return saved.paths["svg"]


def read(name: str, root: Path) -> pd.DataFrame:
    """The shipped table of a study; empty where there is none."""
    path = root / study_table.FOLDER / name / "table.csv"
    return pd.read_csv(path) if path.is_file() else pd.DataFrame()


def runs_table(found: pd.DataFrame) -> str:
    """Per system and settings, the measures of :data:`COLUMNS`."""
    varied, several, rows = drawing.varied(found), found["lambda"].nunique() > 1, []
    for (system, lam, *values), mine in found.groupby(["system", "lambda", *varied], dropna=False, sort=False):
        setting = ", ".join(filter(None, [drawing.in_words(values, varied), f"λ {lam:g}" * several])) or UNDEFINED
        cells = []
        for task, arm, group, measure in COLUMNS.values():
            seeds = study_table.rows_of(mine, task=task, arm=arm, group=group)[measure]
            cells.append(over_seeds(seeds, digits=0))
        rows.append([system, setting, mine["seed"].nunique(), *cells])
    return table(["system", "setting", "seeds", *COLUMNS], rows, "Means over seeds in per cent, with their range")


def _setting(value: Any) -> str:
    return UNDEFINED if pd.isna(value) else value if isinstance(value, str) else f"{value:g}"


def groups_table(found: pd.DataFrame, groups: list[str]) -> str:
    """Per system and settings, the asked language under pictures in every group of the study's file."""
    settings = drawing.varied(found)
    shown = study_table.rows_of(found[found["group"].isin(groups)], task="caption", arm="image")
    rows = []
    for values, mine in shown.groupby(["system", *settings], dropna=False, sort=False):
        means = mine.groupby("group")["asked"].mean()
        rows.append([*map(_setting, values), *(per_cent(means.get(group, float("nan"))) for group in groups)])
    names = map(drawing.setting_name, settings)
    return table(
        ["system", *names, *groups], rows, "Asked language under pictures by group, means over seeds in per cent"
    )


def verdicts_table(found: pd.DataFrame, expects: Sequence[study.Expected]) -> str:
    """What was expected, what came out (mean with the 95 % interval over seeds), and the verdict."""
    rows = []
    for expected in expects:
        seen, word = study_table.verdict(found, expected)
        sign = {"at least": expected.at_least, "at most": expected.at_most, "within ±": expected.within}
        bound = next(f"{key} {100 * value:g}" for key, value in sign.items() if value is not None).replace("± ", "±")
        measured = per_cent(seen.value, seen.low, seen.high)
        rows.append([verdict(word), f"{expected.says}: {bound}", measured, seen.runs])
    return table(["verdict", "predicted", "measured", "seeds"], rows, "In per cent or points")


def hub_table(names: list[str], root: Path, plan: str = "gpu") -> str:
    """What each study would ask of the profile ``plan``: trainings, and tokens in them at most."""
    tune: Any = profiles.resolve(profiles.load(plan, root), "tune", "TR")
    tokens = tune.steps * tune.batch_size * tune.max_length
    rows = []
    for name in names:
        found = study.points(study.load(name, root), name, root / study.RUNS / name)
        trainings = sum(len(point.profile.arms) for point in found)
        rows.append([name, len(found), trainings, f"{trainings * tokens / 1e9:.1f}"])
    return table(["study", "runs", "trainings", "billion tokens at most"], rows, f"Studies at the size of {plan}.yaml")
