"""The tuned side of a merge: a checkpoint, or a base and its LoRA adapter read as if the sum had been saved.

An adapter is not merged first: ``W + s B A`` is formed block by block while streaming, so no second full model is
written. Projector and other ``modules_to_save`` of the adapter replace the base's.  Choices: every adapter tensor must
find its place, what cannot be formed this way (DoRA, trained biases, resized embeddings) is an input error that names
the cure, and the scale follows peft (alpha / rank, rank-stabilised if asked, patterns honoured).

    open_weights("runs/laptop/tune/TR/adapter", adapter_base="llava-hf/llava-1.5-7b-hf")
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from textreg.errors import InputError, did_you_mean
from textreg.merging.methods import BLOCK
from textreg.merging.tensors import (
    FLOATS,
    WIDTH,
    Buffer,
    Checkpoint,
    Entry,
    Files,
    open_checkpoint,
    read_header,
    read_json,
    resolve,
    widen,
)
from textreg.vlm.layouts import by_canonical, canonical

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


@dataclass(frozen=True)
class LowRank:
    """A LoRA pair for one weight [out, in]: ``down`` (A) [r, in], ``up`` (B) [out, r], both stored; change = scale B
    A.

    ``embedding`` marks the pair of an embedding [rows, dim]: A [r, rows], B [dim, r], change = scale (B A) transposed.
    """

    down: Entry
    up: Entry
    scale: float
    embedding: bool = False


@dataclass(frozen=True)
class Weights:
    """A checkpoint with, by stored name, low-rank changes to add and tensors to put in the place of its own."""

    source: str
    checkpoint: Checkpoint
    changes: Mapping[str, LowRank] = field(default_factory=dict)
    replaced: Mapping[str, Entry] = field(default_factory=dict)
    adapter: Path | None = None

    @property
    def files(self) -> tuple[Path, ...]:
        """Every weight file that is read."""
        return self.checkpoint.files + ((self.adapter / ADAPTER_WEIGHTS,) if self.adapter else ())


def open_weights(source: str | Path, adapter_base: str | Path | None = None) -> Weights:
    """A checkpoint or, when the folder holds ``adapter_config.json``, its base with the adapter on top.

    ``adapter_base`` overrides the base that the adapter names.  Raises :class:`InputError` when a tensor of the
    adapter matches nothing, or when its kind cannot be added to a weight.
    """
    folder = resolve(source)
    if not (folder / ADAPTER_CONFIG).exists():
        return Weights(str(source), open_checkpoint(folder))
    config = read_json(folder / ADAPTER_CONFIG)
    if config.get("peft_type") != "LORA":
        raise InputError(
            f"{folder} is a {config.get('peft_type')} adapter; only LoRA is a change of the weights that scales"
        )
    for option, plain in {"use_dora": False, "fan_in_fan_out": False, "bias": "none", "lora_bias": False}.items():
        if config.get(option, plain) not in (plain, None):
            raise InputError(f"{folder}: {option}={config[option]} is more than W + s B A; merge it with peft first")
    base = adapter_base or config.get("base_model_name_or_path")
    if not base:
        raise InputError(f"{folder} does not name its base model; give it with adapter_base (--adapter-base)")
    checkpoint = open_checkpoint(base)
    if not (folder / ADAPTER_WEIGHTS).exists():
        raise InputError(f"{folder} has no {ADAPTER_WEIGHTS}; save the adapter again with safetensors")
    entries, _ = read_header(folder / ADAPTER_WEIGHTS)
    changes, replaced = place_adapter(entries, config, checkpoint, folder)
    return Weights(str(source), checkpoint, changes, replaced, folder)


def scale_of(module: str, rank: int, config: Mapping[str, Any]) -> float:
    """peft's scale of one module: alpha / r, or alpha / sqrt(r) when rank-stabilised; ``alpha_pattern`` wins."""
    alpha = config["lora_alpha"]
    for pattern, value in (config.get("alpha_pattern") or {}).items():
        if re.search(rf"(^|\.){pattern}$", module):
            alpha = value
            break
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def place_adapter(
    entries: list[Entry], config: Mapping[str, Any], checkpoint: Checkpoint, folder: Path
) -> tuple[dict[str, LowRank], dict[str, Entry]]:
    """Stored names of the base -> low-rank change, and -> replacement, from the tensors of an adapter."""
    index = by_canonical(checkpoint.tensors, str(checkpoint.folder))
    pairs: dict[tuple[str, bool], dict[str, Entry]] = {}
    replaced: dict[str, Entry] = {}
    for entry in entries:
        name = entry.name.removeprefix("base_model.model.").replace(".base_layer.", ".")
        low_rank = re.fullmatch(r"(.+)\.lora_(embedding_)?([AB])(\.weight)?", name)
        key = canonical(f"{low_rank.group(1)}.weight" if low_rank else name)
        if key not in index:
            raise InputError(
                f"{folder}: {entry.name} matches no tensor of {checkpoint.folder}{did_you_mean(key, index)}"
            )
        stored = checkpoint.tensors[index[key]]
        if low_rank:
            pairs.setdefault((stored.name, bool(low_rank.group(2))), {})[low_rank.group(3)] = entry
        elif entry.shape != stored.shape:
            raise InputError(
                f"{folder}: {entry.name} is {entry.shape}, its base {stored.shape}; merge it with peft first"
            )
        else:
            replaced[stored.name] = entry
    changes = {}
    for (name, embedding), pair in pairs.items():
        shape = checkpoint.tensors[name].shape
        if set(pair) != {"A", "B"} or len(shape) != 2:
            raise InputError(
                f"{folder}: the LoRA pair of {name} is incomplete or not of a matrix; save the adapter again"
            )
        down, up = pair["A"], pair["B"]
        rank = down.shape[0]
        wanted = ((rank, shape[0]), (shape[1], rank)) if embedding else ((rank, shape[1]), (shape[0], rank))
        if (down.shape, up.shape) != wanted:
            raise InputError(
                f"{folder}: the LoRA pair of {name} is {down.shape}, {up.shape}, which does not give {shape}"
            )
        scale = scale_of(name.removesuffix(".weight"), rank, config)
        changes[name] = LowRank(down, up, scale, embedding)
    return changes, replaced


