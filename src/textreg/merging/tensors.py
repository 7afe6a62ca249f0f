"""Checkpoints on disk: where they are, what they hold, and blocks of their bytes, without loading a model.

A safetensors file is a JSON header and a block of bytes; the library checks it, and blocks are then read from where
the header says.  Choices: no memory map (a mapped file counts as resident memory, and the point is a bound on it);
pickled weights are refused; every JSON file of somebody else is read through one schema; stored
floats become float32 and back by numpy alone, because importing a tensor library takes longer than merging a gigabyte:
a bfloat16 is the upper half of a float32, rounded to nearest, ties to even, as torch rounds (tested bit for bit).

    checkpoint = open_checkpoint("BSC-LT/salamandra-2b-instruct")      # or a folder, or "id@revision"
    checkpoint.tensors["model.norm.weight"].shape
"""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import AliasChoices, Field
from safetensors import SafetensorError, safe_open

from textreg.data import hub
from textreg.errors import InputError
from textreg.files import Foreign, inside, read_as

SINGLE, INDEX, ADAPTER_CONFIG = "model.safetensors", "model.safetensors.index.json", "adapter_config.json"
TEXT_CONFIGS = ("text_config", "llm_config", "language_config")  # what a config calls that of its language model
WIDTH = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}  # bytes per element of the dtypes with arithmetic here
FLOATS = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": np.uint16}
FETCHED = ("*.json", "*.txt", "*.model", "*.jinja", "LICENSE*", "*.safetensors")


