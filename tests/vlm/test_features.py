"""Kept features are the features, and a stale file is never read."""

import pickle
import shutil

import hub_folders
import numpy as np
import pytest
import torch
from conftest import write_tower

from textreg.data import images
from textreg.data.images import ImageTable
from textreg.data.rows import IMAGES, RowWriter
from textreg.errors import InputError, RunError
from textreg.training.batches import StepBatches, encode
from textreg.training.learner import Learner
from textreg.vlm import features as feature_module
from textreg.vlm.adapters import attach
from textreg.vlm.assembly import assemble
from textreg.vlm.features import open_features, projected


@pytest.mark.parametrize(("tower", "head"), [("siglip", False), ("siglip", True), ("clip", False)])
def test_fetched_features_give_the_logits_of_the_pixels(tmp_path, tiny_llm, tiny_images, tower, head):
    model, processor = assemble(str(tiny_llm), str(write_tower(tmp_path / "t", tower, head=head)))
    inputs = processor(images=tiny_images.image("image-3"), text="<image>\nWhat?", return_tensors="pt")
    expected = model(**inputs).logits
    for cache in (True, False):
        features = open_features(model, processor, tiny_images, tmp_path / "kept", cache=cache)
        seen = projected(model, features.fetch(["image-3"]))
        found = model(input_ids=inputs["input_ids"], mm_encoder_outputs=seen).logits
        # Several threads add up a batch of nine in another order than a single picture.
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_the_tower_looks_once_at_a_picture_over_all_arms_and_never_at_text(tmp_path, tiny_vlm, tiny_images, tiny_rows):
    model, processor = tiny_vlm
    looked = []
    model.model.vision_tower.register_forward_pre_hook(lambda _, pictures: looked.append(len(pictures[0])))
    learner = Learner(attach(model, rank=4, alpha=8))
    for _ in ("BM", "TR"):
        features = open_features(model, processor, tiny_images, tmp_path)
        samples = encode(processor, tiny_rows, features, max_length=128)
        learner(**StepBatches(samples, range(16), steps=1, batch_size=16, groups=1, features=features)[0])
    assert sum(looked) == len(tiny_images.ids) + 1  # and the blank one
    text = tiny_rows[tiny_rows["image_id"].isna()]
    pixels = open_features(model, processor, tiny_images, cache=False)  # here the tower runs in the step
    samples = encode(processor, text, pixels, max_length=128)
    learner(**StepBatches(samples, range(4), steps=1, batch_size=4, groups=1, features=pixels)[0])
    assert sum(looked) == len(tiny_images.ids) + 1


def test_another_tower_gets_another_file(tmp_path, tiny_vlm, tiny_images):
    model, processor = tiny_vlm
    before = open_features(model, processor, tiny_images, tmp_path).fetch(["image-1"])["image_features"]
    with torch.no_grad():
        model.model.vision_tower.embeddings.patch_embedding.bias.add_(1.0)
    after = open_features(model, processor, tiny_images, tmp_path).fetch(["image-1"])["image_features"]
    assert len(list(tmp_path.glob("*.npy"))) == 2
    assert not torch.equal(before, after)


def test_equal_pictures_are_kept_once(tiny_vlm, tiny_images):
    tiny_images.encoded["twin"] = tiny_images.encoded["image-0"]
    kept = open_features(*tiny_vlm, tiny_images)
    assert len(kept.rows) == 10 and kept.array.shape[0] == 9


def test_bf16_features_are_kept_as_they_are(tmp_path, tiny_llm, tiny_tower, tiny_images):
    model, processor = assemble(str(tiny_llm), str(tiny_tower), precision="bf16")
    kept = open_features(model, processor, tiny_images, tmp_path).fetch(["image-2"])["image_features"]
    live = open_features(model, processor, tiny_images, cache=False).fetch(["image-2"])

    assert kept.dtype == torch.bfloat16
    assert torch.equal(kept, feature_module.tower_features(model, live["pixels"]))


def test_a_disk_that_is_too_small_is_found_before_the_work(tmp_path, tiny_vlm, tiny_images, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(100, 100, 0))
    with pytest.raises(InputError, match="cache_features=false"):
        open_features(*tiny_vlm, tiny_images, tmp_path)
    assert not list(tmp_path.glob("*.npy")) and not list(tmp_path.glob("*.partial"))


