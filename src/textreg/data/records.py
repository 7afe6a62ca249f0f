"""The records of data files as they stand there: JSON lists, JSON lines and Parquet, one record at a time.

A JSON list is streamed too, of Parquet only the wanted columns are read, and whether a row has a picture is known
without reading one.  What is wrong with a file is one line that names it.

Try it: ``next(hub_records.records(Path("rows.jsonl")))``.
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from textreg.errors import InputError


def records(path: Path, wanted: Iterable[str] | None = None) -> Iterator[Any]:
    """The records of a .json list, .jsonl or .parquet file, one at a time; of Parquet, only the ``wanted`` columns.

    A record of JSON is whatever stands there, so mostly but not surely a dictionary.  Raises ``InputError`` naming the
    file, and the line where there are lines, when it cannot be read.
    """
    if path.suffix == ".parquet":
        yield from _parquet_records(path, wanted)
        return
    with path.open("rb") as file:
        head = file.read(64).lstrip()[:1]
        file.seek(0)
        if head == b"[":
            yield from _json_records(path, file)
            return
        for number, line in enumerate(file, start=1):
            if line.strip():
                try:
                    yield json.loads(line)
                except ValueError as error:
                    raise InputError(f"{path.name}, line {number}: not a JSON object ({error})") from error


def _json_records(path: Path, file: Any) -> Iterator[Any]:
    import ijson

    try:
        yield from ijson.items(file, "item", use_float=True)
    except (ijson.JSONError, UnicodeDecodeError) as error:
        raise InputError(f"{path.name}: not a complete JSON list; download it again ({error})") from error


def _parquet_records(path: Path, wanted: Iterable[str] | None) -> Iterator[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
        kept = None if wanted is None else [name for name in wanted if name in file.schema_arrow.names]
        # Few rows at a time: with images inside, a thousand rows are hundreds of megabytes.
        for batch in file.iter_batches(batch_size=64 if kept is None or "image" in kept else 2048, columns=kept):
            yield from batch.to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path.name}: not a readable Parquet file; download it again ({error})") from error


def columns(path: Path) -> set[str]:
    """The columns of a file: of Parquet from its footer, else from the first record.  Raises ``InputError``."""
    if path.suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            return set(pq.read_schema(path).names)
        except (pa.ArrowException, OSError) as error:
            raise InputError(f"{path.name}: not a readable Parquet file; download it again ({error})") from error
    first = next(records(path), None)
    if first is None:
        raise InputError(f"{path.name} holds no row")
    if not isinstance(first, dict):
        raise InputError(f"{path.name}: expected JSON objects with columns, found {type(first).__name__}")
    return set(first)


def is_struct(path: Path, column: str) -> bool:
    """Whether a Parquet file has that column and it holds dictionaries (pictures with their bytes)."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pq.read_schema(path)
    return column in schema.names and pa.types.is_struct(schema.field(column).type)


def has_image(path: Path) -> Iterator[bool]:
    """Whether each row has a picture.  The small ``path`` member tells, so no picture is read."""
    import pyarrow.parquet as pq

    file = pq.ParquetFile(path)
    members = [field.name for field in file.schema_arrow.field("image").type]
    small = "path" if "path" in members else members[0]
    for batch in file.iter_batches(batch_size=2048, columns=[f"image.{small}"]):
        yield from batch.column(0).is_valid().to_pylist()
