"""The stage ``align`` when there is nothing to train: a published model keeps its projector."""

import json
from pathlib import Path

import pytest
import torch
import vlm_families
from conftest import write_prepared

from textreg.data import mixture
from textreg.data.rows import REQUESTS, read_rows
from textreg.errors import InputError
from textreg.runs import profiles
from textreg.runs.notebooks import source
from textreg.settings import Align, Tune, value_of
from textreg.vlm import assembly
from textreg.vlm.features import open_features
from textreg.vlm.generation import Request, answer

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "02_align.ipynb"


@pytest.fixture
def run(tmp_path):
    """A run whose data are there."""
    request = {"item_id": "1", "split": "validation", "arm": "image", "task": "caption", "language": "en"}
    request |= {"image_id": "image-1", "prompt": "<image>\nDescribe the image.", "reference": '["scenes", "x"]'}
    write_prepared(tmp_path / "run", requests=(REQUESTS, [request]))
    return tmp_path / "run"


def executed(**parameters):
    """The notebook's namespace after all of its code has run with these parameters."""
    cells = [cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"]
    namespace = {"display": print}  # as IPython has it
    for number, cell in enumerate(cells):
        exec(compile(source(cell), f"cell {number}", "exec"), namespace)  # our own notebook
        namespace |= parameters if number == 0 else {}
    return namespace


def test_the_notebook_keeps_the_projector_of_a_published_model_when_it_takes_no_steps(run, tmp_path, tiny_vlm):
    model, processor = tiny_vlm
    model.save_pretrained(tmp_path / "published")
    processor.save_pretrained(tmp_path / "published")
    executed(run=str(run), vlm=str(tmp_path / "published"), steps=0)
    again, _ = assembly.load_aligned(run / "align")
    found = again.model.multi_modal_projector.state_dict()
    assert all(torch.equal(found[name], p) for name, p in model.model.multi_modal_projector.state_dict().items())
    assert assembly.read_base(run / "align").vlm == str(tmp_path / "published")
    assert not (run / "align" / "log.csv").exists()


def test_a_published_model_answers_the_visual_rows_once_and_is_tuned_on_what_it_said(run, tmp_path, monkeypatch):
    vlm_families.FAMILIES["qwen2_5_vl"](tmp_path / "vlm")
    place = tmp_path / "vlm" / "generation_config.json"
    told = json.loads(place.read_text())
    place.write_text(json.dumps(told | {"eos_token_id": list(range(0, 400, 3))}))  # or it would never stop
    settings = {"run": str(run), "scale": "hub", "vlm": str(tmp_path / "vlm")}
    settings |= {"steps": 0, "replay": 4, "batch_size": 5}
    space = executed(**settings)
    rows, _ = mixture.arm_rows(Tune(run=str(run), text="none", steps=2, batch_size=2))
    asked = read_rows(run / "prepare_data" / "visual.parquet").set_index("row_id")
    assert 0 < len(rows) < len(asked)  # some were cut off
    requests = [
        Request(asked.loc[row, "messages"][0]["content"], asked.loc[row, "image_id"]) for row in rows["row_id"]
    ]
    seen = open_features(space["model"], space["processor"], space["images"])
    said = answer(space["model"], space["processor"], requests, seen, max_new_tokens=4)
    assert [turns[1]["content"] for turns in rows["messages"]] == [found.text for found in said]
    assert {found.finish for found in said} == {"stop"} and set(rows["source"]) == {"tiny (replayed)"}
    monkeypatch.setattr(
        "textreg.training.visual_replay.answer", lambda model, processor, requests, *_, **__: requests and 1 / 0
    )
    executed(**settings)


def test_no_steps_without_a_published_model_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"steps = 0 .* vlm"):
        Align(steps=0)
    with pytest.raises(InputError, match=r"steps = 3, but some/vlm is aligned already"):
        Align(steps=3, vlm="some/vlm")
    path = tmp_path / "none.yaml"
    path.write_text("name: none\nscale: scenes\nseed: 0\nalign: {steps: 0}\narms: [{arm: BM, text: none}]\n")
    with pytest.raises(InputError, match=r"none\.yaml.*align.*steps = 0 .* vlm"):
        profiles.check(profiles.load(str(path)))
    with pytest.raises(InputError, match="steps"):
        value_of(Tune, "steps", 0, "tune")
