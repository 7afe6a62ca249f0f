"""Scenes as row files: nothing leaks from the test split or a held-out language; arms differ in nothing else."""

import hashlib
import io
import json
import random
import re

import pandas as pd
import pytest
from PIL import Image

from textreg.data.rows import IMAGES, RowWriter, read_rows
from textreg.errors import InputError
from textreg.scenes import grammar, instructions, languages
from textreg.scenes import rows as prepare
from textreg.scenes.scene import canonical, from_json, sample, to_json
from textreg.scenes.splits import split_of
from textreg.settings import PrepareData

SMALL = {
    "languages": ["en", "es", "eu", "el"], "text_languages": ["es", "ca", "el"], "held_out": ["eu"], "align_rows": 40,
    "visual_rows": 50, "text_rows": 90, "validation_images": 4, "test_images": 12, "arm_images": 2,
    "validation_questions": 1, "test_questions": 3,
}  # fmt: skip
TEXTS = ("text", "text_mono", "text_control", "text_lists")


def written(folder, **changes):
    settings = PrepareData(run=str(folder), **{**SMALL, **changes})
    return settings, prepare.write(settings)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder with the files of one preparation, and the rows it says it wrote."""
    settings, rows = written(tmp_path_factory.mktemp("run"))
    return prepare.folder(settings), rows


def table(run, name):
    return read_rows(run[0] / f"{name}.parquet")


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """Name -> rows of a preparation with many."""
    settings, _ = written(tmp_path_factory.mktemp("large"), visual_rows=600, text_rows=900)
    return {name: read_rows(prepare.folder(settings) / f"{name}.parquet") for name in ("visual", *TEXTS)}


def words_in(texts):
    return {word for text in texts for word in re.findall(r"\w{4,}", text.lower())}


def said_in(rows):
    """Words of all turns."""
    return words_in(turn["content"] for messages in rows["messages"] for turn in messages)


def words_of(code):
    """Words of this language's captions and prompts."""
    rng = random.Random(0)
    captions = [grammar.caption(sample(rng), code, rng=rng) for _ in range(200)]
    return words_in([*captions, *languages.load(code).prompts])


def test_every_file_holds_the_rows_asked_for_and_those_of_text_no_image(run):
    assert run[1] == {
        "images": 1 + 8 + 50 + (4 + 12) + 6 * (1 + 3),
        "align": 40,
        "visual": 50,
        **dict.fromkeys(TEXTS, 90),
        "requests": (4 + 12) * (4 * 3 + 3) + (2 + 2) * 4 * 2 + (6 + 1) + (18 + 3),
    }
    assert {name: len(table(run, name)) for name in run[1]} == run[1]
    assert all(table(run, name)["image_id"].isna().all() for name in TEXTS)


def test_no_scene_of_the_test_or_validation_split_is_trained_on_whatever_the_seed():
    drawn = {
        (seed, split): {to_json(canonical(scene)) for scene in prepare.draw_scenes(seed, split, 200)}
        for seed in (0, 1)
        for split in ("train", "validation", "test")
    }
    for one in drawn:
        for other in drawn:
            if one[1] != other[1]:
                assert not drawn[one] & drawn[other], (one, other)
    assert drawn[0, "test"] != drawn[1, "test"]


def test_no_training_row_shows_or_tells_a_scene_of_another_split(run):
    told = prepare.scenes_told(run[0])
    assert len(told) > 100 and {split_of(from_json(scene)) for scene in told} == {"train"}


def test_no_visual_row_asks_the_kind_of_question_that_is_kept_to_see_what_tuning_costs(large):
    assert set(large["visual"]["task"]) == {"caption", *languages.QUESTIONS} - {prepare.NEVER_TRAINED}


@pytest.mark.parametrize("name", ["align", "visual", "text_control"])
def test_visual_alignment_and_control_rows_are_english(run, name):
    rows = table(run, name)
    assert set(rows["language"]) == {"en"}
    foreign = words_of("es") | words_of("el") | words_of("eu")
    assert not said_in(rows) & (foreign - words_of("en"))


