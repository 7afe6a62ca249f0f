"""Images and the features of the frozen vision tower, computed once or on the fly.

A frozen tower gives the same features for an image in every epoch, arm and seed, so they can be kept.  The choices
that are not obvious: what is kept is ``hidden_states[vision_feature_layer]`` *before* the projector, which is trained
and runs on every batch (and not ``last_hidden_state``, which differs by the tower's last normalisation); the file is
keyed by the hashes of the images and of the tower's weights, its layer and its size, so a stale cache cannot be read;
both kinds of source go into the model through the same door, ``mm_encoder_outputs`` (transformers >= 5.18).

    >>> features = open_features(model, processor, ImageTable.read("prepare_data/images.parquet"), "features")
"""

import hashlib
import json
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np
import torch
from filelock import FileLock
from transformers.modeling_outputs import BaseModelOutputWithPooling

from textreg.data.images import BLANK, ImageTable
from textreg.errors import InputError, RunError
from textreg.vlm.loading import has_class_token

if TYPE_CHECKING:
    from PIL.Image import Image
    from transformers import PreTrainedModel

IN_MEMORY = 2**30


class Features(Protocol):
    """A source of tower inputs or outputs for a batch, in the order of the ids; ``runs_tower`` says which."""

    runs_tower: bool

    def fetch(self, image_ids: Sequence[str]) -> dict[str, "torch.Tensor"]:
        """``image_features`` [images, tokens, width] or ``pixel_values`` [images, 3, side, side]."""
        ...


@dataclass(frozen=True)
class Pixels:
    """Decodes and preprocesses on every call, in loader workers if there are any; the tower runs in the step."""

    image_processor: Any
    images: ImageTable
    runs_tower: ClassVar[bool] = True

    def fetch(self, image_ids: Sequence[str]) -> dict[str, "torch.Tensor"]:
        """``pixel_values`` float32 [images, 3, side, side]."""
        return {"pixel_values": pixels(self.image_processor, [self.images.image(image_id) for image_id in image_ids])}


@dataclass(frozen=True)
class Kept:
    """Features computed before: ``array`` [unique images, tokens, width] in memory or memory-mapped."""

    array: np.ndarray
    rows: dict[str, int]
    bf16: bool = False
    runs_tower: ClassVar[bool] = False

    def fetch(self, image_ids: Sequence[str]) -> dict[str, "torch.Tensor"]:
        """``image_features`` [images, tokens, width], float32 or bfloat16 as kept."""

        try:
            rows = [self.rows[image_id] for image_id in image_ids]
        except KeyError as error:
            raise InputError(f"image {error} has no kept features: open them with all ids that are used") from None
        chosen = torch.from_numpy(np.ascontiguousarray(self.array[rows]))
        return {"image_features": chosen.view(torch.bfloat16) if self.bf16 else chosen}


def open_features(
    model: "PreTrainedModel",
    processor: Any,
    images: ImageTable,
    folder: str | Path | None = None,
    *,
    ids: Iterable[str] | None = None,
    cache: bool = True,
    batch_size: int = 128,
) -> Features:
    """Features of the model's frozen tower for ``ids`` (default: every image of the table), and for the blank image.

    With ``cache`` they are computed now, in the tower's number format, and kept in memory or, given a ``folder``, in a
    memory-mapped file there that later calls with the same images and tower reuse; the size is printed before.
    Without, or for more than 1 GiB without a folder, the tower runs on every batch.  Missing ids among ``ids`` (of
    text-only rows) are passed over.
    """
    if not cache:
        return Pixels(processor.image_processor, images)
    given = images.ids if ids is None else [image_id for image_id in ids if isinstance(image_id, str)]
    wanted = list(dict.fromkeys([*given, BLANK]))
    digests = {image_id: hashlib.sha256(images.data(image_id)).hexdigest() for image_id in wanted}
    unique = list(dict.fromkeys(digests.values()))
    place = {digest: row for row, digest in enumerate(unique)}
    first = {digests[image_id]: image_id for image_id in reversed(wanted)}
    shape = (len(unique), *feature_shape(model))
    bf16 = next(model.model.vision_tower.parameters()).element_size() == 2
    dtype = np.dtype(np.uint16 if bf16 else np.float32)
    size = int(np.prod(shape)) * dtype.itemsize
    rows = {image_id: place[digest] for image_id, digest in digests.items()}
    if folder is None and size > IN_MEMORY:
        return Pixels(processor.image_processor, images)
    if folder is None:
        return Kept(
            _compute(
                model, processor, images, [first[digest] for digest in unique], np.empty(shape, dtype), batch_size
            ),
            rows,
            bf16,
        )

    key = hashlib.sha256(json.dumps([tower_identity(model), unique, shape, dtype.str]).encode()).hexdigest()[:16]
    path = Path(folder) / f"features-{key}.npy"
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        if not path.exists():
            _write(model, processor, images, [first[digest] for digest in unique], path, shape, dtype, batch_size)
    return Kept(np.load(path, mmap_mode="r"), rows, bf16)


