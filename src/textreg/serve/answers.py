"""Answers of anyone's model, read in parts: JSON lines, CSV, TSV or parquet with ``answer`` and ``language``.

A file is never held whole: it comes as tables of a few thousand rows.  Every row is checked on the way; the first bad
one stops the reading with its line number, or, if the caller keeps a :class:`BadRows`, is counted and left out.  A
language code is never guessed (``jp`` is refused with ``ja`` as the suggestion), because a wrong guess would be a
wrong score.

Use: ``for table in read_answers("answers.jsonl", known_codes): ...``.
"""

import csv
import json
import math
import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from textreg.data.codes import check_code
from textreg.display import well_formed
from textreg.errors import InputError, did_you_mean

SUFFIXES = (".jsonl", ".csv", ".tsv", ".parquet")
NEEDED = ("answer", "language")
TEXTS = ("system", "arm", "item_id", "task", "prompt", "reference")
PART = 20_000  # rows per table
_LONGEST_FIELD = 16 * 2**20  # characters of one CSV field
_SHOWN = 3


@dataclass
class BadRows:
    """How many rows were left out, and the messages of the first few."""

    count: int = 0
    first: list[str] = field(default_factory=list)

    def note(self, message: str) -> None:
        self.count += 1
        if len(self.first) < _SHOWN:
            self.first.append(message)


def read_answers(
    path: str | Path, known: Collection[str], bad: BadRows | None = None, rows: int = PART
) -> Iterator["pd.DataFrame"]:
    """Tables of at most ``rows`` answers with the columns of the answers contract that the file has.

    known: language codes that are accepted.  bad: where bad rows are counted; without it the first one raises.  Raises
    InputError for a missing file, an unknown suffix, missing columns, a bad row (with its line number) and a file
    without a usable row.
    """

    path = Path(path)
    if not os.path.isfile(path):  # which a name that no disk can hold is not either, without an OSError
        raise InputError(f"{path}: {'a folder, not a file' if os.path.isdir(path) else 'no such file'} of answers")
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(
            f"{path}: answers are read from {', '.join(SUFFIXES)} files{did_you_mean(path.suffix, SUFFIXES)}"
        )
    good = _checked(path, set(known), bad)
    columns: list[str] | None = None
    while part := list(islice(good, rows)):
        columns = columns or [name for name in (*NEEDED, "seed", "lambda", *TEXTS) if any(name in row for row in part)]
        yield pd.DataFrame.from_records(part, columns=columns)
    if columns is None:
        left_out = f"; all {bad.count} rows are bad, the first: {bad.first[0]}" if bad and bad.count else ""
        raise InputError(f"{path}: no answers in it{left_out}")


def _checked(path: Path, known: set[str], bad: BadRows | None) -> Iterator[dict]:
    """The good rows; a bad one raises or is noted."""
    for number, row in _numbered(path):
        try:
            yield _check_row(row, known)
        except InputError as failure:
            message = f"{path}, line {number}: {failure}"
            if bad is None:
                raise InputError(f"{message} (--skip-bad leaves such rows out)") from failure
            bad.note(message)


def _check_row(row: dict | str, known: set[str]) -> dict:
    if isinstance(row, str):
        raise InputError(row)
    for name in NEEDED:
        if name not in row:
            raise InputError(f"no {name!r} in it{did_you_mean(name, row)}")
    if not isinstance(row["answer"], str):
        raise InputError(f"'answer' should be text, not {_short(row['answer'])}; an empty answer is \"\"")
    checked = {"answer": well_formed(row["answer"]), "language": check_code(row["language"], known)}
    for name in TEXTS:
        if row.get(name) is not None:
            value = row[name]
            checked[name] = well_formed(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
    for name, kind in (("seed", int), ("lambda", float)):
        if row.get(name) not in (None, ""):
            checked[name] = _number(row[name], name, kind)
    return checked


def _number(value: object, name: str, kind: type) -> int | float:
    """``value`` as ``kind``; raises InputError for what only Python takes for that number (true, 1.7 as 1, infinity).

    A lambda that is NaN, which tables write where there is none, stays NaN.
    """
    try:
        number = kind(value)
        exact = not isinstance(value, float) or number == value or number != number
        fits = -(2**63) <= number < 2**63 if kind is int else not math.isinf(number)
    except (TypeError, ValueError, OverflowError):
        exact = fits = False
    if isinstance(value, bool) or not exact or not fits:
        wanted = "a whole number below 2**63" if kind is int else "a finite number"
        raise InputError(f"{name!r} should be {wanted}, not {_short(value)}")
    return number


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."


def _numbered(path: Path) -> Iterator[tuple[int, dict | str]]:
    """(line or row number from 1, row), or in place of the row what is wrong with it."""
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        return _parquet_rows(path)
    return _json_rows(path) if suffix == ".jsonl" else _csv_rows(path, "\t" if suffix == ".tsv" else ",")


def _json_rows(path: Path) -> Iterator[tuple[int, dict | str]]:
    with open(path, "rb") as lines:
        for number, line in enumerate(lines, 1):
            if number == 1:
                line = line.removeprefix(b"\xef\xbb\xbf")
            if not line.strip():
                continue
            try:
                row = json.loads(line.decode("utf-8"))
            except UnicodeDecodeError:
                yield number, "not UTF-8 text"
            except (ValueError, RecursionError) as failure:
                yield number, f"not JSON ({str(failure).splitlines()[0]})"
            else:
                yield number, row if isinstance(row, dict) else f"a JSON object is expected, not {_short(row)}"


def _csv_rows(path: Path, delimiter: str) -> Iterator[tuple[int, dict | str]]:
    csv.field_size_limit(_LONGEST_FIELD)
    with open(path, encoding="utf-8-sig", newline="") as lines:
        reader = csv.reader(lines, delimiter=delimiter, strict=True)
        number = 1
        try:
            header = next(reader, None)
            if header is None:
                return
            _check_header(path, header)
            for cells in reader:
                line, number = number + 1, reader.line_num
                if not cells:
                    continue
                if len(cells) != len(header):
                    yield line, f"{len(cells)} cells, the header has {len(header)}"
                else:
                    yield (
                        line,
                        {name: cell for name, cell in zip(header, cells, strict=True) if cell or name in NEEDED},
                    )
        except (csv.Error, UnicodeDecodeError) as failure:
            raise InputError(f"{path}, line {number + 1}: not CSV ({failure}); the rest cannot be read") from failure


def _check_header(path: Path, header: list[str]) -> None:
    for name in NEEDED:
        if name not in header:
            glued = "; the cells seem to be separated by ';', write them with commas" if ";" in header[0] else ""
            raise InputError(f"{path}: column {name!r} is missing{did_you_mean(name, header)}{glued}")
    if len(set(header)) < len(header):
        raise InputError(f"{path}: a column name appears twice in {', '.join(header)}; rename one")


def _parquet_rows(path: Path) -> Iterator[tuple[int, dict | str]]:

    try:
        table = pq.ParquetFile(path)
        names = table.schema_arrow.names
        _check_header(path, names)
        wanted = [name for name in names if name in (*NEEDED, "seed", "lambda", *TEXTS)]
        number = 0
        for batch in table.iter_batches(batch_size=4096, columns=wanted):
            for row in batch.to_pylist():
                number += 1
                yield number, row
    except (pa.ArrowException, OSError, UnicodeDecodeError) as failure:
        raise InputError(f"{path}: not a readable parquet file ({str(failure).splitlines()[0][:120]})") from failure