def test_rows_that_do_not_cross_languages_have_a_mirror_in_english_with_the_same_tasks(large):
    shares = {name: rows["task"].value_counts(normalize=True) for name, rows in large.items()}
    mono, control = shares["text_mono"].align(shares["text_control"], fill_value=0)
    assert (mono - control).abs().max() < 0.06
    assert not any(task.startswith("translate") for task in mono.index)
    assert {"translate", "translate_list", "repeat_list"} <= set(shares["text"].index)
    assert set(shares["text_lists"].index) == {"translate_list", "repeat_list"}


def test_english_has_its_share_of_the_sources_of_a_translation(tmp_path):
    settings, _ = written(tmp_path, text_english_source=1.0)
    rows = read_rows(prepare.folder(settings) / "text.parquet").query("task == 'translate'")
    told = [messages[0]["content"].partition(": ")[2] for messages in rows["messages"]]
    assert len(told) > 9 and all(grammar.parse(text, "en") for text in told)


def test_a_held_out_language_is_in_no_text_row_not_even_as_the_source_of_a_translation(run, tmp_path):
    own = words_of("eu") - words_of("es") - words_of("ca") - words_of("el") - words_of("en")
    rows = table(run, "text")
    assert set(rows["task"]) >= {"translate", "describe_text"}
    assert set(rows["language"]) == {"es", "ca", "el"}

    assert not said_in(rows) & own
    settings, _ = written(tmp_path, held_out=[], text_languages=["es", "eu"])
    assert said_in(read_rows(prepare.folder(settings) / "text.parquet")) & own  # the words would have been found


def test_the_shares_of_the_mixture_are_those_of_the_rows(run):
    mixture = pd.read_csv(run[0] / "mixture.csv").set_index("language")
    assert mixture["rows"].to_dict() == table(run, "text")["language"].value_counts().to_dict()
    assert mixture["share"].sum() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("name", ["align", "visual", *TEXTS])
def test_every_answer_that_is_taught_is_right(run, name):
    for _, row in table(run, name).iterrows():
        answer = row["messages"][1]["content"]
        assert instructions.meaning_in(answer, row["task"], row["language"]) is not None, row["row_id"]
        assert row["messages"][0]["content"].count("<image>") == pd.notna(row["image_id"])


def test_a_caption_that_is_taught_describes_its_picture(run):
    shown = table(run, "images").set_index("image_id")["scene"]
    for name in ("align", "visual"):
        rows = table(run, name)
        for _, row in rows[rows["task"] == "caption"].iterrows():
            scene = canonical(from_json(shown[row["image_id"]]))
            told = grammar.parse(row["messages"][1]["content"], "en")
            assert canonical(told) == scene


def test_the_same_seed_writes_the_same_bytes_and_another_seed_others(run, tmp_path):
    def hashes(folder):
        files = sorted(path for path in folder.iterdir() if path.suffix in (".parquet", ".csv"))
        return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}

    again, _ = written(tmp_path / "again")
    other, _ = written(tmp_path / "other", seed=1)
    first, second = hashes(run[0]), hashes(prepare.folder(other))
    assert hashes(prepare.folder(again)) == first
    assert {name for name in first if first[name] == second[name]} == {"mixture.csv"}


def test_the_arms_of_a_request_differ_in_what_comes_before_the_prompt_alone(run):
    captions = table(run, "requests").query("task == 'caption' and not image_id.str.contains('check', na=False)")
    full = 0
    for (_, language), group in captions.groupby(["item_id", "language"]):
        prompts, pictures = group.set_index("arm")["prompt"], group.set_index("arm")["image_id"]
        always = {"image", "text"} | ({"text_en"} if language != "en" else set())
        full += set(prompts.index) == always | {"blank", "keywords"}
        assert set(prompts.index) in (always, always | {"blank", "keywords"})
        asked = prompts["image"].removeprefix("<image>\n")
        assert prompts.get("blank", prompts["image"]) == prompts["image"] == f"<image>\n{asked}"
        assert pictures.get("blank", "blank-0").startswith("blank-")
        meaning, _ = json.loads(group["reference"].iloc[0])
        for arm, code in {"text": language, "text_en": "en"}.items():
            if arm in prompts:
                context, same = prompts[arm].split("\n")
                assert same == asked and instructions.meaning_in(context, "caption", code) == meaning
        assert group["reference"].nunique() == 1
    assert full == (2 + 2) * len(SMALL["languages"])


