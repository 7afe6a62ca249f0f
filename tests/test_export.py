"""An exported folder loads everywhere it should, equal to what was exported."""

import json

import pytest
import torch
from conftest import write_llm, write_tower
from safetensors import safe_open
from test_assembly import pixel_inputs

from textreg.adapters import attach
from textreg.assembly import assemble
from textreg.errors import InputError
from textreg.export import export
from textreg.modelcard import ModelCard, card_of_run


def names_on_disk(folder):
    found = set()
    for file in folder.glob("*.safetensors"):
        with safe_open(file, "pt") as opened:
            found |= set(opened.keys())
    return found


@pytest.mark.parametrize("tower", ["siglip", "clip"])
@pytest.mark.parametrize(("kind", "tied"), [("llama", True), ("llama", False), ("qwen2", True)])
def test_an_export_loads_with_no_missing_and_no_unexpected_keys(tmp_path, kind, tied, tower):
    from transformers import AutoModelForImageTextToText, AutoProcessor

    model, processor = assemble(
        str(write_llm(tmp_path / "l", kind, tied=tied)), str(write_tower(tmp_path / "t", tower, head=True))
    )
    inputs = pixel_inputs(processor)
    folder = export(model, processor, tmp_path / "out")
    again, report = AutoModelForImageTextToText.from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert torch.equal(again.eval()(**inputs).logits, model(**inputs).logits)
    its_processor = AutoProcessor.from_pretrained(folder, backend="pil")
    assert its_processor.chat_template == processor.chat_template
    assert torch.equal(pixel_inputs(its_processor)["pixel_values"], inputs["pixel_values"])


@pytest.mark.parametrize("tied", [True, False])
def test_the_names_are_those_that_vllm_loads(tmp_path, tied):
    model, processor = assemble(str(write_llm(tmp_path / "l", tied=tied)), str(write_tower(tmp_path / "t")))
    names = names_on_disk(export(model, processor, tmp_path / "out"))
    prefixes = ("language_model.model.", "multi_modal_projector.linear_", "vision_tower.vision_model.")
    head = {name for name in names if not name.startswith(prefixes)}
    assert head == (set() if tied else {"language_model.lm_head.weight"})
    assert "vision_tower.vision_model.encoder.layers.0.self_attn.q_proj.weight" in names
    assert "language_model.model.layers.0.self_attn.q_proj.weight" in names


def test_the_config_names_both_architectures_and_every_end_token(tmp_path, tiny_vlm):
    folder = export(*tiny_vlm, tmp_path / "out")
    config = json.loads((folder / "config.json").read_text())
    generation = json.loads((folder / "generation_config.json").read_text())
    assert config["architectures"] == ["LlavaForConditionalGeneration"]
    assert config["text_config"]["architectures"] == ["LlamaForCausalLM"]
    assert tiny_vlm[1].tokenizer.eos_token_id in generation["eos_token_id"]
    assert (folder / "chat_template.jinja").is_file()


def test_shards_add_up_to_the_whole(tmp_path, tiny_vlm, monkeypatch):
    from textreg import export as module

    whole = names_on_disk(export(*tiny_vlm, tmp_path / "one"))
    monkeypatch.setattr(module, "SHARD", "60KB")
    folder = export(*tiny_vlm, tmp_path / "many")
    index = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    assert len(set(index.values())) > 1
    assert set(index) == whole == names_on_disk(folder)


def test_a_merged_adapter_is_exported_and_an_unmerged_one_refused(tmp_path, tiny_vlm):
    tuned = attach(tiny_vlm[0], rank=2, alpha=4)
    with pytest.raises(InputError, match="merge the adapter first"):
        export(tuned, tiny_vlm[1], tmp_path / "out")
    export(tuned.merge_and_unload(), tiny_vlm[1], tmp_path / "out")
    assert not any("lora" in name for name in names_on_disk(tmp_path / "out"))


def test_a_failed_export_leaves_the_old_folder(tmp_path, tiny_vlm, monkeypatch):
    from textreg import export as module

    folder = export(*tiny_vlm, tmp_path / "out")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "write_weights", full)
    with pytest.raises(InputError, match="No space left"):
        export(*tiny_vlm, folder)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]
    assert names_on_disk(folder)


def test_a_push_without_the_hub_keeps_the_folder_and_says_so(tmp_path, tiny_vlm, monkeypatch):
    from huggingface_hub import HfApi
    from huggingface_hub.errors import LocalTokenNotFoundError

    def refused(*_, **__):
        raise LocalTokenNotFoundError("no token")

    monkeypatch.setattr(HfApi, "create_repo", refused)
    with pytest.raises(InputError, match="hf auth login"):
        export(*tiny_vlm, tmp_path / "out", push_to="someone/model")
    assert (tmp_path / "out" / "config.json").is_file()


def test_a_card_states_data_languages_fidelity_and_limits():
    card = ModelCard(
        name="TR+M",
        base_llm="a/llm",
        base_tower="b/tower",
        languages=["es", "en"],
        data=[("aya", "es", 10, 0.25)],
        fidelity=[
            {"language": "es", "arm": "image", "n": 200, "lf": 0.9876, "lf_low": None, "grounded": float("nan")}
        ],
        limits=["Scenes only."],
    ).render()
    import yaml

    head = yaml.safe_load(card.split("---")[1])
    assert head["language"] == ["en", "es"] and head["base_model"] == ["a/llm", "b/tower"]
    assert "| aya | es | 10 | 0.250 |" in card
    assert "| es | image | 200 | 0.988 |  |  |  |  |" in card
    assert "- Scenes only." in card


def test_a_card_without_results_says_not_measured():
    assert "Not measured." in ModelCard(name="x", base_llm="shipped", base_tower="shipped").render()


def test_a_card_is_read_from_the_run_of_its_system(tmp_path):
    (tmp_path / "prepare_data").mkdir()
    (tmp_path / "evaluate").mkdir()
    (tmp_path / "prepare_data" / "mixture.csv").write_text("source,language,rows,share\naya,no,5,1.0\n")
    (tmp_path / "evaluate" / "fidelity.csv").write_text(
        "seed,system,language,arm,n,lf,lf_plus\n0,TR,no,image,9,0.5,\n0,BM,no,image,9,0.1,0.1\n"
    )
    card = card_of_run(tmp_path, "TR", base_llm="shipped", base_tower="shipped")
    assert card.languages == ["no"]
    assert [row["lf"] for row in card.fidelity] == [0.5] and card.fidelity[0]["lf_plus"] is None


def test_a_run_without_mixture_says_which_stage_to_run(tmp_path):
    with pytest.raises(InputError, match="prepare_data"):
        card_of_run(tmp_path, "TR", base_llm="a", base_tower="b")
