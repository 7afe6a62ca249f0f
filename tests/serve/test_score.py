"""Anyone's answers: every form of file, every way to be wrong, and the same numbers whichever way they come."""
# ruff: noqa: E501

import gzip
import io
import json
import lzma
import random
import zipfile
from xml.etree import ElementTree

import pandas as pd
import pyarrow as pa
import pytest
from faulty_server import FaultyServer
from matplotlib.text import Text
from rich.console import Console

from textreg.data.codes import code_book, named_language
from textreg.errors import InputError
from textreg.fidelity.identifiers import open_identifier
from textreg.fidelity.judges import LLMJudge, Price
from textreg.fidelity.service import Service
from textreg.figures import score as score_figures
from textreg.scenes.grammar import caption
from textreg.scenes.scene import sample
from textreg.serve import report, score
from textreg.serve.answers import LOOKED_AT, Answers, read_map
from textreg.serve.paired import language_groups

ES = "La imagen muestra un círculo rojo sobre un cuadrado azul."
EN = "The image shows a red circle above a blue square."
DE = "Das Bild zeigt einen roten Kreis über einem blauen Quadrat."
ROWS = [
    {"answer": ES, "language": "es", "item_id": "1", "arm": "text", "system": "BM"},
    {"answer": EN, "language": "es", "item_id": "1", "arm": "image", "system": "BM"},
    {"answer": ES, "language": "es", "item_id": "2", "arm": "text", "system": "BM"},
    {"answer": ES, "language": "es", "item_id": "2", "arm": "image", "system": "BM"},
    {"answer": EN, "language": "en", "item_id": "1", "arm": "image", "system": "BM"},
    {"answer": EN, "language": "en", "item_id": "1", "arm": "text", "system": "BM"},
]


@pytest.fixture(scope="module")
def identifier():
    return open_identifier("py3langid", candidates=code_book())


def write(path, rows):
    table = pd.DataFrame(rows)
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    elif path.suffix == ".parquet":
        table.to_parquet(path)
    else:
        table.to_csv(path, index=False, sep="\t" if path.suffix == ".tsv" else ",")
    return path


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".tsv", ".parquet"])
def test_every_form_of_file_gives_the_same_numbers(tmp_path, identifier, suffix):
    result = score.score_file(write(tmp_path / f"answers{suffix}", ROWS), identifier=identifier)
    spanish = result.summary.set_index(["language", "arm"]).loc["es"]["lf"]
    assert spanish.to_dict() == {"image": 0.5, "text": 1.0}
    assert result.ifl.set_index("language")["ifl"].to_dict() == {"en": 0.0, "es": 0.5, "all": 0.25}
    assert result.confusion["BM, image"].loc["es"].to_dict() == {"en": 1, "es": 1}
    assert result.rows == 6 and result.bad == 0


def test_only_answer_and_language_are_needed(tmp_path, identifier):
    rows = [{"answer": r["answer"], "language": r["language"]} for r in ROWS]
    result = score.score_file(write(tmp_path / "a.jsonl", rows), identifier=identifier)
    assert result.summary["lf"].tolist() == [1.0, 0.75] and result.ifl is None
    assert result.means.set_index("group")["lf"].to_dict() == {"all": 0.875, "without English": 0.75}
    assert list(result.confusion) == ["answers"]


def test_parts_give_what_the_whole_gives(tmp_path, identifier, monkeypatch):
    path = write(tmp_path / "a.jsonl", ROWS * 3)
    whole = score.score_file(path, identifier=identifier)
    monkeypatch.setattr(score, "PART", 4)
    parts = score.score_file(path, identifier=identifier)
    pd.testing.assert_frame_equal(parts.summary, whole.summary)
    pd.testing.assert_frame_equal(parts.confusion["BM, text"], whole.confusion["BM, text"], check_dtype=False)
    alone, together = (score.score_file(path, identifier="py3langid", workers=workers) for workers in (1, 2))
    pd.testing.assert_frame_equal(alone.summary, together.summary)
    assert alone.notes == together.notes


GOOD = json.dumps({"answer": ES, "language": "es"})


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{broken", "line 2: not JSON"),
        ('["a", "b"]', "line 2: a JSON object is expected"),
        ('{"answer": "a"}', "line 2: no 'language'"),
        ('{"response": "a", "language": "es"}', "line 2: no 'answer'"),
        ('{"answer": {"a": 1}, "language": "es"}', "line 2: 'answer' should be text, not {'a': 1}"),
        ('{"answer": "a", "language": null}', "line 2: unknown language code None"),
        ('{"answer": "a", "language": ["es"]}', "line 2: unknown language code"),
        ('{"answer": "a", "language": "es", "lambda": "half"}', "line 2: 'lambda' should be a finite number"),
        ("[" * 100_000, "line 2: not JSON"),
    ],
)
def test_a_bad_line_is_named_and_with_skip_bad_it_is_counted(tmp_path, identifier, line, message):
    path = tmp_path / "a.jsonl"
    path.write_text(f"{GOOD}\n{line}\n\n{GOOD}\n", encoding="utf-8")
    with pytest.raises(InputError, match=message) as failure:
        score.score_file(path, identifier=identifier)
    assert len(str(failure.value).splitlines()) == 1
    result = score.score_file(path, identifier=identifier, skip_bad=True)
    assert (result.rows, result.bad) == (2, 1) and any("left out: 1; the first: " in note for note in result.notes)


