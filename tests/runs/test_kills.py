"""Runs that are killed: no orphans, no half stage, and in the end the files of an uninterrupted run.

Every stage of a normal run is killed.  The moments are random, but they follow the start of a chosen unit and are
counted in changes of the run folder, not in seconds, so that a slow machine is killed in the same variety of states as
a fast one.
"""

import os
import random
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
import tiny_chain

from textreg.errors import InputError
from textreg.files import HashCache
from textreg.runs import execution, runner
from textreg.runs.stages import Unit

COMMAND = """
import signal, sys
from pathlib import Path
from textreg.runs import runner
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts background jobs with SIGINT ignored
runner.run("tiny", root=Path(sys.argv[1]), jobs=2)
"""
KILLS = 24
PROFILE = (
    tiny_chain.PROFILE.replace("steps: 6", "steps: 12")
    .replace("tune, figures]", "tune, merge, evaluate, figures, mechanism]")
    .replace("{arm: TR}", "{arm: TR, merge: true}")
    .replace("arms:", "evaluate: {systems: [BM, TR+M], frontier_lambdas: []}\narms:")
)
MERGE = """
import time
from pathlib import Path
time.sleep(0.5)
folder = Path(run) / "merge" / f"{arm}+M"
folder.mkdir(parents=True, exist_ok=True)
(folder / "model").mkdir(exist_ok=True)
for name in ("sweep.csv", "choice.json", "model/model.safetensors"):
    (folder / name).write_text((Path(run) / "tune" / arm / "adapter" / "adapter.safetensors").read_text())
"""
#: Answers go item by item into the package's own journal, as those of the real stage do.
EVALUATE = """
import time
from pathlib import Path
from textreg.files import Journal
folder = Path(run) / "evaluate"
with Journal(folder / "parts.jsonl") as journal:
    for item in range(8):
        if str(item) not in journal:
            time.sleep(0.1)
            journal.append(str(item), {"answer": item * 7919 % 101})
    answers = [journal[str(item)]["answer"] for item in range(8)]
for name in ("answers.parquet", "fidelity.csv", "visual.csv"):
    (folder / name).write_text(f"{name} {answers}")
"""
MECHANISM = """
import time
from pathlib import Path
time.sleep(0.5)
folder = Path(run) / "mechanism"
folder.mkdir(parents=True, exist_ok=True)
for name in ("first_token.csv", "probe.csv", "verdicts.csv"):
    (folder / name).write_text((Path(run) / "tune" / "BM" / "adapter" / "adapter.safetensors").read_text())
"""
BODIES = {"merge": MERGE, "evaluate": EVALUATE, "mechanism": MECHANISM}
FOLDERS = [
    Unit("prepare_data"),
    Unit("align"),
    Unit("tune", "BM"),
    Unit("tune", "TR"),
    Unit("merge", "TR"),
    Unit("mechanism"),
    Unit("evaluate"),
    Unit("figures"),
]


def build(folder: Path) -> Path:
    """The miniature repository with every stage of a normal run."""
    folder.mkdir()
    tiny_chain.build(folder, PROFILE)
    for stage, body in BODIES.items():
        tiny_chain.write(folder, stage, body)
    return folder


def start(root: Path) -> subprocess.Popen:
    with (root / "run.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-c", COMMAND, str(root)], stdout=log, stderr=log, start_new_session=True
        )


