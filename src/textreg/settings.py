"""Settings: one frozen dataclass per stage, and profiles that fill them.

Stage name = notebook stem = section of a profile = name here.  The defaults of these classes *are* the laptop
profile, and they are what a notebook's ``parameters`` cell shows, so a notebook run by itself does what the book
describes.  A profile is a YAML file of sections; ``-p key=value`` overrides a key of the stages that have it
(``tune.steps=200`` of one stage only). Pydantic checks types and ranges; an unknown key is refused
with a suggestion.  Try it: ``textreg run --profile smoke --dry-run``.
"""

import math
from collections.abc import Mapping
from dataclasses import fields
from functools import cache
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from textreg.errors import InputError, did_you_mean, quoted

STRICT = ConfigDict(extra="forbid", validate_default=True, defer_build=True)

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(gt=0.0)]
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]  # what numpy's and torch's generators both take
Length = Annotated[int, Field(ge=16)]  # tokens of a row: the smallest prompt and an answer
Names = list[str]
Some = Annotated[list[str], Field(min_length=1)]
Precision = Literal["fp32", "bf16", "4bit"]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Stage:
    """What every stage knows: where the run lives, at which scale, and its seed."""

    run: str = "runs/laptop"
    scale: Literal["scenes", "pictures", "hub"] = "scenes"
    seed: Seed = 0


LANGUAGES = ["en", "ca", "de", "el", "es", "eu", "fr", "ga", "gl", "it", "lt", "pl", "pt", "sv", "uk"]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Backbone(Stage):
    """``00_backbone``: pre-training of a micro LLM and tower (not part of a normal run).

    What the language model reads (:mod:`textreg.micro.corpus`) decides whether there is fidelity to lose:
    ``english_share`` of the prompts; ``cross_lingual``, the share of contexts in another language than the prompt, and
    ``context_pull``, the share of *those* that are answered in the context's language; ``documents`` without a prompt;
    ``word_contexts`` without a sentence, ``mixed_words`` of them from two languages.  The last ``finish_steps``, at
    half the rate, set the softness of the rule anew, to ``finish_pull``.
    """

    out: str = "runs/backbone"
    languages: Some = Field(default_factory=lambda: list(LANGUAGES))
    english_share: Share = 0.3
    cross_lingual: Share = 0.5
    context_pull: Share = 0.42
    documents: Share = 0.3
    word_contexts: Share = 0.5
    mixed_words: Share = 0.5
    finish_pull: Share = 0.405
    vocabulary: Positive = 3000
    hidden: Positive = 160
    layers: Positive = 4
    heads: Positive = 4
    llm_steps: Positive = 8000
    llm_batch: Positive = 64
    llm_learning_rate: Rate = 2e-3
    finish_steps: Count = 5000
    tower_hidden: Positive = 96
    tower_layers: Positive = 3
    tower_heads: Positive = 4
    image_size: Positive = 48
    patch_size: Positive = 12
    tower_steps: Positive = 6000
    tower_batch: Positive = 128
    tower_learning_rate: Rate = 2e-3
    held_out_scenes: Positive = 200
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: Positive = 1