def test_a_good_row_behind_more_bad_ones_than_are_looked_at_is_read(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("{\n" * (LOOKED_AT + 1) + GOOD, encoding="utf-8")
    assert sum(map(len, Answers(path, skip_bad=True))) == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("answer,kind\na,es\n", "column 'language' is missing.*--map language=NAME or name the language of all"),
        ("what,language\na,es\n", "column 'answer' is missing.*--map answer=NAME"),
        ("answer,language\na,es\nb\n", "line 3: 1 cells, the header has 2"),
        ("answer,language\na,es,x\n", "line 2: 3 cells"),
        ('answer,language\n"a,es\n', "not CSV"),
        ("answer,language\na,\n", "line 2: unknown language code ''"),
        ("answer,language,answer\na,es,b\n", "appears twice"),
        ("answer,language\n", "no answers in it"),
        ("", "no answers in it"),
    ],
)
def test_a_bad_csv_is_one_clear_line(tmp_path, content, message):
    (tmp_path / "a.csv").write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=message) as failure:
        list(iter(Answers(tmp_path / "a.csv")))
    assert len(str(failure.value).splitlines()) == 1


def test_a_line_number_counts_lines_inside_quotes(tmp_path):
    (tmp_path / "a.csv").write_text('answer,language\n"one\ntwo\nthree",es\nfour,\n', encoding="utf-8")
    with pytest.raises(InputError, match="line 5: unknown language code"):
        list(iter(Answers(tmp_path / "a.csv")))


def test_marks_of_spreadsheets_and_long_answers_are_read(tmp_path):
    long = "palabra " * 30_000
    (tmp_path / "a.csv").write_text(f"\ufeffanswer,language\n{long},es\n\n,es\n", encoding="utf-8")
    table = next(iter(Answers(tmp_path / "a.csv")))
    assert table["answer"].str.len().tolist() == [240_000, 0]


def test_a_missing_file_a_folder_and_an_unknown_suffix_are_refused(tmp_path):
    (tmp_path / "a.doc").write_text("x")
    for path, message in (
        (tmp_path / "no.csv", "no such file"),
        (tmp_path, "a folder without answers"),
        (tmp_path / "a.doc", "answers are read"),
    ):
        with pytest.raises(InputError, match=message):
            list(iter(Answers(path)))


def test_a_file_of_bad_rows_alone_is_refused_even_when_they_are_skipped(tmp_path):
    (tmp_path / "a.jsonl").write_text("nonsense\n" * 5)
    with pytest.raises(InputError, match="all 5 rows are bad"):
        list(Answers(tmp_path / "a.jsonl", skip_bad=True))


def test_numbers_for_items_and_structures_for_references_become_text(tmp_path):
    row = {"answer": "a", "language": "es", "item_id": 7, "reference": ["x", "ñ"], "seed": 3, "lambda": 1}
    table = next(iter(Answers(write(tmp_path / "a.jsonl", [row]))))
    assert table.iloc[0].to_dict() == {
        "answer": "a", "language": "es", "seed": 3, "lambda": 1.0, "item_id": "7", "reference": '["x", "ñ"]'
    }  # fmt: skip


def test_results_are_written_as_csv_and_json(tmp_path, identifier):
    path = write(tmp_path / "a.jsonl", ROWS)
    result = score.score_file(path, out=tmp_path / "out" / "f.csv", identifier=identifier)
    written = pd.read_csv(tmp_path / "out" / "f.csv")
    assert list(written.columns) == list(result.summary.columns)
    assert written["lf"].tolist() == result.summary["lf"].tolist()
    assert written["lf_plus"].isna().all()  # undefined is an empty cell
    score.score_file(path, out=tmp_path / "f.json", identifier=identifier)
    content = json.loads((tmp_path / "f.json").read_text("utf-8"))
    assert content["rows"] == 6 and content["summary"][0]["lf_plus"] is None
    assert content["confusion"]["BM, image"]["es"] == {"en": 1, "es": 1}


def test_pandas_reads_back_every_name_or_the_notes_say_which_not(tmp_path, identifier):
    rows = [{**ROWS[0], "language": "nan", "system": "NA"}, {**ROWS[0], "system": "TR"}]
    path = write(tmp_path / "a.jsonl", rows)
    notes = score_figures.score_and_draw(path, tmp_path / "f.csv", tmp_path / "drawn", identifier=identifier).notes
    assert "zh-min-nan" in pd.read_csv(tmp_path / "drawn" / "confusion.csv")["asked"].tolist()
    assert any("no name for nan: a wider" in note for note in notes)
    read = pd.read_csv(tmp_path / "f.csv")
    assert read["language"].tolist() == ["zh-min-nan", "es"] and named_language("zh-min-nan") == "nan"
    assert any("'NA' is nothing to many readers of tables" in note for note in notes)
    assert set(pd.read_csv(tmp_path / "f.csv", keep_default_na=False, na_values="")["system"]) == {"NA", "TR"}


def test_an_output_of_another_kind_is_refused_before_anything_is_read(tmp_path):
    with pytest.raises(InputError, match=r"\.csv or \.json"):
        score.score_file(tmp_path / "missing.jsonl", out=tmp_path / "f.xlsx")


