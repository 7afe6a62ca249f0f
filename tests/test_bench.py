"""The benchmark of the tuning step: it trains, and counts work by what is multiplied."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Placeholders
from torch import nn

from textreg.training.batches import encode
from textreg.vlm.adapters import attach

sys.path.append(str(Path(__file__).parents[1] / "bench"))
import accelerator
import alignment_inside
import compare
import cuisines
import flops
import gpu_step
import instructions
import merging_methods
import pandas as pd
import seeing
import show


@pytest.mark.slow
@pytest.mark.parametrize("runs_tower", [True, False])
def test_the_step_of_a_profile_trains_at_miniature_size(runs_tower, tmp_path):
    overrides = ["tune.batch_size=4", "tune.micro_batch=2", "tune.workers=0", "tune.threads=1", "tune.max_length=900"]
    step = replace(gpu_step.step_of("gpu", overrides, steps=2), **accelerator.TINY)
    model, processor = gpu_step.build(step, device="cpu")
    rows, images = gpu_step.rows_of(step), gpu_step.RandomImages(step, runs_tower)
    tuned = attach(model, rank=2, alpha=4)
    assert gpu_step.work_of(tuned, processor, rows, images, step.settings) > 0
    log = gpu_step.train(tuned, processor, rows, images, step.settings, tmp_path, order=range(len(rows)))
    assert log.rows == 8 and log.loss > 0


@pytest.mark.parametrize("adapter", [False, True])
def test_weights_packed_into_four_bits_are_as_much_work_as_whole_ones(tiny_vlm, tiny_rows, adapter):
    model, processor = tiny_vlm
    samples = encode(processor, tiny_rows, Placeholders(), max_length=128)
    order = np.arange(16).reshape(2, 8)
    tuned = attach(model, rank=4, alpha=8) if adapter else model.requires_grad_(False)
    whole = flops.per_step(tuned, samples, order, cached=False)
    for part in (model.model.language_model.layers, model.model.vision_tower.encoder):
        for module in part.modules():
            if isinstance(module, nn.Linear) and not module.weight.requires_grad:
                # As bitsandbytes stores them: a column of bytes, two weights in each.
                packed = torch.zeros(module.weight.numel() // 2, 1, dtype=torch.uint8)
                module.weight = nn.Parameter(packed, requires_grad=False)
    assert (flops.per_step(tuned, samples, order, cached=False) == whole).all()
    assert (whole > 0).all()


@pytest.mark.slow
def test_the_script_for_an_accelerator_runs_at_toy_size_and_writes_one_file(tmp_path):
    accelerator.main(tiny=True, out=tmp_path / "found.json", minutes=5, chains=False)
    rows = json.loads((tmp_path / "found.json").read_text())["rows"]
    ours = [row for row in rows if row["side"] == "ours"]
    assert [row["what"].partition(",")[0] for row in ours] == ["tuning step", "answers"] * len(accelerator.STEPS)
    assert all(row.get("tokens_per_s", row.get("answers_per_s")) > 0 for row in ours)
    assert {row["side"] for row in rows} == {"ours", "ours, all kept", "TRL", "generate"}


def test_sides_take_turns_and_a_peer_that_is_not_there_has_a_row_that_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(compare, "RESULTS", tmp_path)
    called = []

    def cost(name, seconds):
        return lambda: called.append(name) or compare.Cost(seconds, seconds)

    sides = [
        compare.Side("tuning step", "ours", cost("ours", 1.0)),
        compare.Side("tuning step", "bare loop", cost("bare", 2.0)),
        compare.Side("tuning step", "TRL", cost("TRL", 9.0), lacks="trl"),
    ]
    compare.measure("tune", sides, 3)
    assert called == ["ours", "bare"] * 4  # the first turn warms up
    table = show.ratios(show.read(tmp_path)).set_index("peer")
    assert table.loc["bare loop", ["processor", "turns"]].tolist() == [0.5, 3]
    assert pd.isna(table.loc["TRL", "processor"]) and table.loc["TRL", "note"] == "not installed: trl"
    show.write(tmp_path)
    assert "not installed: trl" in (tmp_path / "table.md").read_text() and (tmp_path / "speed.svg").stat().st_size


def test_the_exponent_of_a_cost_that_doubles_with_the_amount_is_one():
    found = pd.DataFrame(
        {"group": "growth", "row": "answers", "turn": 0, "units": [1, 4, 16], "processor_s": [0.5, 2, 8]}
    )
    assert show.exponents(found)["exponent"].tolist() == pytest.approx([1.0])


def test_a_run_under_other_instructions_is_inside_where_it_lies_in_the_range_over_the_shipped_seeds():
    def answers(seed, asked):
        rows = [
            {"system": system, "arm": arm, "task": task, "language": code, "item_id": f"{task}{number}"}
            | {"class": "asked" if number < asked else "english", "content": True}
            for system in ("backbone", "BM", "EN", "TR")
            for arm in ("image", "text", "text_en")
            for task in ("caption", "colour")
            for code in ("en", "de")
            for number in range(4)
        ]
        return pd.DataFrame(rows).assign(seed=seed, backbone="b")

    shipped = pd.concat([answers(0, 2), answers(1, 3)])
    found = instructions.table(shipped, {"AVX2": answers(0, 3), "no AVX": answers(0, 1)}, "native")
    asked = found[found["measure, %"] == "asked"].iloc[0]
    assert asked.tolist() == ["backbone", "asked", 50.0, 75.0, 25.0, "50 to 75", "no"]
    assert set(found.loc[found["measure, %"] == "English captions right", "inside"]) == {"yes"}


def test_what_is_expected_of_ways_to_merge_names_ways_that_are_merged():
    made = {(way.name, way.lam) for way in merging_methods.WAYS}
    named = [each for expected in merging_methods.EXPECTED for each in (expected.of, expected.against)]
    assert {(each["method"], each.get("lambda", 1.0)) for each in named} <= made


def test_answers_about_dishes_are_read_by_language_and_names_alone_are_left_out(tmp_path):
    folder = tmp_path / cuisines.FILES
    folder.mkdir(parents=True)
    for name in ("tiny-1b", cuisines.TWICE[0]):
        rows = [
            {"qa_id": "7", "prediction": said, "lang": "ja_formal", "answer": "x"}
            for said in ("Miso", "a dish of rice and of fish")
        ]
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"task1_oe_{name}_pred_small.jsonl").write_text(lines)
    found = cuisines.long_enough(cuisines.read_answers(tmp_path))
    assert found[["system", "language", "item_id"]].to_numpy().tolist() == [["tiny-1b", "ja", "task1-ja_formal-7"]]


def test_the_look_inside_alignment_tells_updates_in_parts_of_those_with_prompts(tmp_path):
    for seed in (0, 1):
        for prompts, length, english in ((0.0, 60.0, 0.5), (1.0, 120.0, 0.3)):
            folder = tmp_path / f"prompts-{prompts}-seed-{seed}" / "mechanism"
            folder.mkdir(parents=True)
            dose = [
                ("BM", "visual tokens", 1.0, english),
                ("BM", "visual tokens", 0.0, 0.1),
                ("BM", "words", 1.0, 9.0),
            ]
            pd.DataFrame(dose, columns=["system", "context", "share", "english"]).to_csv(folder / "dose.csv")
            update = [("BM", layer, length / 4, length) for layer in (1, 2)]
            pd.DataFrame(update, columns=["system", "layer", "along", "length"]).to_csv(folder / "update.csv")
    alignment_inside.main(tmp_path, tmp_path)
    found = pd.read_csv(tmp_path / "inside.csv").groupby("align.prompts")[["dose", "along", "length"]].mean().round(6)
    assert found.to_numpy().tolist() == [[0.4, 0.125, 0.5], [0.2, 0.25, 1.0]]
    assert '"BM","0","40.0 ' in (tmp_path / "inside.md").read_text("utf-8")


@pytest.mark.slow
def test_what_is_seen_is_told_by_number_of_groups_for_scenes_of_training_and_others(capsys):
    seeing.main(count=12, fitted=60)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert [cell.strip() for cell in lines[0].split("|")[2:-1]] == list(seeing.GROUPS.values())
    assert len(lines) == 1 + 2 * len(seeing.SPLITS)
    shown = next(line for line in lines if "caption" in line and seeing.SPLITS["train"] in line)
    assert float(shown.split("|")[2].split("[")[0]) > 60  # the shipped model describes what training showed