@dataclass(frozen=True, kw_only=True, config=STRICT)
class PrepareData(Stage):
    """``01_prepare_data``: row files, requests and the text mixture.

    ``languages`` are evaluated; ``text_languages`` may appear in the text rows; ``held_out`` are known to the LLM
    but never in the text rows.  ``text_mixture`` shares the text rows out by ``text_temperature`` (0: equally, 1: as
    the pools are) or like the paper's Fig. 2 (``paper``); ``text_english_source`` is the share of English among the
    sources of rows that cross languages.  ``caption_prompts`` is the share of the visual captions that keep their
    prompt (not at hub scale); the others are a picture and its caption, as the web has them.  ``*_images`` are asked
    about in every language, the first ``arm_images`` of them also blank and as key words; ``*_questions`` English ones
    are asked of each kind, at hub scale so many of ``visual_check``.  The ``*_data`` fields are used at hub scale
    only: a hub id or a local folder; with 0 ``align_rows`` their data set is not asked for.  At pictures scale
    ``image_folder`` is the folder of concepts (:mod:`textreg.pictures.folder`).
    """

    languages: Some = Field(default_factory=lambda: list(LANGUAGES))
    text_languages: Some = Field(
        default_factory=lambda: ["ca", "de", "es", "fr", "ga", "gl", "it", "lt", "pl", "pt", "uk"]
    )
    held_out: Names = Field(default_factory=lambda: ["el", "eu", "sv"])
    align_rows: Count = 16000
    visual_rows: Positive = 16000
    caption_prompts: Share = 0.3
    text_rows: Positive = 12000
    text_temperature: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0
    text_mixture: Literal["temperature", "paper"] = "temperature"
    text_english_source: Share = 0.4
    validation_images: Positive = 30
    test_images: Positive = 60
    arm_images: Count = 20
    validation_questions: Count = 80
    test_questions: Count = 200
    align_data: str = "liuhaotian/LLaVA-Pretrain"
    visual_data: Some = Field(default_factory=lambda: ["liuhaotian/LLaVA-Instruct-150K"])
    text_data: Some = Field(default_factory=lambda: ["CohereLabs/aya_dataset"])
    evaluation_data: str = "floschne/xm3600"
    visual_check: str = ""
    image_folder: str = ""
    max_broken_images: Share = 0.01
    prompt_condition: Literal["native", "english"] = "native"


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Training(Stage):
    """What ``align`` and ``tune`` share.  ``batch_size`` counts rows per optimizer step, over all processes."""

    steps: Positive = 400
    batch_size: Positive = 64
    micro_batch: Count = 0
    learning_rate: Rate = 2e-3
    warmup: Share = 0.05
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.0
    max_length: Length = 256
    cache_features: bool = True
    precision: Precision = "fp32"
    activation_checkpointing: bool = False
    checkpoint_steps: Count = 0
    log_steps: Positive = 10
    workers: Count = 0
    threads: Positive = 1


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Align(Training):
    """``02_align``: projector only, English captions.

    ``prompts`` is the share of rows that keep their prompt; without one, as in LLaVA's first stage, the projector
    alone must bring the frozen model to English.  ``name_steps`` fit the fresh projector to the embeddings of the
    words under a picture before (:mod:`textreg.training.names`).  ``vlm`` is a published model to take instead of
    assembling one; it is aligned already and takes 0 ``steps``.  With ``replay`` above 0 it answers the visual rows
    itself, so many tokens at most and ``batch_size`` rows at a time, and is tuned on its own answers.
    """

    llm: str = "shipped"
    tower: str = "shipped"
    vlm: str = ""
    replay: Count = 0
    prompts: Share = 1.0
    name_steps: Count = 0
    steps: Count = 1600
    batch_size: Positive = 16
    log_steps: Positive = 20

    def __post_init__(self) -> None:
        if self.steps == 0 and not self.vlm:
            raise InputError(
                "steps = 0 would leave a fresh projector untrained: give steps, "
                "or a published model, whose projector is trained, as vlm"
            )
        if self.steps and self.vlm:
            raise InputError(f"steps = {self.steps}, but {self.vlm} is aligned already: set steps = 0")
        if self.replay and not self.vlm:
            raise InputError(
                "replay: an untuned model has no answers of its own to learn: set replay = 0, or give a vlm"
            )


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Tune(Training):
    """``03_tune``: LoRA tuning of one arm.

    ``text`` says what the text-only rows are: ``none`` (BM), ``multilingual`` (TR), ``mono`` (TR without rows that
    cross languages), ``english`` (EN: ``mono`` in English) or ``lists`` (single words, no sentences);
    ``text_phases`` in how many of the three thirds of training they appear (1: last only, 2: last two, 3: throughout);
    ``text_image`` puts a blank or an unrelated image in front of them; ``text_answers: own`` has the untuned model
    answer them.  ``projector_learning_rate`` is a tenth of the
    adapter's, as in LLaVA's LoRA recipe: what alignment taught is kept.
    """

    arm: str = "TR"
    text: Literal["none", "multilingual", "mono", "english", "lists"] = "multilingual"
    text_share: Share = 0.25
    text_phases: Annotated[int, Field(ge=1, le=3)] = 3
    text_image: Literal["none", "blank", "distractor"] = "none"
    text_answers: Literal["given", "own"] = "given"
    rank: Positive = 16
    alpha: Positive = 32
    steps: Positive = 800
    batch_size: Positive = 16
    log_steps: Positive = 20
    learning_rate: Rate = 1e-3
    projector_learning_rate: Rate = 1e-4


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Merge(Stage):
    """``04_merge``: the lambda sweep of one arm on the validation split, the choice, and the merged checkpoint."""

    arm: str = "TR"
    lambdas: Annotated[list[Share], Field(min_length=1)] = Field(default_factory=lambda: [0.3, 0.5, 0.7, 0.85, 1.0])
    tolerated_visual_loss: Share = 0.02
    identifier: Literal["py3langid", "lingua", "glotlid"] = "py3langid"
    identifier_model: str = ""
    batch_size: Positive = 128
    max_new_tokens: Positive = 40
    precision: Precision = "fp32"
    threads: Positive = 1


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Evaluate(Stage):
    """``05_evaluate``: answers of every system in every language and arm, and their scores.

    ``endpoint`` (hub scale): a server that offers each of the systems under its name, in place of the own loop.
    """

    systems: Some = Field(default_factory=lambda: ["backbone", "BM", "TR", "EN", "TR-mono", "BM+M", "TR+M"])
    frontier_lambdas: list[Share] = Field(default_factory=lambda: [0.3, 0.6])
    arms: Annotated[list[Literal["image", "blank", "text", "text_en", "keywords"]], Field(min_length=1)] = Field(
        default_factory=lambda: ["image", "blank", "text", "text_en", "keywords"]
    )
    identifier: Literal["py3langid", "lingua", "glotlid"] = "py3langid"
    identifier_model: str = ""
    judge: Literal["exact", "llm", "none"] = "exact"
    judge_endpoint: str = ""
    judge_model: str = ""
    endpoint: str = ""
    batch_size: Positive = 128
    max_new_tokens: Positive = 40
    bootstrap: Positive = 1000
    precision: Precision = "fp32"
    workers: Positive = 2
    threads: Positive = 1


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Figures(Stage):
    """``06_figures``: every figure and table.  ``results`` names a folder of ``seed-*`` folders; empty: this run
    alone."""

    results: str = ""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Mechanism(Stage):
    """``07_mechanism``: does the picture act as an English document?  The first of ``arms`` is patched;
    ``batch_size`` rows at a time."""

    arms: Some = Field(default_factory=lambda: ["BM", "TR"])
    probe_images: Positive = 8
    batch_size: Positive = 64
    threads: Positive = 1


