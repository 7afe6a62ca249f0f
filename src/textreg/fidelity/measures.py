"""Language fidelity of a table of answers, per language and system: ``fidelity.csv`` and ``visual.csv``.

:func:`annotate` says what can be said of each answer; everything here counts those flags.  :func:`tally` adds up, so
that tallies of parts add up to the tally of the whole and a file of any length is scored in constant memory;
:func:`rates` divides. A share over nothing is undefined (NaN, an empty cell), never 0 and never 1.

Use: ``summarise(annotate(answers, open_identifier()))``; then ``ifl``, ``compare`` and ``macro_means``
(``comparisons.py``).
"""

from collections.abc import Iterable, Mapping, Sequence

import pandas as pd

from textreg.fidelity.annotation import ENGLISH, Rules, annotate, lf_plus
from textreg.fidelity.comparisons import compare, ifl, macro_means
from textreg.fidelity.intervals import clustered_bounds, share_bounds
from textreg.fidelity.py3langid import UNDETERMINED

__all__ = [
    "COLUMNS",
    "KEYS",
    "VISUAL_COLUMNS",
    "Rules",
    "add",
    "annotate",
    "compare",
    "confusion",
    "ifl",
    "language_groups",
    "lf_plus",
    "macro_means",
    "rates",
    "summarise",
    "tally",
    "unrestricted_share",
    "visual_summary",
]

KEYS = ("seed", "system", "lambda", "language", "arm")
MEANS = {  # column of fidelity.csv -> per-answer column
    "lf": "lf",
    "english_rate": "english",
    "other_rate": "other",
    "exclusive_share": "exclusive",
    "parse_rate": "parsed",
    "lf_plus": "lf_plus",
    "grounded": "grounded",
    "lpr": "lpr",
    "wpr": "wpr",
}
COLUMNS = (*KEYS, "n", "n_scored", "lf", "lf_low", "lf_high", *[name for name in MEANS if name != "lf"])
VISUAL_COLUMNS = ("seed", "system", "lambda", "task", "language", "n", "accuracy", "low", "high")


def tally(annotated: pd.DataFrame, by: Sequence[str] = KEYS) -> pd.DataFrame:
    """Counts and sums per group; tallies of disjoint parts can be added with :func:`add`.

    One row per group of the ``by`` columns present: ``n`` answers, ``n_scored`` (LF defined), per measure ``sum_<m>``
    and ``n_<m>``, and ``empty``, ``unscored_short``, ``short_lines``, ``identified``, ``disagree`` (restricted against
    unrestricted).
    """
    by = [key for key in by if key in annotated.columns]
    counts = {"n": pd.Series(1, index=annotated.index, dtype="int64"), "n_scored": annotated["lf"].notna()}
    for measure in MEANS.values():
        values = annotated[measure]
        counts[f"sum_{measure}"] = (
            values.astype("Float64" if values.dtype == "boolean" else "float64").fillna(0.0).astype(float)
        )
        counts[f"n_{measure}"] = values.notna()
    compared = annotated["unrestricted"].notna() & annotated["lf"].notna() & ~annotated["by_list"]
    counts["empty"] = annotated["answered"] == UNDETERMINED
    counts["unscored_short"] = annotated["lf"].isna() & ~annotated["by_list"]
    counts["short_lines"] = annotated["short_lines"]
    counts["identified"] = compared
    counts["disagree"] = compared & (annotated["unrestricted"] != annotated["identified"])
    table = pd.DataFrame({name: values.to_numpy(dtype=float) for name, values in counts.items()})
    if not by:
        return table.sum().to_frame().T
    keys = [annotated[key].to_numpy() for key in by]
    table = table.groupby(keys, dropna=False, sort=True, observed=True).sum()
    return table.rename_axis(index=by).reset_index()


