"""Readers of visual and text instruction data as the hub publishes it: one stream of rows whatever the layout.

A few layouts cover the data sets of this project, and any other that looks like them: ``conversations`` (LCS-558K,
LLaVA-Instruct-150K, LLaVA-OneVision-Data, PangeaInstruct), ``messages`` (chat data), and pairs such as
``inputs``/``targets`` (Aya) and ``instruction``/``output`` (Alpaca, in whatever language).
The layout is read off the columns; a file that fits none is refused with the columns it lacks.  Rows are streamed
(JSON lists too), of Parquet only the wanted columns are read, no picture is read until its row was chosen, and every
row left out is counted under its reason.

Try it: ``next(read("folder/of/jsonl"))``.  Reading a source twice gives the same rows in the same order, which is what
lets a seeded choice of row numbers stand for a sample.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import ijson
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from textreg.data import hub
from textreg.data.codes import language_code
from textreg.data.mixture import PLACEHOLDER, behind_image
from textreg.errors import InputError

ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
Image = str | dict[str, Any]  # a path as the data set spells it, or a hub image: {"bytes": ..., "path": ...}
Layout = tuple[str, ...]
#: Columns that a data set must have, which are its layout -> columns that it may have; nothing else is read.
LAYOUTS: Mapping[Layout, tuple[str, ...]] = MappingProxyType(
    {
        ("conversations",): ("image", "language"),
        ("messages",): ("image", "images", "language"),
        ("inputs", "targets"): ("language_code", "language"),
        ("instruction", "output"): ("input", "language"),
        ("instruction", "response"): ("context", "lang", "language"),
    }
)
LANGUAGE = ("language_code", "language", "lang")  # columns that may tell it, the first that does counts


@dataclass(frozen=True)
class Row:
    """One row as read.  ``number`` is its place in the source; ``image`` is ``None`` for a text-only row."""

    number: int
    source: str
    language: str
    image: Image | None
    messages: tuple[dict[str, str], ...]

    def as_record(self, *, task: str, image_id: str | None) -> dict[str, Any]:
        """The row in the form of the row-file contract."""
        return {
            "row_id": f"{self.source}#{self.number}",
            "source": self.source,
            "task": task,
            "language": self.language,
            "image_id": image_id,
            "messages": list(self.messages),
        }


@dataclass(frozen=True)
class Source:
    """A resolved data set: its ``name`` in tables, its ``folder`` and its data ``files``; the ``language`` of rows
    that name none.  ``skipped``: reason -> rows.
    """

    name: str
    folder: Path
    files: tuple[Path, ...]
    language: str = "en"
    skipped: Counter = field(default_factory=Counter, compare=False)


def source(name: str) -> Source:
    """Resolve a hub id or local folder (see ``hub.parse``) into a source."""
    path = hub.resolve(name, kind="dataset")
    files, parts = hub.data_files(name, path), hub.parse(name)
    language = hub.known().get(parts.base, {}).get("language", "en")
    return Source(parts.short, path if path.is_dir() else path.parent, tuple(files), language)


def check_names(sources: Mapping[str, Sequence[str]]) -> None:
    """Refuse data sets that could not be told apart: rows and pictures go by the name of their source.

    ``sources``: setting -> the names it lists.  One data set may serve two settings.  Raises ``InputError`` for two of
    one name in different places, and for one that a setting lists twice.
    """
    places: dict[str, tuple[str, str]] = {}
    for setting, names in sources.items():
        here: set[str] = set()
        for name in names:
            parts = hub.parse(name)
            place = str(Path(parts.base).expanduser().resolve()) if parts.local else f"{parts.base}@{parts.revision}"
            known, first = places.setdefault(parts.short, (place, name))
            if known != place:
                raise InputError(
                    f"prepare_data.{setting}: {first} and {name} would both be called {parts.short!r}, and rows and "
                    "pictures go by that name; rename one of them"
                )
            if parts.short in here:
                raise InputError(f"prepare_data.{setting} names {name} twice; name it once")
            here.add(parts.short)


def layout(path: Path) -> Layout:
    """The layout of a data file.  Raises ``InputError`` with the columns found and expected when none fits."""
    names = columns(path)
    for candidate in LAYOUTS:
        if names.issuperset(candidate):
            return candidate
    nearest = max(LAYOUTS, key=lambda known: len(names & {*known, *LAYOUTS[known]}))
    missing = ", ".join(sorted(set(nearest) - names))
    expected = " or ".join("+".join(known) for known in LAYOUTS)
    found = ", ".join(sorted(names)[:12])
    raise InputError(
        f"{path.name}: no column {missing}; found {found}; expected {expected}; if it is "
        "not the data, choose the files that are by FOLDER:PATTERN"
    )


def names_language(data: Source) -> bool:
    """Whether the rows of a source say what language they are in."""
    return any(set(LANGUAGE) & columns(path) for path in data.files)


def read(data: Source | str, kind: Literal["visual", "text"] = "text", *, images: bool = False) -> Iterator[Row]:
    """Every usable row of a source, in order: those with an image (``visual``) or those without (``text``).

    With ``images=False`` an embedded picture is not read and stands as an empty dictionary.  Rows left out are counted
    in ``data.skipped``, which starts anew with every reading.
    """
    data = source(data) if isinstance(data, str) else data
    data.skipped.clear()
    number = -1
    for path in data.files:
        form = layout(path)
        columns = [*form, *LAYOUTS[form]]
        embedded = path.suffix == ".parquet" and is_struct(path, "image")
        if embedded and not images:
            columns = [name for name in columns if name != "image"]
        has = has_image(path) if embedded and not images else None
        for record in records(path, columns):
            number += 1
            if not isinstance(record, dict):
                data.skipped["no JSON object"] += 1
                continue
            if has is not None:
                record["image"] = {} if next(has) else None
            row = _row(record, form, number, data)
            if row is None:
                continue
            if (row.image is not None) == (kind == "visual"):
                yield row
            else:
                data.skipped["text-only" if kind == "visual" else "with an image"] += 1


class _Malformed(Exception):
    """A cell of another type than its column has; the message is the reason that is counted."""


def _row(record: Mapping[str, Any], form: Layout, number: int, data: Source) -> Row | None:
    """A row of the contract's shape, or ``None`` with the reason counted."""
    try:
        # White space at the edges of a turn is an accident of the file, and would merge with the template's line
        # breaks.
        turns = [turn | {"content": turn["content"].strip()} for turn in _turns(record, form)]
        images = _images(record)
        language = _language(record, data.language)
    except _Malformed as reason:
        data.skipped[str(reason)] += 1
        return None
    image = images[0] if images else None
    if not turns or turns[-1]["role"] != "assistant" or not any(turn["role"] == "user" for turn in turns):
        data.skipped["no user turn answered by the assistant"] += 1
        return None
    if any(not turn["content"] for turn in turns if turn["role"] != "system"):
        data.skipped["an empty turn"] += 1
        return None
    spoken = turns[1:] if turns[0]["role"] == "system" else turns
    if any(turn["role"] != ("user", "assistant")[place % 2] for place, turn in enumerate(spoken)):
        # Most chat templates refuse it, and one refusal would end a training.
        data.skipped["turns that do not alternate"] += 1
        return None
    seen = sum(turn["content"].count(PLACEHOLDER) for turn in turns)
    if image is None and seen:
        data.skipped["a placeholder but no image"] += 1
        return None
    if seen > 1 or len(images) > 1:
        data.skipped["more than one image"] += 1
        return None
    if image is not None and not seen:
        turns = behind_image(turns)
    elif image is not None and not any(PLACEHOLDER in turn["content"] for turn in turns if turn["role"] == "user"):
        data.skipped["a placeholder outside the user's words"] += 1
        return None
    return Row(number, data.name, language, image, tuple(turns))


