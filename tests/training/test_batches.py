"""Rows become ids and labels that agree with what generation will see."""

import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from conftest import LISTS, Placeholders

from textreg.errors import InputError
from textreg.training.batches import IGNORE, Sample, StepBatches, encode, padded, shuffled_order
from textreg.vlm.generation import Request, encode_prompts


def rows_of(*turns, image=None):
    return pd.DataFrame([{"row_id": "r", "image_id": image, "messages": list(turns)}])


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def learnt(processor, sample):
    return processor.tokenizer.decode(sample.labels[sample.labels != IGNORE])


def test_what_the_assistant_says_is_learnt_in_every_turn_with_its_end(tiny_vlm):
    _, processor = tiny_vlm
    rows = rows_of(user("a"), assistant("Blue"), user("b"), assistant("Red"))
    (sample,) = encode(processor, rows, Placeholders(), max_length=64)
    assert learnt(processor, sample) == "Blue<|im_end|>Red<|im_end|>"


def test_a_template_without_end_of_turn_gets_an_end_to_learn(tiny_vlm):
    _, processor = tiny_vlm
    processor.chat_template = LISTS
    (sample,) = encode(processor, rows_of(user("a"), assistant("Blue")), Placeholders(), max_length=64)
    assert learnt(processor, sample).rstrip().endswith("<|im_end|>")


def test_the_prompt_of_a_row_is_the_prompt_of_generation(tiny_vlm):
    _, processor = tiny_vlm
    rows = rows_of(user("<image>\nWhat?"), assistant("Blue"), image="i")
    (sample,) = encode(processor, rows, Placeholders(), max_length=64)
    (prompt,) = encode_prompts(processor, [Request("<image>\nWhat?", "i")], Placeholders())
    assert sample.ids[: len(prompt)].tolist() == prompt.tolist()
    assert sample.labels[len(prompt)] != IGNORE and (sample.labels[: len(prompt)] == IGNORE).all()


@pytest.mark.parametrize(("prompt", "image"), [("no picture", "i"), ("<image>\na", None), ("<image><image>a", "i")])
def test_a_placeholder_that_disagrees_with_the_image_is_refused(tiny_vlm, prompt, image):
    with pytest.raises(InputError, match=r"holds . placeholders <image>"):
        encode(tiny_vlm[1], rows_of(user(prompt), assistant("b"), image=image), Placeholders(), max_length=64)


def test_a_row_that_is_too_long_loses_its_end_and_is_counted(tiny_vlm, capsys):
    _, processor = tiny_vlm
    rows = pd.concat([rows_of(user("a"), assistant(words)) for words in ("Blue", "Blue circle and red square")])
    short, whole = encode(processor, rows, Placeholders(), max_length=99)
    assert capsys.readouterr().out == ""
    assert len(short) < len(whole)
    kept, cut = encode(processor, rows, Placeholders(), max_length=len(short))
    assert kept.ids.tolist() == short.ids.tolist()
    assert cut.ids.tolist() == whole.ids[: len(short)].tolist() and cut.supervised < whole.supervised
    assert f"1 of 2 rows: cut at max_length={len(short)}\n" in capsys.readouterr().out


def test_a_row_that_cannot_be_learnt_from_is_counted_and_an_image_never_cut(tiny_vlm, capsys):
    _, processor = tiny_vlm
    processor.chat_template = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('none') }}{% endif %}" + (
        processor.chat_template
    )
    system = {"role": "system", "content": "Be brief."}
    good, refused = rows_of(user("a"), assistant("b")), rows_of(system, user("a"), assistant("b"))
    large = rows_of(user("<image>\na"), assistant("b"), image="i")
    rows = pd.concat([good, refused, good, large, good])
    samples = encode(processor, rows, Placeholders(30), max_length=24)
    assert [sample.supervised > 0 for sample in samples] == [True, False, True, False, True]
    assert [sample.image_id for sample in samples] == [None] * 5
    assert capsys.readouterr().out.splitlines() == [
        "1 of 5 rows: a picture of more than max_length=24 tokens, not learnt",
        "1 of 5 rows: refused or rewritten by the chat template, not learnt",
    ]


