"""The tuned side of a merge: a checkpoint, or a base and its LoRA adapter read as if the sum had been saved.

An adapter is not merged first: ``W + s B A`` is formed block by block while streaming, so no second full model is
written.  Projector and other ``modules_to_save`` of the adapter replace the base's.  Choices: every adapter tensor
must find its place; the scale follows peft (alpha / rank, rank-stabilised if asked, patterns matched against the
module's name as peft matches them); and an option of an adapter that is not known to leave a plain sum is refused,
whatever a newer peft calls it, so that no kind passes unseen.

    open_weights("runs/laptop/tune/TR/adapter", adapter_base="llava-hf/llava-1.5-7b-hf")
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from textreg.errors import InputError, did_you_mean, quoted
from textreg.files import Foreign, read_as
from textreg.merging.tensors import (
    ADAPTER_CONFIG,
    FLOATS,
    Checkpoint,
    Entry,
    open_checkpoint,
    read_floats,
    read_header,
    resolve,
)
from textreg.merging.tree import Finder
from textreg.vlm.layouts import HEAD

ADAPTER_WEIGHTS = "adapter_model.safetensors"
#: Options of an adapter that leave ``W + s B A`` what it is; any other one must be empty.
HARMLESS = {
    "task_type", "auto_mapping", "peft_version", "revision", "inference_mode", "r", "target_modules",
    "exclude_modules", "lora_dropout", "modules_to_save", "layers_to_transform", "layers_pattern", "rank_pattern",
    "megatron_core", "qalora_group_size", "loftq_config", "eva_config", "corda_config", "lora_ga_config",
    "runtime_config",
}  # fmt: skip
PLAIN = {"bias": "none"}  # other values that mean nothing more
PLAIN_STARTS = (True, False, None, "gaussian", "eva", "orthogonal")  # the others change the base beside the adapter


class AdapterConfig(Foreign):
    """``adapter_config.json``; what is not named here is looked through for options that are more than a sum."""

    peft_type: str = ""
    base_model_name_or_path: str | None = None
    lora_alpha: float = 8  # what peft takes where nothing is said
    use_rslora: bool = False
    alpha_pattern: dict[str, float] | None = None
    init_lora_weights: bool | str | None = True


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
    def folders(self) -> tuple[Path, ...]:
        """Where its files lie, the adapter's first."""
        return (*((self.adapter,) if self.adapter else ()), self.checkpoint.folder)

    def stored(self, name: str) -> Entry:
        """Where the tensor's bytes are: in the checkpoint, or in the adapter that replaces it."""
        return self.replaced.get(name) or self.checkpoint.tensors[name]


def open_weights(source: str | Path, adapter_base: str | Path | None = None) -> Weights:
    """A checkpoint or, when the folder holds ``adapter_config.json``, its base with the adapter on top.

    ``adapter_base`` overrides the base that the adapter names.  Raises :class:`InputError` when a tensor of the
    adapter matches nothing, or when its kind cannot be added to a weight.
    """
    folder = resolve(source)
    if not (folder / ADAPTER_CONFIG).exists():
        return Weights(str(source), open_checkpoint(folder))
    config = read_as(folder / ADAPTER_CONFIG, AdapterConfig)
    check_kind(folder, config)
    base = adapter_base or config.base_model_name_or_path
    if not base:
        raise InputError(f"{folder} does not name its base model; give it with adapter_base (--adapter-base)")
    checkpoint = open_checkpoint(base)
    if not (folder / ADAPTER_WEIGHTS).exists():
        raise InputError(f"{folder} has no {ADAPTER_WEIGHTS}; save the adapter again with safetensors")
    changes, replaced = place_adapter(read_header(folder / ADAPTER_WEIGHTS)[0], config, checkpoint, folder)
    return Weights(str(source), checkpoint, changes, replaced, folder)


def check_kind(folder: Path, config: AdapterConfig) -> None:
    """Raises :class:`InputError` unless the adapter is LoRA and nothing but a sum."""
    if not config.peft_type:
        raise InputError(f"{folder}: no adapter of peft (an MLX one?); convert it, or fuse it into the model first")
    if config.peft_type != "LORA":
        raise InputError(
            f"{folder} is a {config.peft_type} adapter; only LoRA can be scaled: merge it with peft first"
        )
    options = dict(config.model_extra or {})
    if config.init_lora_weights not in PLAIN_STARTS:
        options["init_lora_weights"] = config.init_lora_weights
    for option, value in options.items():
        if option not in HARMLESS and value and value != PLAIN.get(option):
            raise InputError(f"{folder}: {option}={quoted(value)} is more than W + s B A; merge it with peft first")
    for pattern in config.alpha_pattern or {}:
        try:
            re.compile(pattern)
        except re.error as error:
            raise InputError(f"{folder}: alpha_pattern {quoted(pattern)} is no pattern ({error})") from None


