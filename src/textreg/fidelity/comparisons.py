"""Differences on the same requests: what the image costs (IFL), one system against another, means over languages.

All take annotated answers (``fidelity.annotate``) and pair them by item, because the same image asked in the same
language is easier or harder for everybody.  Means over languages are macro means, each language counting the same;
their bounds resample items, so that the answers about one image in all languages stay together.  An answer that is
undefined on one side leaves its pair out.

Use: ``ifl(annotated)``, ``compare(annotated, "TR", "BM")``, ``macro_means(annotated, language_groups(...))``.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict

import numpy as np
import pandas as pd

from textreg.errors import InputError, did_you_mean
from textreg.fidelity.intervals import macro_bounds, paired_test

SYSTEM_KEYS = ("seed", "system", "lambda")
IFL_COLUMNS = (
    "seed",
    "system",
    "lambda",
    "language",
    "n",
    "text_lf",
    "image_lf",
    "ifl",
    "low",
    "high",
    "p_value",
    "test",
)
MACRO_COLUMNS = ("seed", "system", "lambda", "arm", "group", "languages", "items", "mean", "low", "high")


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

    groups: name -> codes (``fidelity.language_groups``).  A language in which nothing is scored is left out, and
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
