"""Rows of whatever file people keep answers in: JSON lines and arrays, CSV, Excel, parquet, arrow, data sets' folders.

A file is never held whole, save JSON that is not written by line.  Not obvious: what is inside decides, not the
suffix alone: ``.gz`` and the like are unpacked, UTF-16 and UTF-32 are read, the separator of a CSV is found from its
head, JSON may be lines, an array, objects one after another in any layout, or an object that holds rows; and of a
workbook the first sheet is taken that has the columns, with all that have the same.

Use: ``for where, row in rows(Path("answers.jsonl.gz")): ...``; a text in place of a row says what is wrong with it.
"""

import bz2
import csv
import gzip
import io
import json
import lzma
import os
import re
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import IO, Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from textreg.errors import InputError, did_you_mean, quoted

Wanted = Callable[[Sequence[str]], bool]
TEXTS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".txt")
TABLES = (".xlsx", ".xlsm", ".parquet", ".arrow", ".feather")
UNPACK: dict[str, Callable[[Any], Any]] = {
    ".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open, ".zst": lambda file: pa.CompressedInputStream(file, "zstd")
}  # fmt: skip
PACKED = (*UNPACK, ".zip")
LONGEST_CELL = 16 * 2**20  # characters of one CSV cell
LARGEST = 2 * 2**30  # bytes of a JSON array or object, which is read whole
SEPARATORS = ",;\t|^~¦:\x01\x1f"  # of cells, where they make columns with answers; else one of the first four
UNREAD = (None, "#NAME?")  # what Excel makes of a text that begins with "="
HEAD = 64 * 1024
_BLANKS = re.compile(r"\s*")
Row = tuple[str, dict | str]
BROKEN = (
    OSError, EOFError, UnicodeError, RuntimeError, pa.ArrowException, zlib.error, lzma.LZMAError, zipfile.BadZipFile
)  # fmt: skip


def rows(path: Path, wanted: Wanted = bool) -> Iterator[Row]:
    """(``line 3`` or ``row 3``, row), or in place of the row what is wrong with it.

    ``wanted``: whether these names of columns are those of a sheet with answers.  Raises InputError for what is no
    file of answers, is damaged, or is in an encoding that cannot be told.
    """
    if os.path.isdir(path):
        yield from _folder(path, wanted)
        return
    if not os.path.isfile(path):  # which a name that no disk can hold is not either, without an OSError
        raise InputError(f"{path}: no such file of answers")
    packed = path.suffix.lower() if path.suffix.lower() in PACKED else ""
    suffix = (Path(path.stem) if packed else path).suffix.lower()
    try:
        if packed == ".zip":
            with _member(path) as stored:
                yield from _text(path, Path(stored.name).suffix.lower(), stored, wanted)
        elif suffix in TABLES and not packed:
            yield from _excel(path, wanted) if suffix.startswith(".xls") else _arrow(path, suffix)
        else:
            with open(path, "rb") as stored:
                how = ".gz" if stored.peek(2)[:2] == b"\x1f\x8b" else packed.replace(".gz", "")
                yield from _text(path, suffix, UNPACK[how](stored) if how else stored, wanted)
    except BROKEN as failure:
        kind = {".xlsx": "Excel", ".xlsm": "Excel"}.get(suffix, (suffix or packed)[1:])
        reason = (str(failure).splitlines() or [type(failure).__name__])[0][:120]
        raise InputError(f"{path}: not a readable {kind} file ({reason}): write it again") from None


def _member(path: Path) -> IO[bytes]:
    """The one file in an archive, beside what systems put there."""
    archive = zipfile.ZipFile(path)
    named = [name for name in archive.namelist() if not name.startswith("__MACOSX/") and name[-1:] != "/"]
    if len(named) != 1:
        raise InputError(f"{path}: {len(named)} files in it, one is read: unpack it and give a file, or the folder")
    return archive.open(named[0])


def _text(path: Path, suffix: str, stored: Any, wanted: Wanted) -> Iterator[Row]:
    """Rows of a file that is text, in whatever UTF, and whatever its suffix says of the kind."""
    file = io.BufferedReader(stored, HEAD)
    encoding = json.detect_encoding(file.peek(4)[:4])
    head = file.peek(HEAD)[:HEAD].decode(encoding, "replace").lstrip()
    if suffix not in TEXTS and head[:1] not in ("{", "["):
        raise InputError(f"{path}: no kind of file that answers are read from{did_you_mean(suffix, TEXTS + TABLES)}")
    by_line = suffix in (".jsonl", ".ndjson")
    if by_line or suffix == ".json" or head[:1] in ("{", "["):
        errors = "surrogateescape" if "8" in encoding else "replace"
        yield from _json(path, io.TextIOWrapper(file, encoding, errors, newline="\n"), head, by_line, wanted)
    else:
        yield from _csv(path, io.TextIOWrapper(file, encoding, newline=""), head, wanted)


