"""The rooms of the package: what each says of itself, their layers, and the picture of them."""

import ast
from pathlib import Path

import pytest
import rooms_picture

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "textreg"
ROOMS = sorted(path.parent for path in PACKAGE.glob("*/__init__.py"))
#: Imports inside functions keep the command fast or a package optional; more of them hide what depends on what.
MOST_IMPORTS_IN_FUNCTIONS = 60


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: room.name)
def test_a_room_says_what_lives_there_and_imports_nothing_and_every_file_opens_with_its_purpose(room):
    tree = ast.parse((room / "__init__.py").read_text(encoding="utf-8"))
    assert len(tree.body) == 1
    lines = [line for line in (ast.get_docstring(tree) or "").splitlines() if line.strip()]
    assert 5 <= len(lines) <= 15
    without = [p.name for p in room.glob("*.py") if not ast.get_docstring(ast.parse(p.read_text(encoding="utf-8")))]
    assert without == []


def test_the_picture_of_the_rooms_is_that_of_today():
    text = rooms_picture.PAGE.read_text(encoding="utf-8")
    assert rooms_picture.page(text) == text, "run: python tests/rooms_picture.py"


def test_few_imports_stand_inside_functions():
    found = set()
    for path in PACKAGE.rglob("*.py"):
        for function in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                words = ast.walk(function)
                found |= {(path, word.lineno) for word in words if isinstance(word, ast.Import | ast.ImportFrom)}
    assert len(found) <= MOST_IMPORTS_IN_FUNCTIONS


def test_no_data_file_lies_loose_at_the_root_of_the_package():
    assert [path.name for path in PACKAGE.iterdir() if path.is_file() and path.suffix != ".py"] == ["py.typed"]
