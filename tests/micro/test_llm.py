"""The micro backbone: its tokenizer, and a training that can be interrupted."""

import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from textreg.micro import llm
from textreg.scenes import instructions, languages
from textreg.scenes.grammar import caption
from textreg.scenes.scene import sample
from textreg.settings import Backbone

TINY = Backbone(vocabulary=600, hidden=32, layers=1, heads=2, llm_steps=200, llm_batch=8, finish_steps=100)


@pytest.fixture(scope="module")
def tokenizer():
    return llm.build_tokenizer(TINY, examples=400)


@pytest.mark.parametrize("code", languages.codes())
def test_the_tokenizer_gives_every_language_back_unchanged(tokenizer, code):
    for seed in range(20):
        text = caption(sample(random.Random(seed)), code, rng=random.Random(seed))
        assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text


def test_a_training_pair_is_encoded_as_the_chat_template_renders_it(tokenizer):
    prompt, answer = "En la imagen\nDescribe la imagen.", "Ένας κόκκινος κύκλος."
    turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
    user, reply = llm.encode(tokenizer, prompt, answer)
    asked = tokenizer.apply_chat_template(turns[:1], add_generation_prompt=True, return_dict=True)["input_ids"]
    assert user == asked
    assert user + reply == tokenizer.apply_chat_template(turns, return_dict=True)["input_ids"]
    assert reply[-1] == tokenizer.eos_token_id


def test_loss_is_asked_for_on_answers_alone_and_padding_stands_on_the_right(tokenizer):
    ids, labels = next(llm.batches(tokenizer, random.Random(0), TINY, lambda: 800))
    assert ids.shape == labels.shape and len(ids) == 8
    for row, label in zip(ids.tolist(), labels.tolist(), strict=True):
        end = len(row) - row[::-1].index(tokenizer.eos_token_id)
        begin = row.index(tokenizer.convert_tokens_to_ids(llm.ASSISTANT)) + 1
        assert label == [-100] * begin + row[begin:end] + [-100] * (len(row) - end)
        assert set(row[end:]) <= {tokenizer.pad_token_id}


@given(st.integers(1, 20_000).flatmap(lambda steps: st.tuples(st.integers(0, steps - 1), st.just(steps))))
def test_the_learning_rate_factor_is_positive_and_never_above_one(case):
    step, steps = case
    assert 0 < llm.learning_rate_factor(step, steps) <= 1


def test_the_learning_rate_rises_stays_for_half_of_the_training_and_falls_to_nearly_zero():
    factors = [llm.learning_rate_factor(step, 1000) for step in range(1000)]
    assert factors[:100] == sorted(factors[:100])
    assert set(factors[99:501]) == {1.0}
    assert factors[500:] == sorted(factors[500:], reverse=True)
    assert factors[-1] == pytest.approx(0.002)


def _one_step(model, optimizer, ids):
    model(input_ids=ids, labels=ids).loss.backward()
    optimizer.step()
    optimizer.zero_grad()


def test_a_resumed_training_takes_the_same_next_step(tokenizer, tmp_path):
    ids = torch.randint(5, 600, (2, 12), generator=torch.Generator().manual_seed(0))
    model = llm.build_llm(TINY, tokenizer)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, fused=True)
    _one_step(model, optimizer, ids)
    llm._save_state(model, optimizer, 500, tmp_path)
    _one_step(model, optimizer, ids)

    again = llm.build_llm(Backbone(**{**vars(TINY), "seed": 9}), tokenizer)
    fresh = torch.optim.AdamW(again.parameters(), lr=1e-2, fused=True)
    assert llm._resume(again, fresh, tmp_path) == 500
    _one_step(again, fresh, ids)
    for (name, one), other in zip(model.named_parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other), name


def test_the_loss_falls_within_two_hundred_steps(tokenizer, tmp_path):
    reports = []
    model = llm.train_llm(Backbone(**{**vars(TINY), "llm_steps": 100}), tokenizer, reports.append, tmp_path)
    assert [report["step"] for report in reports] == [100, 200]
    assert reports[1]["loss"] < reports[0]["loss"]
    assert not model.training


def test_an_untrained_model_is_faithful_to_no_language(tokenizer):
    settings = Backbone(**{**vars(TINY), "languages": ["en", "de"], "held_out_scenes": 1})
    rows = llm.held_out_scores(llm.build_llm(TINY, tokenizer).eval(), tokenizer, settings)
    assert [(row["language"], row["arm"]) for row in rows] == [("en", "text"), ("de", "text"), ("de", "text_en")]
    assert {(row["n"], row["asked"], row["english"], row["exact"]) for row in rows} == {(1, 0.0, 0.0, 0.0)}


def test_the_finish_is_a_cycle_of_its_own_at_half_the_rate():
    rates = [llm.learning_rate(TINY, step) for step in range(300)]
    assert max(rates[:200]) == TINY.llm_learning_rate and max(rates[200:]) == TINY.llm_learning_rate / 2
    assert rates[199] < rates[220] and rates[299] < rates[250]


def test_in_the_finish_a_short_answer_counts_as_much_as_a_long_one(tokenizer):
    model = llm.build_llm(TINY, tokenizer)
    ids = torch.randint(10, 400, (2, 12))
    labels = ids.clone()
    labels[0, :10], labels[1, :2] = -100, -100
    one, other = (llm.answer_loss(model, ids[[row]], labels[[row]], alike=False) for row in (0, 1))
    assert torch.allclose(llm.answer_loss(model, ids, labels, alike=True), (one + other) / 2)
    assert torch.allclose(llm.answer_loss(model, ids, labels, alike=False), (2 * one + 10 * other) / 12)


def test_every_kind_of_question_is_asked_in_every_language_before_any_tuning(tokenizer):
    settings = Backbone(**{**vars(TINY), "languages": ["en", "de"], "held_out_scenes": 5})
    rows = llm.held_out_questions(llm.build_llm(TINY, tokenizer).eval(), tokenizer, settings)
    assert {(row["language"], row["kind"]) for row in rows} == {
        (code, kind) for code in ("en", "de") for kind in instructions.QUESTIONS
    }
    assert {(row["n"], row["right"]) for row in rows} == {(1, 0.0)}
