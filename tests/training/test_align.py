"""The stage ``align`` when there is nothing to train: a published model keeps its projector."""

import json
from pathlib import Path

import pytest
import torch
from conftest import image_table, row_table

from textreg.data.rows import IMAGES, REQUESTS, ROWS, RowWriter
from textreg.errors import InputError
from textreg.runs import profiles
from textreg.runs.notebooks import source
from textreg.settings import Align, Tune, value_of
from textreg.vlm import assembly

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "02_align.ipynb"


@pytest.fixture
def run(tmp_path):
    """A run whose data are there."""
    rows = [row | {"source": "tiny", "task": "caption", "language": "en"} for row in row_table().to_dict("records")]
    request = {"item_id": "1", "split": "validation", "arm": "image", "task": "caption", "language": "en"}
    request |= {"image_id": "image-1", "prompt": "<image>\nDescribe the image.", "reference": '["scenes", "x"]'}
    images = [
        {"image_id": name, "image": {"bytes": data, "path": None}} for name, data in image_table().encoded.items()
    ]
    tables = {
        "align": (ROWS, [row for row in rows if isinstance(row["image_id"], str)]),
        "images": (IMAGES, [image | {"split": "train", "scene": None} for image in images]),
        "requests": (REQUESTS, [request]),
    }
    for name, (schema, content) in tables.items():
        with RowWriter(tmp_path / "run" / "prepare_data" / f"{name}.parquet", schema) as writer:
            writer.write_many(content)
    return tmp_path / "run"


def executed(**parameters):
    """The notebook's namespace after all of its code has run with these parameters."""
    cells = [cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"]
    namespace = {}
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


def test_the_notebook_trains_when_it_takes_steps(run, tiny_llm, tiny_tower):
    namespace = executed(run=str(run), llm=str(tiny_llm), tower=str(tiny_tower), steps=2, batch_size=4)
    assert namespace["log"].steps == 2 and (run / "align" / "log.csv").exists()


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
