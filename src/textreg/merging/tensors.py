"""Checkpoints on disk: where they are, what they hold, and their bytes, without loading a model.

A safetensors file is a JSON header and a block of bytes, so the header is read once and tensors are then fetched with
``os.preadv`` into a buffer that the caller owns and reuses.  Choices: no memory map (a mapped file counts as resident
memory, and the whole point is a bound on it); files are checked against their header before anything else happens, so
a truncated download is an input error and not a strange model; pickled weights are refused; stored floats become
float32 and back by numpy alone, because importing a tensor library takes longer than merging a gigabyte.  numpy has no
bfloat16, but a bfloat16 is the upper half of a float32: widening is a shift, and narrowing an addition and a shift
that round to nearest, ties to even, as torch rounds (tested bit for bit).

    checkpoint = open_checkpoint("BSC-LT/salamandra-2b-instruct")      # or a folder, or "id@revision"
    checkpoint.tensors["model.norm.weight"].shape
"""

import json
import math
import os
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np

from textreg.errors import InputError

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
LARGEST_HEADER = 100 * 2**20

WIDTH = {  # bytes per element of a safetensors dtype
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2,
    "U8": 1, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1,
}  # fmt: skip
FLOATS = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": np.uint16}  # dtypes with arithmetic here


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
    config: Mapping[str, Any] = field(default_factory=dict)
    metadata: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    @property
    def tied(self) -> bool | None:
        """Whether the configuration ties head and embedding; ``None`` when it does not say."""
        text = self.config.get("text_config") or {}
        for config in (self.config, text):
            if "tie_word_embeddings" in config:
                return bool(config["tie_word_embeddings"])
        return None


def resolve(source: str | Path, weights: bool = True) -> Path:
    """A local folder for a folder name or a hub id (``id`` or ``id@revision``), downloading what is missing.

    Raises :class:`InputError` when the folder does not exist, the id is unknown or gated, or the network is off and
    the model is not in the local cache.
    """
    folder = Path(source).expanduser()
    if folder.is_dir():
        return folder
    text = str(source)
    if folder.exists():
        raise InputError(f"{text} is a file; give the folder of the checkpoint")
    name, _, revision = text.partition("@")
    if text.startswith(("/", ".", "~")) or name.count("/") > 1:
        raise InputError(f"no such checkpoint folder: {text}{near(folder)}")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    patterns = ["*.json", "*.txt", "*.model", "*.jinja", "LICENSE*"] + (["*.safetensors"] if weights else [])
    try:
        return Path(
            snapshot_download(
                name, revision=revision or None, allow_patterns=patterns, ignore_patterns=["consolidated*"]
            )
        )
    except GatedRepoError:
        cure = f"{name} is gated: accept its terms on its hub page and log in with `hf auth login`"
    except RevisionNotFoundError:
        cure = f"{name} has no revision {revision!r} on the hub"
    except (HFValidationError, RepositoryNotFoundError):
        cure = f"{text!r} is neither a folder nor a model on the hub (a private one needs `hf auth login`)"
    except (LocalEntryNotFoundError, OfflineModeIsEnabled):
        cure = f"{text!r} is not a folder and not in the local hub cache, and the hub cannot be reached; give a folder"
    except (HfHubHTTPError, OSError) as error:
        cure = f"downloading {text} failed ({type(error).__name__}); run again, the download resumes"
    raise InputError(cure + near(folder))


def near(folder: Path) -> str:
    """The suffix that names a folder of a similar name, if there is one."""
    beside = [path.name for path in folder.parent.iterdir() if path.is_dir()] if folder.parent.is_dir() else []
    close = get_close_matches(folder.name, beside, n=1)
    return f" (did you mean {str(folder.parent / close[0])!r}?)" if close else ""


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in ``path``; :class:`InputError` when it is not one."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is not readable JSON ({error}); download or save it again") from error
    if not isinstance(value, dict):
        raise InputError(f"{path} holds a {type(value).__name__}, not an object; download or save it again")
    return value


def read_header(file: Path) -> tuple[list[Entry], dict[str, str]]:
    """Entries in stored order and the file's metadata; checks offsets, sizes and the length of the file."""
    broken = f"{file} is not a complete safetensors file"
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if not 2 <= length <= min(LARGEST_HEADER, size - 8):
                raise InputError(f"{broken} (header of {length} bytes in {size}); download or save it again")
            header = json.loads(stream.read(length))
    except FileNotFoundError as error:
        raise InputError(f"{file} is missing, though the index names it; download the checkpoint again") from error
    except ValueError as error:
        raise InputError(f"{broken} (header is not JSON); download or save it again") from error
    metadata = header.pop("__metadata__", {})
    entries, data, end = [], 8 + length, 0
    for name, item in sorted(header.items(), key=lambda pair: pair[1]["data_offsets"]):
        (first, last), dtype, shape = item["data_offsets"], item["dtype"], tuple(item["shape"])
        if dtype not in WIDTH:
            raise InputError(f"{file}: tensor {name} has the unknown dtype {dtype!r}")
        if first != end or last - first != math.prod(shape) * WIDTH[dtype]:
            raise InputError(f"{broken} (tensor {name} has offsets that do not fit its shape)")
        entries.append(Entry(name, file, dtype, shape, data + first, last - first))
        end = last
    if size != data + end:
        raise InputError(f"{broken} ({size} bytes, its header promises {data + end}); download or save it again")
    return entries, metadata


