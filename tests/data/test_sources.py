"""Readers of hub-shaped folders, pictures, and prepare_data at hub scale."""

import json
import tracemalloc

import hub_folders
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from textreg.data import codes, hub, prepare, sources
from textreg.data import pictures as hub_images
from textreg.data.rows import IMAGES, REQUESTS, ROWS, RowWriter, image_root, read_rows
from textreg.errors import InputError


def test_a_llava_json_list_is_read_row_by_row_with_one_placeholder_each(tmp_path):
    rows = list(sources.read(str(hub_folders.pretrain(tmp_path / "lcs")), "visual"))
    assert len(rows) == 12
    assert rows[3].image == "00003/000000003.png"
    assert [turn["role"] for turn in rows[3].messages] == ["user", "assistant"]
    assert all(row.messages[0]["content"].count("<image>") == 1 for row in rows)


def test_embedded_pictures_are_not_read_until_asked_for(tmp_path):
    source = sources.source(str(hub_folders.onevision(tmp_path / "ov")))
    assert all(row.image == {} for row in sources.read(source, "visual"))
    first = next(sources.read(source, "visual", images=True))
    assert first.image["bytes"] == hub_folders.png(0)


def test_text_only_rows_of_a_visual_source_are_left_out_and_counted(tmp_path):
    source = sources.source(str(hub_folders.onevision(tmp_path / "ov")))
    assert len(list(sources.read(source, "visual"))) == 8
    assert source.skipped == {"text-only": 2}


def test_aya_is_read_from_its_training_split_with_two_letter_codes(tmp_path):
    source = sources.source(str(hub_folders.aya(tmp_path / "aya")))
    assert sources.count(source) == {"en": 9, "es": 8, "ga": 3, "ar": 4}


@pytest.mark.parametrize(
    ("spelled", "code"),
    [("eng", "en"), ("pt-BR", "pt"), ("fra_Latn", "fr"), ("Irish", "ga"), ("nob", "no"), ("quz", "quz"), (None, "en")],
)
def test_language_spellings_map_to_the_projects_codes(spelled, code):
    assert codes.language_code(spelled) == code


def test_a_system_turn_may_open_and_space_around_words_is_left_out(tmp_path):
    words = {"system": "Be brief. ", "user": "\n hi", "assistant": "\n\nx y\n"}
    turns = [{"role": role, "content": text} for role, text in words.items()]
    (tmp_path / "chat.jsonl").write_text(json.dumps({"messages": turns}), "utf-8")
    (row,) = sources.read(str(tmp_path / "chat.jsonl"))
    assert [turn["content"] for turn in row.messages] == ["Be brief.", "hi", "x y"]


def test_a_file_that_is_not_the_data_is_named_with_its_columns_those_expected_and_the_way_to_choose(tmp_path):
    pq.write_table(pa.table({"inputs": ["a"], "outputs": ["b"], "language_code": ["eng"]}), tmp_path / "train.parquet")
    told = r"train\.parquet: no column targets; found inputs, .*expected .*inputs\+targets.* by FOLDER:PATTERN"
    with pytest.raises(InputError, match=told):
        next(sources.read(str(tmp_path)))


def test_a_damaged_line_is_named_by_its_number(tmp_path):
    path = hub_folders.messages(tmp_path / "chat.jsonl")
    path.write_text(path.read_text("utf-8") + '\n{"messages": [', "utf-8")
    with pytest.raises(InputError, match=r"chat\.jsonl, line 7: not a JSON object"):
        list(sources.read(str(path)))


def test_a_json_list_that_was_cut_off_is_an_error_not_a_short_data_set(tmp_path):
    path = hub_folders.pretrain(tmp_path) / "blip_laion_cc_sbu_558k.json"
    path.write_text(path.read_text("utf-8")[:-40], "utf-8")
    with pytest.raises(InputError, match="not a complete JSON list"):
        list(sources.read(str(tmp_path), "visual"))


def test_a_seeded_choice_takes_the_quota_of_each_language_and_repeats_exactly(tmp_path):
    source = sources.source(str(hub_folders.aya(tmp_path)))
    pool = sources.count(source)
    chosen = [[row.number for row in sources.choose(source, "text", {"es": 5, "ga": 3}, pool, s)] for s in (1, 1, 2)]
    languages = [row.language for row in sources.choose(source, "text", {"es": 5, "ga": 3}, pool, 1)]
    assert languages.count("es") == 5 and languages.count("ga") == 3
    assert chosen[0] == chosen[1] != chosen[2]
    assert chosen[0] == sorted(set(chosen[0]))


def pictures_of(tmp_path, **options):
    source = sources.source(str(hub_folders.pretrain(tmp_path / "lcs", **options)))
    return list(sources.read(source, "visual")), source


