"""What pages show runs: Python as it stands, commands by the programs that read them, solutions like all the rest."""

import importlib.util
import json
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import typer.main

from textreg.cli import app
from textreg.runs import notebooks

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("0*.ipynb"))
PAGES = [*sorted((ROOT / "book").glob("*.md")), ROOT / "README.md", ROOT / "CONTRIBUTING.md", *NOTEBOOKS]
CHAPTERS = (
    *("results", "answers", "method", "scenes", "measures", "real_models", "studies", "pictures", "run", "own_vlm"),
    *("cure", "language"),
)
COMMANDS = typer.main.get_command(app).commands
#: Programs of others: of these only what they are told about this repository is looked at.
FOREIGN = ("git", "conda", "uv", "pip", "pre-commit", "vllm", "lmms-eval", "srun", "sbatch")
RUN = ("score", "run")  # what takes seconds on small files


def text_of(page):
    """The Markdown of a page or of a notebook."""
    if page.suffix == ".md":
        return page.read_text()
    cells = json.loads(page.read_text())["cells"]
    return "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")


def blocks(page, *languages):
    """Code blocks of a page, wherever they are indented: (language, text)."""
    found = re.findall(r"^( *)```(\w+)\n(.*?)^\1```$", text_of(page), re.DOTALL | re.MULTILINE)
    return [(language, re.sub(r"^ {3}", "", text, flags=re.M) if indent else text)
            for indent, language, text in found if language in languages]  # fmt: skip


def commands(text):
    """The commands of a block: lines joined where they go on, comments left out."""
    split = (shlex.split(line, comments=True) for line in text.replace("\\\n", " ").splitlines())
    return [words for words in split if words and "=" not in words[0]]  # a variable of the shell is none


def lines(page):
    """Commands of the blocks of a page, and those in a sentence, whose brackets may be left out."""
    yield from (words for _, text in blocks(page, "bash", "sh") for words in commands(text))
    for found in re.findall(r"`((?:textreg|make) [a-z][^`\n]*)`", text_of(page)):
        yield shlex.split(re.sub(r"[\[\]]", "", found.replace("\\", "")))


SHOWN = {f"{page.stem}: {shlex.join(words)}": words for page in PAGES for words in lines(page)}


@pytest.mark.parametrize("name", SHOWN)
def test_every_command_shown_is_one_that_its_program_takes(name):
    program, *rest = SHOWN[name]
    if program == "textreg":
        assert rest[0] in COMMANDS
        if rest[1:]:  # else its name alone
            COMMANDS[rest[0]].make_context(rest[0], rest[1:])
    elif program == "make":
        done = subprocess.run(["make", "-n", *rest], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    elif program == "papermill":
        given = [rest[place + 1] for place, word in enumerate(rest) if word == "-p"]
        assert set(given) <= set(notebooks.parameters(ROOT / rest[0]))
    elif program in ("python", "torchrun", "accelerate"):
        _check_python(rest)
    elif program == "pytest":
        assert all((ROOT / path).exists() for path in rest if not path.startswith("-"))
    else:
        assert program.split("/")[-1] in FOREIGN


def _check_python(rest):
    """A module that exists, a script that exists, or a line of code that runs."""
    if "-m" in rest:
        assert importlib.util.find_spec(rest[rest.index("-m") + 1])
    elif rest[0] == "-c":
        exec(rest[1], {})
    else:
        assert (ROOT / rest[0]).is_file()


@pytest.mark.parametrize(
    "page",
    [pytest.param(path, marks=pytest.mark.slow if path.stem == "05_evaluate" else ())  # it scores a run's answers
     for path in PAGES if blocks(path, "python", "bash")],
    ids=lambda path: path.stem,
)  # fmt: skip
def test_python_and_quick_commands_run_in_the_order_of_the_page(page, tmp_path, monkeypatch):
    for name in ("results", "src", "profiles", "notebooks", "book", "_config.yml", "pyproject.toml"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    for language, text in blocks(page, "python", "bash"):
        if language == "python":
            exec(compile(text, page.stem, "exec"), {})
            continue
        for program, *rest in commands(text):
            inputs = [word for word in rest[1:2] if not word.startswith("-")]
            quick = program == "textreg" and rest[0] in RUN and (rest[0] != "run" or "--dry-run" in rest)
            if quick and not any("NAME" in word for word in rest) and all(Path(word).exists() for word in inputs):
                app(rest, standalone_mode=False)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_notebook_has_exercises_of_three_levels_with_one_hidden_solution_each(path):
    text = text_of(path)
    assert re.findall(r"^(★+) ", text, re.MULTILINE) == ["★", "★★", "★★★"]
    assert text.count("<details><summary>Solution</summary>\n\n") == 3 == text.count("\n\n</details>")


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_every_chapter_has_exercises_of_three_levels_with_one_hidden_solution_each(chapter):
    text = (ROOT / f"book/{chapter}.md").read_text()
    found = re.findall(r"\{exercise\} (★+) .*\n:label: (ex-\w+)", text)
    assert [stars for stars, _ in found] == ["★", "★★", "★★★"]
    assert [label for _, label in found] == re.findall(r"\{solution\} (ex-\w+)\n:class: dropdown", text)