def open_checkpoint(source: str | Path) -> Checkpoint:
    """Reads the headers of a checkpoint folder or hub id; no weight is loaded.

    Raises :class:`InputError` for a missing, truncated, inconsistent or pickled checkpoint.
    """
    folder = resolve(source)
    if (folder / SINGLE).exists():
        files = [folder / SINGLE]
    elif (folder / INDEX).exists():
        weight_map = read_json(folder / INDEX).get("weight_map", {})
        files = [folder / shard for shard in sorted(set(weight_map.values()))]
    else:
        pickled = sorted(path.name for path in folder.glob("*.bin")) + sorted(
            path.name for path in folder.glob("*.pt")
        )
        cure = (
            f"only pickled weights ({pickled[0]}); save it again as safetensors"
            if pickled
            else f"no {SINGLE} or {INDEX}"
        )
        raise InputError(f"{folder} is not a checkpoint folder: {cure}")
    tensors: dict[str, Entry] = {}
    metadata = {}
    for file in files:
        entries, metadata[file.name] = read_header(file)
        for entry in entries:
            if entry.name in tensors:
                raise InputError(
                    f"{folder}: tensor {entry.name} is stored in {tensors[entry.name].file.name} and {file.name}"
                )
            tensors[entry.name] = entry
    if (folder / INDEX).exists() and len(files) > 1 and set(weight_map) != set(tensors):
        odd = sorted(set(weight_map) ^ set(tensors))[0]
        raise InputError(f"{folder}: index and shards disagree about {odd}; download or save the checkpoint again")
    config = read_json(folder / "config.json") if (folder / "config.json").exists() else {}
    return Checkpoint(folder, tensors, tuple(files), config, metadata)


def header_bytes(entries: Iterable[Entry], metadata: Mapping[str, str]) -> bytes:
    """Length prefix and header of a safetensors file that holds ``entries`` back to back, padded to 8 bytes."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for entry in entries:
        header[entry.name] = {
            "dtype": entry.dtype,
            "shape": list(entry.shape),
            "data_offsets": [end, end + entry.nbytes],
        }
        end += entry.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


class Files:
    """Open file descriptors, shared by worker threads (``pread`` and ``pwrite`` have no position); a context
    manager."""

    def __init__(self, paths: Iterable[Path], writable: bool = False):
        self.writable = writable
        self.paths = tuple(dict.fromkeys(paths))
        self.handles: dict[Path, int] = {}

    def __enter__(self) -> "Files":
        flags = os.O_RDWR if self.writable else os.O_RDONLY
        for path in self.paths:
            self.handles[path] = os.open(path, flags)
        return self

    def __exit__(self, *exception: object) -> None:
        for handle in self.handles.values():
            os.close(handle)
        self.handles.clear()

    def read(self, file: Path, start: int, buffer: memoryview) -> None:
        """Fills ``buffer`` with the bytes at ``start``; :class:`InputError` when the file ends before."""
        done = 0
        while done < len(buffer):
            step = os.preadv(self.handles[file], [buffer[done:]], start + done)
            if step == 0:
                raise InputError(f"{file} became shorter while it was read; download or save it again")
            done += step

    def flush_until(self, done: threading.Event, seconds: float = 0.2) -> None:
        """Keeps pushing what was written to the disk until ``done``; for a thread of its own beside the writers."""
        while not done.wait(seconds):
            for handle in self.handles.values():
                os.fsync(handle)

    def write(self, file: Path, start: int, buffer: memoryview) -> None:
        """Writes all of ``buffer`` at ``start``."""
        done = 0
        while done < len(buffer):
            done += os.pwrite(self.handles[file], buffer[done:], start + done)


class Buffer:
    """A fixed buffer for raw bytes with typed views; one per worker, reused for every block.

    Large fresh allocations are what makes merging slow, so a worker allocates once.
    """

    def __init__(self, elements: int):
        self.raw = np.empty(elements * 8, np.uint8)
        self.bytes = memoryview(self.raw)
        self.scratch = np.empty(elements, np.uint32)

    def view(self, dtype: str, count: int) -> np.ndarray:
        """The first ``count`` elements [count] as the safetensors dtype (bfloat16 as its bits, uint16)."""
        return self.raw[: count * WIDTH[dtype]].view(FLOATS[dtype])


def widen(stored: np.ndarray, dtype: str, out: np.ndarray) -> None:
    """Stored elements [n] of the safetensors ``dtype`` into ``out`` [n] float32."""
    if dtype == "BF16":
        bits = out.view(np.uint32)
        np.copyto(bits, stored)
        np.left_shift(bits, 16, out=bits)
    else:
        np.copyto(out, stored, casting="same_kind")


def narrow(values: np.ndarray, dtype: str, out: np.ndarray, scratch: np.ndarray) -> None:
    """``values`` [n] float32, none of them NaN, rounded once into ``out`` [n] of the safetensors ``dtype``.

    ``scratch`` [at least n] uint32 is overwritten.
    """
    if dtype == "BF16":
        bits, sum_ = values.view(np.uint32), scratch[: len(values)]
        np.right_shift(bits, 16, out=sum_)
        np.bitwise_and(sum_, 1, out=sum_)
        np.add(sum_, 0x7FFF, out=sum_)
        np.add(sum_, bits, out=sum_)
        np.right_shift(sum_, 16, out=sum_)
        np.copyto(out, sum_, casting="same_kind")
    else:
        np.copyto(out, values, casting="same_kind")
