"""Hostile and broken files of a run, the tables of ``test_hostile.py`` continued: profiles, row files, image tables.

Each case has its expected outcome; nothing raises anything but ``InputError``, in one line that names the file.
"""

import os
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from textreg.data.images import ImageTable
from textreg.data.rows import IMAGES, ROWS, RowWriter, read_rows
from textreg.errors import InputError
from textreg.runs import profiles, strict_yaml

FUZZ = settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))

# ------------------------------------------------------------------------------------------------- profiles

BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join(['*' + before] * 9)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
PROFILES = {
    "1e-4": ("tune: {learning_rate: 1e-4}", None),
    "1e2 for a whole number": ("tune: {steps: 1e2}", "steps = 100.0"),
    "infinite rate": ("tune: {learning_rate: .inf}", "a finite number is needed"),
    "no base 8": ("tune: {steps: 010}", None),
    "1e-1 in a list": ("merge: {lambdas: [1e-1, 1.0]}", None),
    "tag of a number on nothing": ('seed: !!int ""', "a tag does not fit its value"),
    "tag of yes and no on a word": ("seed: !!bool maybe", "a tag does not fit its value"),
    "tag of bytes on a word": ("name: !!binary é", "not valid YAML"),
    "base 16 is what it says": ("tune: {steps: 0x10}", None),
    "an impossible date": ("name: 2026-13-45", "not valid YAML"),
    "no, which is Norwegian": ("prepare_data: {languages: [en, no]}", "unknown language 'no'"),
    "yes for a word": ("name: yes", None),
    "null for a section": ("tune: null", None),
    "key twice": ("seed: 1\nseed: 2", "line 2 (found duplicate key \"seed\""),
    "key twice in a section": ("tune: {steps: 1, rank: 2, steps: 3}", "found duplicate key \"steps\""),
    "number as key": ("1: 2", "unknown key 1"),
    "mapping as key": ("{a: b}: 2", "not valid YAML"),
    "merge key": ("tune: {<<: {steps: 3}}", None),
    "key of another stage": ("align: {rank: 3}", "unknown parameter 'rank'"),
    "object": ("name: !!python/object:os.system {}", "not valid YAML in line 1"),
    "tag of one's own": ("name: !mine x", "not valid YAML in line 1"),
    "binary for a name": ("name: !!binary aGVsbG8=", "name = b'hello'"),
    "billion laughs": (BOMB, "aliases are not accepted"),
    "two documents": ("name: a\n---\nname: b", "not valid YAML"),
    "list": ("- name: x", "a profile is a mapping"),
    "nothing but comments": ("# name: x", "a profile is a mapping"),
    "100,000 brackets": ("name: " + "[" * 100_000, "nested too deeply"),
    "control characters": ("name: a\x07b", "not valid YAML"),
    "300 kB": ("name: x\n" + "#" * 300_000, "over 256 kB"),
    "nothing, whose systems no arm makes": ("{}", "evaluate.systems names arm 'BM'"),
    "endless seed": ("seed: " + "9" * 5000, "not valid YAML"),
    "stage that is a list": ("stages: [[tune]]", "unknown stage"),
}  # fmt: skip


@pytest.mark.parametrize("case", PROFILES)
def test_a_profile_is_read_or_refused_in_one_line(case, tmp_path):
    text, expected = PROFILES[case]
    path = tmp_path / "mine.yaml"
    accepted = "\nstages: [prepare_data]" if expected is None else ""
    path.write_text(text + accepted, encoding="utf-8")
    clock = time.monotonic()
    if expected is None:
        assert profiles.load(path).path == path
    else:
        with pytest.raises(InputError) as failure:
            profiles.load(path)
        message = str(failure.value)
        assert expected in message
        assert str(path) in message
        assert "\n" not in message and len(message) < 600
    assert time.monotonic() - clock < 30


def test_a_profile_that_is_a_folder_or_a_link_into_nothing_is_named(tmp_path):
    (tmp_path / "folder.yaml").mkdir()
    (tmp_path / "link.yaml").symlink_to("gone")
    for name in ("folder.yaml", "link.yaml"):
        with pytest.raises(InputError, match=f"{name} does not exist"):
            profiles.load(tmp_path / name)


@settings(FUZZ, max_examples=150)
@given(st.one_of(st.binary(max_size=60), st.text(max_size=60).map(str.encode), st.text("ab:{}[]*&!-?'\"#\n ,<%@|>")))
def test_whatever_a_profile_file_holds_it_is_a_profile_or_one_line(tmp_path, content):
    path = tmp_path / "any.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    try:
        profiles.load(path)
    except InputError as failure:
        assert "\n" not in str(failure) and "any.yaml" in str(failure)


