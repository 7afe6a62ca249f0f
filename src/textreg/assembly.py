"""A vision-language model from a language model, a vision tower and a fresh projector, or from a published checkpoint.

Both parts come through ``from_pretrained``: a hub id, a folder, or ``shipped`` (the micro backbone in the package).  The
choices that are not obvious: the modules of the loaded parts are moved into a LLaVA built without memory, so nothing is
copied and tied embeddings stay tied; the image token takes a spare row of the embedding when there is one; the tower is read
at its last hidden layer when it has no pooling head (ours was trained there) and one layer earlier otherwise, as LLaVA 1.5
(Liu et al. 2024) and LLaVA-OneVision (Li et al. 2024) do; a tower with a class token drops it (CLIP), one without keeps all
patches (SigLIP).  Image processors are the Pillow ones, so that torchvision is never needed.

    >>> model, processor = assemble("shipped", "shipped", seed=0)
    >>> model, processor = assemble("BSC-LT/salamandra-2b-instruct", "google/siglip-so400m-patch14-384", precision="bf16")
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from textreg.chat import IMAGE_TOKEN, accept_both_styles
from textreg.errors import InputError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, ProcessorMixin

ASSETS = Path(__file__).parent / "assets"
PROJECTOR = "projector.safetensors"


@dataclass(frozen=True)
class Base:
    """What an aligned model is made of; ``vlm`` set means a published model, and ``llm`` and ``tower`` are not used."""

    llm: str = "shipped"
    tower: str = "shipped"
    vlm: str = ""
    seed: int = 0
    revisions: dict[str, str] = field(default_factory=dict)


def assemble(
    llm: str = "shipped",
    tower: str = "shipped",
    *,
    seed: int = 0,
    precision: str = "fp32",
    device: str = "cpu",
    revisions: dict[str, str] | None = None,
) -> tuple["PreTrainedModel", "ProcessorMixin"]:
    """Assemble ``LlavaForConditionalGeneration`` with a two-layer projector drawn from ``seed``.

    The projector is float32 whatever ``precision`` says, because it is trained.  Returns ``(model, processor)``, the model in
    evaluation mode on ``device``.

    Raises:
        InputError: a part that is missing, gated or of an unsupported kind, an image processor whose size is not the tower's,
            a tokenizer without chat template or without any token to pad with.
    """
    import torch
    from transformers import LlavaConfig, LlavaForConditionalGeneration
    from transformers.models.llava.modeling_llava import LlavaMultiModalProjector

    revisions = revisions or {}
    llm_source, tower_source = source(llm, "llm"), source(tower, "tower")
    tokenizer = load_tokenizer(llm_source, revisions.get("llm"))
    language = load_part("AutoModelForCausalLM", llm_source, precision, device, revisions.get("llm"))
    vision, image_processor = load_tower(tower_source, precision, device, revisions.get("tower"))

    image_token_id = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
    rows = language.get_input_embeddings().num_embeddings
    if image_token_id >= rows or len(tokenizer) > rows:
        language.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    strategy, extra = ("default", 1) if has_class_token(vision) else ("full", 0)
    config = LlavaConfig(
        text_config=language.config,
        vision_config=vision.config,
        image_token_index=image_token_id,
        image_seq_length=(vision.config.image_size // vision.config.patch_size) ** 2,
        vision_feature_layer=-2 if getattr(vision.config, "vision_use_head", True) else -1,
        vision_feature_select_strategy=strategy,
        tie_word_embeddings=language.config.tie_word_embeddings,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.device("meta"):
        model = LlavaForConditionalGeneration(config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        projector = LlavaMultiModalProjector(config)
    model.model.language_model = language.get_decoder()
    model.lm_head = language.get_output_embeddings()
    model.model.vision_tower = vision
    model.model.multi_modal_projector = projector.to(device)
    model.generation_config = generation_config(language.generation_config, tokenizer)
    processor = llava_processor(image_processor, tokenizer, config, extra)
    return model.eval(), processor


def load_vlm(
    vlm: str, *, precision: str = "fp32", device: str = "cpu", revision: str | None = None
) -> tuple["PreTrainedModel", "ProcessorMixin"]:
    """Load a published vision-language model (LLaVA 1.5, LLaVA-OneVision) or one that :mod:`textreg.export` wrote.

    Raises:
        InputError: it is missing or gated, has no chat template, or its keys do not match its architecture.
    """
    from transformers import AutoConfig, LlavaProcessor
    from transformers.models.llava_onevision.processing_llava_onevision import LlavaOnevisionProcessor

    place = source(vlm, "vlm")
    config = reading(place, "vlm", AutoConfig.from_pretrained, revision=revision)
    if config.model_type not in ("llava", "llava_onevision"):
        raise InputError(f"vlm={vlm}: model type {config.model_type!r} is not supported (known: llava, llava_onevision)")
    model = load_part("AutoModelForImageTextToText", place, precision, device, revision, projector_fp32=True)
    tokenizer = load_tokenizer(place, revision)
    image_processor = load_image_processor(place, model.model.vision_tower, revision)
    model.generation_config = generation_config(model.generation_config, tokenizer)
    if config.model_type == "llava":
        processor = llava_processor(image_processor, tokenizer, config, int(has_class_token(model.model.vision_tower)))
    else:
        processor = reading(place, "vlm", LlavaOnevisionProcessor.from_pretrained, revision=revision)
        processor.chat_template = tokenizer.chat_template
    assert isinstance(processor, LlavaProcessor | LlavaOnevisionProcessor)
    return model.eval(), processor


def load_base(
    base: Base, *, precision: str = "fp32", device: str = "cpu"
) -> tuple["PreTrainedModel", "ProcessorMixin"]:
    """The model that ``base`` describes, with a fresh projector (or the published one)."""
    if base.vlm:
        return load_vlm(base.vlm, precision=precision, device=device, revision=base.revisions.get("vlm"))
    return assemble(
        base.llm, base.tower, seed=base.seed, precision=precision, device=device, revisions=base.revisions
    )


def save_aligned(model: "PreTrainedModel", folder: str | Path, base: Base) -> None:
    """Write ``base.json`` and ``projector.safetensors``: all that alignment changed, and on top of what."""
    from safetensors.torch import save_file

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    state = model.model.multi_modal_projector.state_dict()
    partial = folder / f"{PROJECTOR}.partial"
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}, partial)
    partial.rename(folder / PROJECTOR)
    (folder / "base.json").write_text(json.dumps(asdict(base), indent=2, sort_keys=True) + "\n", encoding="utf-8")


def load_aligned(
    folder: str | Path, *, precision: str = "fp32", device: str = "cpu"
) -> tuple["PreTrainedModel", "ProcessorMixin"]:
    """The model that :func:`save_aligned` described: the same base, assembled again, with the trained projector.

    Raises:
        InputError: a file of the folder is missing or damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = Path(folder)
    try:
        base = Base(**json.loads((folder / "base.json").read_text(encoding="utf-8")))
        state = load_file(folder / PROJECTOR)
    except FileNotFoundError as error:
        raise InputError(f"{folder}: no {Path(str(error.filename)).name} here: run the stage `align` first") from None
    except (SafetensorError, ValueError, TypeError) as error:
        raise InputError(f"{folder}: damaged ({error}): run the stage `align` again with --force") from None
    model, processor = load_base(base, precision=precision, device=device)
    model.model.multi_modal_projector.load_state_dict(state)
    return model, processor


