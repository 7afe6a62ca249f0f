"""Every scene belongs to one split, and some combinations are for validation and test alone."""

import random

import pytest

from textreg.scenes.scene import COLOURS, SHAPES, flip, sample
from textreg.scenes.splits import HELD_OUT, draw, is_new, split_of


def scenes(count):
    rng = random.Random(0)
    return [sample(rng, canonical=True) for _ in range(count)]


def test_two_descriptions_of_one_scene_belong_to_one_split():
    for scene in scenes(300):
        if scene.relation:
            assert split_of(scene) == split_of(flip(scene))


def test_of_the_known_combinations_a_tenth_of_the_scenes_is_for_test_and_half_of_that_for_validation():
    splits = [split_of(scene) for scene in scenes(4000) if not is_new(scene)]
    assert splits.count("test") / len(splits) == pytest.approx(0.1, abs=0.02)
    assert splits.count("validation") / len(splits) == pytest.approx(0.05, abs=0.015)


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_a_tenth_of_what_validation_and_test_ask_about_is_a_new_combination_and_nothing_of_training(split):
    rng = random.Random(1)
    drawn = [draw(rng, split, canonical=True) for _ in range(400)]
    assert {split_of(scene) for scene in drawn} == {split}
    new = sum(map(is_new, drawn)) / len(drawn)
    assert new == 0 if split == "train" else 0.05 < new < 0.16


def test_every_colour_and_every_shape_of_a_new_combination_is_known_from_others():
    assert {colour for _, colour, _ in HELD_OUT} <= set(COLOURS) and {shape for *_, shape in HELD_OUT} <= set(SHAPES)
    assert len({colour for _, colour, _ in HELD_OUT}) == len({shape for *_, shape in HELD_OUT}) == len(HELD_OUT) == 4
