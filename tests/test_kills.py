"""Runs that are killed: no orphans, no half stage, and in the end the files of an uninterrupted run.

The moments are random but counted in changes of the run folder, not in seconds, so that a slow machine is killed in
the same variety of states as a fast one.
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

from textreg import runner
from textreg.disk import HashCache
from textreg.errors import InputError
from textreg.stages import Unit

COMMAND = """
import signal, sys
from pathlib import Path
from textreg import runner
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts background jobs with SIGINT ignored
runner.run("tiny", root=Path(sys.argv[1]), jobs=2)
"""
KILLS = 20
PROFILE = tiny_chain.PROFILE.replace("steps: 6", "steps: 12")
FOLDERS = [Unit("prepare_data"), Unit("align"), Unit("tune", "BM"), Unit("tune", "TR"), Unit("figures")]


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


def kill_after(root: Path, process: subprocess.Popen, changes: int, victim: str, pause: float) -> None:
    seen = snapshot(root)
    while changes and process.poll() is None:
        now = snapshot(root)
        changes -= now != seen
        seen = now
        time.sleep(0.02)
    time.sleep(pause)
    if process.poll() is not None:
        return
    if victim == "runner":
        process.kill()
        return
    word = "textreg.kernel" if victim == "kernel" else "textreg.execution"
    for member in members(root):
        if word in " ".join(member.cmdline()):
            member.kill()
            return


def torment(root: Path, seed: int, kills: int) -> None:
    """Kill runs of ``root`` at random moments, checking after each kill that nothing lives on."""
    rng = random.Random(seed)
    for _ in range(kills):
        process = start(root)
        victim = rng.choices(["runner", "kernel", "child"], weights=[6, 1, 1])[0]
        kill_after(root, process, rng.randint(1, 14), victim, rng.random() * 0.2)
        if victim == "runner":
            process.wait()
        else:
            process.wait(timeout=240)
        assert gone(root), [member.cmdline() for member in members(root)]
        for unit in FOLDERS:
            folder = root / "runs" / "tiny" / unit.folder
            if (folder / "manifest.json").is_file():
                assert runner.plan.manifest.damage(folder, runner.plan.manifest.read(folder), HashCache()) == []


@pytest.mark.timeout(900)
def test_runs_killed_at_random_moments_end_with_the_files_of_an_uninterrupted_run(tmp_path):
    roots = [tiny_chain.build(_folder(tmp_path, name), PROFILE) for name in ("whole", "first", "second")]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(torment, roots[1:], (1, 2), (KILLS // 2, KILLS - KILLS // 2)))
    finals = [start(root) for root in roots]
    assert [process.wait(timeout=600) for process in finals] == [0, 0, 0], (roots[1] / "run.log").read_text()[-2000:]
    assert results(roots[1]) == results(roots[0])
    assert results(roots[2]) == results(roots[0])
    for root in roots:
        assert list((root / "runs/tiny/notebooks").glob(".*")) == []
        assert list((root / "runs/tiny/notebooks").glob("*.failed.ipynb")) == []


def _folder(parent: Path, name: str) -> Path:
    (parent / name).mkdir()
    return parent / name


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
