"""The user's visual check: reading it, and scoring free answers as VQA does."""

import itertools
import json

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from textreg.data import questions as visual_check
from textreg.errors import InputError
from textreg.fidelity import references


def written(folder, *lines):
    path = folder / "q.jsonl"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines), "utf-8")
    return path


def test_a_check_is_read_with_one_or_several_answers_numbers_and_yes_or_no(tmp_path):
    path = written(
        tmp_path,
        {"image": "a.png", "question": "How many?", "answer": 0},
        "",
        {"image": "b.png", "question": "Wo?", "answer": ["links", "left"], "language": "de"},
        {"image": "c.png", "question": "Is it red?", "answer": False},
    )
    questions = list(visual_check.read_questions(path))
    assert [question["answer"] for question in questions] == [["0"], ["links", "left"], ["no"]]
    requests = list(visual_check.question_requests([question | {"split": "test"} for question in questions]))
    assert [request["arm"] for request in requests] == ["image", "blank"] * 3
    assert requests[0]["prompt"] == "<image>\nHow many?" and requests[0]["language"] == "en"
    assert [request["image_id"] for request in requests[:2]] == ["a.png", "blank"]
    assert json.loads(requests[2]["reference"]) == ["links", "left"]


GOOD = '{"image": "a.png", "question": "x", "answer": "y"}'
WRONG = {
    "a missing column": ('{"image": "a.png"}', r"q\.jsonl, question 2: no question"),
    "an empty list of answers": ('{"image": "a", "question": "x", "answer": []}', r"question 2: no answer"),
    "an answer of another kind": ('{"image": "a", "question": "x", "answer": {"a": 1}}', r"question 2: answer holds"),
    "no JSON": ("image,question", r"line 2: not a JSON object"),
    "a list": ("[1, 2]", r"question 2: no image"),
    "an unknown language": ('{"image": "a", "question": "x", "answer": "y", "language": "xx"}', r"question 2: .*'xx'"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_line_is_named_with_what_is_wrong(case, tmp_path):
    line, expected = WRONG[case]
    with pytest.raises(InputError, match=expected):
        list(visual_check.read_questions(written(tmp_path, GOOD, line)))


def test_a_check_without_questions_or_in_another_encoding_is_refused(tmp_path):
    with pytest.raises(InputError, match="holds no question"):
        list(visual_check.read_questions(written(tmp_path, "")))
    (tmp_path / "q.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="line 1: not a JSON object"):
        list(visual_check.read_questions(tmp_path / "q.jsonl"))


def test_a_picture_is_of_one_split_and_few_questions_are_shared_in_proportion(tmp_path):
    rows = [
        {"question": f"q{n}", "answers": ["yes"], "image": {"bytes": bytes([n // 3]), "path": None}} for n in range(30)
    ]
    (tmp_path / "data").mkdir()
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "data" / "test-0.parquet")
    questions = list(visual_check.read_questions(tmp_path))
    assert questions[4]["answer"] == ["yes"] and questions[4]["image"]["bytes"] == bytes([1])
    split = visual_check.split_questions(questions, {"validation": 4, "test": 9}, seed=0)
    assert sorted(split.values()) == ["test"] * 9 + ["validation"] * 4
    pictures = {name: {number // 3 for number in split if split[number] == name} for name in ("validation", "test")}
    assert not pictures["validation"] & pictures["test"]
    few = visual_check.split_questions(questions, {"validation": 100, "test": 200}, seed=0)
    assert sorted(few.values()) == ["test"] * 18 + ["validation"] * 10  # the rest of a picture is left out
    assert visual_check.split_questions(questions[:1], {"validation": 80, "test": 200}, seed=0) == {0: "test"}


COMPARED = {
    "The cat.": "cat", "Two": "2", "1,000 people!": "1,000 people", "10:30 a.m.": "10:30 m",
    "It’s  a\tdog": "it's dog", "RED/blue": "red blue", "...": "",
}  # fmt: skip


@pytest.mark.parametrize("said", COMPARED)
def test_answers_are_compared_without_case_punctuation_articles_and_number_words(said):
    assert references.normal(said) == COMPARED[said]


def test_articles_and_number_words_are_english_only():
    assert references.normal("The one, an!", "fr") == "the one an"


def test_few_answers_are_all_right_and_nothing_else_is():
    assert references.vqa_score("A cat", ["cat", "kitten"]) == 1.0
    assert references.vqa_score("dog", ["cat", "kitten"]) == 0.0
    assert references.vqa_score("", ["cat"]) == 0.0


@given(st.lists(st.sampled_from(["red", "blue", "green"]), min_size=10, max_size=12), st.sampled_from(["red", "blue"]))
def test_with_ten_people_the_score_is_the_mean_over_leaving_one_out(people, said):
    """The definition of the VQA challenge, written out."""
    left = [sum(other == said for other in rest) for rest in itertools.combinations(people, len(people) - 1)]
    assert references.vqa_score(said, people) == pytest.approx(sum(min(1, n / 3) for n in left) / len(left))


def test_a_sentence_contains_an_answer_only_as_whole_words():
    assert references.contains("There are two dogs.", ["2"])
    assert not references.contains("It is a catalogue.", ["cat"])
    assert not references.contains("", ["cat"]) and not references.contains("x", ["..."])


def answers():
    rows = [
        ("BM", "image", "question", "two", ["2"]),
        ("BM", "image", "question", "There are two.", ["2"]),
        ("BM", "blank", "question", "2", ["2"]),
        ("BM", "image", "caption", "2", ["2"]),
        ("TR", "image", "question", None, ["2"]),
    ]
    table = pd.DataFrame(rows, columns=["system", "arm", "task", "answer", "reference"])
    table["reference"] = [json.dumps(texts) for texts in table["reference"]]
    return table.assign(seed=0, language="en", **{"lambda": 1.0})


def test_accuracy_is_given_per_system_of_the_image_arm_exactly_and_as_contained():
    table = references.question_accuracy(answers()).set_index(["system", "task"])
    assert table["accuracy"].to_dict() == {
        ("BM", visual_check.TASK): 0.5,
        ("BM", references.CONTAINED): 1.0,
        ("TR", visual_check.TASK): 0.0,
        ("TR", references.CONTAINED): 0.0,
    }
    assert table.loc[("BM", visual_check.TASK), "n"] == 2
    assert (table["low"] <= table["accuracy"]).all() and (table["accuracy"] <= table["high"]).all()


def test_without_questions_there_is_an_empty_table_of_the_same_columns():
    table = references.question_accuracy(answers().query("task == 'caption'"))
    assert table.empty and list(table.columns)[3:5] == ["task", "language"]
