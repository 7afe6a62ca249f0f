"""Whole merges of tiny checkpoints of every layout, against arithmetic by hand, peft, mergekit and transformers."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch
import xxhash
from merge_checkpoints import (
    EXTRA,
    VOCABULARY,
    adapted,
    build_vlm,
    image_logits,
    stored,
    text_logits,
    write_backbone,
    write_vlm,
)
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

from textreg.errors import InputError, RunError
from textreg.figures.merge import change_table, draw_changes
from textreg.merging import merge as merging
from textreg.merging import reload
from textreg.merging.methods import METHODS, Recipe, merge_tensors
from textreg.merging.reload import reload_keys
from textreg.merging.report import read_report
from textreg.vlm.layouts import canonical, is_language

LAYOUTS = ["Llava", "LlavaNext", "LlavaOnevision"]
merge = partial(merging.merge, check_reload=False)  # the check starts a process; tests of it ask for it


@pytest.fixture(scope="module")
def backbone(tmp_path_factory) -> Path:
    return write_backbone(tmp_path_factory.mktemp("backbone"))


@pytest.fixture(scope="module")
def vlm(tmp_path_factory) -> Path:
    return write_vlm(tmp_path_factory.mktemp("vlm"), shard="12KB")


def by_hand(tuned: Path, base: Path, lam: float) -> dict[str, torch.Tensor]:
    """The whole merge in memory, written down without any of the package's streaming."""
    base_tensors = {canonical(name): value for name, value in stored(base).items()}
    merged = {}
    for name, value in stored(tuned).items():
        other = base_tensors.get(canonical(name)) if is_language(name) else None
        merged[name] = value.clone()
        if other is not None:
            rows = min(len(value), len(other))
            before, after = other[:rows].float(), value[:rows].float()
            merged[name][:rows] = (before + lam * (after - before)).to(value.dtype)
    return merged


def write(folder: Path, tensors: dict[str, torch.Tensor], config: str = "") -> Path:
    """A checkpoint of these tensors, in one file."""
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    if config:
        (folder / "config.json").write_text(config)
    return folder


def same_bytes(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        torch.equal(one[name].view(torch.uint8), other[name].view(torch.uint8)) for name in one
    )


@pytest.mark.parametrize("kind", LAYOUTS)
@pytest.mark.parametrize("tied", [False, True])
def test_every_layout_merges_its_language_model_and_keeps_the_rest_byte_for_byte(tmp_path, kind, tied):
    base = write_backbone(tmp_path / "base", tied=tied)
    tuned = write_vlm(tmp_path / "tuned", kind, tied=tied, shard="12KB")
    report = merge(tuned, base, tmp_path / "out", 0.3)
    expected, merged = by_hand(tuned, base, 0.3), stored(tmp_path / "out")
    assert merged.keys() == expected.keys()
    for name, value in expected.items():
        if is_language(name):
            torch.testing.assert_close(merged[name], value, rtol=0, atol=1e-6)
        else:
            assert torch.equal(merged[name], value), name
    assert reload_keys(tmp_path / "out") == {
        "checked": True, "class": f"{kind}ForConditionalGeneration", "missing": [], "unexpected": [], "mismatched": [],
    }  # fmt: skip
    assert report.counts()["resized"] == (1 if tied else 2)


@pytest.mark.parametrize(
    ("dtype", "other"), [("bfloat16", "bfloat16"), ("float16", "float16"), ("bfloat16", "float32")]
)
def test_half_precision_is_merged_in_float32_and_rounded_once_whatever_the_backbone_has(tmp_path, dtype, other):
    base = write_backbone(tmp_path / "base", dtype=other)
    tuned = write_vlm(tmp_path / "tuned", dtype=dtype)
    merge(tuned, base, tmp_path / "out", 0.37)
    assert same_bytes(stored(tmp_path / "out"), by_hand(tuned, base, 0.37))


