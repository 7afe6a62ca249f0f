import random

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy import ndimage
from scipy.spatial import ConvexHull

from textreg.errors import InputError
from textreg.scenes.scene import (
    BACKGROUNDS,
    RGB,
    Group,
    Scene,
    canonical,
    flip,
    from_json,
    objects,
    render,
    sample,
    to_json,
)

A, B = Group("red", "circle", "small"), Group("blue", "star", "large")
any_scene = st.integers(0, 10**9).map(lambda seed: sample(random.Random(seed)))
picture_scene = st.integers(0, 10**9).map(lambda seed: sample(random.Random(seed), canonical=True))


def test_above_and_below_told_from_the_other_side_mean_the_same():
    assert canonical(Scene((A, B), "above")) == canonical(Scene((B, A), "below"))
    assert canonical(Scene((A, B), "above")) != canonical(Scene((A, B), "below"))
    assert canonical(Scene((A, B), "above")) != canonical(Scene((A, B), "left"))


def test_a_conjunction_has_no_order():
    assert canonical(Scene((A, B))) == canonical(Scene((B, A)))
    assert canonical(Scene((A, B))) != canonical(Scene((A, B), "left"))


@given(any_scene)
def test_the_canonical_scene_is_a_fixed_point_of_the_same_meaning(scene):
    assert canonical(canonical(scene)) == canonical(scene)
    assert canonical(scene).relation in (None, "above", "left")


@given(any_scene)
def test_flipping_twice_gives_the_scene_back(scene):
    if scene.relation:
        assert flip(flip(scene)) == scene
        assert canonical(flip(scene)) == canonical(scene)


@given(any_scene)
def test_json_gives_the_scene_back(scene):
    assert from_json(to_json(scene)) == scene


@given(st.text(max_size=40))
@example("null")
@example('{"groups":[],"relation":null}')
@example('{"groups":[{"colour":"red"}],"relation":null}')
@example('{"groups":[{"colour":["red"],"shape":"star"}],"relation":null}')
@example('{"groups":[{"colour":"red","shape":"star","count":true}],"relation":null}')
@example("[" * 100_000)
def test_json_of_anything_else_is_an_input_error(text):
    with pytest.raises(InputError):
        from_json(text)


def test_an_unknown_colour_is_refused_with_a_suggestion():
    with pytest.raises(InputError, match=r"'gren'.*'green'"):
        from_json('{"groups":[{"colour":"gren","shape":"star","size":null,"count":1}],"relation":null}')


@pytest.mark.parametrize(
    "groups, relation",
    [((), None), ((A, Group("red", "star", None, 3)), "left"), ((A,), "left"), ((A, B, A), "above"), ((A, B), "near")],
)
def test_impossible_scenes_cannot_be_made(groups, relation):
    with pytest.raises(InputError):
        Scene(groups, relation)


@given(any_scene)
def test_sampled_groups_all_differ_in_colour_and_in_shape(scene):
    assert len({group.colour for group in scene.groups}) == len({group.shape for group in scene.groups})
    assert len({group.colour for group in scene.groups}) == len(scene.groups)


def test_pairs_in_a_relation_dominate_and_three_groups_are_rare():
    rng = random.Random(0)
    drawn = [sample(rng) for _ in range(4000)]
    related = sum(scene.relation is not None for scene in drawn) / len(drawn)
    three = sum(len(scene.groups) == 3 for scene in drawn) / len(drawn)
    assert related > 0.5 and 0.05 < three < 0.15


@given(picture_scene)
def test_scenes_for_pictures_use_two_relations_and_relate_every_pair(scene):
    assert (scene.relation in ("above", "left")) == (len(scene.groups) == 2)


def test_every_shape_colour_is_far_from_every_background_and_from_the_others():
    colours = [np.array(rgb) for rgb in RGB.values()]
    for background in BACKGROUNDS:
        assert min(np.linalg.norm(colour - np.array(background)) for colour in colours) > 85
    assert min(np.linalg.norm(a - b) for i, a in enumerate(colours) for b in colours[:i]) > 85


def test_a_pair_without_a_relation_is_not_drawn():
    with pytest.raises(InputError, match="unambiguous"):
        render(Scene((A, B)), random.Random(0))


@given(picture_scene, st.integers(0, 10**6))
def test_objects_stay_on_the_canvas_and_apart(scene, seed):
    placed = objects(scene, random.Random(seed))
    assert len(placed) == scene.count
    for i, (_, x, y, diameter) in enumerate(placed):
        assert diameter / 2 <= x <= 1 - diameter / 2 and diameter / 2 <= y <= 1 - diameter / 2
        for _, other_x, other_y, other in placed[:i]:
            apart = ((x - other_x) ** 2 + (y - other_y) ** 2) ** 0.5
            assert apart > (diameter + other) / 2 + 0.01


def read_picture(image) -> Scene:
    """A reader that knows only the pixels: connected regions of exact colours, their outline, extent and place."""
    pixels = np.asarray(image).astype(int)
    side = pixels.shape[0]
    found = {}
    for colour, rgb in RGB.items():
        labels, number = ndimage.label((pixels == rgb).all(axis=2))
        for k in range(1, number + 1):
            points = np.argwhere(labels == k)
            if len(points) < (0.05 * side) ** 2:
                continue
            found.setdefault(colour, []).append(points)
    groups = []
    for colour, regions in found.items():
        points = regions[0]
        hull = ConvexHull(points)
        solidity = len(points) / (hull.volume + hull.area / 2)
        radius = np.linalg.norm(points - points.mean(axis=0), axis=1).max()
        fill = len(points) / radius**2
        if solidity < 0.66:
            shape = "star"
        elif solidity < 0.86:
            shape = "cross"
        else:
            shape = "circle" if fill > 2.6 else "square" if fill > 1.65 else "triangle"
        centre = np.concatenate(regions).mean(axis=0) / side
        groups.append((centre, colour, shape, 2 * radius / side, len(regions)))
    limit = 0.225 if len(groups) == 3 else 0.30
    made = [(c, Group(colour, shape, "small" if d < limit else "large", n)) for c, colour, shape, d, n in groups]
    relation = None
    if len(made) == 2:
        dy, dx = np.abs(made[0][0] - made[1][0])
        relation, axis = ("above", 0) if dy > dx else ("left", 1)
        made.sort(key=lambda pair: pair[0][axis])
    return Scene(tuple(group for _, group in made), relation)


@pytest.mark.parametrize("seed", range(150))
def test_a_reader_of_pixels_recovers_the_whole_scene(seed):
    rng = random.Random(seed)
    scene = sample(rng, canonical=True)
    assert canonical(read_picture(render(scene, rng, size=144))) == canonical(scene)


def test_three_groups_stand_from_left_to_right_in_the_order_they_are_named():
    scene = sample(random.Random(1), canonical=True, groups=3)
    across = [x for _, x, _, _ in objects(scene, random.Random(2))]
    assert across == sorted(across)