class Reader:
    """Reads blocks of one model's tensors as float32; one per worker and model, because its buffers are reused."""

    def __init__(self, weights: Weights, files: Files):
        self.weights, self.files = weights, files
        self.buffer = Buffer(BLOCK)
        self.loaded: tuple[str, np.ndarray, np.ndarray] | None = None

    def stored(self, name: str) -> Entry:
        """Where the tensor's bytes are: in the checkpoint, or in the adapter that replaces it."""
        return self.weights.replaced.get(name) or self.weights.checkpoint.tensors[name]

    def raw(self, entry: Entry, offset: int, nbytes: int) -> memoryview:
        """``nbytes`` bytes at byte ``offset`` of a tensor, in the reused buffer."""
        view = self.buffer.bytes[:nbytes]
        self.files.read(entry.file, entry.start + offset, view)
        return view

    def floats(self, name: str, start: int, stop: int, out: np.ndarray) -> None:
        """Elements ``start`` to ``stop`` of the tuned weight into ``out`` [stop - start] float32."""
        self.cast(self.stored(name), start, stop, out)
        if name in self.weights.changes:
            out += self.low_rank(name, start, stop)

    def cast(self, entry: Entry, start: int, stop: int, out: np.ndarray) -> None:
        """Elements of a stored float tensor into ``out`` [stop - start] float32."""
        width = WIDTH[entry.dtype]
        self.raw(entry, start * width, (stop - start) * width)
        widen(self.buffer.view(entry.dtype, stop - start), entry.dtype, out)

    def low_rank(self, name: str, start: int, stop: int) -> np.ndarray:
        """Elements ``start`` to ``stop`` of ``scale B A`` [stop - start] float32; only the rows touched are formed."""
        change = self.weights.changes[name]
        if self.loaded is None or self.loaded[0] != name:
            down, up = self.whole(change.down), self.whole(change.up)
            left, right = (down.T, up.T) if change.embedding else (up, down)
            self.loaded = (name, left * np.float32(change.scale), right)
        _, left, right = self.loaded  # [out, r], [r, in]
        columns = right.shape[1]
        first, last = start // columns, -(-stop // columns)
        rows = left[first:last] @ right  # [rows, in]
        return rows.reshape(-1)[start - first * columns : stop - first * columns]

    def whole(self, entry: Entry) -> np.ndarray:
        """A small tensor as float32, in its shape."""
        if entry.dtype not in FLOATS:
            raise InputError(f"{entry.file}: {entry.name} is {entry.dtype}; only float adapters can be added")
        out = np.empty(entry.count, np.float32)
        for start in range(0, entry.count, BLOCK):
            stop = min(start + BLOCK, entry.count)
            self.cast(entry, start, stop, out[start:stop])
        return out.reshape(entry.shape)
