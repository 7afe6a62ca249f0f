"""Intervals against scipy and against arithmetic, tests against tables."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, bootstrap

from textreg.fidelity.intervals import clustered_bounds, macro_bounds, mean_bounds, paired_test, share_bounds


def test_share_bounds_agree_with_a_simulated_bootstrap():
    outcomes = np.array([1.0] * 130 + [0.0] * 70)
    found = bootstrap((outcomes,), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(0))
    low, high = share_bounds(130, 200)
    assert low == pytest.approx(found.confidence_interval.low, abs=0.006)
    assert high == pytest.approx(found.confidence_interval.high, abs=0.006)


@pytest.mark.parametrize("hits", [0, 40])
def test_unanimous_answers_get_wilson_bounds_instead_of_none(hits):
    wilson = binomtest(hits, 40).proportion_ci(method="wilson")
    low, high = share_bounds(hits, 40)
    assert (low, high) == pytest.approx((wilson.low, wilson.high))


def test_wilson_bounds_agree_with_scipy_everywhere():
    for hits in range(21):
        wilson = binomtest(hits, 20).proportion_ci(method="wilson")
        low, high = share_bounds(hits, 20, method="wilson")
        assert (low, high) == pytest.approx((min(wilson.low, hits / 20), wilson.high))


def test_nothing_scored_has_no_bounds():
    low, high = share_bounds([0, 1], [0, 2])
    assert np.isnan(low[0]) and np.isnan(high[0]) and not np.isnan(low[1])


@given(st.integers(1, 500), st.data())
def test_bounds_enclose_the_share_and_stay_in_range(n, data):
    hits = data.draw(st.integers(0, n))
    for method in ("bootstrap", "wilson"):
        low, high = share_bounds(hits, n, method=method)
        assert 0 <= low <= hits / n <= high <= 1


def test_more_hits_than_answers_are_refused():
    with pytest.raises(ValueError, match="hits"):
        share_bounds(3, 2)


def test_mean_bounds_of_few_and_of_many_distinct_values_agree():
    rng = np.random.default_rng(1)
    coarse = rng.choice([-1.0, 0.0, 0.5], size=400)
    fine = coarse + rng.normal(0, 1e-6, size=400)  # as many values as answers: the other branch
    assert mean_bounds(coarse, resamples=4000) == pytest.approx(mean_bounds(fine, resamples=4000), abs=0.01)


def test_mean_bounds_leave_undefined_values_out():
    assert mean_bounds([1.0, np.nan, 1.0]) == (1.0, 1.0)
    assert np.isnan(mean_bounds([np.nan])).all()


def test_answers_that_hang_together_widen_the_interval():
    rng = np.random.default_rng(0)
    right = rng.random(60) < 0.5
    clustered = clustered_bounds(right * 10.0, np.full(60, 10.0))
    low, high = share_bounds(right.sum() * 10, 600)
    assert clustered[1] - clustered[0] > 2 * (high - low)


def test_clusters_of_one_answer_give_the_ordinary_bounds():
    outcomes = np.array([1.0] * 60 + [0.0] * 40)
    low, high = share_bounds(60, 100)
    assert clustered_bounds(outcomes, np.ones(100), resamples=5000) == pytest.approx(
        (float(low), float(high)), abs=0.02
    )


def test_a_macro_mean_gives_each_language_the_same_weight():
    hits = np.array([[1.0, 0.0]] * 50)
    n = np.array([[1.0, 0.0]] * 49 + [[1.0, 1.0]])
    low, high = macro_bounds(hits, n)  # the second language is wrong whenever it is drawn at all
    assert low == 0.5 and high == 1.0


@pytest.mark.parametrize("hit", [0, 1])
def test_a_macro_mean_of_unanimous_answers_gets_the_wilson_bounds_of_its_items(hit):
    n = np.ones((20, 3))
    n[0] = 0  # an item without a scored answer tells nothing
    expected = [float(bound) for bound in share_bounds(19 * hit, 19)]
    assert list(macro_bounds(hit * n, n)) == expected


def test_a_macro_mean_of_nothing_is_undefined():
    assert np.isnan(macro_bounds(np.zeros((3, 2)), np.zeros((3, 2)))).all()


def test_intervals_repeat_with_the_seed():
    values = np.random.default_rng(0).random(100)
    assert mean_bounds(values, seed=4) == mean_bounds(values, seed=4) != mean_bounds(values, seed=5)


def test_mcnemar_counts_discordant_pairs_only():
    a = [1] * 12 + [0] * 2 + [1] * 30 + [0] * 30
    b = [0] * 12 + [1] * 2 + [1] * 30 + [0] * 30
    found = paired_test(a, b)
    assert found.p_value == pytest.approx(2 * sum(91 if k == 2 else [1, 14][k] for k in range(3)) / 2**14)
    assert found.difference == pytest.approx(10 / 74) and found.n == 74
    assert found.low <= found.difference <= found.high


def test_identical_systems_do_not_differ():
    found = paired_test([1, 0, 1], [1, 0, 1])
    assert (found.difference, found.p_value) == (0.0, 1.0)


def test_pairs_undefined_on_one_side_are_left_out():
    found = paired_test([1, np.nan, 0, 1], [0, 1, np.nan, 1])
    assert found.n == 2 and found.difference == 0.5


def test_no_pair_is_undefined():
    assert np.isnan(paired_test([np.nan], [1.0]).p_value)


def test_graded_outcomes_are_tested_by_sign_flips():
    rng = np.random.default_rng(0)
    b = rng.random(40)
    found = paired_test(b + 0.3, b)
    assert found.test == "sign-flip permutations" and found.p_value < 0.001 and found.difference == pytest.approx(0.3)


def test_few_and_many_sizes_of_difference_give_the_same_p_value():
    rng = np.random.default_rng(0)
    coarse = rng.choice([-0.5, 0.0, 0.25, 0.5], size=120, p=[0.2, 0.3, 0.2, 0.3])
    fine = coarse + rng.normal(0, 1e-9, size=120)  # as many sizes as pairs: scipy's branch
    zero = np.zeros(120)
    assert paired_test(coarse, zero).p_value == pytest.approx(paired_test(fine, zero).p_value, abs=0.02)


def test_items_with_the_same_outcomes_are_interchangeable_in_macro_bounds():
    rng = np.random.default_rng(0)
    hits = (rng.random((200, 3)) < [0.9, 0.5, 0.2]).astype(float)
    n = np.ones_like(hits)
    apart = n + rng.normal(0, 1e-9, size=n.shape)  # no two items alike: the other branch
    assert macro_bounds(hits, n, resamples=4000) == pytest.approx(macro_bounds(hits, apart, resamples=4000), abs=0.01)


def test_unequal_lengths_are_refused():
    with pytest.raises(ValueError, match="equally long"):
        paired_test([1, 0], [1])
