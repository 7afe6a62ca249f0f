"""The real notebooks of a run, cell by cell, killed where a test says: ``python kill_script.py JOB.json``.

The libraries are loaded once, and every stage is executed in a fork of this process.  A kill thus costs a fork and not
the seconds that a kernel takes to start; kernels and the runner are killed in ``test_kills.py``.
"""

import json
import os
import random
import signal
import sys
import time
from dataclasses import asdict
from pathlib import Path

import pandas.io.formats.style  # noqa: F401  (all that a notebook loads, before the first fork)
import sklearn.linear_model  # noqa: F401

from textreg.runs import notebooks, profiles
from textreg.runs.stages import Unit

PATIENCE_S = 120


def execute(profile: profiles.Profile, unit: Unit, source: Path, run: str) -> None:
    """Execute the cells of a notebook with the settings that a run would inject."""
    values = asdict(profiles.resolve(profile, unit.stage, unit.arm, run=run))
    for cell in notebooks.read(source / unit.notebook)["cells"]:
        if cell["cell_type"] == "code" and "parameters" not in cell["metadata"].get("tags", []):
            exec(compile(notebooks.source(cell), unit.notebook, "exec"), values)


def begin(profile: profiles.Profile, unit: Unit, source: Path, run: str) -> int:
    """Start a unit in a process of its own, and return its id."""
    pid = os.fork()
    if pid:
        return pid
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
    try:
        execute(profile, unit, source, run)
    except BaseException as error:
        print(f"{unit.name}: {error!r}", file=sys.stderr, flush=True)
        os._exit(1)
    os._exit(0)


def killed(pid: int, sign: Path, pattern: str, pause: float) -> bool:
    """Kill the process soon after a file of that pattern appears; False when it ended before."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline and not any(sign.glob(pattern)):
        time.sleep(0.001)
    time.sleep(pause)
    os.kill(pid, signal.SIGKILL)
    return os.waitpid(pid, 0)[1] == signal.SIGKILL


def main(job_file: str) -> None:
    """Run every unit; print, for every kill, its unit and whether it hit."""
    job = json.loads(Path(job_file).read_text(encoding="utf-8"))
    profile, rng = profiles.load(job["profile"], Path(job["root"])), random.Random(job["seed"])
    os.chdir(job["folder"])
    for unit in profile.units:
        for pattern in job["kills"].get(unit.name, []):
            pid = begin(profile, unit, Path(job["notebooks"]), "run")
            hit = killed(pid, Path("run") / unit.folder, pattern, rng.random() * job["pause_s"])
            print(json.dumps([unit.name, pattern, hit]), flush=True)
        _, status = os.waitpid(begin(profile, unit, Path(job["notebooks"]), "run"), 0)
        if status:
            sys.exit(f"{unit.name} ended with status {status}")


if __name__ == "__main__":
    main(sys.argv[1])
