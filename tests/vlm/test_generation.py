"""Batched answers are the answers of ``generate``, one by one."""

from operator import itemgetter

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import image_table
from hypothesis import given as drawn
from hypothesis import strategies as st

from textreg.errors import InputError, RunError
from textreg.vlm import generation
from textreg.vlm.assembly import assemble
from textreg.vlm.features import model_inputs, open_features
from textreg.vlm.generation import Request, answer, encode_prompts

REQUESTS = [
    Request("<image>\nDescribe the image.", "image-1"),
    Request("What colour is the circle?"),
    Request("<image>\nDescribe la imagen.", "image-5"),
    Request("Translate into English: Un cuadrado rojo pequeño."),
    Request("<image>\nDescribe the image.", "image-2", prefix="Un"),
    Request("Why?"),
]


@pytest.fixture(scope="module")
def loaded(tiny_llm, tiny_tower):
    """A model, its processor, and features of eight pictures."""
    model, processor = assemble(str(tiny_llm), str(tiny_tower))
    return model, processor, open_features(model, processor, image_table())


@pytest.fixture
def asked(loaded):
    """The same, with end tokens that a test may change."""
    ends = loaded[0].generation_config.eos_token_id
    yield loaded
    loaded[0].generation_config.eos_token_id = ends


def by_generate(model, processor, features, request, count):
    """The oracle: transformers' own greedy search on one unpadded prompt."""
    (ids,) = encode_prompts(processor, [request], features)
    ids = torch.from_numpy(ids)[None]
    fetched = features.fetch([request.image_id]) | features.aligned(ids) if request.image_id else {}
    out = model.generate(input_ids=ids, **model_inputs(model, fetched), max_new_tokens=count, do_sample=False)
    return out[0, ids.shape[1] :]


def test_batched_answers_equal_single_ones(asked):
    model, processor, features = asked
    expected = [by_generate(*asked, request, 12) for request in REQUESTS]
    words = [processor.tokenizer.decode(ids, skip_special_tokens=True).strip() for ids in expected]
    for batch_size in (1, 4, 16):
        answers = answer(model, processor, REQUESTS, features, max_new_tokens=12, batch_size=batch_size)
        assert [given.text for given in answers] == words
        assert [given.tokens for given in answers] == list(map(len, expected))


def test_rows_that_end_early_do_not_disturb_the_others(asked):
    model, processor, features = asked
    firsts = [by_generate(model, processor, features, request, 12) for request in REQUESTS]
    model.generation_config.eos_token_id = [int(tokens[number % 5]) for number, tokens in enumerate(firsts)]
    answers = answer(model, processor, REQUESTS, features, max_new_tokens=12)
    expected = [len(by_generate(model, processor, features, request, 12)) for request in REQUESTS]
    assert [given.tokens for given in answers] == expected
    assert len(set(expected)) > 1


def test_first_token_log_probabilities_are_those_of_a_forward_pass(asked):
    model, processor, features = asked
    answers = answer(model, processor, REQUESTS[:2], features, max_new_tokens=2, first_logprobs=True)
    (ids,) = encode_prompts(processor, REQUESTS[1:2])
    expected = model(input_ids=torch.from_numpy(ids)[None]).logits[0, -1].log_softmax(-1)
    assert np.abs(answers[1].first_logprobs - expected.detach().numpy()).max() < 1e-4


def test_an_answer_tells_whether_the_limit_cut_it_off(asked):
    whole = answer(*asked[:2], REQUESTS, asked[2], max_new_tokens=6)
    ends = {*generation.end_tokens(asked[0]), asked[1].tokenizer(whole[0].text, add_special_tokens=False).input_ids[1]}
    asked[0].generation_config.eos_token_id = sorted(ends)
    ended, *others = answer(*asked[:2], REQUESTS, asked[2], max_new_tokens=6)
    assert (ended.finish, ended.tokens) == ("stop", 2)
    assert all((each.finish == "length") == (each.tokens == 6 and each.finish != "stop") for each in others)
    assert whole[0].finish == "length"


def test_a_table_of_requests_is_a_list_of_requests(asked):
    table = pd.DataFrame([vars(request) for request in REQUESTS])
    assert answer(*asked[:2], table, asked[2], max_new_tokens=4) == answer(
        *asked[:2], REQUESTS, asked[2], max_new_tokens=4
    )


def test_equal_requests_are_answered_once_and_all_of_them_get_the_answer(asked, monkeypatch):
    model, processor, features = asked
    answered, decode, reported = [], generation.decode, []

    def counted(vlm, prompts, *rest):
        answered.extend(prompts)
        return decode(vlm, prompts, *rest)

    monkeypatch.setattr(generation, "decode", counted)
    given = answer(model, processor, REQUESTS * 3, features, max_new_tokens=4, on_batch=reported.extend)
    assert len(answered) == len(REQUESTS)
    assert given == answer(model, processor, REQUESTS, features, max_new_tokens=4) * 3
    assert sorted(reported, key=itemgetter(0)) == list(enumerate(given))


@drawn(st.lists(st.booleans(), min_size=1, max_size=40).filter(any))
def test_of_the_rows_that_go_on_only_as_many_move_as_ended(going):
    going = torch.tensor(going)
    left = int(going.sum())
    kept = generation.packed(going, left)
    assert sorted(kept.tolist()) == going.nonzero().squeeze(1).tolist()
    assert int((kept != torch.arange(left)).sum()) == int((~going[:left]).sum())


def test_no_requests_give_no_answers(asked):
    assert answer(*asked[:2], [], asked[2]) == []


def test_an_image_without_features_is_refused(asked):
    with pytest.raises(InputError, match="image-1"):
        answer(*asked[:2], REQUESTS[:1], None)


def test_a_batch_that_does_not_fit_is_halved_and_nothing_is_lost_or_asked_twice(asked, monkeypatch):
    model, processor, features = asked
    expected = answer(model, processor, REQUESTS, features, max_new_tokens=5)
    decode, sizes, reported = generation.decode, [], []

    def small(vlm, prompts, *rest):
        if len(prompts) > 2:
            raise torch.cuda.OutOfMemoryError("out of memory")
        sizes.append(len(prompts))
        return decode(vlm, prompts, *rest)

    monkeypatch.setattr(generation, "decode", small)
    options = {"max_new_tokens": 5, "on_batch": lambda batch: reported.extend(position for position, _ in batch)}
    found = answer(model, processor, REQUESTS, features, **options)
    assert [one.text for one in found] == [one.text for one in expected]
    assert sorted(reported) == list(range(len(REQUESTS))) and max(sizes) <= 2


def test_a_single_request_that_does_not_fit_is_one_line(asked, monkeypatch):
    def full(*_):
        raise torch.cuda.OutOfMemoryError("out of memory")

    monkeypatch.setattr(generation, "decode", full)
    with pytest.raises(RunError, match=r"answering one request of \d+ tokens"):
        answer(*asked[:2], REQUESTS, asked[2], max_new_tokens=5)