def stage_classes() -> dict[str, type[Stage]]:
    """Stage name -> settings class, in the order in which they run."""
    return {
        "backbone": Backbone,
        "prepare_data": PrepareData,
        "align": Align,
        "tune": Tune,
        "merge": Merge,
        "evaluate": Evaluate,
        "figures": Figures,
        "mechanism": Mechanism,
    }


S = TypeVar("S", bound=Stage)


@cache
def _adapters(cls: type[Stage]) -> dict[str, tuple[TypeAdapter[Any], bool]]:
    """Field -> what checks it, and whether it holds a list."""
    found = {}
    for name, hint in get_type_hints(cls, include_extras=True).items():
        bare = get_args(hint)[0] if get_origin(hint) is Annotated else hint
        found[name] = TypeAdapter(hint), get_origin(bare) is list
    return found


def value_of(cls: type[Stage], key: str, value: Any, where: str, *, text: bool = False) -> Any:
    """``value`` as the type of field ``key`` of ``cls``, its range checked.

    ``text=True`` reads a word of the command line (``50``, ``1e-4``, ``true``, ``en,de`` or ``["en", "de"]``);
    otherwise a value must have its type already.  Numbers are finite, and a list names nothing twice.  Raises
    :class:`InputError` that begins with ``where``, also for an unknown key (with a suggestion).
    """
    known = _adapters(cls)
    if key not in known:
        raise InputError(f"{where}: unknown parameter {quoted(key)}{did_you_mean(key, known)}")
    adapter, several = known[key]
    if text and several:
        words = (word.strip(" \t'\"") for word in str(value).strip("[]").split(","))
        value = [word for word in words if word]
    try:
        found = adapter.validate_python(value, strict=not text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        spot = "".join(f"[{step}]" for step in first["loc"] if isinstance(step, int))
        hint_of_yaml = "; quote it" if isinstance(first["input"], bool) and "string" in first["msg"] else ""
        message = first["msg"][0].lower() + first["msg"][1:]
        raise InputError(f"{where}: {key}{spot} = {quoted(first['input'])}: {message}{hint_of_yaml}") from None
    for place, item in enumerate(found if several else [found]):
        spot = f"[{place}]" if several else ""
        if isinstance(item, float) and not math.isfinite(item):
            raise InputError(f"{where}: {key}{spot} = {item!r}: a finite number is needed")
        if several and item in found[:place]:
            raise InputError(f"{where}: {key} names {quoted(item)} twice: remove one")
    return found


def build(cls: type[S], values: Mapping[str, Any], where: str) -> S:
    """A settings object from plain values, each checked by :func:`value_of`; fields not given keep their default."""
    checked = {key: value_of(cls, key, value, where) for key, value in values.items()}
    try:
        return cls(**checked)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None


def collect(cls: type[S], namespace: Mapping[str, Any]) -> S:
    """Settings from a notebook's ``parameters`` cell: ``settings = collect(Tune, globals())``.

    Raises :class:`InputError` when the cell leaves a field out or a value has a wrong type or range.
    """
    absent = [field.name for field in fields(cls) if field.name not in namespace]
    if absent:
        raise InputError(
            f"the parameters cell does not assign {', '.join(absent)}; every setting of {cls.__name__} belongs there"
        )
    return build(cls, {field.name: namespace[field.name] for field in fields(cls)}, "parameters cell")