def test_rows_of_which_most_teach_nothing_are_refused(tiny_vlm):
    rows = rows_of(user("Describe the image."), assistant("b"))
    with pytest.raises(InputError, match=r"learnt from 1 of 1 rows \(most: cut at max_length=4, before the answer"):
        encode(tiny_vlm[1], rows, Placeholders(), max_length=4)


def test_no_rows_are_refused(tiny_vlm):
    with pytest.raises(InputError, match="no rows"):
        encode(tiny_vlm[1], rows_of(user("a"), assistant("b")).iloc[:0], Placeholders(), max_length=8)


def test_a_turn_boundary_inside_a_token_is_refused(tiny_vlm):
    _, processor = tiny_vlm
    processor.chat_template = (
        "{% for m in messages %}{{ (' De' if m['role'] == 'assistant' else '') + m['content'] }}{% endfor %}"
        "{% if add_generation_prompt %} De{% endif %}"
    )
    with pytest.raises(InputError, match="reaches across"):
        encode(processor, rows_of(user("a"), assistant("scribe the image.")), Placeholders(), max_length=64)


def sample(length, image=None):
    ids = np.arange(length, dtype=np.int32)
    labels = np.where(ids > 1, ids, IGNORE).astype(np.int32)
    return Sample(ids, labels, image)


def test_padding_is_on_the_right_and_never_scored():
    batch = padded([sample(3), sample(5)], pad_id=77)
    assert batch["input_ids"][0].tolist() == [0, 1, 2, 77, 77]
    assert batch["labels"][0].tolist() == [IGNORE, IGNORE, 2, IGNORE, IGNORE]


def test_a_step_holds_its_planned_rows_whatever_the_groups():
    samples = [sample(4 + number % 5) for number in range(24)]
    order = shuffled_order(24, 24, seed=1)
    for groups in (1, 2, 4):
        data = StepBatches(samples, order, steps=3, batch_size=8, groups=groups, features=None)
        assert len(data) == 3 * groups
        for step in range(3):
            held = np.concatenate([data.members(step * groups + group) for group in range(groups)])
            assert sorted(held) == sorted(order[step * 8 : step * 8 + 8])


def test_an_order_that_is_too_short_is_refused():
    with pytest.raises(InputError, match="need 16 rows, the plan has 10"):
        StepBatches([sample(4)] * 10, range(10), steps=2, batch_size=8, groups=1, features=None)


def test_a_batch_that_does_not_divide_is_refused():
    with pytest.raises(InputError, match="does not divide into 3"):
        StepBatches([sample(4)] * 16, range(16), steps=2, batch_size=8, groups=3, features=None)


def test_an_image_without_features_is_refused():
    data = StepBatches([sample(4, "image-7")] * 2, range(2), steps=1, batch_size=2, groups=1, features=None)
    with pytest.raises(InputError, match="image-7"):
        data[0]


def test_shuffled_epochs_show_every_row_equally_often():
    order = shuffled_order(10, 30, seed=4)
    assert np.bincount(order).tolist() == [3] * 10
    assert order.tolist() == shuffled_order(10, 30, seed=4).tolist() != shuffled_order(10, 30, seed=5).tolist()


@pytest.mark.slow
def test_a_million_short_rows_are_read_and_tokenised_in_bounded_memory(tmp_path):
    """As objects of Python the rows alone would take gigabytes."""
    script = """
import resource, sys
from conftest import CHATML, tiny_tokenizer
from textreg.data.rows import ROWS, RowWriter, read_rows
from textreg.training.batches import encode

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10

count, path = int(sys.argv[2]), sys.argv[1]
with RowWriter(path, ROWS) as writer:
    for number in range(count):
        turns = [{"role": "user", "content": f"Why {number}?"}, {"role": "assistant", "content": "Blue"}]
        row = {"row_id": str(number), "source": "s", "task": "t", "language": "en", "image_id": None}
        writer.write(row | {"messages": turns})

class Bare:
    tokenizer, chat_template = tiny_tokenizer(), CHATML

before = peak()
samples = encode(Bare(), read_rows(path), None, max_length=64)
assert len(samples) == count and samples[-1].supervised > 0
print((peak() - before) * 2**20 / count)
"""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", script, str(tmp_path / "visual.parquet"), "1000000"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert float(done.stdout) < 1000  # bytes a row, of some thirty tokens
