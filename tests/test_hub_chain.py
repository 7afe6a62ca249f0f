"""Hub scale end to end on hub-shaped folders, through the code that the notebooks call."""

import hub_folders
import pandas as pd
import pytest

from textreg import adapters, assembly, config, evaluation, features, generation, prepare, row_files, training, tuning

LANGUAGES = ["en", "de", "quz"]


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny_llm, tiny_tower):
    """A run folder with prepared data, an aligned projector and one tuned arm, and the two training logs."""
    data, folder = tmp_path_factory.mktemp("data"), tmp_path_factory.mktemp("run")
    common = {"run": str(folder), "scale": "hub"}
    settings = config.PrepareData(
        **common,
        align_data=str(hub_folders.pretrain(data / "lcs", archive=True)),
        visual_data=[str(hub_folders.onevision(data / "ov"))],
        text_data=[str(hub_folders.aya(data / "aya"))],
        evaluation_data=str(hub_folders.crossmodal(data / "xm3600", tuple(LANGUAGES))),
        languages=LANGUAGES,
        text_languages=["es", "ga"],
        held_out=[],
        align_rows=8,
        visual_rows=8,
        text_rows=8,
        validation_images=1,
        test_images=2,
    )
    prepare.write(settings)
    sizes = {"steps": 2, "batch_size": 4, "cache_features": False, "log_steps": 1, "packing": True}
    align = config.Align(**common, **sizes, llm=str(tiny_llm), tower=str(tiny_tower))
    model, processor = assembly.assemble(align.llm, align.tower)
    images = features.ImageTable.read(folder / "prepare_data" / "images.parquet")
    seen = features.open_features(model, processor, images, cache=False)
    captions = row_files.read_rows(folder / "prepare_data" / "align.parquet")
    logs = [training.train(model, processor, captions, seen, align, folder / "align")]
    assembly.save_aligned(model, folder / "align", assembly.Base(llm=align.llm, tower=align.tower))

    tune = config.Tune(**common, **sizes, text_share=0.5, rank=2, alpha=4)
    rows, order = tuning.arm_rows(tune)
    model = adapters.attach(assembly.load_aligned(folder / "align")[0], rank=2, alpha=4)
    logs.append(training.train(model, processor, rows, seen, tune, folder / "tune" / "TR", order=order.positions))
    return folder, model, processor, seen, logs


def test_both_trainings_see_every_planned_row_and_end_with_a_finite_loss(run):
    assert [log.rows for log in run[4]] == [8, 8]
    assert all(log.loss == log.loss and log.loss < float("inf") for log in run[4])


def test_every_request_of_every_language_and_arm_is_answered(run):
    folder, model, processor, seen, _ = run
    requests = evaluation.read_requests(folder, "test", ["image", "blank", "text"])
    assert requests.groupby(["language", "arm"]).size().to_dict() == dict.fromkeys(
        pd.MultiIndex.from_product([sorted(LANGUAGES), ["blank", "image", "text"]]), 2
    )
    answers = generation.answer(model, processor, requests, seen, max_new_tokens=4, batch_size=5)
    assert len(answers) == len(requests)
    assert all(isinstance(answer.text, str) for answer in answers)
