"""What came out, in words: the sentences hold what the answers say, and no more than their intervals allow."""

from dataclasses import replace

from textreg.book import outcome


def test_every_sentence_holds_the_shares_of_the_answers(results):
    told = outcome.findings(results)
    assert "asked language 0\u00a0% of the time, the untuned `backbone` 100\u00a0%" in told["loss"]
    assert "100\u00a0% of `BM`'s answers are clean English, 0\u00a0% mixed" in told["loss"]
    assert "above `BM` (+100.0 [100.0,\u00a0100.0] points), not told apart from `backbone`" in told["cure"]


def test_a_loss_that_english_text_brings_as_well_is_called_english_induced(results):
    assert "English-induced" in outcome.findings(results)["document"]


def test_what_comes_out_the_other_way_round_is_told_in_the_same_words(results):
    turned = results.answers["system"].replace({"BM": "TR", "TR": "BM"})
    told = outcome.findings(replace(results, answers=results.answers.assign(system=turned)))
    assert "below `BM` (−100.0" in told["cure"]


def test_a_system_that_was_not_evaluated_has_no_sentence(results):
    assert "cure" in (told := outcome.findings(results)) and "controls" not in told


def test_the_first_page_answers_what_was_measured_and_leaves_the_rest_out(results):
    told = outcome.short(results)
    assert told["loss"].startswith("*Its English.* Tuning takes 100 of 100 answers")
    assert told["cure"] == ""  # EN was not asked
    unjudged = replace(results, answers=results.answers.drop(columns="class"))
    assert set(outcome.short(unjudged).values()) == {""} and outcome.findings(unjudged) == {}
