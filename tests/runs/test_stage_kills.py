"""The real stages, killed while they work: training, merging, answering, measuring and drawing end as if they had not.

The notebooks of the repository are executed cell by cell at miniature size, once without a kill and once with one or
two kills in every stage, each soon after a file appears that the stage has still to go on from.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from textreg.files import HashCache

ROOT = Path(__file__).parents[2]
PROFILE = """
name: killed
scale: scenes
seed: 5
prepare_data:
  languages: [en, es]
  text_languages: [es]
  held_out: []
  align_rows: 8
  visual_rows: 8
  text_rows: 8
  validation_images: 2
  test_images: 3
align: {steps: 6, batch_size: 4, threads: 1, checkpoint_steps: 1}
tune: {steps: 6, batch_size: 4, log_steps: 1, threads: 1, checkpoint_steps: 1}
merge: {lambdas: [0.5, 1.0], threads: 1, max_new_tokens: 8}
evaluate:
  systems: [TR, TR+M]
  frontier_lambdas: []
  arms: [image, text]
  max_new_tokens: 8
  bootstrap: 20
  workers: 1
  threads: 1
mechanism: {arms: [TR], threads: 1, probe_images: 4, max_new_tokens: 8}
arms:
  - {arm: TR, merge: true}
"""
#: Unit -> a file whose appearance is followed by a kill; one attempt after another.
KILLS = {
    "align": ["checkpoints/checkpoint-*"],
    "tune[TR]": ["checkpoints/checkpoint-3", "adapter/*"],
    "merge[TR]": ["parts/[!.]*", "model/*.safetensors"],
    "evaluate": ["parts/[!.]*"],
    "figures": ["*.svg"],
    "mechanism": ["*.csv"],
}
#: What tells how fast it went.
RECORDS = {"log.csv"}


def start(folder, kills):
    folder.mkdir()
    (folder / "killed.yaml").write_text(PROFILE)
    job = {"profile": str(folder / "killed.yaml"), "root": str(ROOT), "notebooks": str(ROOT / "notebooks")}
    job |= {"folder": str(folder), "kills": kills, "seed": 1, "pause_s": 0.02}
    (folder / "job.json").write_text(json.dumps(job))
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONHASHSEED": "0"}
    command = [sys.executable, str(Path(__file__).parents[1] / "kill_script.py"), str(folder / "job.json")]
    return subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def results(run):
    found = HashCache().folder(run)
    return {path: value for path, value in found.items() if Path(path).name not in RECORDS}


@pytest.mark.timeout(600)
def test_stages_that_were_killed_end_with_the_files_of_an_uninterrupted_run(tmp_path):
    started = {name: start(tmp_path / name, kills) for name, kills in (("whole", {}), ("killed", KILLS))}
    ended = {}
    for name, process in started.items():
        said, problems = process.communicate()
        assert process.returncode == 0, problems[-2000:]
        ended[name] = [json.loads(line) for line in said.splitlines() if line.startswith("[")]
    hits = [(unit, pattern) for unit, pattern, hit in ended["killed"] if hit]
    assert {unit for unit, _ in hits} >= {"align", "tune[TR]", "merge[TR]", "evaluate"}
    assert len(hits) >= 5, ended["killed"]
    whole, killed = (results(tmp_path / name / "run") for name in ("whole", "killed"))
    assert whole.keys() == killed.keys()
    assert [path for path, value in whole.items() if killed[path] != value] == []