def test_pictures_are_found_in_a_zip_archive_as_in_a_folder(tmp_path):
    rows, source = pictures_of(tmp_path, archive=True)
    found = list(hub_images.checked(rows, hub_images.Pictures(source.folder), wanted=12, limit=0.0))
    assert [picture.data for _, picture in found] == [hub_folders.png(i) for i in range(12)]


def test_pictures_of_the_image_folder_are_kept_as_paths(tmp_path):
    rows, source = pictures_of(tmp_path)
    pictures = hub_images.Pictures(tmp_path, source.folder / "images")
    picture = pictures.check(rows[2])
    assert picture.data is None
    assert (pictures.root / picture.path).read_bytes() == hub_folders.png(2)


def test_broken_pictures_up_to_the_limit_are_left_out_and_the_order_stays(tmp_path):
    rows, source = pictures_of(tmp_path)
    (source.folder / "images" / rows[4].image).write_bytes(hub_folders.png(4)[:40])
    (source.folder / "images" / rows[7].image).unlink()
    found = list(hub_images.checked(rows, hub_images.Pictures(source.folder), wanted=12, limit=0.2, workers=3))
    assert [row.number for row, _ in found] == [0, 1, 2, 3, 5, 6, 8, 9, 10, 11]


def test_broken_pictures_beyond_the_limit_name_the_first_and_the_cure(tmp_path):
    rows, source = pictures_of(tmp_path)
    (source.folder / "images" / rows[4].image).write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"00004/000000004\.png: not an image.*allowed are 0 of 12.*image_folder"):
        list(hub_images.checked(rows, hub_images.Pictures(source.folder), wanted=12, limit=0.0))


def test_a_picture_path_cannot_leave_its_folder(tmp_path):
    (tmp_path / "secret.png").write_bytes(hub_folders.png())
    (tmp_path / "data").mkdir()
    with pytest.raises(hub_images.BrokenImage, match="leads out of the data folder"):
        hub_images.Pictures(tmp_path / "data").find("../secret.png")


def test_an_unfinished_row_file_leaves_nothing_behind(tmp_path):
    with pytest.raises(ZeroDivisionError), RowWriter(tmp_path / "rows.parquet", ROWS) as writer:
        writer.write(dict.fromkeys(ROWS.names))
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_a_missing_folder_is_one_clear_line():
    with pytest.raises(InputError, match=r"\./nowhere: no such file or folder"):
        hub.resolve("./nowhere", kind="dataset")


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("owner/name", ("owner/name", None, None)),
        ("owner/name@abc123", ("owner/name", "abc123", None)),
        ("owner/name@v1:a(b,c)/*.parquet", ("owner/name", "v1", "a(b,c)/*.parquet")),
        ("liuhaotian/LLaVA-Instruct-150K", ("liuhaotian/LLaVA-Instruct-150K", None, "llava_instruct_150k.json")),
        ("floschne/xm3600", ("floschne/xm3600", "8d3e5665526c55a5855cd6ddfbaba2032bc7cee4", None)),
    ],
)
def test_a_name_splits_into_id_revision_and_files(name, parts):
    found = hub.parse(name)
    assert (found.base, found.revision, found.glob) == parts


def test_pickled_weights_are_refused(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(InputError, match=r"only pytorch_model\.bin and no \*\.safetensors; convert"):
        hub.resolve(str(tmp_path))


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


def test_pairs_of_a_source_that_names_no_language_have_that_of_the_source(tmp_path, monkeypatch):
    rows = [
        {"instruction": "Suma", "input": "1 e 2", "output": "3"},
        {"instruction": "Ola", "input": "", "output": "Boas"},
    ]
    (tmp_path / "gl.json").write_text(json.dumps(rows), "utf-8")
    data = sources.Source("gl", tmp_path, (tmp_path / "gl.json",), "gl")
    (first, second) = sources.read(data)
    assert [turn["content"] for turn in first.messages] == ["Suma\n\n1 e 2", "3"] and second.language == "gl"
    told = {"instruction": "Què?", "context": "Un text.", "response": "Això.", "lang": "ca"}
    (tmp_path / "rag.jsonl").write_text(json.dumps(told), "utf-8")
    assert [row.language for row in sources.read(str(tmp_path / "rag.jsonl"))] == ["ca"]


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


def test_reading_and_writing_need_no_more_memory_for_five_times_the_rows(tmp_path):
    peaks = []
    for rows in (600, 3000):
        path = tmp_path / f"{rows}.json"
        turns = [{"from": "human", "value": "ask " * 20}, {"from": "gpt", "value": "say " * 20}]
        path.write_text("[" + ",".join([json.dumps({"id": "x", "conversations": turns})] * rows) + "]", "utf-8")
        tracemalloc.start()
        with RowWriter(tmp_path / "rows.parquet", ROWS, group=128) as writer:
            writer.write_many(row.as_record(task="text", image_id=None) for row in sources.read(str(path)))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert writer.rows == rows
    assert peaks[1] < 1.2 * peaks[0]
