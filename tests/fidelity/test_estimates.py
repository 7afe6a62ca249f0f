"""Intervals cover what they should, pair what belongs together, and decide as promised."""

import numpy as np
import pandas as pd
import pytest

from textreg.errors import InputError
from textreg.fidelity.estimates import Bound, Estimate, Point, estimate

BM, TR = Point("BM", "image", "lf"), Point("TR", "image", "lf")


def verdicts(values, seeds=2, backbones=1, systems=("BM", "TR"), languages=("de", "fr"), items=20):
    """``values(system, backbone, seed, language, item) -> lf`` for every answer to an image."""
    rows = [
        (f"b{b}", s, system, "image", "caption", language, f"item-{i}", values(system, b, s, language, i))
        for system in systems
        for b in range(backbones)
        for s in range(seeds)
        for language in languages
        for i in range(items)
    ]
    columns = ["backbone", "seed", "system", "arm", "task", "language", "item_id", "lf"]
    table = pd.DataFrame(rows, columns=columns)
    return table.assign(lf=table["lf"].astype("boolean"), **{"class": np.where(table["lf"], "asked", "english")})


def test_languages_count_alike_however_many_answers_they_have():
    table = verdicts(lambda system, b, s, language, i: language == "de")
    fewer = table[(table["language"] == "fr") | (table["item_id"] == "item-0")]
    assert estimate(fewer, [(1, BM)], resamples=50).value == 0.5


def test_a_difference_pairs_the_same_requests_and_so_has_no_width_where_all_differ_alike():
    table = verdicts(lambda system, b, s, language, i: (i % 2 == 0) if system == "BM" else True)
    found = estimate(table, [(1, TR), (-1, BM)])
    assert found.value == 0.5 and found.low < 0.5 < found.high
    alike = verdicts(lambda system, b, s, language, i: i % 2 == 0)
    same = estimate(alike, [(1, TR), (-1, BM)])
    assert (same.value, same.low, same.high) == (0, 0, 0)


def test_seeds_that_disagree_widen_the_interval_and_items_alone_do_not_hide_it():
    apart = verdicts(lambda system, b, s, language, i: s == 0, seeds=2)
    level = verdicts(lambda system, b, s, language, i: i % 2 == 0, seeds=2, items=200)
    wide, narrow = (estimate(table, [(1, BM)]) for table in (apart, level))
    assert wide.value == narrow.value == 0.5
    assert (wide.low, wide.high) == (0, 1) and narrow.high - narrow.low < 0.2


def test_backbones_count_alike_and_are_drawn_above_their_seeds():
    table = verdicts(lambda system, b, s, language, i: b == 0, seeds=3, backbones=2)
    lopsided = table[(table["backbone"] == "b1") | (table["seed"] == 0)]
    found = estimate(lopsided, [(1, BM)])
    assert (found.value, found.low, found.high, found.runs) == (0.5, 0, 1, 4)


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    rng, covered = np.random.default_rng(0), 0
    for _ in range(60):
        table = verdicts(lambda *_: rng.random() < 0.7, seeds=1, systems=("BM",), languages=("de",), items=60)
        found = estimate(table, [(1, BM)], resamples=200)
        covered += found.low <= 0.7 <= found.high
    assert covered >= 52


def test_a_class_is_a_share_of_all_answers_and_english_of_lost_one_of_those_not_asked():
    table = verdicts(lambda system, b, s, language, i: i % 4 == 0)
    table.loc[table["item_id"] == "item-1", "class"] = "mixed"
    shares = {
        name: estimate(table, [(1, BM._replace(measure=name))], resamples=20).value
        for name in ("asked", "english", "english_of_lost")
    }
    assert shares == pytest.approx({"asked": 0.25, "english": 0.7, "english_of_lost": 14 / 15})


def test_a_measure_that_does_not_exist_is_named():
    with pytest.raises(InputError, match="unknown measure 'lf_pluss'"):
        estimate(verdicts(lambda *_: True), [(1, BM._replace(measure="lf_pluss"))])


NO_NUMBER = float("nan")
VERDICTS = {
    Bound(at_least=0.3): {(0.3, 0.5): "met", (0.2, 0.5): "undecided", (0.1, 0.29): "missed"},
    Bound(at_most=0.1): {(0.0, 0.1): "met", (0.2, 0.3): "missed"},
    Bound(within=0.05): {
        (-0.04, 0.05): "met", (-0.01, 0.06): "undecided", (0.06, 0.1): "missed", (NO_NUMBER, NO_NUMBER): "undefined"
    },
}  # fmt: skip


@pytest.mark.parametrize("bound", VERDICTS)
def test_a_claim_is_met_or_missed_only_where_the_whole_interval_says_so(bound):
    for (low, high), verdict in VERDICTS[bound].items():
        assert bound.verdict(Estimate((low + high) / 2, low, high, (low, high), 1, 1)) == verdict, (low, high)
