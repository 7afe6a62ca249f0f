"""Merge methods as functions: end points, where theory says they coincide, and small oracles."""

import doctest
import math
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis.extra import numpy as arrays

from textreg.errors import InputError
from textreg.merging import methods
from textreg.merging.methods import Recipe, find_cuts, magnitude_bits, merge_tensors, random_mask

FLOATS = st.floats(-100, 100, width=32, allow_subnormal=False)
PAIRS = st.integers(1, 60).flatmap(
    lambda n: st.tuples(*[arrays.arrays(np.float32, n, elements=FLOATS).map(torch.from_numpy)] * 2)
)
LAMBDAS = st.floats(0, 1)
EXAMPLES = settings(deadline=None, max_examples=40)  # a busy machine is no failure


def random_pair(count: int, seed: int = 0, scale: float = 0.1) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    base = torch.randn(count, generator=generator)
    return base, base + scale * torch.randn(count, generator=generator)


@EXAMPLES
@given(PAIRS, LAMBDAS)
def test_linear_is_interpolation(pair, lam):
    base, tuned = pair
    expected = (1 - lam) * base.double() + lam * tuned.double()
    torch.testing.assert_close(
        merge_tensors(base, [tuned], Recipe("linear", lam)).double(), expected, rtol=1e-5, atol=1e-4
    )


@EXAMPLES
@given(PAIRS, LAMBDAS)
@pytest.mark.parametrize("method", ["trim", "drop", "breadcrumbs", "ties", "task_arithmetic", "dare"])
def test_a_method_that_keeps_every_change_is_linear(method, pair, lam):
    base, tuned = pair
    assert torch.equal(
        merge_tensors(base, [tuned], Recipe(method, lam, density=1.0)),
        merge_tensors(base, [tuned], Recipe("linear", lam)),
    )


@EXAMPLES
@given(PAIRS, LAMBDAS, st.floats(0.01, 1))
def test_ties_with_one_tuned_model_and_breadcrumbs_that_leave_no_outlier_out_are_trim(pair, lam, density):
    base, tuned = pair
    trim, *others = (
        merge_tensors(base, [tuned], Recipe(name, lam, density)) for name in ("trim", "ties", "breadcrumbs")
    )
    assert all(torch.equal(trim, other) for other in others)


