"""A file that a block writes is written whole or not at all, and what the disk refuses is one clear line."""

import errno
import os

import pytest

from textreg.errors import InputError
from textreg.files import atomic_write


def test_an_interrupted_write_leaves_the_old_file_and_no_litter(tmp_path):
    path = tmp_path / "t.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), atomic_write(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["t.txt"]


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
