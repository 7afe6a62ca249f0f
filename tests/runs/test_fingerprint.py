"""Fingerprints: what counts as a change of code, and what does not."""

import ast
import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from textreg import files
from textreg.errors import InputError
from textreg.runs import fingerprint, identity

NOTEBOOK = "from pack import models\n\nresult = models.fit(3)"
MODELS = '''"""Models."""

from pack.steps import advance

RATE = 0.5
UNUSED = 1


def fit(steps):
    """Fit it."""
    # one step at a time
    return [advance(step, RATE) for step in range(steps)]


def never_called(x):
    return x


if __name__ == "__main__":
    print(fit(2))
'''
STEPS = '''"""Steps."""

from pathlib import Path


def advance(step, rate):
    return step * rate + offset()


def offset():
    return len((Path(__file__).parent / "tables" / "words.yaml").read_text())
'''


@pytest.fixture
def package(tmp_path):
    folder = tmp_path / "pack"
    (folder / "tables").mkdir(parents=True)
    (folder / "__init__.py").write_text('"""Pack."""\n')
    (folder / "models.py").write_text(MODELS)
    (folder / "steps.py").write_text(STEPS)
    (folder / "other.py").write_text("def other():\n    return 1\n")
    (folder / "tables" / "words.yaml").write_text("# words\na: 1\n")
    (folder / "notes.txt").write_text("claimed by nobody")
    return folder


def write(path, *cells):
    path.write_text(json.dumps({"cells": list(cells), "nbformat": 4, "nbformat_minor": 5, "metadata": {}}))
    return path


def code_cell(text, tag=None, **more):
    return {"cell_type": "code", "source": text, "metadata": {"tags": [tag]} if tag else {}, "outputs": [], **more}


def print_of(package, *cells):
    path = write(package.parent / "01_x.ipynb", *(cells or (code_cell(NOTEBOOK),)))
    return fingerprint.code(path, package)


def edited(package, name, old, new):
    path = package / name
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    fingerprint._read.cache_clear()
    files._content.cache_clear()


def test_what_is_known_of_the_code_is_asked_for_anew_when_a_file_or_the_notebook_was_written(package, tmp_path):
    path, cache = write(package.parent / "01_x.ipynb", code_cell(NOTEBOOK)), files.HashCache(tmp_path / "hashes.json")
    asked = []

    def known():
        return cache.kept(
            "x", fingerprint.stamp(path, package), lambda: asked.append(1) or fingerprint.code(path, package)
        )

    first = known()
    cache.save()
    cache = files.HashCache(tmp_path / "hashes.json")
    assert known() == first and len(asked) == 1
    edited(package, "steps.py", "step * rate", "step + rate")
    assert known() != first and len(asked) == 2
    (package / "tables" / "more.yaml").write_text("b: 1")
    assert known() and len(asked) == 3


def test_the_print_names_the_notebook_the_definitions_it_reaches_and_their_data(package):
    assert set(print_of(package)) == {"01_x.ipynb", "fit", "RATE", "advance", "offset", "data tables"}


NOTHING = {
    "a comment": ("models.py", "# one step at a time", "# step by step"),
    "a docstring": ("models.py", '"""Fit it."""', '"""Fit the model."""'),
    "the module's docstring": ("models.py", '"""Models."""', '"""All models."""'),
    "blank lines": ("models.py", "RATE = 0.5\n", "RATE = 0.5\n\n\n"),
    "other quotes": ("steps.py", '"words.yaml"', "'words.yaml'"),
    "a function nobody calls": ("models.py", "return x", "return x + 1"),
    "a constant nobody uses": ("models.py", "UNUSED = 1", "UNUSED = 2"),
    "a new import nobody uses": ("models.py", "RATE = 0.5", "from pack import other\nRATE = 0.5"),
    "what runs as a script only": ("models.py", "print(fit(2))", "print(fit(3))"),
    "a module nobody imports": ("other.py", "return 1", "return 2"),
    "a comment in a data file": ("tables/words.yaml", "# words", "# all words"),
    "the annotation of an argument": ("models.py", "def fit(steps)", "def fit(steps: int) -> list"),
    "a file nobody claims": ("notes.txt", "claimed", "still claimed"),
}


@pytest.mark.parametrize("case", NOTHING)
def test_what_changes_no_result_invalidates_nothing(package, case):
    before = print_of(package)
    edited(package, *NOTHING[case])
    assert print_of(package) == before


