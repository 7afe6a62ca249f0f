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

NEW_SHARE = 0.1  # of the scenes that validation and test ask about
HELD_OUT = frozenset(  # 4 of the 70 combinations, every colour and shape in it known from others
    {
        ("small", "purple", "star"),
        ("large", "green", "cross"),
        ("small", "white", "triangle"),
        ("large", "yellow", "square"),
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
    """A scene of this split; ``options`` as :func:`textreg.scenes.scene.sample` takes them.

    Outside of the training split a new combination is shown with the chance :data:`NEW_SHARE`.
    """
    new = split != "train" and rng.random() < NEW_SHARE
    while True:
        scene = sample(rng, **options)
        if split_of(scene) == split and is_new(scene) == new:
            return scene
