"""Merging a tuned VLM with its language backbone, streaming, at any size.

Every tensor is read in blocks, merged in float32 and written to its place in the output file, so memory does not grow
with the model.  Choices: the output has the shards, names, order and dtypes of the tuned model, so everything that
loaded it loads the merge; what is not the language model is copied byte for byte; lambda 0 and 1 copy bytes too, so
the end points are exact; the folder is built hidden beside its final place, read back, and renamed only when every
hash agrees, so an interruption leaves nothing that looks finished; only files that an earlier merge wrote are ever
replaced; arrays are numpy's, because importing torch takes longer than merging a gigabyte.

    merge("runs/tuned-llava", "BSC-LT/salamandra-2b-instruct", "merged", lam=0.5)
    merge("runs/laptop/tune/TR/adapter", "my-llava", "merged", method="trim", density=0.2, patterns={"*.mlp.*": 0.3})
"""

import json
import math
import os
import shutil
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import xxhash
from filelock import FileLock, Timeout
from tqdm import tqdm

from textreg.errors import InputError, RunError
from textreg.files import remove_tree, require_room, sweep, trouble
from textreg.merging.methods import BLOCK, Recipe, merged_blocks, spans
from textreg.merging.plan import MergePlan, Step, plan_merge
from textreg.merging.reload import Check
from textreg.merging.report import REPORT, MergeReport, TensorReport, written_by_a_merge
from textreg.merging.tensors import (
    ADAPTER_CONFIG,
    INDEX,
    TEXT_CONFIGS,
    WIDTH,
    Checkpoint,
    Entry,
    header_bytes,
    narrow,
    open_checkpoint,
    read_bytes,
    read_floats,
    read_raw,
)
from textreg.merging.weights import Reader, Weights, open_weights

MOST_WORKERS = 4  # beyond this the disk, not the arithmetic, sets the pace
SPARE = 64 * 2**20  # bytes left free beside the output: side files, and room for whoever else writes
COPIED = {".json", ".jinja", ".model", ".txt", ".tiktoken"}
NOT_COPIED = {ADAPTER_CONFIG, INDEX, REPORT, "trainer_state.json", "all_results.json"}


def merge(
    tuned: str | Path | Sequence[str | Path],
    base: str | Path,
    out: str | Path,
    lam: float = 0.5,
    method: str = "linear",
    *,
    density: float = 1.0,
    gamma: float = 0.0,
    seed: int = 0,
    patterns: Mapping[str, float] | None = None,
    keep: Sequence[str] = (),
    adapter_base: str | Path | None = None,
    untie: bool = False,
    overwrite: bool = False,
    check_reload: bool | None = None,
    workers: int | None = None,
) -> MergeReport:
    """Merges ``tuned`` (one or several VLMs, LLMs or LoRA adapters) with the backbone ``base`` into the folder
    ``out``.

    Sources are folders or hub ids; ``lam``, ``method``, ``density``, ``gamma``, ``seed`` and ``patterns`` are those of
    :class:`~textreg.merging.methods.Recipe`; ``keep`` names tensors (patterns) that stay as tuned; ``untie`` gives a
    model that ties head and embedding a head of its own where the backbone has one.  ``overwrite`` replaces an earlier
    merge in ``out``, nothing else.  ``check_reload`` None asks the class of a model where that is cheap
    (:mod:`~textreg.merging.reload`).  ``workers`` None takes a thread per core, four at most.

    Returns the report, which is also written into ``out``.  Raises :class:`InputError` when the inputs do not fit or
    the disk is too small, and :class:`RunError` when writing or verifying fails; ``out`` is then as it was.
    """
    began = time.monotonic()
    recipe = Recipe(method, lam, density, gamma, seed, dict(patterns or {}))
    sources = [tuned] if isinstance(tuned, str | Path) else list(tuned)
    if not sources:
        raise InputError("nothing to merge: give at least one tuned model")
    models = [open_weights(source, adapter_base) for source in sources]
    if adapter_base and not any(model.adapter for model in models):
        raise InputError(f"{sources[0]} is no adapter, so it has no base of its own; leave --adapter-base out")
    backbone = open_checkpoint(base)
    refuse_twice(models, backbone)
    plan = plan_merge(models, backbone, recipe, keep, untie)
    out = Path(out).expanduser()
    check_place(out, [folder for model in models for folder in model.folders] + [backbone.folder], overwrite)
    with building(out, plan.nbytes) as folder:
        outputs = lay_out(plan, models[0].checkpoint, folder)
        copy_side_files(models[0], folder, plan.untied)
        checker = Check(folder, bool(check_reload)) if check_reload is not False else None
        try:
            tensors = run(Writer(recipe, models, outputs), plan, workers)
            verify_headers(plan, folder)
            answer = checker.answer() if checker else {"checked": False, "reason": "not asked for"}
        finally:
            if checker:
                checker.stop()
        changed = any(tensor.change_norm for tensor in tensors if tensor.merged_elements)
        same = () if changed else ("tuned and backbone are equal in every tensor: nothing was merged",)
        report = MergeReport(
            tuned=tuple(map(str, sources)), base=str(base), out=str(out), recipe=asdict(recipe),
            seconds=round(time.monotonic() - began, 3), nbytes=plan.nbytes, notes=(*plan.notes, *same), reload=answer,
            written=tuple(sorted(path.name for path in folder.iterdir())), tensors=tensors,
        )  # fmt: skip
        report.write(folder)
    return report