@FUZZ
@given(st.dictionaries(st.sampled_from("abcde"), st.integers() | st.booleans() | st.text("xyz 01:", max_size=5)))
def test_what_yaml_writes_the_strict_reader_reads(tmp_path, value):
    text = yaml.safe_dump(value, default_flow_style=False)
    path = tmp_path / "any.yaml"
    path.write_text(text, encoding="utf-8")
    assert strict_yaml.read(path) == value


# ------------------------------------------------------------------------------------------------- row files

ROW = {
    "row_id": "visual-0",
    "source": "scenes",
    "task": "caption",
    "language": "en",
    "image_id": "train-0",
    "messages": [{"role": "user", "content": "What?"}, {"role": "assistant", "content": "A circle."}],
}


def written(path, rows=5, schema=ROWS, **changes):
    with RowWriter(path, schema) as writer:
        writer.write_many({**ROW, **changes, "row_id": f"visual-{number}"} for number in range(rows))


def _with(column, values):
    """The file with other values, of whatever type, in one column."""

    def spoil(path):
        table = pq.read_table(path)
        place = table.schema.get_field_index(column)
        pq.write_table(table.set_column(place, column, pa.array(values)), path)

    return spoil


def _rewritten(change):
    def spoil(path):
        pq.write_table(change(pq.read_table(path)), path)

    return spoil


def _bytes(change):
    def spoil(path):
        path.write_bytes(change(path.read_bytes()))

    return spoil


def _replaced_by_a_folder(path):
    path.rename(path.with_name("inner.parquet"))
    path.mkdir()
    path.with_name("inner.parquet").rename(path / "inner.parquet")


