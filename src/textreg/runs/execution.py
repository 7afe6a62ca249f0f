"""One unit, executed: the child process that a run starts for each notebook.

It ties itself to the run that started it, empties the unit's folder unless an interrupted attempt of the same
identity lies there (then the stage's own resume continues it), executes the notebook through papermill under a
temporary name, and only then, when no cell failed and every artefact is there, renames the notebook and writes the
manifest.  Kernels start one at a time on a machine: two that choose their ports in the same instant can collide.

    python -m textreg.runs.execution JOB.json     (the run does this; JOB is a serialised Job)
"""

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

from filelock import FileLock, Timeout
from tenacity import retry, retry_if_exception, stop_after_attempt

from textreg.errors import InputError, RunError
from textreg.files import HashCache, read_json, remove_tree, trouble, write_text
from textreg.processes import die_with_parent
from textreg.runs import manifest, notebooks
from textreg.runs.identity import Identity
from textreg.runs.notebooks import Failure
from textreg.runs.stages import Unit, missing_artefacts, relative

ATTEMPT = ".identity"
#: A start takes a second or two; an overloaded machine gets its time, a dead kernel is noticed at once.
KERNEL_START_S = 600


@dataclass(frozen=True)
class Job:
    """What the child needs to know.  ``run``: absolute folder; ``shown``: the same as the notebook sees it."""

    stage: str
    arm: str | None
    profile: str
    run: str
    shown: str
    notebook: str
    parameters: Mapping[str, Any]
    identity: Mapping[str, Any]
    fresh: bool = False

    @property
    def unit(self) -> Unit:
        """The unit to execute."""
        return Unit(self.stage, self.arm)


def save(job: Job, path: Path) -> None:
    """Write a job for a child process."""
    write_text(path, json.dumps(asdict(job)))


def environment(run: Path, threads: int, offline: bool) -> dict[str, str]:
    """Environment of a child: one kernelspec, private Jupyter folders, fixed hash seed, thread counts of its
    settings."""
    hidden = run / ".runner"
    values = dict(os.environ)
    values |= {
        "JUPYTER_PATH": str(Path(__file__).parent / "jupyter"),
        "JUPYTER_RUNTIME_DIR": str(hidden / "runtime"),
        "IPYTHONDIR": str(hidden / "ipython"),
        "PYTHONHASHSEED": "0",
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
        # glibc returns every large tensor to the system and faults its pages in anew: a tenth of a training's time.
        "MALLOC_MMAP_THRESHOLD_": "1073741824",
        "MALLOC_TRIM_THRESHOLD_": "1073741824",
    }
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        values[name] = str(threads)
    # oneDNN keeps a kernel for every shape it meets; fewer of them save a gigabyte of an evaluation and cost seconds.
    values.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")
    if offline:
        values["HF_HUB_OFFLINE"] = "1"
    return values


class Relay:
    """A writable stream for papermill: every line goes to the log, the last one to whoever watches the run."""

    def __init__(self, tell: Callable[[Mapping[str, Any]], None], log: TextIO, hidden: list[str]) -> None:
        self._tell, self._log, self._hidden, self._told = tell, log, hidden, 0.0

    def write(self, text: str) -> int:
        """Log ``text`` without secrets and pass its last line on, at most four times a second."""
        clean = notebooks.blotted(text, self._hidden)
        self._log.write(clean)
        lines = [line.strip() for line in clean.replace("\r", "\n").splitlines() if line.strip()]
        if lines and time.monotonic() - self._told > 0.25:
            self._told = time.monotonic()
            self._tell({"line": lines[-1][:160]})
        return len(text)

    def flush(self) -> None:
        """Flush the log."""
        self._log.flush()


def _register_engine(tell: Callable[[Mapping[str, Any]], None], connection: Path) -> str:
    from papermill.clientwrap import PapermillNotebookClient
    from papermill.engines import Engine, papermill_engines
    from traitlets.config import Config

    lock = FileLock(Path(tempfile.gettempdir()) / f"textreg-kernel-start-{os.getuid()}.lock", timeout=KERNEL_START_S)

    class Client(PapermillNotebookClient):
        def start_new_kernel(self, **kwargs: Any) -> None:
            try:
                lock.acquire()
            except Timeout:
                raise RunError(
                    f"no kernel could start within {KERNEL_START_S} s: another one holds {lock.lock_file}"
                ) from None
            try:
                super().start_new_kernel(**kwargs)
            except BaseException:
                lock.release(force=True)
                raise

        def start_new_kernel_client(self) -> Any:
            try:
                return super().start_new_kernel_client()
            finally:
                lock.release(force=True)

        def execute_cell(self, cell: Any, cell_index: int, *args: Any, **kwargs: Any) -> Any:
            tell({"cell": cell_index + 1, "cells": len(self.nb.cells)})
            return super().execute_cell(cell, cell_index, *args, **kwargs)

    class LockedEngine(Engine):
        @classmethod
        def execute_managed_notebook(cls, nb_man: Any, kernel_name: str, **kwargs: Any) -> Any:
            kept = {key: kwargs[key] for key in ("stdout_file", "stderr_file")}
            place = Config({"KernelManager": {"connection_file": str(connection)}})
            kept |= {"config": place, "startup_timeout": KERNEL_START_S, "timeout": None}
            client = Client(nb_man, kernel_name=kernel_name, **kept)
            return client.execute()

    papermill_engines.register("textreg", LockedEngine)
    return "textreg"


