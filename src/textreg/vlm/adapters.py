"""LoRA on the language model, the projector inside the adapter, and the dial lambda.

The choices that are not obvious: the layers are named by a regular expression, because a plain list of names also
wraps the vision tower's; the projector is a module to save, so that one folder holds all that tuning changed, and
merging the adapter yields a plain LLaVA; at generation the adapter is folded into the weights as a merge does it, and
the weights are put back bit for bit afterwards.

``W + lambda * s B A`` is the linear merge of the tuned model with its own base, so one loaded model serves every
lambda, and only the chosen one is ever exported.  Lambda acts on the language model alone; the projector and an
adapter on a tower keep their strength, as in a merge of checkpoints; the scales that were there are put back, also
when the block fails, and nested blocks multiply.

    >>> tuned = attach(model, rank=16, alpha=32, seed=0)
    >>> save_adapter(tuned, "tune/TR/adapter")
    >>> with scaled_adapter(tuned, 0.5):
    ...     answers = answer(tuned, ...)
"""

import json
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from safetensors import SafetensorError

from textreg.errors import InputError, RunError, quoted
from textreg.vlm.features import is_llava, trains_projector
from textreg.vlm.layouts import is_language

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

PROJECTOR = "multi_modal_projector"
README = """# LoRA adapter of a vision-language model, with its projector

It belongs to the aligned model that `align/base.json` of its run describes.
`textreg ask` and `textreg export` of the run put the two together; in Python, `textreg.vlm.adapters.load_adapter`.
"""


def attach(model: "PreTrainedModel", *, rank: int, alpha: int, seed: int = 0) -> "PeftModel":
    """Wrap every linear layer of the language model's blocks with LoRA (Hu et al. 2022) and make the projector
    trainable, unless it is a published model's.

    The adapter starts at zero: the wrapped model answers exactly as ``model`` does.  It is drawn from ``seed`` alone.
    """

    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=0.0,
        target_modules=language_linears(model),
        modules_to_save=[PROJECTOR] if trains_projector(model) else None,
    )
    with torch.random.fork_rng(), quiet_peft():
        torch.manual_seed(seed)
        return get_peft_model(model, config)


def language_linears(model: "PreTrainedModel") -> str:
    """A pattern of the names of all linear layers in the language model's blocks."""
    decoder = model.get_decoder()
    name = next(name for name, module in model.named_modules() if module is decoder)
    return rf"{re.escape(name)}\.layers\.\d+\.(self_attn|mlp)\.\w+_proj"


