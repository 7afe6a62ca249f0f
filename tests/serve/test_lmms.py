"""The tasks of lmms-eval: read as lmms-eval reads them, without it."""

import importlib.util

import hub_folders
import pytest
import yaml
from typer.testing import CliRunner

from textreg.errors import InputError
from textreg.serve import lmms

DOC = {"image_id": "img7", "captions": ["Ein rotes Haus steht am Fluss."], "image": {"bytes": hub_folders.png(3)}}


@pytest.fixture
def tasks(tmp_path):
    """Task name -> its file with its functions imported: a function is the module beside the file, and a name."""
    lmms.write(tmp_path / "tasks", ["de", "fr"])

    class Loader(yaml.SafeLoader):
        pass

    def function(loader, node):
        module, name = loader.construct_scalar(node).split(".")
        spec = importlib.util.spec_from_file_location(module, tmp_path / "tasks" / f"{module}.py")
        loaded = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(loaded)
        return getattr(loaded, name)

    Loader.add_constructor("!function", function)
    files = sorted((tmp_path / "tasks").glob("*.yaml"))
    return {path.stem: yaml.load(path.read_text("utf-8"), Loader) for path in files}


def test_a_group_names_a_task_with_the_picture_and_one_with_the_caption_per_language(tasks):
    names = [f"crossmodal_fidelity_{code}{arm}" for code in ("de", "fr") for arm in ("", "_text")]
    assert tasks.pop("crossmodal_fidelity") == {"group": "crossmodal_fidelity", "task": names}
    for name, task in tasks.items():
        assert task["task"] == name and task["test_split"] in name and task["output_type"] == "generate_until"
        assert {"dataset_path", "generation_kwargs", "metadata"} <= task.keys()
        named = [task[key] for key in ("doc_to_visual", "doc_to_text", "doc_to_target", "process_results")]
        assert all(map(callable, named))
        scores = task["process_results"](DOC, ["Ein kleines Haus mit rotem Dach steht an einem breiten Fluss."])
        assert scores.keys() == {metric["metric"] for metric in task["metric_list"]}


def test_both_tasks_ask_in_the_same_words_and_one_shows_the_picture(tasks):
    shown, told = tasks["crossmodal_fidelity_de"], tasks["crossmodal_fidelity_de_text"]
    (picture,) = shown["doc_to_visual"](DOC)
    assert picture.mode == "RGB" and told["doc_to_visual"](DOC) == []
    assert told["doc_to_text"](DOC) == f"{DOC['captions'][0]}\n{shown['doc_to_text'](DOC)}"
    assert shown["doc_to_text"](DOC) != tasks["crossmodal_fidelity_fr"]["doc_to_text"](DOC)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("Ein kleines Haus mit rotem Dach steht an einem breiten Fluss.", {"lf": 1.0, "english": 0.0, "scored": 1.0}),
        ("A small house with a red roof stands by a wide river.", {"lf": 0.0, "english": 1.0, "scored": 1.0}),
        ("", {"lf": 0.0, "english": 0.0, "scored": 1.0}),
    ],
)
def test_an_answer_is_scored_as_everywhere_else(tasks, answer, expected):
    assert tasks["crossmodal_fidelity_de"]["process_results"](DOC, [answer]) == expected


def test_an_unknown_language_and_a_folder_that_holds_something_are_refused(tmp_path):
    with pytest.raises(InputError, match="no language 'xx'"):
        lmms.write(tmp_path / "new", ["xx"])
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="is not an empty folder"):
        lmms.write(tmp_path, ["de"])


def test_the_command_writes_what_it_is_asked_for(tmp_path):
    import typer

    app = typer.Typer()
    app.command()(lmms.main)
    done = CliRunner().invoke(app, [str(tmp_path / "tasks"), "--languages", "de, ja"])
    assert done.exit_code == 0 and "7 files" in done.stdout
    assert CliRunner().invoke(app, [str(tmp_path / "tasks")]).exit_code == 2