def _papermill(job: Job, temporary: Path, tell: Callable[[Mapping[str, Any]], None]) -> Failure | None:
    import papermill
    from nbclient.exceptions import DeadKernelError

    started: list[int] = []

    def listen(event: Mapping[str, Any]) -> None:
        if "cell" in event:
            started.append(event["cell"])
        tell(event)

    relay = Relay(listen, sys.stdout, notebooks.secrets(os.environ))
    connection = Path(job.run) / ".runner" / "runtime" / f"{job.unit.stem}.json"
    connection.parent.mkdir(parents=True, exist_ok=True)
    engine = _register_engine(listen, connection)

    # A kernel that fails to start may have lost a race for its ports; one whose cell has run is never started again.
    @retry(
        retry=retry_if_exception(lambda error: _is_start(error) and not started),
        stop=stop_after_attempt(2),
        reraise=True,
    )
    def run_cells() -> None:
        connection.unlink(missing_ok=True)
        papermill.execute_notebook(
            job.notebook,
            temporary,
            parameters=dict(job.parameters),
            engine_name=engine,
            kernel_name="python3",
            progress_bar=False,
            stdout_file=relay,
            stderr_file=relay,
        )

    try:
        run_cells()
    except papermill.PapermillExecutionError:
        return notebooks.unfinished(notebooks.read(temporary)) or Failure("a cell failed")
    except DeadKernelError:
        cell = notebooks.cell_number(notebooks.read(temporary), started[-1] - 1) if started else None
        return Failure(f"the kernel died in cell {cell}: it was killed (often for memory) or it crashed", cell)
    except RunError as error:
        return Failure(str(error))
    except RuntimeError as error:
        return Failure(f"the kernel did not start: {' '.join(str(error).split())}"[:500])
    return notebooks.unfinished(notebooks.read(temporary))


def _is_start(error: BaseException) -> bool:
    return isinstance(error, RuntimeError) and "ernel" in str(error)


def prepare(folder: Path, identity: Identity, fresh: bool) -> bool:
    """Leave in ``folder`` only what an attempt of the same identity wrote; True when there is such an attempt.

    The old manifest goes first: from here on the unit counts as not done.  A finished unit of which a file was changed
    since is made from nothing, because a stage that resumes would take the change for work of its own.
    """
    attempt = folder / ATTEMPT
    if _spoilt(folder):
        attempt.unlink(missing_ok=True)
    (folder / manifest.NAME).unlink(missing_ok=True)
    same = attempt.is_file() and attempt.read_text(encoding="utf-8").strip() == identity.digest
    if same and not fresh:
        return True
    if any((folder / "checkpoints").glob("checkpoint-*")):
        why = "asked to begin anew" if same else "of an attempt with other settings, inputs or code"
        print(f"{relative(folder / 'checkpoints')}: {why}, discarded; the training begins anew")
    remove_tree(folder)
    folder.mkdir(parents=True)
    write_text(attempt, identity.digest + "\n")
    return False


def _spoilt(folder: Path) -> bool:
    try:
        content = manifest.read(folder)
    except InputError:
        return True
    return content is not None and bool(manifest.damage(folder, content, HashCache()))


def execute(job: Job, tell: Callable[[Mapping[str, Any]], None] = lambda event: None) -> Failure | None:
    """Execute one unit to its manifest; None when it is done, else why it is not.

    ``tell`` is called with events: ``{"cell", "cells"}`` when a cell starts, ``{"line"}`` for a line of output.
    """
    identity = Identity(**job.identity)
    try:
        resumed = prepare(Path(job.run) / job.unit.folder, identity, job.fresh)
        return _run_and_publish(job, identity, resumed, tell)
    except OSError as error:
        return Failure(trouble(error, job.shown))


def _run_and_publish(
    job: Job, identity: Identity, resumed: bool, tell: Callable[[Mapping[str, Any]], None]
) -> Failure | None:
    import resource

    run, unit = Path(job.run), job.unit
    folder, shelf = run / unit.folder, run / "notebooks"
    final, failed = shelf / f"{unit.stem}.ipynb", shelf / f"{unit.stem}.failed.ipynb"
    temporary = shelf / f".{unit.stem}.part.ipynb"
    shelf.mkdir(exist_ok=True)
    for stale in (final, temporary):
        stale.unlink(missing_ok=True)
    started, clock = datetime.now(UTC).isoformat(timespec="seconds"), time.monotonic()
    failure = _papermill(job, temporary, tell)
    if failure is None and (missing := missing_artefacts(unit, folder)):
        failure = Failure(f"every cell ran, but {unit.folder} lacks {', '.join(missing)}")
    places = notebooks.machine_places(run, job.shown)
    if failure is not None:
        if temporary.is_file():
            notebooks.publish(temporary, failed, places, failure)
        return failure
    notebooks.publish(temporary, final, places)
    failed.unlink(missing_ok=True)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    manifest.write(
        folder,
        unit,
        identity,
        HashCache().folder(folder),
        profile=job.profile,
        notebook=f"notebooks/{final.name}",
        started=started,
        seconds=time.monotonic() - clock,
        peak_memory_mb=round(peak / (2**20 if sys.platform == "darwin" else 2**10)),
        threads=int(job.parameters.get("threads", 1)),
        resumed=resumed,
    )
    return None


def main(path: str, events: int) -> int:
    """Entry point of the child: execute the job in ``path``; events go as JSON lines to file descriptor ``events``."""

    die_with_parent(int(os.environ.get("TEXTREG_PARENT", os.getppid())))
    # An optional URL check of jsonschema builds a grammar at import: 1.7 of the 2.6 s that papermill takes to load.
    sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]
    os.set_inheritable(events, False)
    with os.fdopen(events, "w", encoding="utf-8", buffering=1) as pipe:

        def tell(event: Mapping[str, Any]) -> None:
            pipe.write(json.dumps(event) + "\n")

        failure = execute(Job(**read_json(Path(path))), tell)
        tell({"end": asdict(failure) if failure else None})
    return 0 if failure is None else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2])))
