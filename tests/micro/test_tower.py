"""The micro tower: the attributes it learns from, the pixels it sees, and a training in miniature."""

import random
from dataclasses import replace

import pytest
import torch
from transformers import SiglipImageProcessorPil

from textreg.errors import InputError
from textreg.micro import tower
from textreg.scenes.scene import COLOURS, SHAPES, SIZES, Group, Scene, render, sample
from textreg.settings import Backbone

TINY = Backbone(
    tower_hidden=16, tower_layers=1, tower_heads=2, image_size=24, patch_size=6, tower_steps=200, tower_batch=8
)


def scene_of(target):
    """The scene that attributes describe."""
    groups = []
    for slot in range(tower.SLOTS):
        values = [target[f"{name}{slot}"] for name in ("colour", "shape", "size", "count")]
        if any(values):
            colour, shape, size, count = values
            groups.append(Group(COLOURS[colour - 1], SHAPES[shape - 1], SIZES[size - 1], count))
    return Scene(tuple(groups), tower.RELATIONS_SEEN[target["relation"]])


@pytest.mark.parametrize("seed", range(100))
def test_attributes_say_all_about_a_scene(seed):
    scene = sample(random.Random(seed), canonical=True)
    assert scene_of(tower.attributes(scene)) == scene


def test_every_attribute_has_a_class_of_its_own_and_every_class_occurs():
    rng = random.Random(0)
    found = [tower.attributes(sample(rng, canonical=True)) for _ in range(3000)]
    for name, count in tower.classes().items():
        seen = {target[name] for target in found}
        expected = set(range(1 if name.endswith("0") else 0, count))  # the first slot is never empty
        if name.startswith("count"):
            expected -= {3} if name.endswith("1") else {2, 3} if name.endswith("2") else set()
        assert seen == expected, name


def test_pixels_are_those_of_the_image_processor_that_ships_with_the_tower():
    rng = random.Random(0)
    images = [render(sample(rng, canonical=True), rng, 48) for _ in range(4)]
    side = {"height": 48, "width": 48}
    processor = SiglipImageProcessorPil(size=side, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    expected = torch.as_tensor(processor(images, return_tensors="pt")["pixel_values"])
    assert torch.allclose(tower.pixels(images), expected, atol=1e-6)


def test_examples_are_pictures_with_one_class_per_attribute():
    pictures, targets = tower.examples(random.Random(0), 24, 5)
    assert pictures.shape == (5, 3, 24, 24) and pictures.abs().max() <= 1
    assert targets.shape == (5, len(tower.classes()))
    assert (targets < torch.tensor(list(tower.classes().values()))).all()


def test_every_attribute_is_read_from_a_token_of_its_own():
    places = tower.tokens()
    assert set(places) == set(tower.classes())
    assert len(set(places.values())) == len(places)


def test_a_tower_with_fewer_tokens_than_attributes_is_refused_by_the_setting_to_change():
    with pytest.raises(InputError, match="patch_size=12 cuts an image of 24 pixels into 4 tokens"):
        tower.build_tower(replace(TINY, patch_size=12))


@pytest.fixture(scope="module")
def trained():
    reports = []
    return *tower.train_tower(TINY, reports.append), reports


def test_the_loss_falls_within_two_hundred_steps(trained):
    _, _, reports = trained
    assert [report["step"] for report in reports] == [100, 200]
    assert reports[1]["loss"] < reports[0]["loss"]


def test_every_attribute_is_scored_on_held_out_scenes_and_all_of_them_at_once(trained):
    model, accuracy, _ = trained
    assert list(accuracy) == [*tower.classes(), "all"]
    assert all(0 <= value <= 1 for value in accuracy.values())
    assert accuracy["all"] <= min(accuracy.values())
    assert not model.training


def test_a_share_of_the_pictures_is_grey_and_only_they_are_not_asked_for_colours():
    pictures, targets = tower.examples(random.Random(0), 24, 200)
    shown, asked = tower.greyed(pictures, targets, torch.Generator().manual_seed(0))
    grey = (asked == -100).any(1)
    colours = torch.tensor([name.startswith("colour") for name in tower.classes()])
    assert grey.float().mean().item() == pytest.approx(tower.GREY, abs=0.1)
    assert torch.allclose(shown[grey], shown[grey][:, :1].expand(-1, 3, -1, -1))
    assert (asked[grey][:, colours] == -100).all() and torch.equal(asked[:, ~colours], targets[:, ~colours])
    assert torch.equal(asked[~grey], targets[~grey]) and torch.equal(shown[~grey], pictures[~grey])
