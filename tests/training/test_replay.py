"""Replay: which rows are answered by the model itself, and with what."""

import pandas as pd
import pytest

from textreg.settings import Tune
from textreg.training.replay import own_answers
from textreg.vlm.generation import Request, answer


def row(prompt, image=None):
    turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": "as written"}]
    return {"messages": turns, "image_id": image}


ROWS = pd.DataFrame([row("<image>\nWhat?", "picture"), row("Blue?"), row("Describe"), row("not trained on")])


def said(rows):
    return [messages[1]["content"] for messages in rows["messages"]]


def test_the_text_rows_that_are_trained_on_hold_the_models_own_answers_and_no_other_row_does(tiny_vlm):
    model, processor = tiny_vlm
    rows = own_answers(model, processor, ROWS, [2, 0, 1, 2], Tune(text_answers="own", max_length=64))
    expected = [found.text for found in answer(model, processor, [Request("Blue?"), Request("Describe")],
                                               max_new_tokens=16)]  # fmt: skip
    assert said(rows) == ["as written", *expected, "as written"] and all(expected)
    assert said(ROWS) == ["as written"] * 4


@pytest.mark.parametrize("answers", ["given", "own"])
def test_without_a_text_row_nothing_changes(tiny_vlm, answers):
    rows = own_answers(*tiny_vlm, ROWS, [0], Tune(text_answers=answers))
    pd.testing.assert_frame_equal(rows, ROWS)