@pytest.mark.parametrize("method", ["linear", "slerp"])
def test_lambda_one_is_the_tuned_model_and_zero_the_backbone_in_every_row_it_has_byte_for_byte(
    tmp_path, vlm, backbone, method
):
    merge(vlm, backbone, tmp_path / "one", 1.0, method)
    assert same_bytes(stored(tmp_path / "one"), stored(vlm))
    merge(vlm, backbone, tmp_path / "out", 0.0, method)
    merged, base, tuned = stored(tmp_path / "out"), stored(backbone), stored(vlm)
    for name, value in merged.items():
        if is_language(name):
            other = base[name.removeprefix("language_model.")]
            assert torch.equal(value[: len(other)], other)
            assert torch.equal(value[len(other) :], tuned[name][len(other) :])
        else:
            assert torch.equal(value, tuned[name])


def test_shards_of_either_side_change_nothing(tmp_path, backbone):
    whole = write_vlm(tmp_path / "whole")
    sharded = write_vlm(tmp_path / "sharded", shard="9KB")
    base = write_backbone(tmp_path / "base", shard="5KB")
    assert len(list(sharded.glob("*.safetensors"))) > 3
    recipe = {"lam": 0.7, "method": "drop", "density": 0.5, "seed": 5}
    merge(whole, backbone, tmp_path / "a", **recipe)
    merge(sharded, base, tmp_path / "b", **recipe, workers=3)
    assert same_bytes(stored(tmp_path / "a"), stored(tmp_path / "b"))


@pytest.mark.parametrize("method", sorted(METHODS))
def test_streamed_merge_equals_the_pure_function_of_each_method(tmp_path, backbone, method):
    tuned = [write_backbone(tmp_path / f"tuned-{seed}", seed=seed) for seed in (5, 6)]
    tuned = tuned[:1] if method in {"slerp", "trim"} else tuned
    recipe = Recipe(method, 0.6, 0.4, 0.1, 3)
    notes = merge(tuned, backbone, tmp_path / "out", 0.6, method, density=0.4, gamma=0.1, seed=3).notes
    assert any("density has no meaning" in note for note in notes) == (method in ("linear", "slerp", "model_stock"))
    merged, base, others = stored(tmp_path / "out"), stored(backbone), [stored(folder) for folder in tuned]
    for name in merged:
        expected = merge_tensors(base[name], [other[name] for other in others], recipe, canonical(name))
        assert torch.equal(merged[name], expected), name


def test_a_pattern_gives_its_layers_their_own_lambda(tmp_path, vlm, backbone):
    report = merge(vlm, backbone, tmp_path / "out", 0.5, patterns={"layers.1.mlp.*": 0.0, "layers.1.*": 1.0})
    merged, base, tuned = stored(tmp_path / "out"), stored(backbone), stored(vlm)
    up, query = "model.layers.1.mlp.up_proj.weight", "model.layers.1.self_attn.q_proj.weight"
    assert torch.equal(merged[f"language_model.{up}"], base[up])
    assert torch.equal(merged[f"language_model.{query}"], tuned[f"language_model.{query}"])
    assert {tensor.lam for tensor in report.tensors if tensor.name.endswith("0.mlp.up_proj.weight")} == {0.5}
    with pytest.raises(InputError, match="matches no tensor"):
        merge(vlm, backbone, tmp_path / "none", patterns={"layer.1.*": 0.0})


def test_names_as_they_are_in_memory_match_the_backbone_too(tmp_path, vlm, backbone):
    spelling = {"language_model.model.": "model.language_model.", "language_model.lm_head.": "lm_head."}
    spelling |= {part: f"model.{part}" for part in ("vision_tower.", "multi_modal_projector.")}
    tensors = {}
    for name, value in stored(vlm).items():
        prefix = next(prefix for prefix in spelling if name.startswith(prefix))
        tensors[name.replace(prefix, spelling[prefix], 1)] = value
    renamed = write(tmp_path / "renamed", tensors, (vlm / "config.json").read_text())
    merge(renamed, backbone, tmp_path / "out", 0.5)
    merge(vlm, backbone, tmp_path / "reference", 0.5)
    merged = {canonical(name): value for name, value in stored(tmp_path / "out").items()}
    assert same_bytes(merged, {canonical(name): value for name, value in stored(tmp_path / "reference").items()})
    told = reload_keys(tmp_path / "out")
    assert told["missing"] == told["unexpected"] == []


