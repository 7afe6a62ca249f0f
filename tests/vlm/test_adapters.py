"""Adapters touch the language model and the projector alone, start at zero and survive a round trip."""

import json
import shutil

import pytest
import torch
from conftest import disturbed, pixel_inputs
from safetensors.torch import load_file, save_file

from textreg.errors import InputError
from textreg.vlm.adapters import attach, folded, load_adapter, lora_layers, save_adapter
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
