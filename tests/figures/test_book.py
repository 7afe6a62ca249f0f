"""The figures as the book shows them: every one is drawn from result files alone and described with their numbers."""

import json
from dataclasses import replace

import pandas as pd
import pytest
from result_folders import LANGUAGES, write_run

from textreg.figures import book
from textreg.figures.tables import load_results, macro


@pytest.fixture(scope="module")
def drawn(results, tmp_path_factory):
    return {saved.stem.name: saved for saved in book.draw_all(results, tmp_path_factory.mktemp("figures"))}


def test_every_figure_is_drawn_from_result_files_alone_with_a_caption_beside_its_description(drawn):
    assert len(drawn) == len(book.ALL)
    for saved in drawn.values():
        assert all(path.stat().st_size > 50 for path in saved.paths.values())
        about = json.loads(saved.paths["json"].read_text())
        assert len(about["alt"].split()) > 12 and about["caption"] and about["caption"] not in about["alt"]


def test_a_description_holds_the_number_that_the_table_holds(results, drawn):
    mean = macro(results.fidelity.query("system == 'BM'"))["value"].item()
    assert f"BM {100 * mean:.0f} %" in drawn["1_language_fidelity"].alt


def test_the_gallery_shows_first_images_with_the_verdict_of_each_answer(drawn):
    table = pd.read_csv(drawn["8_gallery"].paths["csv"])
    assert set(table["language"]) <= set(LANGUAGES)
    assert set(table.query("system == 'BM'")["verdict"]) == {"wrong"}
    assert set(table.query("system == 'TR'")["verdict"]) == {"right"}


def test_the_matrix_finds_english_where_english_was_not_asked_for(drawn):
    table = pd.read_csv(drawn["6_confusion"].paths["csv"])
    english = table.query("system == 'BM' and asked != 'en' and answered == 'en'")["share"]
    own = table.query("system == 'TR' and asked == answered")["share"]
    assert english.min() > 0.9 and own.min() > 0.9


def test_languages_without_text_rows_are_found_to_be_held_out(results):
    assert set(results.held_out) == {"el", "sv", "uk"}


def test_a_run_without_losses_and_sweep_draws_the_rest(tmp_path):
    run = write_run(tmp_path / "run")
    (run / "tune/BM/log.csv").unlink()
    (run / "merge/TR+M/sweep.csv").unlink()
    (run / "evaluate/answers.parquet").unlink()
    names = {saved.stem.name for saved in book.draw_all(load_results(run), tmp_path / "figures")}
    assert names == {"1_language_fidelity", "2_mixture", "3_intervals", "5_arms", "9_grounding", "10_held_out"}


def test_without_a_judge_frontier_and_left_out_languages_show_lf(results, tmp_path):
    tables = {name: getattr(results, name).assign(lf_plus=float("nan")) for name in ("fidelity", "sweep", "frontier")}
    for draw in (book.frontier, book.left_out):
        assert " of LF " in draw(replace(results, **tables), tmp_path).alt


def test_where_no_caption_was_judged_the_frontier_speaks_of_chrf_and_not_of_right_captions(results, tmp_path):
    judged = book.frontier(results, tmp_path).alt
    nothing = {"sweep": results.sweep.assign(grounded=float("nan")), "frontier": results.frontier.iloc[:0]}
    written = book.frontier(replace(results, **nothing), tmp_path).alt
    assert "share of English captions that are right" in judged and "chrF" not in judged
    assert "chrF of English captions" in written and "captions that are right" not in written


def test_a_run_whose_answers_were_all_too_short_to_identify_has_no_frontier(results, tmp_path):
    nothing = {"lf": float("nan"), "lf_plus": float("nan")}
    empty = replace(results, sweep=results.sweep.assign(**nothing), frontier=results.frontier.assign(**nothing))
    assert book.frontier(empty, tmp_path) is None


def test_the_end_of_the_frontier_is_called_backbone_where_it_is_one(results, tmp_path):
    ends = results.sweep.query("`lambda` == 1").assign(**{"lambda": 0.0, "split": "test"})
    with_backbone = replace(results, frontier=pd.concat([results.sweep.assign(split="test"), ends]))
    assert "system backbone" in book.frontier(with_backbone, tmp_path).alt
    assert "backbone" not in book.frontier(results, tmp_path).alt


def test_a_training_that_ended_before_its_first_line_of_log_has_no_drawing(tmp_path):
    pd.DataFrame([]).to_csv(tmp_path / "log.csv", index=False)
    assert book.training(tmp_path / "log.csv", "the tower", tmp_path) is None
