"""Row files: the Parquet tables that stages hand to each other, the same at both scales.

Two choices are not obvious.  Tables are written in row groups, so that a million rows need no more memory than four
thousand, and under a temporary name that becomes the real one only after the last row.  An image is stored as bytes,
or as a path relative to a folder that the file's own metadata names, so that a copy of a data set is not made twice.
What is read is checked against the schema that belongs to the file's name, so that a foreign, damaged or empty file is
one line here and not a KeyError in the middle of a training; that it is the file that was written, the manifest of its
stage knows.

Try it: ``read_rows("runs/laptop/prepare_data/visual.parquet")``.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, Self

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from textreg.errors import InputError, did_you_mean

GROUP = 4096
ROOT_KEY = b"textreg.image_root"

ROWS = pa.schema(
    [
        ("row_id", pa.string()),
        ("source", pa.string()),
        ("task", pa.string()),
        ("language", pa.string()),
        ("image_id", pa.string()),
        ("messages", pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))),
    ]
)
IMAGES = pa.schema(
    [
        ("image_id", pa.string()),
        ("split", pa.string()),
        ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
        ("scene", pa.string()),
    ]
)
REQUESTS = pa.schema(
    [
        ("item_id", pa.string()),
        ("split", pa.string()),
        ("arm", pa.string()),
        ("task", pa.string()),
        ("language", pa.string()),
        ("image_id", pa.string()),
        ("prompt", pa.string()),
        ("reference", pa.string()),
    ]
)

#: The schema by the file's name; every other row file holds conversations.
SCHEMAS = MappingProxyType({"images": IMAGES, "requests": REQUESTS})
#: Columns that may have empty cells: a text-only row has no image, a blank image or a photograph no scene.
NULLABLE = frozenset({"image_id", "scene", "source", "task", "reference"})
CURE = "run the stage prepare_data again"


class RowWriter:
    """Streams dictionaries into a Parquet file; use it in a ``with`` block.

    A row without a column of the schema, or with one too many, is an ``InputError``.  ``rows`` counts what was
    written. Leaving the block by an exception removes the unfinished file.
    """

    def __init__(self, path: str | Path, schema: pa.Schema, *, image_root: Path | None = None, group: int = GROUP):
        self.path = Path(path)
        self.rows = 0
        self._schema = schema.with_metadata({ROOT_KEY: str(image_root).encode()}) if image_root else schema
        self._names = set(schema.names)
        self._group = group
        self._held: list[Mapping[str, Any]] = []
        self._partial = self.path.with_name(self.path.name + ".partial")

    def __enter__(self) -> Self:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._writer = pq.ParquetWriter(self._partial, self._schema, compression="zstd")
        return self

    def write(self, row: Mapping[str, Any]) -> None:
        if row.keys() != self._names:
            wrong = sorted(self._names ^ row.keys())
            raise InputError(f"{self.path.name}: columns {wrong} do not fit; expected {sorted(self._names)}")
        self._held.append(row)
        self.rows += 1
        if len(self._held) >= self._group:
            self._flush()

    def write_many(self, rows: Iterable[Mapping[str, Any]]) -> int:
        before = self.rows
        for row in rows:
            self.write(row)
        return self.rows - before

    def _flush(self) -> None:
        if self._held:
            self._writer.write_table(pa.Table.from_pylist(self._held, schema=self._schema))
            self._held = []

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._flush()
        self._writer.close()
        if kind is None:
            self._partial.replace(self.path)
        else:
            self._partial.unlink(missing_ok=True)


def read_rows(path: str | Path, columns: list[str] | None = None) -> "pd.DataFrame":
    """A row file as a table; ``messages`` are lists of dictionaries.

    Raises :class:`InputError` as :func:`opened` does, and for an empty cell where a value is needed.
    """

    with opened(path, columns) as (file, wanted):
        table = file.read(columns=wanted)
        for name in wanted:
            if name not in NULLABLE and table.column(name).null_count:
                row = table.column(name).is_null().index(True).as_py() + 1
                raise InputError(f"{path}: column {name!r} is empty in row {row}; {CURE}")
        columns = {name: table.column(name) for name in wanted}
        # Conversations stay in Arrow's memory until they are looked at: as objects they would take ten times as much.
        arrow = pd.arrays.ArrowExtensionArray
        return pd.DataFrame({n: arrow(c) if n == "messages" else c.to_pylist() for n, c in columns.items()})


@contextmanager
def opened(path: str | Path, columns: list[str] | None = None) -> Iterator[tuple[pq.ParquetFile, list[str]]]:
    """A row file to read from, once its columns, their types and the number of rows are right; with the names of the
    ``columns`` wanted (all of the schema by default).

    Raises :class:`InputError` naming the file and the cure when it is missing, damaged (also while it is being read)
    or no Parquet, lacks a column, holds another type, or has no rows.
    """
    path = Path(path)
    expected = SCHEMAS.get(path.stem, ROWS)
    wanted = expected.names if columns is None else columns
    if path.is_dir():
        raise InputError(f"{path} is a folder, a Parquet file is expected there; {CURE}")
    try:
        with pq.ParquetFile(path) as file:
            _check_columns(path, file.schema_arrow, expected, wanted)
            if file.metadata.num_rows == 0:
                raise InputError(f"{path} holds no rows; {CURE}")
            yield file, wanted
    except FileNotFoundError as error:
        raise InputError(f"{path} is missing; run the stage prepare_data first") from error
    except UnicodeDecodeError as error:  # of a cell, or of a column's name, which pyarrow decodes before it checks it
        raise InputError(f"{path} is damaged (a text is not UTF-8: {error.reason}); {CURE}") from error
    except (pa.ArrowException, OSError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:160]
        raise InputError(f"{path} is not a readable Parquet file ({reason}); {CURE}") from error


def _check_columns(path: Path, found: pa.Schema, expected: pa.Schema, wanted: list[str]) -> None:
    for name in wanted:
        if name not in found.names:
            raise InputError(f"{path}: column {name!r} is missing{did_you_mean(name, found.names)}; {CURE}")
        if found.field(name).type != expected.field(name).type:
            raise InputError(
                f"{path}: column {name!r} holds {found.field(name).type}, expected is {expected.field(name).type}; "
                f"{CURE}"
            )


def image_root(path: str | Path) -> Path | None:
    """The folder that the image paths of ``images.parquet`` are relative to; ``None`` where all images are bytes."""
    metadata = pq.read_schema(path).metadata or {}
    return Path(metadata[ROOT_KEY].decode("utf-8", "replace")) if ROOT_KEY in metadata else None