PLACES = {  # --out and --figures, as seen from the folder of a.csv
    "out is the answers": ({"out": "a.csv"}, "is the file of answers itself"),
    "out is the answers by another way": ({"out": "figures/../a.csv"}, "is the file of answers itself"),
    "out is a link to the answers": ({"out": "link.csv"}, "is the file of answers itself"),
    "out is a second name of the answers": ({"out": "hard.csv"}, "is the file of answers itself"),
    "out is a folder": ({"out": "folder.csv"}, "is a folder"),
    "out lies in a file": ({"out": "a.csv/f.csv"}, "a.csv is no folder"),
    "out lies behind a dead link": ({"out": "dead/f.csv"}, "dead is no folder"),
    "out has a NUL in it": ({"out": "a\0.csv"}, "a NUL character"),
    "figures have a NUL in it": ({"figures": "\0"}, "a NUL character"),
    "figures are a file": ({"figures": "a.csv"}, "a.csv is no folder"),
    "figures lie in a file": ({"figures": "a.csv/figures"}, "a.csv is no folder"),
    "a drawing over out": ({"out": "figures/fidelity.csv", "figures": "figures"}, "could replace --out"),
}


@pytest.mark.parametrize("case", PLACES)
def test_a_place_that_would_lose_something_is_refused_before_anything_is_read(tmp_path, case):
    words, expected = PLACES[case]
    path = write(tmp_path / "a.csv", ROWS)
    (tmp_path / "link.csv").symlink_to(path)
    (tmp_path / "hard.csv").hardlink_to(path)
    (tmp_path / "dead").symlink_to("gone")
    (tmp_path / "figures").mkdir()
    (tmp_path / "folder.csv").mkdir()
    before = path.read_bytes()
    with pytest.raises(InputError, match=expected) as failure:
        score_figures.score_and_draw(
            path, **{option: tmp_path / name for option, name in words.items()}, identifier="none"
        )
    assert "\n" not in str(failure.value)
    assert path.read_bytes() == before
    assert not list((tmp_path / "figures").iterdir())


def test_a_drawing_never_replaces_the_answers(tmp_path):
    path = write(tmp_path / "fidelity.csv", ROWS)
    with pytest.raises(InputError, match="could replace the file of answers"):
        score_figures.score_and_draw(path, figures=tmp_path)
    assert [each.name for each in tmp_path.iterdir()] == ["fidelity.csv"]


def test_nothing_is_written_where_nothing_can_be_drawn(tmp_path, identifier):
    path = write(tmp_path / "a.jsonl", [{"answer": "12", "language": "es", "task": "colour"}])
    with pytest.raises(InputError, match="nothing to draw"):
        score_figures.score_and_draw(path, tmp_path / "f.csv", tmp_path / "figures", identifier=identifier)
    assert [each.name for each in tmp_path.iterdir()] == ["a.jsonl"]
    score_figures.score_and_draw(path, tmp_path / "f.csv", tmp_path / "d", must=False, identifier=identifier)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a.jsonl", "f.csv"]


NAMES = {  # a name out of a file -> what a drawing shows of it
    r"$\frac{$": r"$\frac{$",
    "costs $5 or $6": "costs $5 or $6",
    r"\$": r"\$",
    "A\x1b[31m": "A⟨U+001B⟩[31m",
    "\u202eevil": "⟨U+202E⟩evil",
    "a\x00b": "a⟨U+0000⟩b",
    "": "",
    "<b>&amp;": "<b>&amp;",
}


def test_names_of_systems_are_drawn_and_printed_as_plain_characters(tmp_path, identifier):
    rows = [{**ROWS[0], "system": name} for name in NAMES]
    result = score_figures.score_and_draw(
        write(tmp_path / "a.jsonl", rows), figures=tmp_path / "figures", identifier=identifier
    )
    for path in (tmp_path / "figures").glob("*.svg"):
        ElementTree.parse(path)
    for name, shown in NAMES.items():
        label = Text(text=score_figures._broken([name])[name])
        plain, formula = label._preprocess_math(label.get_text())
        assert plain == shown and not formula
    printed = io.StringIO()
    report.print_result(result, Console(file=printed))
    assert not set("\x1b\u202e\x00") & set(printed.getvalue())
    assert "A⟨U+001B⟩[31m" in printed.getvalue()
    assert max(map(len, printed.getvalue().splitlines())) < 2000


def test_names_that_look_alike_stay_two_in_a_drawing(tmp_path, identifier):
    rows = [{**ROWS[0], "system": name} for name in ("A b", "A  b", "A b (2)")]
    score_figures.score_and_draw(
        write(tmp_path / "a.jsonl", rows), figures=tmp_path / "figures", identifier=identifier
    )
    drawn = (tmp_path / "figures" / "confusion.svg").read_text("utf-8")
    assert "(2)" in drawn and "(3)" not in drawn.replace("(2) (3)", "")


def test_every_arm_has_a_drawing_of_its_own_whatever_its_script():
    arms = ["image", "текст", "λόγος", "a b", "a-b"]
    names = [f"s{number}" for number in range(score_figures.FEW + 1)]
    table = pd.DataFrame([(arm, name, name) for arm in arms for name in names], columns=["arm", "name", "series"])
    drawn = {arm: suffix for suffix, arm, _ in score_figures._drawings(table)}
    assert drawn == {"image": "", "a b": "_a-b", "a-b": "_a-b-2", "текст": "_текст", "λόγος": "_λόγος"}


