"""Language fidelity of a table of answers, per language and system, and differences on the same requests.

:func:`annotate` says what can be said of each answer; everything here counts those flags.  :func:`tally` adds up, so
that tallies of parts add up to the tally of the whole and a file of any length is scored in constant memory;
:func:`rates` divides. A share over nothing is undefined (NaN, an empty cell), never 0 and never 1.

Differences (what the image costs, one system against another) pair answers by item, because the same image asked in
the same language is easier or harder for everybody.  Means over languages are macro means, each language counting the
same; their bounds resample items, so that the answers about one image in all languages stay together.  An answer that
is undefined on one side leaves its pair out.

Use: ``annotated = annotate(answers, open_identifier())``; then ``summarise(annotated)``, ``ifl(annotated)``,
``compare(annotated, "TR", "BM")``, ``macro_means(annotated, {"all": codes})``.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict

import numpy as np
import pandas as pd

from textreg.errors import InputError, did_you_mean
from textreg.fidelity.annotation import CLASSES, FLAGS
from textreg.fidelity.intervals import clustered_bounds, macro_bounds, paired_test, share_bounds

GROUP_KEYS = ("seed", "system", "lambda", "language", "arm")
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
CLASS_COLUMNS = tuple(f"class_{name}" for name in CLASSES)
COLUMNS = (
    *(*GROUP_KEYS, "n", "n_scored", "lf", "lf_low", "lf_high"),
    *(*[name for name in MEANS if name != "lf"], *CLASS_COLUMNS, *FLAGS),
)
VISUAL_COLUMNS = ("seed", "system", "lambda", "task", "language", "n", "accuracy", "low", "high")

SYSTEM_KEYS = ("seed", "system", "lambda")
IFL_COLUMNS = (*SYSTEM_KEYS, "language", "n", "text_lf", "image_lf", "ifl", "low", "high", "p_value", "test")
MACRO_COLUMNS = ("seed", "system", "lambda", "arm", "group", "languages", "items", "mean", "low", "high")


def tally(annotated: pd.DataFrame, by: Sequence[str] = GROUP_KEYS) -> pd.DataFrame:
    """Counts and sums per group; tallies of disjoint parts can be added with :func:`add`.

    One row per group of the ``by`` columns present: ``n`` answers, ``n_scored`` (LF defined), per measure ``sum_<m>``
    and ``n_<m>``, ``unscored_short``, ``short_lines``, ``identified``, ``disagree`` (restricted against
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
    for name, column in zip(CLASSES, CLASS_COLUMNS, strict=True):
        counts[column] = annotated["class"] == name
    counts |= {flag: annotated[flag] for flag in FLAGS}
    counts["unscored"] = annotated["lf"].isna() & ~annotated["by_list"]
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
    if not by:
        return stacked.sum().to_frame().T
    return stacked.groupby(by, dropna=False, sort=True, observed=True).sum().reset_index()


def rates(counted: pd.DataFrame, method: str = "bootstrap") -> pd.DataFrame:
    """The columns of ``fidelity.csv`` from a tally: shares in 0..1, NaN where nothing was scored.

    ``n_scored`` is the denominator of ``lf``, ``english_rate`` and ``other_rate``; classes (``class_*``) and flags
    divide by all answers, the other measures by those for which they are defined.  The classes and the share of
    answers without one (undecided, or asked in a language the identifier cannot tell) sum to 1.  Bounds of LF: see
    :func:`textreg.fidelity.intervals.share_bounds`.
    """
    table = pd.DataFrame({key: counted.get(key) for key in GROUP_KEYS}, index=counted.index)
    for count in ("n", "n_scored"):
        table[count] = counted[count].astype("int64")
    for name, measure in MEANS.items():
        table[name] = counted[f"sum_{measure}"] / counted[f"n_{measure}"].where(counted[f"n_{measure}"] > 0)
    for name in (*CLASS_COLUMNS, *FLAGS):
        table[name] = counted[name] / counted["n"]
    table["lf_low"], table["lf_high"] = share_bounds(counted["sum_lf"], counted["n_lf"], method=method)
    return table[list(COLUMNS)]


def summarise(
    annotated: pd.DataFrame,
    by: Sequence[str] = GROUP_KEYS,
    bootstrap: int = 1000,
    seed: int = 0,
    method: str = "bootstrap",
) -> pd.DataFrame:
    """``fidelity.csv``: one row per group of annotated answers.

    Where an item was answered more than once within a group, the bounds of LF resample items (``bootstrap`` times,
    from ``seed``) instead of answers.
    """
    return widen(rates(tally(annotated, by), method), annotated, by, bootstrap, seed)


def widen(
    summary: pd.DataFrame, items: pd.DataFrame, by: Sequence[str] = GROUP_KEYS, bootstrap: int = 1000, seed: int = 0
) -> pd.DataFrame:
    """The summary with bounds of LF by items where an item was answered more than once in a row's group."""
    keys = [key for key in by if key in items]
    if "item_id" not in items or not items.duplicated([*keys, "item_id"]).any():
        return summary
    widened = summary.copy()
    for key, group in by_keys(items, keys):
        if group["item_id"].duplicated().any():
            here = [summary[k].isna() if pd.isna(v) else summary[k] == v for k, v in zip(keys, key, strict=True)]
            hits = group.groupby("item_id", dropna=False)["lf"].agg(["sum", "count"])
            bounds = clustered_bounds(hits["sum"].astype(float), hits["count"], resamples=bootstrap, seed=seed)
            widened.loc[np.logical_and.reduce([summary["n"] > 0, *here]), ["lf_low", "lf_high"]] = bounds
    return widened


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


def ifl(
    annotated: pd.DataFrame, measure: str = "lf", image: str = "image", text: str = "text", bootstrap: int = 1000
) -> pd.DataFrame:
    """Image-induced fidelity loss (Hinck et al. 2024): text arm minus image arm, item by item.

    One row per seed, system, lambda and language, and a row with language ``all`` (see :func:`_across`).  ``n`` items
    are scored in both arms; ``text_lf`` and ``image_lf`` are over these; a positive ``ifl`` is a loss.
    Raises InputError without ``item_id`` or one of the arms.
    """
    _need(annotated, ("item_id", "arm", measure))
    for arm in (image, text):
        if arm not in set(annotated["arm"]):
            known = did_you_mean(arm, set(annotated["arm"]))
            raise InputError(f"IFL needs the arms {image!r} and {text!r}; {arm!r} is not among the answers{known}")
    keys = _present(annotated, SYSTEM_KEYS)
    rows = []
    for key, group in by_keys(annotated, keys):
        for language, both in _across(_paired(group, "arm", (text, image), measure)):
            found = paired_test(both[text], both[image], resamples=bootstrap)
            row = {"text_lf": both[text].mean(), "image_lf": both[image].mean(), "ifl": found.difference}
            rows.append(dict(zip(keys, key, strict=True), language=language, **row, **asdict(found)))
    return pd.DataFrame(rows).reindex(columns=list(IFL_COLUMNS))


def compare(
    annotated: pd.DataFrame,
    system: str,
    against: str,
    measure: str = "lf",
    arm: str | None = "image",
    bootstrap: int = 1000,
) -> pd.DataFrame:
    """``system`` minus ``against`` on the same items, per language and over all: difference, bounds, p-value.

    Systems are rows with that ``system``; if one has several lambdas or seeds they must be selected before.  Columns
    ``language, n, difference, low, high, p_value, test``.
    """
    _need(annotated, ("item_id", "system", measure))
    for name in (system, against):
        if name not in set(annotated["system"]):
            raise InputError(f"unknown system {name!r}{did_you_mean(name, set(annotated['system']))}")
    rows = annotated[annotated["system"].isin((system, against))]
    if arm is not None and "arm" in rows:
        rows = rows[rows["arm"] == arm]
    found = [
        {"language": language, **asdict(paired_test(both[system], both[against], resamples=bootstrap))}
        for language, both in _across(_paired(rows, "system", (system, against), measure))
    ]
    return pd.DataFrame(found)[["language", "n", "difference", "low", "high", "p_value", "test"]]


def macro_means(
    annotated: pd.DataFrame,
    groups: Mapping[str, Iterable[str]],
    measure: str = "lf",
    bootstrap: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """Means over languages of a measure's share, per seed, system, lambda, arm and group of languages.

    groups: name -> codes.  A language in which nothing is scored is left out, and
    ``languages`` counts those that were not; bounds by bootstrap over items.  Columns: ``MACRO_COLUMNS``.
    """
    _need(annotated, (measure,))
    keys = _present(annotated, (*SYSTEM_KEYS, "arm"))
    rows = []
    for key, part in by_keys(annotated, keys):
        items = part["item_id"] if "item_id" in part else pd.Series(part.index, index=part.index)
        values = part[measure].astype("Float64")
        cells = pd.DataFrame({"item": items, "language": part["language"], "value": values})
        cells = cells.groupby(["item", "language"], observed=True)["value"].agg(["sum", "count"])
        hits = cells["sum"].astype(float).unstack(fill_value=0.0)  # (items, languages)
        n = cells["count"].unstack(fill_value=0)
        for name, codes in groups.items():
            chosen = [code for code in codes if code in n.columns and n[code].sum() > 0]
            share = (hits[chosen].sum() / n[chosen].sum()).mean() if chosen else np.nan
            low, high = (
                macro_bounds(hits[chosen], n[chosen], resamples=bootstrap, seed=seed) if chosen else (np.nan, np.nan)
            )
            row = dict(
                zip(keys, key, strict=True),
                group=name,
                languages=len(chosen),
                items=int((n[chosen].sum(axis=1) > 0).sum()),
            )
            rows.append(row | {"mean": share, "low": min(low, share), "high": max(high, share)})
    return pd.DataFrame(rows).reindex(columns=list(MACRO_COLUMNS))


def _paired(rows: pd.DataFrame, side: str, names: Sequence[str], measure: str) -> pd.DataFrame:
    """(items, two sides) floats, NaN where undefined or not answered; items are told apart within a language."""
    rows = rows[rows[side].isin(names)]
    if rows.duplicated(["item_id", "language", side]).any():
        raise InputError("an item is answered twice on one side of a pair; select one seed, system and lambda first")
    wide = rows.set_index(["item_id", "language", side])[measure].astype("Float64").astype(float).unstack()
    return wide.reindex(columns=list(names))


def _across(pairs: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Complete pairs per language, then ``all``: the mean of each item over its languages, which hang together."""
    complete = pairs.dropna()
    for language in sorted(set(pairs.index.get_level_values("language"))):
        here = complete.index.get_level_values("language") == language
        yield language, complete[here]
    yield "all", complete.groupby("item_id").mean()


def by_keys(table: pd.DataFrame, keys: Sequence[str]):
    return table.groupby(list(keys), dropna=False, sort=True, observed=True) if keys else [((), table)]


def _present(table: pd.DataFrame, keys: Iterable[str]) -> list[str]:
    return [key for key in keys if key in table.columns]


def _need(table: pd.DataFrame, columns: Iterable[str]) -> None:
    for column in columns:
        if column not in table.columns:
            raise InputError(f"annotated answers: column {column!r} is missing{did_you_mean(column, table.columns)}")
