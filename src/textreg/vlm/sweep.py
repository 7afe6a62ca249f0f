"""A lambda sweep of an adapter without merging: the same model, its change turned up or down.

``W + lambda * s B A`` is the linear merge of the tuned model with its own base, so one loaded model serves every
lambda, and only the chosen one is ever exported.  Choices: lambda acts on the language model alone; the projector
(``modules_to_save``) and an adapter on a tower keep their strength, as in a merge of checkpoints; the scales that were
there are put back, also when the block fails, and nested blocks multiply.

    with scaled_adapter(model, 0.5):
        answers = answer(model, ...)
    plain = merged(model, 0.5)
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from textreg.errors import InputError, RunError
from textreg.vlm.adapters import lora_layers, quiet_peft
from textreg.vlm.layouts import is_language

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from peft.tuners.lora import LoraLayer
    from transformers import PreTrainedModel


def language_adapters(model: "torch.nn.Module") -> "dict[str, LoraLayer]":
    """Module name -> LoRA layer of the language model.

    Raises :class:`InputError` when there is none, when one is already merged into its weight, or when it is DoRA,
    whose change is not proportional to its scale.
    """
    from peft.tuners.lora import LoraLayer

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
def scaled_adapter(model: "torch.nn.Module", lam: float) -> "Iterator[torch.nn.Module]":
    """The model at lambda: inside the block every LoRA change of the language model is multiplied by ``lam``.

    ``lam`` 0 is the untuned language model (with the tuned projector), 1 the tuned one.  Yields ``model``, changed in
    place.
    """
    layers = language_adapters(model).values()
    before = [dict(layer.scaling) for layer in layers]
    try:
        for layer in layers:
            for adapter in layer.scaling:
                layer.scaling[adapter] *= lam
        yield model
    finally:
        for layer, scaling in zip(layers, before, strict=True):
            layer.scaling.update(scaling)


def merged(model: "PeftModel", lam: float = 1.0) -> "PreTrainedModel":
    """The plain transformers model, its adapter merged at ``lam``.  ``model`` is used up: no second one is made.

    Each sum is formed in float32 and rounded once to its weight's dtype, one layer at a time, so that a large model
    needs the memory it has and one layer more.  Raises :class:`InputError` as :func:`language_adapters` does, and
    :class:`RunError` where a sum is not finite.
    """
    import torch

    with torch.no_grad(), scaled_adapter(model, lam):
        for layer in lora_layers(model):
            weight = layer.get_base_layer().weight  # [out, in]
            total = weight.float()
            for adapter in layer.active_adapters:
                total = total + layer.get_delta_weight(adapter).float()
            if not torch.isfinite(total).all():
                raise RunError("the merged weights are not finite: the adapter is broken; run the stage tune again")
            weight.copy_(total)
    with quiet_peft():
        return model.unload()
