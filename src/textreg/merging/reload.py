"""Would a checkpoint folder load in transformers with every weight in its place?

The model is built on the meta device, so no weight is read; the check costs the import of its class.  A merge asks in
a process of its own, which works while the merge does and keeps the merge's memory small:

    python -m textreg.merging.reload FOLDER        # prints one JSON object
"""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from textreg.errors import InputError, RunError


def reload_keys(folder: str | Path) -> dict[str, Any]:
    """What ``from_pretrained`` says of the folder.

    Returns ``class`` (from the config's ``architectures``) and the lists ``missing``, ``unexpected`` and
    ``mismatched`` of tensor names.  A class that transformers does not have gives ``checked`` False and the reason
    instead of a guess.
    """
    if not (Path(folder) / "config.json").exists():
        return {"checked": False, "reason": "there is no config.json"}
    import transformers

    config = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
    name = (config.get("architectures") or [""])[0]
    model_class = getattr(transformers, name, None) if name else None
    if model_class is None:
        return {"checked": False, "reason": f"transformers has no class {name!r}"}
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    _, info = model_class.from_pretrained(
        folder, device_map="meta", output_loading_info=True, local_files_only=True, trust_remote_code=False
    )
    lists = {key: sorted(map(str, info[f"{key}_keys"])) for key in ("missing", "unexpected", "mismatched")}
    return {"checked": True, "class": name, **lists}


def start_check(folder: Path) -> "subprocess.Popen[str]":
    """Starts :func:`reload_keys` in a process of its own."""
    command = [sys.executable, "-m", "textreg.merging.reload", str(folder)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish_check(process: "subprocess.Popen[str]") -> dict[str, Any]:
    """The answer of :func:`start_check`'s process; :class:`RunError` when it failed, or when a model misses weights or
    has weights that nothing takes."""
    output, errors = process.communicate()
    if process.returncode:
        last = (errors.strip().splitlines() or ["no message"])[-1]
        raise RunError(f"the merged checkpoint does not load: {last}; --no-check leaves this check out")
    answer: Mapping[str, Any] = json.loads(output.strip().splitlines()[-1])
    for kind in ("missing", "unexpected", "mismatched"):
        names = answer.get(kind, [])
        if names:
            raise RunError(
                f"reloading as {answer['class']} finds {len(names)} {kind} tensor(s), {names[0]} first; "
                f"the tuned checkpoint is not complete itself (--no-check merges it all the same)"
            )
    return dict(answer)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise InputError("usage: python -m textreg.merging.reload FOLDER")
    print(json.dumps(reload_keys(sys.argv[1])))
