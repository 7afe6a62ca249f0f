"""Boxes that say what became of a prediction: the word follows the numbers, and nothing said is read as markup."""

import pandas as pd
import pytest
from result_folders import LANGUAGES, loss_table, sweep_table

from textreg.evaluation import claims
from textreg.figures import predictions
from textreg.scenes import grammar
from textreg.scenes.scene import Group, Scene


def words(boxes):
    return [one.verdict for one in boxes.each]


@pytest.mark.parametrize(("held", "word"), [(True, "held"), (False, "failed"), (None, "not measured")])
def test_a_box_says_in_words_what_became_of_a_prediction(held, word):
    box = predictions.predicted("a < b & c", held, "3 < 4")
    assert words(box) == [word] and f"Predicted, {word}:" in box._repr_html_()
    assert "a &lt; b &amp; c" in box._repr_html_() and "(3 &lt; 4)" in box._repr_html_() and word in str(box)


def test_every_claim_has_one_question_and_every_question_a_claim():
    found = [predictions.about(claim) for claim in claims.load()]
    assert set(found) == {"loss", "document", "cure", "left_out", "right", "seeing", "merging"}


@pytest.mark.parametrize("verdict", predictions.VERDICTS)
def test_a_claim_is_told_by_the_verdict_that_was_judged(verdict):
    line = claims.Claim(claim="BM is low", origin="ours", of=("BM", "image", "asked"), at_most=0.3)
    judged = pd.DataFrame([{"claim": "BM is low", "value": 0.2, "low": 0.1, "high": 0.25, "verdict": verdict}])
    (one,) = predictions.claimed(judged, [line], "loss").each
    assert one.verdict == predictions.VERDICTS[verdict] and one.measured == "20.0 [10.0, 25.0], bound at most 30"
    assert predictions.claimed(judged, [line], "cure").each == ()


def test_boxes_of_results_hold_the_verdicts_of_their_claims(results):
    told = {one.said: one for one in predictions.of_results(results, "loss").each}
    assert told["What comes instead is clean English"].verdict == "held"
    assert "100.0 [100.0, 100.0]" in told["What comes instead is clean English"].measured


def test_of_several_seeds_it_is_told_how_often_a_prediction_held():
    table = pd.DataFrame({"prediction": ["a", "b", "c"] * 2, "held": [True, True, False, True, False, False]})
    boxes = predictions.looked(table)
    assert words(boxes) == ["held", "undecided", "failed"] and boxes.each[1].measured == "in 1 of 2 runs"
    assert predictions.looked(table.iloc[:1]).each[0].measured == ""


def test_a_training_that_rises_or_falls_late_is_found_out(tmp_path):
    good = loss_table(1).query("arm == 'BM'")[["step", "loss"]].reset_index(drop=True)
    good.to_csv(tmp_path / "good.csv", index=False)
    late = good.assign(loss=[3.0] * (len(good) - 3) + [4.0, 1.0, 1.0])
    late.to_csv(tmp_path / "late.csv", index=False)
    assert words(predictions.fitted(tmp_path / "good.csv")) == ["held", "held"]
    assert words(predictions.fitted(tmp_path / "late.csv")) == ["failed", "failed"]


def test_what_an_arm_predicts_depends_on_its_text_rows():
    codes = [code for code in LANGUAGES if code != "en"]
    asked = pd.DataFrame({"language": codes})
    scene = Scene((Group("red", "circle", "small", 1),), None)
    own, english = ([grammar.caption(scene, code) for code in told] for told in (codes, ["en"] * len(codes)))
    assert words(predictions.kept(asked, own, own, "multilingual")) == ["held"]
    assert words(predictions.kept(asked, own, english, "multilingual")) == ["failed"]
    assert words(predictions.kept(asked, own, english, "none")) == ["held"]
    assert words(predictions.kept(asked, own, own, "english")) == ["failed"]
    assert words(predictions.stays(asked.assign(answer=english))) == ["failed"]


def test_the_price_of_merging_is_read_off_the_ends_of_the_sweep():
    points = sweep_table(2).assign(questions=lambda table: table["lambda"])
    assert words(predictions.swept(points)) == ["held", "held"] * 2
    bought = predictions.swept(points.assign(visual=points["questions"] ** 3, lf_plus=float("nan")))
    assert words(bought) == ["not measured", "failed"] * 2


def test_systems_are_compared_language_by_language_and_by_the_length_of_their_bars(results):
    assert words(predictions.everywhere(results, "TR", "BM")) == ["held"]
    assert words(predictions.everywhere(results, "BM", "TR")) == ["failed"]
    assert words(predictions.everywhere(results, "TR", "nobody")) == ["not measured"]
    assert words(predictions.gap(results, "BM", ("TR", "TR+M"))) == ["held"]
    assert words(predictions.gap(results, "TR", ("BM",))) == ["failed"]