def source(name: str, role: str) -> str:
    """Resolve ``shipped`` to the folder in the package; a folder or hub id stays as it is."""
    if name != "shipped":
        return name
    folder = ASSETS / role
    if role not in ("llm", "tower") or not (folder / "config.json").is_file():
        raise InputError(f"{role}=shipped: the shipped checkpoint is missing: rebuild it with notebooks/00_backbone.ipynb")
    return str(folder)


def reading(place: str, role: str, load: Any, **options: Any) -> Any:
    """Call a ``from_pretrained`` and turn what goes wrong with a repository or folder into one line with the cure."""
    from huggingface_hub.errors import GatedRepoError, HFValidationError, OfflineModeIsEnabled
    from safetensors import SafetensorError

    try:
        return load(place, **options)
    except GatedRepoError:
        raise InputError(f"{role}={place}: access is gated: accept its terms on the hub and run `hf auth login`") from None
    except OfflineModeIsEnabled:
        raise InputError(f"{role}={place}: not on disk and HF_HUB_OFFLINE is set: unset it, or give a folder") from None
    except SafetensorError as error:
        raise InputError(f"{role}={place}: damaged weights ({error}): download or build them again") from None
    except (OSError, HFValidationError) as error:
        first = str(error).strip().splitlines()[0]
        raise InputError(f"{role}={place}: cannot be read as a folder or hub id ({first})") from None


def load_part(
    auto: str, place: str, precision: str, device: str, revision: str | None, *, projector_fp32: bool = False
) -> "PreTrainedModel":
    """``from_pretrained`` of one model with no missing and no unexpected weights allowed; safetensors only."""
    import transformers

    options: dict[str, Any] = {"dtype": torch_dtype(precision), "use_safetensors": True, "revision": revision}
    if precision == "4bit":
        options |= {"quantization_config": four_bits(), "device_map": {"": device}}
    loader = getattr(transformers, auto).from_pretrained
    model, report = reading(place, "model", loader, output_loading_info=True, trust_remote_code=False, **options)
    if report["missing_keys"] or report["mismatched_keys"]:
        name = sorted(str(key) for key in [*report["missing_keys"], *report["mismatched_keys"]])[0]
        raise InputError(f"{place}: its weights do not fit its config (first: {name}): it is incomplete or not a {auto}")
    if precision != "4bit":
        model = model.to(device)
    if projector_fp32:
        model.model.multi_modal_projector.float()
    return model


