"""The kernel that executes a unit's cells: IPython's own, in a fork of the unit's process.

It binds its ports itself and only then says that it is ready, so that two kernels that start in the same instant
cannot collide; it keeps no history on disk, and ends with the process that started it.  Where there is no fork it is
a new process with the same contents.
"""

import multiprocessing
import sys
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from jupyter_client import AsyncKernelManager

from textreg.processes import die_with_parent

CONTEXT: Any = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
START_S = 600  # an overloaded machine gets its time; a kernel that dies is noticed at once


def serve(connection: Path, folder: Path, ready: Connection) -> None:
    """Be a kernel until told to stop.  ``connection``: file that tells a client where; ``folder``: of IPython."""
    from ipykernel.kernelapp import IPKernelApp

    die_with_parent()
    app = IPKernelApp.instance()
    quiet = ["--HistoryManager.enabled=False", "--IPKernelApp.log_level=50"]
    app.initialize(["-f", str(connection), f"--ipython-dir={folder}", *quiet])
    ready.send(True)
    app.start()


class Kernel(AsyncKernelManager):
    """A running kernel, as papermill's client expects to meet one."""

    process: Any = None

    @classmethod
    def started(cls, connection: Path, folder: Path) -> "Kernel":
        """A new kernel.  Raises :class:`RuntimeError` when it ends or says nothing before it is ready."""
        connection.unlink(missing_ok=True)
        reader, writer = CONTEXT.Pipe(duplex=False)
        process = CONTEXT.Process(target=serve, args=(connection, folder, writer))
        process.start()
        writer.close()
        try:
            if not reader.poll(START_S):
                raise RuntimeError(f"it was not ready within {START_S} s")
            reader.recv()
        except (EOFError, RuntimeError) as error:
            process.kill()
            process.join()
            raise RuntimeError(str(error) or f"it ended with code {process.exitcode}") from None
        kernel = cls(connection_file=str(connection))
        kernel.load_connection_file()
        kernel.process = process
        return kernel

    @property
    def has_kernel(self) -> bool:
        """It was started before it was handed over."""
        return True

    async def _async_is_alive(self) -> bool:
        return bool(self.process.is_alive())

    is_alive = _async_is_alive  # its clients ask by either name

    def end(self) -> None:
        """End it; all that its cells had to do is done."""
        self.process.kill()
        self.process.join()
