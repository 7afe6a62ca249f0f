"""Sizes of models from their shapes, and bytes of a run beside the GPU, before a weight is loaded.

The formulas are those of :mod:`textreg.training.flops`, which counts a model that is loaded; here the numbers come
from a configuration file (read by transformers, so a default that it leaves out is filled in) or from the counted
facts of ``known_sizes.yaml``; a download of unknown size stands as 0 and is marked.  Work is in FLOP, memory in bytes,
weights in bf16 unless said.  Sources: Kaplan et al. 2020 (6N, here 4N as frozen blocks have no weight gradients),
Dettmers et al. 2023 (4-bit storage).

Try it: ``find("BSC-LT/salamandra-2b-instruct", "llm").parameters``, ``facts("floschne/xm3600")["download"]``.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import yaml

from textreg.data import hub
from textreg.errors import InputError
from textreg.settings import Align, Evaluate, PrepareData, Training, Tune

BF16 = 2
TRAINED = 16  # bytes a trained parameter: fp32 weight, gradient and two Adam moments
FOUR_BIT = 0.56  # bytes a parameter: 4 bits and double-quantized block constants

PICTURE = 100_000  # bytes of a picture of a data set without known size
UNKNOWN = "size not known here"


@dataclass(frozen=True)
class LanguageModel:
    """A gated-MLP decoder (Llama, Qwen2).  ``download``: bytes of its files."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    vocabulary: int
    tied: bool
    download: int = 0

    @property
    def kv(self) -> int:
        """Width of keys or values."""
        return self.hidden // self.heads * self.kv_heads

    @property
    def trunk(self) -> int:
        """Parameters without embeddings and head."""
        attention = 2 * self.hidden**2 + 2 * self.hidden * self.kv
        layer = attention + 3 * self.hidden * self.intermediate + 2 * self.hidden
        return self.layers * layer + self.hidden

    @property
    def parameters(self) -> int:
        return self.trunk + self.vocabulary * self.hidden * (1 if self.tied else 2)

    def adapter(self, rank: int) -> int:
        """LoRA parameters on all seven matrices of every layer: r (d_in + d_out) each."""
        h, i = self.hidden, self.intermediate
        return self.layers * rank * (2 * 2 * h + 2 * (h + self.kv) + 3 * (h + i))

    def stored(self, four_bit: bool) -> float:
        """Bytes of the frozen weights; embeddings and head stay in bf16 under 4-bit storage."""
        return self.trunk * (FOUR_BIT if four_bit else BF16) + (self.parameters - self.trunk) * BF16

    def cache(self) -> int:
        """Key-value bytes a token."""
        return 2 * BF16 * self.layers * self.kv

    def activations(self, tokens: float, checkpointing: bool) -> float:
        """Bytes kept for the backward pass of one row: every layer's inner tensors, or its input and one layer's."""
        inner = BF16 * (6 * self.hidden + 2 * self.kv + 4 * self.intermediate) + 2 * 4 * self.hidden
        return tokens * (self.layers * BF16 * self.hidden + inner if checkpointing else self.layers * inner)

    def attention_work(self, tokens: float) -> float:
        """Forward FLOP of the attention scores of one row, causal half only."""
        return 2 * self.layers * self.hidden * tokens**2


