"""Assembly: parts with the hub's layouts become one model that reloads as it was."""

import json
import shutil

import pytest
import torch
import transformers
from conftest import CHATML, pixel_inputs, write_llm, write_tower
from safetensors.torch import load_file, save_file

from textreg.errors import InputError, RunError
from textreg.vlm import loading
from textreg.vlm.assembly import Base, assemble, load_aligned, load_base, load_vlm, pinned, read_base, save_aligned
from textreg.vlm.chat import IMAGE_TOKEN
from textreg.vlm.features import feature_shape


@pytest.mark.parametrize("tied", [True, False])
def test_embeddings_are_tied_where_the_language_model_ties_them(tmp_path, tiny_tower, tied):
    model, _ = assemble(str(write_llm(tmp_path, tied=tied)), str(tiny_tower))
    shared = model.lm_head.weight is model.get_input_embeddings().weight
    assert shared == tied == model.config.tie_word_embeddings


def test_the_language_part_computes_what_the_language_model_computed(tmp_path, tiny_tower):
    folder = write_llm(tmp_path)
    model, _ = assemble(str(folder), str(tiny_tower))
    ids = torch.arange(5, 25)[None]
    expected = transformers.AutoModelForCausalLM.from_pretrained(folder)(input_ids=ids).logits
    assert torch.equal(model(input_ids=ids).logits[..., : expected.shape[-1]], expected)


def test_the_image_token_takes_a_spare_embedding_row(tmp_path, tiny_tower):
    model, processor = assemble(str(write_llm(tmp_path / "spare", spare=7)), str(tiny_tower))
    grown, _ = assemble(str(write_llm(tmp_path / "full")), str(tiny_tower))
    assert model.get_input_embeddings().num_embeddings == len(processor.tokenizer) + 6
    assert grown.get_input_embeddings().num_embeddings == len(processor.tokenizer)
    assert model.config.image_token_id == processor.tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)


def test_a_tower_with_a_class_token_drops_it_and_one_without_keeps_every_patch(tmp_path, tiny_llm):
    for kind, strategy in (("clip", "default"), ("siglip", "full")):
        model, processor = assemble(str(tiny_llm), str(write_tower(tmp_path / kind, kind)))
        assert model.config.vision_feature_select_strategy == strategy
        assert feature_shape(model)[0] == 4
        assert (pixel_inputs(processor)["input_ids"] == model.config.image_token_id).sum() == 4


def test_a_tower_with_a_pooling_head_is_read_one_layer_before_the_last(tmp_path, tiny_llm, tiny_tower):
    contrastive, _ = assemble(str(tiny_llm), str(write_tower(tmp_path, head=True)))
    ours, _ = assemble(str(tiny_llm), str(tiny_tower))
    assert (contrastive.config.vision_feature_layer, ours.config.vision_feature_layer) == (-2, -1)


def test_a_tower_is_taken_out_of_a_two_sided_checkpoint(tmp_path, tiny_llm):
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    both = transformers.SiglipModel(
        transformers.SiglipConfig(
            text_config=sizes | {"vocab_size": 50}, vision_config=sizes | {"image_size": 24, "patch_size": 12}
        )
    )
    both.save_pretrained(tmp_path)
    transformers.SiglipImageProcessorPil(size={"height": 24, "width": 24}).save_pretrained(tmp_path)
    model, _ = assemble(str(tiny_llm), str(tmp_path))
    ours = model.model.vision_tower.state_dict()
    theirs = both.vision_model.state_dict()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


def test_the_projector_depends_on_the_seed_alone(tiny_llm, tiny_tower):
    def weight(seed):
        torch.rand(3)
        return assemble(str(tiny_llm), str(tiny_tower), seed=seed)[0].model.multi_modal_projector.linear_1.weight

    assert torch.equal(weight(3), weight(3))
    assert not torch.equal(weight(3), weight(4))


@pytest.mark.parametrize(("kind", "room"), [("llama", 1e-4), ("gemma3_text", 0.05)])
def test_image_tokens_start_as_large_as_word_embeddings_also_where_those_are_scaled(tmp_path, tiny_tower, kind, room):
    model, _ = assemble(str(write_llm(tmp_path, kind)), str(tiny_tower))
    with torch.no_grad():
        states = model.model.vision_tower(torch.zeros(1, 3, 24, 24), output_hidden_states=True).hidden_states
        seen = model.model.multi_modal_projector(states[model.config.vision_feature_layer])
        words = model.get_input_embeddings()(torch.arange(len(model.get_input_embeddings().weight)))
    assert float(seen.pow(2).mean().sqrt()) == pytest.approx(float(words.pow(2).mean().sqrt()), rel=room)