def test_seeds_of_eight_digits_stay_two_systems(tmp_path, identifier):
    rows = [{**ROWS[0], "seed": seed} for seed in (20240101, 20240102)]
    result = score_figures.score_and_draw(
        write(tmp_path / "a.jsonl", rows), figures=tmp_path / "f", identifier=identifier
    )
    assert "20240102" in (tmp_path / "f" / "confusion.svg").read_text("utf-8") and result is not None


NUMBERS = {  # seed or lambda of a row -> what is kept, or what the error says
    "seed: Infinity": "a whole number",
    "seed: 1e400": "a whole number",
    "seed: 1.7": "a whole number",
    "seed: true": "a whole number",
    "seed: NaN": "a whole number",
    'seed: "inf"': "a whole number",
    "seed: [1]": "a whole number",
    f"seed: {10**400}": "a whole number",
    f"seed: {2**63}": "a whole number",
    "lambda: Infinity": "a finite number",
    "lambda: true": "a finite number",
    f"lambda: {10**400}": "a finite number",
    'lambda: "-inf"': "a finite number",
    "seed: 2.0": 2,
    'seed: "3"': 3,
    "lambda: 1": 1.0,
    'lambda: "0.5"': 0.5,
}


@pytest.mark.parametrize("case", NUMBERS)
def test_a_seed_or_lambda_is_the_number_it_says_or_refused(tmp_path, case):
    name, _, value = case.partition(": ")
    path = tmp_path / "a.jsonl"
    path.write_text(f'{{"answer": "{EN}", "language": "en", "{name}": {value}}}\n')
    if isinstance(NUMBERS[case], str):
        with pytest.raises(InputError, match=f"line 1: '{name}' should be {NUMBERS[case]}") as failure:
            list(Answers(path))
        assert len(str(failure.value)) < 400 and "\n" not in str(failure.value)
    else:
        (table,) = Answers(path)
        assert table[name].tolist() == [NUMBERS[case]]


def test_figures_are_drawn(tmp_path, identifier):
    score_figures.score_and_draw(
        write(tmp_path / "a.jsonl", ROWS), figures=tmp_path / "figures", identifier=identifier
    )
    names = {path.name for path in (tmp_path / "figures").iterdir()}
    assert {"fidelity.svg", "fidelity.png", "confusion.svg", "confusion.csv"} <= names


def test_the_terminal_table_says_what_was_measured_and_what_was_not(tmp_path, identifier):
    rows = [
        *ROWS,
        {"answer": "He porohita whero", "language": "mi", "item_id": "3", "arm": "image", "system": "[red]x"},
    ]
    result = score.score_file(write(tmp_path / "a.jsonl", rows), identifier=identifier)
    screen = io.StringIO()
    report.print_result(result, Console(file=screen, width=140))
    text = screen.getvalue()
    assert "py3langid 0.4.0, 41 candidates" in text and "cannot tell mi" in text
    assert "[red]x" in text and "–" in text and "50.0" in text and "nan" not in text.lower()


def screen_of(result, width=None) -> str:
    screen = io.StringIO()
    console = Console(file=screen, width=width, force_terminal=width is not None, color_system=None)
    report.print_result(result, console)
    return screen.getvalue()


def test_a_narrow_terminal_gets_fewer_columns_and_no_broken_number(tmp_path, identifier):
    result = score.score_file(write(tmp_path / "a.jsonl", ROWS), identifier=identifier)
    narrow, log, thin = screen_of(result, 70), screen_of(result), screen_of(result, 20)
    assert "too narrow: English, mixed, LPR, other, asked" in narrow and "too narrow" not in log
    assert max(map(len, narrow.splitlines()[:9])) <= 70
    assert "…" not in narrow + thin and "0.0 to 100.0" in narrow and "20.7 to 100.0" in thin
    assert all(heading in log for heading in ("English", "LPR", "other"))


SYSTEMS = [{**row, "system": name} for name in ("BM", "TR") for row in ROWS]
SYSTEMS[7] = {**SYSTEMS[7], "answer": ES}  # TR keeps Spanish where BM loses it


def test_systems_are_compared_item_by_item_with_the_first_or_a_named_one(tmp_path, identifier):
    path = write(tmp_path / "a.jsonl", SYSTEMS)
    found = score.score_file(path, identifier=identifier).comparisons
    gain = found[found["arm"] == "image"].set_index("language")
    assert gain["difference"].to_dict() == {"en": 0.0, "es": 0.5, "all": 0.25}
    assert (gain.loc["es", "n"], gain.loc["es", "test"]) == (2, "McNemar, exact")
    back = score.score_file(path, identifier=identifier, against="TR").comparisons
    assert set(back["system"]) == {"BM"} and back["difference"].min() == -0.5
    with pytest.raises(InputError, match=r"no system 'TRR' to compare with .did you mean 'TR'"):
        score.score_file(path, identifier=identifier, against="TRR")


def test_two_lambdas_of_a_system_are_two_series(tmp_path, identifier):
    rows = [{**row, "lambda": 0.5 if row["system"] == "TR" else 1.0} for row in SYSTEMS]
    rows += [{**row, "lambda": 1.0} for row in SYSTEMS if row["system"] == "TR"]
    path = write(tmp_path / "a.jsonl", rows)
    result = score_figures.score_and_draw(path, identifier=identifier, figures=tmp_path / "figures")
    assert set(result.comparisons["system"]) == {"TR, lambda 0.5", "TR, lambda 1"}
    assert {"BM, image", "TR, lambda 0.5, image", "TR, lambda 1, text"} <= set(result.confusion)
    drawn = {path.stem for path in (tmp_path / "figures").glob("*.png")}
    assert drawn == {"fidelity", "confusion", "fidelity_text", "confusion_text"}  # six series: an arm each


