"""The visual regression check: does a cured model still see what the published one saw, and which lambda keeps it?

A published model is compared with itself: every lambda answers the same English questions as lambda 0, which is the
model before the cure, and the change is a paired difference with its interval.  A lambda is kept where the whole
interval is above minus the tolerance, so that few questions buy no licence; among those the most faithful is taken.

Use: ``chosen, table = choose(scored, sweep_table(scored, ["de"], "validation"), 0.03)``.
"""

import json

import pandas as pd

from textreg.data.questions import TASK
from textreg.evaluation.sweep import choose_lambda
from textreg.fidelity.intervals import mean_bounds
from textreg.fidelity.references import contains

COLUMNS = ("system", "lambda", "n", "before", "after", "change", "low", "high")


def regression(scored: pd.DataFrame) -> pd.DataFrame:
    """One row per system and lambda: shares of English questions answered right at lambda 0 (``before``) and at this
    one (``after``), and their paired ``change`` with its 95 % bounds; no row without lambda 0 or without questions.

    ``scored``: columns of ``answers.parquet``; an answer is right that contains a right one
    (:func:`textreg.fidelity.references.contains`).
    """
    asked = scored[(scored["task"] == TASK) & (scored["arm"] == "image") & (scored["language"] == "en")]
    pairs = zip(asked["answer"].fillna("").astype(str), asked["reference"], strict=True)
    right = asked.assign(right=[float(contains(answer, json.loads(reference))) for answer, reference in pairs])
    rows = []
    for system, group in right.groupby("system", sort=False):
        table = group.pivot(index="item_id", columns="lambda", values="right")
        for lam in table.columns if 0.0 in table else ():
            change = (table[lam] - table[0.0]).dropna()
            means = table.loc[change.index, [0.0, lam]].to_numpy().mean(axis=0)
            rows.append((system, lam, len(change), *means, change.mean(), *mean_bounds(change)))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def choose(scored: pd.DataFrame, sweep: pd.DataFrame, tolerated: float) -> tuple[float, pd.DataFrame]:
    """The lambda of ``04_merge`` and the table of :func:`regression` that it rests on, empty where lambda 0 was not
    asked or there were no questions: there :func:`textreg.evaluation.sweep.choose_lambda` decides.

    Of the lambdas above 0 that are sure to lose at most ``tolerated`` of the questions the most faithful is taken
    (LF+, or LF where nobody judged), the larger of equal ones; where none is, that of the smallest sure loss, and it
    is said.
    """
    table = regression(scored)
    if table.empty:
        return choose_lambda(sweep, tolerated), table
    measure = "lf_plus" if sweep["lf_plus"].notna().any() else "lf"
    found = table[table["lambda"] > 0].merge(sweep[["system", "lambda", measure]], on=["system", "lambda"])
    kept = found[found["low"] >= -tolerated - 1e-9]
    if kept.empty:
        print(
            f"no lambda is sure to lose at most {tolerated:g} of the questions: the one of the smallest loss is taken"
        )
        return float(found.sort_values(["low", "lambda"]).iloc[-1]["lambda"]), table
    return float(kept.sort_values([measure, "lambda"]).iloc[-1]["lambda"]), table
