"""Checkpoints on disk, their adapters and their names: what is read, and what is refused with a cure."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from merge_checkpoints import adapted, build_vlm, stored, write_backbone
from safetensors.torch import save_file

from textreg.errors import InputError
from textreg.merging.methods import Recipe
from textreg.merging.plan import plan_merge
from textreg.merging.tensors import header_bytes, narrow, open_checkpoint, read_header, widen
from textreg.merging.weights import Reader, open_weights
from textreg.vlm.layouts import canonical, is_language, layer_and_module, parse_patterns


@pytest.fixture
def sharded(tmp_path) -> Path:
    return write_backbone(tmp_path / "sharded", shard="6KB")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_blocks_read_the_values_that_the_safetensors_library_reads(tmp_path, dtype):
    reader = Reader(open_weights(write_backbone(tmp_path / "one", dtype=dtype)))
    for name, value in stored(tmp_path / "one").items():
        assert np.array_equal(reader.floats(name, 3, value.numel()), value.flatten()[3:].float().numpy())


def test_shards_read_as_one_checkpoint(sharded):
    checkpoint = open_checkpoint(sharded)
    assert len(checkpoint.files) > 2
    assert {name: entry.shape for name, entry in checkpoint.tensors.items()} == {
        name: tuple(value.shape) for name, value in stored(sharded).items()
    }


def test_a_header_written_here_is_read_by_the_safetensors_library(tmp_path):
    write_backbone(tmp_path / "one")
    entries, metadata = read_header(tmp_path / "one" / "model.safetensors")
    data = (tmp_path / "one" / "model.safetensors").read_bytes()
    body = b"".join(data[entry.start : entry.start + entry.nbytes] for entry in entries)
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / "model.safetensors").write_bytes(header_bytes(entries, metadata) + body)
    one, two = stored(tmp_path / "one"), stored(tmp_path / "two")
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def test_a_truncated_and_a_missing_shard_are_named(sharded):
    shard = sorted(sharded.glob("*.safetensors"))[1]
    shard.write_bytes(shard.read_bytes()[:-8])
    with pytest.raises(InputError, match=rf"{shard.name} is not a complete safetensors file.*download"):
        open_checkpoint(sharded)
    shard.unlink()
    with pytest.raises(InputError, match=rf"{shard.name} is missing"):
        open_checkpoint(sharded)


@pytest.mark.parametrize("content", [b"", b"\xff" * 100, b"\x10\0\0\0\0\0\0\0not json at all!"])
def test_garbage_is_not_a_checkpoint(tmp_path, content):
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(InputError, match="not a complete safetensors file"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model-q4.gguf", "consolidated.safetensors"])
def test_weights_in_another_form_are_refused_with_the_cure(tmp_path, name):
    (tmp_path / name).write_bytes(b"anything")
    with pytest.raises(InputError, match=rf"only weights in another form .{name}.; save it again as safetensors"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("./nowhere", "no such file or folder"),
        ("/a/b/c", "no such file or folder"),
        ("not a name", "neither an existing folder nor a hub id"),
        ("nobody/nothing-of-this-name", "not stored here and the hub was not reached"),
    ],
)
def test_a_source_that_cannot_be_had_says_why(monkeypatch, source, message):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match=message):
        open_checkpoint(source)


def test_a_mistyped_folder_is_answered_with_the_folder_beside_it(tmp_path):
    (tmp_path / "backbone").mkdir()
    with pytest.raises(InputError, match=r"(no such file or folder|hub).*did you mean '.*backbone'"):
        open_checkpoint(tmp_path / "bakcbone")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("language_model.model.layers.0.mlp.up_proj.weight", "layers.0.mlp.up_proj.weight"),
        ("model.language_model.layers.0.mlp.up_proj.weight", "layers.0.mlp.up_proj.weight"),
        ("model.layers.0.mlp.up_proj.weight", "layers.0.mlp.up_proj.weight"),
        ("language_model.lm_head.weight", "lm_head.weight"),
        ("lm_head.weight", "lm_head.weight"),
        ("model.vision_tower.encoder.layers.0.mlp.fc1.weight", "vision_tower.encoder.layers.0.mlp.fc1.weight"),
        ("image_newline", "image_newline"),
        ("model.image_newline", "image_newline"),
        ("model.mm_projector.0.weight", "mm_projector.0.weight"),
    ],
)
def test_names_of_every_layout_have_one_canonical_form(name, expected):
    assert canonical(name) == expected == canonical(canonical(name))


def test_towers_and_projectors_are_no_language_though_their_layers_are_called_alike():
    assert not is_language("vision_tower.vision_model.encoder.layers.3.self_attn.q_proj.weight")
    assert not is_language("model.multi_modal_projector.linear_1.weight")
    assert is_language("language_model.model.layers.3.self_attn.q_proj.weight")


def test_layers_and_modules_are_read_from_names():
    assert layer_and_module("layers.11.self_attn.q_proj.weight") == (11, "self_attn")
    assert layer_and_module("embed_tokens.weight") == (None, "embed_tokens")


def test_the_same_weight_in_two_layouts_is_refused(tmp_path):
    tensors = {"model.norm.weight": torch.ones(2), "language_model.model.norm.weight": torch.ones(2)}
    save_file(tensors, tmp_path / "model.safetensors")
    weights = open_weights(tmp_path)
    with pytest.raises(InputError, match="twice"):
        plan_merge([weights], weights.checkpoint, Recipe())


def test_patterns_are_parsed_in_order_and_nonsense_is_refused():
    assert list(parse_patterns(["layers.1?.*=0.3", "*=1"]).items()) == [("layers.1?.*", 0.3), ("*", 1.0)]
    for wrong in ("layers.1", "=0.3", "layers.1=much"):
        with pytest.raises(InputError, match="PATTERN=NUMBER"):
            parse_patterns([wrong])


def test_an_adapter_of_another_model_is_refused(tmp_path):
    adapted(build_vlm(layers=3)).save_pretrained(tmp_path / "adapter")
    build_vlm().save_pretrained(tmp_path / "base")
    with pytest.raises(InputError, match=r"layers\.2.*matches no tensor"):
        open_weights(tmp_path / "adapter", tmp_path / "base")


def test_an_adapter_of_another_width_is_refused(tmp_path):
    model = build_vlm()
    model.save_pretrained(tmp_path / "base")
    adapted(model, projector=False).save_pretrained(tmp_path / "adapter")
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    tensors = stored(tmp_path / "adapter")
    name = next(name for name in tensors if name.endswith("up_proj.lora_B.weight"))
    save_file(tensors | {name: torch.ones(7, 4)}, file)
    with pytest.raises(InputError, match="does not give"):
        open_weights(tmp_path / "adapter", tmp_path / "base")


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("peft_type", "IA3"),
        ("fan_in_fan_out", True),
        ("layer_replication", [[0, 2], [1, 2]]),
        ("alora_invocation_tokens", [1]),
        ("target_parameters", ["experts.gate_up_proj"]),
        ("init_lora_weights", "loftq"),
        ("an_option_of_tomorrow", {"on": True}),
    ],
)
def test_adapters_that_are_no_plain_sum_are_refused(tmp_path, option, value):
    config = {"peft_type": "LORA", "lora_alpha": 8, "r": 4, option: value}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"only LoRA|more than W"):
        open_weights(tmp_path)


TORCH = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def every_pattern() -> torch.Tensor:
    return torch.arange(1 << 16, dtype=torch.int32).to(torch.uint16).view(torch.bfloat16)


def awkward_floats() -> torch.Tensor:
    """Every bfloat16 but NaN, with each kind of lower half: exact, just below, at and just above a tie."""
    upper = torch.arange(1 << 16, dtype=torch.int64).repeat_interleave(6) << 16
    lower = torch.tensor([0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF]).repeat(1 << 16)
    values = (upper + lower).to(torch.uint32).view(torch.float32)
    return values[~values.isnan()]


@pytest.mark.parametrize("dtype", ["F16", "BF16"])
def test_every_value_of_a_half_precision_dtype_widens_as_in_torch(dtype):
    stored = every_pattern().view(TORCH[dtype])
    stored = stored[~stored.isnan()]  # of NaN, only that it stays NaN is anyone's promise
    raw = stored.view(torch.uint8).numpy().view(np.uint16 if dtype == "BF16" else np.float16)
    assert np.array_equal(widen(raw, dtype).view(np.uint32), stored.float().numpy().view(np.uint32))


@pytest.mark.parametrize("dtype", sorted(TORCH))
def test_values_are_rounded_once_to_the_nearest_even_as_in_torch(dtype):
    values = awkward_floats()
    with np.errstate(over="ignore"):
        rounded = narrow(values.numpy().copy(), dtype)
    assert np.array_equal(rounded.view(np.uint8), values.to(TORCH[dtype]).view(torch.uint8).numpy())