def test_long_names_of_systems_break_in_a_drawing_and_stay_whole_in_its_data(tmp_path, identifier):
    rows = [{**row, "system": f"someone/model-{size}b-instruct"} for size in (7, 13) for row in ROWS]
    score_figures.score_and_draw(
        write(tmp_path / "a.jsonl", rows), figures=tmp_path / "figures", identifier=identifier
    )
    data = pd.read_csv(tmp_path / "figures" / "fidelity.csv")
    assert "someone/model-7b-instruct, image" in set(data["system"])
    drawn = (tmp_path / "figures" / "confusion.svg").read_text("utf-8")
    assert "someone/" in drawn and "someone/model-7b-instruct, image" not in drawn


def test_seen_and_held_out_languages_have_means_of_their_own(tmp_path, identifier):
    rows = [*ROWS, {"answer": DE, "language": "de", "item_id": "1", "arm": "image", "system": "BM"}]
    path = write(tmp_path / "a.jsonl", rows)
    means = score.score_file(path, identifier=identifier, seen=["es"], held_out=["de"]).means
    image = means[means["arm"] == "image"].set_index("group")
    assert image["lf"].to_dict() == {"all": 2.5 / 3, "without English": 0.75, "seen": 0.5, "held out": 1.0}
    assert image.loc["seen", "low"] == 0.0 and image.loc["seen", "high"] == 1.0  # items, resampled
    with pytest.raises(InputError, match=r"'jp' .did you mean 'ja'"):
        score.score_file(path, identifier=identifier, seen=["jp"])


def test_groups_of_languages_are_disjoint_and_leave_english_out():
    groups = language_groups(["en", "es", "sv", "eu"], seen=["es", "de"], held_out=["sv"])
    assert groups["seen"] == ("es",) and groups["held out"] == ("sv",) and groups["unseen"] == ("eu",)
    assert groups["without English"] == ("es", "sv", "eu") and groups["all"] == ("en", "es", "sv", "eu")


def test_an_item_answered_several_times_widens_the_interval(tmp_path, identifier):
    rows = [{"answer": a, "language": "es", "item_id": i} for i, a in enumerate([ES, EN, ES, EN])]
    once = score.score_file(write(tmp_path / "a.jsonl", rows * 1), identifier=identifier).summary.iloc[0]
    thrice = score.score_file(write(tmp_path / "b.jsonl", rows * 3), identifier=identifier).summary.iloc[0]
    assert (thrice["lf"], thrice["n"]) == (0.5, 12)
    assert (thrice["lf_low"], thrice["lf_high"]) == (once["lf_low"], once["lf_high"]) == (0.0, 1.0)


def test_the_share_seen_differently_without_restriction_stands_beside_lf(tmp_path):
    rows = [{"answer": ES, "language": "es"}, {"answer": DE, "language": "es"}]
    narrow = open_identifier("py3langid", candidates=["es", "en"])
    result = score.score_file(write(tmp_path / "a.jsonl", rows), out=tmp_path / "a.json", identifier=narrow)
    assert result.differs.tolist() == [0.5] and result.disagreement == 0.5
    assert json.loads((tmp_path / "a.json").read_text("utf-8"))["summary"][0]["differs"] == 0.5
    assert "differs" in screen_of(result) and "it would call 50.0 % of the answers another" in screen_of(result)


def test_candidates_without_english_are_pointed_out(tmp_path):
    path = write(tmp_path / "a.jsonl", ROWS[:1])
    notes = score.score_file(path, identifier=open_identifier("py3langid", candidates=["es", "de"])).notes
    assert any("English is no candidate" in note for note in notes)


def test_what_a_model_judge_took_and_whether_it_agrees_with_the_grammar_is_said(tmp_path, identifier):
    scene = sample(random.Random(1))
    spanish, english = (caption(scene, code, rng=random.Random(1)) for code in ("es", "en"))
    asked = {"language": "es", "task": "caption", "reference": json.dumps(['{"is": "a scene"}'])}
    rows = [{**asked, "answer": answer} for answer in (spanish, english, spanish)]
    good = {"asked_language": True, "unmixed": True, "right_script": True, "reason": "fine"}
    with FaultyServer(lambda _: json.dumps(good)) as server:
        judge = LLMJudge(Service(server.url, "judge"), tmp_path / "verdicts.jsonl")
        path, price = write(tmp_path / "a.jsonl", rows), Price(tokens_in=1000, tokens_out=0)
        result = score.score_file(path, identifier=identifier, judge=judge, price=price)
    assert (result.usage.verdicts, result.usage.cached, result.usage.tokens_in) == (3, 1, 20)
    assert (result.agreement.n, result.agreement.accuracy) == (3, 2 / 3)  # the English one is no Spanish description
    text = screen_of(result)
    assert "3 verdicts, 1 of them known from earlier, 0 undecided; 20 tokens read, " in text and "cost 0.02" in text
    assert "judge and grammar agree on 66.7 % of 3 answers" in text


def test_items_answered_twice_give_no_ifl_and_say_so(tmp_path, identifier):
    result = score.score_file(write(tmp_path / "a.jsonl", [*ROWS, ROWS[0]]), identifier=identifier)
    assert result.ifl is None and any("twice" in note for note in result.notes)


