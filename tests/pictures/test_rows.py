import json

import pandas as pd
import pytest
import tiny_pictures

from textreg.data.rows import read_rows
from textreg.errors import InputError, RunError
from textreg.pictures import rows
from textreg.pictures.folder import read
from textreg.pictures.splits import SHOWN
from textreg.settings import PrepareData

TRAINED = ("align", "visual", "text", "text_mono", "text_control")


def settings_of(root, run, **changes) -> PrepareData:
    given = {
        "languages": tiny_pictures.LANGUAGES, "text_languages": ["de", "ja"], "held_out": [], "align_rows": 90,
        "visual_rows": 90, "text_rows": 60, "validation_images": 4, "test_images": 8, "arm_images": 2,
        "validation_questions": 0, "test_questions": 2,
    }  # fmt: skip
    return PrepareData(run=str(run), scale="pictures", image_folder=str(root), **(given | changes))


@pytest.fixture(scope="module")
def written(root, tmp_path_factory):
    run = tmp_path_factory.mktemp("run")
    rows.write(settings_of(root, run))
    return run / "prepare_data"


@pytest.fixture(scope="module")
def world(concepts):
    return rows.World(concepts)


@pytest.mark.parametrize("name", TRAINED)
def test_no_training_row_holds_a_foreign_name_of_a_concept_that_is_shown_or_asked(written, world, name):
    secret = {world.concepts.names[code][c] for code in ("de", "ja") for c in world.of(*SHOWN, "new")} - {"taxi"}
    told = [turn["content"] for messages in read_rows(written / f"{name}.parquet")["messages"] for turn in messages]
    assert told
    assert not [text for text in told if any(name in text for name in secret)]


def test_pictures_are_trained_in_english_and_in_no_held_out_style(written, world):
    visual = read_rows(written / "visual.parquet")
    assert set(visual["language"]) == {"en"}
    assert {image.partition("@")[2] for image in visual["image_id"]} == {"flat", "solid"}
    assert {image.partition("@")[0] for image in visual["image_id"]} == set(world.of(*SHOWN))


def test_a_share_of_the_pictures_comes_without_its_question_and_nothing_else_of_it_changes(world):
    asked, bare = (list(rows.visual_rows(world, 90, "seed", share)) for share in (1.0, 0.3))
    prompts = [row["messages"][0]["content"] for row in bare]
    assert 0.15 < sum(prompt != "<image>" for prompt in prompts) / 90 < 0.45
    for whole, row, prompt in zip(asked, bare, prompts, strict=True):
        assert prompt in ("<image>", whole["messages"][0]["content"])
        assert {**whole, "messages": 0} == {**row, "messages": 0} and whole["messages"][1] == row["messages"][1]


def test_what_is_asked_shows_the_held_out_style_and_splits_share_no_concept(written):
    asked = read_rows(written / "requests.parquet")
    assert {image.partition("@")[2] for image in asked["image_id"].dropna() if image != "blank"} == {"thin"}
    by_split = asked.groupby("split")["item_id"].agg(set)
    assert not by_split["test"] & by_split["validation"]
    assert set(asked["arm"]) == {"image", "blank", "text", "text_en"}
    assert set(asked["task"]) == {"caption", "new"}  # naming a concept of training, and one it never saw


def test_text_rows_cross_languages_only_where_they_may(written, world):
    def crossing(name: str) -> int:
        table = read_rows(written / f"{name}.parquet")
        prompts = [messages[0]["content"].partition("\n")[0].split(", ") for messages in table["messages"]]
        known = {
            code: {w for each in world.concepts.words[code].values() for w in each} for code in world.concepts.words
        }
        pairs = zip(prompts, table["language"], strict=True)
        return sum(not set(words) <= known[code] for words, code in pairs)

    assert crossing("text") > 0
    assert crossing("text_mono") == crossing("text_control") == 0


def test_a_name_spelt_as_in_english_is_left_out_and_counted(root, tmp_path):
    names = pd.read_csv(root / "names.csv", dtype=str, keep_default_na=False)
    names.loc[names["language"] == "de", "name"] = names.loc[names["language"] == "en", "name"].to_numpy()
    same = tmp_path / "pictures"
    same.mkdir()
    names.to_csv(same / "names.csv", index=False)
    for part in ("drawings", "about.json"):
        (same / part).symlink_to(root / part)
    rows.write(settings_of(same, tmp_path / "run"))
    counted = pd.read_csv(tmp_path / "run" / "prepare_data" / "left_out.csv").set_index("language")["left_out"]
    assert counted["de"] > 0
    assert counted["ja"] == 0
    assert "de" not in set(read_rows(tmp_path / "run" / "prepare_data" / "requests.parquet")["language"])


def test_a_row_that_tells_a_secret_stops_the_stage(root, tmp_path, monkeypatch, world):
    one = world.of("test")[0]
    secret = world.concepts.names["de"][one]
    monkeypatch.setattr(rows.World, "text_pair", lambda *_: ("a, b\nWas ist das?", secret))
    with pytest.raises(RunError, match=f"tell a name that is asked for.*{secret}"):
        rows.write(settings_of(root, tmp_path))


def test_the_same_seed_writes_the_same_rows(root, written, tmp_path):
    rows.write(settings_of(root, tmp_path))
    for name in (*TRAINED, "requests"):
        again = read_rows(tmp_path / "prepare_data" / f"{name}.parquet")
        assert json.loads(again.to_json()) == json.loads(read_rows(written / f"{name}.parquet").to_json())


def test_a_language_that_nobody_can_ask_in_is_refused(root, tmp_path):
    with pytest.raises(InputError, match="no name in 'sv'"):
        rows.write(settings_of(root, tmp_path, languages=["en", "sv"]))
    assert read(root).names.keys() == {"de", "en", "ja"}
