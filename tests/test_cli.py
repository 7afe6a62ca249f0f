"""The command: it answers at once, and every wrong input is one line, exit code 2, and nothing lost."""

import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_chain

from textreg import __version__, cli
from textreg.runs import identity, plan, profiles, report

HEAVY = ("torch", "transformers", "pandas", "matplotlib", "numpy", "papermill", "datasets")
COMMANDS = ("run", "status", "score", "evaluate", "merge", "export", "ask")


def call(monkeypatch, capsys, *words):
    """Exit code, standard output and standard error of ``textreg WORDS``."""
    monkeypatch.setattr(sys, "argv", ["textreg", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    told = capsys.readouterr()
    return ended.value.code, told.out, told.err


def test_help_comes_in_under_a_second_and_loads_nothing_heavy():
    code = (
        "import sys; sys.argv = ['textreg', '--help']\n"
        "from textreg.cli import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code\n"
        f"print('loaded:', *[name for name in {HEAVY!r} if name in sys.modules])"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.stdout.rstrip().endswith("loaded:")
    assert all(f" {name} " in done.stdout for name in COMMANDS)
    # Seconds of the processor: those of the clock also count what else the machine does.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1.0


def test_the_version_is_that_of_the_package(monkeypatch, capsys):
    assert call(monkeypatch, capsys, "--version") == (0, f"textreg {__version__}\n", "")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command, monkeypatch, capsys):
    code, out, _ = call(monkeypatch, capsys, command, "--help")
    assert code == 0 and "Usage" in out


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A miniature repository as the working directory, with a run that belongs to its profile ``tiny``."""
    root = tiny_chain.build(tmp_path)
    plan.claim(profiles.load("tiny", root), plan.Place(root / "runs" / "tiny", root / "notebooks"), root)
    monkeypatch.chdir(root)
    return root


def test_status_reads_the_package_once_and_then_remembers(repository, monkeypatch):
    read, code = [], identity.code
    monkeypatch.setattr(identity, "code", lambda notebook, **how: read.append(notebook.name) or code(notebook, **how))
    (repository / "runs" / "tiny" / ".runner").mkdir()
    report.collect(repository / "runs" / "tiny", repository)
    assert len(read) == len(set(read)) > 1
    report.collect(repository / "runs" / "tiny", repository)
    assert len(read) == len(set(read))


def everything(root):
    return {path: path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


RUN = ("run", "--profile", "tiny")
SCORE = ("score", "none.jsonl")
EVALUATE = ("evaluate", "--endpoint", "http://127.0.0.1:9/v1", "--model", "m")
WRONG = {
    "profile": (("run", "--profile", "tinny"), r"unknown profile 'tinny' (did you mean 'tiny'?)"),
    "stage": ((*RUN, "--only", "tunes"), r"unknown stage 'tunes' (did you mean 'tune'?)"),
    "arm": ((*RUN, "--arm", "BN"), r"'BN'"),
    "jobs": ((*RUN, "--jobs", "0"), r"--jobs 0"),
    "status of no run": (("status", "runs/none"), "runs/none"),
    "merge of one model": (("merge", "only-one", "--out", "x"), "merge needs TUNED and BASE"),
    "merge with a broken pattern": (
        ("merge", "a", "b", "--out", "x", "--pattern", "mlp"),
        "'mlp' is not PATTERN=NUMBER",
    ),
    "export of a system that the run lacks": (
        ("export", "TR+M", "--out", "x", "--run", "runs/none"),
        "no tuned arm 'TR' in runs/none",
    ),
    "score of no file": (SCORE, "none.jsonl"),
    "judge without an endpoint": ((*SCORE, "--judge", "llm"), "needs --endpoint URL and --model NAME"),
    "a price that is none": ((*SCORE, "--price", "cheap"), "expected two prices, READ,WRITTEN"),
    "a model of an identifier that has none": (
        (*SCORE, "--identifier-model", "model_v3.bin"),
        "--identifier-model is for --identifier glotlid",
    ),
    "a single candidate": ((*SCORE, "--candidates", "es"), "name at least two"),
    "a candidate of an evaluation": ((*EVALUATE, "--candidates", "en,jp"), "did you mean 'ja'"),
    "a GlotLID file that is not there": (
        (*SCORE, "--identifier", "glotlid", "--identifier-model", "none.bin"),
        "glotlid",
    ),
    "ask about no picture": (("ask", "none.png", "What?", "--model", "x"), "none.png"),
    "evaluate in an unknown language": ((*EVALUATE, "--languages", "en,xx"), "'xx'"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input_is_one_line_with_exit_code_2_and_nothing_is_lost(case, repository, monkeypatch, capsys):
    words, expected = WRONG[case]
    before = everything(repository)
    code, _, err = call(monkeypatch, capsys, *words)
    assert code == 2
    assert expected in err
    assert len(err.splitlines()) == 1 and err.startswith("textreg: ")
    after = everything(repository)
    assert {path: data for path, data in after.items() if path in before} == before
    assert not any(path.read_bytes() for path in set(after) - set(before))  # a lock at most


@pytest.mark.parametrize("words", [["run", "--profle", "tiny"], ["runn"], ["merge"], ["run", "--jobs", "many"]])
def test_an_unknown_option_command_or_type_has_exit_code_2_and_no_traceback(words, repository, monkeypatch, capsys):
    code, _, err = call(monkeypatch, capsys, *words)
    assert code == 2
    assert "Usage" in err and "Traceback" not in err


def test_outside_of_a_repository_run_says_where_it_has_to_be(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("textreg.runs.stages.__file__", str(tmp_path / "stages.py"))
    code, _, err = call(monkeypatch, capsys, "run")
    assert code == 2 and "clone of the repository" in err


@pytest.mark.parametrize("damage", ["missing", "damaged"])
def test_a_missing_or_damaged_asset_is_one_line(damage, tmp_path, monkeypatch, capsys, tiny_llm):
    from textreg.micro import assets
    from textreg.vlm import loading

    folder = shutil.copytree(tiny_llm, tmp_path / "weights" / "shipped" / "llm").parent
    name = "llm/model.safetensors"
    digests = {path.relative_to(folder).as_posix(): assets.digest(path) for path in assets.files(folder)}
    (folder / assets.MANIFEST).write_text(f'{{"sha256": {{"{name}": "{digests[name]}"}}}}')
    path = folder / name
    path.unlink() if damage == "missing" else path.write_bytes(path.read_bytes()[:-4] + b"\0\1\2\3")
    monkeypatch.setattr(loading, "WEIGHTS", folder.parent)
    run = tmp_path / "run" / "align"
    run.mkdir(parents=True)
    (run / "base.json").write_text("{}")
    shutil.copy(Path(tiny_llm) / "model.safetensors", run / "projector.safetensors")
    from PIL import Image

    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    words = ("ask", tmp_path / "a.png", "What?", "--model", tmp_path / "run", "--system", "backbone")
    code, _, err = call(monkeypatch, capsys, *words)
    assert code == 2
    assert f"{name} is {damage}" in err and len(err.splitlines()) == 1


@pytest.mark.parametrize("where", ["pathlib", "typer", "textreg.errors", "textreg.serve.score"])
def test_an_interrupt_while_modules_are_read_is_one_line_at_most(where, tmp_path):
    script = (
        "import sys\n"
        f"sys.modules.pop({where!r}, None)\n"
        "class Interrupts:\n"
        "    def find_spec(self, name, *_):\n"
        f"        if name == {where!r}:\n"
        "            raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Interrupts())\n"
        "sys.argv = ['textreg', 'score', 'answers.jsonl']\n"
        "from textreg.cli import main\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 130
    assert done.stderr in ("", "textreg: interrupted; the same command goes on from here\n")


def test_an_error_is_short_and_cannot_act_on_the_terminal(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code, _, err = call(monkeypatch, capsys, "score", "\x1b[31m" + "x" * 100_000 + ".jsonl")
    assert code == 2
    assert "\x1b" not in err and len(err) < 2100 and len(err.splitlines()) == 1


def test_a_terminal_without_unicode_gets_the_scores_too(tmp_path):
    row = {"answer": "La imagen muestra un círculo rojo.", "language": "es", "system": "Ж"}
    (tmp_path / "a.jsonl").write_text(json.dumps(row) + "\n")
    script = "import sys; sys.argv = ['textreg', 'score', 'a.jsonl']; from textreg.cli import main; main()"
    ascii_only = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, cwd=tmp_path, env=ascii_only)
    assert done.returncode == 0, done.stderr
    assert rb"\u0416" in done.stdout and b"100.0" in done.stdout
