"""``textreg score``: the language fidelity of anyone's answers, as tables and a file.

The file is read in parts and only counts are kept, so memory does not grow with the number of answers; where answers
have items, twenty bytes of each are kept as well, because IFL and comparisons pair them (``paired.py``).

Use: ``textreg score answers.jsonl --out fidelity.csv --figures figures``, or
``print_result(score_file("answers.jsonl"))``.
"""

import gc
import json
import os
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from itertools import chain, combinations, islice
from pathlib import Path

import numpy as np
import pandas as pd

from textreg.data.codes import base_code, named_language
from textreg.errors import InputError, did_you_mean
from textreg.fidelity import measures
from textreg.fidelity.annotation import ENGLISH, Judge, Rules
from textreg.fidelity.asked import TOGETHER, same_language
from textreg.fidelity.identifiers import DEFAULT, open_identifier
from textreg.fidelity.judges import Agreement, Price, Record, Usage
from textreg.fidelity.labels import Identifier
from textreg.files import atomic_write
from textreg.processes import die_with_parent
from textreg.serve import paired as by_item
from textreg.serve.answers import PART, Answers, read_map
from textreg.serve.written import annotated, can_say, read_rules

READ_BACK = {"nan": "zh-min-nan"}  # code -> a tag of the same language that no reader of tables takes for nothing
NOTHING = {"", "NA", "N/A", "n/a", "NaN", "nan", "NULL", "null", "None", "<NA>", "#N/A"}  # to readers of tables
OUT_SUFFIXES = (".csv", ".json")
STEMS = ("fidelity", "confusion")  # what the names of all drawings begin with (:mod:`textreg.figures.score`)
SAID = {  # column of a tally -> what its count is called below the tables
    "unscored": "answers without letters or with too few words, not scored",
    "class_empty": "empty answers, counted as wrong and in no language",
    "repetition": "answers that repeat themselves, judged by one round",
    "refusal": "answers that open like a refusal, scored like any other",
    "short_lines": "lines too short for LPR and WPR",
}
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
    path: str | Path, out: str | Path | None = None, identifier: str | Identifier = DEFAULT,
    judge: Judge | str | None = "exact", skip_bad: bool = False, rules: Rules | None = None, *,
    places: Sequence[str] = (), language: str = "", against: str = "", seen: Sequence[str] = (),
    held_out: Sequence[str] = (), price: Price | None = None, workers: int | None = None,
) -> Scores:  # fmt: skip
    """Score a file of answers (see ``answers`` for its forms) and write what was asked for.

    out: ``.csv`` (the table) or ``.json`` (everything).  identifier: a name or an open one; by name, a long file is
    scored by ``workers`` processes (default: one a core).  judge: ``exact`` (used where a row has a scene to compare
    with), ``none`` or a function as in ``annotate``; price: of its tokens.  places: such as ``answer=prediction``;
    language: of rows that name none.  against: the system that others are compared with (default: the first of the
    file).  seen, held_out: languages in and kept out of the text a model was tuned on; they group the means.  Raises
    InputError; nothing is written then, and never over the answers.
    """
    check_places(path, out)
    rules = rules or read_rules()
    opened = _opened(identifier) if isinstance(identifier, str) else identifier
    answers = Answers(path, read_map(places), language, skip_bad, PART)
    record = Record(judge, price) if callable(judge) else None
    measure = partial(_measure, identifier=identifier, judge=record or judge, rules=rules)
    alone = record is not None or not isinstance(identifier, str)
    counted, answered, items, parts = None, [], [], Counter[str]()
    for found in _measured(iter(answers), measure, 1 if alone else workers or os.cpu_count() or 1):
        counted = found.counted if counted is None else measures.add([counted, found.counted])
        answered.append(found.answered)
        items.append(found.items)
        parts += found.parts
    paired = by_item.joined(items)
    summary = measures.widen(measures.rates(counted), paired)
    losses, no_losses = by_item.losses(paired)
    differences, no_differences = by_item.differences(paired, against)
    spoken = tuple(dict.fromkeys(summary["language"]))
    groups = by_item.language_groups(spoken, *([named_language(code) for code in codes] for codes in (seen, held_out)))
    result = Scores(
        path=str(path),
        identifier=str(opened),
        rows=int(counted["n"].sum()),
        bad=answers.bad,
        summary=summary,
        differs=counted["disagree"] / counted["identified"].where(counted["identified"] > 0),
        means=by_item.means(summary, paired, groups),
        confusion=_confusions(pd.concat(answered, ignore_index=True)),
        ifl=losses,
        comparisons=differences,
        disagreement=measures.unrestricted_share(counted),
        usage=record.usage if record else None,
        agreement=record.agreement if record else None,
        notes=(*answers.notes(), *_notes(counted, opened, rules, parts), *filter(None, [no_losses, no_differences])),
    )
    if out is not None:
        write(result, out)
    return result


@dataclass(frozen=True)
class _Measured:
    """What is kept of one part of a file: counts, answers per language, items to pair, and parts set aside."""

    counted: pd.DataFrame
    answered: pd.DataFrame
    items: pd.DataFrame
    parts: Counter[str]


_opened = lru_cache(maxsize=4)(open_identifier)  # once a process, also in a worker


def _measure(table: pd.DataFrame, identifier: str | Identifier, judge: object, rules: Rules) -> _Measured:
    told = annotated(table, _opened(identifier) if isinstance(identifier, str) else identifier, judge, rules)
    if isinstance(judge, Record):
        judge.compare(told)
    parts = Counter(name for names in told["set_aside"].tolist() if names for name in names.split())
    return _Measured(measures.tally(told), _answered(told), by_item.compact(told), parts)