CHANGES = {
    "the called function": ("models.py", "range(steps)", "range(steps + 1)", "fit"),
    "a constant it uses": ("models.py", "RATE = 0.5", "RATE = 0.25", "RATE"),
    "a function it reaches": ("steps.py", "step * rate", "step + rate", "advance"),
    "a function further on": ("steps.py", "return len", "return 1 + len", "offset"),
    "a default": ("models.py", "def fit(steps)", "def fit(steps=1)", "fit"),
    "a decorator": ("models.py", "def fit", "@register\ndef fit", "fit"),
    "a statement at import": ("models.py", "RATE = 0.5", "print(1)\nRATE = 0.5", "import of pack.models"),
    "a value in a data file": ("tables/words.yaml", "a: 1", "a: 2", "data tables"),
}


@pytest.mark.parametrize("case", CHANGES)
def test_what_may_change_a_result_changes_the_print_of_its_definition_alone(package, case):
    before = print_of(package)
    *edit, part = CHANGES[case]
    edited(package, *edit)
    after = print_of(package)
    assert {key for key in before | after if before.get(key) != after.get(key)} == {part}


def test_a_new_data_file_in_a_claimed_folder_counts_and_what_python_compiles_beside_a_module_does_not(package):
    edited(package, "steps.py", "def offset():", 'def offset():\n    assert "__pycache__"')
    before = print_of(package)
    (package / "__pycache__").mkdir()
    assert print_of(package) == before
    (package / "tables" / "more.yaml").write_text("b: 1")
    assert print_of(package)["data tables"] != before["data tables"]


@pytest.mark.parametrize(
    ("cells", "same"),
    [
        (({"cell_type": "markdown", "source": "# Prose", "metadata": {}}, code_cell(NOTEBOOK)), True),
        ((code_cell("seed = 1", "parameters"), code_cell(NOTEBOOK)), True),
        ((code_cell(NOTEBOOK + "  # a comment", execution_count=4),), True),
        ((code_cell(NOTEBOOK.split("\n\n")[0]), code_cell(NOTEBOOK.split("\n\n")[1])), True),
        ((code_cell(NOTEBOOK.replace("3", "4")),), False),
        ((code_cell("%matplotlib inline\n" + NOTEBOOK),), False),
    ],
)
def test_only_code_cells_count_and_only_their_meaning(package, cells, same):
    name = "01_x.ipynb"
    assert (print_of(package, *cells)[name] == print_of(package)[name]) is same


WHOLE = {
    "a name looked up at run time": ("return globals()['never' + '_called'](1) or", ("models.py", "x", "x + 1")),
    "a module that is handed on": (
        "from pack import other\n    return getattr(other, 'n' + 'o') or",
        ("other.py", "1", "2"),
    ),
}


@pytest.mark.parametrize("case", WHOLE)
def test_a_module_counts_whole_where_nobody_can_say_what_of_it_is_used(package, case):
    new, (name, old, other) = WHOLE[case]
    edited(package, "models.py", "return [advance", f"{new} [advance")
    before = print_of(package)
    edited(package, name, f"return {old}", f"return {other}")
    assert print_of(package) != before


def test_a_name_counts_only_in_the_module_it_comes_from(package):
    edited(package, "other.py", "def other", "def offset():\n    return 2\n\n\ndef other")
    edited(package, "models.py", "RATE = 0.5", "from pack.other import other\n\nRATE = 0.5 + other()")
    before = print_of(package)
    edited(package, "other.py", "return 2", "return 3")
    assert print_of(package) == before


def test_a_definition_may_move_and_be_reached_through_its_module(package):
    before = print_of(package)
    (package / "rooms").mkdir()
    (package / "rooms" / "__init__.py").write_text("")
    shutil.move(package / "steps.py", package / "rooms" / "steps.py")
    shutil.move(package / "tables", package / "rooms" / "tables")
    edited(package, "models.py", "from pack.steps import advance", "from pack.rooms import steps")
    edited(package, "models.py", "[advance(", "[steps.advance(")
    after = print_of(package)
    assert after.pop("data rooms/tables") == before.pop("data tables")
    assert after == before


def test_a_module_named_in_a_string_counts_because_workers_are_started_that_way(package):
    assert "other" in print_of(package, code_cell('command = ["python", "-m", "pack.other"]\nother'))


def test_what_only_shows_counts_where_drawings_are_made(package):
    (package / "figures").mkdir()
    (package / "figures" / "__init__.py").write_text("")
    (package / "figures" / "bars.py").write_text("def draw(x):\n    return x\n")
    path = write(package.parent / "01_x.ipynb", code_cell(NOTEBOOK), code_cell("from pack.figures import bars"))
    plain = fingerprint.code(path, package)
    write(path, code_cell(NOTEBOOK), code_cell("from pack.figures import bars\nbars.draw(result)"))
    assert fingerprint.code(path, package) == plain
    assert set(fingerprint.code(path, package, drawing=True)) == {*plain, "draw"}


