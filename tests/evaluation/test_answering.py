"""Systems, lambdas and answers: which model is asked, at what strength, and that nothing is asked twice."""

import json
import shutil
from unittest import mock

import pandas as pd
import pytest
from conftest import write_prepared, write_tuned
from faulty_server import Server, completion

from textreg.data.requests import read_requests
from textreg.data.rows import REQUESTS
from textreg.errors import InputError, RunError
from textreg.evaluation import answering, regression, tables
from textreg.evaluation import sweep as evaluation_sweep
from textreg.settings import Evaluate
from textreg.vlm import assembly
from textreg.vlm.systems import System, chosen_lambda, find_system


@pytest.fixture
def run(tmp_path):
    """A run folder with two tuned arms, one of them merged (files are empty, but where they belong)."""
    for arm in ("BM", "TR"):
        (tmp_path / "tune" / arm / "adapter").mkdir(parents=True)
    (tmp_path / "merge" / "TR+M").mkdir(parents=True)
    (tmp_path / "merge" / "TR+M" / "choice.json").write_text('{"lambda": 0.6}')
    return tmp_path


def test_a_system_is_an_arm_at_lambda_one_a_merged_one_at_that_which_was_chosen_and_the_backbone_has_no_arm(run):
    found = [find_system(run, name) for name in ("TR", "TR+M", "backbone")]
    assert found == [System("TR", "TR", 1.0), System("TR+M", "TR", 0.6), System("backbone", "", 1.0)]
    assert found[1].part == "TR+M@0.6.jsonl"


def test_an_unknown_system_is_told_with_those_there_are(run):
    with pytest.raises(InputError, match=r"system 'BN': no tuned arm 'BN' in .* \(known: BM, TR\); run tune first"):
        find_system(run, "BN")


def test_a_system_that_was_not_merged_names_the_stage_to_run(run):
    with pytest.raises(InputError, match=r"choice\.json is missing; run the stage merge for arm BM"):
        find_system(run, "BM+M")


def sweep(*rows):
    return pd.DataFrame(rows, columns=["lambda", "lf_plus", "visual"])


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([(1.0, 0.80, 0.98), (0.7, 0.90, 0.97), (0.4, 0.95, 0.90)], 0.7),  # 0.4 costs too much
        ([(1.0, 0.80, 0.98), (0.7, 0.90, 0.96), (0.4, 0.95, 0.96)], 0.4),  # exactly the tolerance is within it
        ([(1.0, 0.90, 0.98), (0.7, 0.90, 0.98), (0.4, 0.90, 0.99)], 1.0),  # a tie changes the tuned model least
        ([(1.0, 0.80, 0.98), (0.4, 0.90, 0.98), (0.7, 0.90, 0.98)], 0.7),
        ([(1.0, 0.80, 0.50), (0.4, 0.20, 0.99)], 1.0),
    ],
)
def test_of_the_lambdas_that_cost_little_the_most_faithful_is_chosen(rows, expected):
    assert evaluation_sweep.choose_lambda(sweep(*rows), tolerated_visual_loss=0.02) == expected


def test_a_choice_without_the_tuned_model_is_refused():
    with pytest.raises(InputError, match=r"lambdas: 1\.0 is missing"):
        evaluation_sweep.choose_lambda(sweep((0.5, 0.9, 0.9)), 0.02)


def asked_questions(lost: dict[float, int], n: int = 500) -> pd.DataFrame:
    """Answers to ``n`` yes-or-no questions; at each lambda the first ``lost`` of them are wrong."""
    rows = [
        ("TR+M", lam, f"question/{i}", "no" if i < wrong else "Yes, it is.", '["yes"]')
        for lam, wrong in lost.items()
        for i in range(n)
    ]
    table = pd.DataFrame(rows, columns=["system", "lambda", "item_id", "answer", "reference"])
    return table.assign(task="question", arm="image", language="en")


def test_of_the_lambdas_that_surely_keep_seeing_the_most_faithful_is_chosen():
    swept = sweep((0.0, 0.3, 1.0), (0.5, 0.8, 1.0), (1.0, 0.9, 1.0)).assign(system="TR+M", lf=None)
    chosen, table = regression.choose(asked_questions({0.0: 10, 0.5: 15, 1.0: 40}), swept, 0.03)
    assert chosen == 0.5  # at lambda 1 six in a hundred are lost
    kept = table.set_index("lambda").loc[0.5]
    assert (kept["n"], kept["before"], kept["change"]) == (500, 0.98, pytest.approx(-0.01))
    assert -0.03 < kept["low"] < -0.01 < kept["high"] <= 0.0
    few, _ = regression.choose(asked_questions({0.0: 1, 0.5: 2, 1.0: 3}, n=20), swept, 0.03)
    assert few == 0.5  # twenty questions show nothing, and the smallest loss is taken


