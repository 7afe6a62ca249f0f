"""A lambda sweep of an adapter without merging: the same model, its change turned up or down.

``W + lambda * s B A`` is the linear merge of the tuned model with its own base, so one loaded model serves every
lambda, and only the chosen one is ever exported.  Choices: lambda acts on the language model alone; the projector
(``modules_to_save``) and an adapter on a tower keep their strength, as in a merge of checkpoints; the scales that were
there are put back, also when the block fails, and nested blocks multiply.

    with scaled_adapter(model, 0.5):
        answers = answer(model, ...)
    export_merged(model, 0.5, "runs/laptop/merge/TR+M", processor)
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from textreg.errors import InputError
from textreg.layouts import is_language

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from peft.tuners.lora import LoraLayer


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


def merged_copy(model: "PeftModel", lam: float = 1.0) -> "torch.nn.Module":
    """A plain transformers model with the adapter merged at ``lam``; the given model is untouched.

    The sum is formed in float32 and rounded once to each weight's dtype.  Needs memory for a second model in float32;
    for a large model merge the files with :func:`textreg.merging.merge` instead.
    """
    dtypes = {name: parameter.dtype for name, parameter in plain_parameters(model).items()}
    with scaled_adapter(model, lam):
        twin = copy.deepcopy(model).float()
    merged = twin.merge_and_unload(safe_merge=True)
    for name, parameter in merged.named_parameters():
        parameter.data = parameter.data.to(dtypes[name])
        parameter.requires_grad_(False)
    merged.config.dtype = model.config.dtype if hasattr(model, "config") else None
    return merged


def plain_parameters(model: "PeftModel") -> "dict[str, torch.nn.Parameter]":
    """Parameters under the names they have once the adapter is gone."""
    names = {}
    for name, parameter in model.named_parameters():
        plain = name.removeprefix("base_model.model.").replace(".base_layer.", ".").replace(".original_module.", ".")
        names[plain] = parameter
    return names


def export_merged(
    model: "PeftModel", lam: float, out: str | Path, processor: Any = None, overwrite: bool = False
) -> Path:
    """Saves the merge at ``lam`` as an ordinary checkpoint folder (with ``processor`` when given) and returns the
    folder.

    The folder appears complete or not at all.  Raises :class:`InputError` when it exists and ``overwrite`` is False.
    """
    import shutil

    out = Path(out)
    if out.exists() and any(out.iterdir()) and not overwrite:
        raise InputError(f"{out} is not empty; choose another folder or pass overwrite")
    partial = out.parent / f".{out.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        merged_copy(model, lam).save_pretrained(partial)
        if processor is not None:
            processor.save_pretrained(partial)
        shutil.rmtree(out, ignore_errors=True)
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return out
