"""A tuned or merged model as a folder that transformers and vLLM load, with its processor and model card.

The choices that are not obvious: transformers writes the vision tower of an assembled LLaVA as
``vision_tower.encoder...`` and reads both spellings, vLLM reads only ``vision_tower.vision_model.encoder...``, so that
one is written; the text config names its architecture, because vLLM builds the language model from it; what began
as a published model keeps its family's names and the published processor files, so that whatever served that one
serves this; the folder is complete or absent.

    textreg export TR+M --run runs/gpu --out my-model --push-to me/my-model
"""

import json
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import HfApi, split_torch_state_dict_into_shards
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, OfflineModeIsEnabled
from safetensors.torch import save_file
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from textreg import files
from textreg.data import hub
from textreg.errors import InputError
from textreg.vlm import adapters, assembly
from textreg.vlm.adapters import lora_layers
from textreg.vlm.card import card_of_run, settings_of
from textreg.vlm.features import is_llava

if TYPE_CHECKING:
    import pandas as pd
    from transformers import PreTrainedModel

    from textreg.vlm.card import ModelCard
    from textreg.vlm.systems import System

PROCESSOR_FILES = ("*processor_config.json", "*token*.json", "*.jinja", "chat_template.json", "*.model", "*.txt")
TOWER = re.compile(r"^vision_tower\.(?!vision_model\.|_)")  # parts of an EfficientNet begin with an underscore
SHARD = "5GB"


def export_system(
    run: str | Path,
    which: "System",
    folder: str | Path,
    *,
    precision: str = "",
    validation: "pd.DataFrame | None" = None,
    push_to: str = "",
    private: bool = True,
    overwrite: bool = False,
) -> Path:
    """One system of a run as a checkpoint with its card: its adapter merged at its lambda, or the aligned backbone.

    The card shows ``validation`` (rows of the ``fidelity.csv`` contract) where given, else the run's test results,
    else that nothing was measured.  ``precision`` is that of the weights, by default that of the tuning; a 4-bit run
    is merged into bf16.  Works on CPU: a large model needs its own size in memory.  Raises as :func:`export` does.
    """

    run, folder = Path(run), Path(folder)
    check_place(folder, overwrite)
    precision = precision or settings_of(run, which).get("precision", "fp32")
    model, processor = assembly.load_aligned(run / "align", precision="bf16" if precision == "4bit" else precision)
    if which.arm:
        model = adapters.merged(adapters.load_adapter(model, run / "tune" / which.arm / "adapter"), which.lam)
    base = assembly.read_base(run / "align")
    return export(
        model,
        processor,
        folder,
        published=hub.resolve(base.vlm, revision=base.revisions.get("vlm")) if base.vlm else None,
        card=card_of_run(run, which, base, validation),
        push_to=push_to,
        private=private,
        overwrite=overwrite,
    )


def export(
    model: "PreTrainedModel",
    processor: Any,
    folder: str | Path,
    *,
    published: Path | None = None,
    card: "ModelCard | None" = None,
    push_to: str = "",
    private: bool = True,
    overwrite: bool = False,
) -> Path:
    """Write a plain model (adapters merged) to ``folder``, and to the hub repository ``push_to`` if asked.

    Writes weights (safetensors, in the model's own number format, shards of at most 5 GB), config, generation config,
    processor and chat template (those of the folder ``published`` where the model came from one), and ``README.md``
    where a ``card`` is given.  ``overwrite`` replaces an earlier export, and only when the new one is complete.

    Raises:
        InputError: the model still carries adapters, ``folder`` holds something else or cannot be
            written, or the hub refuses the upload.
    """

    if any(True for _ in lora_layers(model)):
        raise InputError("export needs a plain model: merge the adapter first (textreg.vlm.adapters.merged)")
    folder = Path(folder)
    check_place(folder, overwrite)
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        if is_llava(model):
            write_weights(model, partial)
            write_config(model, partial)
        else:  # under the names that its family has on disk
            model.save_pretrained(partial, max_shard_size=SHARD)
        model.generation_config.save_pretrained(partial)
        if published is None:
            processor.save_pretrained(partial)
        else:
            for path in sorted({path for pattern in PROCESSOR_FILES for path in published.glob(pattern)}):
                shutil.copy(path, partial)
            # The published one may tell the date, think, or leave the begin of a prompt to the tokenizer.
            (partial / "chat_template.jinja").write_text(processor.chat_template, encoding="utf-8")
            (partial / "chat_template.json").unlink(missing_ok=True)
        if card is not None:
            (partial / "README.md").write_text(card.render(), encoding="utf-8")
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise InputError(
            f"{folder}: cannot be written ({error.strerror or error}): free space or choose another folder"
        ) from None
    files.sweep(folder.parent, folder.name)
    files.remove_tree(folder)
    partial.rename(folder)
    if push_to:
        push(folder, push_to, private=private)
    return folder


def check_place(folder: Path, overwrite: bool) -> None:
    """Raises :class:`InputError` where ``folder`` holds anything; with ``overwrite``, anything but a checkpoint."""
    if folder.is_dir() and not any(folder.iterdir()):
        return
    if folder.exists() and not (overwrite and (folder / "config.json").is_file()):
        what = "is no folder with a checkpoint" if overwrite else "is not empty"
        raise InputError(f"{folder} {what}: choose another folder" + ("" if overwrite else ", or ask to replace it"))


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

    state = disk_names(model)
    plan = split_torch_state_dict_into_shards(state, max_shard_size=SHARD)
    for file, names in plan.filename_to_tensors.items():
        tensors = {name: state[name].detach().to(model.dtype).cpu().contiguous() for name in names}
        save_file(tensors, folder / file, metadata={"format": "pt"})
    if plan.is_sharded:
        index = {"metadata": plan.metadata, "weight_map": plan.tensor_to_filename}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def write_config(model: "PreTrainedModel", folder: Path) -> None:
    """``config.json`` with the number format, and the architecture of the language model inside its text config."""

    model.config.save_pretrained(folder)
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    for part in (config, config["text_config"], config.get("vision_config", {})):
        part.pop("_name_or_path", None)  # a folder of this machine
    config["architectures"] = [type(model).__name__]
    config["dtype"] = config["text_config"]["dtype"] = str(model.dtype).removeprefix("torch.")
    config["text_config"]["architectures"] = [MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[config["text_config"]["model_type"]]]
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def push(folder: Path, repository: str, *, private: bool) -> None:
    """Upload a written folder; credentials are the hub client's own."""

    api = HfApi()
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        api.upload_folder(folder_path=folder, repo_id=repository, commit_message="Merged checkpoint")
    except (HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, OfflineModeIsEnabled, OSError) as error:
        first = str(error).strip().splitlines()[0]
        raise InputError(
            f"push to {repository} failed ({first}): run `hf auth login`; the folder {folder} is kept"
        ) from None