def _lines(lines: Iterable[str], start: int) -> Iterator[Row]:
    for number, line in enumerate(lines, start):
        if not line.strip():
            continue
        try:
            line.encode()
            row = json.loads(line)
        except UnicodeEncodeError:
            yield f"line {number}", "not UTF-8 text"
        except (ValueError, RecursionError) as failure:
            yield f"line {number}", f"not JSON ({str(failure).splitlines()[0]})"
        else:
            yield f"line {number}", _object(row)


def _object(row: object) -> dict | str:
    return row if isinstance(row, dict) else f"a JSON object is expected, not {quoted(row, 40)}"


def _json(path: Path, text: IO[str], head: str, by_line: bool, wanted: Wanted) -> Iterator[Row]:
    number, first = next(((n, line) for n, line in enumerate(text, 1) if line.strip()), (1, ""))
    whole = isinstance(next(_lines([first], 1), ("", ""))[1], dict)
    second = head.partition("\n")[2].lstrip()
    if (whole and (by_line or second[:1] == "{")) or (by_line and first.lstrip()[:1] not in ("{", "[")):
        yield from _lines(chain([first], text), number)
        return
    data = first + text.read(LARGEST)
    try:
        data.encode()
        values = list(_values(data))
    except (ValueError, RecursionError) as failure:
        if by_line:
            yield from _lines(io.StringIO(data), number)
            return
        foreign = isinstance(failure, UnicodeEncodeError)
        why = f"JSON ({str(failure).splitlines()[0][:80]}): write it again"
        raise InputError(f"{path}: not {'UTF-8 text; save it as UTF-8' if foreign else why}") from None
    inner = _records(values[0] if len(values) == 1 else values, wanted)
    if inner is None:
        raise InputError(f"{path}: no list of answers in it; write one JSON object per answer")
    for place, row in enumerate(inner, 1):
        yield f"row {place}", _object(row)


def _values(text: str) -> Iterator[object]:
    """JSON values one after another, in whatever layout."""
    decode, at = json.JSONDecoder().raw_decode, _BLANKS.match(text).end()
    while at < len(text):
        value, at = decode(text, at)
        yield value
        at = _BLANKS.match(text, at).end()


def _records(whole: object, wanted: Wanted) -> list | None:
    """The rows of a JSON array (or of the arrays in it, or its texts) or object: one of its values, its values by key,
    its texts by key, its columns, one of the lists in its values, or itself."""
    if isinstance(whole, list):
        texts = bool(whole) and all(isinstance(part, str) for part in whole)
        rows = list(chain(*whole)) if all(isinstance(part, list) for part in whole) else whole
        return [{"text": text} for text in whole] if texts else rows
    if not isinstance(whole, dict):
        return None
    if isinstance(whole.get("columns"), list) and isinstance(whole.get("data"), list):  # pandas' orient="split"
        return [dict(zip(whole["columns"], row, strict=False)) for row in whole["data"] if isinstance(row, list)]
    inner = list(whole.values())
    lists = _lists(inner)
    if not lists and inner and all(isinstance(value, dict) and not all(map(str.isdecimal, value)) for value in inner):
        return inner  # columns have numbers for keys
    if not lists and not wanted(list(whole)):
        if all(re.search(r"\d|\.(?:jpe?g|png|webp)$", key) for key in whole) and all(map(_said, inner)):
            return [{"id": key, "text": value} for key, value in whole.items()]
        lists = _lists([part for value in inner if isinstance(value, dict) for part in value.values()])
    if lists:  # one of them, or parts with the same columns
        names = set(max(lists, key=len)[0])
        return [row for part in lists if 2 * len(names & set(part[0])) > len(names) for row in part]
    if inner and all(isinstance(value, list | dict) for value in inner):
        try:
            return pd.DataFrame(whole).to_dict("records")
        except ValueError:
            return None
    return [whole] if whole else None


def _lists(values: Iterable[object]) -> list[list[dict]]:
    return [value for value in values if isinstance(value, list) and value and isinstance(value[0], dict)]


def _said(value: object) -> bool:
    return isinstance(value, str) or (isinstance(value, list) and all(isinstance(part, str) for part in value))


def _csv(path: Path, text: IO[str], head: str, wanted: Wanted) -> Iterator[Row]:
    csv.field_size_limit(LONGEST_CELL)
    first = (head.splitlines() or [""])[0]
    often = sorted(SEPARATORS, key=first.count, reverse=True)
    useful = (mark for mark in often if wanted([name.strip(' "') for name in first.split(mark)]))
    separator = next(useful, max(SEPARATORS[:4], key=first.count))
    if re.fullmatch("sep=.", first):  # how Excel is told
        separator = text.readline().strip()[-1:]
    reader = csv.reader(text, delimiter=separator, strict=True, skipinitialspace=True)
    number = 1
    try:
        header = [name.strip() for name in next(reader, ())]
        _check_header(path, header)
        for cells in reader:
            line, number = number + 1, reader.line_num
            if cells and len(cells) != len(header):
                yield f"line {line}", f"{len(cells)} cells, the header has {len(header)}"
            elif cells:
                yield f"line {line}", dict(zip(header, cells, strict=True))
    except UnicodeDecodeError:
        raise InputError(f"{path}, line {number + 1}: not UTF-8 text; save it as UTF-8") from None
    except csv.Error as failure:
        cure = "quote the cells as CSV does, or write JSON lines"
        raise InputError(
            f"{path}, line {number + 1}: not CSV ({failure}), so the rest cannot be read; {cure}"
        ) from None