@dataclass(frozen=True)
class Entry:
    """One stored tensor: ``start`` is its first byte in ``file``, ``shape`` in elements, ``nbytes`` in bytes."""

    name: str
    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    nbytes: int

    @property
    def count(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def row(self) -> int:
        """Elements per row (the first dimension counts rows); 1 for a vector or a scalar."""
        return math.prod(self.shape[1:])


@dataclass(frozen=True)
class Checkpoint:
    """A folder of safetensors: ``tensors`` in stored order, ``files`` in shard order, the parsed ``config.json``."""

    folder: Path
    tensors: Mapping[str, Entry]
    files: tuple[Path, ...]
    config: "Config"
    metadata: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


class TextConfig(Foreign):
    model_type: str = ""
    tie_word_embeddings: bool | None = None


class Config(TextConfig):
    """``config.json`` as far as a merge needs it."""

    architectures: list[str] | None = None
    text_config: TextConfig | None = Field(default=None, validation_alias=AliasChoices(*TEXT_CONFIGS))

    @property
    def tied(self) -> bool | None:
        """Whether head and embedding are tied; None where it does not say."""
        inner = self.text_config.tie_word_embeddings if self.text_config else None
        return inner if self.tie_word_embeddings is None else self.tie_word_embeddings


class _Index(Foreign):
    weight_map: dict[str, str]


def resolve(source: str | Path) -> Path:
    """A local folder for a folder name or a hub id (``id`` or ``id@revision``), downloading what is missing.

    Raises :class:`InputError` when there is no such folder, and what :func:`textreg.data.hub.resolve` does.
    """
    folder = Path(source).expanduser()
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{source} is a file; give the folder of the checkpoint")
    try:
        return hub.fetch(str(source), FETCHED)
    except InputError as error:
        beside = [path.name for path in folder.parent.iterdir() if path.is_dir()] if folder.parent.is_dir() else []
        close = get_close_matches(folder.name, beside, n=1)
        near = f" (did you mean {str(folder.parent / close[0])!r}?)" if close else ""
        raise InputError(f"{error}{near}") from None


def read_header(file: Path) -> tuple[list[Entry], dict[str, str]]:
    """Entries in stored order and the file's metadata; the safetensors library checks that all of it fits."""
    try:
        with safe_open(file, "np") as checked:
            metadata = checked.metadata() or {}
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            header = json.loads(stream.read(length))
    except FileNotFoundError:
        raise InputError(f"{file} is missing, though the index names it; download the checkpoint again") from None
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        reason = (str(error).splitlines() or ["nothing in it"])[0]
        raise InputError(f"{file} is not a complete safetensors file ({reason}); download or save it again") from None
    header.pop("__metadata__", None)
    entries = [
        Entry(name, file, item["dtype"], tuple(item["shape"]), 8 + length + first, last - first)
        for name, item in header.items()
        for first, last in [item["data_offsets"]]
    ]
    return sorted(entries, key=lambda entry: entry.start), metadata


def open_checkpoint(source: str | Path) -> Checkpoint:
    """Reads the headers of a checkpoint folder or hub id; no weight is loaded.

    Raises :class:`InputError` for a missing, truncated, inconsistent or pickled checkpoint.
    """
    folder = resolve(source)
    weight_map = read_as(folder / INDEX, _Index).weight_map if (folder / INDEX).exists() else {}
    if (folder / SINGLE).exists():
        files, weight_map = [folder / SINGLE], {}
    else:
        files = [inside(folder, shard) for shard in sorted(set(weight_map.values()))]
    if not files:
        raise InputError(f"{folder} is not a checkpoint folder: {_instead(folder)}")
    tensors: dict[str, Entry] = {}
    metadata = {}
    for file in files:
        entries, metadata[file.name] = read_header(file)
        for entry in entries:
            if entry.name in tensors:
                two = f"{tensors[entry.name].file.name} and {file.name}"
                raise InputError(f"{folder}: tensor {entry.name} is stored in {two}; download the checkpoint again")
            tensors[entry.name] = entry
    if weight_map and set(weight_map) != set(tensors):
        odd = sorted(set(weight_map) ^ set(tensors))[0]
        raise InputError(f"{folder}: index and shards disagree about {odd}; download or save the checkpoint again")
    config = read_as(folder / "config.json", Config) if (folder / "config.json").exists() else Config()
    return Checkpoint(folder, tensors, tuple(files), config, metadata)


def _instead(folder: Path) -> str:
    """What a folder without weights holds in their place, and the cure."""
    held = sorted(path.name for path in folder.iterdir())
    if (folder / ADAPTER_CONFIG).exists():
        return "it holds an adapter; give the model that the adapter was made for"
    if shards := [name for name in held if name.endswith(".safetensors") and "-of-" in name]:
        return f"{shards[0]} without {INDEX}; download the index as well"
    forms = (".bin", ".pt", ".pth", ".ckpt", ".safetensors", ".gguf", ".onnx", ".h5")
    if others := [name for name in held if name.endswith(forms)]:
        return f"only weights in another form ({others[0]}); save it again as safetensors with transformers"
    return f"no {SINGLE} or {INDEX}"


def header_bytes(entries: Iterable[Entry], metadata: Mapping[str, str]) -> bytes:
    """Length prefix and header of a safetensors file that holds ``entries`` back to back, padded to 8 bytes."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for entry in entries:
        place = [end, end := end + entry.nbytes]
        header[entry.name] = {"dtype": entry.dtype, "shape": list(entry.shape), "data_offsets": place}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def read_bytes(entry: Entry, start: int, stop: int) -> np.ndarray:
    """Bytes ``start`` to ``stop`` of a tensor of any dtype, [stop - start] uint8, the caller's to change."""
    held = np.empty(stop - start, np.uint8)
    with entry.file.open("rb") as file:
        file.seek(entry.start + start)
        if file.readinto(held) < len(held):
            raise InputError(f"{entry.file} became shorter while it was read; download or save it again")
    return held


def read_raw(entry: Entry, start: int, stop: int) -> np.ndarray:
    """Elements ``start`` to ``stop`` of a float tensor as stored (bfloat16 as its bits, uint16)."""
    width = WIDTH[entry.dtype]
    return read_bytes(entry, start * width, stop * width).view(FLOATS[entry.dtype])


def read_floats(entry: Entry, start: int, stop: int) -> np.ndarray:
    """Elements ``start`` to ``stop`` of a float tensor, [stop - start] float32."""
    return widen(read_raw(entry, start, stop), entry.dtype)


def widen(stored: np.ndarray, dtype: str) -> np.ndarray:
    """Stored elements [n] of the safetensors ``dtype`` as float32 [n]."""
    if dtype == "BF16":
        return (stored.astype(np.uint32) << 16).view(np.float32)
    return stored.astype(np.float32, copy=False)


def narrow(values: np.ndarray, dtype: str) -> np.ndarray:
    """``values`` [n] float32, none of them NaN, rounded once to the safetensors ``dtype``, as it is stored."""
    if dtype != "BF16":
        return values.astype(FLOATS[dtype], copy=False)
    bits = values.view(np.uint32)
    rounded = (bits >> 16) & 1
    rounded += bits
    rounded += 0x7FFF
    rounded >>= 16
    return rounded.astype(np.uint16)
