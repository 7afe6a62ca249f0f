"""Which scenes a training may show: every scene belongs to one split for good, whoever draws it.

Two choices are not obvious.  The split follows from a hash of the scene's *meaning*, so that a test scene is in no
pre-training, no picture and no line of text, whatever the seed.  And some combinations of size, colour and shape
(:data:`HELD_OUT`) are seen by validation and test alone: each word of theirs is known, the combination is new.

Use: ``draw(random.Random(0), "train", canonical=True)``.  Ours.
"""

import hashlib
import random
from typing import Any

from textreg.scenes.scene import Scene, canonical, sample, to_json

SPLITS = ("train", "validation", "test")
# One of every colour and of every shape but for chance; 8 of the 70 combinations.
HELD_OUT = frozenset(
    {
        ("small", "purple", "star"),
        ("large", "green", "cross"),
        ("small", "white", "triangle"),
        ("large", "yellow", "square"),
        ("large", "blue", "circle"),
        ("small", "red", "square"),
        ("large", "black", "star"),
        ("small", "green", "circle"),
    }
)


def is_new(scene: Scene) -> bool:
    """Whether the scene shows a combination that no training shows."""
    return any((group.size, group.colour, group.shape) in HELD_OUT for group in scene.groups)


def split_of(scene: Scene) -> str:
    """``train``, ``validation`` or ``test``: 5 % of the other scenes are validation and 10 % test; those with a new
    combination are half validation, half test.
    """
    number = int.from_bytes(hashlib.sha256(to_json(canonical(scene)).encode()).digest()[:4]) % 100
    if is_new(scene):
        return "test" if number < 50 else "validation"
    return "test" if number < 10 else "validation" if number < 15 else "train"


def draw(rng: random.Random, split: str, **options: Any) -> Scene:
    """A scene of this split; ``options`` as :func:`textreg.scenes.scene.sample` takes them."""
    while True:
        scene = sample(rng, **options)
        if split_of(scene) == split:
            return scene
