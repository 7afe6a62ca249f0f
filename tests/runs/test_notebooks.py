"""Notebook files: those of the book are fit to be committed; executed ones are cleaned."""

import ast
import copy
import json
import re
from dataclasses import asdict
from pathlib import Path

import pytest
import tiny_chain

from textreg.errors import InputError
from textreg.runs import notebooks
from textreg.runs.notebooks import Failure
from textreg.settings import stage_classes

MOST_LINES = 25  # of a cell
MACHINE_PATH = re.compile(r"/home/|/Users/|/root/|/tmp/|/mnt/|/opt/|/var/|[A-Z]:\\{1,2}Users")
SOURCES = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_every_notebook_of_the_book_is_fit_to_be_committed(path):
    """Its first code cell holds the defaults of its stage; no outputs, no machine paths, no long cell."""
    content = notebooks.read(path)
    assert content["nbformat"] == 4 and content["metadata"]["kernelspec"]["name"] == "python3"
    defaults, given = asdict(stage_classes()[path.stem.partition("_")[2]]()), notebooks.parameters(path)
    assert [(name, type(given[name]), given[name]) for name in sorted(given)] == [
        (name, type(defaults[name]), defaults[name]) for name in sorted(defaults)
    ]
    first, *cells = (cell for cell in content["cells"] if cell["cell_type"] == "code")
    assert "parameters" in first["metadata"]["tags"]
    assert not [cell for cell in content["cells"] if MACHINE_PATH.search(notebooks.source(cell))]
    assert not [cell for cell in (first, *cells) if cell["outputs"] or cell["execution_count"] is not None]
    texts = [notebooks.source(cell) for cell in cells]
    assert [text for text in texts if len(text.splitlines()) > MOST_LINES] == []
    for text in texts:
        ast.parse(re.sub(r"(?m)^\s*[%!].*$", "", text))


def _parameters(content):
    return content["cells"][1]


DEFECTS = {
    "no_parameters_tag": (lambda nb: _parameters(nb)["metadata"].clear(), "0 code cells are tagged"),
    "two_parameters_cells": (lambda nb: nb["cells"].append(copy.deepcopy(_parameters(nb))), "2 code cells are tagged"),
    "parameter_missing": (lambda nb: _edit(nb, "results = ''", "pass_ = 0"), "lacks results and has unknown pass_"),
    "parameter_computed": (lambda nb: _edit(nb, "seed = 0", "seed = int('0')"), "is no literal"),
    "parameter_in_loop": (lambda nb: _edit(nb, "seed = 0", "for seed in [0]: pass"), "is no plain assignment"),
    "parameters_broken": (lambda nb: _edit(nb, "seed = 0", "seed = ("), "not valid Python"),
}


def _edit(content, old, new):
    cell = _parameters(content)
    assert old in cell["source"]
    cell["source"] = cell["source"].replace(old, new)


@pytest.mark.parametrize("defect", DEFECTS)
def test_a_notebook_that_cannot_be_given_its_settings_is_refused_by_name(tmp_path, defect):
    spoil, expected = DEFECTS[defect]
    content = tiny_chain.notebook("figures", "print(1)")
    spoil(content)
    path = tmp_path / "06_figures.ipynb"
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=f"06_figures.*{expected}"):
        notebooks.require_parameters(path, stage_classes()["figures"]())


def test_a_value_with_an_equals_sign_is_read_whole(tmp_path):
    path = tmp_path / "06_figures.ipynb"
    content = tiny_chain.notebook("figures")
    _edit(content, "results = ''", "results = 'a=b'  # why = not")
    path.write_text(json.dumps(content))
    assert notebooks.parameters(path)["results"] == "a=b"


