"""Results do not depend on how many notebooks and processes ran side by side.

Two runs of the smallest chain that still trains: the real stages from scenes to figures on the shipped model, two
optimizer steps each, once one notebook and one process at a time, once two.  The notebooks hold the lines of the real
ones that write results, and none of those that show them.
"""

import os
import subprocess
import sys
from datetime import datetime

import pandas as pd
import pytest
import tiny_chain
from rich.console import Console

from textreg.runs import manifest, runner
from textreg.runs.report import Report

PROFILE = """
name: small
scale: scenes
seed: 7
stages: [prepare_data, align, tune, evaluate, figures]
prepare_data:
  languages: [en, es]
  text_languages: [es]
  held_out: []
  align_rows: 8
  visual_rows: 8
  text_rows: 8
  validation_images: 1
  test_images: 3
align: {steps: 2, batch_size: 4, threads: 1}
tune: {steps: 2, batch_size: 4, log_steps: 1}
evaluate: {systems: [BM, TR], frontier_lambdas: [], arms: [image], max_new_tokens: 6, bootstrap: 20}
arms:
  - {arm: BM, text: none}
  - {arm: TR}
"""
PREPARE = """
from textreg.scenes import rows
from textreg.settings import PrepareData, collect
rows.write(collect(PrepareData, globals()))
"""
OPEN = """
from pathlib import Path
from textreg.training.train import train
from textreg.vlm import assembly, features
from textreg.data.images import ImageTable
from textreg.settings import STAGE, collect
from textreg.compute import set_up
settings = collect(STAGE, globals())
folder = Path(settings.run)
set_up(settings.threads, precision=settings.precision)
images = ImageTable.read(folder / "prepare_data" / "images.parquet")
"""
ALIGN = OPEN.replace("STAGE", "Align") + """
from textreg.data.rows import read_rows
base = assembly.Base(settings.llm, settings.tower, settings.vlm, settings.seed)
model, processor = assembly.load_base(base, precision=settings.precision)
rows = read_rows(folder / "prepare_data" / "align.parquet")
seen = features.open_features(model, processor, images, ids=rows["image_id"].unique())
train(model, processor, rows, seen, settings, folder / "align")
assembly.save_aligned(model, folder / "align", base)
"""  # fmt: skip
TUNE = OPEN.replace("STAGE", "Tune") + """
from textreg.vlm import adapters
from textreg.data import mixture
out = folder / "tune" / settings.arm
rows, order = mixture.arm_rows(settings)
out.mkdir(parents=True, exist_ok=True)
mixture.rows_shown(rows, order).to_csv(out / "shown.csv", index=False)
model, processor = assembly.load_aligned(folder / "align", precision=settings.precision)
seen = features.open_features(model, processor, images, ids=rows["image_id"].dropna().unique())
model = adapters.attach(model, rank=settings.rank, alpha=settings.alpha, seed=settings.seed)
train(model, processor, rows, seen, settings, out, order=order.positions)
adapters.save_adapter(model, out / "adapter")
"""  # fmt: skip
EVALUATE = """
from pathlib import Path
from textreg.data.requests import read_requests
from textreg.evaluation import answering, tables as made
from textreg.vlm.systems import find_system
from textreg.fidelity import measures
from textreg.settings import Evaluate, collect
settings = collect(Evaluate, globals())
out = Path(settings.run) / "evaluate"
requests = read_requests(settings.run, "test", settings.arms)
work = [(find_system(settings.run, name), requests) for name in settings.systems]
answers = answering.answer_all(settings, work, out / "parts")
scored = made.annotated(settings, answers, made.judge_of(settings))
captions = scored[scored["task"] == "caption"]
tables = {
    "fidelity": measures.summarise(captions, bootstrap=settings.bootstrap, seed=settings.seed),
    "visual": measures.visual_summary(scored),
}
made.write_tables(out, scored, tables)
"""
FIGURES = """
from pathlib import Path
from textreg.figures import book, tables
results, out = tables.load_results(run), Path(run) / "figures"
for draw in (book.fidelity, book.losses, book.gallery):
    draw(results, out)
"""
BODIES = {"prepare_data": PREPARE, "align": ALIGN, "tune": TUNE, "evaluate": EVALUATE, "figures": FIGURES}
WIDTHS = {"one": (1, "evaluate.workers=1"), "two": (2, "evaluate.workers=2")}


