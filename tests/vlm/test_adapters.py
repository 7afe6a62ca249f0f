"""Adapters touch the language model and the projector alone, start at zero and survive a round trip; scaled in memory
they are the merge that they stand for.
"""

import json
import shutil

import pytest
import torch
from conftest import disturbed, pixel_inputs
from merge_checkpoints import adapted, build_vlm, image_logits, text_logits
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText

from textreg.errors import InputError, RunError
from textreg.merging.merge import merge
from textreg.vlm import adapters
from textreg.vlm.adapters import attach, folded, load_adapter, lora_layers, merged, save_adapter, scaled_adapter
from textreg.vlm.assembly import assemble


def test_a_fresh_adapter_changes_nothing(tiny_vlm):
    model, processor = tiny_vlm
    inputs = pixel_inputs(processor)
    before = model(**inputs).logits
    assert torch.equal(attach(model, rank=4, alpha=8).eval()(**inputs).logits, before)


def test_only_the_language_model_and_the_projector_are_trained(tiny_vlm):
    model = attach(tiny_vlm[0], rank=4, alpha=8)
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert len(list(lora_layers(model))) == 2 * 7
    assert all("language_model.layers" in name or "multi_modal_projector.modules_to_save" in name for name in trained)
    assert any("multi_modal_projector" in name for name in trained)
    assert not any("vision_tower" in name for name in trained)


def test_the_adapter_is_drawn_from_its_seed(tiny_llm, tiny_tower):
    def first(seed):
        model = attach(assemble(str(tiny_llm), str(tiny_tower))[0], rank=4, alpha=8, seed=seed)
        return next(lora_layers(model)).lora_A["default"].weight

    assert torch.equal(first(1), first(1)) and not torch.equal(first(1), first(2))


def test_a_saved_adapter_holds_the_projector_and_comes_back(tmp_path, tiny_llm, tiny_tower):
    model, processor = assemble(str(tiny_llm), str(tiny_tower))
    tuned = disturbed(attach(model, rank=4, alpha=8)).eval()
    with torch.no_grad():
        tuned.get_base_model().model.multi_modal_projector.modules_to_save["default"].linear_1.bias.add_(0.5)
    inputs = pixel_inputs(processor)
    save_adapter(tuned, tmp_path)
    again = load_adapter(assemble(str(tiny_llm), str(tiny_tower))[0], tmp_path)
    assert torch.equal(again(**inputs).logits, tuned(**inputs).logits)


def test_folding_gives_the_same_logits_and_leaves_no_trace(tiny_vlm):
    model, processor = tiny_vlm
    tuned = disturbed(attach(model, rank=4, alpha=8)).eval()
    inputs = pixel_inputs(processor)
    before = tuned(**inputs).logits
    state = {name: tensor.clone() for name, tensor in tuned.state_dict().items()}
    with folded(tuned):
        assert (tuned(**inputs).logits - before).abs().max() < 1e-4
        assert not torch.equal(next(lora_layers(tuned)).get_base_layer().weight, next(iter(state.values())))
    assert all(torch.equal(tensor, state[name]) for name, tensor in tuned.state_dict().items())
    assert torch.equal(tuned(**inputs).logits, before)


def test_a_folder_without_adapter_says_which_stage_to_run(tmp_path, tiny_vlm):
    with pytest.raises(InputError, match="tune"):
        load_adapter(tiny_vlm[0], tmp_path)


@pytest.fixture(scope="module")
def saved(tmp_path_factory, tiny_llm, tiny_tower):
    """The folder of an adapter."""
    folder = tmp_path_factory.mktemp("adapter")
    save_adapter(attach(assemble(str(tiny_llm), str(tiny_tower))[0], rank=2, alpha=4), folder)
    return folder


@pytest.fixture
def copied(saved, tmp_path):
    """A copy, to be spoilt."""
    return shutil.copytree(saved, tmp_path / "adapter")


CONFIGS = {
    "another method": {"peft_type": "EVIL"},
    "a list for a method": {"peft_type": ["LORA"]},
    "a method of ours without": {"peft_type": "IA3"},
    "a word for the rank": {"r": "many"},
    "no rank": {"r": 0},
    "a number for the layers": {"target_modules": 5},
    "layers that are not there": {"target_modules": ["nowhere"]},
    "a pattern that is none": {"target_modules": "("},
    "a list for it all": [],
}


@pytest.mark.parametrize("case", CONFIGS)
def test_a_damaged_adapter_is_one_line_that_names_the_stage(copied, tiny_vlm, case):
    path = copied / "adapter_config.json"
    content, changed = json.loads(path.read_text()), CONFIGS[case]
    path.write_text(json.dumps({**content, **changed} if isinstance(changed, dict) else changed))
    with pytest.raises(InputError, match="run the stage `tune` again") as failure:
        load_adapter(tiny_vlm[0], copied)
    assert str(copied) in str(failure.value) and "\n" not in str(failure.value)


