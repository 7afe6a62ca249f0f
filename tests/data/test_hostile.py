"""Rows, archives and folders of a shape that no reader expects: counted, or one line that names file and cure."""

import json
import zipfile

import hub_folders
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hub_folders import settings as hub_settings
from hub_folders import visual_folder

from textreg.data import hub, prepare, sources
from textreg.data import pictures as hub_images
from textreg.data.rows import read_rows
from textreg.errors import InputError

GOOD = {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes"}]}
ASKED = [{"role": "user", "content": "<image> hi"}, {"role": "assistant", "content": "yes"}]


def said(*turns):
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


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
    "a number for an image": ({"messages": ASKED, "image": 7}, NO_PICTURE),
    "numbers for images": ({"messages": ASKED, "images": [7]}, NO_PICTURE),
    "text for a picture's bytes": ({"messages": ASKED, "image": {"bytes": "abc"}}, NO_PICTURE),
    "two images": ({"messages": ASKED, "image": ["a.png", "b.png"]}, "more than one image"),
    "a placeholder alone": ({"messages": ASKED}, "a placeholder but no image"),
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
    lines = [GOOD, record, GOOD]
    (tmp_path / "chat.jsonl").write_text("\n".join(json.dumps(line) for line in lines), "utf-8")
    source = sources.source(str(tmp_path / "chat.jsonl"))
    assert [row.number for row in sources.read(source)] == [0, 2]
    assert source.skipped == {reason: 1}


def test_numbers_for_questions_are_counted(tmp_path):
    table = pa.table({"inputs": [1, 2], "targets": ["a", "b"]})
    pq.write_table(table, tmp_path / "train.parquet")
    source = sources.source(str(tmp_path))
    assert list(sources.read(source)) == [] and source.skipped == {"inputs or targets that are no text": 2}


def test_a_list_of_one_image_is_that_image(tmp_path):
    (tmp_path / "chat.jsonl").write_text(json.dumps({"messages": ASKED, "image": ["a.png"]}), "utf-8")
    assert next(sources.read(str(tmp_path / "chat.jsonl"), "visual")).image == "a.png"


def test_an_empty_text_part_is_no_image(tmp_path):
    parts = [{"type": "text", "text": ""}, {"type": "text", "text": "hi"}]
    turns = [{"role": "user", "content": parts}, GOOD["messages"][1]]
    (tmp_path / "chat.jsonl").write_text(json.dumps({"messages": turns}), "utf-8")
    assert next(sources.read(str(tmp_path / "chat.jsonl"))).messages[0]["content"] == "hi"


def test_embedded_pictures_without_a_path_member_are_read(tmp_path):
    pictures = pa.array([{"bytes": hub_folders.png(1)}, None], pa.struct([("bytes", pa.binary())]))
    turns = pa.array([hub_folders.conversation(0), hub_folders.conversation(1, image=False)], hub_folders.TURNS)
    pq.write_table(pa.table({"image": pictures, "conversations": turns}), tmp_path / "train.parquet")
    assert sources.count(sources.source(str(tmp_path)), "visual") == {"en": 1}


def test_a_zip_that_was_cut_off_is_named_with_the_cure(tmp_path):
    folder = hub_folders.pretrain(tmp_path, archive=True)
    (folder / "images.zip").write_bytes((folder / "images.zip").read_bytes()[:-30])
    with pytest.raises(InputError, match=r"images\.zip: not a whole zip archive .*; download it again"):
        hub_images.Pictures(folder)


def test_a_damaged_member_of_a_zip_is_one_broken_picture(tmp_path):
    folder = hub_folders.pretrain(tmp_path, archive=True)
    whole = (folder / "images.zip").read_bytes()
    (folder / "images.zip").write_bytes(whole.replace(hub_folders.png(3)[20:40], bytes(20)))
    with zipfile.ZipFile(folder / "images.zip") as archive:
        assert archive.testzip()
    with pytest.raises(hub_images.BrokenImage, match=r"00003/000000003\.png cannot be read"):
        hub_images.Pictures(folder).find("00003/000000003.png")


def test_a_path_too_long_for_a_file_system_is_one_broken_picture(tmp_path):
    with pytest.raises(hub_images.BrokenImage, match="cannot be read"):
        hub_images.Pictures(tmp_path).find("a" * 5000 + ".png")


def test_a_full_copy_of_a_known_data_set_is_read_from_its_own_file(tmp_path):
    folder = hub_folders.pretrain(tmp_path / "lcs")
    (folder / "blip_laion_cc_sbu_558k_meta.json").write_text('[{"id": "1", "blip_caption": "x"}]', "utf-8")
    files = hub.data_files(str(folder), folder)
    assert [path.name for path in files] == ["blip_laion_cc_sbu_558k.json"]
    assert len(list(sources.read(str(folder), "visual"))) == 12


def test_visual_rows_that_are_not_english_are_refused_before_anything_is_written(tmp_path):
    french = visual_folder(tmp_path / "french", [1, 2, 3], language="fra")
    settings = hub_settings(tmp_path, visual_data=[french])
    with pytest.raises(InputError, match=r"french: 3 of 3 rows with an image are not English \(3 are 'fr'\)"):
        prepare.prepare(settings, tmp_path / "out", lambda line: None)
    assert not (tmp_path / "out").exists()


def test_visual_rows_of_no_stated_language_are_taken_as_english_and_it_is_said(tmp_path):
    stated = visual_folder(tmp_path / "stated", [1, 2, 3], language="English")
    unstated = visual_folder(tmp_path / "unstated", [1, 2, 3])
    lines = []
    prepare.prepare(hub_settings(tmp_path, visual_data=[stated, unstated]), tmp_path / "out", lines.append)
    assert "unstated: no column language, its rows are taken as English" in lines
    assert not any(line.startswith("stated: no column language") for line in lines)
    assert set(read_rows(tmp_path / "out" / "visual.parquet")["language"]) == {"en"}
