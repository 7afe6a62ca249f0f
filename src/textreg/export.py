"""A tuned or merged model as a folder that transformers and vLLM load, with its processor and model card.

The choices that are not obvious: transformers writes the vision tower of an assembled LLaVA as
``vision_tower.encoder...`` and reads both spellings, vLLM reads only ``vision_tower.vision_model.encoder...``, so that
one is written; the text config names its architecture, because vLLM builds the language model from it; the folder is
complete or absent.

    >>> export(tuned.merge_and_unload(), processor, "merge/TR", card=card_of_run("runs/gpu", "TR", **base_names))
"""

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from textreg.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from textreg.modelcard import ModelCard

TOWER = re.compile(r"^vision_tower\.(?!vision_model\.)")
SHARD = "5GB"


def export(
    model: "PreTrainedModel",
    processor: Any,
    folder: str | Path,
    *,
    card: "ModelCard | None" = None,
    push_to: str | None = None,
    private: bool = True,
) -> Path:
    """Write a plain LLaVA (adapters merged) to ``folder``, and to the hub repository ``push_to`` if asked.

    Writes weights (safetensors, in the model's own number format, shards of at most 5 GB), config, generation config,
    processor, chat template, and ``README.md`` where a ``card`` is given.  An existing folder is replaced only when
    the new one is complete.

    Raises:
        InputError: the model still carries adapters or is not a LLaVA, the folder cannot be written, or the hub
            refuses the upload.
    """
    import shutil

    from textreg.adapters import lora_layers

    if any(True for _ in lora_layers(model)):
        raise InputError(
            "export needs a plain model: merge the adapter first (merge_and_unload, or the stage `merge`)"
        )
    if model.config.model_type != "llava":
        raise InputError(
            f"export writes LLaVA, this is {model.config.model_type!r}: merge its folder with `textreg merge`, which "
            "keeps the published processor files"
        )
    folder = Path(folder)
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        write_weights(model, partial)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise InputError(
            f"{folder}: cannot be written ({error.strerror or error}): free space or choose another folder"
        ) from None
    write_config(model, partial)
    model.generation_config.save_pretrained(partial)
    processor.save_pretrained(partial)
    if card is not None:
        (partial / "README.md").write_text(card.render(), encoding="utf-8")
    if folder.exists():
        shutil.rmtree(folder)
    partial.rename(folder)
    if push_to:
        push(folder, push_to, private=private)
    return folder


def disk_names(model: "PreTrainedModel") -> dict[str, Any]:
    """State dict under the names on disk: ``language_model.model.*``, ``language_model.lm_head.weight`` (only if
    untied), ``multi_modal_projector.*``, ``vision_tower.vision_model.*``.
    """
    tied = model.config.tie_word_embeddings
    named = {}
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight":
            if not tied:
                named["language_model.lm_head.weight"] = tensor
            continue
        short = name.removeprefix("model.")
        if short.startswith("language_model."):
            short = "language_model.model." + short.removeprefix("language_model.")
        named[TOWER.sub("vision_tower.vision_model.", short)] = tensor
    return named


def write_weights(model: "PreTrainedModel", folder: Path) -> None:
    """Shards and, for more than one, their index."""
    from huggingface_hub import split_torch_state_dict_into_shards
    from safetensors.torch import save_file

    state = disk_names(model)
    plan = split_torch_state_dict_into_shards(state, max_shard_size=SHARD)
    for file, names in plan.filename_to_tensors.items():
        tensors = {name: state[name].detach().to(model.dtype).cpu().contiguous() for name in names}
        save_file(tensors, folder / file, metadata={"format": "pt"})
    if plan.is_sharded:
        index = {"metadata": plan.metadata, "weight_map": plan.tensor_to_filename}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def write_config(model: "PreTrainedModel", folder: Path) -> None:
    """``config.json`` with the architecture of the language model inside its text config."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    model.config.save_pretrained(folder)
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["architectures"] = [type(model).__name__]
    config["text_config"]["architectures"] = [MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[config["text_config"]["model_type"]]]
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def push(folder: Path, repository: str, *, private: bool) -> None:
    """Upload a written folder; credentials are the hub client's own."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, OfflineModeIsEnabled

    api = HfApi()
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        api.upload_folder(folder_path=folder, repo_id=repository, commit_message="Merged checkpoint")
    except (HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, OfflineModeIsEnabled, OSError) as error:
        first = str(error).strip().splitlines()[0]
        raise InputError(
            f"push to {repository} failed ({first}): run `hf auth login`; the folder {folder} is kept"
        ) from None
