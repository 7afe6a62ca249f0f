"""What came out, in words: the sentences hold the files' numbers and say no more than the ranges over seeds allow."""

import pandas as pd
import pytest
from result_folders import fidelity_table, visual_table, write_run

from textreg.book import claims, outcome
from textreg.figures.tables import load_results, macro


def results_of(folder, seeds, **levels):
    """Results of ``seeds`` seeds; ``levels`` sets LF+ and GF of the image arm: system -> one value per seed."""
    for seed in range(seeds):
        run = write_run(folder / f"seed-{seed}", seed)
        table = fidelity_table().assign(seed=seed)
        for system, values in levels.items():
            mine = (table["system"] == system) & (table["arm"] == "image")
            table.loc[mine, ["lf", "lf_plus", "grounded"]] = values[seed]
        table.to_csv(run / "evaluate/fidelity.csv", index=False)
        visual = visual_table(seed)
        visual.loc[(visual["system"] == "backbone") & (visual["task"] != "caption"), "accuracy"] = 0.4
        visual.to_csv(run / "evaluate/visual.csv", index=False)
    return load_results(folder)


def sentence(lines, title):
    (line,) = [line for line in lines if line.startswith(f"**{title}.**")]
    return line


def test_every_sentence_holds_the_numbers_of_the_files(tmp_path):
    results = results_of(tmp_path, 2)
    means = macro(results.fidelity, "lf_plus").set_index("system")["value"]
    told = outcome.sentences(results)
    assert f"{100 * means['BM']:.1f} %" in sentence(told, "The loss")
    assert f"{100 * means['TR']:.1f} %" in sentence(told, "The cure")
    assert f"{100 * means['EN']:.1f} %" in sentence(told, "The control")


@pytest.mark.parametrize(
    ("merged", "verdict"), [((0.9, 0.95), "above"), ((0.5, 0.85), "level with"), ((0.1, 0.2), "below")]
)
def test_two_systems_differ_only_where_their_ranges_over_seeds_do_not_meet(tmp_path, merged, verdict):
    results = results_of(tmp_path, 2, **{"BM+M": merged, "TR": (0.7, 0.8)})
    assert f"{verdict} `TR` on LF+ and GF" in sentence(outcome.sentences(results), "Merging alone")


def test_one_seed_has_numbers_and_no_verdict(tmp_path):
    told = " ".join(outcome.sentences(results_of(tmp_path, 1)))
    assert "beside `TR`" in told and "above `" not in told and "level with" not in told


def test_english_text_that_helps_is_not_called_no_cure(tmp_path):
    results = results_of(tmp_path, 2, EN=(0.97, 0.98), TR=(0.9, 0.91))
    assert "does as well" in sentence(outcome.sentences(results), "The control")


def test_a_system_that_was_not_evaluated_has_no_sentence(tmp_path):
    results = results_of(tmp_path, 1)
    for table in (results.fidelity, results.visual):
        table.drop(table.index[table["system"] == "BM+M"], inplace=True)
    told = " ".join(outcome.sentences(results))
    assert "Merging alone" not in told and "**The cure.**" in told


def test_missed_bounds_are_named_with_what_was_measured(tmp_path):
    results = results_of(tmp_path, 1, BM=(0.25,))
    kept = claims.Claim(claim="BM is low", origin="ours", of=("BM", "image", "lf"), at_most=0.3)
    missed = claims.Claim(claim="BM is high", origin="ours", of=("BM", "image", "lf"), at_least=0.5)
    told = sentence(outcome.sentences(results, (kept, missed)), "The bounds")
    assert "1 of 2" in told and "BM is high (25.0, bound at least 50)" in told and "BM is low" not in told


def test_a_language_left_out_of_the_text_is_named(tmp_path):
    results = results_of(tmp_path, 1)
    assert "Swedish" in sentence(outcome.sentences(results), "A language left out")
    assert isinstance(results.fidelity, pd.DataFrame)