def _measured(
    tables: Iterator[pd.DataFrame], measure: Callable[[pd.DataFrame], _Measured], workers: int
) -> Iterator[_Measured]:
    """``measure`` of every table in order; by processes of their own where there are several tables and workers."""
    first = list(islice(tables, 2))
    if len(first) < 2 or workers < 2:
        yield from map(measure, chain(first, tables))
        return
    with ProcessPoolExecutor(workers, initializer=_begin_worker) as pool:
        waiting: deque[Future[_Measured]] = deque()
        for table in chain(first, tables):
            waiting.append(pool.submit(measure, table))
            if len(waiting) > workers + 1:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _begin_worker() -> None:
    die_with_parent()
    collect_less()


def collect_less() -> None:
    """Have this process look for cycles seldom: answers are many small objects without, and looking takes a tenth."""
    gc.set_threshold(100_000)


def _answered(annotated: pd.DataFrame) -> pd.DataFrame:
    """Counts per seed, system, lambda, arm, asked and answered language."""
    scored = annotated[annotated["answered"].notna()]
    keys = [key for key in ("seed", "system", "lambda", "arm", "language", "answered") if key in scored]
    return scored.groupby(keys, dropna=False).size().rename("answers").reset_index()


def _confusions(answered: pd.DataFrame) -> dict[str, pd.DataFrame]:
    named = answered.assign(name=by_item.names(answered))
    return {
        name: group.pivot_table(
            index="language", columns="answered", values="answers", aggfunc="sum", fill_value=0
        ).rename_axis(index="asked", columns="answered")
        for (name,), group in measures.by_keys(named, ["name"])
    }


def _notes(counted: pd.DataFrame, identifier: Identifier, rules: Rules, parts: Counter[str]) -> list[str]:
    notes = [f"not judged as part of an answer: {name} in {count} answers" for name, count in parts.most_common()]
    names = {*counted.get("system", ()), *counted.get("arm", ())}
    notes += [
        f"{name!r} is nothing to many readers of tables; pandas: read_csv(FILE, keep_default_na=False, na_values='')"
        for name in sorted(names & NOTHING)
    ]
    languages = sorted(set(counted["language"]))
    unknown = [code for code in languages if not can_say(identifier, code, rules.near)]
    if unknown:
        notes.append(f"{identifier.name} cannot tell {', '.join(unknown)}: undefined, not zero")
    named = set(map(base_code, identifier.candidates))
    if nameless := [code for code in languages if base_code(code) not in named and code not in unknown]:
        notes.append(f"{identifier.name} has no name for {', '.join(nameless)}: a wider or near language counts as it")
    pairs = [f"{code} and {other}" for code, other in combinations(languages, 2) if same_language(code, other)]
    if pairs and rules.near == TOGETHER:
        notes.append(f"near languages count as one: {', '.join(pairs)} (--near apart keeps them apart)")
    if ENGLISH not in identifier.candidates:
        notes.append(
            "English is no candidate: an answer in English counts as another language, perhaps as the asked one"
        )
    told = counted[~counted["language"].isin(unknown)]
    undecided = int(told["undecided"].sum())
    if undecided:
        notes.append(f"undecided, because the identifiers disagree, and not scored: {undecided}")
    for column, what in SAID.items():
        if count := int(told[column].sum()) - (undecided if column == "unscored" else 0):
            notes.append(f"{what}: {count}")
    return notes


def check_places(path: str | Path, out: str | Path | None = None, figures: str | Path | None = None) -> None:
    """Raise InputError where results cannot be written, or would take the place of the answers or of each other.

    path: the answers; out and figures: as in :func:`score_file`.
    """
    for place in (path, out, figures):
        if "\0" in str(place):
            raise InputError(f"{str(place)!r} is no name of a file: it holds a NUL character")
    if out is not None:
        suffix = Path(out).suffix
        if suffix not in OUT_SUFFIXES:
            raise InputError(f"{out}: results are written as .csv or .json{did_you_mean(suffix, OUT_SUFFIXES)}")
        if os.path.exists(path) and os.path.exists(out) and os.path.samefile(path, out):
            raise InputError(f"--out {out} is the file of answers itself, which it would replace: name another file")
        if os.path.isdir(out):
            raise InputError(f"--out {out} is a folder: name a file in it")
        _check_writable(Path(out).parent, f"--out {out}")
    if figures is not None:
        for used, what in ((Path(path), "the file of answers"), (Path(out or ""), "--out")):
            ours = used.stem.startswith(STEMS) and used.suffix in SUFFIXES
            if ours and os.path.realpath(used.parent) == os.path.realpath(figures):
                raise InputError(f"--figures {figures}: a drawing could replace {what}, {used}: name another folder")
        _check_writable(Path(figures), f"--figures {figures}")


def _check_writable(folder: Path, where: str) -> None:
    """Raise InputError unless ``folder`` can be written, or made; nothing is made."""
    there = next((place for place in (folder, *folder.absolute().parents) if os.path.lexists(place)), folder)
    if not os.path.isdir(there):
        raise InputError(f"{where}: {there} is no folder: name another place")
    if not os.access(there, os.W_OK | os.X_OK):
        raise InputError(f"{where}: {there} cannot be written: name another place")


def write(result: Scores, out: str | Path) -> None:
    """Write the table (``.csv``, the columns of ``fidelity.csv``) or everything (``.json``).

    A ``.csv`` calls Min Nan ``zh-min-nan`` (:data:`READ_BACK`), which this command reads as ``nan``.
    """
    with atomic_write(Path(out)) as path:
        if Path(out).suffix == ".csv":
            result.summary.replace({"language": READ_BACK}).to_csv(path, index=False)
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