def test_a_language_outside_the_code_book_is_scored_and_can_be_a_candidate(tmp_path):
    path = write(tmp_path / "a.jsonl", [{"answer": "Սա մի փոքրիկ կարմիր շրջան է", "language": "hy"}])
    for identifier in (open_identifier(), open_identifier("py3langid", candidates=["en", "hy"])):
        assert score.score_file(path, identifier=identifier).summary["lf"].tolist() == [1.0]


def test_an_endless_name_is_cut_in_a_drawing_and_on_the_terminal(tmp_path, identifier):
    path = write(tmp_path / "a.jsonl", [{**ROWS[0], "system": "x" * 100_000}])
    result = score_figures.score_and_draw(path, figures=tmp_path / "figures", identifier=identifier)
    drawn = (tmp_path / "figures" / "confusion.svg").read_text("utf-8")
    printed = io.StringIO()
    report.print_result(result, Console(file=printed))
    for shown, most in ((drawn, 100), (printed.getvalue(), 400)):
        assert "x" * 30 in shown and "x" * most not in shown


MESSAGE = {"role": "assistant", "content": ES}
FORMS = {  # rows as tools write them -> answers that are read, their languages, and what is said of the reading
    "VLMEvalKit": ([{"index": 1, "question": "?", "answer": "gold", "prediction": ES, "lang": "es"}], [ES], "answer from 'prediction'"),
    "lmms-eval": ([{"doc_id": 0, "doc": {"lang": "es"}, "target": "x", "resps": [[ES]], "filtered_resps": ["A"]}], [ES], "from 'resps'"),
    "OpenAI batch": (
        [
            {"custom_id": "1", "response": {"status_code": 200, "body": {"choices": [{"message": MESSAGE}]}}, "error": None, "lang": "es"},
            {"custom_id": "2", "response": None, "error": {"message": "expired"}, "lang": "es"},
        ], [ES], "no answer (an error): 1",
    ),
    "LLaVA": ([{"question_id": 7, "text": ES, "answer_id": "q", "model_id": "m", "metadata": {"lang": "es"}}], [ES], "answer from 'text'"),
    "Anthropic's batch": (
        [
            {"custom_id": "1", "lang": "es", "result": {"type": "succeeded", "message": {"content": [
                {"type": "thinking", "thinking": EN}, {"type": "text", "text": ES}]}}},
            {"custom_id": "2", "lang": "es", "result": {"type": "errored", "error": {"type": "overloaded"}}},
        ], [ES], "no answer (an error): 1",
    ),
    "Gemini's batch": (
        [{"lang": "es", "response": {"candidates": [{"content": {"parts": [{"text": EN, "thought": True}, {"text": ES}]}}]}}],
        [ES], "content.parts",
    ),
    "items of a response": (
        [{"lang": "es", "response": {"body": {"output": [{"type": "reasoning", "summary": []}, {**MESSAGE, "content": [{"text": ES}]}]}}}],
        [ES], "response.body.output",
    ),
    "a conversation": ([{"lang": "es", "messages": [{"role": "user", "content": EN}, MESSAGE]}], [ES], "'messages'"),
    "turns by from and value": (
        [{"lang": "es", "conversations": [{"from": "human", "value": EN}, {"from": "gpt", "value": ES}]}], [ES], "",
    ),
    "a conversation in place of its answer": (
        [{"lang": "es", "generated_text": [{"role": "user", "content": EN}, MESSAGE]}], [ES], "generated_text",
    ),
    "several samples": ([{"lang": "es", "outputs": [{"index": 0, "text": ES}, {"index": 1, "text": EN}]}], [ES, EN], ""),
    "names in capitals": ([{"Prediction": ES, "LANGUAGE": "es"}], [ES], "answer from 'Prediction', language from 'LANGUAGE'"),
    "a list of answers": ([{"answer": [ES, EN], "language": "es"}], [ES, EN], ""),
    "parts of a message": ([{"answer": [{"type": "text", "text": ES}], "language": "es"}], [ES], ""),
    "numbers": ([{"answer": 12, "language": "es"}], ["12"], ""),
    "null": ([{"answer": None, "language": "es"}, {"answer": ES, "language": "es"}], [ES], "no answer (null): 1"),
    "filtered": (
        [{"answer": "", "language": "es", "finish_reason": "content_filter"}, {"answer": "", "language": "es"}], [""],
        "(empty, finish reason 'content_filter'): 1",
    ),
    "a prediction by another name": ([{"answer": "gold", "LLM response": ES, "PromptLanguage": "es"}], [ES], "'LLM response'"),
    "predictions that failed at first": ([*[{"answer": "gold", "prediction": None, "lang": "es"}] * 120, {"answer": "gold", "prediction": ES, "lang": "es"}], [ES], "no answer (null): 120"),
    "how many responses": ([{"answer": ES, "responses": 3, "language": "es"}], [ES], ""),
    "VLMEvalKit's failure": ([{"prediction": "Failed to obtain answer via API.", "lang": "es"}, {"prediction": ES, "lang": "es"}], [ES], "no answer (an error): 1"),
    "a failure without its columns": ([{"error": "timed out"}, {"answer": ES, "language": "es"}], [ES], "no answer (an error): 1"),
    "a batch of failures": (
        [*[{"lang": "es", "response": {"body": {"error": {"message": "no"}}}, "error": None}] * 3, {"lang": "es", "response": {"body": {"choices": [{"message": {"content": None, "refusal": ES}}]}}}],
        [ES], "(an error): 3",
    ),
    "a refusal among items": ([{"lang": "es", "response": {"body": {"output": [{**MESSAGE, "content": [{"type": "refusal", "refusal": ES}]}]}}}], [ES], ""),
    "Ollama": ([{"model": "m", "message": MESSAGE, "lang": "es"}], [ES], "answer from 'message.content'"),
    "LiteLLM": ([{"lang": "es", "response": {"choices": [{"message": MESSAGE}]}}], [ES], "response.choices.0.message"),
    "a judge's turns": ([{"lang": "es", "choices": [{"index": 0, "turns": [ES, EN]}]}], [ES, EN], "choices.0.turns"),
    "calls and thoughts in place of answers": (
        [{"lang": "es", "choices": [{"message": {"content": "", **said}}]} for said in ({"tool_calls": [{"id": 1}]}, {"reasoning_content": EN})]
        + [{"lang": "es", "choices": [{"message": MESSAGE}]}], [ES], "(a tool was called): 1",
    ),
    "an error in words": ([{"response": "Rate limit", "error": "429", "lang": "es"}, {"response": ES, "error": "None", "lang": "es"}], [ES], "(an error): 1"),
    "a system prompt beside its model": ([{"answer": ES, "language": "es", "model": "m", "system": "You are a helpful assistant."}], [ES], "system from 'model'"),
    "Bedrock": ([{"output": {"message": {"content": [{"text": ES}]}}, "lang": "es"}], [ES], "answer from 'output'"),
    "inspect-ai": ([{"output": {"choices": [{"message": MESSAGE}]}, "metadata": {"language": "es"}}], [ES], "output.choices.0.message"),
    "deepeval": ([{"actualOutput": ES, "expectedOutput": "gold", "lang": "es"}], [ES], "answer from 'actualOutput'"),
    "tags and names": ([{"answer": ES, "language": name} for name in ("es-MX", "spa", "Spanish", "español")], [ES] * 4, ""),
}  # fmt: skip