@dataclass(frozen=True)
class Tower:
    """A SigLIP or CLIP vision tower without its pooling head."""

    layers: int
    hidden: int
    intermediate: int
    image_size: int
    patch_size: int
    download: int = 0

    @property
    def patches(self) -> int:
        """Image tokens."""
        return (self.image_size // self.patch_size) ** 2

    @property
    def parameters(self) -> int:
        h, i = self.hidden, self.intermediate
        layer = 4 * h * h + 4 * h + 2 * h * i + i + h + 4 * h
        return self.layers * layer + 3 * self.patch_size**2 * h + h + self.patches * h + 2 * h

    @property
    def work(self) -> float:
        """Forward FLOP an image."""
        return 2.0 * self.parameters * self.patches + 4.0 * self.layers * self.hidden * self.patches**2

    @property
    def feature_bytes(self) -> int:
        """Bytes of the kept features of one image."""
        return self.patches * self.hidden * BF16


def projector(tower: Tower, llm: LanguageModel) -> int:
    """Parameters of the 2-layer projector."""
    return tower.hidden * llm.hidden + llm.hidden**2 + 2 * llm.hidden


def train_work(
    llm: LanguageModel, tower: Tower, *, rank: int, image: bool, words: float, scored: float, checkpointing: bool
) -> float:
    """FLOP done for one row; ``words`` text tokens of which ``scored`` are in the loss; ``rank`` 0 is projector only.

    Recomputation is counted here, because it takes time, and not in MFU.
    """
    tokens = words + (tower.patches if image else 0)
    work = tokens * (4 * llm.trunk + 6 * llm.adapter(rank) + (2 * llm.trunk if checkpointing else 0))
    work += llm.attention_work(tokens) * (4 if checkpointing else 3) + scored * 4 * llm.hidden * llm.vocabulary
    return work + (tower.work + tower.patches * 6 * projector(tower, llm) if image else 0)


def train_memory(
    llm: LanguageModel,
    tower: Tower,
    *,
    rank: int,
    tokens: float,
    scored: float,
    micro: int,
    checkpointing: bool,
    four_bit: bool,
) -> float:
    """Peak bytes of a training step of ``micro`` rows: weights, trained state, activations, scored logits,
    allocator.
    """
    weights = llm.stored(four_bit) + tower.parameters * BF16
    trained = TRAINED * (llm.adapter(rank) + projector(tower, llm))
    logits = scored * llm.vocabulary * (BF16 + 4 + 4)
    tower_work = tower.patches * BF16 * (6 * tower.hidden + 2 * tower.intermediate)
    rows = micro * (llm.activations(tokens, checkpointing) + logits + tower_work)
    return 1.5e9 + 1.08 * (weights + trained + rows)


def answer_memory(llm: LanguageModel, tower: Tower, *, tokens: float, batch: int, four_bit: bool) -> float:
    """Peak bytes of batched generation with a key-value cache."""
    weights = llm.stored(four_bit) + tower.parameters * BF16
    prefill = tokens * BF16 * (6 * llm.hidden + 2 * llm.intermediate)
    return 1.5e9 + 1.08 * (weights + batch * (tokens * llm.cache() + prefill))


def answer_work(llm: LanguageModel, tower: Tower, *, tokens: float, image: bool) -> float:
    """FLOP of reading one request (prefill)."""
    return 2 * llm.trunk * tokens + llm.attention_work(tokens) + (tower.work if image else 0)


def decode_bytes(llm: LanguageModel, *, tokens: float, batch: int, new: int) -> float:
    """Bytes that ``new`` decoding steps of a batch read: the weights once a step, the cache of every row."""
    weights = BF16 * (llm.trunk + llm.vocabulary * llm.hidden)
    return new * (weights + batch * (tokens + new / 2) * llm.cache())


@cache
def known_sizes() -> dict[str, dict[str, Any]]:
    """The counted facts of ``known_sizes.yaml``: models, data sets, identifiers, cards."""
    return yaml.safe_load(resources.files(__package__).joinpath("known_sizes.yaml").read_text("utf-8"))


class Unplannable(InputError):
    """A model that may well run, but whose configuration says too little to count it."""


def find(name: str, kind: Literal["llm", "tower"]) -> LanguageModel | Tower | None:
    """The shape behind a hub id or folder: counted facts, a local ``config.json``, or one in the hub's local store.

    ``None`` for a hub id of which nothing is known here; nothing is downloaded.  Raises ``Unplannable`` for a
    configuration of an unknown type or one that lacks what is counted from.
    """
    parts = hub.parse(name)
    cls = LanguageModel if kind == "llm" else Tower
    if not parts.local:
        facts = known_sizes()["models"].get(parts.base)
        if facts is not None:
            if facts["kind"] not in (kind, "vlm"):
                raise InputError(f"{name} is a {facts['kind']}, a {kind} is needed here")
            shape = facts[kind] if facts["kind"] == "vlm" else facts
            known = {field.name: shape[field.name] for field in fields(cls) if field.name in shape}
            return cls(**{"download": facts["download"], **known})
    folder = Path(parts.base).expanduser() if parts.local else _stored(parts.base, parts.revision)
    if folder is None:
        return None
    if not (folder / "config.json").is_file():
        raise InputError(f"{name}: no config.json; a model is a folder with config.json and *.safetensors")
    size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    config = _config(folder, name)
    try:
        return _shape(config, kind, size)
    except InputError as error:
        raise InputError(f"{name}: {error}") from error
    except (AttributeError, TypeError) as error:
        missing = getattr(error, "name", None) or error
        raise Unplannable(f"{name}: its config.json names no {missing}, which a {kind} is counted from") from error


def _config(folder: Path, name: str) -> Any:
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        why = (str(error).strip() or type(error).__name__).splitlines()[0][:160]
        raise Unplannable(f"{name}: its config.json is of no type known to transformers ({why})") from error


def _stored(base: str, revision: str | None) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(base, "config.json", revision=revision)
    return Path(found).parent if isinstance(found, str) else None


def _shape(config: Any, kind: Literal["llm", "tower"], size: int) -> LanguageModel | Tower:
    """The shape in a configuration of transformers: of the part asked for, where the model has both."""
    if kind == "tower":
        config = getattr(config, "vision_config", config)
        return Tower(
            layers=config.num_hidden_layers,
            hidden=config.hidden_size,
            intermediate=config.intermediate_size,
            image_size=config.image_size,
            patch_size=config.patch_size,
            download=size,
        )
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    words = config.get_text_config()
    if words.model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:  # SigLIP and CLIP have a text side too
        raise InputError(f"{words.model_type} is no language model that answers; a {kind} is needed here")
    heads = words.num_attention_heads
    return LanguageModel(
        layers=words.num_hidden_layers,
        hidden=words.hidden_size,
        intermediate=words.intermediate_size,
        heads=heads,
        kv_heads=getattr(words, "num_key_value_heads", None) or heads,
        vocabulary=words.vocab_size,
        tied=bool(getattr(words, "tie_word_embeddings", False)),
        download=size,
    )


@dataclass(frozen=True)
class Size:
    """A download, an output on disk or a need of memory, in bytes (0: not known), with where the number comes from.

    ``stage``: the first stage that needs it.  ``repository``: of a download, as the hub calls it.
    """

    name: str
    size: float
    source: str
    stage: str = ""
    repository: str = ""


def facts(name: str) -> dict[str, Any]:
    """What ``known_sizes.yaml`` says of a data set (or of the configuration that its glob chooses); maybe nothing."""
    parts = hub.parse(name)
    listed = known_sizes()["datasets"]
    return listed.get(f"{parts.base}:{parts.glob}") or listed.get(parts.base) or {}


def downloads(align: Align, data: PrepareData, evaluate: Evaluate | None) -> Iterator[Size]:
    """Every hub repository that the profile names, models first.  What is stored already is listed too."""
    for name in sorted({align.vlm} if align.vlm else {align.llm, align.tower}):
        parts = hub.parse(name)
        if not parts.local and not name.startswith("shipped"):
            yield _download(name, known_sizes()["models"].get(parts.base), "align", f"models/{parts.base}")
    for name in dict.fromkeys([data.align_data, *data.visual_data, *data.text_data, data.evaluation_data]):
        parts = hub.parse(name)
        if not parts.local:
            yield _download(name, facts(name), "prepare_data", f"datasets/{parts.base}")
    if evaluate is not None and evaluate.identifier in known_sizes()["identifiers"]:
        known = known_sizes()["identifiers"][evaluate.identifier]
        model = getattr(evaluate, "identifier_model", "") or known["name"]
        if not model.endswith(".bin") and not hub.parse(model).local:
            yield _download(model, known if model == known["name"] else None, "merge", f"models/{model}")


def _download(name: str, known: dict[str, Any] | None, stage: str, repository: str) -> Size:
    if not known:
        return Size(name, 0, UNKNOWN, stage, repository)
    return Size(name, known["download"], f"{known['mark']}: {known['source']}", stage, repository)


def pictures(data: PrepareData) -> float:
    """Bytes of the pictures in ``images.parquet``; none where they stay in ``image_folder``."""
    asked = (data.validation_images + data.test_images) * facts(data.evaluation_data).get("image_bytes", PICTURE)
    if data.image_folder:
        return asked
    trained = data.align_rows * facts(data.align_data).get("image_bytes", PICTURE)
    trained += data.visual_rows * max(facts(name).get("image_bytes", PICTURE) for name in data.visual_data)
    return trained + asked


def disk(
    data: PrepareData,
    training: Sequence[Training],
    merges: int,
    llm: LanguageModel | Tower | None,
    tower: LanguageModel | Tower | None,
) -> Iterator[Size]:
    """What the run folder will hold; of models of unknown shape only the pictures."""
    yield Size("prepare_data: pictures", pictures(data), "rows times the mean picture", "prepare_data")
    if not isinstance(llm, LanguageModel) or not isinstance(tower, Tower):
        return
    if any(settings.cache_features for settings in training):
        kept = (data.align_rows + data.visual_rows) * tower.feature_bytes
        per_picture = f"{tower.feature_bytes / 1e6:.2f} MB a picture, bf16"
        yield Size("features of the frozen tower", kept, per_picture, "align")
    adapters = sum(4 * llm.adapter(s.rank) for s in training if isinstance(s, Tune))
    adapters += 4 * projector(tower, llm) * len(training)
    yield Size("adapters and projectors", adapters, "fp32", "tune")
    yield Size(f"{merges} merged checkpoints", merges * checkpoint(llm, tower), "bf16", "merge")
    held = max((12 * llm.adapter(s.rank) for s in training if isinstance(s, Tune)), default=0)
    if any(settings.checkpoint_steps for settings in training):
        how = "adapter and its Adam moments, removed at the end"
        yield Size("checkpoint of the running training", held, how, "tune")


def checkpoint(llm: LanguageModel, tower: Tower, precision: str = "bf16") -> float:
    """Bytes of the whole model; 4-bit weights are exported in bf16."""
    width = 4 if precision == "fp32" else BF16
    return width * (llm.parameters + tower.parameters + projector(tower, llm))


def host(
    data: PrepareData,
    training: Sequence[Training],
    merges: int,
    evaluate: Evaluate | None,
    llm: LanguageModel,
    tower: Tower,
) -> Iterator[Size]:
    """Bytes of the host's memory that the largest process needs, and the parts that it is made of."""
    held = pictures(data)
    loaded = max(checkpoint(llm, tower, settings.precision) for settings in training)
    exported = max((checkpoint(llm, tower, s.precision) for s in training if isinstance(s, Tune)), default=0)
    copies = evaluate.workers if evaluate is not None else 1
    needs = [(held + loaded, "loading the model for a training, with the pictures in memory", "align")]
    if merges:
        needs.append((held + exported, "exporting a merge, with the pictures in memory", "merge"))
    if evaluate is not None:
        answering = copies * (held + checkpoint(llm, tower, evaluate.precision))
        workers = f"{copies} worker{'s' if copies > 1 else ''}"
        needs.append((answering, f"loading the model for evaluation in {workers}, with the pictures", "evaluate"))
    size, what, stage = max(needs, key=lambda need: need[0])
    yield Size("largest need", size, what, stage)
    yield Size(
        "of it: the pictures of images.parquet", held, "every stage that reads pictures holds them all", "align"
    )
