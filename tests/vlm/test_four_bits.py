"""Decoders in 4 bits (NF4, QLoRA) on a CPU: what is rounded, and that training, adapters and answers are those of a
plain model with the same rounded weights.

The tiny checkpoints are widened, because a block of 64 weights shares a constant; and bitsandbytes is told that this
processor has no bf16 matrix unit, where it would repack weights at the first look and could not be tuned any more,
so that what runs is the function that runs on a GPU.
"""

import pytest
import torch
import vlm_families
from conftest import disturbed, image_table, row_table, write_llm

from textreg.training.batches import StepBatches, encode
from textreg.training.learner import Learner
from textreg.vlm.adapters import attach, load_adapter, save_adapter, scaled_adapter
from textreg.vlm.assembly import assemble
from textreg.vlm.features import model_inputs, open_features
from textreg.vlm.generation import Request, answer, encode_prompts
from textreg.vlm.published import load_vlm

bitsandbytes = pytest.importorskip("bitsandbytes")
from bitsandbytes.functional import dequantize_4bit  # noqa: E402 (of an extra)

QUICK = "qwen2_5_vl"  # it has biases beside its rounded weights
IMAGES = image_table()
WIDER = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 8, "num_key_value_heads": 4}


@pytest.fixture(autouse=True)
def any_processor(monkeypatch):
    monkeypatch.setattr("bitsandbytes.nn.modules.has_avx512bf16", lambda: False, raising=False)
    for key, value in WIDER.items():
        monkeypatch.setitem(vlm_families.WORDS, key, value)
    for name, seeing in vlm_families.SEEING.items():
        monkeypatch.setitem(seeing, "hidden_size" if name == "Qwen2VL" else "out_hidden_size", 64)


@pytest.fixture(
    params=[pytest.param(name, marks=[] if name == QUICK else pytest.mark.slow) for name in vlm_families.FAMILIES]
)
def family(request, tmp_path):
    if request.param == "mistral3":
        pytest.importorskip("torchvision")  # without which its processor cannot be imported
    vlm_families.FAMILIES[request.param](tmp_path / "vlm")
    return str(tmp_path / "vlm")


def rounded(model):
    """Module name -> the bf16 weight that its 4 bits stand for."""
    return {
        name: dequantize_4bit(module.weight.data, module.weight.quant_state)
        for name, module in model.named_modules()
        if isinstance(module, bitsandbytes.nn.Linear4bit)
    }


def in_blocks(model):
    """Names of the linear layers of the decoder's blocks."""
    blocks = {id(module) for module in model.get_decoder().layers.modules() if isinstance(module, torch.nn.Linear)}
    return {name for name, module in model.named_modules() if id(module) in blocks}


def twin(family):
    """A model in 4 bits, and a plain one in bf16 that has its rounded weights."""
    (small, processor), (plain, _) = load_vlm(family, precision="4bit"), load_vlm(family, precision="bf16")
    for name, weight in rounded(small).items():
        plain.get_submodule(name).weight.data.copy_(weight)
    return small, plain, processor


def test_the_blocks_of_the_decoder_are_rounded_and_nothing_else(family):
    small, plain, _ = twin(family)
    assert rounded(small).keys() == in_blocks(small) != set()
    own = small.state_dict()
    others = {name for name in plain.state_dict() if name.removesuffix(".weight") not in rounded(small)}
    assert all(torch.equal(own[name], plain.state_dict()[name]) for name in others)


def test_of_an_assembled_model_neither_head_nor_tower_nor_projector_is_rounded(tmp_path, tiny_tower):
    model, _ = assemble(str(write_llm(tmp_path, "qwen2", **WIDER)), str(tiny_tower), precision="4bit")
    assert rounded(model).keys() == in_blocks(model) != set()


def test_loss_and_gradients_are_those_of_a_plain_model_with_the_rounded_weights(family):
    found = {}
    small, plain, processor = twin(family)
    for name, model in {"small": small, "plain": plain}.items():
        features = open_features(model, processor, IMAGES)
        tuned = disturbed(attach(model, rank=4, alpha=8)).train()
        samples = encode(processor, row_table(), features, max_length=400)
        order = sorted(range(16), key=lambda row: -len(samples[row]))
        pad = processor.tokenizer.pad_token_id
        steps = StepBatches(samples, order, steps=1, batch_size=16, groups=1, features=features, pad_id=pad)
        loss = Learner(tuned)(**steps[0])["loss"]
        loss.backward()
        grads = {key: each.grad.flatten() for key, each in tuned.named_parameters() if each.requires_grad}
        found[name] = loss.item(), torch.cat([grads[key] for key in sorted(grads)])
    (ours, mine), (theirs, own) = found["small"], found["plain"]
    assert ours == pytest.approx(theirs, rel=0.01)
    assert torch.cosine_similarity(mine, own, dim=0) > 0.99 and mine.norm().item() == pytest.approx(
        own.norm().item(), rel=0.05
    )


def test_an_adapter_on_rounded_weights_comes_back_and_ends_at_lambda_0(family, tmp_path):
    model, processor = load_vlm(family, precision="4bit")
    features = open_features(model, processor, IMAGES)
    requests = [Request("<image>\nWhat?", "image-1"), Request("Why?")]
    (ids,) = (torch.from_numpy(each)[None] for each in encode_prompts(processor, requests[:1], features))
    fetched = features.fetch(["image-1"]) | features.aligned(ids)

    def logits(tuned):
        with torch.inference_mode():
            return tuned(input_ids=ids, **model_inputs(tuned.get_base_model(), fetched)).logits

    with torch.inference_mode():
        before = model(input_ids=ids, **model_inputs(model, fetched)).logits.clone()
    tuned = disturbed(attach(model, rank=4, alpha=8)).eval()
    save_adapter(tuned, tmp_path / "adapter")
    after, answers = logits(tuned), answer(tuned, processor, requests, features, max_new_tokens=6)
    with scaled_adapter(tuned, 0.0):
        assert torch.equal(logits(tuned), before)
    again = load_adapter(load_vlm(family, precision="4bit")[0], tmp_path / "adapter")
    assert not torch.equal(after, before) and torch.equal(logits(again), after)
    assert answer(again, processor, requests, features, max_new_tokens=6) == answers
