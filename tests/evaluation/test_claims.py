"""Claims: read whole, measured from answers, and judged by the interval."""

import numpy as np
import pandas as pd
import pytest

from textreg.errors import InputError
from textreg.evaluation import claims


def answers(**asked):
    """Answers of one run: system -> share of the 40 picture captions that are in the asked language."""
    rows = [
        ("shipped", 0, system, "image", "caption", language, f"test-{i}", i < 40 * share)
        for system, share in asked.items()
        for language in ("de", "fr")
        for i in range(40)
    ]
    table = pd.DataFrame(rows, columns=["backbone", "seed", "system", "arm", "task", "language", "item_id", "lf"])
    return table.assign(**{"class": np.where(table["lf"], "asked", "english")})


def claim(**keys):
    return claims.Claim(claim="c", origin="ours", **keys)


def test_the_projects_claims_can_be_read_and_speak_of_its_systems():
    systems = {point.system for each in claims.load() for _, point in each.terms}
    assert systems == {"backbone", "BM", "EN", "TR", "TR-mono", "BM+M", "TR+M"}


@pytest.mark.parametrize(
    ("bound", "verdict"),
    [({"at_least": 0.3}, "met"), ({"at_most": 0.2}, "missed"), ({"at_least": 0.51}, "undecided")],
)
def test_a_claim_is_judged_by_its_whole_interval(bound, verdict):
    told = claim(of=("TR", "image", "asked"), minus=("BM", "image", "asked"), **bound)
    found = claims.judge(answers(TR=0.95, BM=0.45), (told,)).iloc[0]
    assert found["value"] == pytest.approx(0.5) and found["verdict"] == verdict


def test_a_difference_of_differences_takes_off_what_it_is_beyond():
    told = claim(
        of=("TR", "image", "lf"),
        minus=("BM", "image", "lf"),
        beyond={"of": ("EN", "image", "lf"), "minus": ("BM", "image", "lf")},
        at_least=0,
    )
    found = claims.judge(answers(TR=0.9, BM=0.4, EN=0.5), (told,)).iloc[0]
    assert found["value"] == pytest.approx(0.4)


def test_no_difference_is_met_as_equivalence_and_one_system_that_was_not_asked_is_undefined():
    within = claim(of=("TR", "image", "lf"), minus=("EN", "image", "lf"), within=0.05)
    unknown = claim(of=("XX", "image", "lf"), at_least=0.0)
    found = claims.judge(answers(TR=0.5, EN=0.5), (within, unknown))
    assert found["verdict"].tolist() == ["met", "undefined"] and found["bound"][0] == "within ±5"


@pytest.mark.parametrize(
    "line",
    [
        "{claim: c, origin: ours, of: [BM, image, lf]}",
        "{claim: c, origin: ours, of: [BM, image, lf], at_least: 0, at_most: 1}",
        "{claim: c, origin: theirs, of: [BM, image, lf], at_least: 0}",
        "{claim: c, origin: ours, of: [BM, image], at_least: 0}",
        "{claim: c, origin: ours, of: [BM, image, lf], at_leest: 0}",
    ],
)
def test_a_wrong_line_is_named_by_its_number(line):
    with pytest.raises(InputError, match="claim 2"):
        claims.load("- {claim: c, origin: ours, of: [BM, image, lf], at_least: 0}\n- " + line)


def test_an_unknown_measure_is_an_error_with_a_suggestion():
    with pytest.raises(InputError, match="asked"):
        claims.judge(answers(BM=0.5), (claim(of=("BM", "image", "askd"), at_least=0),))
