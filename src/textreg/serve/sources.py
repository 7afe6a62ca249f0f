"""Rows of whatever file people keep answers in: JSON lines and arrays, CSV, Excel, parquet, arrow, data sets' folders.

A file is never held whole, save a JSON array or object.  Not obvious: what is inside decides, not the suffix
alone: ``.gz`` and the like are unpacked, UTF-16 and byte order marks are read, the separator of a CSV is found from
its head, and a ``.json`` may be an array, lines, or an object that holds one.

Use: ``for where, row in rows(Path("answers.jsonl.gz")): ...``; a text in place of a row says what is wrong with it.
"""

import codecs
import csv
import io
import json
import os
import re
import zipfile
import zlib
from collections.abc import Iterator
from itertools import chain
from lzma import LZMAError
from pathlib import Path
from typing import IO

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.compression import compr
from fsspec.utils import infer_compression

from textreg.errors import InputError, did_you_mean, quoted

TEXTS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".txt")
TABLES = (".xlsx", ".xlsm", ".parquet", ".arrow", ".feather")
PACKED = (".gz", ".bz2", ".xz", ".zst", ".zip")
LONGEST_CELL = 16 * 2**20  # characters of one CSV cell
LARGEST = 2 * 2**30  # bytes of a JSON array or object, which is read whole
HEAD = 64 * 1024
Row = tuple[str, dict | str]
BROKEN = (pa.ArrowException, OSError, EOFError, UnicodeError, zlib.error, LZMAError, zipfile.BadZipFile, csv.Error)


def rows(path: Path) -> Iterator[Row]:
    """(``line 3`` or ``row 3``, row), or in place of the row what is wrong with it.

    Raises InputError for what is no file of answers, is damaged, or is in an encoding that cannot be told.
    """
    if os.path.isdir(path):
        yield from _folder(path)
        return
    if not os.path.isfile(path):  # which a name that no disk can hold is not either, without an OSError
        raise InputError(f"{path}: no such file of answers")
    packed = path.suffix.lower() in PACKED
    suffix = (Path(path.stem) if packed else path).suffix.lower()
    if suffix not in TEXTS + TABLES:
        raise InputError(
            f"{path}: answers are read from {', '.join(TEXTS + TABLES)}{did_you_mean(suffix, TEXTS + TABLES)}"
        )
    try:
        if suffix in TABLES:
            yield from _excel(path) if suffix.startswith(".xls") else _arrow(path, suffix)
            return
        with open(path, "rb") as stored:
            kind = infer_compression(str(path)) if packed else "gzip" if stored.peek(2)[:2] == b"\x1f\x8b" else None
            if kind and kind not in compr:
                raise InputError(f"{path}: {kind} is not unpacked here; unpack it, or install zstandard")
            text = _decoded(compr[kind](stored, mode="rb") if kind else stored)
            if suffix in (".jsonl", ".ndjson"):
                yield from _lines(text)
            else:
                yield from _json(path, text) if suffix == ".json" else _csv(path, text)
    except BROKEN as failure:
        kind = {".xlsx": "Excel", ".xlsm": "Excel"}.get(suffix, suffix[1:])
        reason = (str(failure).splitlines() or [type(failure).__name__])[0][:120]
        raise InputError(f"{path}: not a readable {kind} file ({reason}): write it again") from None


def _decoded(raw: IO[bytes]) -> io.BufferedReader:
    """The file as UTF-8 without a mark, whatever UTF it is in."""
    file = io.BufferedReader(raw, HEAD)
    head = file.peek(4)[:4]
    if head.startswith(codecs.BOM_UTF8):
        file.read(3)
    elif encoding := _utf16(head):
        reader = codecs.getreader(encoding)(file)
        pieces = iter(lambda: reader.read(HEAD), "")
        return io.BufferedReader(_Recoded(piece.encode("utf-8", "replace") for piece in pieces), HEAD)
    return file


def _utf16(head: bytes) -> str:
    """The kind of UTF-16 that a file begins in, with a mark or with a letter of ASCII; '' if it does not."""
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    low, high = head[:1], head[1:2]
    if b"\0" not in (low, high) or not (low + high).strip(b"\0").isascii() or not (low + high).strip(b"\0\x01"):
        return ""
    return "utf-16-be" if low == b"\0" else "utf-16-le"


class _Recoded(io.RawIOBase):
    """Byte strings one after another, as a file."""

    def __init__(self, parts: Iterator[bytes]):
        self._parts, self._left = parts, b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:
        self._left = self._left or next(self._parts, b"")
        given, self._left = self._left[: len(buffer)], self._left[len(buffer) :]
        buffer[: len(given)] = given
        return len(given)


def _lines(file: IO[bytes]) -> Iterator[Row]:
    for number, line in enumerate(file, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line.decode("utf-8"))
        except UnicodeDecodeError:
            yield f"line {number}", "not UTF-8 text"
        except (ValueError, RecursionError) as failure:
            yield f"line {number}", f"not JSON ({str(failure).splitlines()[0]})"
        else:
            yield f"line {number}", _object(row)


