"""Hub scale end to end: the notebooks themselves, one after the other, on folders with the hub's files and columns.

Their cells are executed in a fork of the test process, because a kernel per stage would take most of the time;
kernels and papermill are the same at every scale.
"""

import json
from pathlib import Path

import forks
import hub_folders
import pandas as pd
import pytest
import tiny_chain

from textreg.vlm.export import export_system
from textreg.vlm.systems import System

LANGUAGES = ["en", "de", "quz"]
SYSTEMS = ["backbone", "BM", "TR", "TR+M"]
PROFILE = """
name: tiny-hub
scale: hub
seed: 0
prepare_data:
  align_data: {data}/lcs
  visual_data: [{data}/ov]
  text_data: [{data}/aya]
  evaluation_data: {data}/xm3600
  visual_check: {data}/check/questions.jsonl
  languages: [en, de, quz]
  text_languages: [es, ga]
  held_out: []
  align_rows: 8
  visual_rows: 8
  text_rows: 8
  validation_images: 2
  test_images: 2
align: {{llm: {llm}, tower: {tower}, steps: 2, batch_size: 4, precision: bf16, log_steps: 1}}
tune: {{steps: 3, batch_size: 4, rank: 2, alpha: 4, precision: bf16, log_steps: 1, checkpoint_steps: 2,
  activation_checkpointing: true}}
merge: {{lambdas: [0.5, 1.0], batch_size: 4, max_new_tokens: 12, precision: bf16}}
evaluate:
  systems: [backbone, BM, TR, TR+M]
  frontier_lambdas: [0.25]
  judge: none
  batch_size: 4
  max_new_tokens: 12
  precision: bf16
  bootstrap: 20
  workers: 1
mechanism: {{probe_images: 2, batch_size: 4}}
arms:
  - {{arm: BM, text: none}}
  - {{arm: TR, text: multilingual, text_share: 0.5, text_phases: 2, merge: true}}
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny_llm, tiny_tower):
    """The run folder of a profile whose every source is a local folder; all stages but the backbone's are run."""
    data = tmp_path_factory.mktemp("data")
    hub_folders.pretrain(data / "lcs", archive=True)
    (data / "check" / "00003").mkdir(parents=True)
    (data / "check" / "00003" / "000000003.png").write_bytes(hub_folders.png(7))  # a name that a training picture has
    question = {"image": "00003/000000003.png", "question": "What colour is it?", "answer": ["blue", "purple"]}
    (data / "check" / "questions.jsonl").write_text(json.dumps(question))
    hub_folders.onevision(data / "ov")
    hub_folders.aya(data / "aya")
    hub_folders.crossmodal(data / "xm3600", tuple(LANGUAGES))
    (data / "tiny-hub.yaml").write_text(PROFILE.format(data=data, llm=tiny_llm, tower=tiny_tower))
    folder = tmp_path_factory.mktemp("hub")
    assert forks.ended(tiny_chain.run_here, Path(__file__).parents[2], data / "tiny-hub.yaml", folder / "run") == 0
    return folder / "run"


def test_every_language_and_arm_of_every_system_is_answered_and_scored(run):
    answers = pd.read_parquet(run / "evaluate" / "answers.parquet")
    captions = answers[(answers["task"] == "caption") & (answers["lambda"] != 0.25)]
    counted = captions.groupby(["system", "language", "arm"]).size()
    expected = pd.MultiIndex.from_product([sorted(SYSTEMS), sorted(LANGUAGES), ["blank", "image", "text"]])
    assert counted.reindex(expected).fillna(0).eq(2).all()
    fidelity = pd.read_csv(run / "evaluate" / "fidelity.csv")
    assert set(fidelity["system"]) == set(SYSTEMS) and fidelity["n"].eq(2).all()
    assert fidelity[["grounded", "parse_rate", "lf_plus"]].isna().all(axis=None)  # nobody judged: undefined, not wrong


def test_people_s_captions_and_the_user_s_questions_are_scored_beside_fidelity(run):
    captions = pd.read_csv(run / "evaluate" / "captions.csv")
    assert set(captions["language"]) == set(LANGUAGES) and captions["chrf"].between(0, 100).all()
    visual = pd.read_csv(run / "evaluate" / "visual.csv")
    assert set(visual["task"]) == {"question", "question, answer contained"} and set(visual["system"]) == set(SYSTEMS)


def test_the_user_s_picture_is_asked_about_and_not_a_training_picture_of_the_same_name(run):
    requests = pd.read_parquet(run / "prepare_data" / "requests.parquet")
    asked = requests[(requests["task"] == "question") & (requests["arm"] == "image")]["image_id"].item()
    images = pd.read_parquet(run / "prepare_data" / "images.parquet").set_index("image_id")
    assert images.loc[asked, "split"] == "test" and images.loc[asked, "image"]["bytes"] == hub_folders.png(7)


def test_features_are_kept_on_disk_where_the_profile_asks_for_it_and_arms_share_them(run):
    assert len(list((run / "features").glob("features-*.npy"))) == 2  # alignment's pictures, and those of tuning


@pytest.mark.parametrize("arm", ["BM", "TR"])
def test_an_arm_records_what_it_was_shown_and_its_loss(run, arm):
    shown = pd.read_csv(run / "tune" / arm / "shown.csv")
    text = shown[~shown["image"]]
    assert set(text["language"]) == ({"es", "ga"} if arm == "TR" else set())
    assert shown["share"].sum() == pytest.approx(1.0) and shown["rows"].sum() == 12
    log = pd.read_csv(run / "tune" / arm / "log.csv")
    assert log["loss"].between(0, 100).all()


def test_the_merged_checkpoint_loads_with_every_key_and_carries_a_card(run):
    from transformers import AutoModelForImageTextToText

    folder = run / "merge" / "TR+M" / "model"
    _, report = AutoModelForImageTextToText.from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    card = (folder / "README.md").read_text("utf-8")
    assert "On validation images" in card and "| de | image |" in card and "| es | no |" in card


def test_an_arm_is_exported_with_the_test_results_of_the_run(run, tmp_path):
    folder = export_system(run, System("TR", "TR"), tmp_path / "out", precision="bf16")
    card = (folder / "README.md").read_text("utf-8")
    assert "On test images" in card and "LoRA rank: 2" in card
    weights = json.loads((folder / "config.json").read_text())
    assert weights["dtype"] == "bfloat16"


def test_figures_and_the_mechanism_study_are_there(run):
    assert {path.stem for path in (run / "figures").glob("*.svg")} >= {"1_language_fidelity", "2_mixture"}
    assert {"arms", "update", "patch"} <= {path.stem for path in (run / "mechanism").glob("*.csv")}
