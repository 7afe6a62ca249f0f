"""One unit, executed: what the child process of a run does for a notebook.

It empties the unit's folder unless an interrupted attempt of the same identity lies there (then the stage's own resume
continues it), executes the notebook through papermill under a temporary name, and only then, when no cell failed and
every artefact is there, renames the notebook and writes the manifest.

Called by :mod:`textreg.runs.children`, in a process of its own: ``execute(job, tell)``.
"""

import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

from textreg.errors import InputError
from textreg.files import HashCache, remove_tree, trouble, write_text
from textreg.processes import largest_memory_mb
from textreg.runs import manifest, notebooks
from textreg.runs.identity import Identity
from textreg.runs.notebooks import Failure
from textreg.runs.plan import State
from textreg.runs.stages import missing_artefacts, relative

ATTEMPT = ".identity"
Tell = Callable[[Mapping[str, Any]], None]


@dataclass(frozen=True)
class Job:
    """What the child needs to know.  ``run``: absolute folder; ``shown``: the same as the notebook sees it."""

    state: State
    profile: str
    run: Path
    shown: str
    notebook: Path
    fresh: bool


class Relay:
    """A writable stream for papermill: every line goes to the log, the last one to whoever watches the run."""

    def __init__(self, tell: Tell, log: TextIO, hidden: list[str]) -> None:
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


def _papermill(job: Job, temporary: Path, tell: Tell) -> Failure | None:
    from textreg.runs.kernel import Kernel

    hidden = job.run / ".runner"
    try:
        kernel = Kernel.started(hidden / "runtime" / f"{job.state.unit.stem}.json", hidden / "ipython")
    except RuntimeError as error:
        return Failure(f"the kernel did not start: {error}")

    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.clientwrap import PapermillNotebookClient
    from papermill.engines import Engine, papermill_engines

    running = 0

    class Client(PapermillNotebookClient):
        def execute_cell(self, cell: Any, cell_index: int, *args: Any, **kwargs: Any) -> Any:
            nonlocal running
            running = cell_index
            tell({"cell": cell_index + 1, "cells": len(self.nb.cells)})
            return super().execute_cell(cell, cell_index, *args, **kwargs)

    class OwnKernel(Engine):
        @classmethod
        def execute_managed_notebook(cls, nb_man: Any, kernel_name: str, **kwargs: Any) -> Any:
            kept = {key: kwargs[key] for key in ("stdout_file", "stderr_file")}
            return Client(nb_man, km=kernel, kernel_name=kernel_name, timeout=None, **kept).execute()

    papermill_engines.register("textreg", OwnKernel)
    relay = Relay(tell, sys.stdout, notebooks.secrets(os.environ))
    try:
        papermill.execute_notebook(
            job.notebook,
            temporary,
            parameters=asdict(job.state.settings),
            engine_name="textreg",
            kernel_name="python3",
            progress_bar=False,
            stdout_file=relay,
            stderr_file=relay,
        )
    except papermill.PapermillExecutionError:
        return notebooks.unfinished(notebooks.read(temporary)) or Failure("a cell failed")
    except DeadKernelError:
        cell = notebooks.cell_number(notebooks.read(temporary), running)
        return Failure(f"the kernel died in cell {cell}: it was killed (often for memory) or it crashed", cell)
    finally:
        kernel.end()
    return notebooks.unfinished(notebooks.read(temporary))


def prepare(folder: Path, identity: Identity, fresh: bool) -> bool:
    """Leave in ``folder`` only what an attempt of the same identity wrote; True when there is such an attempt.

    The old manifest goes first: from here on the unit counts as not done.  A finished unit of which a file was changed
    since is made from nothing, because a stage that resumes would take the change for work of its own.
    """
    attempt = folder / ATTEMPT
    try:
        content = manifest.read(folder)
        spoilt = content is not None and bool(manifest.damage(folder, content, HashCache()))
    except InputError:
        spoilt = True
    if spoilt:
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


def execute(job: Job, tell: Tell = lambda event: None) -> Failure | None:
    """Execute one unit to its manifest; None when it is done, else why it is not.

    ``tell`` is called with events: ``{"cell", "cells"}`` when a cell starts, ``{"line"}`` for a line of output.
    """
    try:
        resumed = prepare(job.run / job.state.unit.folder, job.state.identity, job.fresh)
        return _run_and_publish(job, resumed, tell)
    except OSError as error:
        return Failure(trouble(error, job.shown))


def _run_and_publish(job: Job, resumed: bool, tell: Tell) -> Failure | None:
    run, unit = job.run, job.state.unit
    folder, shelf = run / unit.folder, run / "notebooks"
    final, failed = shelf / f"{unit.stem}.ipynb", shelf / f"{unit.stem}.failed.ipynb"
    temporary = shelf / f".{unit.stem}.part-.ipynb"
    shelf.mkdir(exist_ok=True)
    for stale in (final, temporary):
        stale.unlink(missing_ok=True)
    began = datetime.now(UTC)
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
    manifest.write(
        folder,
        unit,
        job.state.identity,
        HashCache().folder(folder),
        profile=job.profile,
        notebook=f"notebooks/{final.name}",
        began=began,
        peak_memory_mb=largest_memory_mb(of_children=True),
        threads=getattr(job.state.settings, "threads", 1),
        resumed=resumed,
    )
    return None