def _turns(record: Mapping[str, Any], form: Layout) -> list[dict[str, str]]:
    """Role and words of every turn; none of them where a role is one that no template knows."""
    if len(form) == 2:
        asked, answered = (record.get(name) or "" for name in form)
        told = record.get("input") or record.get("context") or ""
        if not all(isinstance(text, str) for text in (asked, answered, told)):
            raise _Malformed(f"{' or '.join(form)} that are no text")
        words = "\n\n".join(filter(None, (asked.strip(), told.strip())))
        return [{"role": "user", "content": words}, {"role": "assistant", "content": answered}]
    given = record.get(form[0]) or []
    if not isinstance(given, list) or not all(isinstance(turn, dict) for turn in given):
        raise _Malformed(f"{form[0]} that are no list of turns")
    turns = []
    for turn in given:
        role = ROLES.get(str(turn.get("from") or turn.get("role")))
        words = turn.get("value") if "value" in turn else turn.get("content")
        if isinstance(words, list):
            words = "\n".join(_part(part) for part in words)
        if role is None or not isinstance(words, str):
            return []
        turns.append({"role": role, "content": words})
    return turns


def _part(part: Any) -> str:
    """A part of a turn that is given in parts: its words, or the placeholder of its image."""
    words = part.get("text") if isinstance(part, dict) else part
    if isinstance(part, dict) and words is None and part.get("type") != "text":
        return PLACEHOLDER
    if not isinstance(words, str):
        raise _Malformed("a turn in parts that are neither words nor images")
    return words


