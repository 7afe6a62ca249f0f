"""Tables on disk: read them against a declared schema, write them whole or not at all.

A wrong column, type or row count is one clear :class:`~textreg.errors.InputError` at the door, never a KeyError three
functions later.  Values are checked, not converted, except that an empty CSV cell is a missing value.  Writing goes to
a temporary name in the same folder, is flushed to the disk and then renamed, so a killed run leaves the old file or
the new one.

Use: ``read_table("answers.parquet", ANSWERS)``; ``with atomic_write("fidelity.csv") as path: table.to_csv(path)``.
"""

import errno
import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from numbers import Integral, Real
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import TYPE_CHECKING

from textreg.errors import InputError, did_you_mean

if TYPE_CHECKING:
    import pandas as pd

SUFFIXES = (".parquet", ".csv", ".jsonl")
FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
TYPES = ("str", "int", "float", "list", "struct")


@dataclass(frozen=True)
class Schema:
    """Columns a table must have, those it may have, and what they hold (``str``, ``int``, ``float``, ``list``,
    ``struct``).

    ``nullable`` columns may have missing values; optional ones always may.  Other columns are kept and not looked at.
    """

    name: str
    columns: Mapping[str, str]
    optional: Mapping[str, str] = field(default_factory=dict)
    nullable: frozenset[str] = frozenset()
    min_rows: int = 0


ANSWERS = Schema(
    "answers",
    {"language": "str", "answer": "str"},
    {"seed": "int", "lambda": "float"}
    | dict.fromkeys(("system", "arm", "item_id", "task", "prompt", "reference"), "str"),
    nullable=frozenset({"answer"}),
)
ROWS = Schema(
    "rows",
    {"row_id": "str", "source": "str", "task": "str", "language": "str", "image_id": "str", "messages": "list"},
    nullable=frozenset({"image_id"}),
)
REQUESTS = Schema(
    "requests",
    {k: "str" for k in ("item_id", "split", "arm", "task", "language", "image_id", "prompt", "reference")},
    nullable=frozenset({"image_id"}),
)
IMAGES = Schema(
    "images",
    {"image_id": "str", "split": "str", "image": "struct", "scene": "str"},
    nullable=frozenset({"scene"}),
)


def read_table(path: str | Path, schema: Schema, columns: list[str] | None = None) -> "pd.DataFrame":
    """Read parquet, CSV or JSON lines by suffix and check it; ``columns`` reads only these.

    Raises InputError naming the file and the cure for a missing or unreadable file, a missing column, a wrong type, a
    missing value where none is allowed, or fewer than ``min_rows`` rows.
    """
    import pandas as pd

    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise InputError(f"{path}: tables end in {', '.join(SUFFIXES)}")
    if not path.is_file():
        raise InputError(f"{path}: no such file; the {schema.name} table is expected there")
    try:
        if path.suffix == ".parquet":
            import pyarrow.parquet as pq

            table = pq.ParquetFile(path).read(columns=columns).to_pandas()
        elif path.suffix == ".csv":
            texts = {c: "str" for c, kind in {**schema.columns, **schema.optional}.items() if kind == "str"}
            table = pd.read_csv(path, dtype=texts, usecols=columns, keep_default_na=False, na_values=[""])
        else:
            table = pd.read_json(path, lines=True, dtype=False, convert_dates=False)
            table = table if columns is None else table[columns]
    except (ValueError, OSError, KeyError) as failure:
        raise InputError(
            f"{path}: not readable as {schema.name} ({_first_line(failure)}); write the file again"
        ) from failure
    return check_table(table, schema, str(path))


def check_table(table: "pd.DataFrame", schema: Schema, where: str = "table") -> "pd.DataFrame":
    """The table itself if it fits the schema, else InputError (see :func:`read_table`)."""
    import pandas as pd

    for column in schema.columns:
        if column not in table.columns:
            cure = did_you_mean(column, table.columns)
            raise InputError(f"{where}: column {column!r} of the {schema.name} table is missing{cure}")
    for column, kind in {**schema.columns, **schema.optional}.items():
        if column not in table.columns:
            continue
        values = table[column]
        missing = values.isna()
        if column in schema.columns and column not in schema.nullable and missing.any():
            raise InputError(f"{where}: column {column!r} has no value in row {int(missing.to_numpy().argmax()) + 1}")
        wrong = _first_wrong(values[~missing], kind, pd)
        if wrong is not None:
            found = f"{type(values[wrong]).__name__} {str(values[wrong])[:40]!r}"
            raise InputError(
                f"{where}: column {column!r} should hold {kind}, row {table.index.get_loc(wrong) + 1} holds {found}"
            )
    if len(table) < schema.min_rows:
        raise InputError(f"{where}: {len(table)} rows, at least {schema.min_rows} needed")
    return table


def _first_wrong(values: "pd.Series", kind: str, pd) -> object | None:
    """Index of the first value that is not of the kind, None if all are."""
    if kind == "int" and pd.api.types.is_integer_dtype(values):
        return None
    if kind == "float" and pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values):
        return None
    if kind == "str" and isinstance(values.dtype, pd.StringDtype):
        return None
    tests = {
        "str": lambda v: isinstance(v, str),
        "int": lambda v: (
            not isinstance(v, bool) and (isinstance(v, Integral) or (isinstance(v, float) and v.is_integer()))
        ),
        "float": lambda v: not isinstance(v, bool) and isinstance(v, Real),
        "list": lambda v: not isinstance(v, str | bytes | dict) and hasattr(v, "__len__"),
        "struct": lambda v: isinstance(v, dict),
    }
    fits = values.map(tests[kind])
    return None if fits.all() else fits.index[(~fits.to_numpy(bool)).argmax()]


def _first_line(failure: Exception) -> str:
    return (str(failure).strip() or type(failure).__name__).splitlines()[0][:160]


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """A temporary path beside ``path``; on success it is flushed and takes its place, on failure it is removed.

    Raises InputError naming ``path`` where its folder cannot be made or written, or the disk is full.
    """
    path = Path(path)
    with _writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        start = f".{path.stem[:100]}-"
        with NamedTemporaryFile(dir=path.parent, prefix=start, suffix=path.suffix, delete=False) as handle:
            temporary = Path(handle.name)
    try:
        with _writing(path, FULL):  # what else fails in the caller's block may be another file's
            yield temporary
        with _writing(path):
            with open(temporary, "rb+") as handle:
                os.fsync(handle.fileno())
            temporary.chmod(0o666 & ~_umask())
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def _writing(path: Path, only: Collection[int] = ()) -> Iterator[None]:
    """Turn failures of the disk (``only``: of these numbers) into InputError."""
    try:
        yield
    except OSError as failure:
        if only and failure.errno not in only:
            raise
        reason = failure.strerror or type(failure).__name__
        cure = "free some space" if failure.errno in FULL else "name a place that can be written"
        raise InputError(f"{path}: cannot be written ({reason}): {cure}") from failure


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
