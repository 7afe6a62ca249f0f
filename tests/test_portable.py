"""Nothing that only Unix has is needed to load the package and the notebooks' imports, to score, or to begin a run."""

import ast
import builtins
import importlib
import json
import pkgutil
import signal
import sys
from pathlib import Path

import forks

ROOT = Path(__file__).parents[1]
UNIX = {"fcntl", "grp", "posix", "pty", "pwd", "resource", "syslog", "termios", "tty"}
SIGNALS = ("SIGALRM", "SIGHUP", "SIGKILL", "SIGUSR1", "SIGUSR2")


def hide() -> None:
    """Take from the package what Windows lacks; only for a fork."""
    load = builtins.__import__

    def without(name, given=None, *others, **named):
        if (given or {}).get("__name__", "").startswith("textreg") and name.partition(".")[0] in UNIX:
            raise ModuleNotFoundError(name)
        return load(name, given, *others, **named)

    builtins.__import__ = without
    for name in SIGNALS:
        if hasattr(signal, name):
            delattr(signal, name)
    for name in [name for name in sys.modules if name.partition(".")[0] == "textreg"]:
        del sys.modules[name]


def load_all() -> None:
    """Every module of the package."""
    for module in pkgutil.walk_packages(importlib.import_module("textreg").__path__, "textreg."):
        importlib.import_module(module.name)


def imports_of(notebook: Path) -> str:
    """The import statements of a notebook's code cells."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    trees = [ast.parse("".join(cell["source"])) for cell in cells if cell["cell_type"] == "code"]
    return "\n".join(ast.unparse(n) for t in trees for n in t.body if isinstance(n, ast.Import | ast.ImportFrom))


def load_and_score(folder: Path) -> None:
    """Everything the test is about."""
    load_all()
    hide()  # from what libraries have loaded of them by now they go on: they know the system they are on
    load_all()
    for notebook in sorted(ROOT.glob("notebooks/*.ipynb")):
        exec(imports_of(notebook), {})
    rows = [{"language": code, "answer": text} for code, text in (("de", "Ein rotes Haus"), ("es", "A red house"))]
    (folder / "answers.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    command = [str(folder / "answers.jsonl"), "--out", str(folder / "scores.json"), "--judge", "none"]
    sys.modules["textreg.cli"].app(["score", *command], standalone_mode=False)
    with sys.modules["textreg.runs.runner"].clean_ending():
        pass


def test_the_package_loads_and_scores_without_what_only_unix_has(tmp_path):
    assert forks.ended(load_and_score, tmp_path) == 0
    assert (tmp_path / "scores.json").stat().st_size > 0
