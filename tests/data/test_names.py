"""Data sets of one name, pictures of one name, and the languages of visual rows."""

import json

import hub_folders
import pytest
from hub_folders import settings as hub_settings
from hub_folders import visual_folder

from textreg.data import prepare, sources
from textreg.data.rows import read_rows
from textreg.errors import InputError


def stored(folder):
    table = read_rows(folder / "images.parquet", ["image_id", "split", "image"])
    return {row.image_id: (row.split, row.image["bytes"]) for row in table.itertuples()}


def test_pictures_of_one_file_name_in_two_data_sets_stay_apart(tmp_path):
    one = visual_folder(tmp_path / "one", [1, 2, 3])
    two = visual_folder(tmp_path / "two", [101, 102, 103])
    settings = hub_settings(tmp_path, visual_data=[one, two], visual_rows=6)
    prepare.prepare(settings, tmp_path / "out", lambda line: None)
    rows = read_rows(tmp_path / "out" / "visual.parquet")
    assert rows["row_id"].is_unique and rows["image_id"].nunique() == 6
    pictures = stored(tmp_path / "out")
    assert pictures["one/0.png"][1] == hub_folders.png(1)
    assert pictures["two/0.png"][1] == hub_folders.png(101)


def test_a_question_sees_its_own_picture_and_not_a_training_picture_of_that_name(tmp_path):
    name = "00000/000000000.png"
    (tmp_path / "check" / "00000").mkdir(parents=True)
    (tmp_path / "check" / name).write_bytes(hub_folders.png(77))
    question = {"image": name, "question": "What is it?", "answer": "a thing"}
    (tmp_path / "check" / "check.jsonl").write_text(json.dumps(question), "utf-8")
    settings = hub_settings(tmp_path, align_rows=12, visual_check=str(tmp_path / "check" / "check.jsonl"))
    prepare.prepare(settings, tmp_path / "out", lambda line: None)
    requests = read_rows(tmp_path / "out" / "requests.parquet")
    asked = requests[(requests["task"] == "question") & (requests["arm"] == "image")]
    assert stored(tmp_path / "out")[asked["image_id"].item()] == ("test", hub_folders.png(77))


@pytest.mark.parametrize("setting", ["visual_data", "text_data"])
def test_two_data_sets_of_one_name_are_refused_in_one_line(tmp_path, setting):
    make = visual_folder if setting == "visual_data" else lambda place, _: str(hub_folders.aya(place))
    names = [make(tmp_path / place / "mine", [1, 2]) for place in ("a", "b")]
    with pytest.raises(InputError, match=rf"prepare_data\.{setting}: .*a/mine and .*b/mine .*'mine'.*rename one"):
        prepare.prepare(hub_settings(tmp_path, **{setting: names}), tmp_path / "out", lambda line: None)


def test_a_data_set_listed_twice_is_refused_but_may_serve_two_settings(tmp_path):
    mine = visual_folder(tmp_path / "mine", [1, 2])
    with pytest.raises(InputError, match=r"prepare_data\.visual_data names .*mine twice; name it once"):
        sources.check_names({"visual_data": [mine, mine]})
    sources.check_names({"align_data": [mine], "visual_data": [mine], "text_data": ["o/t@1", "o/u"]})