def test_the_base_of_the_vlm_may_itself_be_a_vlm(tmp_path, vlm):
    own = write_vlm(tmp_path / "own", seed=9)
    report = merge(vlm, own, tmp_path / "out", 0.5)
    assert report.counts()["resized"] == 0
    one, two = stored(vlm), stored(own)
    name = "language_model.model.embed_tokens.weight"
    torch.testing.assert_close(stored(tmp_path / "out")[name], (one[name] + two[name]) / 2, rtol=0, atol=1e-6)


def test_a_head_of_its_own_is_merged_with_the_embedding_of_a_backbone_that_ties(tmp_path):
    base = write_backbone(tmp_path / "base", tied=True)
    tuned = write_vlm(tmp_path / "tuned", tied=False)
    report = merge(tuned, base, tmp_path / "out", 0.0)
    head = stored(tmp_path / "out")["language_model.lm_head.weight"]
    assert torch.equal(head[:VOCABULARY], stored(base)["model.embed_tokens.weight"])
    assert any("ties head and embedding" in note for note in report.notes)


def test_a_tied_vlm_and_a_backbone_with_a_head_of_its_own_are_refused(tmp_path):
    base = write_backbone(tmp_path / "base", tied=False)
    tuned = write_vlm(tmp_path / "tuned", tied=True)
    with pytest.raises(InputError, match="head of its own"):
        merge(tuned, base, tmp_path / "out")
    merge(tuned, base, tmp_path / "out", keep=["lm_head.weight"])


def test_a_tied_vlm_gets_a_head_of_its_own_when_asked_and_then_speaks_like_its_backbone(tmp_path):
    base = write_backbone(tmp_path / "base", tied=False)
    tuned = write_vlm(tmp_path / "tuned", tied=True)
    report = merge(tuned, base, tmp_path / "out", 0.0, untie=True)
    told = reload_keys(tmp_path / "out")
    assert told["missing"] == told["unexpected"] == []
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path / "out").eval()
    backbone = AutoModelForCausalLM.from_pretrained(base).eval()
    assert (
        loaded.config.tie_word_embeddings is False
        and loaded.lm_head.weight is not loaded.get_input_embeddings().weight
    )
    ours = text_logits(loaded)[..., :VOCABULARY]
    torch.testing.assert_close(ours, text_logits(backbone), rtol=0, atol=1e-5)
    assert any("gets a head of its own" in note for note in report.notes)


def test_a_backbone_with_more_rows_lends_the_rows_that_the_vlm_has(tmp_path):
    base = write_backbone(tmp_path / "base", vocabulary=VOCABULARY + 20)
    tuned = write_vlm(tmp_path / "tuned")
    report = merge(tuned, base, tmp_path / "out", 0.0)
    embedding = stored(tmp_path / "out")["language_model.model.embed_tokens.weight"]
    assert torch.equal(embedding, stored(base)["model.embed_tokens.weight"][: VOCABULARY + EXTRA])
    assert any("more than the 43" in note for note in report.notes)


def test_an_unknown_tensor_beside_the_decoder_is_an_error_and_kept_only_when_asked(tmp_path, vlm, backbone):
    odd = write(tmp_path / "odd", stored(vlm) | {"language_model.model.gate.weight": torch.ones(3)})
    with pytest.raises(InputError, match=r"gate\.weight.*--keep"):
        merge(odd, backbone, tmp_path / "out")
    merge(odd, backbone, tmp_path / "out", keep=["*gate.weight"])
    assert torch.equal(stored(tmp_path / "out")["language_model.model.gate.weight"], torch.ones(3))


def test_a_deeper_backbone_is_not_the_backbone_of_this_model(tmp_path, vlm):
    base = write_backbone(tmp_path / "base", layers=3)
    with pytest.raises(InputError, match=r"9 tensor.*layers\.2.*really the backbone"):
        merge(vlm, base, tmp_path / "out")


