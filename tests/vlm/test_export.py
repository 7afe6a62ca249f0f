"""An exported folder loads everywhere it should, equal to what was exported."""

import json
import shutil
from contextlib import nullcontext
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from conftest import pixel_inputs, write_llm, write_tower, write_tuned
from huggingface_hub import HfApi
from huggingface_hub.errors import LocalTokenNotFoundError
from safetensors import safe_open
from transformers import AutoModelForImageTextToText, AutoProcessor

from textreg.data.rows import ROWS, RowWriter
from textreg.errors import InputError
from textreg.runs import report as status
from textreg.runs.plan import State
from textreg.runs.report import require_standing
from textreg.runs.stages import Unit
from textreg.vlm import export as module
from textreg.vlm.adapters import attach, folded, load_adapter, plain, scaled_adapter
from textreg.vlm.assembly import assemble, load_aligned, load_vlm, read_base
from textreg.vlm.card import ModelCard, card_of_run
from textreg.vlm.export import export, export_system
from textreg.vlm.features import model_inputs, open_features
from textreg.vlm.generation import Request, encode_prompts
from textreg.vlm.systems import System


def names_on_disk(folder):
    found = set()
    for file in folder.glob("*.safetensors"):
        with safe_open(file, "pt") as opened:
            found |= set(opened.keys())
    return found


@pytest.mark.parametrize(
    ("kind", "tied", "tower"),
    [("llama", True, "siglip"), ("llama", False, "clip"), ("qwen2", True, "clip"), ("qwen2", False, "siglip")],
)
def test_an_export_has_the_names_that_vllm_loads_and_loads_with_no_missing_and_no_unexpected_keys(
    tmp_path, kind, tied, tower
):
    model, processor = assemble(
        str(write_llm(tmp_path / "l", kind, tied=tied)), str(write_tower(tmp_path / "t", tower, head=True))
    )
    inputs = pixel_inputs(processor)
    folder = export(model, processor, tmp_path / "out")
    names = names_on_disk(folder)
    prefixes = ("language_model.model.", "multi_modal_projector.linear_", "vision_tower.vision_model.")
    head = {name for name in names if not name.startswith(prefixes)}
    assert head == (set() if tied else {"language_model.lm_head.weight"})
    assert "vision_tower.vision_model.encoder.layers.0.self_attn.q_proj.weight" in names
    assert "language_model.model.layers.0.self_attn.q_proj.weight" in names
    again, report = AutoModelForImageTextToText.from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert torch.equal(again.eval()(**inputs).logits, model(**inputs).logits)
    its_processor = AutoProcessor.from_pretrained(folder, backend="pil")
    assert its_processor.chat_template == processor.chat_template
    assert torch.equal(pixel_inputs(its_processor)["pixel_values"], inputs["pixel_values"])


def test_the_config_names_both_architectures_and_every_end_token(tmp_path, tiny_vlm):
    folder = export(*tiny_vlm, tmp_path / "out")
    config = json.loads((folder / "config.json").read_text())
    generation = json.loads((folder / "generation_config.json").read_text())
    assert config["architectures"] == ["LlavaForConditionalGeneration"]
    assert config["dtype"] == config["text_config"]["dtype"] == "float32"
    assert config["text_config"]["architectures"] == ["LlamaForCausalLM"]
    assert tiny_vlm[1].tokenizer.eos_token_id in generation["eos_token_id"]
    assert (folder / "chat_template.jinja").is_file()


def test_shards_add_up_to_the_whole(tmp_path, tiny_vlm, monkeypatch):
    whole = names_on_disk(export(*tiny_vlm, tmp_path / "one"))
    monkeypatch.setattr(module, "SHARD", "60KB")
    folder = export(*tiny_vlm, tmp_path / "many")
    index = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    assert len(set(index.values())) > 1
    assert set(index) == whole == names_on_disk(folder)


def test_an_adapter_that_is_not_merged_is_not_exported(tmp_path, tiny_vlm):
    with pytest.raises(InputError, match="merge the adapter first"):
        export(attach(tiny_vlm[0], rank=2, alpha=4), tiny_vlm[1], tmp_path / "out")


def test_a_failed_export_leaves_the_old_folder(tmp_path, tiny_vlm, monkeypatch):
    folder = export(*tiny_vlm, tmp_path / "out")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "write_weights", full)
    with pytest.raises(InputError, match="No space left"):
        export(*tiny_vlm, folder, overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]
    assert names_on_disk(folder)


def test_a_push_without_the_hub_keeps_the_folder_and_says_so(tmp_path, tiny_vlm, monkeypatch):
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
        data=[("aya", "es", False, 10, 0.25)],
        fidelity=[
            {"language": "es", "arm": "image", "n": 200, "lf": 0.9876, "lf_low": None, "grounded": float("nan")}
        ],
        limits=["Scenes only."],
    ).render()

    head = yaml.safe_load(card.split("---")[1])
    assert head["language"] == ["en", "es"] and head["base_model"] == ["a/llm", "b/tower"]
    assert "| aya | es | no | 10 | 0.250 |" in card
    assert "| es | image | 200 |  | 0.988 |  |  |  |  |" in card
    assert "- Scenes only." in card


