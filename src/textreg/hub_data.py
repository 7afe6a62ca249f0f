"""Readers of visual and text instruction data as the hub publishes it: one stream of rows whatever the layout.

Three layouts cover the data sets of this project, and any other that looks like them: ``conversations`` (LCS-558K,
LLaVA-Instruct-150K, LLaVA-OneVision-Data, PangeaInstruct), ``messages`` (chat data) and ``inputs``/``targets``
(Aya).  The layout is read off the columns; a file that fits none is refused with the columns it lacks.  Rows are
streamed (JSON lists too), the image column is not touched until a row was chosen, and every row left out is counted
under its reason.

Try it: ``next(hub_data.read("folder/of/jsonl"))``.  Reading a source twice gives the same rows in the same order,
which is what lets a seeded choice of row numbers stand for a sample.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml

from textreg import hubs
from textreg.errors import InputError
from textreg.mixture import PLACEHOLDER, behind_image

ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
Image = str | dict[str, Any]  # a path as the data set spells it, or a hub image: {"bytes": ..., "path": ...}


@dataclass(frozen=True)
class Layout:
    """Columns that a data set must have (``needs``) and may have (``takes``); nothing else is read."""

    name: str
    needs: tuple[str, ...]
    takes: tuple[str, ...] = ()


LAYOUTS = (
    Layout("conversations", ("conversations",), ("image", "language", "data_source")),
    Layout("messages", ("messages",), ("image", "images", "language", "source")),
    Layout("inputs/targets", ("inputs", "targets"), ("language_code", "language")),
)


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
    """A resolved data set: its ``name`` in tables, its ``folder`` and its data ``files``.  ``skipped``: reason ->
    rows.
    """

    name: str
    folder: Path
    files: tuple[Path, ...]
    skipped: Counter = field(default_factory=Counter, compare=False)


def source(name: str) -> Source:
    """Resolve a hub id or local folder (see ``hubs.parse``) into a source."""
    path = hubs.resolve(name, kind="dataset")
    files = hubs.data_files(name, path)
    return Source(hubs.parse(name).short, path if path.is_dir() else path.parent, tuple(files))


def check_names(sources: Mapping[str, Sequence[str]]) -> None:
    """Refuse data sets that could not be told apart: rows and pictures go by the name of their source.

    ``sources``: setting -> the names it lists.  One data set may serve two settings.  Raises ``InputError`` for two of
    one name in different places, and for one that a setting lists twice.
    """
    places: dict[str, tuple[str, str]] = {}
    for setting, names in sources.items():
        here: set[str] = set()
        for name in names:
            parts = hubs.parse(name)
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


@cache
def _codes() -> dict[str, dict[str, str]]:
    return yaml.safe_load(resources.files("textreg").joinpath("language_codes.yaml").read_text("utf-8"))


def language_code(value: str | None) -> str:
    """The project's code for an ISO 639 code (``eng``), a tag (``pt-BR``, ``fra_Latn``) or a name; English if
    empty.
    """
    if not value:
        return "en"
    lower = value.strip().lower()
    short = lower.replace("_", "-").split("-")[0]
    return _codes()["names"].get(lower) or _codes()["codes"].get(short, short)


def records(path: Path, columns: Iterable[str] | None = None) -> Iterator[dict[str, Any]]:
    """The records of a .json list, .jsonl or .parquet file, one at a time; of Parquet, only ``columns`` are read.

    Raises ``InputError`` naming the file, and the line where there are lines, when it cannot be read.
    """
    if path.suffix == ".parquet":
        yield from _parquet_records(path, columns)
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


def _json_records(path: Path, file: Any) -> Iterator[dict[str, Any]]:
    import ijson

    try:
        yield from ijson.items(file, "item", use_float=True)
    except ijson.JSONError as error:
        raise InputError(f"{path.name}: not a complete JSON list; download it again ({error})") from error


def _parquet_records(path: Path, columns: Iterable[str] | None) -> Iterator[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
        kept = None if columns is None else [name for name in columns if name in file.schema_arrow.names]
        # Few rows at a time: with images inside, a thousand rows are hundreds of megabytes.
        for batch in file.iter_batches(batch_size=64 if kept is None or "image" in kept else 2048, columns=kept):
            yield from batch.to_pylist()
    except pa.ArrowInvalid as error:
        raise InputError(f"{path.name}: not a readable Parquet file; download it again ({error})") from error


def _names(path: Path) -> set[str]:
    """The columns of a file: of Parquet from its footer, else from the first record."""
    if path.suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            return set(pq.read_schema(path).names)
        except pa.ArrowInvalid as error:
            raise InputError(f"{path.name}: not a readable Parquet file; download it again ({error})") from error
    first = next(records(path), None)
    if first is None:
        raise InputError(f"{path.name} holds no row")
    if not isinstance(first, dict):
        raise InputError(f"{path.name}: expected JSON objects with columns, found {type(first).__name__}")
    return set(first)


def layout(path: Path) -> Layout:
    """The layout of a data file.  Raises ``InputError`` with the columns found and expected when none fits."""
    names = _names(path)
    for candidate in LAYOUTS:
        if names.issuperset(candidate.needs):
            return candidate
    nearest = max(LAYOUTS, key=lambda known: len(names & {*known.needs, *known.takes}))
    missing = ", ".join(sorted(set(nearest.needs) - names))
    expected = " or ".join("+".join(known.needs) for known in LAYOUTS)
    found = ", ".join(sorted(names)[:12])
    raise InputError(f"{path.name}: no column {missing}; found {found}; expected {expected}")


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
        columns = [*form.needs, *form.takes]
        embedded = path.suffix == ".parquet" and _is_struct(path, "image")
        if embedded and not images:
            columns = [name for name in columns if name != "image"]
        has = _has_image(path) if embedded and not images else None
        for record in records(path, columns):
            number += 1
            if has is not None:
                record["image"] = {} if next(has) else None
            row = _row(record, form, number, data)
            if row is None:
                continue
            if (row.image is not None) == (kind == "visual"):
                yield row
            else:
                data.skipped["text-only" if kind == "visual" else "with an image"] += 1


def _is_struct(path: Path, column: str) -> bool:
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pq.read_schema(path)
    return column in schema.names and pa.types.is_struct(schema.field(column).type)


def _has_image(path: Path) -> Iterator[bool]:
    """Whether each row has a picture.  The small ``path`` member tells, so no picture is read."""
    import pyarrow.parquet as pq

    file = pq.ParquetFile(path)
    for batch in file.iter_batches(batch_size=2048, columns=["image.path"]):
        yield from batch.column(0).is_valid().to_pylist()


def _row(record: Mapping[str, Any], form: Layout, number: int, data: Source) -> Row | None:
    """A row of the contract's shape, or ``None`` with the reason counted."""
    # White space at the edges of a turn is an accident of the file, and would merge with the template's line breaks.
    turns = [turn | {"content": turn["content"].strip()} for turn in _turns(record, form)]
    image = _image(record)
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
    if seen > 1 or (image is not None and isinstance(record.get("images"), list) and len(record["images"]) > 1):
        data.skipped["more than one image"] += 1
        return None
    if image is not None and not seen:
        turns = behind_image(turns)
    elif image is not None and not any(PLACEHOLDER in turn["content"] for turn in turns if turn["role"] == "user"):
        data.skipped["a placeholder outside the user's words"] += 1
        return None
    language = language_code(record.get("language_code") or record.get("language"))
    return Row(number, data.name, language, image, tuple(turns))


def _turns(record: Mapping[str, Any], form: Layout) -> list[dict[str, str]]:
    if form.name == "inputs/targets":
        asked, answered = record.get("inputs") or "", record.get("targets") or ""
        return [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]
    turns = []
    for turn in record.get(form.needs[0]) or []:
        role = ROLES.get(str(turn.get("from") or turn.get("role")))
        words = turn.get("value") if "value" in turn else turn.get("content")
        if isinstance(words, list):
            words = "\n".join(part.get("text") or PLACEHOLDER for part in words)
        if role is None or not isinstance(words, str):
            return []
        turns.append({"role": role, "content": words})
    return turns


def _image(record: Mapping[str, Any]) -> Image | None:
    image = record.get("image")
    if image is None and record.get("images"):
        image = record["images"][0] if isinstance(record["images"], list) else record["images"]
    return image if image is not None and image != "" else None


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
