"""What a file of answers says beyond rates, because its answers belong to items: losses, differences, means.

The same item asked of two systems, in two arms or in several languages is one thing seen several times, so IFL and
comparisons pair by item, and bounds resample items.  Not obvious: of every answer only twenty bytes are kept (its
group, a hash of its item, the outcome), and two merge coefficients of one system are two *series*, which is what
tables and drawings keep apart.

Use: ``items = joined([compact(part) for part in parts])``, then ``losses(items)``, ``differences(items)``.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from textreg.errors import InputError, did_you_mean
from textreg.fidelity import measures
from textreg.fidelity.annotation import ENGLISH

UNNAMED = "answers"  # what a file without a system column is called in tables and figures
MOST_ITEMS = 100_000  # a mean over more items gets no bounds: they would be narrower than a pixel and cost gigabytes
DIFFERENCES = ("seed", "arm", "system", "against", "language", "n", "difference", "low", "high", "p_value", "test")


def series(table: pd.DataFrame, seeds: bool = True) -> pd.Series:
    """What each row's system is called: its name, with its lambda (and its seed) where the table has several."""
    names = table["system"] if "system" in table else pd.Series(None, index=table.index, dtype=object)
    names = names.astype(object).where(names.notna(), UNNAMED).astype(str)
    if "lambda" in table:
        several = table.assign(name=names).groupby("name")["lambda"].transform("nunique") > 1
        names = names.where(~several | table["lambda"].isna(), _with(names, table, "lambda"))
    if seeds and "seed" in table and table["seed"].nunique() > 1:
        names = names.where(table["seed"].isna(), _with(names, table, "seed"))
    return names


def _with(names: pd.Series, table: pd.DataFrame, key: str) -> pd.Series:
    return names.str.cat(table[key].map("{:.15g}".format, na_action="ignore").astype(str), f", {key} ")


def compact(annotated: pd.DataFrame) -> pd.DataFrame:
    """What pairing needs of each answer with an item: its group, a 64-bit hash of its item, and the outcome."""
    rows = annotated[annotated["item_id"].notna()] if "item_id" in annotated else annotated.iloc[:0]
    kept = {key: rows[key].astype("category") for key in measures.GROUP_KEYS if key in rows}
    items = rows.get("item_id", pd.Series(dtype=object)).to_numpy(dtype=object)
    kept["item_id"] = pd.util.hash_array(items, categorize=False)
    kept["lf"] = rows["lf"].astype("Float32").to_numpy(dtype="float32", na_value=np.nan)
    return pd.DataFrame(kept, index=rows.index).reset_index(drop=True)


def joined(parts: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """One table of the parts, still compact."""
    columns = {
        key: pd.api.types.union_categoricals([part[key] for part in parts])
        for key in measures.GROUP_KEYS
        if key in parts[0]
    }
    columns |= {key: np.concatenate([part[key].to_numpy() for part in parts]) for key in ("item_id", "lf")}
    return pd.DataFrame(columns)


def losses(items: pd.DataFrame) -> tuple[pd.DataFrame | None, str]:
    """IFL where the items allow it (systems answered in both arms), else None and why not."""
    if items.empty or "arm" not in items:
        return None, ""
    paired = items[items["arm"].isin(("image", "text"))]
    keys = [key for key in measures.SYSTEM_KEYS if key in items]
    if keys and not paired.empty:
        arms = paired.groupby(keys, dropna=False, observed=True)["arm"].transform("nunique")
        paired = paired[arms == 2] if (arms == 2).any() else paired
    try:
        return measures.ifl(paired if not paired.empty else items), ""
    except InputError as failure:
        return None, f"no IFL: {failure}"


def differences(items: pd.DataFrame, against: str = "") -> tuple[pd.DataFrame | None, str]:
    """LF of every other series minus ``against`` (empty: the first of the file) on the same items, per arm and seed.

    Columns ``DIFFERENCES``; language ``all`` is the mean of each item over its languages.  None and why not where the
    items do not allow it; raises InputError for an ``against`` that is no series of the file.
    """
    names = series(items, seeds=False) if not items.empty else pd.Series(dtype=str)
    known = list(dict.fromkeys(names))
    if against and against not in known:
        needed = "" if known else " (no answer has an item_id, so nothing can be paired)"
        raise InputError(f"no system {against!r} to compare with{did_you_mean(against, known)}{needed}")
    if len(known) < 2:
        return None, ""
    against = against or known[0]
    named = items.assign(system=names)
    keys = [key for key in ("seed", "arm") if key in named]
    found = []
    try:
        for key, rows in measures.by_keys(named, keys):
            present = set(rows["system"])
            for name in known:
                if name == against or not {name, against} <= present:
                    continue
                table = measures.compare(rows, name, against, arm=None)
                found.append(table.assign(**dict(zip(keys, key, strict=True)), system=name, against=against))
    except InputError as failure:
        return None, f"systems are not compared: {failure}"
    return (pd.concat(found, ignore_index=True).reindex(columns=list(DIFFERENCES)), "") if found else (None, "")


def means(summary: pd.DataFrame, items: pd.DataFrame, groups: Mapping[str, Sequence[str]]) -> pd.DataFrame:
    """Macro means of LF over groups of languages, per system and arm.

    ``low`` and ``high`` resample items; undefined where not every answer has one, or where there are too many.
    Columns: seed, system, lambda and arm as far as they are known, then ``group, languages, lf, low, high``.
    """
    keys = [key for key in ("seed", "system", "lambda", "arm") if summary[key].notna().any()]
    rows = []
    for name, codes in groups.items():
        for key, part in measures.by_keys(summary[summary["language"].isin(codes)], keys):
            scored = part["lf"].dropna()
            rows.append(dict(zip(keys, key, strict=True), group=name, languages=len(scored), lf=scored.mean()))
    table = pd.DataFrame(rows, columns=[*keys, "group", "languages", "lf"])
    if len(items) < summary["n"].sum() or items["item_id"].nunique() > MOST_ITEMS:
        return table.assign(low=np.nan, high=np.nan)
    bounds = measures.macro_means(items, groups)[[*keys, "group", "low", "high"]]
    for key in keys:
        bounds[key] = bounds[key].astype(table[key].dtype)
    return table.merge(bounds, on=[*keys, "group"], how="left")


def language_groups(
    languages: Sequence[str], seen: Sequence[str] = (), held_out: Sequence[str] = ()
) -> dict[str, tuple[str, ...]]:
    """``all`` and ``without English``; with ``seen`` or ``held_out`` languages (of the text that a model was tuned on)
    also those, and ``unseen``."""
    foreign = [code for code in languages if code != ENGLISH]
    groups = {"all": languages, "without English": foreign}
    if seen or held_out:
        groups["seen"] = [code for code in foreign if code in seen and code not in held_out]
        groups["held out"] = [code for code in foreign if code in held_out]
        groups["unseen"] = [code for code in foreign if code not in (*seen, *held_out)]
    return {name: tuple(codes) for name, codes in groups.items() if codes}


def names(table: pd.DataFrame) -> pd.Series:
    """What each row is called in tables and figures: its series and its arm, as far as the file has them."""
    systems = series(table)
    arms = table["arm"] if "arm" in table else pd.Series(None, index=table.index, dtype=object)
    both = systems.str.cat(", " + arms.astype(object).where(arms.notna(), "").astype(str))
    alone = arms.astype(object).where(systems == UNNAMED, both)
    return alone.where(arms.notna(), systems).astype(str)