def test_a_card_tells_a_published_model_by_its_name_and_no_place_of_this_machine(tmp_path):
    (tmp_path / "my-vlm").mkdir()
    place = str(tmp_path / "my-vlm")
    card = ModelCard(name="TR+M", base_llm=place, base_tower=place, published=True).render()
    assert "- Published model that it was: `my-vlm`" in card and str(tmp_path) not in card and "llava" not in card
    assert "- Vision tower: `shipped`" in ModelCard(name="TR", base_llm="shipped", base_tower="shipped").render()


def test_a_card_without_results_says_not_measured():
    assert "Not measured." in ModelCard(name="x", base_llm="shipped", base_tower="shipped").render()


@pytest.fixture(scope="module")
def finished(tmp_path_factory, tiny_llm, tiny_tower):
    """A run folder with an aligned model, an arm far from zero, its record of what it was shown, and test results."""
    run = tmp_path_factory.mktemp("finished") / "run"
    write_tuned(run, tiny_llm, tiny_tower)
    (run / "tune" / "TR" / "shown.csv").write_text(
        "source,language,image,rows,share\nllava,en,True,15,0.75\naya,no,False,5,0.25\n"
    )
    (run / "evaluate").mkdir()
    (run / "evaluate" / "fidelity.csv").write_text(
        "seed,system,lambda,language,arm,n,lf,lf_plus\n0,TR,1,no,image,9,0.5,\n0,BM,1,no,image,9,0.1,0.1\n"
        "0,TR+M,0.5,no,image,9,0.7,\n"
    )
    return run


@pytest.fixture
def run(finished, tmp_path):
    """A copy, to be changed."""
    return shutil.copytree(finished, tmp_path / "run")


