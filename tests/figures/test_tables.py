"""The tables of the evaluation notebook: one order of systems, readable names, nothing hidden in a mean."""

import pandas as pd
import pytest
from result_folders import LEVELS, answers_table, fidelity_table, visual_table

from textreg.fidelity import measures
from textreg.fidelity.annotation import annotate
from textreg.fidelity.estimates import Point, estimate
from textreg.fidelity.identifiers import open_identifier
from textreg.figures import score_tables
from textreg.figures.tables import classes, macro, per_language, questions_by_task
from textreg.vlm.systems import System

ORDER = ["backbone", "BM", "EN", "TR", "BM+M", "TR+M"]


@pytest.fixture
def fidelity():
    table = fidelity_table(systems=list(LEVELS)[::-1]).assign(exclusive_share=0.5, parse_rate=0.5)
    table.loc[table["system"] == "BM", "n_scored"] = 170
    return table


def test_every_table_has_the_systems_in_the_order_of_the_results(fidelity):
    assert list(score_tables.by_system(fidelity).index) == ORDER
    assert list(score_tables.by_arm(fidelity).index) == ORDER
    assert list(score_tables.by_task(visual_table()).index) == ORDER
    assert list(score_tables.by_language(fidelity).columns) == ORDER


def test_the_share_that_was_scored_comes_first(fidelity):
    table = score_tables.by_system(fidelity)
    assert table.columns[0] == "scored" and table.loc["BM", "scored"] == pytest.approx(0.85)


def test_arms_run_from_image_to_text_within_each_measure(fidelity):
    columns = list(score_tables.by_arm(fidelity).columns)
    assert columns == [(name, arm) for name in ("LF", "LF+") for arm in ("image", "blank", "text")]


def test_tasks_are_told_with_their_number_and_captions_first():
    assert list(score_tables.by_task(visual_table()).columns) == ["caption (100)", "colour (100)"]


def test_languages_without_text_rows_are_starred_and_last(fidelity):
    shown = score_tables.by_language(fidelity, {"sv"})
    assert shown.index[-1] == "Swedish*" and shown.index.name == "LF+"
    assert score_tables.by_language(fidelity.assign(lf_plus=float("nan"))).index.name == "LF"


def test_the_backbone_has_no_lambda():
    table = score_tables.systems_table([System("backbone"), System("TR+M", "TR", 0.4)])
    assert table.loc["TR+M", "lambda"] == 0.4 and pd.isna(table.loc["backbone", "lambda"])


def test_undefined_shares_are_a_dash_and_others_per_cent():
    page = score_tables.per_cent(pd.DataFrame({"LF": [0.5, float("nan")]}, index=["TR", "BM"])).to_html()
    assert "50.0" in page and "–" in page and "nan" not in page


def test_what_tuning_took_is_told_for_the_arms_that_were_asked():
    answers = annotate(answers_table(), open_identifier()).assign(backbone="shipped")
    table = score_tables.lost(answers[answers["arm"] != "text_en"])
    assert table.loc["BM", "image"] == "100 [100, 100]" and table.loc["TR", "image"] == "0 [0, 0]"
    assert table["English text"].isna().all() and list(table.index) == ["BM", "TR", "TR+M"]


def test_the_shares_of_the_classes_sum_to_one_and_only_those_that_occur_are_shown():
    table = score_tables.by_class(annotate(answers_table(), open_identifier()).assign(backbone="shipped"))
    assert table.loc["BM", ("image", "english")] == 1.0 and ("image", "mixed") not in table.columns
    assert table["image"].sum(axis=1).tolist() == [1.0] * len(table)


def test_every_mean_that_is_drawn_is_the_number_of_the_estimates_also_with_unequal_seeds_of_a_backbone():
    answers, turned = annotate(answers_table(), open_identifier()), {"BM": "TR", "TR": "backbone", "backbone": "BM"}
    runs = [
        answers.assign(backbone=name, seed=seed, system=answers["system"].replace(turned if name == "a" else {}))
        for seed, name in enumerate("aab")
    ]
    table = pd.concat(runs)
    scores, seen = (
        pd.concat([make(run).assign(backbone=run["backbone"].iloc[0], seed=run["seed"].iloc[0]) for run in runs])
        for make in (measures.summarise, measures.visual_summary)
    )
    by_language = per_language(scores).set_index(["system", "language"])["value"]
    drawn = {
        ("image", "asked"): classes(table, ["image"]).set_index(["system", "class"])["share"]["BM", "asked"],
        ("image", "lf_plus"): macro(scores, "lf_plus").set_index("system")["value"]["BM"],
        ("image", "lf", "caption", ("de",)): by_language["BM", "de"],
        ("image", "content", "count", "en"): questions_by_task(seen)["BM"].item(),
    }
    for point, value in drawn.items():
        told = estimate(table, [(1, Point("BM", *point))], resamples=10).value
        assert value == pytest.approx(told), point
    assert drawn["image", "asked"] == pytest.approx(0.5) != 2 / 3