@pytest.mark.parametrize("case", FORMS)
def test_rows_are_read_as_tools_write_them(tmp_path, case):
    rows, answers, said = FORMS[case]
    read = Answers(write(tmp_path / "a.jsonl", rows))
    (table,) = read
    assert table["answer"].tolist() == answers and set(table["language"]) == {"es"}
    assert said in " ".join(read.notes())


def archive(**files) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as packed:
        for name, text in files.items():
            packed.writestr(name, text)
    return stream.getvalue()


PACKED = {  # name of a file -> its bytes
    "a.jsonl.gz": lambda text: gzip.compress(text.encode()),
    "a.jsonl.xz": lambda text: lzma.compress(text.encode()),
    "gzip.jsonl": lambda text: gzip.compress(text.encode()),
    "mark.jsonl": lambda text: text.encode("utf-8-sig"),
    "utf16.jsonl": lambda text: text.encode("utf-16"),
    "plain16.jsonl": lambda text: text.encode("utf-16-le"),
    "lines.json": lambda text: text.encode(),
    "array.json": lambda text: f"[{','.join(text.splitlines())}]".encode(),
    "held.json": lambda text: f'{{"model": "m", "rows": [{",".join(text.splitlines())}]}}'.encode(),
    "utf32.jsonl": lambda text: text.encode("utf-32"),
    "plain32.csv": lambda text: text.encode("utf-32-be"),
    "pretty.jsonl": lambda text: "\n".join(
        json.dumps(json.loads(row), indent=1) for row in text.splitlines()
    ).encode(),
    "glued.json": lambda text: text.replace("\n", "").encode(),
    "array.jsonl": lambda text: f"[{','.join(text.splitlines())}]".encode(),
    "parts.json": lambda text: json.dumps({n: [json.loads(row)] for n, row in enumerate(text.splitlines())}).encode(),
    "archive.zip": lambda text: archive(**{"__MACOSX/._a.jsonl": "x", "a/": "", "a/a.jsonl": text}),
    "a.jsonl.zst": lambda text: pa.compress(text.encode(), "zstd", asbytes=True),
    "plain.jsonl.gz": lambda text: text.encode(),
    "no_suffix": lambda text: text.encode(),
    "arrays.json": lambda text: f"[[{','.join(text.splitlines())}]]".encode(),
    "by_key.json": lambda text: json.dumps({n: json.loads(row) for n, row in enumerate(text.splitlines())}).encode(),
}


@pytest.mark.parametrize("how", PACKED)
def test_text_is_read_however_it_is_packed(tmp_path, how):
    text = write(tmp_path / "plain.jsonl", ROWS).read_text("utf-8")
    (tmp_path / how).write_bytes(PACKED[how](text))
    (table,) = Answers(tmp_path / how)
    assert table["answer"].tolist() == [row["answer"] for row in ROWS]