def _object(row: object) -> dict | str:
    return row if isinstance(row, dict) else f"a JSON object is expected, not {quoted(row, 40)}"


def _json(path: Path, file: io.BufferedReader) -> Iterator[Row]:
    first, _, second = file.peek(HEAD)[:HEAD].lstrip().partition(b"\n")
    if second.lstrip()[:1] == b"{" and _is_object(first):
        yield from _lines(file)
        return
    try:
        whole = json.loads(file.read(LARGEST))
    except (ValueError, RecursionError) as failure:
        raise InputError(f"{path}: not JSON ({str(failure).splitlines()[0][:80]}): write it again") from None
    inner = _records(whole)
    if inner is None:
        raise InputError(f"{path}: no list of answers in it; write one JSON object per answer")
    for number, row in enumerate(inner, 1):
        yield f"row {number}", _object(row)


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _records(whole: object) -> list | None:
    """The rows of a JSON array or object: one of its values, its values by key, its columns, or itself."""
    if isinstance(whole, list):
        return whole
    if not isinstance(whole, dict):
        return None
    if isinstance(whole.get("columns"), list) and isinstance(whole.get("data"), list):  # pandas' orient="split"
        return [dict(zip(whole["columns"], row, strict=False)) for row in whole["data"] if isinstance(row, list)]
    lists = [value for value in whole.values() if isinstance(value, list) and value and isinstance(value[0], dict)]
    if lists:
        return max(lists, key=len)
    inner = list(whole.values())
    if inner and all(isinstance(value, dict) and not all(map(str.isdecimal, value)) for value in inner):
        return inner  # columns have numbers for keys
    if inner and all(isinstance(value, list | dict) for value in inner):
        try:
            return pd.DataFrame(whole).to_dict("records")
        except ValueError:
            return None
    return [whole] if whole else None


def _csv(path: Path, file: io.BufferedReader) -> Iterator[Row]:
    csv.field_size_limit(LONGEST_CELL)
    head = file.peek(HEAD)[:HEAD].decode("utf-8", "replace").splitlines()[:1]
    separator = max(",;\t|", key=(head or [""])[0].count)
    if head and re.fullmatch("sep=.", head[0]):  # how Excel is told
        separator = file.readline().strip()[-1:].decode()
    reader = csv.reader(io.TextIOWrapper(file, "utf-8", newline=""), delimiter=separator, strict=True)
    number = 1
    try:
        header = next(reader, None)
        _check_header(path, header or [])
        for cells in reader:
            line, number = number + 1, reader.line_num
            if cells and len(cells) != len(header):
                yield f"line {line}", f"{len(cells)} cells, the header has {len(header)}"
            elif cells:
                yield f"line {line}", dict(zip(header, cells, strict=True))
    except UnicodeDecodeError:
        raise InputError(f"{path}, line {number + 1}: not UTF-8 text; save it as UTF-8") from None
    except csv.Error as failure:
        raise InputError(f"{path}, line {number + 1}: not CSV ({failure}); the rest cannot be read") from None


def _check_header(path: Path, header: list[str]) -> None:
    twice = [name for name in header if header.count(name) > 1]
    if twice:
        raise InputError(f"{path}: the column name {quoted(twice[0])} appears twice; rename one")


def _excel(path: Path) -> Iterator[Row]:
    from openpyxl import load_workbook

    try:
        sheet = load_workbook(path, read_only=True, data_only=True).worksheets[0]
        cells = sheet.iter_rows(values_only=True)
        header = [name if name is None else str(name) for name in next(cells, ())]
        _check_header(path, [name for name in header if name is not None])
        for number, values in enumerate(cells, 2):
            row = {name: value for name, value in zip(header, values, strict=False) if None not in (name, value)}
            if row:
                yield f"row {number}", {name: v if isinstance(v, int | float) else str(v) for name, v in row.items()}
    except (KeyError, ValueError, IndexError) as failure:
        raise InputError(f"{path}: not a readable Excel file ({str(failure)[:80]}): save it again as .xlsx") from None


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
    inside = [field.type for field in kind] if pa.types.is_struct(kind) else [kind]
    return any(pa.types.is_binary(each) or pa.types.is_large_binary(each) for each in inside)


def _folder(path: Path) -> Iterator[Row]:
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
    for suffix in (".parquet", ".arrow", ".jsonl", ".jsonl.gz", ".json", ".csv", ".tsv", ".xlsx"):
        files = [file for file in sorted(path.rglob(f"*{suffix}")) if file.is_file() and not file.name.startswith(".")]
        if files:
            for file in files:
                for where, row in rows(file):
                    yield f"{file.relative_to(path)}, {where}", row
            return
    raise InputError(f"{path}: a folder without answers; name a file, or a folder that `datasets` saved")
