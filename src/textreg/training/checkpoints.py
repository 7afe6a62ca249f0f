"""Training checkpoints that are whole or absent, and the decision whether one may be resumed.

A checkpoint is built in a staging folder and renamed into place; the two newest are kept.  It holds the trained
weights as safetensors, the optimizer, schedule and random states as the Trainer writes them (read back with
``weights_only``), and an inventory of these files: one that lacks a file, or of which a file was damaged, is passed
over.  A ``plan.json`` beside them names what is being trained, on which rows in which order: a checkpoint
of another plan is never continued.  Example: ``latest(Path("runs/laptop/tune/TR/checkpoints"))``.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

from textreg.errors import RunError
from textreg.files import sha256, write_json

if TYPE_CHECKING:
    from torch import nn

    from textreg.settings import Training
    from textreg.training.batches import Sample

WEIGHTS = "model.safetensors"
STAGING = "staging"
PLAN = "plan.json"
GATHERED = "gathered"
INVENTORY = "inventory.json"
KEPT = 2
NOT_RESULTS = ("run", "threads", "workers", "log_steps", "checkpoint_steps")


def staging(folder: Path) -> Path:
    """Where a checkpoint is being written."""
    return folder / STAGING


def publish(folder: Path) -> None:
    """Move finished checkpoints out of the staging folder and drop all but the newest two.

    Each is listed and brought to the disk before it gets its name, so that after a power cut too, what has the name is
    whole or found not to be.
    """
    for found in sorted(staging(folder).glob("checkpoint-*")):
        write_json(found / INVENTORY, {name: [size, sha256(found / name)] for name, size in _sizes(found).items()})
        for path in (*(found / name for name in _sizes(found)), found):
            _to_disk(path)
        shutil.rmtree(folder / found.name, ignore_errors=True)
        found.rename(folder / found.name)
        _to_disk(folder)
    for old in _all(folder)[:-KEPT]:
        shutil.rmtree(old)


def _sizes(checkpoint: Path) -> dict[str, int]:
    """Relative name -> bytes of every file of a checkpoint but its inventory."""
    files = (path for path in sorted(checkpoint.rglob("*")) if path.is_file() and path.name != INVENTORY)
    return {path.relative_to(checkpoint).as_posix(): path.stat().st_size for path in files}


def _to_disk(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _all(folder: Path) -> list[Path]:
    found = (path for path in folder.glob("checkpoint-*") if path.name.rpartition("-")[2].isdecimal())
    return sorted(found, key=step_of)


def step_of(checkpoint: Path | None) -> int:
    """Optimizer steps done in a checkpoint; 0 for none."""
    return int(checkpoint.name.rpartition("-")[2]) if checkpoint else 0


def latest(folder: Path) -> Path | None:
    """The newest checkpoint of which every file is there in its size."""
    return next((found for found in reversed(_all(folder)) if damage(found, contents=False) is None), None)


def damage(checkpoint: Path, *, contents: bool = True) -> str | None:
    """What is wrong with a checkpoint, in a few words naming the file; None when it is whole.

    Weights, optimizer, schedule, random states and the Trainer's state are all needed: the Trainer goes on without a
    missing one, to another result.  ``contents``: compare hashes too, not only names and sizes.
    """
    try:
        inventory = json.loads((checkpoint / INVENTORY).read_text(encoding="utf-8"))
        recorded = {str(name): (int(size), str(value)) for name, (size, value) in inventory.items()}
    except FileNotFoundError:
        return f"{INVENTORY} is missing"
    except (OSError, ValueError, TypeError, AttributeError):
        return f"{INVENTORY} is damaged"
    if WEIGHTS not in recorded:
        return f"{INVENTORY} does not list {WEIGHTS}"
    for name, (size, value) in recorded.items():
        try:
            if (checkpoint / name).stat().st_size != size:
                return f"{name} is cut short or changed"
            if contents and sha256(checkpoint / name) != value:
                return f"{name} is damaged"
        except OSError:
            return f"{name} is missing or cannot be read"
    return None


def plan_key(learner: "nn.Module", settings: "Training", samples: Sequence["Sample"], order: np.ndarray) -> str:
    """A hash of everything that decides the outcome: settings, initial trained weights, rows, their order."""

    digest = hashlib.sha256()
    said = {name: value for name, value in asdict(settings).items() if name not in NOT_RESULTS}
    digest.update(json.dumps(said, sort_keys=True).encode())
    for name, parameter in learner.named_parameters():
        if parameter.requires_grad:
            digest.update(name.encode())
            digest.update(parameter.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    for sample in samples:
        digest.update(sample.ids.tobytes() + sample.labels.tobytes() + str(sample.image_id).encode())
    digest.update(np.ascontiguousarray(order).tobytes())
    return digest.hexdigest()


def resumable(folder: Path, key: str, *, writes: bool = True) -> Path | None:
    """The checkpoint to go on from, if the folder belongs to the plan ``key``; anything else there is discarded.

    Of several processes only the first ``writes``; the others come to the same answer whether they look before or
    after.
    """
    plan = folder / PLAN
    if _plan_of(plan) == key:
        if writes:
            shutil.rmtree(staging(folder), ignore_errors=True)
        return _whole(folder, tell=writes)
    if not writes:
        return None
    if (other := latest(folder)) is not None:
        print(f"{other}: of a training with other settings or rows, discarded; the training begins anew")
    discard(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(plan, {"plan": key})
    return None


def _whole(folder: Path, *, tell: bool) -> Path | None:
    """The newest checkpoint without damage; a damaged one is named, and an older one serves in its place."""
    for found in reversed(_all(folder)):
        problem = damage(found)
        if problem is None:
            return found
        if tell:
            print(f"{found.name} is damaged ({problem}): the training goes on from an older one, or anew")
    return None


def _plan_of(plan: Path) -> str | None:
    try:
        return str(json.loads(plan.read_text(encoding="utf-8"))["plan"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def discard(folder: Path) -> None:
    """Remove the checkpoints of a training that is complete, or of another plan."""
    shutil.rmtree(folder, ignore_errors=True)


def save_trained(learner: "nn.Module", folder: Path, state: "dict[str, torch.Tensor] | None" = None) -> None:
    """Write the trainable parameters, by name; ``state`` is a gathered state dict where the model is sharded."""
    parameters = {name: parameter for name, parameter in learner.named_parameters() if parameter.requires_grad}
    chosen = parameters if state is None else {name: state[name] for name in parameters}
    write_weights(chosen, folder)


def write_weights(weights: "Mapping[str, torch.Tensor]", folder: Path) -> None:
    """Write tensors by name, where :func:`load_trained` finds them."""

    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}, folder / WEIGHTS)


def gathered(sharded: "nn.Module", names: Collection[str]) -> "dict[str, torch.Tensor]":
    """The parameters ``names`` of a model whose processes share it out (FSDP 1 or 2), whole.

    Every process must call; the first has them afterwards, on the CPU, the others an empty dict.
    """

    options = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True)
    state = get_model_state_dict(sharded, options=options)
    return {name: state[name] for name in names if name in state}  # a tied head comes along, though it is frozen


def load_trained(learner: "nn.Module", folder: Path) -> None:
    """Put the trained weights of a checkpoint back, in place.

    Raises:
        RunError: the checkpoint is damaged or names other parameters.
    """

    try:
        state = load_file(folder / WEIGHTS)
    except (SafetensorError, OSError) as error:
        raise RunError(
            f"{folder.name} is damaged ({error}): delete {folder.parent} to start the training anew"
        ) from None
    parameters = {name: parameter for name, parameter in learner.named_parameters() if parameter.requires_grad}
    if state.keys() != parameters.keys():
        raise RunError(f"{folder.name} holds other weights than this training: delete {folder.parent} to start anew")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(state[name])
