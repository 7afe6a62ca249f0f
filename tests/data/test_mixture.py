"""The mixture: quotas, the order of rows, and which rows an arm is tuned on."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from textreg.data import mixture
from textreg.data.rows import ROWS, RowWriter
from textreg.errors import InputError
from textreg.settings import Tune

POOL = {("aya", "es"): 900, ("aya", "ga"): 10, ("aya", "fr"): 300, ("dolly", "es"): 100}
counts = st.lists(st.integers(0, 500), min_size=1, max_size=8)


@given(counts, st.integers(0, 2000), st.floats(0, 1))
def test_a_quota_is_never_larger_than_its_pool_and_leaves_no_row_unused(sizes, rows, temperature):
    pool = {str(i): size for i, size in enumerate(sizes)}
    quota = mixture.language_quota(pool, rows, temperature=temperature)
    assert all(quota[language] <= size for language, size in pool.items())
    assert sum(quota.values()) == min(rows, sum(sizes))


@given(st.lists(st.floats(0.01, 10), min_size=1, max_size=9), st.integers(0, 500))
def test_largest_remainders_are_within_one_row_of_the_exact_share(weights, total):
    parts = mixture.largest_remainder(weights, total)
    exact = np.array(weights) / sum(weights) * total
    assert sum(parts) == total
    assert np.all(np.abs(np.array(parts) - exact) < 1)


def test_temperature_zero_is_equal_and_one_is_proportional():
    pool = {"a": 800, "b": 200}
    assert mixture.language_quota(pool, 100, temperature=0.0) == {"a": 50, "b": 50}
    assert mixture.language_quota(pool, 100, temperature=1.0) == {"a": 80, "b": 20}


def test_a_small_language_gives_what_it_has_and_the_others_share_the_rest():
    assert mixture.language_quota({"a": 100, "b": 100, "c": 4}, 60) == {"a": 28, "b": 28, "c": 4}


def test_held_out_languages_get_no_row():
    plan = mixture.plan(POOL, 200, held_out=["fr"])
    assert plan.languages == ("es", "ga")
    assert plan.rows == 200


def test_sources_of_one_language_share_by_size():
    plan = mixture.plan(POOL, 100, languages=["es"])
    assert {quota.source: quota.rows for quota in plan.quotas} == {"aya": 90, "dolly": 10}


def test_a_pool_that_is_too_small_is_said_and_not_repeated():
    plan = mixture.plan(POOL, 5000)
    assert plan.rows == 1310
    assert "3690 rows fewer than the 5000 asked for" in plan.describe()


def test_an_unknown_text_language_names_the_setting_and_suggests():
    with pytest.raises(InputError, match=r"'gaa'.*did you mean 'ga'.*text_languages"):
        mixture.plan(POOL, 10, languages=["es", "gaa"])


def test_mixture_csv_has_the_columns_of_the_figure_and_shares_that_sum_to_one(tmp_path):
    mixture.plan(POOL, 100).save(tmp_path / "mixture.csv")
    table = pd.read_csv(tmp_path / "mixture.csv")
    assert list(table.columns) == ["source", "language", "rows", "share"]
    assert table["rows"].sum() == 100
    assert table["share"].sum() == pytest.approx(1.0, abs=1e-5)


def test_the_paper_mixture_holds_the_nine_shares_of_the_caption_and_marks_the_rest_as_ours():
    named = {entry.language: entry.share for entry in mixture.paper_mixture() if entry.paper}
    assert sum(named.values()) == pytest.approx(4.96)
    assert named["pt"] == 2.1 and named["uk"] == 0.17
    ours = [entry for entry in mixture.paper_mixture() if not entry.paper]
    assert sum(entry.share for entry in ours) == pytest.approx(94.5)
    assert all(entry.share >= 3 for entry in ours)


def test_the_paper_shares_make_a_mixture_in_their_proportion():
    pool = {("any", entry.language): 10_000 for entry in mixture.paper_mixture()}
    table = mixture.plan(pool, 9946, shares=mixture.paper_shares()).table().set_index("language")
    assert table.loc["pt", "rows"] == pytest.approx(210, abs=1)
    assert table.loc["uk", "rows"] == pytest.approx(17, abs=1)


@pytest.mark.parametrize(("phases", "first"), [(1, 20), (2, 10), (3, 0)])
def test_text_is_in_the_last_thirds_and_holds_its_share_there(phases, first):
    order = mixture.compose(1000, 1000, text_share=0.25, steps=30, batch_size=8, phases=phases)
    by_step = (order.pool.reshape(30, 8) == mixture.TEXT).sum(axis=1)
    assert by_step.tolist() == [0] * first + [2] * (30 - first)


@given(st.integers(1, 40), st.integers(1, 20), st.floats(0, 1), st.integers(1, 3))
def test_every_step_holds_its_share_of_text_to_one_row(steps, batch, share, phases):
    order = mixture.compose(50, 50, text_share=share, steps=steps, batch_size=batch, phases=phases)
    assert len(order.pool) == steps * batch
    by_step = (order.pool.reshape(steps, batch) == mixture.TEXT).sum(axis=1)
    on = by_step[steps - steps * phases // 3 :]
    assert np.all(np.abs(on - batch * share) <= 1)
    assert by_step[: steps - steps * phases // 3].sum() == 0
    assert abs(order.text_rows - len(on) * batch * share) <= 0.5 + 1e-9


def test_no_row_comes_twice_before_every_row_of_its_pool_came_once():
    order = mixture.compose(30, 7, text_share=0.5, steps=10, batch_size=8)
    text = order.index[order.pool == mixture.TEXT]
    assert sorted(text[:7]) == list(range(7))
    assert order.text_repeats == 40 - 7
    assert "33 text rows are repeats (the pool holds 7)" in order.describe()


def test_arms_of_a_seed_see_the_same_visual_rows_in_the_same_order_and_text_rows_in_the_same_places():
    base = mixture.compose(500, 0, text_share=0.0, steps=40, batch_size=8, seed=3)
    treated, control = (
        mixture.compose(500, texts, text_share=0.25, steps=40, batch_size=8, seed=3) for texts in (300, 120)
    )
    seen = treated.index[treated.pool == mixture.VISUAL]
    assert base.index[: len(seen)].tolist() == seen.tolist()
    assert np.array_equal(treated.pool, control.pool)


def test_an_empty_text_pool_that_is_needed_is_an_error():
    with pytest.raises(InputError, match="text pool is empty"):
        mixture.compose(10, 0, text_share=0.5, steps=2, batch_size=4)


@pytest.fixture
def run(tmp_path):
    """A run folder with the three row files that arms draw from."""
    for name, count, image in (("visual", 20, "i"), ("text", 9, None), ("text_control", 9, None)):
        with RowWriter(tmp_path / "prepare_data" / f"{name}.parquet", ROWS) as writer:
            for i in range(count):
                turns = [{"role": "user", "content": "say it"}, {"role": "assistant", "content": "it"}]
                row = {"row_id": f"{name}{i}", "source": name, "task": "t", "language": "en", "messages": turns}
                writer.write(row | {"image_id": image and f"{image}{i}"})
    return str(tmp_path)


def test_the_rows_of_an_arm_come_in_the_planned_order_from_the_pool_its_text_setting_names(run):
    rows, order = mixture.arm_rows(Tune(run=run, text="english", text_share=0.5, steps=6, batch_size=4))
    seen = rows.iloc[order.positions]
    assert seen["source"].tolist() == ["text_control" if pool else "visual" for pool in order.pool]
    assert seen["source"].value_counts().to_dict() == {"visual": 12, "text_control": 12}


def test_the_base_model_has_no_text_row_whatever_its_text_share_says(run):
    rows, order = mixture.arm_rows(Tune(run=run, text="none", text_share=0.5, steps=6, batch_size=4))
    assert set(rows["source"]) == {"visual"}
    assert order.text_rows == 0


def test_a_text_arm_with_share_zero_is_refused(run):
    with pytest.raises(InputError, match="text_share 0; say text=none"):
        mixture.arm_rows(Tune(run=run, text_share=0.0, steps=6, batch_size=4))


def test_the_english_control_differs_from_its_counterpart_in_the_text_rows_alone(run):
    sizes = {"run": run, "steps": 6, "batch_size": 4}
    (pool, order), (other_pool, other) = (mixture.arm_rows(Tune(**sizes, text=t)) for t in ("multilingual", "english"))
    assert (order.positions == other.positions).all() and (order.pool == other.pool).all()
    assert (pool["source"] == other_pool["source"]).sum() == 20


@pytest.mark.parametrize(("shown", "images"), [("blank", {"blank"}), ("distractor", {f"i{i}" for i in range(20)})])
def test_an_image_stands_in_front_of_every_text_row_where_the_arm_asks_for_one(run, shown, images):
    rows, _ = mixture.arm_rows(Tune(run=run, text_image=shown, steps=6, batch_size=4))
    text = rows[rows["source"] == "text"]
    assert set(text["image_id"]) <= images
    assert all(turns[0]["content"] == "<image>\nsay it" for turns in text["messages"])


def test_another_seed_is_another_order(run):
    orders = [mixture.arm_rows(Tune(run=run, seed=seed, steps=6, batch_size=4))[1].positions for seed in (0, 0, 1)]
    assert (orders[0] == orders[1]).all() and (orders[0] != orders[2]).any()


def test_what_an_arm_is_shown_is_told_by_source_language_and_image(run):
    shown = mixture.rows_shown(*mixture.arm_rows(Tune(run=run, text_share=0.25, steps=6, batch_size=4)))
    assert shown.to_dict("records") == [
        {"source": "visual", "language": "en", "image": True, "rows": 18, "share": 0.75},
        {"source": "text", "language": "en", "image": False, "rows": 6, "share": 0.25},
    ]


def test_a_missing_row_file_is_named_with_the_stage_that_makes_it(run):
    (Path(run) / "prepare_data" / "text_control.parquet").unlink()
    with pytest.raises(InputError, match=r"text_control\.parquet is missing; run the stage prepare_data"):
        mixture.arm_rows(Tune(run=run, text="english", steps=6, batch_size=4))