def members(root: Path) -> list[psutil.Process]:
    """Processes that name the folder in their command: the runner, its children, their kernels."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        words = process.info["cmdline"] or []
        if any(str(root) in word for word in words) and process.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(process)
    return found


def gone(root: Path, seconds: float = 10.0) -> bool:
    deadline = time.monotonic() + seconds
    while members(root):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def snapshot(root: Path) -> frozenset:
    found = set()
    for folder, _, names in os.walk(root / "runs"):
        for name in names:
            try:
                found.add((folder, name, os.stat(os.path.join(folder, name)).st_mtime_ns))
            except FileNotFoundError:
                continue
    return frozenset(found)


def results(root: Path) -> dict:
    return {unit.name: HashCache().folder(root / "runs" / "tiny" / unit.folder) for unit in FOLDERS}


def begun(root: Path, unit: Unit) -> bool:
    """Whether the unit has been started and is not done."""
    folder = root / "runs" / "tiny" / unit.folder
    return (folder / execution.ATTEMPT).is_file() and not (folder / "manifest.json").is_file()


def kill_in(root: Path, process: subprocess.Popen, unit: Unit, changes: int, victim: str, pause: float) -> None:
    """Kill the victim once the unit has begun, the folder has changed some times more, and a moment has passed."""
    while process.poll() is None and not begun(root, unit):
        time.sleep(0.02)
    seen = snapshot(root)
    while changes and process.poll() is None:
        now = snapshot(root)
        changes -= now != seen
        seen = now
        time.sleep(0.02)
    time.sleep(pause)
    word = {"kernel": "textreg.runs.kernel", "child": "textreg.runs.execution"}.get(victim)
    while process.poll() is None:
        if word is None:
            process.kill()
            return
        # A kernel takes its time to appear.
        for member in members(root):
            command = " ".join(member.cmdline())
            if word in command and f"/{unit.stem}.json" in command:
                member.kill()
                return
        time.sleep(0.02)


def torment(root: Path, seed: int, kills: int) -> set[str]:
    """Kill runs of ``root`` at random moments, unit after unit, checking after each kill that nothing lives on.

    Returns the stages that a kill left unfinished.
    """
    rng, hit, others = random.Random(seed), set(), ["kernel", "child"]
    targets = [FOLDERS[number % len(FOLDERS)] for number in range(kills)]
    for unit in sorted(targets, key=FOLDERS.index):
        process = start(root)
        # The end of this unit alone stops all that follows it.
        victim = others.pop() if unit == Unit("tune", "TR") and others else "runner"
        kill_in(root, process, unit, rng.randint(0, 3), victim, rng.random() * 0.2)
        # A kernel killed while it starts is started again; then the run must not go on past the next units.
        while process.poll() is None and begun(root, unit):
            time.sleep(0.02)
        process.kill()
        process.wait()
        hit |= {other.stage for other in FOLDERS if begun(root, other)}
        assert gone(root), [member.cmdline() for member in members(root)]
        for other in FOLDERS:
            folder = root / "runs" / "tiny" / other.folder
            if (folder / "manifest.json").is_file():
                assert runner.plan.manifest.damage(folder, runner.plan.manifest.read(folder), HashCache()) == []
    return hit


@pytest.mark.timeout(900)
def test_runs_killed_at_random_moments_end_with_the_files_of_an_uninterrupted_run(tmp_path):
    roots = [build(tmp_path / name) for name in ("whole", "first", "second")]
    with ThreadPoolExecutor(2) as pool:
        hit = set().union(*pool.map(torment, roots[1:], (1, 2), (KILLS // 2, KILLS - KILLS // 2)))
    assert hit == {unit.stage for unit in FOLDERS}
    finals = [start(root) for root in roots]
    assert [process.wait(timeout=600) for process in finals] == [0, 0, 0], (roots[1] / "run.log").read_text()[-2000:]
    assert results(roots[1]) == results(roots[0])
    assert results(roots[2]) == results(roots[0])
    for root in roots:
        assert list((root / "runs/tiny/notebooks").glob(".*")) == []
        assert list((root / "runs/tiny/notebooks").glob("*.failed.ipynb")) == []


def test_ctrl_c_ends_a_run_with_all_its_children_within_five_seconds(tmp_path):
    root = tiny_chain.build(tmp_path, tiny_chain.PROFILE.replace("steps: 6", "steps: 2000"))
    process = start(root)
    try:
        journal = root / "runs/tiny/tune/TR/checkpoint.txt"
        while not journal.exists():
            assert process.poll() is None, (root / "run.log").read_text()
            time.sleep(0.05)
        with pytest.raises(InputError, match=f"in use by process {process.pid}"):
            runner.run("tiny", root=root)
        process.send_signal(signal.SIGINT)
        clock = time.monotonic()
        code = process.wait(timeout=60)
        patience = 5 * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
        assert time.monotonic() - clock < patience
        assert code not in (0, None)
        assert gone(root, 1.0)
        assert "the same command goes on from here" in (root / "run.log").read_text()
        assert not (journal.parent / "manifest.json").exists()
        assert journal.exists()
    finally:
        process.kill()