def load_tower(place: str, precision: str, device: str, revision: str | None) -> tuple["PreTrainedModel", Any]:
    """A SigLIP or CLIP vision tower (alone, or out of the full two-sided checkpoint) and its image processor."""
    import transformers
    from transformers import AutoConfig

    config = reading(place, "tower", AutoConfig.from_pretrained, revision=revision)
    kind = config.model_type.removesuffix("_vision_model")
    classes = {"siglip": "SiglipVisionModel", "clip": "CLIPVisionModel"}
    if kind not in classes:
        raise InputError(f"tower={place}: model type {config.model_type!r} is not supported (known: siglip, clip)")
    loader = getattr(transformers, classes[kind]).from_pretrained
    tower, report = reading(
        place, "tower", loader, revision=revision, dtype=torch_dtype(precision), use_safetensors=True, output_loading_info=True
    )
    if report["missing_keys"]:
        raise InputError(f"tower={place}: weights are missing (first: {sorted(report['missing_keys'])[0]})")
    return tower.requires_grad_(False).to(device), load_image_processor(place, tower, revision)


def load_image_processor(place: str, tower: "PreTrainedModel", revision: str | None) -> Any:
    """The Pillow image processor beside a tower, refused when its output size is not the tower's input size."""
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    loader = CLIPImageProcessorPil if has_class_token(tower) else SiglipImageProcessorPil
    processor = reading(place, "tower", loader.from_pretrained, revision=revision)
    wanted = tower.config.image_size
    size = processor.crop_size if getattr(processor, "do_center_crop", False) else processor.size
    given = (size.height, size.width)
    if given != (wanted, wanted):
        raise InputError(
            f"tower={place}: its image processor makes {given[0]}x{given[1]} pictures, the tower takes {wanted}x{wanted}: "
            "use the preprocessor_config.json that belongs to the tower"
        )
    return processor


def load_tokenizer(place: str, revision: str | None) -> "PreTrainedTokenizerBase":
    """The tokenizer with the image token, a pad token and a chat template that takes both styles of content."""
    from transformers import AutoTokenizer

    tokenizer = reading(place, "llm", AutoTokenizer.from_pretrained, revision=revision, trust_remote_code=False)
    if not tokenizer.chat_template:
        raise InputError(f"llm={place}: its tokenizer has no chat template: choose an instruction-tuned model")
    if tokenizer.eos_token_id is None:
        raise InputError(f"llm={place}: its tokenizer has no end-of-sequence token: set eos_token in its tokenizer_config.json")
    if tokenizer.pad_token_id is None:
        # Harmless here: pads are never scored, and generation masks them; the end of a turn is still learnt from its own label.
        tokenizer.pad_token = tokenizer.eos_token
    known = tokenizer.get_vocab()
    if IMAGE_TOKEN not in known or IMAGE_TOKEN not in tokenizer.all_special_tokens:
        tokenizer.add_special_tokens({"extra_special_tokens": [IMAGE_TOKEN]}, replace_extra_special_tokens=False)
    tokenizer.chat_template = accept_both_styles(tokenizer.chat_template)
    return tokenizer


def llava_processor(image_processor: Any, tokenizer: Any, config: Any, extra_tokens: int) -> "ProcessorMixin":
    """``LlavaProcessor`` whose count of image tokens agrees with the model's ``config``."""
    from transformers import LlavaProcessor

    return LlavaProcessor(
        image_processor=image_processor,
        tokenizer=tokenizer,
        patch_size=config.vision_config.patch_size,
        vision_feature_select_strategy=config.vision_feature_select_strategy,
        num_additional_image_tokens=extra_tokens,
        chat_template=tokenizer.chat_template,
        image_token=IMAGE_TOKEN,
    )


def generation_config(config: Any, tokenizer: Any) -> Any:
    """Greedy decoding, and every token that ends a turn: the tokenizer's and those the language model declared."""
    declared = getattr(config, "eos_token_id", None)
    ends = {tokenizer.eos_token_id, *([declared] if isinstance(declared, int) else declared or [])}
    config.eos_token_id, config.pad_token_id = sorted(ends), tokenizer.pad_token_id
    config.do_sample, config.temperature, config.top_p, config.top_k = False, None, None, None
    return config


def has_class_token(tower: "PreTrainedModel") -> bool:
    """Whether the tower puts a class token in front of its patches (CLIP does, SigLIP does not)."""
    return tower.config.model_type.startswith("clip")


def image_tokens(model: "PreTrainedModel") -> int:
    """Number of placeholder tokens one image takes in the prompt."""
    config = model.config
    patches = (config.vision_config.image_size // config.vision_config.patch_size) ** 2
    class_token = int(has_class_token(model.model.vision_tower))
    return patches + class_token - int(config.vision_feature_select_strategy == "default")


def torch_dtype(precision: str) -> "torch.dtype":
    """``fp32`` -> float32; ``bf16`` and ``4bit`` -> bfloat16."""
    import torch

    from textreg.compute import DTYPES

    return getattr(torch, DTYPES[precision])


def four_bits() -> Any:
    """NF4 weights with bf16 arithmetic (QLoRA, Dettmers et al. 2023); needs the extra ``textreg[gpu]``."""
    import importlib.util

    import torch
    from transformers import BitsAndBytesConfig

    if importlib.util.find_spec("bitsandbytes") is None:
        raise InputError("precision=4bit needs bitsandbytes: pip install 'textreg[gpu]'")
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16, bnb_4bit_use_double_quant=True
    )