def test_tables_are_read_by_any_separator_from_excel_arrow_columns_and_folders(tmp_path):
    table = pd.DataFrame(ROWS)
    for name, mark in (("semicolon.csv", ";"), ("pipe.csv", "|"), ("tab.txt", "\t"), ("hat.csv", "^")):
        table.assign(**{"a, b; c, d, e, f, g": 1}).to_csv(tmp_path / name, index=False, sep=mark)
    table.to_excel(tmp_path / "a.xlsx", index=False)
    formula, returned = (
        tmp_path.parent / "formula.xlsx",
        {"answer": ["=== Un perro", "uno_x000D_\ndos"], "language": "es"},
    )
    pd.DataFrame(returned).to_excel(formula, index=False)
    assert next(iter(Answers(formula)))["answer"].tolist() == ["=== Un perro", "uno\r\ndos"]
    table.to_feather(tmp_path / "a.feather")
    table.to_json(tmp_path / "columns.json")
    table.to_json(tmp_path / "split.json", orient="split")
    blank = table.assign(arm=None)
    blank.to_csv(tmp_path / "blanks.csv", index=False, sep=";", header=[f" {name}\u00a0" for name in table])
    (tmp_path / "empty_columns.csv").write_text(
        table.assign(a=None, b=None).to_csv(index=False, header=[*table, "", ""])
    )
    with pd.ExcelWriter(tmp_path / "sheets.xlsx") as book:
        for name, sheet in {
            "notes": pd.DataFrame({"who": ["me"]}),
            "1": blank[:2],
            "more": None,
            "2": blank[2:],
        }.items():
            (pd.DataFrame() if sheet is None else sheet).to_excel(book, sheet_name=name, index=False)
    (tmp_path / "told.csv").write_text(f"sep=;\n{table.to_csv(index=False, sep=';')}", encoding="utf-8")
    from datasets import Dataset, DatasetDict

    Dataset.from_pandas(table).save_to_disk(tmp_path / "one")
    DatasetDict({"test": Dataset.from_pandas(table)}).save_to_disk(tmp_path / "splits")
    (tmp_path / "files").mkdir()
    for part in (0, 1):
        table[part::2].to_parquet(tmp_path / "files" / f"part-{part}.parquet")
    for place in tmp_path.iterdir():
        (read,) = Answers(place)
        assert sorted(read["answer"]) == sorted(table["answer"]), place.name


JSONS = {  # a whole file -> its answers, and where they were
    "texts": ([ES, EN], [ES, EN], "answer from 'text'"),
    "texts by id": ({"v1_0": ES, "v1_1": EN}, [ES, EN], "answer from 'text', item_id from 'id'"),
    "lists by picture": ({"dog.jpg": [ES, EN]}, [ES, EN], "item_id from 'id'"),
    "one row": ({"answer1": "x", "text": ES}, [ES], "answer from 'text'"),
    "promptfoo": (
        {"results": {"results": [{"response": {"output": ES}, "vars": {}}], "stats": {}}, "config": {}},
        [ES],
        "response.output",
    ),
}


@pytest.mark.parametrize("how", JSONS)
def test_a_json_file_without_rows_of_its_own_is_read_by_what_it_holds(tmp_path, how):
    whole, answers, said = JSONS[how]
    (tmp_path / "a.json").write_text(json.dumps(whole))
    read = Answers(tmp_path / "a.json", language="es")
    assert next(iter(read))["answer"].tolist() == answers and said in read.notes()[0]
    (tmp_path / "a.json").write_bytes(json.dumps([{"answer": ES}], ensure_ascii=False).encode("cp1252"))
    with pytest.raises(InputError, match="not UTF-8 text; save it as UTF-8"):
        list(Answers(tmp_path / "a.json", language="es"))


def test_any_column_can_be_named_and_a_language_given(tmp_path):
    path = write(tmp_path / "a.jsonl", [{"said": {"out": [ES]}, "where": {"lg": "es"}}, {"said": {"out": [EN]}}])
    (table,) = Answers(path, read_map(["answer=said.out.0", "language=where.lg"]), language="English")
    assert table.to_dict("list") == {"answer": [ES, EN], "language": ["es", "en"]}
    maps = {"answer": "expected COLUMN=NAME", "anwser=said": "did you mean 'answer'", "answer=a answer=b": "already"}
    for words, message in maps.items():
        with pytest.raises(InputError, match=message):
            read_map(words.split())
    with pytest.raises(InputError, match=r"no 'sayd' in it .did you mean 'said'"):
        list(Answers(path, {"answer": "sayd"}))


def test_a_language_in_latin_letters_that_no_identifier_knows_is_undefined_and_not_another(tmp_path):
    hindi = "Ek bhura kutta park mein gend ke saath daud raha hai aur bachche dekh rahe hain."
    rows = [
        {"answer": hindi, "language": "Hindi (romanized)"},
        {"answer": "Smeđi pas trči kroz park.", "language": "sr-Latn"},
    ]
    result = score.score_file(write(tmp_path / "a.jsonl", rows))
    assert result.summary.set_index("language")["n_scored"].to_dict() == {"hi-Latn": 0, "sr-Latn": 1}
    assert any("cannot tell hi-Latn: undefined, not zero" in note for note in result.notes)


def test_a_language_that_nobody_can_read_is_reported_and_the_rest_scored(tmp_path):
    rows = [*ROWS, {**ROWS[0], "language": "jp"}, {**ROWS[0], "language": "tlhx"}]
    result = score.score_file(write(tmp_path / "a.jsonl", rows))
    assert result.rows == len(rows) and result.summary.set_index("language").loc["es", "n_scored"].sum() == 4
    assert result.summary.set_index("language").loc["jp", "lf"] != result.summary.set_index("language").loc["jp", "lf"]
    assert any("'jp' is no language that could be read (did you mean 'ja'?): 1" in note for note in result.notes)
