"""A vision-language model from a language model, a vision tower and a fresh projector, or from a published checkpoint.

Both parts may be a hub id, maybe with a revision (``owner/name@v1``), a folder, or ``shipped`` (the micro backbone in
the package).  The choices that are not obvious: the modules of the loaded parts are moved into a LLaVA built without
memory, so nothing is copied and tied embeddings stay tied; the fresh projector is scaled to the size of word
embeddings; the image token takes a spare row of the embedding when there is one; the tower is read at its last hidden
layer when it has no pooling head (ours was trained there) and one layer earlier otherwise, as LLaVA 1.5 (Liu et al.
2024) and LLaVA-OneVision (Li et al. 2024) do; a tower with a class token drops it (CLIP), one without keeps all
patches (SigLIP).  Image processors are the Pillow ones, so that torchvision is never needed.

    >>> model, processor = assemble("shipped", "shipped", seed=0)
    >>> model, processor = assemble("BSC-LT/salamandra-2b-instruct", "google/siglip-so400m-patch14-384")
"""

import json
import re
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor
from transformers.models.llava.modeling_llava import LlavaMultiModalProjector

from textreg.data import hub
from textreg.errors import InputError, did_you_mean, quoted
from textreg.files import HashCache, digest
from textreg.micro.assets import is_shipped
from textreg.vlm.chat import IMAGE_TOKEN
from textreg.vlm.loading import (
    has_class_token,
    load_model,
    load_tokenizer,
    load_tower,
    source,
)
from textreg.vlm.published import check, load_vlm

if TYPE_CHECKING:
    from transformers import PreTrainedModel, ProcessorMixin

PROJECTOR = "projector.safetensors"


@dataclass(frozen=True)
class Base:
    """What an aligned model is made of.  With ``vlm`` it is a published one, and ``llm`` and ``tower`` are idle.
    ``revisions``: role -> commit of what came from the hub, hash of what lies in a folder (:func:`pinned`).
    """

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

    The projector is float32 whatever ``precision`` says, because it is trained.  Returns ``(model, processor)``, the
    model in evaluation mode on ``device``.

    Raises:
        InputError: a part that is missing, gated or of an unsupported kind, an image processor whose size is not the
            tower's, a tokenizer without chat template or without any token to pad with.
    """

    revisions = revisions or {}
    llm_source, tower_source = (
        source(name, role, revisions.get(role)) for name, role in ((llm, "llm"), (tower, "tower"))
    )
    if llm != "shipped":
        check(llm_source, whole=False, name=llm)
    tokenizer = load_tokenizer(llm_source)
    language = load_model("AutoModelForCausalLM", llm_source, precision, device)
    vision, image_processor = load_tower(tower_source, precision, device)

    image_token_id = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
    rows = language.get_input_embeddings().num_embeddings
    if image_token_id >= rows or len(tokenizer) > rows:
        add_rows(language, len(tokenizer))
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
    scale_to_embeddings(model)
    require_same_logits(model, language, llm)
    model.generation_config = generation_config(language.generation_config, tokenizer)
    processor = llava_processor(image_processor, tokenizer, config, extra)
    return model.eval(), processor


def require_same_logits(model: "PreTrainedModel", language: "PreTrainedModel", llm: str) -> None:
    """Raise :class:`InputError` where the LLaVA answers text unlike its language model.

    Some causal classes scale or cap what their head says (Cohere, Granite, Gemma 2); a LLaVA has the head alone.
    """
    ids = torch.arange(1, 9, device=model.device)[None]
    with torch.no_grad():
        ours, theirs = (each(input_ids=ids, use_cache=False).logits.float() for each in (model, language))
    if not torch.allclose(ours, theirs, rtol=0, atol=1e-3 * float(theirs.abs().max())):
        raise InputError(
            f"llm={llm}: a {language.config.model_type} model changes its logits after its head, which a LLaVA made "
            "of it would not do, here or where it is served: take another language model, or a published model as vlm"
        )


def scale_to_embeddings(model: "PreTrainedModel") -> None:
    """Scale the fresh projector's last layer so that image tokens start as large (RMS) as word embeddings.

    Tower features can be fifty times as large as embeddings; at that size the residual stream of an image token drowns
    what the language model's layers write, and alignment begins by undoing it.  Measured on a grey picture.
    """

    tower, projector = model.model.vision_tower, model.model.multi_modal_projector
    side = tower.config.image_size
    grey = torch.zeros(1, 3, side, side, device=tower.device, dtype=tower.dtype)
    weight = model.get_input_embeddings().weight
    with torch.no_grad():
        states = tower(grey, output_hidden_states=True).hidden_states
        seen = projector(states[model.config.vision_feature_layer].float())  # [1, patches, hidden]
        wanted = torch.linalg.vector_norm(weight, dtype=torch.float32) / weight.numel() ** 0.5
        some = torch.arange(min(64, len(weight)), device=weight.device)  # Gemma's embedding is a table times a number
        wanted = wanted * (model.get_input_embeddings()(some).float().norm() / weight[some].float().norm())
        factor = wanted / seen.pow(2).mean().sqrt()
        projector.linear_2.weight.mul_(factor)
        projector.linear_2.bias.mul_(factor)


def pinned(base: Base) -> Base:
    """``base`` with the hub's present commit of each part, which is fetched if need be, or the hash of its folder;
    what is shipped has none.

    A branch such as ``main`` may move between alignment and evaluation, days later, and a folder may be written anew;
    what was aligned must be loaded again.  Raises :class:`InputError` as loading does.
    """
    roles = {"vlm": base.vlm} if base.vlm else {"llm": base.llm, "tower": base.tower}
    found = {}
    for role, name in roles.items():
        known = base.revisions.get(role)
        if known and not hub.parse(name).local:
            found[role] = known
        elif not is_shipped(name):
            place = source(name, role, known)
            found[role] = commit(place) or digest(HashCache().folder(Path(place)))
    return replace(base, revisions=found)


def commit(folder: str) -> str | None:
    """The commit whose files are in ``folder`` where it is one of the hub's stored snapshots, which are named so."""
    path = Path(folder)
    return path.name if path.parent.name == "snapshots" and re.fullmatch("[0-9a-f]{40}", path.name) else None


