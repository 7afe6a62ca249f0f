"""A miniature repository: the real stages, profiles and parameters, with notebooks that only write small files.

``build(folder)`` makes ``notebooks/``, ``profiles/tiny.yaml`` and ``pyproject.toml`` in ``folder``; every notebook
has the real ``parameters`` cell of its stage, made from the settings class, so that it follows the settings by
itself.
"""

import importlib
import inspect
import json
import multiprocessing
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from huggingface_hub import constants as hub_constants
from rich.console import Console

from textreg import settings
from textreg.runs import children, execution, notebooks, profiles, runner, stages
from textreg.runs.identity import OTHER_SCALES
from textreg.runs.report import Report

PROFILE = """
name: tiny
scale: scenes
seed: 0
stages: [prepare_data, align, tune, figures]
prepare_data: {languages: [en, es], text_languages: [es], held_out: [], align_rows: 3}
tune: {steps: 6}
arms:
  - {arm: BM, text: none}
  - {arm: TR}
"""

PREPARE = """
from pathlib import Path
folder = Path(run) / "prepare_data"
folder.mkdir(parents=True, exist_ok=True)
names = ["align", "visual", "text", "images", "requests"]
for name in names:
    (folder / f"{name}.parquet").write_text(f"{name} {seed} {align_rows}")
(folder / "mixture.csv").write_text("source,language,rows,share")
"""

ALIGN = """
from pathlib import Path
folder = Path(run) / "align"
folder.mkdir(parents=True, exist_ok=True)
text = (Path(run) / "prepare_data" / "align.parquet").read_text()
(folder / "projector.safetensors").write_text(text + f" aligned {learning_rate}")
(folder / "base.json").write_text("{}")
"""

#: A stage that resumes: it appends one line per step and goes on where an earlier attempt stopped.
TUNE = """
import os, time
from pathlib import Path
folder = Path(run) / "tune" / arm
pause = float(os.environ.get("STEP_S", "0"))
(folder / "adapter").mkdir(parents=True, exist_ok=True)
journal = folder / "checkpoint.txt"
lines = journal.read_text().split("\\n")[:-1] if journal.exists() else []
for step in range(len(lines), steps):
    time.sleep(pause)
    lines.append(f"step {step} {(step * 7919 + seed) % 101}")
    journal.with_suffix(".part").write_text("\\n".join(lines) + "\\n")
    os.replace(journal.with_suffix(".part"), journal)
    print(f"step {step + 1}/{steps}")
start = (Path(run) / "align" / "projector.safetensors").read_text()
(folder / "adapter" / "adapter.safetensors").write_text(start + "\\n" + "\\n".join(lines))
(folder / "log.csv").write_text("step,loss\\n1,2.0")
(folder / "shown.csv").write_text("source,language,rows,share")
"""

FIGURES = """
from pathlib import Path
folder = Path(run) / "figures"
folder.mkdir(parents=True, exist_ok=True)
adapters = sorted(Path(run).glob("tune/*/adapter/*"))
(folder / "figure.svg").write_text("<svg>" + "".join(path.read_text() for path in adapters) + "</svg>")
"""

BODIES = {"prepare_data": PREPARE, "align": ALIGN, "tune": TUNE, "figures": FIGURES}


def cell(text: str, *tags: str) -> dict:
    """A code cell without outputs."""
    metadata = {"tags": list(tags)} if tags else {}
    return {
        "cell_type": "code",
        "id": f"c{abs(hash(text)) % 10**8}",
        "metadata": metadata,
        "source": text.strip(),
        "outputs": [],
        "execution_count": None,
    }


def parameters_cell(stage: str) -> dict:
    """The parameters cell of a stage, with the defaults of its settings class."""
    values = asdict(settings.stage_classes()[stage]())
    return cell("\n".join(f"{name} = {value!r}" for name, value in values.items()), "parameters")


def notebook(stage: str, *bodies: str) -> dict:
    """A notebook of a stage: a heading, its parameters cell, and one code cell per body."""
    heading = {"cell_type": "markdown", "id": "h", "metadata": {}, "source": f"# {stage}"}
    kernel = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
    cells = [heading, parameters_cell(stage), *(cell(body) for body in bodies)]
    return {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}


def write(folder: Path, stage: str, *bodies: str) -> Path:
    """Write the notebook of a stage below ``folder``/notebooks and return its path."""
    path = folder / "notebooks" / stages.Unit(stage).notebook
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(notebook(stage, *bodies), indent=1))
    return path


def build(folder: Path, profile: str = PROFILE) -> Path:
    """The miniature repository in ``folder``."""
    for stage, body in BODIES.items():
        write(folder, stage, body)
    (folder / "profiles").mkdir(exist_ok=True)
    (folder / "profiles" / "tiny.yaml").write_text(profile)
    (folder / "pyproject.toml").write_text('[project]\nname = "tiny"\n')
    return folder


def quiet() -> Report:
    """A report that nobody reads."""
    return Report(Console(file=open(os.devnull, "w"), soft_wrap=True))


@contextmanager
def forbidden(modules: Iterable[str]) -> Iterator[None]:
    """Every function and method of these modules of the package raises, whoever holds it."""

    def left_out(*_, **__):
        raise AssertionError("the identity of this scale leaves this module out")

    kept = {}
    for name in modules:
        module = importlib.import_module(f"textreg.{name}")
        held = [each for each in vars(module).values() if getattr(each, "__module__", "") == module.__name__]
        held += [each for made in held if isinstance(made, type) for each in vars(made).values()]
        found = (each for each in map(inspect.unwrap, held) if inspect.isfunction(each))
        kept |= {each: each.__code__ for each in found if not each.__code__.co_freevars}
    for each in kept:
        each.__code__ = left_out.__code__
    try:
        yield
    finally:
        for each, code in kept.items():
            each.__code__ = code


def cells(job: execution.Job, temporary: Path, tell: execution.Tell) -> None:
    """Execute the cells of a notebook in this process, in place of papermill and its kernel; a function that the
    identity of its scale leaves out fails."""
    values = {**asdict(job.state.settings), "display": lambda *shown: None}  # IPython has it
    content = notebooks.read(job.notebook)
    with forbidden(OTHER_SCALES[job.state.settings.scale]):
        for number, code in enumerate((code for code in content["cells"] if code["cell_type"] == "code"), start=1):
            if "parameters" not in code["metadata"].get("tags", []):
                exec(compile(notebooks.source(code), f"{job.state.unit.name}, cell {number}", "exec"), values)
            code["execution_count"] = number
    temporary.write_text(json.dumps(content))


def in_process() -> None:
    """From here on units are executed in this process, without a process or a kernel of their own."""

    def launch(profile: profiles.Profile, place: runner.Place, state: runner.State, weight: int, *, fresh: bool):
        failure = execution.execute(children.job_of(profile, place, state, fresh=fresh))
        reader, _ = multiprocessing.Pipe(duplex=False)
        process = multiprocessing.get_context("fork").Process()
        return children.Child(state, process, reader, 0.0, weight, ended=True, said={"end": failure})

    execution._papermill, children.launch = cells, launch
    children.watch, children.verdict = lambda *given: None, lambda child, run: child.said["end"]


def run_here(root: Path, profile: str | Path, run: Path, **options) -> None:
    """A run without a process of its own for anything; only for forks, which it leaves changed."""
    in_process()
    os.environ["HF_HUB_OFFLINE"] = "1"
    hub_constants.HF_HUB_OFFLINE = True  # read once, when another test of this process first imported the hub
    runner.run(profile, run, root=root, jobs=1, report=quiet(), **options)
