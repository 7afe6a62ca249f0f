"""What is asked: the same items in every arm and language, from scenes, a folder, or Crossmodal-3600."""

import json

import pytest
from PIL import Image

from textreg.data.images import open_image
from textreg.errors import InputError
from textreg.scenes import grammar, languages
from textreg.scenes.instructions import meaning_in
from textreg.serve.probes import ARMS, folder_set, png, probe_set, scene_set


@pytest.fixture
def photos(tmp_path):
    for name, colour in (("b.png", "red"), ("a.jpg", "blue")):
        Image.new("RGB", (30, 20), colour).save(tmp_path / name)
    return tmp_path


def test_scenes_are_asked_in_every_language_and_arm():
    probes = scene_set(limit=2).probes
    assert len(probes) == 2 * len(languages.codes()) * len(ARMS)
    assert {(p.item_id, p.language, p.arm) for p in probes} == {
        (f"scene-0000{n}:caption", code, arm) for n in (0, 1) for code in languages.codes() for arm in ARMS
    }


def test_the_arms_of_an_item_differ_in_the_context_alone():
    for image, blank, text in zip(*[iter(scene_set(("es", "uk"), 3).probes)] * 3, strict=True):
        question = image.prompt.removeprefix("<image>\n")
        assert blank.prompt == image.prompt
        context, _, asked = text.prompt.partition("\n")
        assert asked == question
        meaning, answer = json.loads(text.reference)
        assert meaning_in(context, "caption", text.language) == meaning
        assert grammar.parse(answer, text.language) is not None
        assert text.picture is None
        assert open_image(png(image.picture)).size == open_image(png(blank.picture)).size == (224, 224)
        assert len(open_image(png(blank.picture)).getcolors()) == 1 < len(open_image(png(image.picture)).getcolors())


def test_the_same_seed_asks_the_same_and_another_does_not():
    assert scene_set(("en",), 2) == scene_set(("en",), 2)
    assert scene_set(("en",), 2, seed=1) != scene_set(("en",), 2)


def test_a_folder_without_captions_has_no_text_arm_and_says_so(photos):
    probes = folder_set(photos, ("ja", "gl"))
    assert {p.arm for p in probes.probes} == {"image", "blank"}
    assert [p.item_id for p in probes.probes][::4] == ["a.jpg:caption", "b.png:caption"]
    assert "text arm is left out" in probes.notes[0]
    assert all(p.reference == "[]" for p in probes.probes)


def test_captions_of_a_folder_make_its_text_arm(photos):
    places = (("photos/a.jpg", "es-MX", "Foto\u2028a.jpg."), ("b.png", "Spanish", "Foto b.png."))
    lines = [dict(zip(("image", "language", "caption"), place, strict=True)) for place in places]
    text = "\n".join(json.dumps(line, ensure_ascii=False) for line in lines)
    (photos / "captions.jsonl").write_bytes(text.encode("utf-8-sig"))
    probes = folder_set(photos, ("español",))
    assert not probes.notes
    told = [p for p in probes.probes if p.arm == "text"]
    assert told[1].prompt.startswith("Foto b.png.\n")
    assert json.loads(told[1].reference) == ["Foto b.png."]
    assert "2 requests" in folder_set(photos, ("es", "fr")).notes[0]
    (photos / "captions.jsonl").write_text(json.dumps({**lines[0], "image": "a"}))
    assert "no image of the folder: a" in folder_set(photos, ("es",)).notes[0]


@pytest.mark.parametrize(
    "line", ["x", "[]", '{"image": "a.jpg"}', '{"image": "a.jpg", "language": "es", "caption": 3}']
)
def test_a_wrong_caption_line_is_named(photos, line):
    (photos / "captions.jsonl").write_text('{"image": "a.jpg", "language": "es", "caption": "Foto."}\n' + line)
    with pytest.raises(InputError, match="line 2"):
        folder_set(photos, ("es",))


def test_a_broken_image_stops_everything_before_the_first_question(photos):
    (photos / "c.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(InputError, match=r"c\.png"):
        folder_set(photos, ("es",))


@pytest.mark.parametrize(
    ("images", "codes", "limit", "said"),
    [
        ("", ("jp",), 1, "'jp'"),
        ("", ("ja",), 1, "no prompts"),
        ("", ("de", "sr-Latn"), 1, "no prompts in language 'sr-Latn'"),
        ("", (), 0, "at least 1"),
        ("/nowhere/at/all", (), 1, "no such folder"),
        ("pictures", (), 1, "no such folder"),
    ],
)
def test_a_set_that_cannot_be_made_says_why(images, codes, limit, said):
    with pytest.raises(InputError, match=said):
        probe_set(images, codes, limit)


def test_crossmodal_is_asked_with_its_own_captions(tmp_path):
    import io

    import pyarrow as pa
    import pyarrow.parquet as pq

    (tmp_path / "data").mkdir()
    for code in ("es", "ja"):
        rows = []
        for number in range(3):
            buffer = io.BytesIO()
            Image.new("RGB", (30, 20), (number * 50, 0, 0)).save(buffer, "JPEG")
            image = {"bytes": buffer.getvalue(), "path": None}
            rows.append({"image_id": f"i{number}", "captions": [f"{code} {number}", "x"], "image": image})
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "data" / f"{code}-00000-of-00001.parquet")
    probes = probe_set(str(tmp_path), ("es", "ja"), 2)
    assert probes.name == "Crossmodal-3600"
    assert len(probes.probes) == 2 * 2 * 3
    told = [p for p in probes.probes if p.arm == "text" and p.language == "ja"]
    assert all(p.prompt.startswith(json.loads(p.reference)[0] + "\n") for p in told)
    assert len(probe_set(str(tmp_path), ("es", "ja"), 24).probes) == 3 * 2 * 3  # as many as there are