def load_base(
    base: Base, *, precision: str = "fp32", device: str = "cpu"
) -> tuple["PreTrainedModel", "ProcessorMixin"]:
    """The model that ``base`` describes, with a fresh projector (or the published one)."""
    if base.vlm:
        return load_vlm(base.vlm, precision=precision, device=device, revision=base.revisions.get("vlm"))
    return assemble(base.llm, base.tower, seed=base.seed, precision=precision, device=device, revisions=base.revisions)


def save_aligned(model: "PreTrainedModel", folder: str | Path, base: Base) -> None:
    """Write ``base.json`` and ``projector.safetensors``: all that alignment changed, and on top of what.

    Of a published model nothing was changed, and the second file holds no tensor.
    """

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    state = {} if base.vlm else model.model.multi_modal_projector.state_dict()
    partial = folder / f"{PROJECTOR}.partial"
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}, partial)
    partial.rename(folder / PROJECTOR)
    (folder / "base.json").write_text(json.dumps(asdict(base), indent=2, sort_keys=True) + "\n", encoding="utf-8")


def read_base(folder: str | Path) -> Base:
    """What the aligned model in ``folder`` is made of; raises as :func:`load_aligned` does."""

    path = Path(folder) / "base.json"
    cure = "run the stage `align` again with --force"
    try:
        text = path.read_text(encoding="utf-8")
        base = TypeAdapter(Base).validate_json(text, strict=True)
        unknown = json.loads(text).keys() - {each.name for each in fields(Base)}
    except FileNotFoundError:
        raise InputError(f"{folder}: no {path.name} here: run the stage `align` first") from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        spot = ".".join(str(step)[:40] for step in first["loc"])
        wrong = f"{spot} = {quoted(first['input'])}" if spot else "not what align writes"
        raise InputError(f"{path}: damaged ({wrong}: {first['msg']}): {cure}") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: damaged ({str(error).partition(chr(10))[0][:120]}): {cure}") from None
    if unknown:
        known = [each.name for each in fields(Base)]
        raise InputError(f"{path}: unknown key {quoted(min(unknown))}{did_you_mean(min(unknown), known)}: {cure}")
    if not 0 <= base.seed < 2**32:
        raise InputError(f"{path}: damaged (seed = {quoted(base.seed)}): {cure}")
    return base


def load_aligned(
    folder: str | Path, *, precision: str = "fp32", device: str = "cpu"
) -> tuple["PreTrainedModel", "ProcessorMixin"]:
    """The model that :func:`save_aligned` described: the same base, assembled again, with the trained projector.

    Raises:
        InputError: a file of the folder is missing or damaged.
    """

    folder = Path(folder)
    base = read_base(folder)
    if base.revisions and not base.revisions.items() <= pinned(base).revisions.items():
        raise InputError(f"{folder}: {base.vlm or base.llm} was written anew since: run the stage `align` again")
    try:
        state = load_file(folder / PROJECTOR)
    except FileNotFoundError:
        raise InputError(f"{folder}: no {PROJECTOR} here: run the stage `align` first") from None
    except SafetensorError as error:
        raise InputError(f"{folder}: damaged ({error}): run the stage `align` again with --force") from None
    model, processor = load_base(base, precision=precision, device=device)
    if base.vlm:
        return model, processor
    try:
        model.model.multi_modal_projector.load_state_dict(state)
    except RuntimeError as error:
        first = [line.strip() for line in str(error).splitlines() if line.strip()][:2][-1]
        raise InputError(
            f"{folder / PROJECTOR}: not the projector of the model in base.json ({first[:160]}): run the stage "
            "`align` again with --force"
        ) from None
    return model, processor


def add_rows(language: "PreTrainedModel", rows: int) -> None:
    """Grow the vocabulary to ``rows``; each new row is the mean of the old ones, in both embeddings.

    A mean row is the same at every load, and its logit is a mean logit, so that the new token is never the answer.
    """

    before = language.get_input_embeddings().num_embeddings
    with torch.random.fork_rng():
        language.resize_token_embeddings(rows, mean_resizing=False)
    with torch.no_grad():
        for embedding in (language.get_input_embeddings(), language.get_output_embeddings()):
            embedding.weight[before:] = embedding.weight[:before].float().mean(0).to(embedding.weight.dtype)


def llava_processor(image_processor: Any, tokenizer: Any, config: Any, extra_tokens: int) -> "ProcessorMixin":
    """``LlavaProcessor`` whose count of image tokens agrees with the model's ``config``."""

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
