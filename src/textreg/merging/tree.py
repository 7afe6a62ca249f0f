"""Which tensor of a vision-language model is which of its backbone, read from the tree of modules and from shapes.

A decoder is a list of layers with the same names inside, an embedding and a norm beside the list, and a head.  It is
found wherever it stands (``language_model.model.``, ``model.text_model.``, ``model.``): among the lists of a
checkpoint it is the one whose first layers have the names and shapes of the backbone's.  What stands beside the module
that holds it is no language, and neither are the towers and projectors that :mod:`textreg.vlm.layouts` names; anything
else must find its counterpart or be kept by name, so an unknown part is an error and not a silent loss.  Layers that
a model has put between those of its backbone (the cross-attention of Mllama) are kept, and the others are counted
without them.

    Tree.of(checkpoint, like=backbone_tree).names["layers.3.mlp.up_proj.weight"]
"""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from textreg.errors import InputError
from textreg.merging.tensors import Checkpoint
from textreg.vlm.layouts import HEAD, canonical, is_buffer, is_language

LISTED = re.compile(r"^(|.*?\.)(\w+)\.(\d+)\.(.+)$")


@dataclass(frozen=True)
class Tree:
    """The language model of a checkpoint: ``names`` canonical (``layers.0.mlp.up_proj.weight``) -> stored, ``root``
    what stands before the layers, ``inner`` the names and shapes inside a layer, ``inserted`` stored names of layers
    without counterpart, ``outside`` those of other modules."""

    root: str
    names: Mapping[str, str]
    inner: Mapping[str, tuple[int, ...]]
    layers: int
    inserted: frozenset[str] = frozenset()
    outside: tuple[str, ...] = ()

    @classmethod
    def of(cls, checkpoint: Checkpoint, like: "Tree | None" = None) -> "Tree":
        """The decoder of a checkpoint: the largest one, or the one most ``like`` another.

        Raises InputError where a weight stands twice, in two layouts.
        """
        spoken = [name for name in checkpoint.tensors if is_language(name) and not is_buffer(name)]
        lists: dict[tuple[str, str], dict[int, dict[str, str]]] = defaultdict(lambda: defaultdict(dict))
        for name in spoken:
            if found := LISTED.match(name):
                lists[found[1], found[2]][int(found[3])][found[4]] = name
        root, kind, layers = "", "", {}
        if lists:
            shape = {name: checkpoint.tensors[name].shape for name in spoken}

            def likeness(place: tuple[str, str]) -> tuple[int, int]:
                held = [(rest, shape[name]) for layer in lists[place].values() for rest, name in layer.items()]
                alike = sum(like.inner.get(rest) == size for rest, size in held) if like else 0
                return alike, sum(math.prod(size) for _, size in held)

            root, kind = max(lists, key=likeness)
            layers = lists[root, kind]
        wanted = set(like.inner) if like else set()
        own = [number for number in sorted(layers) if not like or wanted <= set(layers[number])]
        if not like or len(own) != like.layers:  # other layers are no insertion but another model
            own = sorted(layers)
        numbers = {number: place for place, number in enumerate(own)}
        holder = re.sub(r"(^|\.)model\.$", r"\1", root)  # llm. of llm.model.layers; nothing of model.layers
        apart = {name for name in spoken if not name.startswith(holder) and not f".{name}".endswith(f".{HEAD}")}
        outside = tuple(name for name in checkpoint.tensors if name in apart or not is_language(name))
        names: dict[str, str] = {}
        for name in spoken:
            if name in apart:
                continue
            found = LISTED.match(name)
            if found and (found[1], found[2]) == (root, kind):
                if int(found[3]) not in numbers:
                    continue
                key = f"{kind}.{numbers[int(found[3])]}.{found[4]}"
            elif kind and root and name.startswith(root):
                key = name.removeprefix(root)
            else:
                key = HEAD if name.endswith(f".{HEAD}") else canonical(name)
            if key in names:
                raise InputError(
                    f"{checkpoint.folder} holds the weight {key!r} twice, as {names[key]!r} and {name!r}; remove one"
                )
            names[key] = name
        first = layers[own[0]] if own else {}
        inner = {rest: checkpoint.tensors[name].shape for rest, name in first.items()}
        inserted = {name for number in layers if number not in numbers for name in layers[number].values()}
        return cls(root, names, inner, len(own), frozenset(inserted), outside)


def tail(name: str) -> str:
    """The part of a name that every spelling shares: from its list of layers on, else its last two words."""
    found = LISTED.match(name)
    return ".".join((found[2], found[3], found[4])) if found else ".".join(name.split(".")[-2:])


class Finder:
    """Stored names by the names that an adapter has for its modules, in whatever spelling of the same tree."""

    def __init__(self, checkpoint: Checkpoint):
        self._by_tail: dict[tuple[bool, str], list[str]] = defaultdict(list)
        for name in checkpoint.tensors:
            self._by_tail[is_language(name), tail(name)].append(name)

    def find(self, name: str) -> str | None:
        """The stored tensor that shares the longest end, and then the most words, with ``name``; None if none does."""
        words = name.split(".")

        def likeness(stored: str) -> tuple[int, int]:
            other = stored.split(".")
            shared = next(
                (n for n, (a, b) in enumerate(zip(reversed(words), reversed(other), strict=False)) if a != b),
                min(len(words), len(other)),
            )
            return shared, sum((Counter(words) & Counter(other)).values())

        found = sorted(self._by_tail[is_language(name), tail(name)], key=likeness)
        if len(found) > 1 and likeness(found[-1]) == likeness(found[-2]):
            return None
        return found[-1] if found else None