def test_without_the_published_model_or_questions_captions_decide_as_before():
    swept = sweep((1.0, 0.80, 0.98), (0.7, 0.90, 0.97), (0.4, 0.95, 0.90)).assign(system="TR+M")
    for scored in (asked_questions({0.7: 0, 1.0: 0}), asked_questions({0.0: 0, 1.0: 0}).assign(task="caption")):
        chosen, table = regression.choose(scored, swept, 0.02)
        assert chosen == 0.7 and table.empty


def test_a_lambda_that_forgets_the_questions_is_not_chosen():
    swept = sweep((1.0, 0.80, 0.98), (0.7, 0.85, 0.98), (0.4, 0.95, 0.98)).assign(questions=[0.70, 0.68, 0.40])
    assert evaluation_sweep.choose_lambda(swept, 0.02) == 0.7


def test_without_a_judge_the_lambda_is_chosen_by_lf():
    unjudged = sweep((0.5, 0.9, 0.8), (1.0, 0.9, 0.8)).assign(lf=[0.7, 0.4], lf_plus=float("nan"))
    assert evaluation_sweep.choose_lambda(unjudged, 0.02) == 0.5


def test_a_choice_without_english_captions_names_the_setting():
    with pytest.raises(InputError, match=r"add en to prepare_data\.languages"):
        evaluation_sweep.choose_lambda(sweep((1.0, 0.9, 0.8)).assign(visual=float("nan")), 0.02)


def test_where_people_wrote_the_references_seeing_is_scored_by_chrf():
    key = (0, "TR", 0.5)
    scored = annotated([(*key, code, "image", "caption", True, None, None, None) for code in ("en", "de")])
    scored = scored.assign(answer="a red circle", reference=json.dumps(["a red circle", "one circle"]))
    (row,) = evaluation_sweep.sweep_table(scored, ["de"], "validation").to_dict("records")
    assert row["visual"] == pytest.approx(1.0) and row["lf"] == 1.0 and pd.isna(row["lf_plus"])
    assert pd.isna(evaluation_sweep.sweep_table(scored[scored["language"] == "de"], ["de"], "test")["visual"].item())


def annotated(rows):
    columns = ["seed", "system", "lambda", "language", "arm", "task", "lf", "lf_plus", "grounded", "content"]
    table = pd.DataFrame(rows, columns=columns)
    return table.astype(dict.fromkeys(("lf", "lf_plus", "grounded", "content"), "boolean"))


def test_the_sweep_table_is_a_mean_over_languages_of_image_captions():
    yes, no, key = (True, True, True, True), (False, False, False, True), (0, "TR", 0.5)
    scored = annotated(
        [
            (*key, "de", "image", "caption", *yes),
            *((*key, "fr", "image", "caption", *said) for said in (yes, no, no, no)),
            (*key, "en", "image", "caption", *yes),
            (*key, "en", "image", "caption", True, True, False, False),
            (*key, "de", "text", "caption", *no),  # another arm
            (*key, "en", "image", "colour", *yes),
            (*key, "en", "image", "count", True, True, False, False),
            (*key, "de", "image", "colour", *no),  # a question in another language
            (*key, "es", "image", "caption", *no),  # another language
        ]
    )
    (row,) = evaluation_sweep.sweep_table(scored, ["de", "fr"], "validation").to_dict("records")
    means = {"lf": 0.625, "lf_plus": 0.625, "grounded": 0.625, "visual": 0.5, "questions": 0.5}
    assert row == {"seed": 0, "system": "TR", "lambda": 0.5, "split": "validation", **means}


def test_the_frontier_runs_from_the_tuned_arm_through_the_merges_to_the_backbone():
    keys = [("backbone", 1.0), ("TR", 1.0), ("TR+M", 0.6), ("TR+M", 0.25), ("BM", 1.0)]
    scored = pd.DataFrame(keys, columns=["system", "lambda"])
    systems = [System("backbone"), System("TR", "TR"), System("BM", "BM"), System("TR+M", "TR", 0.6)]
    main, frontier = evaluation_sweep.split_frontier(scored, systems)
    assert list(main.itertuples(index=False, name=None)) == [("backbone", 1), ("TR", 1), ("TR+M", 0.6), ("BM", 1)]
    assert set(frontier["system"]) == {"TR+M"}
    assert sorted(frontier["lambda"]) == [0.0, 0.25, 0.6, 1.0]
    assert scored["lambda"].tolist() == [1, 1, 0.6, 0.25, 1]  # the given table is left alone


def test_the_frontier_asks_merged_systems_alone_and_the_chosen_lambda_only_once(run):
    settings = Evaluate(run=str(run), systems=["backbone", "TR", "TR+M"], frontier_lambdas=[0.25, 0.6])
    assert evaluation_sweep.frontier(settings) == [System("TR+M", "TR", 0.25)]


