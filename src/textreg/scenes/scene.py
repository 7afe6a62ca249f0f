"""Scenes: one to three coloured shapes, how to draw one, and when two of them mean the same.

A :class:`Scene` is what a picture shows and what a caption says, so exact correctness can be decided by comparing
scenes instead of strings.  Three choices are not obvious:

* *Meaning, not order.*  "A above B" and "B below A" are one meaning and a conjunction has no order; :func:`canonical`
  picks one representative, so that a perfect model scores 1.0.
* *Pictures without ambiguity.*  ``sample(rng, canonical=True)`` draws only relations above and left, always relates a
  pair, and lists three groups as they stand from left to right; the layout keeps the other axis level, so that "left"
  can never be read as "above".
* *Absolute sizes.*  Small and large are told apart without a second object to compare with.

Use: ``render(sample(random.Random(0), canonical=True), random.Random(0)).save("scene.png")``.  The design is ours.
"""

import json
import math
import random
from dataclasses import dataclass

from PIL import Image, ImageDraw

from textreg.errors import InputError, did_you_mean

COLOURS = ("red", "green", "blue", "yellow", "black", "white", "purple")
SHAPES = ("circle", "square", "triangle", "star", "cross")
SIZES = ("small", "large")
RELATIONS = ("above", "below", "left", "right")
OPPOSITE = {"above": "below", "below": "above", "left": "right", "right": "left"}
MAX_OBJECTS = 3

# sRGB, 0..255. Every background keeps its distance to every shape colour, white and black included (tested).
RGB = {
    "red": (214, 39, 40),
    "green": (44, 150, 44),
    "blue": (40, 80, 205),
    "yellow": (250, 212, 30),
    "black": (18, 18, 18),
    "white": (255, 255, 255),
    "purple": (140, 50, 175),
}
BACKGROUNDS = ((182, 182, 182), (112, 112, 112), (206, 182, 146), (148, 186, 218), (222, 164, 178), (160, 190, 160))

# Diameter as a share of the canvas, alone or in a pair, and in a row of three (where two large objects must fit).
DIAMETER = {"small": 0.22, "large": 0.38}
DIAMETER_IN_ROW = {"small": 0.17, "large": 0.28}
SUPERSAMPLING = 4
BACKGROUND_JITTER = 5  # sRGB steps


@dataclass(frozen=True)
class Group:
    """One or more identical objects. ``size`` None means that nothing is said about it."""

    colour: str
    shape: str
    size: str | None = None
    count: int = 1

    def __post_init__(self):
        _known("colour", self.colour, COLOURS)
        _known("shape", self.shape, SHAPES)
        if self.size is not None:
            _known("size", self.size, SIZES)
        if type(self.count) is not int or not 1 <= self.count <= MAX_OBJECTS:
            raise InputError(f"scene: count {self.count!r} is outside 1..{MAX_OBJECTS}")


@dataclass(frozen=True)
class Scene:
    """Groups in the order they are named; with ``relation``, the first of two groups stands so to the second."""

    groups: tuple[Group, ...]
    relation: str | None = None

    def __post_init__(self):
        if not self.groups or self.count > MAX_OBJECTS:
            raise InputError(f"scene: {self.count} objects; a scene holds 1 to {MAX_OBJECTS}")
        if self.relation is not None:
            _known("relation", self.relation, RELATIONS)
            if len(self.groups) != 2:
                raise InputError(f"scene: relation {self.relation!r} needs two groups, not {len(self.groups)}")

    @property
    def count(self) -> int:
        """Objects in all groups together."""
        return sum(group.count for group in self.groups)


def _known(what: str, word: object, options: tuple[str, ...]) -> None:
    if word not in options:
        raise InputError(f"scene: unknown {what} {word!r}{did_you_mean(word, options)}")


def flip(scene: Scene) -> Scene:
    """The same relation told from the other group: "A above B" becomes "B below A"."""
    if scene.relation is None:
        raise InputError("scene: only two groups in a relation can be flipped")
    return Scene((scene.groups[1], scene.groups[0]), OPPOSITE[scene.relation])


