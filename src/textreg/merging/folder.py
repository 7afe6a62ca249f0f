"""The folder a merge is written into: built hidden beside its place, and only renamed when it is complete.

Choices: the disk is checked before a byte is written, a lock keeps two merges out of one place, what a killed merge
left is removed by the next one, and only a folder that holds an earlier merge is ever replaced.  Files are forced to
disk before the renaming and the renaming after it, so that a power cut, too, leaves a whole merge or none.
"""

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from errno import EDQUOT, ENOSPC
from pathlib import Path

from filelock import FileLock, Timeout

from textreg.errors import InputError, RunError
from textreg.merging.plan import MergePlan
from textreg.merging.report import REPORT
from textreg.merging.tensors import INDEX, SINGLE, Entry, header_bytes, open_checkpoint
from textreg.merging.weights import ADAPTER_CONFIG, Weights

SPARE = 64 * 2**20  # bytes left free beside the output: side files, and room for whoever else writes
COPIED = {".json", ".jinja", ".model", ".txt", ".tiktoken"}
NOT_COPIED = {ADAPTER_CONFIG, REPORT, "trainer_state.json", "all_results.json"}


def check_place(out: Path, inputs: Sequence[Path], overwrite: bool) -> None:
    """Raises :class:`InputError` when ``out`` cannot or must not be written."""
    if any(out.resolve() == file.parent.resolve() for file in inputs):
        raise InputError(f"{out} is one of the inputs; write the merge somewhere else")
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not out.is_dir() or not (out / REPORT).exists():
        raise InputError(f"{out} exists and is no earlier merge; choose another folder or remove it")
    if not overwrite:
        raise InputError(f"{out} already holds a merge; choose another folder, or --force to replace it")


@contextmanager
def building(out: Path, nbytes: int) -> Iterator[Path]:
    """A hidden folder beside ``out`` that becomes ``out`` when the block ends well, and disappears when it does not.

    Raises :class:`InputError` when the disk is too small for ``nbytes``, :class:`RunError` when it fills up all the
    same or another merge is writing to the same place.
    """

    folder = out.parent / f".{out.name}.partial"
    lock = FileLock(out.parent / f".{out.name}.lock", timeout=0)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise RunError(f"another merge is writing {out}; wait for it to end") from None
    except OSError as error:
        raise InputError(f"cannot write to {out.parent} ({error.strerror}); choose another folder") from error
    try:
        shutil.rmtree(folder, ignore_errors=True)
        free = shutil.disk_usage(out.parent).free
        if free < nbytes + SPARE:
            raise InputError(
                f"the merge needs {(nbytes + SPARE) / 1e9:.2f} GB and {out.parent} has {free / 1e9:.2f} GB free; "
                f"make room or choose another disk"
            )
        folder.mkdir()
        yield folder
        for path in (*folder.iterdir(), folder):
            sync(path)
        old = out.parent / f".{out.name}.replaced"
        shutil.rmtree(old, ignore_errors=True)
        if out.exists():
            out.rename(old)
        folder.rename(out)
        sync(out.parent)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        full = error.errno in (ENOSPC, EDQUOT)
        what = f"the disk of {out.parent} is full" if full else f"writing {out} failed ({error})"
        raise RunError(f"{what}; nothing was left behind, {'make room and ' if full else ''}run again") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        lock.release()
        Path(lock.lock_file).unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Forces a file, or the entries of a folder, to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def lay_out(plan: MergePlan, first: Weights, folder: Path) -> dict[str, Entry]:
    """Creates the output files with their headers and full length, and returns where each tensor goes.

    A replaced tensor has the dtype of the checkpoint it goes into.
    """
    outputs: dict[str, Entry] = {}
    for file in first.checkpoint.files:
        entries = [step.target for step in plan.steps if step.target.file == file]
        header = header_bytes(entries, first.checkpoint.metadata[file.name])
        start = len(header)
        with (folder / file.name).open("wb") as stream:
            stream.write(header)
            stream.flush()
            reserve(stream.fileno(), start + sum(entry.nbytes for entry in entries))
        for entry in entries:
            outputs[entry.name] = replace(entry, file=folder / file.name, start=start)
            start += entry.nbytes
    return outputs


def reserve(handle: int, nbytes: int) -> None:
    """Gives an open file its full length and, where the system can, its place on the disk: a disk that is too small
    shows now, and writing is faster."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(handle, 0, nbytes)
    else:
        os.truncate(handle, nbytes)


def copy_side_files(first: Weights, folder: Path) -> None:
    """Configuration, tokenizer, processor and template; an adapter's own files win over those of its base."""
    left_out = NOT_COPIED | ({INDEX} if first.checkpoint.files[0].name == SINGLE else set())
    for source in filter(None, (first.checkpoint.folder, first.adapter)):
        for path in sorted(source.iterdir()):
            wanted = path.suffix in COPIED or path.name.startswith(("LICENSE", "NOTICE"))
            if path.is_file() and wanted and path.name not in left_out:
                shutil.copyfile(path, folder / path.name)


def verify_headers(plan: MergePlan, folder: Path) -> None:
    """Raises :class:`RunError` unless the folder holds every planned tensor in its shape and dtype, and no other."""
    written = open_checkpoint(folder).tensors
    wanted = {step.name: (step.target.dtype, step.target.shape) for step in plan.steps}
    found = {name: (entry.dtype, entry.shape) for name, entry in written.items()}
    if wanted != found:
        odd = sorted(set(wanted.items()) ^ set(found.items()))[0]
        raise RunError(f"the merged checkpoint lacks {odd[0]} as planned; this is a defect, please report it")