def refuse_twice(models: Sequence[Weights], backbone: Checkpoint) -> None:
    """Raises :class:`InputError` when one model is given twice, as tuned or as the backbone too."""
    places = [model.folders[0].resolve() for model in models] + [backbone.folder.resolve()]
    for place in places:
        if places.count(place) > 1:
            raise InputError(f"{place} is given twice; give different models")


def check_place(out: Path, inputs: Sequence[Path], overwrite: bool) -> None:
    """Raises :class:`InputError` when ``out`` cannot or must not be written: an input lies in it or around it, or it
    holds a file that no merge wrote."""
    place = out.resolve()
    for folder in inputs:
        held = folder.resolve()
        if held == place:
            raise InputError(f"{out} is one of the inputs; write the merge somewhere else")
        if held.is_relative_to(place) or place.is_relative_to(held):
            raise InputError(f"{out} holds an input, or lies in one ({folder}); write the merge somewhere else")
    if not os.path.lexists(out) or (out.is_dir() and not any(out.iterdir())):
        return
    ours = written_by_a_merge(out) if out.is_dir() else set()
    if not ours:
        raise InputError(f"{out} exists and is no earlier merge; choose another folder or remove it")
    if foreign := sorted({path.name for path in out.iterdir()} - ours):
        raise InputError(f"{out} holds {foreign[0]}, which no merge wrote; move it away, or choose another folder")
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
    require_room(out.parent, 0, "choose another folder")
    try:
        lock.acquire()
    except Timeout:
        raise RunError(f"another merge is writing {out}; wait for it to end") from None
    try:
        remove_tree(folder)
        require_room(out.parent, nbytes + SPARE, "choose another disk")
        folder.mkdir()
        yield folder
        for path in (*folder.iterdir(), folder):
            sync(path)
        remove_tree(out)
        folder.rename(out)
        sync(out.parent)
    except OSError as error:
        raise RunError(f"{trouble(error, str(out))}; nothing was left behind") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        sweep(out.parent, out.name)
        lock.release()
        Path(lock.lock_file).unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Forces a file, or the entries of a folder, to disk; Windows opens no folder, and forces what can be written."""
    if os.name == "nt" and path.is_dir():
        return
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def lay_out(plan: MergePlan, first: Checkpoint, folder: Path) -> dict[str, Entry]:
    """Creates the output files with their headers and full length, and returns where each tensor goes.

    A disk that is too small shows now, where the system can give a file its place at once.
    """
    outputs: dict[str, Entry] = {}
    for file in first.files:
        entries = [step.target for step in plan.steps if step.target.file == file]
        header = header_bytes(entries, first.metadata[file.name])
        start = len(header)
        length = start + sum(entry.nbytes for entry in entries)
        with (folder / file.name).open("wb") as stream:
            stream.write(header)
            stream.flush()
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(stream.fileno(), 0, length)
            else:
                stream.truncate(length)
        for entry in entries:
            outputs[entry.name] = replace(entry, file=folder / file.name, start=start)
            start += entry.nbytes
    if len(first.files) > 1:
        places = {name: entry.file.name for name, entry in outputs.items()}
        index = {"metadata": {"total_size": plan.nbytes}, "weight_map": places}
        (folder / INDEX).write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")
    return outputs


def copy_side_files(first: Weights, folder: Path, untied: bool) -> None:
    """Configuration, tokenizer, processor and template; an adapter's own files win over those of its base."""
    for source in reversed(first.folders):
        for path in sorted(source.iterdir()):
            wanted = path.suffix in COPIED or path.name.startswith(("LICENSE", "NOTICE"))
            if path.is_file() and wanted and path.name not in NOT_COPIED:
                shutil.copyfile(path, folder / path.name)
    if untied and (folder / "config.json").exists():
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        for part in (config, *(config.get(name) or {} for name in TEXT_CONFIGS)):
            part["tie_word_embeddings"] = False
        (folder / "config.json").write_text(json.dumps(config, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def verify_headers(plan: MergePlan, folder: Path) -> None:
    """Raises :class:`RunError` unless the folder holds every planned tensor in its shape and dtype, and no other."""
    wanted = {(step.name, step.target.dtype, step.target.shape) for step in plan.steps}
    found = {(entry.name, entry.dtype, entry.shape) for entry in open_checkpoint(folder).tensors.values()}
    if wanted != found:
        odd = sorted(wanted ^ found)[0]
        raise RunError(f"the merged checkpoint lacks {odd[0]} as planned; this is a defect, please report it")


def run(writer: "Writer", plan: MergePlan, workers: int | None) -> tuple[TensorReport, ...]:
    """Writes every tensor and reads it back; reports in stored order.  Blocks of one tensor stay with one thread."""
    done: dict[str, TensorReport] = {}
    bar = tqdm(total=plan.nbytes, unit="B", unit_scale=True, disable=None)  # None: on a terminal
    with bar, ThreadPoolExecutor(workers or min(MOST_WORKERS, os.cpu_count() or 1)) as pool:
        # the largest first, so that none is left to the end
        steps = sorted(plan.steps, key=lambda step: -step.target.nbytes)
        futures = {pool.submit(writer.write, step): step for step in steps}
        try:
            for future in as_completed(futures):
                done[futures[future].name] = future.result()
                bar.update(futures[future].target.nbytes)
        finally:
            writer.stop.set()
            pool.shutdown(cancel_futures=True)
    return tuple(done[step.name] for step in plan.steps)


@dataclass(frozen=True)
class Writer:
    """Writes tensors to ``outputs``, several at a time in threads of their own, until ``stop`` is set."""

    recipe: Recipe
    models: Sequence[Weights]
    outputs: Mapping[str, Entry]
    stop: threading.Event = field(default_factory=threading.Event)

    def write(self, step: Step) -> TensorReport:
        """Writes the tensor, reads it back, compares the hashes, and says what was done."""
        entry, digest = self.outputs[step.name], xxhash.xxh3_128()
        change = base = 0.0
        with entry.file.open("r+b") as file, np.errstate(all="ignore"):  # what is not finite is refused in words
            file.seek(entry.start)
            for block, changed, had in self.blocks(step, [Reader(model) for model in self.models]):
                if self.stop.is_set():
                    raise RunError("the merge was stopped")
                change, base = change + changed, base + had
                stored = block.view(np.uint8)
                digest.update(stored)
                file.write(stored)
        written = xxhash.xxh3_128()
        for start, stop in spans(entry.nbytes, 4 * BLOCK):
            written.update(read_bytes(entry, start, stop))
        if written.digest() != digest.digest():
            raise RunError(f"{step.name} reads back differently from what was written; check the disk and run again")
        compared = step.base is not None
        return TensorReport(
            name=step.name, key=step.key, action=step.action, elements=entry.count, merged_elements=step.merged,
            lam=step.lam if compared else None, change_norm=math.sqrt(change) if compared else None,
            base_norm=math.sqrt(base) if compared else None, xxh3_128=digest.hexdigest(),
        )  # fmt: skip

    def blocks(self, step: Step, readers: Sequence[Reader]) -> Iterator[tuple[np.ndarray, float, float]]:
        """The tensor's blocks in order, as they are stored, with the squared norms of change and base that each adds:
        merged ones (stored bytes at the end points of an interpolation), then the first tuned model's own where the
        backbone does not reach."""
        name, first = step.tuned[0], readers[0]
        own = first.weights.stored(name)
        as_stored = own.dtype == step.target.dtype and name not in first.weights.changes
        if step.base is not None:

            def read(start: int, stop: int) -> tuple[np.ndarray, list[np.ndarray]]:
                base = read_floats(step.base, start, stop)
                tuned = [reader.floats(name, start, stop) for reader, name in zip(readers, step.tuned, strict=True)]
                return base, [values - base for values in tuned]

            ends = {1.0: own} if as_stored else {}
            ends |= {0.0: step.base} if step.base.dtype == step.target.dtype else {}
            exact = self.recipe.method in {"linear", "slerp"} and len(readers) == 1 and step.lam in ends
            for merged in merged_blocks(read, step.merged, len(readers), self.recipe, step.lam, step.key):
                start, stop = merged.start, merged.stop
                if not math.isfinite(merged.change + merged.base):
                    raise RunError(
                        f"{step.name} holds values that are not finite, in the tuned model or in the backbone"
                    )
                stored = read_raw(ends[step.lam], start, stop) if exact else rounded(step, merged.values)
                yield stored, merged.change, merged.base
        if step.target.dtype not in WIDTH:
            for start, stop in spans(own.nbytes, 4 * BLOCK):
                yield read_bytes(own, start, stop), 0.0, 0.0
            return
        for start, stop in spans(step.target.count - step.merged):
            start, stop = step.merged + start, step.merged + stop
            kept = read_raw(own, start, stop) if as_stored else rounded(step, first.floats(name, start, stop))
            yield kept, 0.0, 0.0


def rounded(step: Step, values: np.ndarray) -> np.ndarray:
    """A block [n] float32 in the output dtype, rounded once; RunError where it does not fit or is not finite."""
    stored = narrow(values, step.target.dtype)
    if not np.isfinite(values).all():
        raise RunError(f"{step.name} at lambda {step.lam:g} is not finite; take a smaller lambda")
    if step.target.dtype == "F16" and np.isinf(stored).any():
        raise RunError(
            f"{step.name} at lambda {step.lam:g} leaves the range of float16; convert the models to bfloat16"
        )
    return stored