def scale_of(module: str, rank: int, config: AdapterConfig) -> float:
    """peft's scale of one module: alpha / r, or alpha / sqrt(r) when rank-stabilised; ``alpha_pattern`` wins."""
    patterns = config.alpha_pattern or {}
    key = next((key for key in patterns if re.match(rf"(.*\.)?({key})$", module)), None)
    alpha = config.lora_alpha if key is None else patterns[key]
    return alpha / (math.sqrt(rank) if config.use_rslora else rank)


def place_adapter(
    entries: list[Entry], config: AdapterConfig, checkpoint: Checkpoint, folder: Path
) -> tuple[dict[str, LowRank], dict[str, Entry]]:
    """Stored names of the base -> low-rank change, and -> replacement, from the tensors of an adapter."""
    finder = Finder(checkpoint)
    pairs: dict[tuple[str, str, bool], dict[str, Entry]] = {}
    replaced: dict[str, Entry] = {}
    for entry in entries:
        name = entry.name.removeprefix("base_model.model.").replace(".base_layer.", ".")
        low_rank = re.fullmatch(r"(.+)\.lora_(embedding_)?([AB])(\.weight)?", name)
        key = f"{low_rank[1]}.weight" if low_rank else name
        found = finder.find(key)
        if found is None:
            tied = key.endswith(HEAD) and "; its base ties the head to the embedding: merge it with peft first"
            near = tied or did_you_mean(key, checkpoint.tensors)
            raise InputError(f"{folder}: {entry.name} matches no tensor of {checkpoint.folder}{near}")
        stored = checkpoint.tensors[found]
        if low_rank:
            pairs.setdefault((found, low_rank[1], bool(low_rank[2])), {})[low_rank[3]] = entry
        elif entry.shape != stored.shape:
            shapes = f"{list(entry.shape)}, its base {list(stored.shape)}"
            raise InputError(f"{folder}: {entry.name} is {shapes}; merge it with peft first")
        else:
            replaced[found] = entry
    changes = {}
    for (found, module, embedding), pair in pairs.items():
        shape = checkpoint.tensors[found].shape
        if len(shape) != 2:
            raise InputError(f"{folder}: {found} is no matrix (a convolution?); merge the adapter with peft first")
        if set(pair) != {"A", "B"} or len(pair["A"].shape) != 2:
            raise InputError(f"{folder}: the LoRA pair of {found} is incomplete; save the adapter again")
        down, up = pair["A"], pair["B"]
        rank = down.shape[0]
        wanted = ((rank, shape[0]), (shape[1], rank)) if embedding else ((rank, shape[1]), (shape[0], rank))
        if (down.shape, up.shape) != wanted or not rank:
            raise InputError(
                f"{folder}: the LoRA pair of {found} is {down.shape}, {up.shape}, which does not give {shape}"
            )
        for entry in (down, up):
            if entry.dtype not in FLOATS:
                raise InputError(f"{entry.file}: {entry.name} is {entry.dtype}; only float adapters can be added")
        changes[found] = LowRank(down, up, scale_of(module, rank, config), embedding)
    return changes, replaced


class Reader:
    """Reads blocks of one model's tensors as float32; one per worker, which keeps the last adapter pair it formed."""

    def __init__(self, weights: Weights):
        self.weights = weights
        self._pair: tuple[str, np.ndarray, np.ndarray] | None = None

    def floats(self, name: str, start: int, stop: int) -> np.ndarray:
        """Elements ``start`` to ``stop`` of the tuned weight [stop - start] float32."""
        values = read_floats(self.weights.stored(name), start, stop)
        if name in self.weights.changes:
            values = values + self._low_rank(name, start, stop)
        return values

    def _low_rank(self, name: str, start: int, stop: int) -> np.ndarray:
        """Elements ``start`` to ``stop`` of ``scale B A``; only the rows touched are formed."""
        change = self.weights.changes[name]
        if self._pair is None or self._pair[0] != name:
            down, up = (read_floats(e, 0, e.count).reshape(e.shape) for e in (change.down, change.up))
            left, right = (down.T, up.T) if change.embedding else (up, down)
            self._pair = (name, left * np.float32(change.scale), right)
        _, left, right = self._pair  # [out, r], [r, in]
        columns = right.shape[1]
        first, last = start // columns, -(-stop // columns)
        rows = left[first:last] @ right  # [rows, in]
        return rows.reshape(-1)[start - first * columns : stop - first * columns]
