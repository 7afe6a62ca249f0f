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
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np
import torch
from filelock import FileLock
from transformers import LlavaForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutputWithPooling

from textreg.data.images import BLANK, ImageTable
from textreg.errors import InputError, RunError
from textreg.vlm.chat import IMAGE_TOKEN
from textreg.vlm.loading import has_class_token

if TYPE_CHECKING:
    from PIL.Image import Image
    from transformers import PreTrainedModel

IN_MEMORY = 2**30
OF_TOKENS = ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids")


class Features(Protocol):
    """A source of tower inputs or outputs for a batch, in the order of the ids; ``runs_tower`` says which."""

    runs_tower: bool

    def words(self, image_id: str) -> str:
        """What stands in the prompt where the picture is: its placeholder once per image token, and what frames it."""
        ...

    def aligned(self, ids: "torch.Tensor") -> dict[str, "torch.Tensor"]:
        """What the model wants to know of each token of a batch with pictures, shaped like ``ids`` [rows, tokens]."""
        ...

    def fetch(self, image_ids: Sequence[str]) -> dict[str, "torch.Tensor"]:
        """``image_features`` [images, tokens, width] or ``pixels`` [images, 3, side, side] of a LLaVA; of a published
        model what its processor gives beside the words.
        """
        ...


@dataclass(frozen=True)
class Pixels:
    """Decodes and preprocesses on every call, in loader workers if there are any; the tower runs in the step."""

    image_processor: Any
    images: ImageTable
    tokens: int
    runs_tower: ClassVar[bool] = True

    def words(self, image_id: str) -> str:
        """The placeholder, once per image token."""
        return IMAGE_TOKEN * self.tokens

    def aligned(self, ids: "torch.Tensor") -> dict[str, "torch.Tensor"]:
        """Nothing: a LLaVA finds its placeholders by their id."""
        return {}

    def fetch(self, image_ids: Sequence[str]) -> dict[str, "torch.Tensor"]:
        """``pixels`` float32 [images, 3, side, side]."""
        return {"pixels": pixels(self.image_processor, [self.images.image(image_id) for image_id in image_ids])}


@dataclass(frozen=True)
class Kept:
    """Features computed before: ``array`` [unique images, tokens, width] in memory or memory-mapped."""

    array: np.ndarray
    rows: dict[str, int]
    tokens: int
    bf16: bool = False
    runs_tower: ClassVar[bool] = False
    words, aligned = Pixels.words, Pixels.aligned

    def fetch(self, image_ids: Sequence[str]) -> dict[str, "torch.Tensor"]:
        """``image_features`` [images, tokens, width], float32 or bfloat16 as kept."""

        try:
            rows = [self.rows[image_id] for image_id in image_ids]
        except KeyError as error:
            raise InputError(f"image {error} has no kept features: open them with all ids that are used") from None
        chosen = torch.from_numpy(np.ascontiguousarray(self.array[rows]))
        return {"image_features": chosen.view(torch.bfloat16) if self.bf16 else chosen}


@dataclass(frozen=True)
class Published:
    """Pictures as the processor of a published model prepares them, whatever its family; the tower runs in the step.

    What stands for a picture depends on its size alone, and is found once per size.
    """

    processor: Any
    images: ImageTable
    by_size: dict[tuple[int, int], str] = field(default_factory=dict)
    runs_tower: ClassVar[bool] = True

    def words(self, image_id: str) -> str:
        """The processor's own replacement of its placeholder."""
        picture = self.images.image(image_id)
        if picture.size not in self.by_size:
            told = self._processed([picture], return_text_replacement_offsets=True)["text_replacement_offsets"]
            self.by_size[picture.size] = told[0][0]["replacement"]
        return self.by_size[picture.size]

    def aligned(self, ids: "torch.Tensor") -> dict[str, "torch.Tensor"]:
        """The kind of each token, where the family wants it, under the family's name for it."""
        if not self.processor.return_mm_token_type_ids:
            return {}
        name = "mm_token_type_ids" if "mm_token_type_ids" in self.processor.model_input_names else "token_type_ids"
        return {name: torch.tensor(self.processor.create_mm_token_type_ids(ids.tolist()))}

    def fetch(self, image_ids: Sequence[str]) -> dict[str, "torch.Tensor"]:
        """What the processor gives beside ids and mask: pixels, their grids and masks."""
        given = self._processed([self.images.image(image_id) for image_id in image_ids], return_tensors="pt")
        return {name: tensor for name, tensor in given.items() if name not in OF_TOKENS}

    def _processed(self, pictures: Sequence["Image"], **options: Any) -> Mapping[str, Any]:
        words = [self.processor.image_token] * len(pictures)
        return self.processor(images=[[one] for one in pictures], text=words, padding=True, **options)


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
    if not is_llava(model):
        return Published(processor, images)
    tokens = feature_shape(model)[0]
    if not cache:
        return Pixels(processor.image_processor, images, tokens)
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
        return Pixels(processor.image_processor, images, tokens)
    chosen = [first[digest] for digest in unique]
    if folder is None:
        array = _compute(model, processor, images, chosen, np.empty(shape, dtype), batch_size)
        return Kept(array, rows, tokens, bf16)

    key = hashlib.sha256(json.dumps([tower_identity(model), unique, shape, dtype.str]).encode()).hexdigest()[:16]
    path = Path(folder) / f"features-{key}.npy"
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        if not path.exists():
            _write(model, processor, images, chosen, path, shape, dtype, batch_size)
    return Kept(np.load(path, mmap_mode="r"), rows, tokens, bf16)


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


def model_inputs(model: "PreTrainedModel", fetched: Mapping[str, "torch.Tensor"]) -> dict[str, Any]:
    """Arguments of ``model.model`` that show it the pictures, from what :class:`Features` fetched; none without.

    Into a LLaVA they go behind its projector, into which gradients flow; any other model sees what its processor made
    of them.
    """
    if not fetched:
        return {}
    if (seen := projected(model, fetched)) is not None:
        return {"mm_encoder_outputs": seen}
    return {
        name: tensor.to(model.device, model.dtype if tensor.is_floating_point() else None)
        for name, tensor in fetched.items()
    }


def projected(model: "PreTrainedModel", fetched: Mapping[str, "torch.Tensor"]) -> dict[str, Any] | None:
    """``mm_encoder_outputs`` of a LLaVA from kept features or pixels, on the projector's device; None of neither."""
    features = fetched.get("image_features")
    if features is None and "pixels" in fetched:
        features = tower_features(model, fetched["pixels"])
    if features is None:
        return None
    projector = model.model.multi_modal_projector
    parameter = next(projector.parameters())
    out = projector(features.to(parameter.device, parameter.dtype))  # [images, tokens, hidden]
    return {"image": BaseModelOutputWithPooling(pooler_output=list(out))}


def is_llava(model: "PreTrainedModel") -> bool:
    """Whether the model is a LLaVA, whose parts are known here; of other families only the processor knows."""
    return isinstance(model, LlavaForConditionalGeneration)


def trains_projector(model: "PreTrainedModel") -> bool:
    """Whether a projector learns: that of a LLaVA put together here does, that of a published model is frozen."""
    return is_llava(model) and any(each.requires_grad for each in model.model.multi_modal_projector.parameters())
