"""Models, towers, tokenizers and image processors from a hub id, a folder, or the package itself.

Every name first becomes a folder (:mod:`textreg.data.hub`), and what is wrong inside it, damaged weights or a tower
with another tower's image processor, ends in one line that names the cure.  safetensors only, no remote code; a model
with a missing weight is refused instead of being completed with random numbers.  Image processors are the Pillow ones:
torchvision is never needed.  Example: ``load_tokenizer(source("shipped", "llm"))``.
"""

import importlib.util
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
import transformers
from safetensors import SafetensorError
from transformers import AutoConfig, AutoTokenizer, BitsAndBytesConfig
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil
from transformers.utils import logging

from textreg import ranks
from textreg.compute import DTYPES
from textreg.data import hub
from textreg.errors import InputError, RunError, did_you_mean
from textreg.micro import assets
from textreg.pictures.tower import LiteConfig, LiteTower
from textreg.vlm.chat import IMAGE_TOKEN, accept_both_styles, settled

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

WEIGHTS = assets.WEIGHTS


def source(name: str, role: str, revision: str | None = None) -> str:
    """The folder of a model: the package's own for ``shipped`` or ``shipped-1``, once it is found whole, else what
    :mod:`textreg.data.hub` makes of it.

    Raises:
        InputError: it is missing, gated, out of reach or has no safetensors; ``role`` says what it was wanted for.
    """
    if not assets.is_shipped(name):
        try:
            return str(hub.resolve(name, kind="model", revision=revision))
        except InputError as error:
            raise InputError(f"{role}={error}") from error.__cause__
    if role not in ("llm", "tower"):
        raise InputError(f"{role}={name}: the package ships an llm and a tower only; give a folder or a hub id")
    if not (WEIGHTS / name).is_dir():
        known = [path.name for path in WEIGHTS.iterdir()]
        raise InputError(f"{role}={name}: no such backbone is shipped{did_you_mean(name, known)}")
    assets.check(WEIGHTS / name)
    return str(WEIGHTS / name / role)


@contextmanager
def no_bars() -> Iterator[None]:
    """Without transformers' bars over every file: what is slow has its own line in our logs."""

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def reading(place: str, role: str, load: Any, **options: Any) -> Any:
    """Call a ``from_pretrained`` on a folder and turn what goes wrong into one line with the cure."""

    try:
        with no_bars():
            return load(place, **options)
    except SafetensorError as error:
        raise InputError(f"{role}={place}: damaged weights ({error}): download or build them again") from None
    except (OSError, ValueError) as error:
        first = str(error).strip().splitlines()[0]
        raise InputError(f"{role}={place}: not a complete {role} ({first}): download or save it again") from None


def own(device: str) -> str:
    """``device`` with the number of this process's GPU: a loader of files takes ``cuda`` for the first one."""

    return device if device == "cpu" or ranks.local() is None else f"{device}:{ranks.local()}"


@contextmanager
def room(place: str) -> Iterator[None]:
    """Turn a full GPU, met while weights are put there, into one line with the cure."""

    try:
        yield
    except torch.cuda.OutOfMemoryError:
        raise RunError(
            f"{place}: its weights do not fit into the GPU's free memory: close what else runs on the GPU, "
            "set precision=4bit or bf16, or take a smaller model"
        ) from None


def load_model(
    auto: str, place: str, precision: str, device: str, *, keep: Sequence[str] | None = None
) -> "PreTrainedModel":
    """``from_pretrained`` of one model with no missing and no unexpected weights allowed; safetensors only.

    ``keep``: names of modules whose weights stay in bf16 at ``4bit`` (default: the head).

    Raises:
        InputError: it is damaged, or its weights do not fit its config.
        RunError: it does not fit into the GPU.
    """

    options: dict[str, Any] = {"dtype": torch_dtype(precision), "use_safetensors": True}
    if precision == "4bit":
        options |= {"quantization_config": four_bits(keep), "device_map": {"": own(device)}}
    loader = getattr(transformers, auto).from_pretrained
    with room(place):
        model, report = reading(place, "model", loader, output_loading_info=True, trust_remote_code=False, **options)
    if report["missing_keys"] or report["mismatched_keys"]:
        name = sorted(str(key) for key in [*report["missing_keys"], *report["mismatched_keys"]])[0]
        raise InputError(
            f"{place}: its weights do not fit its config (first: {name}): it is incomplete or not a {auto}"
        )
    if precision != "4bit":
        with room(place):
            model = model.to(device)
    return model


