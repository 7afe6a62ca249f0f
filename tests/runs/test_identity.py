"""What decides whether a result stands: settings that name local data count by its content."""

import json

import hub_folders
import pytest

from textreg.files import HashCache
from textreg.runs import identity
from textreg.settings import Align, PrepareData


def hashed(**settings):
    return identity.local_data(PrepareData(scale="hub", **settings), HashCache())


def test_data_chosen_by_a_glob_counts_by_content_and_what_the_glob_leaves_out_does_not(tmp_path):
    aya = hub_folders.aya(tmp_path / "aya")
    name = f"{aya}:data/train*.parquet"
    first = hashed(text_data=[name])
    (aya / "data" / "test-00000-of-00001.parquet").write_bytes(b"other")
    assert hashed(text_data=[name]) == first
    (aya / "data" / "train-00000-of-00001.parquet").write_bytes(b"other")
    changed = hashed(text_data=[name])
    assert changed.keys() == first.keys() == {"text_data:aya:data/train*.parquet"} and changed != first


def test_pictures_beside_the_file_of_a_glob_count(tmp_path):
    lcs = hub_folders.pretrain(tmp_path / "lcs")
    name = f"{lcs}:blip_laion_cc_sbu_558k.json"
    first = hashed(align_data=name)
    (lcs / "images" / "00002" / "000000002.png").write_bytes(hub_folders.png(99))
    assert hashed(align_data=name) != first


def test_data_below_the_home_folder_counts_by_content(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    hub_folders.messages(tmp_path / "chat.jsonl")
    first = hashed(text_data=["~/chat.jsonl"])
    hub_folders.messages(tmp_path / "chat.jsonl", rows=7)
    assert first.keys() == {"text_data:chat.jsonl"} and hashed(text_data=["~/chat.jsonl"]) != first
    place = identity.parameters(PrepareData(text_data=["~/chat.jsonl"]))["text_data"]
    assert place == ["local:chat.jsonl"]


def test_two_folders_of_one_name_both_count(tmp_path):
    places = [str(hub_folders.aya(tmp_path / place / "aya")) for place in ("a", "b")]
    first = hashed(text_data=places)
    for place in places:
        (tmp_path / place / "note.txt").write_text(json.dumps(place), "utf-8")
        changed = hashed(text_data=places)
        assert changed != first
        first = changed


@pytest.mark.parametrize("name", ["owner/name", "owner/name@v1:data/*.parquet", "shipped", "", "./nowhere"])
def test_a_hub_id_and_what_is_not_there_name_no_local_content(name):
    assert identity.local_data(Align(llm=name), HashCache()) == {}
    assert identity.parameters(Align(llm=name))["llm"] == name
