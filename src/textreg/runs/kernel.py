"""The kernel that executes the notebooks: IPython's own, tied to the process that started it.

Started by Jupyter through the kernelspec in ``textreg/jupyter`` as ``python -m textreg.runs.kernel -f CONNECTION``;
``python`` there is the interpreter of the running environment, never a kernel of the same name elsewhere.  It keeps
no history on disk, and it does not print that it runs over TCP (on the loopback device, as every Jupyter kernel
does).
"""

import os
import sys
from pathlib import Path


def main() -> None:
    """Run the kernel until it is told to stop or its parent is gone."""
    if sys.path[0] == "" or Path(sys.path[0]) == Path.cwd():
        del sys.path[0]  # as ipykernel_launcher: a file beside the notebook must not shadow a module of the kernel

    from textreg.processes import die_with_parent

    parent = os.environ.get("JPY_PARENT_PID", "")
    die_with_parent(int(parent) if parent.isdigit() else None)

    from ipykernel.kernelapp import launch_new_instance

    launch_new_instance(argv=[*sys.argv[1:], "--HistoryManager.enabled=False", "--IPKernelApp.log_level=40"])


if __name__ == "__main__":
    main()