def canonical(scene: Scene) -> Scene:
    """The representative of all scenes of the same meaning: relation above or left, conjunctions sorted."""
    if scene.relation in ("below", "right"):
        return flip(scene)
    if scene.relation is None and len(scene.groups) > 1:
        return Scene(tuple(sorted(scene.groups, key=lambda g: (g.colour, g.shape, g.size or "", g.count))))
    return scene


def sample(
    rng: random.Random,
    *,
    canonical: bool = False,
    groups: int | None = None,
    sizes: bool = True,
    flat: bool = False,
    colours: tuple[str, ...] = COLOURS,
    shapes: tuple[str, ...] = SHAPES,
) -> Scene:
    """Draw a scene whose groups all differ in colour and in shape.

    Of ten scenes about six are two groups in a relation, three one group and one three groups.  ``canonical`` gives
    what a picture can show without ambiguity (see the module); otherwise all four relations and a tenth of bare pairs
    occur.  ``groups`` fixes the number of groups (1..3), ``sizes=False`` says nothing about size.  ``flat`` shows rare
    kinds as often as common ones: as many scenes of one, two and three groups, and more groups of several objects.
    """
    number = groups or rng.choices((1, 2, 3), (1, 1, 1) if flat else (3, 6, 1))[0]
    alone, beside = (0.7, 0.5) if flat else (0.4, 0.15)  # chance of several objects in a group
    chosen = zip(rng.sample(colours, number), rng.sample(shapes, number), strict=True)
    spare = MAX_OBJECTS - number
    members = []
    for colour, shape in chosen:
        count = 1
        if spare and rng.random() < (alone if number == 1 else beside):
            count += rng.randint(1, spare)
            spare -= count - 1
        members.append(Group(colour, shape, rng.choice(SIZES) if sizes else None, count))
    relation = None
    if number == 2:
        if canonical:
            relation = rng.choice(("above", "left"))
        elif rng.random() < 0.9:
            relation = rng.choice(RELATIONS)
    return Scene(tuple(members), relation)


def to_json(scene: Scene) -> str:
    """Compact JSON with fixed key order: equal scenes give equal strings."""
    groups = [{"colour": g.colour, "shape": g.shape, "size": g.size, "count": g.count} for g in scene.groups]
    return json.dumps({"groups": groups, "relation": scene.relation}, separators=(",", ":"))


def from_json(text: str) -> Scene:
    """Inverse of :func:`to_json`; anything that is not a scene is an :class:`InputError`."""
    try:
        data = json.loads(text)
        return Scene(tuple(Group(**group) for group in data["groups"]), data["relation"])
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        start = text[:60] if isinstance(text, str) else repr(text)[:60]
        raise InputError(f"not a scene in JSON ({type(error).__name__}): {start}; write it with to_json") from None


# ---------------------------------------------------------------------------------------------------- drawing


def objects(scene: Scene, rng: random.Random) -> list[tuple[Group, float, float, float]]:
    """Where every object goes: (group, centre x, centre y, diameter), all as shares of the canvas, y downwards.

    A group without a size is drawn small or large at random.
    """
    anchors, in_row = _anchors(scene)
    table = DIAMETER_IN_ROW if in_row else DIAMETER
    slack = 0.015 if in_row else 0.03
    placed = []
    for group, (x, y) in zip(scene.groups, anchors, strict=True):
        size = group.size or rng.choice(SIZES)
        diameter = table[size] * rng.uniform(0.94, 1.06)
        x += rng.uniform(-slack, slack)
        y += rng.uniform(-slack, slack)
        for dx, dy in _cluster(group.count, scene.relation, diameter, rng):
            placed.append((group, x + dx, y + dy, diameter))
    return _shifted_inside(placed, rng, free=len(scene.groups) == 1)


def _anchors(scene: Scene) -> tuple[list[tuple[float, float]], bool]:
    """Centre of each group on the unit square, and whether the groups stand in a row of three."""
    near, far = 0.26, 0.74
    if len(scene.groups) == 1:
        return [(0.5, 0.5)], False
    if len(scene.groups) == 3:
        return [(1 / 6, 0.5), (0.5, 0.5), (5 / 6, 0.5)], True
    if scene.relation is None:
        raise InputError("scene: a pair without a relation has no unambiguous picture; sample(rng, canonical=True)")
    first, second = (near, far) if scene.relation in ("above", "left") else (far, near)
    if scene.relation in ("above", "below"):
        return [(0.5, first), (0.5, second)], False
    return [(first, 0.5), (second, 0.5)], False


