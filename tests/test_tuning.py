"""Which rows an arm is tuned on."""

import pytest

from textreg import row_files, tuning
from textreg.config import Tune
from textreg.errors import InputError


@pytest.fixture
def run(tmp_path):
    """A run folder with the three row files that arms draw from."""
    for name, count, image in (("visual", 20, "i"), ("text", 9, None), ("text_control", 9, None)):
        with row_files.RowWriter(tmp_path / "prepare_data" / f"{name}.parquet", row_files.ROWS) as writer:
            for i in range(count):
                turns = [{"role": "user", "content": "say it"}, {"role": "assistant", "content": "it"}]
                row = {"row_id": f"{name}{i}", "source": name, "task": "t", "language": "en", "messages": turns}
                writer.write(row | {"image_id": image and f"{image}{i}"})
    return str(tmp_path)


def test_the_rows_of_an_arm_come_in_the_planned_order_from_the_pool_its_text_setting_names(run):
    rows, order = tuning.arm_rows(Tune(run=run, text="english", text_share=0.5, steps=6, batch_size=4))
    seen = rows.iloc[order.positions]
    assert seen["source"].tolist() == ["text_control" if pool else "visual" for pool in order.pool]
    assert seen["source"].value_counts().to_dict() == {"visual": 12, "text_control": 12}


def test_the_base_model_has_no_text_row_whatever_its_text_share_says(run):
    rows, order = tuning.arm_rows(Tune(run=run, text="none", text_share=0.5, steps=6, batch_size=4))
    assert set(rows["source"]) == {"visual"}
    assert order.text_rows == 0


def test_a_distractor_is_an_image_of_the_visual_rows(run):
    rows, _ = tuning.arm_rows(Tune(run=run, text_image="distractor", steps=6, batch_size=4))
    text = rows[rows["source"] == "text"]
    assert set(text["image_id"]) <= {f"i{i}" for i in range(20)}
    assert all(turns[0]["content"] == "<image>\nsay it" for turns in text["messages"])


def test_a_text_arm_with_share_zero_is_refused(run):
    with pytest.raises(InputError, match="text_share 0; say text=none"):
        tuning.arm_rows(Tune(run=run, text_share=0.0, steps=6, batch_size=4))
