"""``textreg score``: the language fidelity of anyone's answers, as tables and a file.

The file is read in parts and only counts are kept, so memory does not grow with the number of answers; where answers
have items, twenty bytes of each are kept as well, because IFL and comparisons pair them (``paired.py``).

Use: ``textreg score answers.jsonl --out fidelity.csv --figures figures``, or
``print_result(score_file("answers.jsonl"))``.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from textreg.data.codes import check_code, code_book
from textreg.errors import InputError, did_you_mean
from textreg.fidelity import measures
from textreg.fidelity.annotation import ENGLISH, Judge, Rules, annotate
from textreg.fidelity.identifiers import open_identifier
from textreg.fidelity.judges import Agreement, Price, Record, Usage
from textreg.fidelity.labels import NO_LANGUAGE, Identifier
from textreg.files import atomic_write
from textreg.serve import paired as by_item
from textreg.serve.answers import BadRows, read_answers

OUT_SUFFIXES = (".csv", ".json")
STEMS = ("fidelity", "confusion")  # what the names of all drawings begin with
SUFFIXES = (".svg", ".pdf", ".png", ".csv", ".json")  # files of one drawing


@dataclass(frozen=True)
class Scores:
    """What was measured.

    ``summary`` has the columns of ``fidelity.csv``, ``differs`` per row of it the share of answers that the
    unrestricted identifier sees differently (NaN: unknown), ``disagreement`` that share over all.  ``means`` holds
    macro means of LF.  ``confusion`` counts asked by answered language per system (and arm).  ``ifl`` and
    ``comparisons`` are None without items to pair.  ``usage`` and ``agreement`` belong to a model that judges.
    ``notes`` are sentences on what could not be scored.
    """

    path: str
    identifier: str
    rows: int
    bad: int
    summary: pd.DataFrame
    differs: pd.Series
    means: pd.DataFrame
    confusion: dict[str, pd.DataFrame]
    ifl: pd.DataFrame | None
    comparisons: pd.DataFrame | None
    disagreement: float
    usage: Usage | None
    agreement: Agreement | None
    notes: tuple[str, ...]


def score_file(
    path: str | Path,
    out: str | Path | None = None,
    identifier: str | Identifier = "py3langid",
    judge: Judge | str | None = "exact",
    skip_bad: bool = False,
    rules: Rules | None = None,
    *,
    against: str = "",
    seen: Sequence[str] = (),
    held_out: Sequence[str] = (),
    price: Price | None = None,
) -> Scores:
    """Score a file of answers (see ``answers.read_answers`` for its form) and write what was asked for.

    out: ``.csv`` (the table) or ``.json`` (everything).  identifier: a name or an open one.  judge: ``exact`` (used
    where a row has a scene to compare with), ``none`` or a function as in ``annotate``; price: of its tokens.
    against: the system that others are compared with (default: the first of the file).  seen, held_out: languages in
    and kept out of the text a model was tuned on; they group the means.  Raises InputError; nothing is written then,
    and never over the answers.
    """
    check_places(path, out)
    opened = open_identifier(identifier) if isinstance(identifier, str) else identifier
    bad = BadRows()
    known = {*code_book(), *opened.candidates} - {NO_LANGUAGE}
    for code in (*seen, *held_out):
        check_code(code, known)
    record = Record(judge, price) if callable(judge) else None
    tallies, answered, items = [], [], []
    for table in read_answers(path, known, bad if skip_bad else None):
        annotated = annotate(table, opened, record or judge, rules)
        if record:
            record.compare(annotated)
        tallies.append(measures.tally(annotated))
        answered.append(_answered(annotated))
        items.append(by_item.compact(annotated))
        if len(tallies) > 1:  # one running total each, so that parts do not pile up
            tallies, answered = [measures.add(tallies)], [_total(answered)]
    counted, paired = tallies[0], by_item.joined(items)
    summary = by_item.widen(measures.rates(counted), paired)
    losses, no_losses = by_item.losses(paired)
    differences, no_differences = by_item.differences(paired, against)
    groups = by_item.language_groups(tuple(dict.fromkeys(summary["language"])), seen, held_out)
    result = Scores(
        path=str(path),
        identifier=str(opened),
        rows=int(counted["n"].sum()),
        bad=bad.count,
        summary=summary,
        differs=counted["disagree"] / counted["identified"].where(counted["identified"] > 0),
        means=by_item.means(summary, paired, groups),
        confusion=_confusions(answered[0]),
        ifl=losses,
        comparisons=differences,
        disagreement=measures.unrestricted_share(counted),
        usage=record.usage if record else None,
        agreement=record.agreement if record else None,
        notes=tuple(_notes(counted, opened, bad, [no_losses, no_differences])),
    )
    if out is not None:
        write(result, out)
    return result


def _answered(annotated: pd.DataFrame) -> pd.DataFrame:
    """Counts per seed, system, lambda, arm, asked and answered language."""
    scored = annotated[annotated["answered"].notna()]
    keys = [key for key in ("seed", "system", "lambda", "arm", "language", "answered") if key in scored]
    return scored.groupby(keys, dropna=False).size().rename("answers").reset_index()


def _total(parts: Sequence[pd.DataFrame]) -> pd.DataFrame:
    stacked = pd.concat(parts, ignore_index=True)
    return stacked.groupby(list(stacked.columns[:-1]), dropna=False)["answers"].sum().reset_index()


def _confusions(answered: pd.DataFrame) -> dict[str, pd.DataFrame]:
    named = answered.assign(name=by_item.names(answered))
    return {
        name: group.pivot_table(
            index="language", columns="answered", values="answers", aggfunc="sum", fill_value=0
        ).rename_axis(index="asked", columns="answered")
        for (name,), group in measures.by_keys(named, ["name"])
    }


def _notes(counted: pd.DataFrame, identifier: Identifier, bad: BadRows, problems: Sequence[str]) -> list[str]:
    notes = []
    if bad.count:
        notes.append(f"bad rows left out: {bad.count}; the first: {'; '.join(bad.first)}")
    unknown = sorted(set(counted["language"]) - set(identifier.candidates))
    if unknown:
        notes.append(f"{identifier.name} cannot tell {', '.join(unknown)}: undefined, not zero")
    if ENGLISH not in identifier.candidates:
        notes.append(
            "English is no candidate: an answer in English counts as another language, perhaps as the asked one"
        )
    short = int(counted.loc[~counted["language"].isin(unknown), "unscored_short"].sum())
    if short:
        notes.append(f"answers too short for an identifier, not scored: {short}")
    empty = int(counted["empty"].sum())
    if empty:
        notes.append(f"answers that are empty or say nothing an identifier could use, counted as wrong: {empty}")
    lines = int(counted["short_lines"].sum())
    if lines:
        notes.append(f"lines too short for LPR and WPR: {lines}")
    return [*notes, *filter(None, problems)]


def check_out(out: str | Path) -> None:
    """Raise InputError unless results can be written in the form that the name asks for."""
    suffix = Path(out).suffix
    if suffix not in OUT_SUFFIXES:
        raise InputError(f"{out}: results are written as .csv or .json{did_you_mean(suffix, OUT_SUFFIXES)}")


def check_places(path: str | Path, out: str | Path | None = None, figures: str | Path | None = None) -> None:
    """Raise InputError where results cannot be written, or would take the place of the answers or of each other.

    path: the answers; out and figures: as in :func:`score_file`.
    """
    answers, folder = Path(path), None if figures is None else Path(figures)
    for place in (path, out, figures):
        if "\0" in str(place):
            raise InputError(f"{str(place)!r} is no name of a file: it holds a NUL character")
    if out is not None:
        check_out(out)
        if _same(answers, Path(out)):
            raise InputError(f"--out {out} is the file of answers itself, which it would replace: name another file")
        if os.path.isdir(out):
            raise InputError(f"--out {out} is a folder: name a file in it")
        _check_writable(Path(out).parent, f"--out {out}")
    if folder is not None:
        for used, what in ((answers, "the file of answers"), (None if out is None else Path(out), "--out")):
            if used is not None and is_drawing(used, folder):
                raise InputError(f"--figures {folder}: a drawing could replace {what}, {used}: name another folder")
        _check_writable(folder, f"--figures {folder}")


def _same(first: Path, second: Path) -> bool:
    """Whether two names are one file, by whatever links."""
    return os.path.realpath(first) == os.path.realpath(second) or (
        os.path.exists(first) and os.path.exists(second) and os.path.samefile(first, second)
    )


def _check_writable(folder: Path, where: str) -> None:
    """Raise InputError unless ``folder`` can be written, or made; nothing is made."""
    there = next((place for place in (folder, *folder.absolute().parents) if os.path.lexists(place)), folder)
    if not os.path.isdir(there):
        raise InputError(f"{where}: {there} is no folder: name another place")
    if not os.access(there, os.W_OK | os.X_OK):
        raise InputError(f"{where}: {there} cannot be written: name another place")


def write(result: Scores, out: str | Path) -> None:
    """Write the table (``.csv``, the columns of ``fidelity.csv``) or everything (``.json``)."""
    check_out(out)
    with atomic_write(Path(out)) as path:
        if Path(out).suffix == ".csv":
            result.summary.to_csv(path, index=False)
        else:
            path.write_text(to_json(result) + "\n", encoding="utf-8")


def to_json(result: Scores) -> str:
    """Everything in a result as JSON; undefined is null."""
    tables = {
        "summary": result.summary.assign(differs=result.differs),
        "means": result.means,
        "ifl": result.ifl,
        "comparisons": result.comparisons,
    }
    content = {
        "file": result.path,
        "identifier": result.identifier,
        "rows": result.rows,
        "bad_rows": result.bad,
        "disagreement": None if np.isnan(result.disagreement) else result.disagreement,
        "judge": result.usage and asdict(result.usage),
        "agreement": result.agreement and asdict(result.agreement),
        "notes": list(result.notes),
        **{name: None if t is None else json.loads(t.to_json(orient="records")) for name, t in tables.items()},
        "confusion": {name: json.loads(t.to_json(orient="index")) for name, t in result.confusion.items()},
    }
    return json.dumps(content, ensure_ascii=False, indent=1)


def is_drawing(path: Path, folder: Path) -> bool:
    """Whether ``path`` is a file that drawing into ``folder`` may write (:mod:`textreg.figures.score`)."""
    ours = path.stem.startswith(STEMS) and path.suffix in SUFFIXES
    return ours and os.path.realpath(path.parent) == os.path.realpath(folder)
