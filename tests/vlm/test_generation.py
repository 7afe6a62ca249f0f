"""Batched answers are the answers of ``generate``, one by one."""

import numpy as np
import pytest
import torch
from hypothesis import given as drawn
from hypothesis import strategies as st

from textreg.errors import InputError, RunError
from textreg.vlm import generation
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


@pytest.fixture
def asked(tiny_vlm, tiny_images):
    model, processor = tiny_vlm
    return model, processor, open_features(model, processor, tiny_images)


def by_generate(model, processor, features, request, count):
    """The oracle: transformers' own greedy search on one unpadded prompt."""
    (ids,) = encode_prompts(processor, [request], features)
    ids = torch.from_numpy(ids)[None]
    fetched = features.fetch([request.image_id]) | features.aligned(ids) if request.image_id else {}
    out = model.generate(input_ids=ids, **model_inputs(model, fetched), max_new_tokens=count, do_sample=False)
    return out[0, ids.shape[1] :]


@pytest.mark.parametrize("batch_size", [1, 4, 16])
def test_batched_answers_equal_single_ones(asked, batch_size):
    model, processor, features = asked
    answers = answer(model, processor, REQUESTS, features, max_new_tokens=12, batch_size=batch_size)
    for request, given in zip(REQUESTS, answers, strict=True):
        expected = by_generate(model, processor, features, request, 12)
        assert given.text == processor.tokenizer.decode(expected, skip_special_tokens=True).strip()
        assert given.tokens == len(expected)


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


def test_every_answer_is_reported_once_as_it_comes(asked):
    seen = []
    answers = answer(*asked[:2], REQUESTS, asked[2], max_new_tokens=3, batch_size=4, on_batch=seen.extend)
    assert sorted(position for position, _ in seen) == list(range(len(REQUESTS)))
    assert all(answers[position] == given for position, given in seen)


def test_an_answer_tells_whether_the_limit_cut_it_off(asked):
    whole = answer(*asked[:2], REQUESTS, asked[2], max_new_tokens=6)
    ends = {*generation.end_tokens(asked[0]), asked[1].tokenizer(whole[0].text, add_special_tokens=False).input_ids[1]}
    asked[0].generation_config.eos_token_id = sorted(ends)
    ended, *others = answer(*asked[:2], REQUESTS, asked[2], max_new_tokens=6)
    assert (ended.finish, ended.tokens) == ("stop", 2)
    assert all((each.finish == "length") == (each.tokens == 6 and each.finish != "stop") for each in others)
    assert whole[0].finish == "length"


def test_a_table_of_requests_is_a_list_of_requests(asked):
    import pandas as pd

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
    assert sorted(place for place, _ in reported) == list(range(3 * len(REQUESTS)))


@drawn(st.lists(st.booleans(), min_size=1, max_size=40).filter(any))
def test_of_the_rows_that_go_on_only_as_many_move_as_ended(going):
    going = torch.tensor(going)
    left = int(going.sum())
    kept = generation.packed(going, left)
    assert sorted(kept.tolist()) == going.nonzero().squeeze(1).tolist()
    assert int((kept != torch.arange(left)).sum()) == int((~going[:left]).sum())


def test_a_cache_that_loses_rows_holds_those_that_are_kept():
    states = torch.randn(5, 2, 3, 4)
    layer = generation.BufferedLayer(length=6)
    layer.update(states, -states)
    layer.batch_select_indices(torch.tensor([0, 4, 2]))
    keys, values = layer.update(states[:3], states[:3])
    assert torch.equal(keys, torch.cat([states[[0, 4, 2]], states[:3]], dim=2))
    assert torch.equal(values[:, :, :3], -states[[0, 4, 2]])


def test_no_requests_give_no_answers(asked):
    assert answer(*asked[:2], [], asked[2]) == []


def test_a_request_whose_placeholder_disagrees_is_refused(asked):
    with pytest.raises(InputError, match="0 placeholders <image>"):
        answer(*asked[:2], [Request("no picture", "image-1")], asked[2])


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