def _images(record: Mapping[str, Any]) -> list[Image]:
    """The pictures of a record, which ``image`` or ``images`` names one by one or in a list."""
    given = record.get("image")
    given = record.get("images") if given is None else given
    images = given if isinstance(given, list) else [given]
    for image in images:
        if isinstance(image, dict):
            whole = isinstance(image.get("bytes"), bytes | None) and isinstance(image.get("path"), str | None)
        else:
            whole = isinstance(image, str | None)
        if not whole:
            raise _Malformed("an image that is neither a path nor a picture")
    return [image for image in images if image is not None and image != ""]


def _language(record: Mapping[str, Any], otherwise: str) -> str:
    value = next((record[name] for name in LANGUAGE if record.get(name)), otherwise)
    if not isinstance(value, str):
        raise _Malformed("a language that is no text")
    return language_code(value)


def count(data: Source, kind: Literal["visual", "text"] = "text") -> Counter:
    """Language -> usable rows: the pool that a mixture is planned from."""
    return Counter(row.language for row in read(data, kind))


def choose(
    data: Source, kind: Literal["visual", "text"], quota: Mapping[str, int], available: Mapping[str, int], seed: int
) -> Iterator[Row]:
    """``quota[language]`` seeded rows of each language, in the order of the source, images included.

    ``available`` is what :func:`count` gave.  A row's chance does not depend on the other languages.
    """
    wanted = {
        language: iter(_sample(available[language], rows, seed, f"{data.name}/{language}"))
        for language, rows in quota.items()
        if rows
    }
    ahead = {language: next(numbers, None) for language, numbers in wanted.items()}
    seen: Counter = Counter()
    for row in read(data, kind, images=True):
        place = seen[row.language]
        seen[row.language] += 1
        if ahead.get(row.language) == place:
            ahead[row.language] = next(wanted[row.language], None)
            yield row


def _sample(size: int, rows: int, seed: int, label: str) -> list[int]:
    generator = np.random.default_rng([seed, *label.encode()])
    return np.sort(generator.permutation(size)[:rows]).tolist()


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

    try:
        yield from ijson.items(file, "item", use_float=True)
    except (ijson.JSONError, UnicodeDecodeError) as error:
        raise InputError(f"{path.name}: not a complete JSON list; download it again ({error})") from error


def _parquet_records(path: Path, wanted: Iterable[str] | None) -> Iterator[dict[str, Any]]:

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

    schema = pq.read_schema(path)
    return column in schema.names and pa.types.is_struct(schema.field(column).type)


def has_image(path: Path) -> Iterator[bool]:
    """Whether each row has a picture.  The small ``path`` member tells, so no picture is read."""

    file = pq.ParquetFile(path)
    members = [field.name for field in file.schema_arrow.field("image").type]
    small = "path" if "path" in members else members[0]
    for batch in file.iter_batches(batch_size=2048, columns=[f"image.{small}"]):
        yield from batch.column(0).is_valid().to_pylist()