def test_a_module_is_parsed_once_however_many_notebooks_reach_it(package, monkeypatch):
    parsed, parse = [], ast.parse
    monkeypatch.setattr(ast, "parse", lambda source, *rest: parsed.append(source) or parse(source, *rest))
    for _ in range(3):
        print_of(package)
    counted = [parsed.count(path.read_text("utf-8")) for path in package.rglob("*.py")]
    assert sum(counted) > 1 and max(counted) == 1


def test_code_that_is_no_python_is_named_with_its_line(package):
    with pytest.raises(InputError, match="line 2"):
        print_of(package, code_cell("a = 1\nb ="))


names = st.sampled_from(["a", "b", "c"])
values = st.one_of(st.integers(), st.floats(allow_nan=False), st.text(max_size=5), st.none(), st.booleans())


@settings(max_examples=60, deadline=None)
@given(names, values, names, values)
def test_two_programs_render_alike_exactly_when_they_are_the_same_tree(name, value, other, second):
    one, two = f"{name} = {value!r}", f"{other} = {second!r}"
    same = ast.dump(ast.parse(one)) == ast.dump(ast.parse(two))
    assert (fingerprint.rendered(ast.parse(one)) == fingerprint.rendered(ast.parse(two))) is same


ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def prints(package, scale="scenes"):
    """Notebook -> its print, as the stages' identities hold it at a scale."""
    without = identity.OTHER_SCALES[scale]
    return {
        path.name: fingerprint.code(path, package, drawing=path.name in identity.DRAWING, without=without)
        for path in NOTEBOOKS
    }


@pytest.fixture(scope="module")
def copied(tmp_path_factory):
    """A copy of this package, and its prints."""
    folder = tmp_path_factory.mktemp("copy") / "textreg"
    shutil.copytree(fingerprint.PACKAGE, folder, ignore=shutil.ignore_patterns("__pycache__"))
    return folder, prints(folder)


MOVED = {  # what is changed in a room -> the notebooks whose results no longer stand
    "a label of a figure": ("figures/per_language.py", "share of answers (%)", "answers (%)", {"06_figures.ipynb"}),
    "the style of all figures": (
        "figures/textreg.mplstyle",
        "font",
        "# font",
        {"06_figures.ipynb", "07_mechanism.ipynb"},
    ),
    "the card of a model": ("vlm/card.py", "whole picture", "entire picture", set()),
    "the template of the card": ("vlm/modelcard.md.jinja", "language", "tongue", set()),
    "how a model judges": ("fidelity/prompts/judge_user.jinja", "answer", "reply", {"05_evaluate.ipynb"}),
    "the mean of a loss": ("training/learner.py", "reduction", "reduktion", {"02_align.ipynb", "03_tune.ipynb"}),
}


@pytest.mark.parametrize("case", MOVED)
def test_a_change_in_a_room_makes_stale_what_computes_with_it_and_nothing_else(copied, case):
    (package, before), (name, old, new, stale) = copied, MOVED[case]
    text = (package / name).read_text()
    assert old in text
    (package / name).write_text(text.replace(old, new))
    after = prints(package)
    (package / name).write_text(text)
    assert {notebook for notebook in before if before[notebook] != after[notebook]} == stale


def test_work_on_one_scale_leaves_the_results_of_the_others_be(copied):
    package, _ = copied
    changed = {"pictures/rows.py": "LONGEST = 4", "data/sources.py": "class Source", "scenes/grammar.py": "def parse"}
    stale = {}
    for name, old in changed.items():
        text = (package / name).read_text()
        before = {scale: prints(package, scale) for scale in identity.OTHER_SCALES}
        assert old in text
        (package / name).write_text(text.replace(old, f"{old}_5" if "=" not in old else "LONGEST = 5"))
        stale[name] = {scale for scale in before if prints(package, scale) != before[scale]}
        (package / name).write_text(text)
    assert stale == {
        "pictures/rows.py": {"pictures"},
        "data/sources.py": {"hub"},
        "scenes/grammar.py": {
            "scenes",
            "pictures",
            "hub",
        },  # figures mark words with it, the exact judge reads with it
    }


def test_every_data_file_of_the_package_is_claimed_by_the_room_that_reads_it():
    package = fingerprint.PACKAGE
    data = {path for path in package.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc", ".typed")}
    claimed = set()
    for path in package.rglob("*.py"):
        module = ".".join([package.name, *path.relative_to(package).with_suffix("").parts]).removesuffix(".__init__")
        claimed |= {entry for part in fingerprint.module_parts(module) for entry in part.data}
    assert not {path for path in data if not claimed & {path, *path.parents}}