ROW_FILES = {
    "whole": (lambda path: None, None),
    "missing": (lambda path: path.unlink(), "is missing; run the stage prepare_data first"),
    "a folder of parquet files": (_replaced_by_a_folder, "is a folder"),
    "empty file": (_bytes(lambda data: b""), "not a readable Parquet file"),
    "without its end": (_bytes(lambda data: data[: len(data) // 2]), "not a readable Parquet file"),
    "zeros in its pages": (_bytes(lambda data: data[:4] + bytes(300) + data[304:]), "not a readable Parquet file"),
    "text": (_bytes(lambda data: b"row_id,source\n1,2\n"), "not a readable Parquet file"),
    "no rows": (_rewritten(lambda table: table.slice(0, 0)), "holds no rows"),
    "a column missing": (_rewritten(lambda table: table.drop_columns(["messages"])), "'messages' is missing"),
    "a column misspelt": (
        _rewritten(lambda table: table.rename_columns({"language": "langauge"})),
        "column 'language' is missing (did you mean 'langauge'?)",
    ),
    "a column of numbers": (_with("language", [1, 2, 3, 4, 5]), "column 'language' holds int64, expected is string"),
    "messages of other fields": (
        _with("messages", [[{"from": "human", "value": "x"}]] * 5),
        "column 'messages' holds list",
    ),
    "a row without messages": (
        _rewritten(
            lambda table: table.set_column(
                table.schema.get_field_index("messages"),
                "messages",
                pa.array([[], [], None, [], []], ROWS.field("messages").type),
            )
        ),
        "column 'messages' is empty in row 3",
    ),
    "a row without an id": (_with("row_id", ["a", None, "c", "d", "e"]), "column 'row_id' is empty in row 2"),
    "one column more": (_rewritten(lambda table: table.append_column("note", pa.array(["x"] * 5))), None),
}  # fmt: skip


@pytest.mark.parametrize("case", ROW_FILES)
def test_a_row_file_is_read_or_refused_in_one_line(case, tmp_path):
    spoil, expected = ROW_FILES[case]
    path = tmp_path / "visual.parquet"
    written(path)
    spoil(path)
    if expected is None:
        assert list(read_rows(path).columns) == ROWS.names
        return
    with pytest.raises(InputError) as failure:
        read_rows(path)
    message = str(failure.value)
    assert expected in message
    assert str(path) in message and "prepare_data" in message
    assert "\n" not in message and len(message) < 700


@FUZZ
@given(st.data())
def test_a_row_file_with_a_flipped_byte_is_read_or_refused(tmp_path, data):
    path = tmp_path / "visual.parquet"
    if not path.exists():
        written(path)
    good = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, len(good) - 1))
    spoilt = tmp_path / "spoilt.parquet"
    spoilt.write_bytes(bytes(good[:place]) + bytes([good[place] ^ data.draw(st.integers(1, 255))]) + good[place + 1 :])
    try:
        read_rows(spoilt)
    except InputError as failure:
        assert "spoilt.parquet" in str(failure) and "\n" not in str(failure)


def test_a_column_name_that_is_no_text_is_refused_in_one_line(tmp_path):
    path = tmp_path / "visual.parquet"
    written(path)
    data = bytearray(path.read_bytes())
    footer = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    data[data.find(b"messages", footer)] = 0xE5
    path.write_bytes(bytes(data))
    with pytest.raises(InputError, match="visual"):
        read_rows(path)


def test_a_row_that_does_not_fit_is_refused_before_it_is_written(tmp_path):
    for row in ({**ROW, "extra": 1}, {"row_id": "x"}, {}):
        with pytest.raises(InputError, match="do not fit"), RowWriter(tmp_path / "x.parquet", ROWS) as w:
            w.write(row)
    assert list(tmp_path.iterdir()) == []


PATHS = ["../secret.png", "/etc/passwd", "a/../../secret.png", "link/secret.png", "link.png", "..", ""]


@pytest.mark.parametrize("path", PATHS)
def test_a_picture_named_by_a_row_file_lies_in_its_folder_or_is_refused(path, tmp_path):
    inside = tmp_path / "data"
    inside.mkdir()
    (tmp_path / "secret.png").write_bytes(b"secret")
    (inside / "link").symlink_to(tmp_path)
    (inside / "link.png").symlink_to(tmp_path / "secret.png")
    row = {"image_id": "x", "split": "train", "image": {"bytes": None, "path": path}, "scene": None}
    with RowWriter(tmp_path / "images.parquet", IMAGES, image_root=inside) as writer:
        writer.write(row)
    table = ImageTable.read(tmp_path / "images.parquet")
    with pytest.raises(InputError, match="image 'x'") as failure:
        table.data("x")
    assert "secret" not in str(failure.value).replace(path, "")


@pytest.mark.parametrize("path", ["notes.txt", "none.png", "a\0b.png", "folder", "pipe.png", "loop.png"])
def test_what_is_no_picture_in_the_folder_of_pictures_is_not_handed_out(path, tmp_path):
    inside = tmp_path / "data"
    (inside / "folder").mkdir(parents=True)
    (inside / "notes.txt").write_text("secret")
    (inside / "loop.png").symlink_to("loop.png")
    os.mkfifo(inside / "pipe.png")
    with pytest.raises(InputError, match="image 'x'") as failure:
        ImageTable({}, {"x": path}, inside).data("x")
    assert "secret" not in str(failure.value) and "\n" not in str(failure.value)


ROOTS = {  # the folder that a file of pictures names for their paths, ~ being the home folder
    "/": False,
    "/etc": False,
    "/etc/ssh": False,
    "/proc/self": False,
    "~": False,
    "~/..": False,
    "~/.ssh": False,
    "~/photos/../.config/x": False,
    "photos": False,
    "a\0b": False,
    "~/photos": True,
    "~/.cache/huggingface": True,
    "/srv/coco/train2017": True,
}


@pytest.mark.parametrize("root", ROOTS)
def test_a_file_of_pictures_names_a_folder_of_pictures_or_is_refused(root, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    named = root.replace("~", str(tmp_path / "home"))
    table = tmp_path / "elsewhere" / "run" / "prepare_data" / "images.parquet"
    row = {"image_id": "x", "split": "train", "image": {"bytes": None, "path": "etc/passwd"}, "scene": None}
    with RowWriter(table, IMAGES, image_root=named) as writer:
        writer.write(row)
    if ROOTS[root]:
        assert str(ImageTable.read(table).root) == named
        return
    with pytest.raises(InputError, match=r"prepare_data\.image_folder") as failure:
        ImageTable.read(table)
    assert "images.parquet" in str(failure.value) and "\n" not in str(failure.value)


def test_a_run_may_keep_its_pictures_anywhere_in_itself(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    run = tmp_path / ".local" / "run"
    row = {"image_id": "x", "split": "train", "image": {"bytes": None, "path": "x.png"}, "scene": None}
    for place in (run / "pictures", run / "prepare_data" / "pictures"):
        with RowWriter(run / "prepare_data" / "images.parquet", IMAGES, image_root=place) as writer:
            writer.write(row)
        assert ImageTable.read(run / "prepare_data" / "images.parquet").root == place