def _cluster(count: int, relation: str | None, diameter: float, rng: random.Random) -> list[tuple[float, float]]:
    """Offsets of a group's objects. In a relation they line up across its axis, so the group stays on its side."""
    if count == 1:
        return [(0.0, 0.0)]
    step = diameter * rng.uniform(1.22, 1.32)
    if count == 3:  # a group of three is alone in its scene
        radius = step / math.sqrt(3)
        start = rng.uniform(0, 2 * math.pi)
        angles = [start + k * 2 * math.pi / 3 for k in range(3)]
        return [(radius * math.cos(a), radius * math.sin(a)) for a in angles]
    upright = relation in ("left", "right") or (relation is None and rng.random() < 0.5)
    return [(0.0, -step / 2), (0.0, step / 2)] if upright else [(-step / 2, 0.0), (step / 2, 0.0)]


def _shifted_inside(placed: list, rng: random.Random, free: bool) -> list:
    """Keep every object on the canvas; a lone group (``free``) may stand anywhere on it."""
    margin = 0.02
    out = []
    for axis in (1, 2):
        low = margin - min(p[axis] - p[3] / 2 for p in placed)
        high = 1 - margin - max(p[axis] + p[3] / 2 for p in placed)
        shift = rng.uniform(low, high) if free else min(max(0.0, low), high)
        out.append(shift)
    return [(group, x + out[0], y + out[1], diameter) for group, x, y, diameter in placed]


def _outline(shape: str, x: float, y: float, radius: float, turn: float) -> list[tuple[float, float]]:
    """Corners of a shape that fits a circle of this radius (a circle has none), turned by ``turn`` radians."""
    if shape == "square":
        polar = [(1.0, math.pi / 4 + k * math.pi / 2) for k in range(4)]
    elif shape == "triangle":
        polar = [(1.0, -math.pi / 2 + k * 2 * math.pi / 3) for k in range(3)]
    elif shape == "star":
        polar = [(1.0 if k % 2 == 0 else 0.42, -math.pi / 2 + k * math.pi / 5) for k in range(10)]
    else:
        arm = 0.3
        reach = math.sqrt(1 - arm**2)
        corners = [(arm, reach), (arm, arm), (reach, arm)]
        polar = []
        for k in range(4):
            for cx, cy in corners:
                polar.append((math.hypot(cx, cy), math.atan2(cy, cx) - k * math.pi / 2))
    return [(x + radius * r * math.cos(a + turn), y + radius * r * math.sin(a + turn)) for r, a in polar]


def blank(rng: random.Random, size: int = 48) -> Image.Image:
    """A background alone: RGB, ``size`` x ``size`` pixels."""
    tint = rng.randint(-BACKGROUND_JITTER, BACKGROUND_JITTER)
    return Image.new("RGB", (size, size), tuple(v + tint for v in rng.choice(BACKGROUNDS)))


def noise(rng: random.Random, size: int = 48) -> Image.Image:
    """Random colours, a pixel each: RGB, ``size`` x ``size`` pixels."""
    return Image.frombytes("RGB", (size, size), rng.randbytes(3 * size * size))


def render(scene: Scene, rng: random.Random, size: int = 48) -> Image.Image:
    """Draw a scene: RGB, ``size`` x ``size`` pixels; background, positions, diameters and tilt vary with ``rng``.

    Drawn at four times the size and averaged down; the same scene and seed give the same bytes.
    """
    canvas = size * SUPERSAMPLING
    image = blank(rng, canvas)
    draw = ImageDraw.Draw(image)
    for group, x, y, diameter in objects(scene, rng):
        cx, cy, radius = x * canvas, y * canvas, diameter * canvas / 2
        if group.shape == "circle":
            draw.ellipse((cx - radius, cy - radius, cx + radius, cy + radius), fill=RGB[group.colour])
        else:
            turn = rng.uniform(-0.12, 0.12)  # radians; keeps a square from becoming a diamond
            draw.polygon(_outline(group.shape, cx, cy, radius, turn), fill=RGB[group.colour])
    return image.reduce(SUPERSAMPLING)
