"""Readers of data sets as they lie on the hub, and rows of a shape that no reader expects."""

import json
import tracemalloc

import hub_folders
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hub_folders import visual_folder

from textreg.data import codes, sources
from textreg.data.rows import ROWS, RowWriter
from textreg.errors import InputError


def said(*turns):
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


def written(folder, *records):
    """The name of a file that holds these records."""
    (folder / "chat.jsonl").write_text("\n".join(json.dumps(record) for record in records), "utf-8")
    return str(folder / "chat.jsonl")


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


def test_embedded_pictures_without_a_path_member_are_read(tmp_path):
    pictures = pa.array([{"bytes": hub_folders.png(1)}, None], pa.struct([("bytes", pa.binary())]))
    turns = pa.array([hub_folders.conversation(0), hub_folders.conversation(1, image=False)], hub_folders.TURNS)
    pq.write_table(pa.table({"image": pictures, "conversations": turns}), tmp_path / "train.parquet")
    assert sources.count(sources.source(str(tmp_path)), "visual") == {"en": 1}


def test_text_only_rows_of_a_visual_source_are_left_out_and_counted(tmp_path):
    source = sources.source(str(hub_folders.onevision(tmp_path / "ov")))
    assert len(list(sources.read(source, "visual"))) == 8
    assert source.skipped == {"text-only": 2}


def test_aya_is_read_from_its_training_split_with_two_letter_codes(tmp_path):
    source = sources.source(str(hub_folders.aya(tmp_path / "aya")))
    assert sources.count(source) == {"en": 9, "es": 8, "ga": 3, "ar": 4}


@pytest.mark.parametrize(("spelled", "code"), [("fra_Latn", "fr"), ("nob", "no"), ("quy", "quz"), (None, "en")])
def test_language_spellings_map_to_the_projects_codes(spelled, code):
    assert codes.language_code(spelled) == code


def test_a_system_turn_may_open_and_space_around_words_is_left_out(tmp_path):
    (row,) = sources.read(
        written(tmp_path, said(("system", "Be brief. "), ("user", "\n hi"), ("assistant", "\n\nx y\n")))
    )
    assert [turn["content"] for turn in row.messages] == ["Be brief.", "hi", "x y"]


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


GOOD = said(("user", "hi"), ("assistant", "yes"))
ASKED = said(("user", "<image> hi"), ("assistant", "yes"))

NO_LIST, NO_PICTURE = "messages that are no list of turns", "an image that is neither a path nor a picture"

REFUSED = {
    "a list for a row": ([1, 2], "no JSON object"),
    "a text for turns": ({"messages": "hello"}, NO_LIST),
    "texts for turns": ({"messages": ["hello", "yes"]}, NO_LIST),
    "null for a turn": ({"messages": [None, *GOOD["messages"]]}, NO_LIST),
    "a number for a part": (
        said(("user", [3]), ("assistant", "x")),
        "a turn in parts that are neither words nor images",
    ),
    "a list for a language": (GOOD | {"language": ["en"]}, "a language that is no text"),
    "a number for an image": (ASKED | {"image": 7}, NO_PICTURE),
    "numbers for images": (ASKED | {"images": [7]}, NO_PICTURE),
    "text for a picture's bytes": (ASKED | {"image": {"bytes": "abc"}}, NO_PICTURE),
    "two images": (ASKED | {"image": ["a.png", "b.png"]}, "more than one image"),
    "a placeholder alone": (ASKED, "a placeholder but no image"),
    "no answer": (said(("user", "hello")), "no user turn answered by the assistant"),
    "a role that no template knows": (
        said(("tool", "x"), ("assistant", "x")),
        "no user turn answered by the assistant",
    ),
    "an empty answer": (said(("user", "hi"), ("assistant", "  ")), "an empty turn"),
    "two questions": (said(("user", "x"), ("user", "x"), ("assistant", "x")), "turns that do not alternate"),
    "an answer first": (said(("assistant", "x"), ("user", "x"), ("assistant", "x")), "turns that do not alternate"),
}


@pytest.mark.parametrize(("record", "reason"), REFUSED.values(), ids=REFUSED)
def test_an_unusable_row_is_counted_under_its_reason_and_the_next_is_read(tmp_path, record, reason):
    source = sources.source(written(tmp_path, GOOD, record, GOOD))
    assert [row.number for row in sources.read(source)] == [0, 2]
    assert source.skipped == {reason: 1}


def test_numbers_for_questions_are_counted(tmp_path):
    table = pa.table({"inputs": [1, 2], "targets": ["a", "b"]})
    pq.write_table(table, tmp_path / "train.parquet")
    source = sources.source(str(tmp_path))
    assert list(sources.read(source)) == [] and source.skipped == {"inputs or targets that are no text": 2}


def test_a_list_of_one_image_is_that_image(tmp_path):
    (row,) = sources.read(written(tmp_path, ASKED | {"image": ["a.png"]}), "visual")
    assert row.image == "a.png"


def test_an_empty_text_part_is_no_image(tmp_path):
    parts = [{"type": "text", "text": ""}, {"type": "text", "text": "hi"}]
    (row,) = sources.read(written(tmp_path, said(("user", parts), ("assistant", "yes"))))
    assert row.messages[0]["content"] == "hi"


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


def test_a_data_set_listed_twice_is_refused_but_may_serve_two_settings(tmp_path):
    mine = visual_folder(tmp_path / "mine", [1, 2])
    with pytest.raises(InputError, match=r"prepare_data\.visual_data names .*mine twice; name it once"):
        sources.check_names({"visual_data": [mine, mine]})
    sources.check_names({"align_data": [mine], "visual_data": [mine], "text_data": ["o/t@1", "o/u"]})


def test_an_unfinished_row_file_leaves_nothing_behind(tmp_path):
    with pytest.raises(ZeroDivisionError), RowWriter(tmp_path / "rows.parquet", ROWS) as writer:
        writer.write(dict.fromkeys(ROWS.names))
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


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
