"""The tables that ``05_evaluate`` shows: means in per cent under readable names, systems in the order of the results.

Tables in (the columns of ``fidelity.csv`` and ``visual.csv``), tables out; nothing is read or written.  A mean is over
the languages other than English, as in the book.

    by_system(pandas.read_csv("evaluate/fidelity.csv"))
"""

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

import pandas as pd

from textreg.figures.style import ARMS, SHORT_MEASURES, language_names, language_order
from textreg.figures.tables import ENGLISH, classes, losses_by_arm, system_order

if TYPE_CHECKING:
    from pandas.io.formats.style import Styler

    from textreg.vlm.systems import System

MEASURES = ("scored", "lf", "lf_plus", "grounded", "english_rate", "exclusive_share", "parse_rate")
HELD_OUT = "*"


def systems_table(systems: Sequence["System"]) -> pd.DataFrame:
    """``tuned as, lambda`` per system; both are empty for the backbone, which has no adapter."""
    rows = [(one.name, one.arm or None, one.lam if one.arm else None) for one in systems]
    table = pd.DataFrame(rows, columns=["system", "tuned as", "lambda"]).astype({"lambda": float})
    return table.set_index("system").loc[system_order(table["system"])].rename_axis(index=None)


def by_system(fidelity: pd.DataFrame) -> pd.DataFrame:
    """Every measure of the image arm: rows are systems, columns measures (0..1); first ``scored``, the share of
    answers that LF and LF+ could be said of."""
    image = fidelity[(fidelity["arm"] == "image") & (fidelity["language"] != ENGLISH)]
    means = image.assign(scored=image["n_scored"] / image["n"]).groupby("system")[list(MEASURES)].mean()
    return means.loc[system_order(means.index)].rename(columns=SHORT_MEASURES)


def by_class(answers: pd.DataFrame) -> pd.DataFrame:
    """What the answers are: rows are systems, columns arm and class (0..1); classes that never occur are left out."""
    found = classes(answers)
    table = found.pivot_table(index="system", columns=["arm", "class"], values="share", sort=False)
    table = table.loc[:, (table > 0).any()]
    return table.rename_axis(index=None, columns=[None, None])


def lost(answers: pd.DataFrame) -> pd.DataFrame:
    """Share of answers that left the asked language through tuning, in points: ``"46 [41, 52]"`` by system and arm."""
    found = losses_by_arm(answers)
    found = found[found["value"].notna()]  # an arm that was not asked
    told = [f"{100 * row.value:.0f} [{100 * row.low:.0f}, {100 * row.high:.0f}]" for row in found.itertuples()]
    table = found.assign(told=told).pivot(index="system", columns="arm", values="told")
    names = {"image": "image", "text_en": "English text", "text": "text", "beyond": "image beyond English text"}
    rows = [name for name in system_order(found["system"]) if name in table.index]
    return table.loc[rows].reindex(columns=list(names)).rename(columns=names).rename_axis(index=None, columns=None)


def said(answers: pd.DataFrame, codes: Sequence[str] = ("de", "el", "uk"), items: int = 1) -> "Styler":
    """What every system said of the first images in some languages, each with its class."""
    rows = answers[(answers["arm"] == "image") & (answers["task"] == "caption")]
    asked = [code for code in codes if code in set(rows["language"])] or sorted(set(rows["language"]) - {ENGLISH})[:3]
    rows = rows[rows["language"].isin(asked) & rows["item_id"].isin(rows["item_id"].unique()[:items])]
    names = language_names(asked)
    table = rows.assign(language=rows["language"].map(names))[["item_id", "language", "system", "class", "answer"]]
    rank = {name: place for place, name in enumerate(system_order(table["system"]))}
    table = table.sort_values(
        ["item_id", "language", "system"], key=lambda c: c.map(rank) if c.name == "system" else c
    )
    return (
        table.drop(columns="item_id")
        .style.hide(axis="index")
        .set_properties(subset=["answer"], **{"text-align": "left"})
    )


def claims(found: pd.DataFrame) -> "Styler":
    """Claims with what was measured, in per cent, and the verdict."""
    spread = [
        "–" if pd.isna(row.value) else f"{100 * row.value:.1f} [{100 * row.low:.1f}, {100 * row.high:.1f}]"
        for row in found.itertuples()
    ]
    return found.assign(measured=spread)[["claim", "bound", "measured", "verdict"]].style.hide(axis="index")


def by_arm(fidelity: pd.DataFrame, measures: Sequence[str] = ("lf", "lf_plus")) -> pd.DataFrame:
    """Rows are systems; within each measure the columns are the arms, as far as they were asked."""
    foreign = fidelity[fidelity["language"] != ENGLISH]
    means = foreign.pivot_table(index="system", columns="arm", values=list(measures), dropna=False)
    columns = [(measure, arm) for measure in measures for arm in ARMS if (measure, arm) in means.columns]
    table = means.loc[system_order(means.index), columns]
    table.columns = pd.MultiIndex.from_tuples([(SHORT_MEASURES[measure], arm) for measure, arm in columns])
    return table


def by_task(visual: pd.DataFrame) -> pd.DataFrame:
    """English captions and questions right: rows are systems, columns ``task (n)``, captions first (0..1)."""
    english = visual[visual["language"] == ENGLISH]
    counts = english.groupby("task")["n"].max()
    table = english.pivot_table(index="system", columns="task", values="accuracy")
    tasks = sorted(table.columns, key=lambda task: (task != "caption", task))
    named = {task: f"{task} ({counts[task]})" for task in tasks}
    return table.loc[system_order(table.index), tasks].rename(columns=named).rename_axis(columns=None)


def by_language(fidelity: pd.DataFrame, held_out: Collection[str] = ()) -> pd.DataFrame:
    """LF+ of the image arm, or LF where nothing was judged: rows are languages, a star marks those of ``held_out``."""
    image = fidelity[(fidelity["arm"] == "image") & (fidelity["language"] != ENGLISH)]
    measure = "lf_plus" if image["lf_plus"].notna().any() else "lf"
    table = image.pivot_table(index="language", columns="system", values=measure)
    codes, names = language_order(table.index, held_out), language_names(table.index)
    table = table.loc[codes, system_order(table.columns)]
    table.index = [names[code] + (HELD_OUT if code in held_out else "") for code in codes]
    return table.rename_axis(index=SHORT_MEASURES[measure], columns=None)


def per_cent(table: pd.DataFrame) -> "Styler":
    """Shares (0..1) in per cent with one decimal, undefined as a dash."""
    return table.rename_axis(index=None).mul(100).style.format("{:.1f}", na_rep="–")
