"""The cure of one's own model, by the commands of the book alone: on a published model's folder and folders with the
hub's files and columns.

The commands are those of ``textreg``, in forks of the test process that execute the cells of the notebooks themselves:
kernels are the same at every scale, and would take most of the time.
"""

import json
import os
import re
import shlex
import sys
from pathlib import Path

import forks
import hub_folders
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny_chain
import vlm_families

from textreg.cli import app

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "book" / "cure.md"
SMALL = {
    "prepare_data.languages": "en,es,de",
    "prepare_data.text_languages": "es,ar",
    "prepare_data.visual_rows": 8,
    "prepare_data.text_rows": 6,
    "prepare_data.validation_images": 2,
    "prepare_data.test_images": 2,
    "validation_questions": 9,
    "test_questions": 6,
    "align.replay": 12,
    "align.batch_size": 4,
    "tune.steps": 3,
    "tune.batch_size": 4,
    "tune.rank": 2,
    "tune.alpha": 4,
    "tune.max_length": 400,
    "tune.workers": 0,
    "threads": 1,
    "identifier": "py3langid",
    "max_new_tokens": 12,
    "merge.lambdas": "0,0.5,1",
    "bootstrap": 20,
}


def commands(heading: str) -> list[list[str]]:
    """The words of each ``textreg`` command below a heading of the page."""
    section = re.split(r"^## ", PAGE.read_text("utf-8"), flags=re.MULTILINE)
    (text,) = [part for part in section if part.startswith(heading)]
    return [shlex.split(line, comments=True) for line in text.splitlines() if line.startswith("textreg ")]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """A published model's folder, and one per data set that the profile names."""
    root = tmp_path_factory.mktemp("data")
    vlm_families.FAMILIES["qwen2_5_vl"](root / "vlm")
    place = root / "vlm" / "generation_config.json"
    told = json.loads(place.read_text())
    place.write_text(json.dumps(told | {"eos_token_id": list(range(0, 400, 4))}))  # random weights never stop
    hub_folders.onevision(root / "visual_data")
    hub_folders.aya(root / "text_data")
    hub_folders.crossmodal(root / "evaluation_data", ("en", "es", "de"), 6)
    picture = [{"bytes": hub_folders.png(number // 3), "path": None} for number in range(24)]
    rows = [{"question": f"Is it {number}?", "answer": "yes", "image": shown} for number, shown in enumerate(picture)]
    (root / "visual_check" / "data").mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows), root / "visual_check" / "data" / "test-0.parquet")
    return root


def shell(words: list[str], data: Path, folder: Path) -> str:
    """A command of the page with the folders in place of what it names, and small sizes."""
    words = [word.replace("NAME_OR_FOLDER", str(data / "vlm")).replace("runs/cure", "run") for word in words]
    if words[1] == "run":
        words += ["--run", "run"]
        sources = {f"prepare_data.{path.name}": path for path in sorted(data.iterdir()) if path.name != "vlm"}
        words += [word for key, value in (SMALL | sources).items() for word in ("-p", f"{key}={value}")]

    def work() -> None:
        tiny_chain.in_process()
        os.chdir(folder)
        os.environ |= {"HF_HUB_OFFLINE": "1", "COLUMNS": "200"}
        with (folder / "said.txt").open("w", encoding="utf-8") as sys.stdout:
            app(words[1:], standalone_mode=False)

    code = forks.ended(work)
    said = (folder / "said.txt").read_text("utf-8")
    assert code == 0, said[-2000:]
    return said


@pytest.mark.slow
def test_the_commands_of_the_page_cure_a_published_model(data, tmp_path):
    dry, whole, export = commands("Three commands")
    told = shell(dry, data, tmp_path)
    assert "41,712 in bf16" in told and "prepare_data  missing" in told and not (tmp_path / "run").exists()
    shell(whole, data, tmp_path)
    run = tmp_path / "run"
    assert not (run / "prepare_data" / "align.parquet").exists()
    shown = pd.read_csv(run / "tune" / "TR" / "shown.csv")
    assert set(shown.loc[shown["image"], "source"]) == {"visual_data (replayed)"}
    assert set(shown.loc[~shown["image"], "language"]) == {"es", "ar"}
    checked = pd.read_csv(run / "merge" / "TR+M" / "regression.csv")
    assert checked["lambda"].tolist() == [0.0, 0.5, 1.0] and set(checked["n"]) == {9}
    captions = pd.read_csv(run / "evaluate" / "captions.csv")
    assert set(captions["system"]) == {"backbone", "TR", "TR+M"} and captions["cut"].between(0, 1).all()
    shell(export, data, tmp_path)
    folder = tmp_path / "my-model"
    card = (folder / "README.md").read_text("utf-8")
    assert "| lf_before | lf |" in card and "| question | 6 |" in card and "visual_data (replayed)" in card
    config = json.loads((folder / "config.json").read_text())
    assert config["model_type"] == "qwen2_5_vl" and (folder / "preprocessor_config.json").exists()
    assert any(folder.glob("*.safetensors"))