def test_what_cannot_be_compared_gives_an_empty_table():
    empty = annotated([(0, "BM", 1.0, "de", "image", "caption", True, True, True, True)]).assign(item_id="a")
    assert tables.ifl_table(empty, bootstrap=10).empty
    assert tables.comparison_table(empty, bootstrap=10).empty


@pytest.fixture(scope="module")
def asked(tmp_path_factory, tiny_llm, tiny_tower):
    """A run folder with an aligned model and a tuned arm, both untrained; four requests about two pictures."""
    folder, rows = tmp_path_factory.mktemp("asked"), []
    write_tuned(folder, tiny_llm, tiny_tower, alpha=320)
    for number in range(4):
        shown = f"image-{number}" if number < 3 else None
        prompt = ("<image>\n" if shown else "") + "Describe the image."
        row = (f"i{number}:caption", "test", "image" if shown else "text", "caption", "es", shown, prompt, "[]")
        rows.append(dict(zip(REQUESTS.names, row, strict=True)))
    write_prepared(folder, requests=(REQUESTS, rows))
    settings = Evaluate(run=str(folder), systems=["TR"], max_new_tokens=4, batch_size=2, workers=1)
    return settings, read_requests(folder, "test", ["image", "text"])


def answer_system(settings, which, requests, part):
    return answering.answer_arm(settings, [(which, requests, part)])[0]


def test_requests_are_chosen_by_split_arm_and_task(asked):
    settings, requests = asked
    assert len(requests) == 4
    assert read_requests(settings.run, "test", ["text"])["item_id"].tolist() == ["i3:caption"]
    assert read_requests(settings.run, "validation", ["image"]).empty
    assert read_requests(settings.run, "test", ["image"], ["colour"]).empty


def test_every_answer_carries_what_it_answers(asked, tmp_path):
    settings, requests = asked
    table = answer_system(settings, System("TR+M", "TR", 0.5), requests, tmp_path / "a.jsonl")
    columns = ["seed", "system", "lambda", "language", "arm", "item_id", "task", "prompt", "answer", "reference"]
    assert list(table.columns) == [*columns, "finish"] and set(table["finish"]) <= {"stop", "length"}
    assert table["item_id"].tolist() == requests["item_id"].tolist()
    assert set(table["lambda"]) == {0.5} and set(table["system"]) == {"TR+M"}


def test_one_loaded_model_serves_every_lambda_of_an_arm_and_the_answers_are_those_of_one_at_a_time(asked, tmp_path):
    settings, requests = asked
    work = [(System("TR+M", "TR", lam), requests) for lam in (0.0, 0.5, 1.0)]
    work.insert(1, (System("backbone"), requests))
    with mock.patch.object(assembly, "load_aligned", wraps=assembly.load_aligned) as loaded:
        together = answering.answer_all(settings, work, tmp_path / "parts")
    assert loaded.call_count == 2
    asked_in_order = [[which.name, which.lam] for which, _ in work]
    assert together[["system", "lambda"]].drop_duplicates().to_numpy().tolist() == asked_in_order
    answers = together.groupby(["system", "lambda"])["answer"].agg(list)
    assert answers["TR+M", 0.0] == answers["backbone", 1.0] != answers["TR+M", 1.0]
    alone = [answer_system(settings, which, table, tmp_path / which.part) for which, table in work]
    assert together["answer"].tolist() == pd.concat(alone)["answer"].tolist()


def test_an_answer_in_the_journal_is_not_asked_for_again_but_one_that_is_none_is(asked, tmp_path):
    settings, requests = asked
    part = tmp_path / "TR.jsonl"
    first = answer_system(settings, System("TR", "TR"), requests, part)["answer"].tolist()
    lines = [json.loads(line) for line in part.read_text().splitlines()]
    kept = [{**line, "answer": "said before"} for line in lines if "|i0:" in line["key"]]
    kept += [{**line, "answer": 5} for line in lines if "|i1:" in line["key"]]
    part.write_text("".join(json.dumps(line) + "\n" for line in kept) + '{"key": "torn')
    again = answer_system(settings, System("TR", "TR"), requests, part)["answer"].tolist()
    assert again == ["said before", *first[1:]]