def test_an_adapter_that_lacks_tensors_is_refused_and_not_half_loaded(copied, tiny_vlm):
    state = load_file(copied / "adapter_model.safetensors")
    state.pop(next(name for name in state if "lora_B" in name))
    save_file(state, copied / "adapter_model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"adapter_model.safetensors lacks .*lora_B.*tune.* again"):
        load_adapter(tiny_vlm[0], copied)


@pytest.fixture
def wrapped():
    return adapted(build_vlm())


@pytest.mark.parametrize("lam", [0.0, 0.3, 1.0])
def test_the_scaled_adapter_answers_as_the_merged_model_does(wrapped, lam):
    with scaled_adapter(wrapped, lam):
        scaled = image_logits(wrapped)
    plain = merged(wrapped, lam)
    assert type(plain).__name__ == "LlavaForConditionalGeneration" and not any("lora" in n for n in plain.state_dict())
    torch.testing.assert_close(image_logits(plain), scaled, rtol=0, atol=2e-5)


def test_the_scaled_adapter_answers_as_the_streamed_merge_of_the_files_does(tmp_path, wrapped):
    build_vlm().save_pretrained(tmp_path / "base")
    wrapped.save_pretrained(tmp_path / "adapter")
    merge(tmp_path / "adapter", tmp_path / "base", tmp_path / "out", 0.75, adapter_base=tmp_path / "base")
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "out").eval()
    with scaled_adapter(wrapped, 0.75):
        torch.testing.assert_close(image_logits(wrapped), image_logits(model), rtol=0, atol=2e-5)


def test_lambda_zero_is_the_untuned_language_model_with_the_tuned_projector(wrapped):
    untuned = build_vlm()
    with scaled_adapter(wrapped, 0.0):
        torch.testing.assert_close(text_logits(wrapped), text_logits(untuned), rtol=0, atol=1e-6)
        assert (image_logits(wrapped) - image_logits(untuned)).abs().max() > 1e-3


def test_the_adapter_has_its_strength_again_after_the_block_and_after_an_error(wrapped):
    before = image_logits(wrapped)
    with scaled_adapter(wrapped, 0.0):
        assert (image_logits(wrapped) - before).abs().max() > 1e-3
    assert torch.equal(image_logits(wrapped), before)
    with pytest.raises(RuntimeError, match="inside"), scaled_adapter(wrapped, 0.0):
        raise RuntimeError("inside")
    assert torch.equal(image_logits(wrapped), before)


def test_nested_scales_multiply(wrapped):
    with scaled_adapter(wrapped, 0.25):
        quarter = image_logits(wrapped)
    with scaled_adapter(wrapped, 0.5), scaled_adapter(wrapped, 0.5):
        torch.testing.assert_close(image_logits(wrapped), quarter, rtol=0, atol=1e-6)


def test_an_adapter_on_the_tower_keeps_its_strength():
    wrapped = adapted(build_vlm(), targets=r".*(language_model|vision_tower).*\.(q_proj|up_proj)")
    names = adapters.language_adapters(wrapped)
    assert names and all("vision_tower" not in name for name in names)
    tower = next(m for n, m in wrapped.named_modules() if n.endswith("vision_tower.encoder.layers.0.self_attn.q_proj"))
    with scaled_adapter(wrapped, 0.0):
        assert tower.scaling == {"default": 2.0}


def test_a_half_precision_model_is_merged_in_float32_and_rounded_once():
    wrapped, expected = adapted(build_vlm(dtype="bfloat16"), projector=False), {}
    for name, layer in adapters.language_adapters(wrapped).items():
        change = layer.lora_B["default"].weight.float() @ layer.lora_A["default"].weight.float()
        whole = layer.get_base_layer().weight.float() + 0.5 * layer.scaling["default"] * change
        expected[name] = whole.bfloat16()
    plain = merged(wrapped, 0.5)
    assert all(torch.equal(plain.get_submodule(name).weight, weight) for name, weight in expected.items())


def test_a_broken_adapter_is_not_merged(wrapped):
    layer = adapters.language_adapters(wrapped)["model.language_model.layers.0.mlp.up_proj"]
    with torch.no_grad():
        layer.lora_B["default"].weight[0, 0] = float("nan")
    with pytest.raises(RunError, match="not finite: the adapter is broken; run the stage tune again"):
        merged(wrapped, 0.5)


def test_a_model_without_adapter_and_a_merged_one_are_refused(wrapped):
    with pytest.raises(InputError, match="no LoRA layer"), scaled_adapter(build_vlm(), 0.5):
        pass
    wrapped.merge_adapter()
    with pytest.raises(InputError, match="merged into its weight"), scaled_adapter(wrapped, 0.5):
        pass
