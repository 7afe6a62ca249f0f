"""A miniature study: two arms at a few settings on the miniature chain, its units executed without a kernel.

``build(folder)`` makes a repository with the study ``tiny``; ``run(root)`` brings it up to date as ``textreg study``
does, by the engine, whose jobs are this file run as a program.
"""

import os
import sys
import time
from pathlib import Path

import tiny_chain

from textreg.errors import InputError, RunError
from textreg.runs import execution
from textreg.runs.notebooks import Failure

STUDY = """
question: Does more text help?
prediction: It does.
expects:
  - {says: more, of: {TR.text_share: 0.5}, against: {TR.text_share: 0.1}, within: 0.1}
profile:
  stages: [prepare_data, align, tune, evaluate]
  prepare_data: {languages: [en, es, eu], text_languages: [es], held_out: [eu], align_rows: 3}
  tune: {steps: 3}
  arms:
    - {arm: BM, text: none}
    - {arm: TR}
tables:
  - arms: [BM]
  - arms: [TR]
    TR.text_share: [0.1, 0.5]
seeds: [0, 1]
"""

EVALUATE = """
import pandas as pd
from pathlib import Path
out = Path(run) / "evaluate"
out.mkdir(parents=True, exist_ok=True)
kind = ["asked", "english"]
rows = [(s, task, arm, language, kind[(i + seed) % 2], i % 2 == 0, i % 3 == 0, None if language == "eu" else i < 2)
        for s in systems for task in ("caption", "colour") for arm in ("image", "text")
        for language in ("en", "es", "eu") for i in range(4)]
columns = ["system", "task", "arm", "language", "class", "lf", "lf_plus", "content"]
pd.DataFrame(rows, columns=columns).assign(**{"lambda": 1.0}).to_parquet(out / "answers.parquet")
(out / "fidelity.csv").write_text("system")
(out / "visual.csv").write_text("system")
"""

#: Appended to the cell of the tuning: one of the points diverges, or all find the disk full, while a file says so.
SPOILT = """
if Path("full").exists():
    raise OSError(28, "No space left on device")
if text_share == 0.5 and Path("diverges").exists():
    from textreg.errors import RunError
    raise RunError("the loss is not finite after 2 steps")
"""
ROOT = Path(__file__).parents[1]


def build(folder: Path, text: str = STUDY, name: str = "tiny") -> Path:
    """The repository; called again, it gets another study."""
    if not (folder / "pyproject.toml").exists():
        folder.mkdir(parents=True, exist_ok=True)
        tiny_chain.build(folder)
        tiny_chain.write(folder, "evaluate", EVALUATE)
        tiny_chain.write(folder, "tune", tiny_chain.TUNE + SPOILT)
        (folder / "workflow").symlink_to(ROOT / "workflow")
        (folder / "profiles" / "studies").mkdir()
        program = folder / "python"
        program.write_text(f'#!/bin/sh\nshift 2\nexec {sys.executable} {__file__} "$@"\n')
        program.chmod(0o755)
    (folder / "profiles" / "studies" / f"{name}.yaml").write_text(text)
    return folder


def main(root: Path, name: str, where: str) -> None:
    """The study, as the command runs it, in a process whose engine starts this file for every job."""
    from rich.console import Console

    from textreg.runs import study_run

    os.chdir(root)
    os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # where the engine may be
    sys.executable = str(root / "python")
    try:
        study_run.run(name, jobs=2, where=where, root=root, console=Console(quiet=True))
    except (InputError, RunError) as error:
        print(error)
        sys.exit(error.exit_code)


def in_process() -> None:
    """As :func:`tiny_chain.in_process`; a cell that raises fails its unit, as in a kernel."""
    tiny_chain.in_process()

    def cells(job: execution.Job, temporary: Path, tell: execution.Tell) -> Failure | None:
        try:
            return tiny_chain.cells(job, temporary, tell)
        except (OSError, RunError) as error:
            temporary.write_text(job.notebook.read_text())
            return Failure(str(error), 2)

    execution._papermill = cells


def unit(words: list[str]) -> None:
    """One job: a unit, executed in this process."""
    from textreg.runs import study_unit

    in_process()
    with open("executed.txt", "a") as told:
        told.write(" ".join(words) + "\n")
    time.sleep(float(os.environ.get("JOB_S", "0")))
    sys.argv = ["study_unit", *words]
    study_unit.typer.run(study_unit.main)


if __name__ == "__main__":
    if sys.argv[1] == "study":
        main(Path(sys.argv[2]), sys.argv[3], sys.argv[4])
    else:
        unit(sys.argv[1:])