def add(tallies: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """The tally of the whole from the tallies of its parts (same ``by``)."""
    stacked = pd.concat(list(tallies), ignore_index=True)
    by = list(stacked.columns[: stacked.columns.get_loc("n")])
    return (
        stacked.groupby(by, dropna=False, sort=True, observed=True).sum().reset_index()
        if by
        else stacked.sum().to_frame().T
    )


def rates(counted: pd.DataFrame, method: str = "bootstrap") -> pd.DataFrame:
    """The columns of ``fidelity.csv`` from a tally: shares in 0..1, NaN where nothing was scored.

    ``n_scored`` is the denominator of ``lf``, ``english_rate`` and ``other_rate``; the other measures divide by the
    answers for which they are defined.  Bounds of LF: see :func:`textreg.fidelity.intervals.share_bounds`.
    """
    table = pd.DataFrame({key: counted.get(key) for key in KEYS}, index=counted.index)
    for count in ("n", "n_scored"):
        table[count] = counted[count].astype("int64")
    for name, measure in MEANS.items():
        table[name] = counted[f"sum_{measure}"] / counted[f"n_{measure}"].where(counted[f"n_{measure}"] > 0)
    table["lf_low"], table["lf_high"] = share_bounds(counted["sum_lf"], counted["n_lf"], method=method)
    return table[list(COLUMNS)]


def summarise(
    annotated: pd.DataFrame, by: Sequence[str] = KEYS, bootstrap: int = 1000, seed: int = 0, method: str = "bootstrap"
) -> pd.DataFrame:
    """``fidelity.csv``: one row per group of annotated answers.

    Where an item was answered more than once within a group, the bounds of LF resample items (``bootstrap`` times,
    from ``seed``) instead of answers.
    """
    table = rates(tally(annotated, by), method)
    keys = [key for key in by if key in annotated.columns]
    if "item_id" not in annotated.columns or not annotated.duplicated([*keys, "item_id"]).any():
        return table
    groups = (
        [group for _, group in annotated.groupby(keys, dropna=False, sort=True, observed=True)]
        if keys
        else [annotated]
    )
    for row, group in zip(table.index, groups, strict=True):
        if group["item_id"].duplicated().any():
            items = group.groupby("item_id", dropna=False)["lf"].agg(["sum", "count"])
            bounds = clustered_bounds(items["sum"].astype(float), items["count"], resamples=bootstrap, seed=seed)
            table.loc[row, ["lf_low", "lf_high"]] = bounds
    return table


def unrestricted_share(counted: pd.DataFrame) -> float:
    """Share of identified answers that the unrestricted identifier calls another language; NaN: it cannot say."""
    identified = counted["identified"].sum()
    return float(counted["disagree"].sum() / identified) if identified else float("nan")


def confusion(annotated: pd.DataFrame) -> pd.DataFrame:
    """Counts of scored answers, asked language (index) by answered language (columns)."""
    scored = annotated[annotated["answered"].notna()]
    return pd.crosstab(scored["language"], scored["answered"]).rename_axis(index="asked", columns="answered")


def visual_summary(annotated: pd.DataFrame, arm: str = "image") -> pd.DataFrame:
    """``visual.csv``: accuracy of the content, whatever the language it is said in, per task and language.

    Content right in the wrong language counts, so that seeing and answering in the right language stay two measures;
    the share that is right in both is GF.  Only rows whose content can be judged; bounds as for LF.
    """
    rows = annotated[annotated["content"].notna()]
    rows = rows[rows["arm"] == arm] if "arm" in rows else rows
    keys = [key for key in VISUAL_COLUMNS[:5] if key in rows]
    table = rows.groupby(keys, dropna=False, observed=True)["content"].agg(n="count", hits="sum").reset_index()
    hits, n = table["hits"].to_numpy(dtype=float), table["n"].to_numpy(dtype=float)
    table["accuracy"] = hits / n
    table["low"], table["high"] = share_bounds(hits, n)
    return table.reindex(columns=list(VISUAL_COLUMNS))


def language_groups(
    seen: Iterable[str], held_out: Iterable[str], evaluated: Iterable[str]
) -> Mapping[str, tuple[str, ...]]:
    """Names of groups -> languages: ``all``, ``without English``, and ``seen`` in the text rows, ``held out`` of them,
    ``unseen``."""
    evaluated, seen, held_out = tuple(evaluated), set(seen), set(held_out)
    foreign = tuple(code for code in evaluated if code != ENGLISH)
    return {
        "all": evaluated,
        "without English": foreign,
        "seen": tuple(code for code in foreign if code in seen and code not in held_out),
        "held out": tuple(code for code in foreign if code in held_out),
        "unseen": tuple(code for code in foreign if code not in seen | held_out),
    }