COMMAND = """
import sys
from pathlib import Path
from textreg.runs import runner
root, name, jobs, override = Path(sys.argv[1]), *sys.argv[2:]
runner.run(root / "profiles" / "small.yaml", root / name, root=root, jobs=int(jobs), overrides=[override])
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The folders of the two runs, by how many notebooks and processes ran side by side."""
    root = tiny_chain.build(tmp_path_factory.mktemp("chain"))
    for stage, body in BODIES.items():
        tiny_chain.write(root, stage, body)
    profile = root / "profiles" / "small.yaml"
    profile.write_text(PROFILE)

    # Processes, not threads: the parser of Python 3.11 does not bear two threads, and a user has no two runs in one.
    started = {
        name: subprocess.Popen([sys.executable, "-c", COMMAND, str(root), name, str(jobs), override])
        for name, (jobs, override) in WIDTHS.items()
    }
    assert [process.wait() for process in started.values()] == [0, 0]
    return {name: root / name for name in WIDTHS}


def overlap(run) -> bool:
    """Whether the two tunings of a run ran at the same time (start times are kept in whole seconds)."""
    first, second = sorted(
        (datetime.fromisoformat(record["started"]).timestamp(), record["seconds"])
        for record in (manifest.read(run / "tune" / arm) for arm in ("BM", "TR"))
    )
    return second[0] < first[0] + first[1] - 1


def test_arms_were_tuned_one_after_the_other_in_one_run_and_side_by_side_in_the_other(runs):
    assert not overlap(runs["one"])
    assert overlap(runs["two"])


@pytest.mark.parametrize(
    "pattern",
    [
        "prepare_data/*.parquet",
        "align/*.safetensors",
        "tune/*/adapter/*.safetensors",
        "evaluate/fidelity.csv",
        "evaluate/visual.csv",
        "evaluate/answers.parquet",
        "figures/*.svg",
        "figures/*.csv",
        "figures/[0-9]*.json",
    ],
)
def test_the_same_seed_gives_the_same_bytes_whatever_ran_side_by_side(runs, pattern):
    found = {
        name: {path.relative_to(run).as_posix(): path.read_bytes() for path in sorted(run.glob(pattern))}
        for name, run in runs.items()
    }
    assert found["one"].keys() == found["two"].keys() != set()
    assert [path for path, data in found["one"].items() if data != found["two"][path]] == []


def test_the_compared_scores_are_of_two_arms_that_training_made_different(runs):
    table = pd.read_csv(runs["one"] / "evaluate" / "fidelity.csv")
    assert sorted(set(table["system"])) == ["BM", "TR"]
    weights = [(runs["one"] / "tune" / arm / "adapter/adapter_model.safetensors").read_bytes() for arm in ("BM", "TR")]
    assert weights[0] != weights[1]


def test_what_follows_a_training_that_left_the_same_weights_is_kept(runs):
    run, root = runs["one"], runs["one"].parent
    profile, options = root / "profiles" / "small.yaml", {"root": root, "overrides": [WIDTHS["one"][1]]}
    began = manifest.read(run / "align")["started"]
    with open(os.devnull, "w") as nowhere:
        quiet = Report(Console(file=nowhere))
        runner.run(profile, run, only=["align"], force=True, jobs=1, report=quiet, **options)
        after = runner.run(profile, run, dry_run=True, report=quiet, **options)
    assert manifest.read(run / "align")["started"] > began
    assert {unit.name: state.reasons for unit, state in after.states.items() if state.state != "done"} == {}


def test_no_manifest_holds_the_name_of_the_machine(runs):
    records = list(runs["one"].rglob("manifest.json"))
    assert records
    assert not any("tfevents" in path.read_text() for path in records)
