"""The files of ``prepare_data`` at hub scale."""

import json

import hub_folders
import pandas as pd
import pyarrow.parquet as pq
import pytest

from textreg.data import prepare
from textreg.data.rows import IMAGES, REQUESTS, ROWS, image_root, read_rows
from textreg.errors import InputError


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Folder, result and words of one preparation, and its settings."""
    lines, place = [], tmp_path_factory.mktemp("prepared")
    settings = hub_folders.settings(place)
    result = prepare.prepare(settings, place / "out", lines.append)
    return place / "out", result, "\n".join(lines), settings


def test_prepare_writes_every_file_of_the_contract(prepared):
    folder, result, *_ = prepared
    names = {"align", "visual", "text", "text_control", "images", "requests"}
    assert {path.stem for path in folder.glob("*.parquet")} == names
    assert result.rows == {"align": 6, "visual": 5, "text": 8, "text_control": 8, "requests": 55, "images": 17}
    for name, schema in (("align", ROWS), ("images", IMAGES), ("requests", REQUESTS)):
        assert pq.read_schema(folder / f"{name}.parquet").names == schema.names


def test_every_image_a_row_or_request_names_is_in_the_image_table(prepared):
    folder, *_ = prepared
    ids = set(read_rows(folder / "images.parquet", ["image_id"])["image_id"])
    for name in ("align", "visual", "requests"):
        asked = read_rows(folder / f"{name}.parquet")["image_id"].dropna()
        assert len(asked) and set(asked) <= ids


def test_the_text_rows_follow_the_plan_and_the_control_is_english(prepared):
    folder, _, said, _ = prepared
    text = read_rows(folder / "text.parquet")
    assert text["language"].value_counts().to_dict() == {"es": 5, "ga": 3}
    assert text["image_id"].isna().all()
    assert set(read_rows(folder / "text_control.parquet")["language"]) == {"en"}
    assert pd.read_csv(folder / "mixture.csv")["rows"].sum() == 8
    assert "text mixture: 8 rows in 2 languages" in said


def test_preparing_twice_gives_the_same_bytes(tmp_path, prepared):
    folder, *_, settings = prepared
    prepare.prepare(settings, tmp_path / "again", lambda line: None)
    for path in folder.iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes(), path.name


def test_the_image_table_opens_with_the_folder_its_paths_are_relative_to(tmp_path):
    images = hub_folders.pretrain(tmp_path / "lcs") / "images"
    settings = hub_folders.settings(tmp_path, align_data=str(tmp_path / "lcs"), image_folder=str(images))
    (tmp_path / "lcs" / "images.zip").unlink()
    prepare.prepare(settings, tmp_path / "out", lambda line: None)
    root = image_root(tmp_path / "out" / "images.parquet")
    stored = read_rows(tmp_path / "out" / "images.parquet")["image"]
    paths = [image["path"] for image in stored if image["path"]]
    assert len(paths) == 6 and all((root / path).is_file() for path in paths)


def test_no_english_text_for_the_control_is_an_error(tmp_path):
    only_irish = str(hub_folders.messages(tmp_path / "ga" / "chat.jsonl", language="gle"))
    settings = hub_folders.settings(tmp_path, text_data=[only_irish], text_languages=["ga"])
    with pytest.raises(InputError, match="no English text row for the control"):
        prepare.prepare(settings, tmp_path / "out", lambda line: None)


def test_a_mixture_like_the_paper_s_is_refused_where_a_language_misses_its_share_by_half(tmp_path):
    settings = hub_folders.settings(tmp_path, text_languages=["es", "ca", "gl"], text_mixture="paper", text_rows=1000)
    pool = {("mine", "es"): 900, ("mine", "ca"): 150}
    with pytest.raises(
        InputError, match=r"ca 15\.0% of the 41\.5% it shall have\W.*known: projecte-aina/RAG_Multilingual"
    ):
        prepare.text_plan(settings, pool, lambda line: None)
    plan = prepare.text_plan(settings, pool | {("mine", "ca"): 300, ("mine", "gl"): 9}, lambda line: None)
    table = plan.table().set_index("language")
    assert table.loc["ca", ["rows", "wanted"]].tolist() == [300, pytest.approx(20 / 48.22)]
    assert "ca        300 rows  30.00 %  mine (of 41.48 % wanted)" in plan.describe()


def test_without_rows_to_align_on_their_data_set_is_not_asked_for(tmp_path):
    settings = hub_folders.settings(tmp_path, align_data="nobody/nothing", align_rows=0)
    written = prepare.prepare(settings, tmp_path / "out", lambda line: None).rows
    assert "align" not in written and not (tmp_path / "out" / "align.parquet").exists() and written["visual"] == 5


def test_a_text_language_that_no_source_has_is_left_out_and_said(tmp_path):
    lines = []
    plan = prepare.text_plan(
        hub_folders.settings(tmp_path, text_languages=["es", "ca"]), {("aya", "es"): 20}, lines.append
    )
    assert plan.languages == ("es",)
    assert lines == ["no text row in ca in any source: left out of the mixture"]


def test_visual_rows_that_are_not_english_are_refused_before_anything_is_written(tmp_path):
    french = hub_folders.visual_folder(tmp_path / "french", [1, 2, 3], language="fra")
    settings = hub_folders.settings(tmp_path, visual_data=[french])
    with pytest.raises(InputError, match=r"french: 3 of 3 rows with an image are not English \(3 are 'fr'\)"):
        prepare.prepare(settings, tmp_path / "out", lambda line: None)
    assert not (tmp_path / "out").exists()


def test_visual_rows_of_no_stated_language_are_taken_as_english_and_it_is_said(tmp_path):
    stated = hub_folders.visual_folder(tmp_path / "stated", [1, 2, 3], language="English")
    unstated = hub_folders.visual_folder(tmp_path / "unstated", [1, 2, 3])
    lines = []
    prepare.prepare(hub_folders.settings(tmp_path, visual_data=[stated, unstated]), tmp_path / "out", lines.append)
    assert "unstated: no column language, its rows are taken as English" in lines
    assert not any(line.startswith("stated: no column language") for line in lines)
    assert set(read_rows(tmp_path / "out" / "visual.parquet")["language"]) == {"en"}


def stored(folder):
    table = read_rows(folder / "images.parquet", ["image_id", "split", "image"])
    return {row.image_id: (row.split, row.image["bytes"]) for row in table.itertuples()}


def test_pictures_of_one_file_name_in_two_data_sets_stay_apart(tmp_path):
    one = hub_folders.visual_folder(tmp_path / "one", [1, 2, 3])
    two = hub_folders.visual_folder(tmp_path / "two", [101, 102, 103])
    settings = hub_folders.settings(tmp_path, visual_data=[one, two], visual_rows=6)
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
    settings = hub_folders.settings(tmp_path, align_rows=12, visual_check=str(tmp_path / "check" / "check.jsonl"))
    prepare.prepare(settings, tmp_path / "out", lambda line: None)
    requests = read_rows(tmp_path / "out" / "requests.parquet")
    asked = requests[(requests["task"] == "question") & (requests["arm"] == "image")]
    assert stored(tmp_path / "out")[asked["image_id"].item()] == ("test", hub_folders.png(77))


@pytest.mark.parametrize("setting", ["visual_data", "text_data"])
def test_two_data_sets_of_one_name_are_refused_in_one_line(tmp_path, setting):
    make = hub_folders.visual_folder if setting == "visual_data" else lambda place, _: str(hub_folders.aya(place))
    names = [make(tmp_path / place / "mine", [1, 2]) for place in ("a", "b")]
    with pytest.raises(InputError, match=rf"prepare_data\.{setting}: .*a/mine and .*b/mine .*'mine'.*rename one"):
        prepare.prepare(hub_folders.settings(tmp_path, **{setting: names}), tmp_path / "out", lambda line: None)