def _check_header(path: Path, header: list[str]) -> None:
    twice = [name for name in header if name and header.count(name) > 1]
    if twice:
        raise InputError(f"{path}: the column name {quoted(twice[0])} appears twice; rename one")


def _excel(path: Path, wanted: Wanted) -> Iterator[Row]:
    from openpyxl import load_workbook

    try:
        books = (load_workbook(path, read_only=True, data_only=computed).worksheets for computed in (True, False))
        pairs = zip(*books, strict=True)
        sheets = [(pair[0].title, map(_cells, *(each.iter_rows(values_only=True) for each in pair))) for pair in pairs]
        headers = [["" if name is None else str(name).strip() for name in next(cells, ())] for _, cells in sheets]
        chosen = next(filter(wanted, headers), headers[0])
        _check_header(path, chosen)
        for (title, cells), header in zip(sheets, headers, strict=True):
            for number, values in enumerate(cells if header == chosen else (), 2):
                row = {name: value for name, value in zip(header, values, strict=False) if name}
                if set(row.values()) - {None}:
                    plain = {n: v if isinstance(v, int | float) else str(v or "") for n, v in row.items()}
                    yield f"sheet {title!r}, row {number}", plain
    except (KeyError, ValueError, IndexError) as failure:
        raise InputError(f"{path}: not a readable Excel file ({str(failure)[:80]}): save it again as .xlsx") from None


def _cells(computed: Iterable[Any], typed: Iterable[Any]) -> list[Any]:
    """A row of a sheet, in which a text that was taken for a formula is the text that was written."""
    from openpyxl.utils.escape import unescape

    values = (written if cell in UNREAD else cell for cell, written in zip(computed, typed, strict=True))
    return [unescape(value) if isinstance(value, str) else value for value in values]


def _arrow(path: Path, suffix: str) -> Iterator[Row]:
    if suffix == ".parquet":
        table = pq.ParquetFile(path)
        _check_header(path, table.schema_arrow.names)
        batches: Iterator[pa.RecordBatch] = table.iter_batches(batch_size=4096)
    else:
        file = pa.memory_map(str(path))
        try:
            opened = pa.ipc.open_file(file)
            batches = (opened.get_batch(i) for i in range(opened.num_record_batches))
        except pa.ArrowInvalid:
            file.seek(0)
            batches = iter(pa.ipc.open_stream(file))
    return _batches(batches)


def _batches(batches: Iterator[pa.RecordBatch | pa.Table]) -> Iterator[Row]:
    number = 0
    for batch in batches:
        plain = [name for name, kind in zip(batch.schema.names, batch.schema.types, strict=True) if not _bulky(kind)]
        for row in batch.select(plain).to_pylist():
            number += 1
            yield f"row {number}", row


def _bulky(kind: pa.DataType) -> bool:
    """Bytes and pictures, which say nothing of an answer."""
    picture = pa.types.is_struct(kind) and {field.name for field in kind} <= {"bytes", "path"}
    inside = [field.type for field in kind] if picture else [kind]
    return any(pa.types.is_binary(each) or pa.types.is_large_binary(each) for each in inside)


def _folder(path: Path, wanted: Wanted) -> Iterator[Row]:
    """A data set as ``datasets`` saves it, or every file of one kind in a folder, by name."""
    if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
        from datasets import Dataset, load_from_disk

        try:
            saved = load_from_disk(str(path))
            splits = [saved] if isinstance(saved, Dataset) else list(saved.values())
        except (OSError, ValueError, KeyError, TypeError, AttributeError, pa.ArrowException) as failure:
            reason = (str(failure).splitlines() or [type(failure).__name__])[0][:120]
            raise InputError(f"{path}: not a readable data set ({reason}): save it again") from None
        yield from _batches(chain.from_iterable(split.with_format("arrow").iter(4096) for split in splits))
        return
    kinds = [".parquet", ".arrow", ".feather", *(kind + packed for kind in TEXTS for packed in ("", *PACKED)), ".xlsx"]
    for suffix in kinds:
        files = [file for file in sorted(path.rglob(f"*{suffix}")) if file.is_file() and not file.name.startswith(".")]
        if files:
            for file in files:
                for where, row in rows(file, wanted):
                    yield f"{file.relative_to(path)}, {where}", row
            return
    raise InputError(f"{path}: a folder without answers; name a file, or a folder that `datasets` saved")