def test_an_item_has_one_meaning_in_every_language(run):
    requests = table(run, "requests")
    assert set(requests["language"]) == set(SMALL["languages"])
    for item, group in requests.groupby("item_id"):
        assert len({json.loads(cell)[0] for cell in group["reference"]}) == 1, item


def test_every_kind_of_question_is_asked_equally_often_in_english(run):
    checks = table(run, "requests").query("split == 'test' and image_id.str.contains('check', na=False)")
    assert checks.query("task != 'caption'")["task"].value_counts().to_dict() == dict.fromkeys(languages.QUESTIONS, 3)
    assert set(checks["language"]) == {"en"} and set(checks["arm"]) == {"image"}


def test_every_reference_is_a_right_answer(run):
    for _, row in table(run, "requests").iterrows():
        meaning, answer = json.loads(row["reference"])
        assert instructions.meaning_in(answer, row["task"], row["language"]) == meaning, row["item_id"]


def test_pictures_are_all_there_and_the_blank_one_shows_nothing(run):
    images = table(run, "images").set_index("image_id")
    assert images["split"].value_counts().to_dict() == {"train": 50, "test": 12 + 18, "validation": 4 + 6, "all": 9}
    asked = set(table(run, "requests")["image_id"].dropna()) | set(table(run, "visual")["image_id"])
    assert asked <= set(images.index)
    contrasts = {}
    for name, image in images["image"].items():
        picture = Image.open(io.BytesIO(image["bytes"])).convert("L")
        assert picture.size == (48, 48)
        low, high = picture.getextrema()
        contrasts[name] = high - low
    empty = [contrasts.pop(name) for name in list(contrasts) if name.startswith("blank")]
    assert empty.count(0) == 1 + 4 and max(contrasts.values()) < max(empty)  # the others are noise
    assert min(contrasts.values()) > 0


def test_the_contact_sheet_shows_the_pictures_side_by_side(run):
    sheet = prepare.contact_sheet(run[0] / "images.parquet", "train", count=7, scale=2, columns=6)
    assert sheet.image.size == (6 * (96 + 6) - 6, 2 * (96 + 6) - 6)
    assert sheet.alt == "7 pictures of the train split, each with one to three coloured shapes"


def test_the_contact_sheet_of_photographs_promises_no_shapes_and_leaves_the_blank_picture_out(tmp_path):
    Image.new("RGB", (300, 200), "red").save(tmp_path / "b.png")
    image_rows = [
        ("blank", {"bytes": (tmp_path / "b.png").read_bytes(), "path": None}),
        ("mine/a", {"bytes": (tmp_path / "b.png").read_bytes(), "path": None}),
        ("mine/b", {"bytes": None, "path": "b.png"}),
    ]
    with RowWriter(tmp_path / "images.parquet", IMAGES, image_root=tmp_path) as writer:
        for name, image in image_rows:
            writer.write({"image_id": name, "split": "train", "image": image, "scene": None})
    sheet = prepare.contact_sheet(tmp_path / "images.parquet", "train", count=12, columns=2)
    assert sheet.alt == "2 pictures of the train split"
    assert sheet.image.size == (2 * 160 + 6, 160)
    assert sheet.image.getpixel((250, 80)) == (255, 0, 0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"languages": ["en", "ess"]}, r"languages: no language file for 'ess' \(did you mean 'es'"),
        ({"text_languages": ["xx"]}, r"text_languages: no language file for 'xx'"),
        ({"held_out": ["xx"]}, r"held_out: no language file for 'xx'"),
        ({"languages": ["es", "eu"]}, r"English \(en\) is missing"),
        ({"held_out": ["es"]}, r"held_out: es also in text_languages"),
    ],
)
def test_a_wrong_set_of_languages_is_refused_and_nothing_is_written(changes, message, tmp_path):
    with pytest.raises(InputError, match=message):
        written(tmp_path, **changes)
    assert not (tmp_path / "prepare_data").exists()
