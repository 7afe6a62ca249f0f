"""What came out, in words: the sentences hold what the answers say, and no more than their intervals allow."""

import pytest
from result_folders import answers_table, write_run

from textreg.book import outcome
from textreg.evaluation.claims import Claim
from textreg.fidelity.annotation import annotate
from textreg.fidelity.identifiers import open_identifier
from textreg.figures.tables import load_results


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("outcome") / "run")


@pytest.fixture(scope="module")
def results(run):
    return load_results(run)


def sentence(lines, title):
    (line,) = [line for line in lines if line.startswith(f"**{title}")]
    return line


def test_every_sentence_holds_the_shares_of_the_answers(results):
    told = outcome.sentences(results)
    loss = sentence(told, "The loss")
    assert "asked language in 100.0 %, `BM`, tuned in English alone, in 0.0 %" in loss
    assert "100.0 % of `BM`'s answers are clean English" in loss and "0.0 % are mixed" in loss
    assert "above `BM` (+100.0 [100.0, 100.0] points)" in sentence(told, "The cure")
    assert "not told apart from `backbone`" in sentence(told, "The cure")


def test_a_loss_that_english_text_brings_as_well_is_called_english_induced(results):
    assert "English-induced" in sentence(outcome.sentences(results), "A picture or an English document?")


def test_what_comes_out_the_other_way_round_is_told_in_the_same_words(run, tmp_path):
    answers = answers_table()
    answers["system"] = answers["system"].replace({"BM": "TR", "TR": "BM"})
    annotate(answers, open_identifier()).to_parquet(run / "evaluate/answers.parquet")
    reversed_results = load_results(run)
    annotate(answers_table(), open_identifier()).to_parquet(run / "evaluate/answers.parquet")
    assert "below `BM` (-100.0" in sentence(outcome.sentences(reversed_results), "The cure")


def test_a_system_that_was_not_evaluated_has_no_sentence(results):
    told = " ".join(outcome.sentences(results))
    assert "**The controls.**" not in told and "**The cure.**" in told


def test_bounds_that_are_not_met_are_named_with_what_was_measured(results):
    kept = Claim(claim="BM is low", origin="ours", of=("BM", "image", "asked"), at_most=0.3)
    missed = Claim(claim="BM is high", origin="ours", of=("BM", "image", "asked"), at_least=0.5)
    told = sentence(outcome.sentences(results, (kept, missed)), "The bounds")
    assert "Of 2: 1 met, 1 missed" in told and "BM is high (0.0, bound at least 50: missed)" in told
    assert "BM is low" not in told
