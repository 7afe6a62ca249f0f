"""Crossmodal-3600: prompts in 36 languages, requests of three arms, caption scores."""

import json
import re

import hub_folders
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from textreg.data import crossmodal
from textreg.errors import InputError
from textreg.fidelity import references as fidelity_references

LANGUAGES = ("en", "de", "quz")
SCRIPTS = {
    "ar": "[\u0600-\u06ff]", "bn": "[\u0980-\u09ff]", "el": "[\u0370-\u03ff]", "fa": "[\u0600-\u06ff]",
    "he": "[\u0590-\u05ff]", "hi": "[\u0900-\u097f]", "ja": "[\u3040-\u30ff]", "ko": "[\uac00-\ud7af]",
    "ru": "[\u0400-\u04ff]", "te": "[\u0c00-\u0c7f]", "th": "[\u0e00-\u0e7f]", "uk": "[\u0400-\u04ff]",
    "zh": "[\u4e00-\u9fff]",
}  # fmt: skip


def test_there_are_prompts_in_all_36_languages_and_none_is_shared():
    prompts = crossmodal.prompts()
    assert len(prompts) == 36
    native = [text for entry in prompts.values() for text in entry.native]
    assert len(set(native)) == len(native) >= 72
    assert all(len(entry.native) >= 2 for entry in prompts.values())


@pytest.mark.parametrize("code", sorted(SCRIPTS))
def test_prompts_are_in_the_script_of_their_language(code):
    for text in crossmodal.prompts()[code].native:
        letters = [letter for letter in text if letter.isalpha()]
        assert sum(bool(re.match(SCRIPTS[code], letter)) for letter in letters) > 0.6 * len(letters), text


def test_the_english_condition_names_the_language():
    prompts = crossmodal.prompts()["uk"]
    assert prompts.of("english", 5).endswith("Answer in Ukrainian.")
    assert prompts.of("native", 0) != prompts.of("native", 1) != prompts.of("native", 2) == prompts.native[0]


@pytest.fixture
def folder(tmp_path):
    return hub_folders.crossmodal(tmp_path, LANGUAGES)


def items_of(folder, **options):
    return crossmodal.read_items(folder, LANGUAGES, **({"validation": 2, "test": 3, "seed": 0} | options))[0]


def test_items_have_captions_in_every_language_and_the_split_is_seeded(folder):
    items = items_of(folder)
    assert [item.split for item in items].count("validation") == 2
    assert all(set(item.captions) == set(LANGUAGES) for item in items)
    assert items == items_of(folder) != items_of(folder, seed=1)


def test_arms_and_languages_of_an_item_share_its_id_and_paraphrase(folder):
    table = pd.DataFrame(crossmodal.requests(items_of(folder), LANGUAGES))
    assert len(table) == 5 * (3 * 3 + 2)  # two languages are not English and are asked under English text, too
    for (_, language), group in table.groupby(["item_id", "language"]):
        arms = group.set_index("arm")
        words = arms.loc["image", "prompt"].removeprefix("<image>\n")
        assert words in crossmodal.prompts()[language].native
        assert arms.loc["blank", "prompt"] == arms.loc["image", "prompt"]
        assert arms.loc["blank", "image_id"] == "blank"
        assert pd.isna(arms.loc["text", "image_id"])
        caption = json.loads(arms.loc["text", "reference"])[0]
        assert arms.loc["text", "prompt"] == f"{caption}\n{words}"
    for _, group in table[table["arm"] == "image"].groupby("item_id"):
        asked = zip(group["language"], group["prompt"].str.removeprefix("<image>\n"), strict=True)
        assert len({crossmodal.prompts()[language].native.index(words) for language, words in asked}) == 1


def test_pictures_are_read_once_and_only_those_of_the_items(folder):
    items = items_of(folder)
    records = list(crossmodal.read_images(folder, "en", items))
    assert [record["image_id"] for record in records] == [item.image_id for item in items]
    assert all(record["image"]["bytes"].startswith(b"\x89PNG") for record in records)


def test_a_missing_split_names_the_file_looked_for(folder):
    with pytest.raises(InputError, match=r"no split for language 'fr'; expected data/fr-00000-of-00001\.parquet"):
        crossmodal.read_items(folder, ["en", "fr"], validation=1, test=1, seed=0)


def test_a_missing_column_names_the_file_and_the_columns(folder):
    pq.write_table(pa.table({"image_id": ["img00"], "caption": ["x"]}), folder / "data" / "de-00000-of-00001.parquet")
    with pytest.raises(InputError, match=r"de-00000-of-00001\.parquet: no column captions; found caption, image_id"):
        items_of(folder)


def test_a_damaged_page_is_one_line_that_names_the_file(folder):
    path = folder / "data" / "de-00000-of-00001.parquet"
    content = bytearray(path.read_bytes())
    content[8 : len(content) // 2] = bytes(len(content) // 2 - 8)
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"de-00000-of-00001\.parquet: .*download it again"):
        items_of(folder)


def test_more_images_than_there_are_is_an_error_that_names_the_settings(folder):
    with pytest.raises(InputError, match=r"has 8 images.*lower prepare_data.validation_images or test_images"):
        items_of(folder, test=30)


def test_an_unknown_language_is_refused_with_a_suggestion():
    with pytest.raises(InputError, match=r"has no language 'quy'.*did you mean 'quz'"):
        crossmodal.check_languages(["de", "quy"])


def answers(texts, reference):
    frame = pd.DataFrame({"answer": texts, "reference": [json.dumps(r) for r in reference]})
    constant = {"seed": 0, "system": "BM", "lambda": 1.0, "language": "de", "arm": "image", "task": "caption"}
    return frame.assign(**constant)


def test_caption_scores_are_100_for_a_reference_and_0_for_silence():
    references = [["ein roter Kreis", "der rote Kreis"], ["zwei Sterne"]]
    perfect = fidelity_references.caption_scores(answers(["der rote Kreis", "zwei Sterne"], references))
    silent = fidelity_references.caption_scores(answers(["", ""], references))
    assert perfect["chrf"].item() == pytest.approx(100.0)
    assert silent["chrf"].item() == 0.0
    assert perfect["n"].item() == 2


def test_captions_alone_get_a_score_and_not_in_the_arm_whose_prompt_holds_a_reference():
    table = pd.concat([answers(["ein Kreis"], [["ein Kreis"]]).assign(arm=arm) for arm in ("image", "blank", "text")])
    table = pd.concat([table, table.assign(task="question")])
    assert fidelity_references.caption_scores(table)[["arm", "n"]].to_numpy().tolist() == [["image", 1], ["blank", 1]]


def test_caption_means_count_every_language_alike_and_english_apart():
    rows = [("BM", "en", 40.0), ("BM", "de", 10.0), ("BM", "fr", 20.0), ("TR", "en", 44.0), ("TR", "de", 30.0)]
    scores = pd.DataFrame(rows, columns=["system", "language", "chrf"]).assign(arm="image", n=5)
    scores["cut"] = [0.0, 0.1, 0.2, np.nan, np.nan]
    means = fidelity_references.caption_means(scores)
    assert means["English", "image"].to_dict() == {"BM": 40.0, "TR": 44.0}
    assert means["other languages", "image"].to_dict() == {"BM": 15.0, "TR": 30.0}
    assert means["cut off, %", "image"]["BM"] == pytest.approx(10.0) and np.isnan(means["cut off, %", "image"]["TR"])
