"""The journal against kills, damage and a second writer."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from textreg.errors import InputError
from textreg.files import Journal


def test_what_is_appended_is_there_again(tmp_path):
    with Journal(tmp_path / "new" / "j.jsonl") as journal:
        journal.append("a", {"answer": "años\n\u2028\x00\ud800", "n": 1})
        assert "a" in journal
    with Journal(tmp_path / "new" / "j.jsonl") as journal:
        assert journal["a"] == {"answer": "años\n\u2028\x00\ud800", "n": 1}
        assert len(journal) == 1


@settings(max_examples=25, deadline=None)
@given(cut=st.integers(0, 400))
def test_a_journal_cut_anywhere_keeps_its_whole_lines_and_goes_on(tmp_path_factory, cut):
    path = tmp_path_factory.mktemp("journal") / "j.jsonl"
    with Journal(path) as journal:
        for number in range(6):
            journal.append(f"k{number}", {"answer": "ü" * number})
    data = path.read_bytes()[:cut]
    path.write_bytes(data)
    with Journal(path) as journal:
        assert len(journal) == data.count(b"\n")
        journal.append("last", {"answer": "x"})
    lines = path.read_text().splitlines()
    assert [json.loads(line)["key"] for line in lines][-1] == "last"
    assert len(lines) == data.count(b"\n") + 1


@pytest.mark.parametrize("line", ["not json", "[1]", '{"answer": 1}', "", "\x00" * 9, "[" * 100_000, '"key"', "7"])
def test_a_damaged_line_is_named_and_nothing_is_cut_off(tmp_path, line):
    path = tmp_path / "j.jsonl"
    text = f'{{"key": "a"}}\n{line}\n{{"key": "b"}}\n'
    path.write_text(text)
    with pytest.raises(InputError, match="line 2"), Journal(path):
        pass
    assert path.read_text() == text


def test_a_second_writer_is_refused_and_the_lock_ends_with_the_first(tmp_path):
    path = tmp_path / "j.jsonl"
    with Journal(path), pytest.raises(InputError, match="another process"), Journal(path):
        pass
    with Journal(path) as journal:
        journal.append("a", {})


def test_a_folder_that_cannot_be_written_is_said_so(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"), Journal(tmp_path / "file" / "j.jsonl"):
        pass
    (tmp_path / "j.jsonl").mkdir()
    with pytest.raises(InputError, match="cannot be written"), Journal(tmp_path / "j.jsonl"):
        pass


def test_every_record_that_was_appended_survives_a_kill(tmp_path):
    path = tmp_path / "j.jsonl"
    code = (
        "import sys; from textreg.files import Journal\n"
        "with Journal(sys.argv[1]) as journal:\n"
        "    for number in range(10**9):\n"
        "        journal.append(f'k{number}', {'answer': 'x' * 50}); print(number, flush=True)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True)
    for _ in range(20):
        process.stdout.readline()
    time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    said = process.stdout.read().splitlines()
    process.wait()
    last = int(said[-2 if len(said) > 1 else -1]) if said else 19
    with Journal(path) as journal:
        assert all(f"k{number}" in journal for number in range(last + 1))


OF_ANOTHER_FORM = [
    '{"key": "b"}',
    '{"key": "b", "answer": 5}',
    '{"key": "b", "answer": null}',
    '{"key": "b", "answr": "x"}',
]


@pytest.mark.parametrize("line", OF_ANOTHER_FORM)
def test_a_record_without_what_is_needed_of_it_is_asked_for_again(tmp_path, line):
    path = tmp_path / "j.jsonl"
    path.write_text(f'{{"key": "a", "answer": "x"}}\n{line}\n{{"key": "c", "answer": ""}}\n')
    with Journal(path, {"answer": str}) as journal:
        assert "b" not in journal and len(journal) == 2
        journal.append("b", {"answer": "again"})
    with Journal(path, {"answer": str}) as journal:
        assert [journal[key]["answer"] for key in "abc"] == ["x", "again", ""]
