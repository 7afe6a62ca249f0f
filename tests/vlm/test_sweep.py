"""Scaling an adapter in memory, against the merge that it stands for."""

import pytest
import torch
from merge_checkpoints import adapted, build_vlm, image_logits, text_logits

from textreg.errors import InputError, RunError
from textreg.merging.merge import merge
from textreg.vlm.adapters import language_adapters, merged, scaled_adapter


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
    from transformers import AutoModelForImageTextToText

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
    names = language_adapters(wrapped)
    assert names and all("vision_tower" not in name for name in names)
    tower = next(m for n, m in wrapped.named_modules() if n.endswith("vision_tower.encoder.layers.0.self_attn.q_proj"))
    with scaled_adapter(wrapped, 0.0):
        assert tower.scaling == {"default": 2.0}


def test_a_half_precision_model_is_merged_in_float32_and_rounded_once():
    wrapped, expected = adapted(build_vlm(dtype="bfloat16"), projector=False), {}
    for name, layer in language_adapters(wrapped).items():
        change = layer.lora_B["default"].weight.float() @ layer.lora_A["default"].weight.float()
        whole = layer.get_base_layer().weight.float() + 0.5 * layer.scaling["default"] * change
        expected[name] = whole.bfloat16()
    plain = merged(wrapped, 0.5)
    assert all(torch.equal(plain.get_submodule(name).weight, weight) for name, weight in expected.items())


def test_a_broken_adapter_is_not_merged(wrapped):
    layer = language_adapters(wrapped)["model.language_model.layers.0.mlp.up_proj"]
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