def executed(*outputs, count=1):
    cells = [{"cell_type": "code", "source": "x", "metadata": {}, "execution_count": count, "outputs": list(outputs)}]
    return {"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}


def error(name, value=""):
    return {"output_type": "error", "ename": name, "evalue": value, "traceback": []}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (executed(), None),
        (executed(count=None), Failure("cell 1 did not run", 1)),
        (executed(error("ValueError", "bad\nvalue")), Failure("cell 1 raised ValueError: bad value", 1)),
        (executed(error("InputError", "x is wrong")), Failure("x is wrong (cell 1)", 1, user=True)),
        (executed(error("RunError", "it diverged")), Failure("it diverged (cell 1)", 1)),
        (
            executed(error("SystemExit", "0")),
            Failure("cell 1 left the notebook by sys.exit(0); the rest did not run", 1),
        ),
    ],
)
def test_an_executed_notebook_tells_whether_and_why_it_failed(content, expected):
    assert notebooks.unfinished(content) == expected


def test_cells_are_counted_as_in_the_source_without_papermills_injected_one():
    content = executed(error("ValueError", "bad"))
    injected = {**executed()["cells"][0], "metadata": {"tags": ["injected-parameters"]}}
    content["cells"] = [{"cell_type": "markdown", "source": "# a", "metadata": {}}, injected, *content["cells"]]
    assert notebooks.unfinished(content).cell == 1
    assert notebooks.cell_number(content, 2) == 1


def test_a_published_notebook_holds_no_machine_path_and_no_secret(tmp_path):
    run = tmp_path / "runs" / "x"
    run.mkdir(parents=True)
    text = f"{run}/a {Path.home()}/b s3cr3t-value-1"
    content = executed({"output_type": "stream", "name": "stdout", "text": [text]})
    content["metadata"] = {"papermill": {"input_path": str(run), "output_path": str(run), "duration": 1.0}}
    part, final = run / ".part.ipynb", run / "final.ipynb"
    part.write_text(json.dumps(content))
    places = notebooks.machine_places(run, "runs/x")
    notebooks.publish(part, final, places, environment={"MY_API_KEY": "s3cr3t-value-1", "PATH": "/bin"})
    shown = final.read_text()
    assert "runs/x/a ~/b [secret]" in shown
    assert str(run) not in shown
    assert json.loads(shown)["metadata"]["papermill"] == {"duration": 1.0}
    assert not part.exists()


SECRETS = {  # an environment variable -> what of it is secret
    "OPENAI_API_KEY=abcdefgh12345678": ["abcdefgh12345678"],
    "DB_PASS=abcdefgh12345678": ["abcdefgh12345678"],
    "SENTRY_DSN=https://abcdefgh@host/1": ["https://abcdefgh@host/1"],
    "HTTPS_PROXY=http://me:abcdefgh12345678@proxy:80": ["me:abcdefgh12345678", "abcdefgh12345678"],
    "DATABASE_URL=postgres://me:abcdefgh@host/x": ["me:abcdefgh", "abcdefgh"],
    "PATH=/usr/local/bin:/usr/bin": [],
    "GIT_AUTHOR_NAME=Somebody Else": [],
    "XAUTHORITY=/home/me/.Xauthority": [],
    "SSH_AUTH_SOCK=/run/user/1000/agent": [],
    "COMPASS=north-north-east": [],
    "API_KEY=short": [],
}


@pytest.mark.parametrize("variable", SECRETS)
def test_what_the_environment_keeps_secret_is_known_by_its_name_or_its_place_in_an_address(variable):
    name, _, value = variable.partition("=")
    assert notebooks.secrets({name: value}) == SECRETS[variable]


def test_a_secret_that_holds_another_is_blotted_whole():
    hidden = notebooks.secrets({"A_KEY": "abcdefgh", "B_KEY": "abcdefgh-and-more"})
    assert notebooks.blotted("x abcdefgh-and-more y abcdefgh", hidden) == "x [secret] y [secret]"


def test_a_picture_is_not_touched_by_the_cleaning():
    picture = "iVBORw0KGgo" + "A" * 4000
    assert notebooks.cleaned({"image/png": picture}, [("A", "B")], []) == {"image/png": picture}


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"cells": 1}', '{"cells": [{"cell_type": "code"}]}'])
def test_a_damaged_notebook_is_named(tmp_path, text):
    path = tmp_path / "03_tune.ipynb"
    path.write_text(text)
    with pytest.raises(InputError, match=r"03_tune\.ipynb is damaged"):
        notebooks.read(path)