def _write(
    model: "PreTrainedModel",
    processor: Any,
    images: ImageTable,
    ids: list[str],
    path: Path,
    shape: tuple[int, ...],
    dtype: np.dtype,
    batch_size: int,
) -> None:
    size = int(np.prod(shape)) * dtype.itemsize
    print(f"features: {len(ids)} images, {size / 2**20:.1f} MiB at {path.name}")
    require_space(path.parent, size)
    partial = path.with_suffix(".partial")
    array = np.lib.format.open_memmap(partial, "w+", dtype, shape)
    _compute(model, processor, images, ids, array, batch_size)
    array.flush()
    partial.replace(path)


def require_space(folder: Path, size: int) -> None:
    """Refuse, before the work, what the disk cannot hold."""

    free = shutil.disk_usage(folder).free
    if free < size * 1.05:
        raise InputError(
            f"{folder}: kept features need {size / 2**30:.1f} GiB, {free / 2**30:.1f} GiB are free: "
            "set cache_features=false"
        )


def _compute(
    model: "PreTrainedModel", processor: Any, images: ImageTable, ids: list[str], array: np.ndarray, batch_size: int
) -> np.ndarray:
    """Fill ``array``; where a batch does not fit into the GPU, it and all later ones are halved until they do."""

    start = 0
    while start < len(ids):
        pictures = [images.image(image_id) for image_id in ids[start : start + batch_size]]
        try:
            found = tower_features(model, pixels(processor.image_processor, pictures)).cpu()
        except torch.cuda.OutOfMemoryError:
            if len(pictures) == 1:
                raise RunError(
                    "the GPU ran out of memory over the features of one picture: close what else runs on it, "
                    "set precision=bf16, or take a smaller tower"
                ) from None
            batch_size = len(pictures) // 2
            continue
        kept = (found.view(torch.uint16) if found.element_size() == 2 else found).numpy()
        array[start : start + len(pictures)] = kept
        start += len(pictures)
    return array


def pixels(image_processor: Any, pictures: list["Image"]) -> "torch.Tensor":
    """float32 [pictures, 3, side, side] as the tower was trained on."""
    return image_processor(pictures, return_tensors="pt")["pixel_values"]


def tower_features(model: "PreTrainedModel", pixel_values: "torch.Tensor") -> "torch.Tensor":
    """The hidden states the projector reads, [images, tokens, width], without gradient.

    Equal to what the model computes from ``pixel_values`` itself, before its projector.
    """

    config, tower = model.config, model.model.vision_tower
    parameter = next(tower.parameters())
    with torch.no_grad():
        states = tower(pixel_values.to(parameter.device, parameter.dtype), output_hidden_states=True).hidden_states
    layers = config.vision_feature_layer
    chosen = [states[layer] for layer in ([layers] if isinstance(layers, int) else layers)]
    cut = int(config.vision_feature_select_strategy == "default")
    return torch.cat([state[:, cut:] for state in chosen], dim=-1)


def feature_shape(model: "PreTrainedModel") -> tuple[int, int]:
    """Features per image, and their width, as the projector reads them."""

    config = model.config
    layers = config.vision_feature_layer
    width = config.vision_config.hidden_size * (1 if isinstance(layers, int) else len(layers))
    patches = (config.vision_config.image_size // config.vision_config.patch_size) ** 2
    class_token = int(has_class_token(model.model.vision_tower))
    return patches + class_token - int(config.vision_feature_select_strategy == "default"), width


def image_tokens(model: "PreTrainedModel") -> int:
    """Placeholder tokens one image takes in a prompt: one per feature, and LLaVA-OneVision's end of a line."""
    return feature_shape(model)[0] + int(hasattr(model.model, "image_newline"))


def tower_identity(model: "PreTrainedModel") -> list[Any]:
    """What the features depend on: a hash of the tower's weights, layer, class token rule and picture size."""

    digest = hashlib.sha256()
    for name, tensor in model.model.vision_tower.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    config = model.config
    return [
        digest.hexdigest(),
        config.vision_feature_layer,
        config.vision_feature_select_strategy,
        config.vision_config.image_size,
    ]


def projected(model: "PreTrainedModel", inputs: dict[str, Any]) -> dict[str, Any] | None:
    """``mm_encoder_outputs`` for the model from what :class:`Features` fetched, or None without images.

    Kept features are put on the projector's device; gradients flow into the projector.  LLaVA-OneVision's learnt end
    of a line follows the features of each image.
    """

    features = inputs.get("image_features")
    if features is None and inputs.get("pixel_values") is not None:
        features = tower_features(model, inputs["pixel_values"])
    if features is None:
        return None
    projector = model.model.multi_modal_projector
    parameter = next(projector.parameters())
    out = projector(features.to(parameter.device, parameter.dtype))  # [images, tokens, hidden]
    if hasattr(model.model, "image_newline"):
        ends = model.model.image_newline.to(out).expand(len(out), 1, -1)
        out = torch.cat([out, ends], dim=1)  # [images, tokens + 1, hidden]
    return {"image": BaseModelOutputWithPooling(pooler_output=list(out))}