@pytest.mark.slow
def test_a_tuned_model_without_one_of_its_tensors_leaves_nothing_behind(tmp_path, vlm, backbone):
    tensors = stored(vlm)
    del tensors["multi_modal_projector.linear_1.weight"]
    broken = write(tmp_path / "broken", tensors, (vlm / "config.json").read_text())
    with pytest.raises(RunError, match=r"1 missing.*linear_1.*--no-check"):
        merge(broken, backbone, tmp_path / "out", check_reload=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken"]


def test_not_finite_weights_are_refused_and_named(tmp_path, backbone):
    tensors = stored(backbone)
    tensors["model.layers.1.mlp.up_proj.weight"][3, 3] = float("nan")
    with pytest.raises(RunError, match=r"layers\.1\.mlp\.up_proj\.weight.*not finite"):
        merge(write(tmp_path / "bad", tensors), backbone, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_merge_that_leaves_the_range_of_float16_is_refused(tmp_path):
    for folder, value in (("tuned", 6e4), ("base", -6e4)):
        write(tmp_path / folder, {"model.norm.weight": torch.full((4,), value).half()})
    with pytest.raises(RunError, match="range of float16"):
        merge(tmp_path / "tuned", tmp_path / "base", tmp_path / "out", 1.5)
    merge(tmp_path / "tuned", tmp_path / "base", tmp_path / "out", 0.5)
    assert reload_keys(tmp_path / "out") == {"checked": False, "reason": "there is no config.json"}


LANGUAGE = r".*language_model\.layers\.\d+\.\w+\.\w+_proj"
ADAPTERS = {
    "with its projector": {"projector": True},
    "rank-stabilised": {"use_rslora": True},
    "patterns": {"rank_pattern": {"mlp.up_proj": 2}, "alpha_pattern": {"mlp.up_proj": 32, "1.self_attn.q_proj": 1}},
    "patterns with anchors": {"rank_pattern": {r"^.*1\.mlp\.\w+": 3}, "alpha_pattern": {r".*\.mlp\.down_proj": 5}},
    "embedding": {"targets": r".*language_model\.(embed_tokens|layers\.0\.mlp\.up_proj)"},
    "head": {"targets": r".*(lm_head|o_proj)"},
    "saved embedding and head": {"save": ["embed_tokens", "lm_head"]},
    "some layers": {"targets": ["q_proj", "down_proj"], "layers_to_transform": [1], "layers_pattern": "layers"},
    "everywhere": {"targets": "all-linear"},
    "tower too": {"targets": r".*(vision_tower.*(k_proj|fc1)|language_model\.layers\.\d\.mlp\.gate_proj)"},
    "orthogonal start": {"init_lora_weights": "orthogonal"},
    "saved head of a base that ties it": {"save": ["lm_head"], "tied": True, "refused": "ties the head"},
    "biases": {"bias": "lora_only", "refused": "bias"},
    "bias of the pair": {"lora_bias": True, "refused": "lora_bias"},
    "dora": {"use_dora": True, "refused": "use_dora"},
    "pissa": {"init_lora_weights": "pissa", "refused": "init_lora_weights"},
    "tokens": {"trainable_token_indices": {"embed_tokens": [1, 2]}, "refused": "trainable_token_indices"},
}


@pytest.mark.parametrize("kind", list(ADAPTERS))
def test_an_adapter_gives_the_logits_that_peft_gives_or_is_refused_by_name(tmp_path, kind):
    options = {"projector": False} | ADAPTERS[kind]
    refused = options.pop("refused", None)
    model = build_vlm(tied=options.pop("tied", False))
    model.save_pretrained(tmp_path / "base")
    wrapped = adapted(model, **options)
    wrapped.save_pretrained(tmp_path / "adapter")
    arguments = (tmp_path / "adapter", tmp_path / "base", tmp_path / "out", 1.0)
    if refused:
        with pytest.raises(InputError, match=refused):
            merge(*arguments, adapter_base=tmp_path / "base")
        return
    report = merge(*arguments, adapter_base=tmp_path / "base")
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path / "out").eval()
    torch.testing.assert_close(image_logits(loaded), image_logits(wrapped), rtol=0, atol=2e-5)
    before = AutoModelForImageTextToText.from_pretrained(tmp_path / "base").eval()
    assert (image_logits(loaded) - image_logits(before)).abs().max() > 0.01
    assert report.counts()["replaced"] == (4 if kind == "with its projector" else 0)


def test_an_adapter_at_half_lambda_keeps_its_projector_at_full_strength(tmp_path):
    model = build_vlm()
    model.save_pretrained(tmp_path / "base")
    adapted(model).save_pretrained(tmp_path / "adapter")
    for lam in (0.0, 0.5, 1.0):
        merge(tmp_path / "adapter", tmp_path / "base", tmp_path / f"{lam}", lam, adapter_base=tmp_path / "base")
    zero, half, one = (stored(tmp_path / f"{lam}") for lam in (0.0, 0.5, 1.0))
    query, projector = "language_model.model.layers.0.self_attn.q_proj.weight", "multi_modal_projector.linear_1.weight"
    torch.testing.assert_close(half[query], (zero[query] + one[query]) / 2, rtol=0, atol=1e-6)
    assert torch.equal(zero[query], stored(tmp_path / "base")[query])
    assert torch.equal(half[projector], one[projector])
    assert not torch.equal(half[projector], stored(tmp_path / "base")[projector])


def test_report_says_what_was_done_and_reads_back(tmp_path, vlm, backbone):
    report = merge(vlm, backbone, tmp_path / "out", 0.5)
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert files == {path.name for path in vlm.iterdir()} | {"merge_report.json"}  # the shards have their names
    assert read_report(tmp_path / "out").layer_norms() == report.layer_norms()
    assert report.counts() == {"merged": 19, "resized": 2, "kept": len(stored(vlm)) - 21, "replaced": 0}
    one, two = stored(vlm), stored(backbone)
    mlp = [name for name in two if ".layers.0.mlp." in name]
    change = sum(float(((one[f"language_model.{n}"] - two[n]) ** 2).sum()) for n in mlp) ** 0.5
    row = next(row for row in report.layer_norms() if (row["layer"], row["module"]) == (0, "mlp"))
    assert row["change"] == pytest.approx(change, rel=1e-5)
    assert report.reload == {"checked": False, "reason": "not asked for"}
    merged = stored(tmp_path / "out")
    for tensor in report.tensors:
        assert tensor.xxh3_128 == xxhash.xxh3_128_hexdigest(merged[tensor.name].numpy().tobytes())


def test_an_earlier_merge_is_replaced_only_when_asked_and_nothing_else_ever(tmp_path, vlm, backbone):
    merge(vlm, backbone, tmp_path / "out", 0.5)
    with pytest.raises(InputError, match="already holds a merge"):
        merge(vlm, backbone, tmp_path / "out", 0.6)
    assert merge(vlm, backbone, tmp_path / "out", 0.6, overwrite=True).recipe["lam"] == 0.6
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis.txt").write_text("years")
    with pytest.raises(InputError, match="no earlier merge"):
        merge(vlm, backbone, tmp_path / "precious", overwrite=True)
    with pytest.raises(InputError, match="one of the inputs"):
        merge(vlm, backbone, vlm, overwrite=True)


def test_a_place_or_a_disk_that_will_not_do_is_said_before_anything_is_written(tmp_path, vlm, backbone, monkeypatch):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(InputError, match=r"cannot write to .*file"):
        merge(vlm, backbone, tmp_path / "file" / "out")
    monkeypatch.setattr(merging, "SPARE", 2**60)
    with pytest.raises(InputError, match=r"MiB free, this run needs about.*choose another disk"):
        merge(vlm, backbone, tmp_path / "out")
    assert os.listdir(tmp_path) == ["file"]


ELSEWHERE = {  # where other models keep tower, projector and decoder; most of these names are in no list
    "MiniCPM-V": ("vpm", "resampler", "llm"),
    "InternVL": ("vision_model", "mlp1", "language_model"),
    "Ovis": ("visual_tokenizer", "vte", "llm"),
    "DeepSeek-VL": ("vision_model", "aligner", "language"),
}


@pytest.mark.parametrize("family", ELSEWHERE)
def test_what_stands_beside_the_module_that_holds_the_decoder_is_kept_by_whatever_name(
    tmp_path, vlm, backbone, family
):
    called = dict(zip(("vision_tower", "multi_modal_projector", "language_model"), ELSEWHERE[family], strict=True))
    tensors = {".".join([called[n.split(".")[0]], *n.split(".")[1:]]): tensor for n, tensor in stored(vlm).items()}
    config = {"model_type": family.lower()} | ({"llm_config": {"model_type": "llama"}} if family == "InternVL" else {})
    write(tmp_path / "vlm", tensors, "\ufeff" + json.dumps(config))
    report = merge(tmp_path / "vlm", backbone, tmp_path / "out", 0.0)
    assert report.counts() == merge(vlm, backbone, tmp_path / "plain", 0.0).counts()
    kept = {tensor.name.split(".")[0] for tensor in report.tensors if tensor.action == "kept"}
    assert kept == set(ELSEWHERE[family][:2])
    with pytest.raises(InputError, match="TUNED comes first"):
        merge(backbone, tmp_path / "vlm", tmp_path / "swapped")
    (tmp_path / "vlm" / "config.json").write_text(json.dumps({"llm_config": {"model_type": "qwen2"}}))
    with pytest.raises(InputError, match="speaks through a qwen2"):
        merge(tmp_path / "vlm", backbone, tmp_path / "other")


def test_a_model_with_itself_is_refused_and_one_with_its_copy_is_said_to_be_no_merge(tmp_path, vlm, backbone):
    with pytest.raises(InputError, match="given twice"):
        merge(vlm, vlm, tmp_path / "out")
    report = merge(vlm, shutil.copytree(vlm, tmp_path / "copy"), tmp_path / "out")
    assert "nothing was merged" in report.notes[-1]
    assert "nothing was merged" not in " ".join(merge(vlm, backbone, tmp_path / "other").notes)


@pytest.mark.parametrize(("ending", "dtype"), [(".qweight", torch.int32), (".weight", torch.uint8)])
def test_packed_weights_are_named_on_either_side(tmp_path, vlm, backbone, ending, dtype):
    for number, whole in enumerate((vlm, backbone)):
        tensors = {n.replace(".weight", ending) if "mlp" in n else n: v.to(dtype) if "mlp" in n else v
                   for n, v in stored(whole).items()}  # fmt: skip
        folder = write(tmp_path / str(number), tensors)
        with pytest.raises(InputError, match="merge the unquantised checkpoint"):
            merge(*((folder, backbone) if number == 0 else (vlm, folder)), tmp_path / "out")


def test_the_output_has_its_place_on_the_disk_before_the_first_tensor_is_written(tmp_path, monkeypatch):
    def full(handle: int, offset: int, nbytes: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    whole, base = write_vlm(tmp_path / "whole"), write_backbone(tmp_path / "base")
    with pytest.raises(RunError, match=r"no space left on the disk; free some.*; nothing was left behind"):
        merge(whole, base, tmp_path / "place" / "out")
    assert list((tmp_path / "place").iterdir()) == []


def test_every_file_is_forced_to_disk_before_the_folder_gets_its_name(tmp_path, vlm, backbone, monkeypatch):
    forced, out = [], tmp_path / "out"

    def sync(path: Path) -> None:
        forced.append((path.name, out.exists()))

    monkeypatch.setattr(merging, "sync", sync)
    merge(vlm, backbone, out)
    assert {(path.name, False) for path in out.iterdir()} < set(forced)
    assert forced[-1] == (tmp_path.name, True)


def test_the_change_is_drawn_per_layer_and_module(tmp_path, vlm, backbone):
    report = merge(vlm, backbone, tmp_path / "out")
    saved = draw_changes(report, tmp_path / "changes")
    assert all(path.stat().st_size for path in saved.paths.values())
    table = change_table(read_report(tmp_path / "out"))
    assert set(table["layer"].dropna()) == {0, 1} and {"self_attn", "mlp", "embed_tokens"} <= set(table["module"])
    most = table.loc[table["relative"].idxmax()]
    assert f"{most['relative']:.2%}" in saved.alt and most["module"] in saved.alt


KILLED = """
import sys, time
from textreg.merging import merge
slow = merge.Writer.write
def write(self, step):
    time.sleep(0.2)
    return slow(self, step)
merge.Writer.write = write
merge.merge(*sys.argv[1:4], check_reload=False, workers=1)
"""


def test_a_killed_merge_leaves_nothing_that_looks_finished_and_a_rerun_finishes(tmp_path, vlm, backbone):
    out = tmp_path / "out"
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(vlm), str(backbone), str(out)])
    partial = tmp_path / ".out.partial"
    deadline = time.monotonic() + 60
    while not list(partial.glob("*.safetensors")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert partial.exists() and not out.exists()
    merge(vlm, backbone, out, 0.5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


def test_a_process_without_transformers_checks_the_reload_in_another_one_once(tmp_path, vlm, backbone, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    code = (
        "import sys, json; from textreg.merging.merge import merge; r = merge(*sys.argv[1:4], check_reload=True);"
        "assert 'transformers' not in sys.modules; print(json.dumps(r.reload))"
    )
    command = [sys.executable, "-c", code, str(vlm), str(backbone), str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["class"] == "LlavaForConditionalGeneration"
    monkeypatch.setattr(reload.constants, "HF_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(reload.subprocess, "Popen", None)  # asked again, it answers without a process
    assert merging.merge(vlm, backbone, tmp_path / "again", 0.3).reload == json.loads(done.stdout)
    monkeypatch.setattr(reload.constants, "HF_HOME", str(tmp_path / "new"))
    assert "--check asks" in merging.merge(vlm, backbone, tmp_path / "small", 0.3).reload["reason"]


MERGEKIT = {
    "linear": ("linear", {"weight": 0.3}, {"weight": 0.7}, {}),
    "slerp": ("slerp", {}, {}, {"t": 0.3}),
    "trim": ("ties", {"weight": 1.0, "density": 0.25}, {}, {"lambda": 0.3}),
    "breadcrumbs": ("breadcrumbs", {"weight": 0.3, "density": 0.5, "gamma": 0.25}, {}, {}),
}


def mergekit_merge(tuned: Path, base: Path, out: Path, method: str) -> dict[str, torch.Tensor]:
    """The same merge by mergekit, in float32."""
    import yaml
    from mergekit.config import MergeConfiguration
    from mergekit.merge import MergeOptions, run_merge

    name, tuned_options, base_options, options = MERGEKIT[method]
    models = [{"model": str(tuned), "parameters": tuned_options}]
    if name in {"linear", "slerp"}:
        models.append({"model": str(base), "parameters": base_options})
    config = {"merge_method": name, "models": models, "dtype": "float32", "parameters": options}
    if name != "linear":
        config["base_model"] = str(base)
    parsed = MergeConfiguration.model_validate(yaml.safe_load(yaml.safe_dump(config)))
    run_merge(parsed, str(out), MergeOptions(copy_tokenizer=False, quiet=True, write_model_card=False))
    return stored(out)


@pytest.mark.parametrize("method", sorted(MERGEKIT))
def test_plain_checkpoints_merge_as_mergekit_merges_them(tmp_path, backbone, method):
    pytest.importorskip("mergekit", reason="the bench extra (mergekit) is not installed")
    tuned = write_backbone(tmp_path / "tuned", seed=5)
    density, gamma = MERGEKIT[method][1].get("density", 1.0), MERGEKIT[method][1].get("gamma", 0.0)
    merge(tuned, backbone, tmp_path / "ours", 0.3, method, density=density, gamma=gamma)
    theirs = mergekit_merge(tuned, backbone, tmp_path / "theirs", method)
    ours = stored(tmp_path / "ours")
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=0, atol=2e-6, msg=name)