def load_tower(place: str, precision: str, device: str) -> tuple["PreTrainedModel", Any]:
    """A SigLIP, CLIP or EfficientNet-Lite tower (alone, or out of a two-sided checkpoint) and its image processor."""

    config = reading(place, "tower", AutoConfig.from_pretrained)
    kind = config.model_type.removesuffix("_vision_model")
    classes = {
        "siglip": transformers.SiglipVisionModel,
        "clip": transformers.CLIPVisionModel,
        LiteConfig.model_type: LiteTower,
    }
    if kind not in classes:
        raise InputError(
            f"tower={place}: model type {config.model_type!r} is not supported (known: {', '.join(classes)})"
        )
    loader = classes[kind].from_pretrained
    tower, report = reading(
        place,
        "tower",
        loader,
        dtype=torch_dtype(precision),
        use_safetensors=True,
        output_loading_info=True,
    )
    if report["missing_keys"]:
        raise InputError(f"tower={place}: weights are missing (first: {sorted(report['missing_keys'])[0]})")
    with room(place):
        tower = tower.requires_grad_(False).to(device)
    return tower, load_image_processor(place, tower)


def load_image_processor(place: str, tower: "PreTrainedModel") -> Any:
    """The Pillow image processor beside a tower, refused when its output size is not the tower's input size."""

    loader = CLIPImageProcessorPil if has_class_token(tower) else SiglipImageProcessorPil
    processor = reading(place, "tower", loader.from_pretrained)
    wanted = tower.config.image_size
    size = processor.crop_size if getattr(processor, "do_center_crop", False) else processor.size
    given = (size.height, size.width)
    if given != (wanted, wanted):
        raise InputError(
            f"tower={place}: its image processor gives {given[0]}x{given[1]}, the tower takes {wanted}x{wanted}: "
            "use the preprocessor_config.json that belongs to the tower"
        )
    return processor


def load_tokenizer(place: str) -> "PreTrainedTokenizerBase":
    """The tokenizer with the image token, a pad token and a chat template that takes both styles of content."""

    tokenizer = reading(place, "llm", AutoTokenizer.from_pretrained, trust_remote_code=False)
    if not tokenizer.chat_template:
        raise InputError(f"llm={place}: its tokenizer has no chat template: choose an instruction-tuned model")
    if tokenizer.eos_token_id is None:
        raise InputError(f"llm={place}: its tokenizer has no end token: set eos_token in its tokenizer_config.json")
    if tokenizer.pad_token_id is None:
        # Harmless here: pads are never scored and always masked, and the end of a turn keeps its own label.
        tokenizer.pad_token = tokenizer.eos_token
    known = tokenizer.get_vocab()
    if IMAGE_TOKEN not in known or IMAGE_TOKEN not in tokenizer.all_special_tokens:
        tokenizer.add_special_tokens({"extra_special_tokens": [IMAGE_TOKEN]}, replace_extra_special_tokens=False)
    tokenizer.chat_template = accept_both_styles(settled(tokenizer.chat_template))
    # The template alone decides what begins a prompt; a processor would put the tokenizer's own begin in front.
    if tokenizer("a")["input_ids"] != tokenizer("a", add_special_tokens=False)["input_ids"]:
        tokenizer.add_bos_token = tokenizer.add_eos_token = False
    return tokenizer


def torch_dtype(precision: str) -> "torch.dtype":
    """``fp32`` -> float32; ``bf16`` and ``4bit`` -> bfloat16."""

    return getattr(torch, DTYPES[precision])


def four_bits(keep: Sequence[str] | None = None) -> Any:
    """NF4 weights with bf16 arithmetic (QLoRA, Dettmers et al. 2023); needs the extra ``textreg[gpu]``."""

    if importlib.util.find_spec("bitsandbytes") is None:
        raise InputError("precision=4bit needs bitsandbytes: pip install 'textreg[gpu]'")
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=torch.bfloat16,
        bnb_4bit_use_double_quant=True,
        llm_int8_skip_modules=None if keep is None else list(keep),
    )


def has_class_token(tower: "PreTrainedModel") -> bool:
    """Whether the tower puts a class token in front of its patches (CLIP does, SigLIP does not)."""
    return tower.config.model_type.startswith("clip")