@EXAMPLES
@given(PAIRS)
def test_slerp_starts_at_the_base_and_ends_at_the_tuned_model(pair):
    base, tuned = pair
    torch.testing.assert_close(merge_tensors(base, [tuned], Recipe("slerp", 0.0)), base, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(merge_tensors(base, [tuned], Recipe("slerp", 1.0)), tuned, rtol=1e-4, atol=1e-3)


@EXAMPLES
@given(PAIRS, LAMBDAS)
def test_slerp_of_equal_norms_stays_on_the_sphere(pair, lam):
    base, tuned = pair
    if min(float(base.norm()), float(tuned.norm())) < 1e-3:
        return
    base, tuned = base / base.norm(), tuned / tuned.norm()
    if float(base @ tuned) < -0.99:
        return
    assert float(merge_tensors(base, [tuned], Recipe("slerp", lam)).norm()) == pytest.approx(1, abs=1e-3)


def test_slerp_halfway_between_right_angles_is_the_diagonal():
    merged = merge_tensors(torch.tensor([1.0, 0.0]), [torch.tensor([0.0, 1.0])], Recipe("slerp", 0.5))
    torch.testing.assert_close(merged, torch.tensor([1.0, 1.0]) / math.sqrt(2))


def test_trim_keeps_the_largest_changes_and_breadcrumbs_leave_out_the_very_largest():
    base, tuned = torch.zeros(5), [torch.tensor([1.0, -5, 3, 0.5, -4])]
    assert merge_tensors(base, tuned, Recipe("trim", 1.0, density=0.6)).tolist() == [0, -5, 3, 0, -4]
    merged = merge_tensors(base, tuned, Recipe("breadcrumbs", 1.0, density=0.4, gamma=0.2))
    assert merged.tolist() == [0, 0, 3, 0, -4]


def test_breadcrumbs_of_a_tensor_too_small_for_an_outlier_still_keep_changes():
    tuned = torch.tensor([1.0, -2.0, 3.0])
    assert merge_tensors(torch.zeros(3), [tuned], Recipe("breadcrumbs", 1.0, density=0.9)).tolist() == tuned.tolist()


@EXAMPLES
@given(st.lists(st.integers(-3, 3), min_size=1, max_size=50), st.integers(0, 50))
def test_exactly_as_many_are_kept_as_asked_and_equal_magnitudes_in_storage_order(values, size):
    array = np.array(values, np.float32)
    size = min(size, len(values))
    [cut] = find_cuts(lambda start, stop: array[start:stop], len(array), [size])
    kept = np.flatnonzero(cut.mask(magnitude_bits(array))).tolist()
    order = sorted(range(len(values)), key=lambda index: (-abs(values[index]), index))
    assert kept == sorted(order[:size])


@pytest.mark.parametrize("method", ["linear", "slerp", "trim", "breadcrumbs", "ties", "model_stock"])
def test_blocks_do_not_change_the_result(method, monkeypatch):
    base, one = random_pair(5000)
    tuned = [one] if method in {"slerp", "trim"} else [one, random_pair(5000, 1)[1], random_pair(5000, 2)[1]]
    recipe = Recipe(method, 0.5, density=0.3, gamma=0.05)
    whole = merge_tensors(base, tuned, recipe)
    monkeypatch.setattr(methods, "BLOCK", 64)
    torch.testing.assert_close(merge_tensors(base, tuned, recipe), whole, rtol=0, atol=1e-6)


def test_drop_keeps_the_asked_share_and_the_expected_value():
    base, tuned = torch.zeros(200_000), torch.ones(200_000)
    merged = merge_tensors(base, [tuned], Recipe("drop", 1.0, density=0.25))
    assert float((merged != 0).float().mean()) == pytest.approx(0.25, abs=0.01)
    assert float(merged.mean()) == pytest.approx(1.0, abs=0.03)
    assert merged.unique().tolist() == [0.0, 4.0]


def test_drop_depends_on_seed_and_name_and_on_nothing_else():
    mask = random_mask(1000, 0.5, 0, "layers.0.mlp.up_proj.weight", 0, 0)
    np.random.seed(123)  # noqa: NPY002
    assert np.array_equal(mask, random_mask(1000, 0.5, 0, "layers.0.mlp.up_proj.weight", 0, 0))
    for other in [
        (1, "layers.0.mlp.up_proj.weight", 0, 0),
        (0, "norm.weight", 0, 0),
        (0, "layers.0.mlp.up_proj.weight", 0, 1),
    ]:
        assert not np.array_equal(mask, random_mask(1000, 0.5, *other))


def test_ties_elect_the_sign_with_more_mass_and_average_those_that_carry_it():
    tuned = [torch.tensor([3.0, 1.0, 0.0]), torch.tensor([-1.0, 3.0, 0.0]), torch.tensor([1.0, -9.0, 2.0])]
    assert merge_tensors(torch.zeros(3), tuned, Recipe("ties", 1.0)).tolist() == [2.0, -9.0, 2.0]


@EXAMPLES
@given(PAIRS, LAMBDAS)
def test_ties_of_a_model_with_itself_is_that_model(pair, lam):
    base, tuned = pair
    one, two = (merge_tensors(base, models, Recipe("ties", lam)) for models in ([tuned], [tuned, tuned]))
    torch.testing.assert_close(one, two)


def test_model_stock_of_equal_models_is_that_model_and_of_orthogonal_changes_the_base():
    base, tuned = random_pair(100)
    torch.testing.assert_close(merge_tensors(base, [tuned, tuned], Recipe("model_stock")), tuned)
    orthogonal = [torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])]
    assert merge_tensors(torch.zeros(2), orthogonal, Recipe("model_stock")).tolist() == [0, 0]


def test_model_stock_takes_the_step_of_its_paper():
    changes = [torch.tensor([1.0, 0.0]), torch.tensor([0.5, math.sqrt(0.75)])]  # 60 degrees apart: cosine 0.5
    merged = merge_tensors(torch.zeros(2), changes, Recipe("model_stock"))
    torch.testing.assert_close(merged, (2 * 0.5 / (1 + 0.5)) * sum(changes) / 2)


def test_linear_of_several_models_averages_them():
    base, one = random_pair(50)
    two = random_pair(50, 4)[1]
    torch.testing.assert_close(merge_tensors(base, [one, two], Recipe("linear", 1.0)), (one + two) / 2)


@pytest.mark.parametrize(
    ("wrong", "models", "message"),
    [
        ({"method": "ters"}, 1, "did you mean 'ties'"),
        ({"lam": float("nan")}, 1, "out of range"),
        ({"method": "slerp", "lam": 1.5}, 1, "0 to 1"),
        ({"density": 0.0}, 1, "density"),
        ({"method": "breadcrumbs", "density": 0.9, "gamma": 0.2}, 1, "leave nothing"),
        ({"method": "model_stock"}, 1, "two or more"),
        ({"method": "slerp"}, 2, "one tuned model"),
        ({"method": "model_stock", "patterns": {"*": 0.1}}, 2, "own step"),
    ],
)
def test_a_recipe_that_means_nothing_is_refused(wrong, models, message):
    with pytest.raises(InputError, match=message):
        Recipe(**wrong).check_models(models)


def test_an_empty_tensor_merges_to_an_empty_tensor():
    assert merge_tensors(torch.zeros(0, 4), [torch.zeros(0, 4)], Recipe("trim", density=0.5)).shape == (0, 4)


def test_the_book_shows_which_methods_coincide():
    page = Path(__file__).parents[2] / "book" / "method.md"
    failed, tried = doctest.testfile(str(page), module_relative=False)
    assert tried > 5 and failed == 0
