"""The tables of the evaluation notebook: one order of systems, readable names, nothing hidden in a mean."""

import pandas as pd
import pytest
from result_folders import LEVELS, answers_table, fidelity_table, visual_table

from textreg.fidelity.annotation import annotate
from textreg.fidelity.estimates import Point, estimate
from textreg.fidelity.identifiers import open_identifier
from textreg.figures import score_tables
from textreg.figures.tables import classes
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


def test_a_share_of_answers_is_the_number_of_every_estimate_also_where_backbones_have_unequal_numbers_of_seeds():
    runs = [("a", 0, 1.0), ("a", 1, 1.0), ("b", 2, 0.0)]
    answers = annotate(answers_table(), open_identifier())
    table = pd.concat([answers.assign(backbone=name, seed=seed) for name, seed, _ in runs])
    kept = table["seed"].map({seed: share for _, seed, share in runs})
    table["class"] = ["asked" if share else "english" for share in kept]
    drawn = classes(table, ["image"]).set_index(["system", "class"])["share"]
    told = estimate(table, [(1, Point("BM", "image", "asked"))], resamples=10)
    assert drawn["BM", "asked"] == pytest.approx(told.value) == pytest.approx(0.5)
