"""Runs that end in the middle: no orphans, no half stage, and in the end the files of an uninterrupted run.

A kill leaves what was written before it, so every moment is one between two changes of files: a run of the miniature
chain is ended at each of them, one after the other, in forks of this process.  That kernels and children end with the
run, and that it notices when they end before it, is shown with real ones.
"""

import itertools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import forks
import psutil
import pytest
import tiny_chain

from textreg.errors import InputError
from textreg.files import HashCache
from textreg.runs import manifest, profiles, runner

COMMAND = """
import signal, sys
from pathlib import Path
from textreg.runs import children, runner
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts background jobs with SIGINT ignored
children.PRELOADED = ["papermill.clientwrap"]  # these notebooks need no more
runner.run("tiny", root=Path(sys.argv[1]), jobs=2)
"""


def results(root: Path) -> dict:
    """Unit -> the hashes of its files."""
    units = profiles.load("tiny", root).units
    return {unit.name: HashCache().folder(root / "runs" / "tiny" / unit.folder) for unit in units}


def require_whole(root: Path) -> None:
    """Whatever counts as done is whole, and whatever is published is no half file."""
    for path in (root / "runs").rglob("manifest.json"):
        assert manifest.damage(path.parent, manifest.read(path.parent), HashCache()) == []


def run_here(root: Path) -> None:
    """The run in a fork."""
    tiny_chain.run_here(root, "tiny", root / "runs" / "tiny")


#: Three stages, of which the last one resumes.
SHORT = tiny_chain.PROFILE.replace("tune, figures]", "tune]").replace("  - {arm: BM, text: none}\n", "")


def test_a_run_that_ends_at_any_change_of_a_file_is_finished_by_the_next(tmp_path):
    manifest.provenance()  # remembered: asked for once, not in every fork
    whole = tiny_chain.build(tmp_path / "whole", SHORT)
    assert forks.ended(run_here, whole) == 0
    expected = results(whole)
    for number in itertools.count(1):
        root = tiny_chain.build(tmp_path / str(number), SHORT)
        code = forks.ended_at(number, root, run_here, root)
        if code == 0:
            break
        assert code == forks.KILLED, number
        require_whole(root)
        assert forks.ended(run_here, root) == 0, number
        assert results(root) == expected, number
        shelf = root / "runs" / "tiny" / "notebooks"
        assert not [*shelf.glob(".*"), *shelf.glob("*.failed.ipynb")], number
    assert number > 60


def alive(processes: list[psutil.Process], timeout: float) -> list[psutil.Process]:
    """Those that have not ended in time; one that ended and that nobody has fetched yet is none of them."""
    left = psutil.wait_procs(processes, timeout=timeout)[1]
    return [process for process in left if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]


@pytest.fixture
def started(tmp_path):
    """``started()``: the command, running on a miniature repository whose tuning takes its time."""
    root, processes = tiny_chain.build(tmp_path / "repository"), []

    def start() -> tuple[Path, psutil.Process, list[psutil.Process]]:
        with (root / "run.log").open("ab") as log:
            environment = {**os.environ, "STEP_S": "0.3"}
            command = [sys.executable, "-c", COMMAND, str(root)]
            begun = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
        processes.append(begun)
        journals = [root / f"runs/tiny/tune/{arm}/checkpoint.txt" for arm in ("BM", "TR")]
        before = [path.stat().st_mtime_ns if path.exists() else 0 for path in journals]
        while not all(path.exists() and path.stat().st_mtime_ns not in before for path in journals):
            assert begun.poll() is None, (root / "run.log").read_text()
            time.sleep(0.05)
        return root, begun, psutil.Process(begun.pid).children(recursive=True)

    yield start
    for process in processes:
        process.kill()
        process.wait()


def test_runs_whose_processes_are_killed_leave_no_orphan_and_go_on(started, tmp_path):
    root, process, members = started()
    executors = [member for member in members if member.parent().ppid() == process.pid]
    kernels = [member for member in members if member.parent() in executors]
    assert len(executors) == len(kernels) == 2
    own, other = kernels[0].parent(), next(member for member in executors if member != kernels[0].parent())
    kernels[0].kill()
    other.kill()
    assert process.wait(60) == 1
    told = (root / "run.log").read_text()
    assert "the kernel died in cell 2" in told and "was ended by SIGKILL" in told
    assert alive([*members, own], timeout=10) == []

    root, process, members = started()
    process.kill()
    assert alive(members, timeout=10) == []

    root, process, members = started()
    with pytest.raises(InputError, match=f"in use by process {process.pid}"):
        runner.run("tiny", root=root)
    process.send_signal(signal.SIGINT)
    clock = time.monotonic()
    assert process.wait(timeout=60) not in (0, None)
    assert time.monotonic() - clock < 5 * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
    assert alive(members, timeout=10) == []
    assert "the same command goes on from here" in (root / "run.log").read_text()
    require_whole(root)

    whole = tiny_chain.build(tmp_path / "whole")
    assert forks.ended(run_here, whole) == forks.ended(run_here, root) == 0
    assert results(root) == results(whole)
