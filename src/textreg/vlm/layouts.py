"""Which tensor of a checkpoint is which, whatever the layout it was saved in.

The same decoder weight is ``language_model.model.layers.0.mlp.up_proj.weight`` in a saved LLaVA,
``model.language_model.layers.0.mlp.up_proj.weight`` in memory and in newer saves, and
``model.layers.0.mlp.up_proj.weight`` in the backbone.  :func:`canonical` maps all of them to
``layers.0.mlp.up_proj.weight``, and that name is what a merge, an adapter, a per-layer lambda and a report speak.

Choices: a tensor is *not* language only when its prefix is in a short list (towers, projectors, ``image_newline``);
anything else must find its counterpart in the backbone, so an unknown part is an error rather than a silently kept or
dropped one. Heads and embeddings are ordinary names here; tying is decided in :mod:`textreg.merging.plan`, where both
sides are known.
"""

import re
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase

from textreg.errors import InputError

EMBEDDING = "embed_tokens.weight"
HEAD = "lm_head.weight"

OTHER = re.compile(
    r"^(model\.)*(vision_tower|vision_model|visual|image_tower|multi_modal_projector|mm_projector|vision_resampler"
    r"|connector|image_newline)(\.|$)"
)
BUFFER = re.compile(r"(^|\.)rotary_emb\.(original_)?inv_freq$")
LANGUAGE = re.compile(
    r"^(language_model\.model\.|model\.language_model\.model\.|model\.language_model\.|language_model\.|model\.)"
)
LAYER = re.compile(r"^(?:\w+\.)*?(?:layers|h|blocks)\.(\d+)\.(.+)$")


def is_language(name: str) -> bool:
    """Whether a tensor or module name belongs to the language model (head and embeddings included).

    Names that are in no list of towers and projectors count as language: a merge then demands a counterpart.
    """
    return OTHER.match(name) is None


def canonical(name: str) -> str:
    """The layout-free name: ``layers.*``, ``embed_tokens.weight``, ``norm.weight``, ``lm_head.weight``.

    Names of towers and projectors lose a leading ``model.`` only, so that the spelling in memory and the spelling on
    disk agree for them too.
    """
    if not is_language(name):
        return re.sub(r"^(model\.)+", "", name)
    return LANGUAGE.sub("", name, count=1)


def is_buffer(name: str) -> bool:
    """Whether the tensor is a position buffer that older checkpoints store and nobody trains."""
    return BUFFER.search(name) is not None


def layer_and_module(name: str) -> tuple[int | None, str]:
    """``layers.3.self_attn.q_proj.weight`` -> ``(3, "self_attn")``; outside the layers ``(None, "embed_tokens")``."""
    found = LAYER.match(name)
    if found is None:
        return None, name.split(".")[0]
    return int(found.group(1)), found.group(2).split(".")[0]


def matches(name: str, pattern: str) -> bool:
    """Whether a shell-style pattern matches the name as stored or its canonical form."""
    return fnmatchcase(name, pattern) or fnmatchcase(canonical(name), pattern)


def parse_patterns(arguments: Iterable[str]) -> dict[str, float]:
    """``["layers.1?.*=0.3", "*.mlp.*=0.8"]`` -> pattern -> lambda, in the order given (the first match wins)."""
    patterns: dict[str, float] = {}
    for argument in arguments:
        pattern, sign, value = argument.rpartition("=")
        try:
            patterns[pattern] = float(value)
        except ValueError:
            sign = ""
        if not sign or not pattern:
            raise InputError(f"--pattern {argument!r} is not PATTERN=NUMBER, for example 'layers.1?.mlp.*=0.3'")
    return patterns


def first_match(name: str, patterns: Mapping[str, float], otherwise: float) -> float:
    """The value of the first pattern that matches ``name``, else ``otherwise``."""
    return next((value for pattern, value in patterns.items() if matches(name, pattern)), otherwise)
