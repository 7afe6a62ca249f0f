import pytest
import tiny_pictures
import torch
from transformers import Gemma3ForCausalLM

from textreg.errors import InputError
from textreg.pictures.vocabulary import cut, from_gguf

TEXTS = ["balabasy", "Was ist das?", " bidabao, アサ"]


@pytest.fixture(scope="module")
def whole(root):
    tokenizer = tiny_pictures.tokenizer_of(tiny_pictures.texts(root))
    return tokenizer, tiny_pictures.language_model(len(tokenizer))


@pytest.fixture
def small(whole):
    tokenizer, model = whole
    copied = Gemma3ForCausalLM(model.config.__class__(**model.config.to_dict()))
    copied.load_state_dict(model.state_dict())
    return cut(tokenizer, copied.eval(), TEXTS, ["<start_of_turn>"])


def test_kept_tokens_have_exactly_the_logits_that_they_had(whole, small):
    (tokenizer, model), (short, cut_model, kept) = whole, small
    assert len(kept) < len(tokenizer)
    for text in TEXTS:
        before = torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"]])
        after = torch.tensor([short(text, add_special_tokens=False)["input_ids"]])
        with torch.no_grad():
            states = [each.model(ids).last_hidden_state for each, ids in ((model, before), (cut_model, after))]
            assert torch.equal(*states)  # and the same rows of the head, so that logits differ by nothing but a kernel
            assert torch.allclose(cut_model(after).logits, model(before).logits[..., kept], rtol=0, atol=1e-6)
    assert torch.equal(cut_model.lm_head.weight, model.lm_head.weight[kept])


def test_a_text_that_was_counted_in_is_split_into_the_same_tokens(whole, small):
    (tokenizer, _), (short, _, kept) = whole, small
    for text in TEXTS:
        ids = short(text, add_special_tokens=False)["input_ids"]
        assert [kept[number] for number in ids] == tokenizer(text, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("text", ["zürich", "猫<start_of_turn>", "xyz 123"])
def test_any_other_text_can_still_be_written_and_read(small, text):
    tokenizer = small[0]
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text


def test_a_file_that_is_no_model_is_named(tmp_path):
    (tmp_path / "m.gguf").write_bytes(b"no model")
    with pytest.raises(InputError, match=r"m\.gguf|gguf"):
        from_gguf(tmp_path / "m.gguf", tmp_path / "llm")
