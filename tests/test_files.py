"""Files on disk: whole or absent, inside their folder, and room checked first; what the disk refuses is one line."""

import errno
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from textreg import files
from textreg.errors import InputError
from textreg.files import atomic_write


def test_a_finished_write_takes_the_place_and_has_ordinary_rights(tmp_path):
    path = tmp_path / "new" / "t.txt"
    with atomic_write(path) as temporary:
        temporary.write_text("new")
        assert temporary.suffix == ".txt" and not path.exists()
    (tmp_path / "plain").write_text("")
    assert path.read_text() == "new" and os.listdir(path.parent) == ["t.txt"]
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode


PLACES = {
    "in a file": "file/t.csv",
    "a folder": "folder",
    "behind a dead link": "dead/t.csv",
    "a name without end": "x" * 300 + ".csv",
}


@pytest.mark.parametrize("case", PLACES)
def test_a_place_that_cannot_be_written_is_named_in_one_line(tmp_path, case):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    (tmp_path / "dead").symlink_to("gone")
    before = sorted(os.listdir(tmp_path))
    path = tmp_path / PLACES[case]
    with pytest.raises(InputError, match="cannot be written") as failure, atomic_write(path) as temporary:
        temporary.write_text("new")
    assert str(path) in str(failure.value) and "\n" not in str(failure.value)
    assert sorted(os.listdir(tmp_path)) == before


def test_a_full_disk_is_named_with_the_file_and_other_failures_are_the_callers_own(tmp_path):
    path = tmp_path / "t.csv"
    with (
        pytest.raises(InputError, match=r"t\.csv: cannot be written \(No space left.*free some space"),
        atomic_write(path),
    ):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(FileNotFoundError), atomic_write(path):
        (tmp_path / "another").read_text()
    assert os.listdir(tmp_path) == []


def test_a_write_that_fails_leaves_the_old_file_and_no_debris(tmp_path):
    path = tmp_path / "a.json"
    files.write_json(path, {"old": 1})
    with pytest.raises(TypeError):
        files.write_json(path, {"new": object()})
    with pytest.raises(UnicodeEncodeError):
        files.write_text(path, "\ud800")
    with pytest.raises(RuntimeError), atomic_write(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert files.read_json(path) == {"old": 1}
    assert os.listdir(tmp_path) == ["a.json"]


@pytest.mark.parametrize("text", ["", "{", '{"a": ', "\x00"])
def test_a_torn_json_file_is_named_with_the_cure(tmp_path, text):
    path = tmp_path / "torn.json"
    path.write_text(text)
    with pytest.raises(InputError, match=r"torn\.json is damaged .*run the stage again"):
        files.read_json(path)


@pytest.mark.parametrize("relative", ["../x", "a/../../x", "/etc/passwd", "link/x", ".."])
def test_a_path_from_a_file_cannot_leave_its_folder(tmp_path, relative):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "link").symlink_to(tmp_path)
    with pytest.raises(InputError, match="leaves the folder"):
        files.inside(folder, relative)


@given(st.lists(st.sampled_from(["..", "a", "b", ".", "/", ""]), max_size=6))
def test_whatever_is_accepted_lies_inside(tmp_path_factory, parts):
    folder = tmp_path_factory.getbasetemp()
    try:
        path = files.inside(folder, "/".join(parts))
    except InputError:
        return
    assert path.resolve().is_relative_to(folder.resolve())


def test_a_folder_that_cannot_be_written_and_a_full_disk_are_said_before_anything_starts(tmp_path):
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file" / "run", *([Path("/proc/self/run")] if os.path.isdir("/proc/self") else [])):
        with pytest.raises(InputError, match=r"cannot write to .*choose another folder with --run"):
            files.require_room(place, 0)
    with pytest.raises(InputError, match=r"MiB free, this run needs about"):
        files.require_room(tmp_path, 2**62)


def test_a_remembered_hash_is_forgotten_when_the_file_changes(tmp_path):
    path = tmp_path / "a"
    path.write_text("one")
    cache = files.HashCache(tmp_path / "hashes.json")
    first = cache.file(path)
    cache.save()
    path.write_text("two!")
    assert files.HashCache(tmp_path / "hashes.json").file(path) == files.sha256(path) != first


def test_a_damaged_hash_cache_only_costs_time(tmp_path):
    (tmp_path / "a").write_text("one")
    for text in ("{", "[]", '{"x": 3}'):
        (tmp_path / "hashes.json").write_text(text)
        assert files.HashCache(tmp_path / "hashes.json").file(tmp_path / "a") == files.sha256(tmp_path / "a")


def test_results_are_hashed_without_checkpoints_hidden_files_events_and_the_manifest(tmp_path):
    for name in (
        "events/events.out.tfevents.1795505094.host",
        "a.csv",
        "b/c.txt",
        ".identity",
        "checkpoints/1/x",
        "checkpoint-2/y",
        "manifest.json",
        "cache/z",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    assert list(files.HashCache().folder(tmp_path)) == ["a.csv", "b/c.txt"]


def test_a_large_file_is_told_from_one_that_differs_at_either_end_or_in_size(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "SAMPLED_OVER", 2**21)
    body = bytes(3 * 2**20)
    found = set()
    for number, content in enumerate((body, b"x" + body[1:], body[:-1] + b"x", body + b"\0")):
        path = tmp_path / str(number)
        path.write_bytes(content)
        found.add(files.sha256(path))
    assert len(found) == 4
    assert all(value.startswith("sampled-") for value in found)


def test_a_folder_is_removed_whatever_a_killed_removal_left_beside_it(tmp_path):
    left = tmp_path / f".a.removed-{os.getpid()}"
    for folder in (left, tmp_path / "a", tmp_path / ".other.removed-x"):
        (folder / "b").mkdir(parents=True)
    files.remove_tree(tmp_path / "a")
    files.remove_tree(tmp_path / "never")
    assert sorted(os.listdir(tmp_path)) == [left.name, ".other.removed-x"]
    files.sweep(tmp_path, "a")
    assert os.listdir(tmp_path) == [".other.removed-x"]
    files.sweep(tmp_path)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("target", ["shared", "nowhere"])
def test_of_a_link_to_a_folder_only_the_link_is_removed(tmp_path, target):
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "kept").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / target)
    files.remove_tree(tmp_path / "link")
    assert os.listdir(tmp_path) == ["shared"]
    assert os.listdir(tmp_path / "shared") == ["kept"]


def test_what_is_no_file_to_read_is_hashed_by_its_kind_and_target(tmp_path):
    (tmp_path / "dangling").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe")
    first = files.HashCache().folder(tmp_path)
    assert list(first) == ["dangling", "pipe"]
    (tmp_path / "dangling").unlink()
    (tmp_path / "dangling").symlink_to("elsewhere")
    assert files.HashCache().folder(tmp_path) != first


def test_a_file_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    (tmp_path / "secret.parquet").write_text("x")

    def refused(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(files, "sha256", refused)
    with pytest.raises(InputError, match=r"secret\.parquet cannot be read \(Permission denied\); mend"):
        files.HashCache().folder(tmp_path)
    with pytest.raises(InputError, match=r"gone\.parquet is missing"):
        files.HashCache().file(tmp_path / "gone.parquet")


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read every folder")
def test_a_folder_that_cannot_be_read_does_not_count_as_empty(tmp_path):
    (tmp_path / "closed").mkdir(mode=0)
    with pytest.raises(InputError, match="closed cannot be read"):
        files.HashCache().folder(tmp_path)