def test_a_server_is_asked_under_the_name_of_the_system_with_the_picture_first_and_only_once(asked, tmp_path):
    settings, requests = asked
    replies = iter([completion("and so on and", "length")])
    with Server(lambda body: (200, next(replies, completion(f"{body['model']} says")))) as server:
        settings = Evaluate(**{**vars(settings), "endpoint": server.url, "max_new_tokens": 256})
        table = answer_system(settings, System("TR+M", "TR", 0.5), requests, tmp_path / "a.jsonl")
        again = answer_system(settings, System("TR+M", "TR", 0.5), requests, tmp_path / "a.jsonl")
    assert set(table["answer"]) <= {"TR+M says", "and so on and"} and again.equals(table)
    assert len(server.requests) == 4 and all(body["max_tokens"] == 256 for body in server.requests)
    assert sorted(table["finish"]) == ["length", "stop", "stop", "stop"]
    contents = [body["messages"][0]["content"] for body in server.requests]
    shown = [content for content in contents if isinstance(content, list)]
    assert len(shown) == 3 and "Describe the image." in contents
    assert all([part["type"] for part in content] == ["image_url", "text"] for content in shown)
    assert {content[1]["text"] for content in shown} == {"Describe the image."}


def test_a_server_that_does_not_offer_the_system_or_does_not_answer_is_one_line(asked, tmp_path):
    settings, requests = asked
    none = {"error": {"message": "no such model"}}
    for reply, error, said in (
        ((404, none), InputError, "no such model or address"),
        ((200, completion("", "content_filter")), RunError, "4 requests got no answer: the server's content filter"),
    ):
        with Server(lambda body, reply=reply: reply) as server:
            served = Evaluate(**{**vars(settings), "endpoint": server.url})
            with pytest.raises(error, match=said):
                answer_system(served, System("TR", "TR"), requests, tmp_path / "b.jsonl")


def test_answers_of_another_model_are_never_reused(asked, tmp_path):
    settings, requests = asked
    part = tmp_path / "same.jsonl"
    tuned = answer_system(settings, System("TR", "TR"), requests, part)["answer"].tolist()
    bare = answer_system(settings, System("TR", "TR", 0.0), requests, part)["answer"].tolist()
    assert tuned != bare
    assert len(part.read_text().splitlines()) == 2 * len(requests)


def test_a_plan_changes_with_adapter_lambda_projector_requests_and_length_and_with_nothing_else(asked, tmp_path):
    settings, requests = asked
    folder = shutil.copytree(settings.run, tmp_path / "copy")
    moved = Evaluate(**{**vars(settings), "run": str(folder)})

    def plan(which=System("TR", "TR"), table=requests, **changes):  # noqa: B008 (frozen)
        return answering.answer_plan(Evaluate(**{**vars(moved), **changes}), which, table)

    first = plan()
    assert first == answering.answer_plan(settings, System("TR", "TR"), requests) == plan(batch_size=1, workers=2)
    found = {
        first,
        plan(System("TR+M", "TR", 0.5)),
        plan(System("backbone")),
        plan(max_new_tokens=5),
        plan(table=requests.assign(prompt="<image>\nOther words.")),
        plan(table=requests.iloc[:2]),
    }
    for name in ("align/projector.safetensors", "tune/TR/adapter/adapter_model.safetensors"):
        data = bytearray((folder / name).read_bytes())
        data[-1] ^= 1
        (folder / name).write_bytes(bytes(data))
        found.add(plan())
    assert len(found) == 8


def test_tables_are_written_beside_the_answers(asked, tmp_path):
    answers = pd.DataFrame({"answer": ["a"]})
    tables.write_tables(tmp_path / "evaluate", answers, {"fidelity": pd.DataFrame({"lf": [1 / 3]})})
    assert pd.read_parquet(tmp_path / "evaluate" / "answers.parquet").equals(answers)
    assert (tmp_path / "evaluate" / "fidelity.csv").read_text() == "lf\n0.333333\n"


CHOICES = {
    "a list": ("[]", "lambda = None"),
    "nothing in it": ("{}", "lambda = None"),
    "a word": ('{"lambda": "x"}', "lambda = 'x'"),
    "over one": ('{"lambda": 7}', "lambda = 7"),
    "below zero": ('{"lambda": -0.1}', "lambda = -0.1"),
    "no number": ('{"lambda": NaN}', "lambda = nan"),
    "true": ('{"lambda": true}', "lambda = True"),
    "a number past any float": (f'{{"lambda": {10**400}}}', "lambda = 1000"),
    "torn": ('{"lambda": 0.', "damaged"),
    "nested": ("[" * 100_000, "damaged"),
}


@pytest.mark.parametrize("case", CHOICES)
def test_a_damaged_choice_of_lambda_is_one_line_that_names_the_stage(run, case):
    content, expected = CHOICES[case]
    path = run / "merge" / "TR+M" / "choice.json"
    path.write_text(content)
    with pytest.raises(InputError) as failure:
        chosen_lambda(run, "TR")
    message = str(failure.value)
    assert expected in message and str(path) in message and "stage merge for arm TR again" in message
    assert "\n" not in message and len(message) < 500
