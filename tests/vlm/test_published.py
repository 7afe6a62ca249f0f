"""Published models of every family: loss, gradients and answers are those of their own class, and an export is one of
them again.
"""

import json
from pathlib import Path

import pytest
import torch
import vlm_families
from conftest import disturbed, image_table, row_table, write_llm, write_tower
from safetensors import safe_open
from transformers import AutoProcessor

from textreg.errors import InputError
from textreg.training.batches import IGNORE, StepBatches, encode
from textreg.training.learner import Learner
from textreg.vlm.adapters import attach, load_adapter, merged, save_adapter
from textreg.vlm.assembly import Base, assemble, load_aligned, save_aligned
from textreg.vlm.export import export
from textreg.vlm.features import model_inputs, open_features
from textreg.vlm.generation import Request, answer, encode_prompts
from textreg.vlm.published import check, load_vlm, undecoded

QUICK = ("qwen2_5_vl", "gemma3")  # the families whose positions and masks are least like others'
IMAGES = image_table()
REQUESTS = [
    Request("<image>\nDescribe the image.", "image-1"),
    Request("What colour is the circle?"),
    Request("<image>\nWhat?", "image-5", prefix="Un"),
]


class Model:
    """A family's tiny checkpoint, loaded, with an adapter far from zero."""

    def __init__(self, family: str, folder: Path) -> None:
        self.family, self.folder = family, folder
        vlm_families.FAMILIES[family](folder)
        model, self.processor = load_vlm(str(folder))
        self.features = open_features(model, self.processor, IMAGES)
        self.tuned = disturbed(attach(model, rank=4, alpha=8)).eval()
        self.plain = self.tuned.get_base_model()

    def inputs(self, ids: torch.Tensor, images: list[str]) -> dict:
        fetched = self.features.fetch(images) | self.features.aligned(ids) if images else {}
        return {"input_ids": ids, **model_inputs(self.plain, fetched)}


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in vlm_families.FAMILIES],
)
def model(request, tmp_path_factory):
    if request.param == "mistral3":
        pytest.importorskip("torchvision")  # without which its processor cannot be imported
    return Model(request.param, tmp_path_factory.mktemp(request.param))


def test_a_prompt_is_what_the_familys_own_processor_makes_of_it(model):
    turns = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]}]
    how = {"chat_template": model.processor.chat_template, "tokenize": False, "add_generation_prompt": True}
    text = model.processor.tokenizer.apply_chat_template(turns, **how)
    theirs = model.processor(text=[text], images=[[IMAGES.image("image-5")]], add_special_tokens=False)
    (ours,) = encode_prompts(model.processor, [Request("<image>\nWhat?", "image-5")], model.features)
    assert ours.tolist() == list(theirs["input_ids"][0])
    for name, kinds in model.features.aligned(torch.from_numpy(ours)[None]).items():
        assert kinds[0].tolist() == list(theirs[name][0])


def test_loss_and_gradients_are_those_of_the_models_own_forward(model):
    samples = encode(model.processor, row_table(), model.features, max_length=400)
    order = sorted(range(16), key=lambda row: -len(samples[row]))
    pad = model.processor.tokenizer.pad_token_id
    batch = StepBatches(samples, order, steps=1, batch_size=16, groups=1, features=model.features, pad_id=pad)[0]
    assert (batch["labels"] != IGNORE).any(1).all()

    def gradients(loss):
        loss.backward()
        trained = {name: p.grad for name, p in model.tuned.named_parameters() if p.requires_grad}
        model.tuned.zero_grad()
        return trained

    ours = Learner(model.tuned)(**batch)["loss"]
    mine = gradients(ours)
    mask = torch.tensor([[int(place < len(samples[row])) for place in range(len(samples[order[0]]))] for row in order])
    images = [samples[row].image_id for row in order if samples[row].image_id]
    inputs = model.inputs(batch["input_ids"], images)
    theirs = model.plain(attention_mask=mask, labels=batch["labels"], **inputs).loss
    assert ours.item() == pytest.approx(theirs.item(), abs=3e-6)
    own = gradients(theirs)
    assert mine.keys() == own.keys() and all("lora" in name for name in own)
    assert all(torch.allclose(mine[name], own[name], rtol=0, atol=5e-6) for name in own)
    assert max(float(gradient.abs().max()) for gradient in own.values()) > 1e-3


def test_a_batch_answers_as_generate_answers_one_by_one(model):
    found = answer(model.tuned, model.processor, REQUESTS, model.features, max_new_tokens=8)
    for request, given in zip(REQUESTS, found, strict=True):
        ids = torch.from_numpy(encode_prompts(model.processor, [request], model.features)[0])[None]
        inputs = model.inputs(ids, [request.image_id] if request.image_id else [])
        out = model.plain.generate(**inputs, max_new_tokens=8, do_sample=False)[0, ids.shape[1] :]
        assert given.text == model.processor.tokenizer.decode(out, skip_special_tokens=True).strip()