@pytest.mark.parametrize("which", [System("backbone"), System("TR+M", "TR", 0.5)])
def test_an_exported_system_of_a_run_answers_as_the_system_does(run, which, tmp_path):
    model, processor = load_aligned(run / "align")
    inputs = pixel_inputs(processor)
    model = load_adapter(model, run / "tune" / "TR" / "adapter") if which.arm else model
    with scaled_adapter(model, which.lam) if which.arm else nullcontext():
        expected = model(**inputs).logits
    folder = export_system(run, which, tmp_path / "out")
    again = AutoModelForImageTextToText.from_pretrained(folder).eval()
    torch.testing.assert_close(again(**inputs).logits, expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("lam", [1.0, 0.5])
def test_in_bf16_what_is_evaluated_is_to_the_bit_what_is_exported(run, tmp_path, lam, tiny_images):
    model, processor = load_aligned(run / "align", precision="bf16")
    seen = open_features(model, processor, tiny_images)
    tuned = load_adapter(model, run / "tune" / "TR" / "adapter")
    ids = torch.from_numpy(encode_prompts(processor, [Request("<image>\nWhat?", "image-1")], seen)[0])[None]

    def logits(vlm):
        return vlm(input_ids=ids, **model_inputs(vlm, seen.fetch(["image-1"]))).logits

    with torch.inference_mode(), scaled_adapter(tuned, lam):
        with folded(tuned):
            evaluated = logits(plain(tuned))
        assert not torch.equal(evaluated, logits(plain(tuned)))  # the adapter beside the rounded weights
    folder = export_system(run, System("TR+M", "TR", lam), tmp_path / "out", precision="bf16")
    with torch.inference_mode():
        assert torch.equal(evaluated, logits(load_vlm(str(folder), precision="bf16")[0]))


def test_a_card_of_the_aligned_model_tells_its_rows_and_one_of_a_published_model_that_they_are_not_known(run):
    base = read_base(run / "align")
    assert card_of_run(run, System("backbone"), base).data == []
    with RowWriter(run / "prepare_data" / "align.parquet", ROWS) as writer:
        turns = [{"role": "user", "content": "<image>"}, {"role": "assistant", "content": "a cat"}]
        row = {"row_id": "0", "source": "lcs", "task": "align", "language": "en", "image_id": "0", "messages": turns}
        writer.write(row)
    assert card_of_run(run, System("backbone"), base).data == [("lcs", "en", True, 1, 1.0)]


def test_a_card_shows_what_was_before_the_cure_beside_what_is_after_it(run):
    place, base = run / "evaluate" / "fidelity.csv", read_base(run / "align")
    place.write_text(place.read_text() + "0,backbone,1,no,image,9,0.2,\n")
    visual = "seed,system,lambda,task,language,n,accuracy,low,high\n"
    visual += "0,backbone,1,question,en,500,0.8,0.77,0.83\n0,TR+M,0.5,question,en,500,0.79,0.76,0.82\n"
    (run / "evaluate" / "visual.csv").write_text(visual)
    card = card_of_run(run, System("TR+M", "TR", 0.5), base).render()
    assert (
        "| no | image | 9 | 0.200 | 0.700 |" in card and "| question | 500 | 0.800 | 0.790 | 0.760 | 0.820 |" in card
    )
    (run / "merge" / "TR+M").mkdir(parents=True)
    chosen = "system,lambda,n,before,after,change,low,high\nTR+M,0.5,1000,0.8,0.79,-0.01,-0.02,0.0\n"
    (run / "merge" / "TR+M" / "regression.csv").write_text(chosen)
    rows = [
        {"system": "TR+M", "lambda": lam, "language": "no", "arm": "image", "n": 4, "lf": lf}
        for lam, lf in ((0.0, 0.25), (0.5, 0.75))
    ]
    card = card_of_run(run, System("TR+M", "TR", 0.5), base, pd.DataFrame(rows)).render()
    assert "| no | image | 4 | 0.250 | 0.750 |" in card and "On validation images" in card
    assert "| English questions | 1000 | 0.800 | 0.790 | -0.020 | 0.000 |" in card and "of the change" in card


def test_a_card_tells_what_its_system_was_shown_and_its_test_results_at_its_lambda(run):
    base = read_base(run / "align")
    card = card_of_run(run, System("TR+M", "TR", 0.5), base)
    assert card.languages == ["en", "no"]
    assert card.data == [("llava", "en", True, 15, 0.75), ("aya", "no", False, 5, 0.25)]
    assert [row["lf"] for row in card.fidelity] == [0.7] and card.fidelity[0]["lf_plus"] is None
    assert card.settings == {"lambda": "0.5", "LoRA rank": 2, "LoRA alpha": 4}
    assert card_of_run(run, System("TR+M", "TR", 0.25), base).fidelity == []


@pytest.mark.parametrize(
    ("text", "told"), [("none", {"text": "none"}), ("english", {"text": "english", "share": 0.25})]
)
def test_a_card_names_the_share_of_text_only_where_there_was_text(run, text, told):
    record = {"parameters": {"text": text, "text_share": 0.25, "steps": 9}}
    (run / "tune" / "TR" / "manifest.json").write_text(json.dumps(record))
    settings = card_of_run(run, System("TR", "TR"), read_base(run / "align")).settings
    assert settings["steps"] == 9
    assert {name.removeprefix("text "): value for name, value in settings.items() if "text" in name} == told


@pytest.mark.parametrize(("precision", "told"), [("4bit", True), ("bf16", False)])
def test_a_card_says_where_answers_were_measured_with_rounded_weights(run, precision, told):
    base, record = read_base(run / "align"), {"parameters": {"precision": precision}}
    (run / "evaluate" / "manifest.json").write_text(json.dumps(record))
    assert ("in 4 bits" in card_of_run(run, System("TR+M", "TR", 0.5), base).render()) is told
    assert "in 4 bits" not in card_of_run(run, System("TR+M", "TR", 0.25), base).render()  # nothing was measured


@pytest.mark.parametrize("stale", ["align", "tune[TR]", "merge[TR]", "evaluate", "tune[BM]"])
def test_a_system_of_which_a_stage_is_stale_is_not_exported_but_another_arm_may_be(run, stale, monkeypatch):
    (run / "run.json").write_text("{}")
    units = [Unit("align"), Unit("tune", "TR"), Unit("tune", "BM"), Unit("merge", "TR"), Unit("evaluate")]
    found = {unit: "stale" if unit.name == stale else "missing" for unit in units}
    states = {unit: State(unit, state, ("code changed",), None, None) for unit, state in found.items()}
    monkeypatch.setattr(status, "collect", lambda run: states)
    told = r"is stale \(code changed\); bring it up to date: textreg run --run"
    with nullcontext() if stale == "tune[BM]" else pytest.raises(InputError, match=told):
        require_standing(run, "TR")


def test_a_run_that_did_not_record_what_an_arm_was_shown_says_which_stage_to_run(run):
    (run / "tune" / "TR" / "shown.csv").unlink()
    with pytest.raises(InputError, match="run the stage tune for arm TR again"):
        card_of_run(run, System("TR", "TR"), read_base(run / "align"))


def test_an_earlier_export_loses_its_name_before_its_files(tmp_path, tiny_vlm, monkeypatch):
    """So a kill while it is deleted leaves no folder that is neither an export nor nothing."""
    folder = tmp_path / "model"
    export(*tiny_vlm, folder)
    whole, seen = sorted(path.name for path in folder.iterdir()), []
    delete = shutil.rmtree

    def killed(path, *given, **named):
        if ".removed-" in str(path):
            seen.append(folder.exists())
            (Path(path) / folder.name / "config.json").unlink()
            raise KeyboardInterrupt
        return delete(path, *given, **named)

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            export(*tiny_vlm, folder, overwrite=True)
    assert seen == [False]
    export(*tiny_vlm, folder, overwrite=True)
    assert sorted(path.name for path in folder.iterdir()) == whole
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_folder_that_is_no_earlier_export_is_never_replaced(tmp_path, tiny_vlm):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    for options, words in (({}, "not empty"), ({"overwrite": True}, "no folder with a checkpoint")):
        with pytest.raises(InputError, match=words):
            export(*tiny_vlm, tmp_path / "out", **options)
    assert (tmp_path / "out" / "notes.txt").read_text() == "mine"