def test_a_new_embedding_row_is_the_mean_of_the_others(tmp_path, tiny_tower):
    model, _ = assemble(str(write_llm(tmp_path, tied=False)), str(tiny_tower))
    for weight in (model.get_input_embeddings().weight, model.lm_head.weight):
        assert torch.allclose(weight[-1], weight[:-1].mean(0))


def test_assembling_leaves_the_random_state_alone(tiny_llm, tiny_tower):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    assemble(str(tiny_llm), str(tiny_tower), seed=1)
    assert torch.equal(torch.get_rng_state(), before)


def test_bf16_keeps_the_projector_in_fp32(tiny_llm, tiny_tower):
    model, _ = assemble(str(tiny_llm), str(tiny_tower), precision="bf16")
    assert model.dtype == torch.bfloat16
    assert model.model.multi_modal_projector.linear_1.weight.dtype == torch.float32


def test_an_aligned_model_comes_back_as_it_was_saved(tmp_path, tiny_llm, tiny_tower):
    base = Base(llm=str(tiny_llm), tower=str(tiny_tower), seed=2)
    model, processor = assemble(base.llm, base.tower, seed=base.seed)
    torch.nn.init.normal_(model.model.multi_modal_projector.linear_2.weight)
    save_aligned(model, tmp_path, base)
    again, _ = load_aligned(tmp_path)
    inputs = pixel_inputs(processor)
    assert torch.equal(again(**inputs).logits, model(**inputs).logits)


def refusal(call, *words):
    with pytest.raises(InputError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    assert all(word in message for word in words), message


def test_a_tokenizer_without_pad_token_pads_with_the_end_token(tmp_path, tiny_tower):
    _, processor = assemble(str(write_llm(tmp_path, pad=False)), str(tiny_tower))
    assert processor.tokenizer.pad_token_id == processor.tokenizer.eos_token_id


def test_a_base_model_without_chat_template_is_refused(tmp_path, tiny_tower):
    refusal(lambda: assemble(str(write_llm(tmp_path, template=None)), str(tiny_tower)), "chat template", "instruction")


def test_an_image_processor_of_another_tower_is_refused(tmp_path, tiny_llm):
    eye = write_tower(tmp_path, processor_side=36)
    refusal(lambda: assemble(str(tiny_llm), str(eye)), "36x36", "24x24", "preprocessor_config.json")


def test_a_hub_id_without_network_is_one_line_with_the_cure(tiny_tower, monkeypatch):
    # The environment variable is read when the library is imported: set here, it would only make the client try on.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    cause = ("someone/model", "the hub was not reached", "give the folder")
    refusal(lambda: assemble("someone/model", str(tiny_tower)), "llm=", *cause)
    refusal(lambda: load_vlm("someone/model"), "vlm=", *cause)


def test_a_revision_is_asked_of_the_hub_whichever_way_it_is_given(tiny_tower, tiny_llm, monkeypatch):
    asked = []

    def fetch(name, *, revision, **_):
        asked.append((name, revision))
        return tiny_llm

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    assemble("someone/model@v1", str(tiny_tower))
    assemble("someone/model", str(tiny_tower), revisions={"llm": "v2"})
    assert asked == [("someone/model", "v1"), ("someone/model", "v2")]


def test_what_came_from_the_hub_is_loaded_again_at_the_commit_it_was_aligned_at(
    tmp_path, tiny_llm, tiny_tower, monkeypatch
):
    asked, commit = [], "0123456789abcdef0123456789abcdef01234567"
    snapshot = tmp_path / "models--someone--model" / "snapshots" / commit
    shutil.copytree(tiny_llm, snapshot)

    def fetch(name, *, revision, **_):
        asked.append(revision)
        return str(snapshot)

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    base = pinned(Base("someone/model", str(tiny_tower)))
    assert base.revisions["llm"] == commit
    model, _ = load_base(base)
    save_aligned(model, tmp_path / "align", base)
    load_aligned(tmp_path / "align")
    assert asked == [None, commit, commit]
    assert pinned(Base()).revisions == {}


def test_a_folder_that_was_written_anew_is_not_what_was_aligned(tmp_path, tiny_llm, tiny_tower):
    shutil.copytree(tiny_llm, tmp_path / "llm")
    base = pinned(Base(str(tmp_path / "llm"), str(tiny_tower)))
    save_aligned(load_base(base)[0], tmp_path / "align", base)
    load_aligned(tmp_path / "align")
    (tmp_path / "llm" / "generation_config.json").write_text("{}")
    with pytest.raises(InputError, match=r"llm was written anew since: run the stage `align` again"):
        load_aligned(tmp_path / "align")


def test_damaged_weights_are_refused(tmp_path, tiny_tower):
    folder = write_llm(tmp_path)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:200])
    refusal(lambda: assemble(str(folder), str(tiny_tower)), "damaged")