def test_an_adapter_comes_back_and_its_export_is_a_model_of_the_family(model, tmp_path):
    save_adapter(model.tuned, tmp_path / "adapter")
    save_aligned(model.plain, tmp_path / "align", Base(vlm=str(model.folder)))
    again = load_adapter(load_aligned(tmp_path / "align")[0], tmp_path / "adapter")
    ids = torch.from_numpy(encode_prompts(model.processor, REQUESTS[:1], model.features)[0])[None]
    inputs = model.inputs(ids, ["image-1"])
    with torch.inference_mode():
        expected = model.plain(**inputs).logits
        assert torch.equal(again.get_base_model()(**inputs).logits, expected)
    folder = export(merged(again), model.processor, tmp_path / "out", published=model.folder)
    exported, processor = load_vlm(str(folder))
    with torch.inference_mode():
        assert (exported(**inputs).logits - expected).abs().max() < 1e-3
    assert names_on_disk(folder) == names_on_disk(model.folder)
    assert processor.chat_template == model.processor.chat_template
    assert (folder / "processor_config.json").read_bytes() == (model.folder / "processor_config.json").read_bytes()


def names_on_disk(folder):
    with safe_open(folder / "model.safetensors", "pt") as file:
        names = file.keys()
    return {name.replace("vision_tower.vision_model.", "vision_tower.") for name in names}


def config(folder: Path, **values) -> str:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(values))
    return str(folder)


SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 32}
REFUSED = {
    "prefix": ({"model_type": "paligemma"}, "'paligemma' is not supported .its prompt sees both ways"),
    "custom": ({"model_type": "own", "auto_map": {"AutoModel": "x.Y"}}, "it needs code of its own"),
    "unknown": ({"model_type": "own"}, "not tested here.; known: LLaVA 1.5, .*SmolVLM, InternVL"),
    "experts": (
        {"model_type": "llava", "text_config": {"model_type": "qwen3_moe", **SMALL}},
        "a llava model is not supported .a mixture of experts",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_model_that_cannot_be_tuned_is_refused_from_its_config_alone(tmp_path, case):
    content, words = REFUSED[case]
    with pytest.raises(InputError, match=words):
        check(config(tmp_path / case, **content))


UNREACHED = {
    "qwen3_moe": "a mixture of experts",
    **dict.fromkeys(("gpt_neox", "mamba"), "is no projection of attention or MLP"),
    **dict.fromkeys(("falcon", "bloom"), "its decoder is no stack of layers"),
}


@pytest.mark.parametrize(("kind", "why"), UNREACHED.items())
def test_a_language_model_that_no_adapter_reaches_is_refused(tmp_path, kind, why):
    with pytest.raises(InputError, match=f"a {kind} model is not supported .*{why}.*dense decoder"):
        check(config(tmp_path / kind, model_type=kind, **SMALL), whole=False)


@pytest.mark.parametrize(("kind", "changes"), [("cohere", {}), ("granite", {"logits_scaling": 8.0}), ("gemma2", {})])
def test_a_language_model_that_a_llava_would_answer_unlike_is_refused(tmp_path, tiny_tower, kind, changes):
    folder = write_llm(tmp_path, kind, **changes)
    with pytest.raises(InputError, match=f"a {kind} model changes its logits after its head"):
        assemble(str(folder), str(tiny_tower))


def test_four_bit_weights_are_those_of_the_decoders_blocks_alone(tmp_path):
    vlm_families.FAMILIES["qwen2_5_vl"](tmp_path)
    kept = undecoded(check(str(tmp_path)))
    assert "lm_head" in kept and any("visual" in name for name in kept)
    assert not any(".layers." in name and "language_model" in name for name in kept)


def test_an_exported_model_begins_a_prompt_as_its_training_did(tmp_path, tiny_tower):
    model, processor = assemble(str(write_llm(tmp_path / "llm", begin="<s>")), str(write_tower(tmp_path / "eye")))
    folder = export(model, processor, tmp_path / "out")
    (trained,) = encode_prompts(processor, [Request("Why?")])
    served = AutoProcessor.from_pretrained(folder, backend="pil")
    turns = [{"role": "user", "content": "Why?"}]
    (ids,) = served.apply_chat_template(turns, add_generation_prompt=True, tokenize=True)
    assert list(ids) == trained.tolist() and served.tokenizer.bos_token_id not in trained