@contextmanager
def quiet_peft() -> Iterator[None]:
    """Without the warning that peft itself causes on transformers 5."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
        yield


def save_adapter(model: "PeftModel", folder: str | Path) -> None:
    """Write ``adapter_config.json`` and ``adapter_model.safetensors``, projector included, and what they are."""
    model.save_pretrained(str(folder), safe_serialization=True)
    (Path(folder) / "README.md").write_text(README, encoding="utf-8")  # in place of peft's empty form


def load_adapter(model: "PreTrainedModel", folder: str | Path) -> "PeftModel":
    """Put a saved adapter on the aligned model it was trained on.

    Raises:
        InputError: the folder holds no adapter, a damaged one, or one of another architecture.
    """

    folder = Path(folder)
    cure = "run the stage `tune` again with --force"
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        if not (folder / name).is_file():
            raise InputError(f"{folder}: no {name} here: run the stage `tune` for this arm first")
    _check_lora(folder / "adapter_config.json", cure)
    try:
        with quiet_peft():
            # peft only warns, and goes on with a half-trained model.
            warnings.filterwarnings("error", message="Found missing adapter keys", category=UserWarning)
            return PeftModel.from_pretrained(model, str(folder)).eval()
    except UserWarning as warning:
        missing = _first_line(warning).rpartition(": ")[2]
        raise InputError(f"{folder}: adapter_model.safetensors lacks {missing[:120]}: {cure}") from None
    except SafetensorError as error:
        raise InputError(f"{folder}: damaged adapter ({error}): {cure}") from None
    except RuntimeError as error:
        raise InputError(
            f"{folder}: the adapter does not fit the aligned model ({_first_line(error)}): {cure}"
        ) from None
    except (AttributeError, KeyError, TypeError, ValueError, ZeroDivisionError, re.error) as error:
        # What peft makes of a value that it reads without looking, such as a rank that is a word.
        raise InputError(
            f"{folder}: adapter_config.json is damaged ({type(error).__name__}: {_first_line(error)}): {cure}"
        ) from None


def _check_lora(path: Path, cure: str) -> None:
    """Raise InputError unless the file is the configuration of a LoRA."""
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: damaged ({_first_line(error)}): {cure}") from None
    kind = content.get("peft_type") if isinstance(content, dict) else None
    if kind != "LORA":
        raise InputError(f"{path}: peft_type = {quoted(kind)}, only LORA is read: {cure}")


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:160]


def plain(model: "PreTrainedModel | PeftModel") -> "PreTrainedModel":
    """The vision-language model itself, whether or not it is wrapped; LoRA layers stay in place."""

    return model.get_base_model() if isinstance(model, PeftModel) else model


def lora_layers(model: "nn.Module") -> Iterator["nn.Module"]:
    """All LoRA layers of a model, in order; none for a plain one."""

    return (module for module in model.modules() if isinstance(module, LoraLayer))


@contextmanager
def folded(model: "PreTrainedModel | PeftModel") -> Iterator[None]:
    """Inside the block the adapter, at its present scale, is added into the weights as :func:`merged` does it, and the
    projector has the number format of the others, so that what is asked is what is exported, without the adapter's
    extra passes; afterwards the weights are as before.

    Weights in 4 bits are left alone, and the adapter beside them.  The weights of a GPU wait in the host's memory.
    """

    vlm, kept = plain(model), []
    trained = list(vlm.model.multi_modal_projector.parameters()) if is_llava(vlm) else []
    precise = [each.data for each in trained]
    for each in trained:
        each.data = each.data.to(vlm.dtype)
    for layer in lora_layers(model):
        weight = layer.get_base_layer().weight
        if weight.is_floating_point() and not layer.merged:
            kept.append((layer, weight.detach().to("cpu", copy=True)))
            weight.data.copy_(total(layer))
            layer.merged_adapters.extend(layer.active_adapters)
    try:
        yield
    finally:
        for layer, before in kept:
            layer.get_base_layer().weight.data.copy_(before)
            layer.merged_adapters.clear()
        for each, before in zip(trained, precise, strict=True):
            each.data = before


def total(layer: "LoraLayer") -> "torch.Tensor":
    """The weight of a layer with its adapters, float32 [out, in]; raises :class:`RunError` where it is not finite."""
    found = layer.get_base_layer().weight.float()
    for adapter in layer.active_adapters:
        found = found + layer.get_delta_weight(adapter).float()
    if not torch.isfinite(found).all():
        raise RunError("the merged weights are not finite: the adapter is broken; run the stage tune again")
    return found


def language_adapters(model: "torch.nn.Module") -> "dict[str, LoraLayer]":
    """Module name -> LoRA layer of the language model.

    Raises :class:`InputError` when there is none, when one is already merged into its weight, or when it is DoRA,
    whose change is not proportional to its scale.
    """

    layers = {}
    for name, module in model.named_modules():
        plain = name.removeprefix("base_model.model.")
        if not isinstance(module, LoraLayer) or not is_language(plain):
            continue
        if module.merged:
            raise InputError(f"the adapter of {plain} is merged into its weight already; unmerge it before scaling")
        if any(module.use_dora.values()):
            raise InputError(f"{plain} is a DoRA layer: its change does not scale with lambda")
        layers[plain] = module
    if not layers:
        raise InputError("the model has no LoRA layer in its language model; load the adapter with peft first")
    return layers


@contextmanager
def scaled_adapter(model: "torch.nn.Module", lam: "float | Mapping[int, float]") -> "Iterator[torch.nn.Module]":
    """The model at lambda: inside the block every LoRA change of the language model is multiplied by ``lam``, or by
    that of its layer.

    ``lam`` 0 is the untuned language model (with the tuned projector), 1 the tuned one.  Yields ``model``, changed in
    place.
    """
    layers = language_adapters(model)
    before = {name: dict(layer.scaling) for name, layer in layers.items()}
    try:
        for name, layer in layers.items():
            factor = lam[int(re.search(r"layers\.(\d+)\.", name)[1])] if isinstance(lam, Mapping) else lam
            for adapter in layer.scaling:
                layer.scaling[adapter] *= factor
        yield model
    finally:
        for name, scaling in before.items():
            layers[name].scaling.update(scaling)


def merged(model: "PeftModel", lam: float = 1.0) -> "PreTrainedModel":
    """The plain transformers model, its adapter merged at ``lam``.  ``model`` is used up: no second one is made.

    Each sum is formed in float32 and rounded once to its weight's dtype, one layer at a time, so that a large model
    needs the memory it has and one layer more.  Raises :class:`InputError` as :func:`language_adapters` does, and
    :class:`RunError` where a sum is not finite.
    """

    with torch.no_grad(), scaled_adapter(model, lam):
        for layer in lora_layers(model):
            layer.get_base_layer().weight.copy_(total(layer))
    with quiet_peft():
        return model.unload()
