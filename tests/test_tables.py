"""Tables are refused at the door with one clear line, and written whole or not at all."""

import errno
import os

import pandas as pd
import pytest

from textreg.errors import InputError
from textreg.tables import ANSWERS, REQUESTS, ROWS, Schema, atomic_write, check_table, read_table

NUMBERS = Schema(
    "numbers", {"name": "str", "count": "int", "share": "float"}, {"note": "str"}, frozenset({"share"}), 1
)
GOOD = pd.DataFrame({"name": ["a", "b"], "count": [1, 2], "share": [0.5, None]})


@pytest.mark.parametrize("suffix", ["parquet", "csv", "jsonl"])
def test_a_table_comes_back_as_it_was_written(tmp_path, suffix):
    path = tmp_path / f"t.{suffix}"
    if suffix == "jsonl":
        GOOD.to_json(path, orient="records", lines=True)
    else:
        getattr(GOOD, f"to_{suffix}")(path, index=False)
    pd.testing.assert_frame_equal(read_table(path, NUMBERS), GOOD, check_dtype=False)


def test_text_that_looks_like_a_number_or_a_missing_value_stays_text(tmp_path):
    path = tmp_path / "t.csv"
    pd.DataFrame({"language": ["no", "en"], "answer": ["NA", "007"], "item_id": ["01", "1e3"]}).to_csv(
        path, index=False
    )
    table = read_table(path, ANSWERS)
    assert table["answer"].tolist() == ["NA", "007"] and table["item_id"].tolist() == ["01", "1e3"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"count": None}, "column 'count' of the numbers table is missing"),
        ({"count": ["x", "y"]}, "column 'count' should hold int, row 1 holds str 'x'"),
        ({"count": [1.5, 2]}, "should hold int, row 1"),
        ({"count": [True, False]}, "should hold int, row 1"),
        ({"name": ["a", 3]}, "column 'name' should hold str, row 2 holds int '3'"),
        ({"name": ["a", None]}, "column 'name' has no value in row 2"),
        ({"share": ["0.5", None]}, "column 'share' should hold float"),
        ({"note": [1, 2]}, "column 'note' should hold str"),
    ],
)
def test_a_table_that_does_not_fit_is_refused_by_row_and_column(change, message):
    column, values = next(iter(change.items()))
    table = GOOD.drop(columns=column) if values is None else GOOD.assign(**{column: pd.Series(values, dtype=object)})
    with pytest.raises(InputError, match=message):
        check_table(table, NUMBERS)


def test_a_close_column_name_is_suggested():
    with pytest.raises(InputError, match="did you mean 'counts'"):
        check_table(GOOD.rename(columns={"count": "counts"}), NUMBERS)


def test_too_few_rows_are_refused():
    with pytest.raises(InputError, match="0 rows, at least 1"):
        check_table(GOOD.iloc[:0], NUMBERS)


def test_nested_columns_survive_and_are_checked(tmp_path):
    row = {"row_id": "1", "source": "s", "task": "t", "language": "en", "image_id": None}
    messages = [{"role": "user", "content": "hello"}]
    pd.DataFrame([row | {"messages": messages}]).to_parquet(tmp_path / "rows.parquet")
    assert read_table(tmp_path / "rows.parquet", ROWS)["messages"][0][0]["content"] == "hello"
    with pytest.raises(InputError, match="'messages' should hold list"):
        check_table(pd.DataFrame([row | {"messages": "hello"}]), ROWS)


@pytest.mark.parametrize("name", ["t.parquet", "t.jsonl", "t.csv"])
def test_a_file_that_is_not_what_its_name_says_is_refused(tmp_path, name):
    (tmp_path / name).write_bytes(b"\x00\xff\xfe garbage { [")
    with pytest.raises(InputError, match=name.replace(".", r"\.")):
        read_table(tmp_path / name, REQUESTS)


def test_a_missing_file_and_an_unknown_suffix_are_refused(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_table(tmp_path / "t.csv", NUMBERS)
    with pytest.raises(InputError, match=r"tables end in \.parquet"):
        read_table(tmp_path / "t.pkl", NUMBERS)


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