@pytest.mark.parametrize("part", ["LlamaForCausalLM", "SiglipVisionModel"])
def test_a_model_that_does_not_fit_into_the_gpu_is_one_line(part, tiny_llm, tiny_tower, monkeypatch):
    def full(*_, **__):
        raise torch.cuda.OutOfMemoryError("out of memory")

    monkeypatch.setattr(getattr(transformers, part), "to", full)
    with pytest.raises(RunError, match=r"weights do not fit into the GPU.*precision=4bit"):
        assemble(str(tiny_llm), str(tiny_tower))


def test_a_four_bit_model_that_does_not_fit_is_the_same_line(tiny_llm, monkeypatch):

    places = []

    def full(*_, device_map, **__):
        places.append(device_map)
        raise torch.cuda.OutOfMemoryError("out of memory")

    monkeypatch.setattr(loading, "four_bits", lambda keep: None)
    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", full)
    for rank in (None, "1"):
        monkeypatch.delenv("LOCAL_RANK", raising=False) if rank is None else monkeypatch.setenv("LOCAL_RANK", rank)
        with pytest.raises(RunError, match=r"weights do not fit into the GPU"):
            loading.load_model("AutoModelForCausalLM", str(tiny_llm), "4bit", "cuda")
    assert places == [{"": "cuda"}, {"": "cuda:1"}]  # each process its own GPU


def test_a_model_with_a_missing_weight_is_refused(tmp_path, tiny_tower):
    folder = write_llm(tmp_path)
    state = load_file(folder / "model.safetensors")
    state.pop("model.norm.weight")
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    refusal(lambda: assemble(str(folder), str(tiny_tower)), "norm.weight")


def test_an_unsupported_tower_is_named(tmp_path, tiny_llm):
    refusal(lambda: assemble(str(tiny_llm), str(tiny_llm)), "llama", "siglip")


def test_an_unaligned_folder_says_which_stage_to_run(tmp_path):
    refusal(lambda: load_aligned(tmp_path), "base.json", "align")


def test_the_chat_template_of_the_language_model_is_kept_and_takes_a_content_list_too(tiny_vlm):
    _, processor = tiny_vlm
    assert processor.chat_template.endswith(CHATML)
    for content in ("<image>\nWhat?", [{"type": "image"}, {"type": "text", "text": "What?"}]):
        told = processor.apply_chat_template([{"role": "user", "content": content}])
        assert told == "<|im_start|>user\n<image>\nWhat?<|im_end|>\n"


BASES = {  # what the file holds, and what is said of it
    "a number for a model": ({"llm": 5}, "llm = 5"),
    "nothing for a tower": ({"tower": None}, "tower = None"),
    "true for the seed": ({"seed": True}, "seed = True"),
    "a seed below zero": ({"seed": -1}, "seed = -1"),
    "a seed without end": ({"seed": 10**30}, "seed = 1000"),
    "a list of revisions": ({"revisions": ["main"]}, "revisions = ['main']"),
    "a number for a revision": ({"revisions": {"vlm": 1}}, "revisions.vlm = 1"),
    "an unknown key": ({"towr": "shipped"}, "unknown key 'towr' (did you mean 'tower'?)"),
    "a list": ([], "damaged"),
    "nothing": ("", "damaged"),
    "the beginning": ("{", "damaged"),
    "brackets without end": ("[" * 100_000, "damaged"),
    "no text": ("\x00", "damaged"),
}


@pytest.mark.parametrize("case", BASES)
def test_a_damaged_base_is_one_line_that_names_the_stage(tmp_path, case):
    content, expected = BASES[case]
    (tmp_path / "base.json").write_text(content if isinstance(content, str) else json.dumps(content))
    refusal(lambda: read_base(tmp_path), expected, "base.json", "run the stage `align` again")


def test_a_projector_of_another_model_is_one_line(tmp_path, tiny_llm, tiny_tower):
    base = Base(llm=str(tiny_llm), tower=str(tiny_tower))
    save_aligned(assemble(base.llm, base.tower)[0], tmp_path, base)
    state = load_file(tmp_path / "projector.safetensors")
    for spoilt in (
        {**state, "linear_1.weight": state["linear_1.weight"][:, :-1].contiguous()},
        {name: tensor for name, tensor in state.items() if name != "linear_2.bias"},
        {**state, "linear_3.weight": torch.zeros(2)},
    ):
        save_file(spoilt, tmp_path / "projector.safetensors")
        refusal(lambda: load_aligned(tmp_path), "projector.safetensors: not the projector", "linear_", "align")
