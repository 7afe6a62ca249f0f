"""Published vision-language models of many families, as they are: tower and projector frozen, LoRA on the decoder.

The choices that are not obvious: a model is judged by its ``config.json`` alone, before anything large is fetched, by
building it without memory and looking whether an adapter reaches every weight of its decoder; only families that the
tests compare with their own class are taken, others would run and might compute something else; the video part of a
processor is left out, because it alone needs torchvision; a template says itself what begins a prompt, so that the
tokenizer's own begin is written into it and every server sends what was trained.

    >>> check("Qwen/Qwen2.5-VL-3B-Instruct")
    >>> model, processor = load_vlm("Qwen/Qwen2.5-VL-3B-Instruct", precision="bf16", device="cuda")
"""

import json
import re
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING

from textreg.data import hub
from textreg.errors import InputError
from textreg.vlm.adapters import language_linears
from textreg.vlm.chat import settled
from textreg.vlm.loading import load_model, reading, source

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, ProcessorMixin

FAMILIES = {
    "llava": "LLaVA 1.5",
    "llava_next": "LLaVA-NeXT",
    "llava_onevision": "LLaVA-OneVision",
    "qwen2_vl": "Qwen2-VL",
    "qwen2_5_vl": "Qwen2.5-VL",
    "qwen3_vl": "Qwen3-VL",
    "gemma3": "Gemma 3",
    "smolvlm": "SmolVLM",
    "internvl": "InternVL",
    "mistral3": "Mistral Small 3",
    "aya_vision": "Aya Vision",
}
REASONS = {
    "paligemma": "its prompt sees both ways, so that rows of text alone are another task to it",
    "mllama": "its pictures enter through cross-attention",
}


class Unsupported(InputError):
    """A model that cannot be tuned here, whatever is done about it."""


def check(place: str, *, whole: bool = True, name: str = "") -> "PreTrainedConfig":
    """The configuration of a model that can be tuned; of a hub id nothing but ``config.json`` is fetched.

    ``whole``: a vision-language model; else a language model to put one together from.  ``name``: in messages.

    Raises:
        InputError: no such model; :class:`Unsupported` for one that cannot be tuned here, with the reason and the list
            of what can.
    """
    folder, name = hub.resolve(place, files=("config.json",)), name or place
    raw = json.loads((folder / "config.json").read_text("utf-8"))
    kind = str(raw.get("model_type"))
    taken = (
        "known: " + ", ".join(FAMILIES.values()) if whole else "take a dense decoder such as Llama, Qwen or Mistral"
    )
    if whole and kind not in FAMILIES:
        why = REASONS.get(kind) or ("it needs code of its own" if "auto_map" in raw else "not tested here")
        raise Unsupported(f"{name}: model type {kind!r} is not supported ({why}); {taken}")
    config = reading(str(folder), "vlm" if whole else "llm", AutoConfig.from_pretrained, trust_remote_code=False)
    if (found := unreached(config, whole)) is not None:
        raise Unsupported(f"{name}: a {kind} model is not supported ({found}); {taken}")
    return config


def unreached(config: "PreTrainedConfig", whole: bool) -> str | None:
    """What of the decoder's blocks an adapter on its linear layers would not reach, or None."""
    auto = AutoModelForImageTextToText if whole else AutoModelForCausalLM
    try:
        with torch.device("meta"):
            model = auto.from_config(config)
        layers = model.get_decoder().layers
        pattern = re.compile(language_linears(model).partition(r"layers\.")[2])
    except (AttributeError, StopIteration, ValueError) as error:
        return f"its decoder is no stack of layers: {str(error).splitlines()[0][:80]}"
    for name, parameter in layers.named_parameters():
        if parameter.ndim > 1 and not pattern.fullmatch(name.removesuffix(".weight")):
            experts = "experts" in name or parameter.ndim > 2
            return (
                "a mixture of experts" if experts else f"{name.partition('.')[2]} is no projection of attention or MLP"
            )
    return None


def load_vlm(
    vlm: str, *, precision: str = "fp32", device: str = "cpu", revision: str | None = None
) -> tuple["PreTrainedModel", "ProcessorMixin"]:
    """A published vision-language model, or one that :mod:`textreg.vlm.export` wrote, with its processor.

    Raises:
        InputError: it is missing, gated or of a family that is not supported, has no chat template, or its keys do not
            match its architecture.
    """
    place = source(vlm, "vlm", revision)
    config = check(place, name=vlm)
    processor = load_processor(place, config)
    model = load_model("AutoModelForImageTextToText", place, precision, device, keep=undecoded(config))
    require_plain_head(model, vlm)
    return model.requires_grad_(False).eval(), processor


@cache
def still(cls: type["ProcessorMixin"]) -> type["ProcessorMixin"]:
    """A class of processors without its part for videos."""
    if "video_processor" not in cls.get_attributes():
        return cls

    class Still(cls):
        @classmethod
        def get_attributes(cls) -> list[str]:
            return ["image_processor", "tokenizer"]

        @classmethod
        def from_args_and_dict(cls, args: list[Any], processor_dict: dict[str, Any], **options: Any) -> Any:
            return super().from_args_and_dict([*args, None], processor_dict, **options)

    Still.__name__ = cls.__name__
    return Still


def load_processor(place: str, config: "PreTrainedConfig") -> "ProcessorMixin":
    """The processor of a published model, its template settled and told to begin prompts as the tokenizer would."""
    try:
        processor = reading(place, "vlm", still(PROCESSOR_MAPPING[type(config)]).from_pretrained)
    except ImportError as error:
        package = next((name for name in ("torchvision", "num2words") if name in str(error).lower()), str(error)[:80])
        raise InputError(f"vlm={place}: its processor needs {package}: pip install 'textreg[vlm]'") from None
    tokenizer = processor.tokenizer
    template = processor.chat_template or tokenizer.chat_template
    if not template:
        raise InputError(f"vlm={place}: no chat template: choose an instruction-tuned model")
    template = settled(template)
    with_begin = tokenizer("a")["input_ids"] != tokenizer("a", add_special_tokens=False)["input_ids"]
    if with_begin and tokenizer.bos_token and "bos_token" not in template and tokenizer.bos_token not in template:
        template = "{{ bos_token }}" + template
    processor.chat_template = template
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return processor


def require_plain_head(model: "PreTrainedModel", vlm: str) -> None:
    """Raise :class:`InputError` where the model does more to its last state than apply its head, which is all that
    training does."""
    ids = torch.arange(1, 9, device=model.device)[None]
    with torch.no_grad():
        whole = model(input_ids=ids, use_cache=False).logits.float()
        head = model.get_output_embeddings()(model.model(input_ids=ids, use_cache=False).last_hidden_state).float()
    if not torch.allclose(whole, head, rtol=0, atol=1e-3 * float(whole.abs().max())):
        raise InputError(f"vlm={vlm}: the model changes its logits after its head, which training would not do")


def undecoded(config: "PreTrainedConfig") -> list[str]:
    """Names of the modules that 4-bit weights leave alone: everything but the blocks of the decoder."""
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config)
    decoder = model.get_decoder()
    names = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    inside = next(name for name, module in model.named_modules() if module is decoder)
    return [name for name in names if not name.startswith(f"{inside}.layers.")]
