"""``textreg score``: the language fidelity of anyone's answers, as a table, a file and two figures.

The file is read in parts and only counts are kept, so memory does not grow with the number of answers; where the file
has items and the arms ``image`` and ``text``, eleven bytes per answer are kept as well, because IFL pairs them.
Figures come from the same drawing functions as the book's.

Use: ``textreg score answers.jsonl --out fidelity.csv --figures figures``, or
``score_report.print_result(score_file("answers.jsonl"))``.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from textreg import comparisons, fidelity
from textreg.annotation import Judge, Rules, annotate
from textreg.answer_files import BadRows, read_answers
from textreg.errors import InputError, did_you_mean
from textreg.identifiers import NO_LANGUAGE, Identifier, code_book, open_identifier
from textreg.tables import atomic_write

OUT_SUFFIXES = (".csv", ".json")
UNNAMED = "answers"  # what a file without a system column is called in tables and figures
PAIR_KEYS = ("seed", "system", "lambda", "language", "arm")


@dataclass(frozen=True)
class Result:
    """What was measured.

    ``summary`` has the columns of ``fidelity.csv``; ``confusion`` counts asked by answered language per system (and
    arm); ``ifl`` is None without items and arms; ``means`` holds macro means of LF; ``notes`` are sentences on what
    could not be scored.  ``disagreement`` is the share of answers that the unrestricted identifier sees differently
    (NaN: unknown).
    """

    path: str
    identifier: str
    rows: int
    bad: int
    summary: pd.DataFrame
    means: pd.DataFrame
    confusion: dict[str, pd.DataFrame]
    ifl: pd.DataFrame | None
    disagreement: float
    notes: tuple[str, ...]


def score_file(
    path: str | Path,
    out: str | Path | None = None,
    figures: str | Path | None = None,
    identifier: str | Identifier = "py3langid",
    judge: Judge | str | None = "exact",
    skip_bad: bool = False,
    rules: Rules | None = None,
) -> Result:
    """Score a file of answers (see ``answer_files.read_answers`` for its form) and write what was asked for.

    out: ``.csv`` (the table) or ``.json`` (everything).  figures: a folder for ``fidelity`` and ``confusion``
    drawings. identifier: a name or an open one.  judge: ``exact`` (used where a row has a scene to compare with),
    ``none`` or a function as in ``annotate``.  Raises InputError; nothing is written then.
    """
    if out is not None and Path(out).suffix not in OUT_SUFFIXES:
        known = did_you_mean(Path(out).suffix, OUT_SUFFIXES)
        raise InputError(f"{out}: results are written as .csv or .json{known}")
    opened = open_identifier(identifier) if isinstance(identifier, str) else identifier
    bad = BadRows()
    known = {*code_book(), *opened.candidates} - {NO_LANGUAGE}
    tallies, answered, items = [], [], []
    for table in read_answers(path, known, bad if skip_bad else None):
        annotated = annotate(table, opened, judge, rules)
        tallies.append(fidelity.tally(annotated))
        answered.append(_answered(annotated))
        if {"item_id", "arm"} <= set(annotated.columns):
            items.append(_items(annotated))
        if len(tallies) > 1:  # one running total each, so that parts do not pile up
            tallies, answered = [fidelity.add(tallies)], [_total(answered)]
    counted = tallies[0]
    summary = fidelity.rates(counted)
    losses, problem = _ifl(items)
    result = Result(
        path=str(path),
        identifier=str(opened),
        rows=int(counted["n"].sum()),
        bad=bad.count,
        summary=summary,
        means=_means(summary),
        confusion=_confusions(answered[0]),
        ifl=losses,
        disagreement=fidelity.unrestricted_share(counted),
        notes=tuple(_notes(counted, opened, bad, problem)),
    )
    if out is not None:
        _write(result, Path(out))
    if figures is not None:
        draw(result, figures)
    return result


def _answered(annotated: pd.DataFrame) -> pd.DataFrame:
    """Counts per system, arm, asked and answered language."""
    scored = annotated[annotated["answered"].notna()]
    keys = [key for key in ("system", "arm", "language", "answered") if key in scored]
    return scored.groupby(keys, dropna=False).size().rename("answers").reset_index()


def _total(parts: Sequence[pd.DataFrame]) -> pd.DataFrame:
    stacked = pd.concat(parts, ignore_index=True)
    return stacked.groupby(list(stacked.columns[:-1]), dropna=False)["answers"].sum().reset_index()


def _items(annotated: pd.DataFrame) -> pd.DataFrame:
    """What pairing needs of each answer: its group, a 64-bit hash of its item, and the outcome."""
    rows = annotated[annotated["arm"].isin(("image", "text"))]
    compact = {key: rows[key].astype("category") for key in PAIR_KEYS if key in rows}
    compact["item_id"] = pd.util.hash_array(rows["item_id"].fillna("").to_numpy(dtype=object), categorize=False)
    compact["lf"] = rows["lf"].astype("Float32").to_numpy(dtype="float32", na_value=np.nan)
    return pd.DataFrame(compact, index=rows.index).reset_index(drop=True)


def _ifl(items: list[pd.DataFrame]) -> tuple[pd.DataFrame | None, str]:
    """IFL where the file allows it, else why not."""
    if not items:
        return None, ""
    columns = {
        key: pd.api.types.union_categoricals([part[key] for part in items]) for key in PAIR_KEYS if key in items[0]
    }
    columns |= {key: np.concatenate([part[key].to_numpy() for part in items]) for key in ("item_id", "lf")}
    try:
        return comparisons.ifl(pd.DataFrame(columns)), ""
    except InputError as failure:
        return None, str(failure)


def _means(summary: pd.DataFrame) -> pd.DataFrame:
    """Macro means of LF over languages, with and without English, per system and arm."""
    keys = [key for key in ("seed", "system", "lambda", "arm") if summary[key].notna().any()]
    parts = {"all": summary, "without English": summary[summary["language"] != fidelity.ENGLISH]}
    rows = []
    for name, part in parts.items():
        for key, group in comparisons.by_keys(part, keys):
            scored = group["lf"].dropna()
            rows.append(dict(zip(keys, key, strict=True), group=name, languages=len(scored), lf=scored.mean()))
    return pd.DataFrame(rows, columns=[*keys, "group", "languages", "lf"])


def _confusions(answered: pd.DataFrame) -> dict[str, pd.DataFrame]:
    keys = [key for key in ("system", "arm") if key in answered]
    return {
        ", ".join(str(k) for k in key) or UNNAMED: group.pivot_table(
            index="language", columns="answered", values="answers", aggfunc="sum", fill_value=0
        ).rename_axis(index="asked", columns="answered")
        for key, group in comparisons.by_keys(answered, keys)
    }


def _notes(counted: pd.DataFrame, identifier: Identifier, bad: BadRows, problem: str) -> list[str]:
    notes = []
    if bad.count:
        notes.append(f"{bad.count} bad rows left out; the first: {bad.first[0]}")
    unknown = sorted(set(counted["language"]) - set(identifier.candidates))
    if unknown:
        notes.append(f"{identifier.name} cannot tell {', '.join(unknown)}: undefined, not zero")
    short = int(counted["unscored_short"].sum())
    if short:
        notes.append(
            f"{short} answers are not scored (too short for the identifier, or its language is unknown to it)"
        )
    empty = int(counted["empty"].sum())
    if empty:
        notes.append(f"{empty} answers are empty or say nothing an identifier could use; they count as wrong")
    lines = int(counted["short_lines"].sum())
    if lines:
        notes.append(f"{lines} lines are too short for LPR and WPR")
    if problem:
        notes.append(f"no IFL: {problem}")
    return notes


def _write(result: Result, out: Path) -> None:
    with atomic_write(out) as path:
        if out.suffix == ".csv":
            result.summary.to_csv(path, index=False)
        else:
            path.write_text(to_json(result) + "\n", encoding="utf-8")


def to_json(result: Result) -> str:
    """Everything in a result as JSON; undefined is null."""
    tables = {"summary": result.summary, "means": result.means, "ifl": result.ifl}
    content = {
        "file": result.path,
        "identifier": result.identifier,
        "rows": result.rows,
        "bad_rows": result.bad,
        "disagreement": None if np.isnan(result.disagreement) else result.disagreement,
        "notes": list(result.notes),
        **{name: None if t is None else json.loads(t.to_json(orient="records")) for name, t in tables.items()},
        "confusion": {name: json.loads(t.to_json(orient="index")) for name, t in result.confusion.items()},
    }
    return json.dumps(content, ensure_ascii=False, indent=1)


def draw(result: Result, folder: str | Path) -> None:
    """Write ``fidelity`` (LF per language with intervals) and ``confusion`` (asked by answered) into a folder."""
    from textreg import figures

    table = result.summary.rename(columns={"lf": "value", "lf_low": "low", "lf_high": "high"})
    keys = [key for key in ("system", "arm") if table[key].notna().any()]
    table["system"] = table[keys].astype(str).agg(", ".join, axis=1) if keys else UNNAMED
    table = table[["system", "language", "value", "low", "high"]].dropna(subset=["value"])
    if table.empty:
        raise InputError("no answer could be scored, so there is nothing to draw; see the notes of the table")
    folder = Path(folder)
    fig = figures.per_language_plot(table, "Language fidelity (%)")
    alt = f"Language fidelity per prompt language, with 95 % intervals, of the answers in {Path(result.path).name}."
    figures.save_figure(fig, folder / "fidelity", alt=alt, data=table)
    counts = pd.concat(result.confusion, names=["system"])
    alt = "Share of answers in each language (columns) for each asked language (rows)."
    figures.save_figure(figures.confusion(result.confusion), folder / "confusion", alt=alt, data=counts.reset_index())