def test_the_blank_image_is_always_there_and_uniform(tiny_images):
    assert np.ptp(np.asarray(tiny_images.image("blank"))) == 0


def image_rows(table, images, **options):
    with RowWriter(table, IMAGES, **options) as writer:
        for name, image in images.items():
            writer.write({"image_id": name, "split": "train", "image": image, "scene": None})


def test_pictures_are_read_from_bytes_and_from_paths(tmp_path, tiny_images):
    (tmp_path / "photos").mkdir()
    tiny_images.image("image-4").save(tmp_path / "photos" / "four.png")
    table = tmp_path / "images.parquet"
    records = [{"bytes": tiny_images.encoded["image-1"], "path": None}, {"bytes": None, "path": "photos/four.png"}]
    image_rows(table, dict(zip(["one", "four"], records, strict=True)))
    images = ImageTable.read(table)
    assert np.array_equal(images.image("four"), tiny_images.image("image-4"))
    assert np.array_equal(images.image("one"), tiny_images.image("image-1"))


def test_a_large_table_is_mapped_and_gives_the_same_pictures_whatever_it_held_before(tmp_path, monkeypatch):
    path = tmp_path / "images.parquet"
    for shade in (0, 100):
        encoded = {str(number): {"bytes": hub_folders.png(shade + number), "path": None} for number in range(1, 5)}
        image_rows(path, {"0": {"bytes": None, "path": "a.png"}, **encoded}, group=2)
        held = ImageTable.read(path)
        monkeypatch.setattr(images, "IN_MEMORY", 0)
        mapped = pickle.loads(pickle.dumps(ImageTable.read(path, ids=["0", "3", "4"])))  # as workers receive it
        monkeypatch.undo()
        assert isinstance(mapped.encoded, images.MappedPictures) and mapped.paths == {"0": "a.png"}
        assert {name: mapped.data(name) for name in ("3", "4")} == {name: held.data(name) for name in ("3", "4")}
        assert "1" not in mapped.encoded and len(mapped) == 3


def test_a_picture_that_is_nowhere_is_found_on_reading(tmp_path):
    image_rows(tmp_path / "images.parquet", {"x": {"bytes": None, "path": None}})
    with pytest.raises(InputError, match="image 'x' has neither bytes nor a path; run the stage prepare_data again"):
        ImageTable.read(tmp_path / "images.parquet")


def test_a_damaged_table_of_pictures_is_one_line(tmp_path, tiny_images):
    table = tmp_path / "images.parquet"
    image_rows(table, {name: {"bytes": tiny_images.encoded[name], "path": None} for name in ("image-1", "image-2")})
    data = bytearray(table.read_bytes())
    data[60:400] = bytes(340)  # inside a column, behind an intact footer
    table.write_bytes(data)
    with pytest.raises(InputError, match=r"images\.parquet is not a readable Parquet file .*prepare_data again"):
        ImageTable.read(table)


def test_a_broken_picture_is_named(tmp_path):
    with pytest.raises(InputError, match=r"image 'x': (truncated|not an image)"):
        ImageTable({"x": b"\x89PNG not really"}, {}, tmp_path).image("x")


def test_an_unknown_image_gets_a_suggestion(tiny_images):
    with pytest.raises(InputError, match="did you mean 'image-3'"):
        tiny_images.image("imag-3")


def test_pictures_that_do_not_fit_together_are_halved_and_their_features_are_the_same(
    tiny_vlm, tiny_images, monkeypatch
):
    expected = open_features(*tiny_vlm, tiny_images)
    original, sizes = feature_module.tower_features, []

    def small(model, pixel_values):
        if len(pixel_values) > 2:
            raise torch.cuda.OutOfMemoryError("out of memory")
        sizes.append(len(pixel_values))
        return original(model, pixel_values)

    monkeypatch.setattr(feature_module, "tower_features", small)
    found = open_features(*tiny_vlm, tiny_images)
    assert sum(sizes) == 9 and max(sizes) == 2
    np.testing.assert_allclose(found.array, expected.array, atol=1e-5)


def test_one_picture_that_does_not_fit_is_one_line(tiny_vlm, tiny_images, monkeypatch):
    def full(*_):
        raise torch.cuda.OutOfMemoryError("out of memory")

    monkeypatch.setattr(feature_module, "tower_features", full)
    with pytest.raises(RunError, match=r"features of one picture.*close"):
        open_features(*tiny_vlm, tiny_images)
