"""Which rows an arm is tuned on."""

from pathlib import Path

import pytest

from textreg.data import mixture
from textreg.data.rows import ROWS, RowWriter
from textreg.errors import InputError
from textreg.settings import Tune


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
