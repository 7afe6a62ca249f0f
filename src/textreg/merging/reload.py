"""Would a checkpoint folder load in transformers with every weight in its place?

The model is built on the meta device, so no weight is read; the check costs the import of its class, which is as much
as merging a gigabyte, half of it torch.  So a merge asks in a process of its own, which keeps its memory small;
a good answer is kept for the next merge of the same configuration, names, shapes and dtypes, until transformers is
another one; and a merge below :data:`WORTH_IT` asks only when told to: it lacks no more than its tuned model does.

    python -m textreg.merging.reload FOLDER        # prints one JSON object
"""

import json
import subprocess
import sys
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

from huggingface_hub import constants

from textreg.errors import RunError
from textreg.files import digest, write_json
from textreg.merging.tensors import open_checkpoint

PROBLEMS = ("missing", "unexpected", "mismatched")
WORTH_IT = 3 * 10**9  # bytes of a checkpoint, from which the check costs at most half of the merge


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
    lists = {key: sorted(map(str, info[f"{key}_keys"])) for key in PROBLEMS}
    return {"checked": True, "class": name, **lists}


class Check:
    """:func:`reload_keys` of a folder whose headers and configuration are written, asked for while others work;
    ``always``: also of a small checkpoint of which no answer is known."""

    def __init__(self, folder: Path, always: bool):
        config, tensors = folder / "config.json", open_checkpoint(folder).tensors.values()
        entries = [(entry.name, entry.dtype, entry.shape) for entry in tensors]
        told = [version("transformers"), config.read_text(encoding="utf-8") if config.exists() else "", entries]
        self._kept = Path(constants.HF_HOME, "textreg", f"{digest(told)}.json")
        self._process: subprocess.Popen[str] | None = None
        self._known = {"checked": False, "reason": "its class takes longer to import than this merge; --check asks it"}
        try:
            self._known = dict(json.loads(self._kept.read_text(encoding="utf-8")))
        except (OSError, ValueError):
            if not always and sum(entry.nbytes for entry in tensors) < WORTH_IT:
                return
            command = [sys.executable, "-m", "textreg.merging.reload", str(folder)]
            self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def answer(self) -> dict[str, Any]:
        """Waits for it; :class:`RunError` when it failed, or when a model misses weights or has some that nothing
        takes."""
        if self._process is None:
            return self._known
        output, errors = self._process.communicate()
        if self._process.returncode:
            last = (errors.strip().splitlines() or ["no message"])[-1]
            raise RunError(f"the merged checkpoint does not load: {last}; --no-check leaves this check out")
        answer: dict[str, Any] = json.loads(output.strip().splitlines()[-1])
        for kind in PROBLEMS:
            if names := answer.get(kind):
                raise RunError(
                    f"reloading as {answer['class']} finds {len(names)} {kind} tensor(s), {names[0]} first; "
                    f"the tuned checkpoint is not complete itself (--no-check merges it all the same)"
                )
        if answer["checked"]:
            with suppress(OSError):  # where nothing can be kept, the next merge asks again
                write_json(self._kept, answer)
        return answer

    def stop(self) -> None:
        """Ends the process if it is still at work."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()


if __name__ == "__main__":
    print(json.dumps(reload_keys(sys.argv[1])))
