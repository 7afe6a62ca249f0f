"""Lambda: the sweep over it, the rule that chooses one on the validation split, and the frontier of the test split.

A merged system is the adapter turned down to its lambda (:mod:`textreg.vlm.adapters`), so one loaded model answers at
every lambda.  The rule never looks at test images; it weighs fidelity against what the model still sees.

Use: ``choose_lambda(sweep_table(scored, ["de", "fr"], "validation"), 0.02)``.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from textreg.data.requests import read_requests
from textreg.errors import InputError
from textreg.fidelity.references import caption_scores
from textreg.settings import Evaluate
from textreg.vlm.systems import BACKBONE, MERGED, System, find_system

SWEEP_COLUMNS = ("seed", "system", "lambda", "split", "lf", "lf_plus", "grounded", "visual", "questions")


def sweep_requests(run: str | Path, split: str) -> "pd.DataFrame":
    """What a sweep asks at every lambda: the captions of all languages and the English questions, with the image."""
    asked = read_requests(run, split, ["image"])
    return asked[(asked["task"] == "caption") | (asked["language"] == "en")].reset_index(drop=True)


def sweep_table(scored: "pd.DataFrame", languages: Sequence[str], split: str) -> "pd.DataFrame":
    """One row per system and lambda from annotated image-arm answers: the columns of ``sweep.csv``.

    ``lf``, ``lf_plus`` and ``grounded`` are macro means over ``languages``; ``visual`` is the share of English
    captions whose content is right, or where people wrote the references, so that no content can be judged exactly,
    their chrF; ``questions`` is the share of English questions answered right, undefined where none was judged.  All
    in 0..1.
    """

    rows = []
    shown = scored[scored["arm"] == "image"]
    for (seed, name, lam), everything in shown.groupby(["seed", "system", "lambda"]):
        group = everything[everything["task"] == "caption"]
        asked = everything[(everything["task"] != "caption") & (everything["language"] == "en")]
        questions = asked["content"].astype(float).mean()
        foreign = group[group["language"].isin(languages)].groupby("language")
        means = {m: foreign[m].mean().astype(float).mean() for m in ("lf", "lf_plus", "grounded")}
        english = group[group["language"] == "en"]
        judged = english["content"].notna().any()
        visual = english["content"].astype(float).mean() if judged else caption_scores(english)["chrf"].mean() / 100
        seen = {"visual": visual, "questions": questions}
        rows.append({"seed": seed, "system": name, "lambda": lam, "split": split, **means, **seen})
    return pd.DataFrame(rows, columns=list(SWEEP_COLUMNS))


def choose_lambda(sweep: "pd.DataFrame", tolerated_visual_loss: float) -> float:
    """The rule of ``04_merge``: of the lambdas that see as well as lambda 1 within the tolerance, the one with the
    highest LF+, or LF where no judge said what LF+ is.

    Seeing is the mean of English captions and English questions, or captions alone where no question was judged: a
    lambda that describes well and has forgotten what tuning taught about questions is no good choice.  Ties go to the
    larger lambda, which changes the tuned model least.  Raises :class:`InputError` without lambda 1, or when there was
    no English caption to see by.
    """
    tuned = sweep[sweep["lambda"] == 1.0]
    if tuned.empty:
        raise InputError("merge.lambdas: 1.0 is missing; the rule compares every lambda with the tuned model")
    if tuned["visual"].isna().any():
        raise InputError("merge: no English caption tells what lambda costs: add en to prepare_data.languages")
    measure = "lf_plus" if sweep["lf_plus"].notna().any() else "lf"
    seeing = sweep.reindex(columns=["visual", "questions"]).mean(axis=1)  # leaves undefined ones out
    kept = sweep[seeing >= seeing[tuned.index[0]] - tolerated_visual_loss - 1e-9]
    best = kept.sort_values([measure, "lambda"], ascending=[False, False]).iloc[0]
    return float(best["lambda"])


def frontier(settings: Evaluate) -> list[System]:
    """The further lambdas at which ``05_evaluate`` asks the merged systems, for the frontier figure."""
    merged = [name for name in settings.systems if name.endswith(MERGED)]
    chosen = [find_system(settings.run, name) for name in merged]
    return [replace(which, lam=lam) for which in chosen for lam in settings.frontier_lambdas if lam != which.lam]


def split_frontier(scored: "pd.DataFrame", systems: Sequence[System]) -> tuple["pd.DataFrame", "pd.DataFrame"]:
    """The rows of the results (every system at its own lambda), and the points of the frontier.

    The frontier holds all lambdas of the merged systems, lambda 1 (the tuned arm) and 0 (the backbone) among them.
    """

    own = {(which.name, which.lam) for which in systems}
    keys = list(zip(scored["system"], scored["lambda"], strict=True))
    main = scored[[key in own for key in keys]]
    merged = [which for which in systems if which.name.endswith(MERGED)]
    points = [scored[scored["system"].isin([which.name for which in merged])]]
    for which in merged:
        ends = scored[scored["system"].isin([which.arm, BACKBONE])].copy()
        ends["lambda"] = ends["lambda"].where(ends["system"] != BACKBONE, 0.0)
        points.append(ends.assign(system=which.name))
    return main, pd.concat(points, ignore_index=True)
