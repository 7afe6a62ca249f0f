"""Merging a tuned VLM with its language backbone, streaming, at any size.

Every tensor is read in blocks, merged in float32 and written to its place in the output file; a worker owns a few
fixed buffers, so memory does not grow with the model.  Choices: the output has the shards, names, order and dtypes of
the tuned model, so everything that loaded it loads the merge; what is not the language model is copied byte for byte;
lambda 0 and 1 copy bytes too, so the end points are exact; the folder is built beside its final place, read back, and
renamed only when every hash agrees, so an interruption leaves nothing that looks finished and a rerun starts clean;
arrays are numpy's, because importing torch takes longer than merging a gigabyte.

    merge("runs/tuned-llava", "BSC-LT/salamandra-2b-instruct", "merged", lam=0.5)
    merge("runs/laptop/tune/TR/adapter", "my-llava", "merged", method="trim", density=0.2, patterns={"*.mlp.*": 0.3})
"""

import os
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from tqdm import tqdm

from textreg.errors import InputError, RunError
from textreg.merging.folder import building, check_place, copy_side_files, lay_out, verify_headers
from textreg.merging.methods import BLOCK, Read, Recipe, merged_blocks, spans
from textreg.merging.plan import MergePlan, Step, plan_merge
from textreg.merging.reload import finish_check, refuse_incomplete, reload_keys, start_check
from textreg.merging.report import MergeReport, TensorReport
from textreg.merging.tensors import WIDTH, Entry, Files, narrow, open_checkpoint
from textreg.merging.weights import Reader, Weights, open_weights
from textreg.vlm.layouts import canonical

TICK = 1 << 23  # bytes between two movements of the progress bar
MOST_WORKERS = 4  # beyond this the disk, not the arithmetic, sets the pace


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
    overwrite: bool = False,
    check_reload: bool = True,
    workers: int | None = None,
    progress: bool | None = None,
) -> MergeReport:
    """Merges ``tuned`` (one or several VLMs, LLMs or LoRA adapters) with the backbone ``base`` into the folder
    ``out``.

    Sources are folders or hub ids; ``lam``, ``method``, ``density``, ``gamma``, ``seed`` and ``patterns`` are those of
    :class:`~textreg.merging.methods.Recipe`; ``keep`` names tensors (patterns) that stay as tuned.  ``overwrite``
    replaces an earlier merge in ``out``, nothing else.  ``progress`` None shows a bar on a terminal, ``workers`` None
    takes a thread per core, four at most.

    Returns the report, which is also written into ``out``.  Raises :class:`InputError` when the inputs do not fit or
    the disk is too small, and :class:`RunError` when writing or verifying fails; ``out`` is then as it was.
    """
    began = time.monotonic()
    recipe = Recipe(method, lam, density, gamma, seed, dict(patterns or {}))
    sources = [tuned] if isinstance(tuned, str | Path) else list(tuned)
    if not sources:
        raise InputError("nothing to merge: give at least one tuned model")
    models = [open_weights(source, adapter_base) for source in sources]
    backbone = open_checkpoint(base)
    plan = plan_merge(models, backbone, recipe, keep)
    out = Path(out).expanduser()
    check_place(out, [*(file for model in models for file in model.files), *backbone.files], overwrite)
    with building(out, plan.nbytes) as folder:
        outputs = lay_out(plan, models[0], folder)
        copy_side_files(models[0], folder)
        checker = start_check(folder) if check_reload and "transformers.modeling_utils" not in sys.modules else None
        try:
            job = Job(recipe, plan, tuple(models), tuple(backbone.files), outputs)
            tensors = run(job, workers, progress)
            verify_headers(plan, folder)
            answer: dict[str, Any] = {"checked": False, "reason": "not asked for"}
            if check_reload:
                answer = finish_check(checker) if checker else reload_keys(folder)
                refuse_incomplete(answer)
        finally:
            if checker and checker.poll() is None:
                checker.kill()
                checker.wait()
        report = MergeReport(
            tuple(map(str, sources)), str(base), str(out), asdict(recipe), round(time.monotonic() - began, 3),
            plan.nbytes, tuple(file.name for file in models[0].checkpoint.files), plan.notes, answer, tensors,
        )  # fmt: skip
        report.write(folder)
    return report


@dataclass(frozen=True)
class Job:
    """What the workers share; nothing in it changes."""

    recipe: Recipe
    plan: MergePlan
    models: tuple[Weights, ...]
    base_files: tuple[Path, ...]
    outputs: Mapping[str, Entry]


def run(job: Job, workers: int | None, progress: bool | None) -> tuple[TensorReport, ...]:
    """Writes every tensor and reads it back; reports in stored order.  Blocks of one tensor stay with one worker."""

    # the largest first, so that none is left to the end
    steps = sorted(job.plan.steps, key=lambda step: -step.target.nbytes)
    stop = threading.Event()
    with ExitStack() as stack:
        sources = [*(file for model in job.models for file in model.files), *job.base_files]
        inputs = stack.enter_context(Files(sources))
        outputs = stack.enter_context(Files((entry.file for entry in job.outputs.values()), writable=True))
        bar = stack.enter_context(
            tqdm(
                total=job.plan.nbytes,
                unit="B",
                unit_scale=True,
                disable=None if progress is None else not progress,
            )
        )
        flusher = stack.enter_context(ThreadPoolExecutor(1))
        pool = stack.enter_context(ThreadPoolExecutor(workers or min(MOST_WORKERS, os.cpu_count() or 1)))
        local, lock = threading.local(), threading.Lock()

        def advance(nbytes: int) -> None:
            with lock:
                bar.update(nbytes)

        def work(step: Step) -> TensorReport:
            if not hasattr(local, "worker"):
                local.worker = Worker(job, inputs, outputs, stop, advance)
            with np.errstate(all="ignore"):  # values that are not finite are looked for, and refused in words
                return local.worker.write(step)

        futures = {step.name: pool.submit(work, step) for step in steps}
        try:
            # forced to disk at the end in any case; begun early, the disk works while the processor does
            flushed = flusher.submit(outputs.flush_until, stop)
            wait(futures.values(), return_when=FIRST_EXCEPTION)
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)
        ended = (*futures.values(), flushed)
        failed = [f.exception() for f in ended if not f.cancelled() and f.exception()]
        for error in sorted(failed, key=lambda error: isinstance(error, Stopped)):
            raise error
        return tuple(futures[step.name].result() for step in job.plan.steps)


class Stopped(Exception):
    """Another worker failed, or the user interrupted; this one ends early."""


class Worker:
    """One thread's readers and buffers; writes one tensor at a time."""

    def __init__(
        self, job: Job, inputs: Files, outputs: Files, stop: threading.Event, advance: Callable[[int], object]
    ):
        self.job, self.outputs, self.stop, self.advance = job, outputs, stop, advance
        self.readers = [Reader(model, inputs) for model in job.models]
        self.base = np.empty(BLOCK, np.float32)
        self.changes = [np.empty(BLOCK, np.float32) for _ in job.models]
        self.output = self.readers[0].buffer  # free again by the time a block is written

    def write(self, step: Step) -> TensorReport:
        """Writes the tensor, reads it back, compares the hashes, and says what was done."""

        if self.stop.is_set():
            raise Stopped
        entry, digest = self.job.outputs[step.name], xxhash.xxh3_128()
        change = base = 0.0
        position = shown = 0

        def put(data: memoryview) -> None:
            nonlocal position, shown
            if self.stop.is_set():
                raise Stopped
            digest.update(data)
            self.outputs.write(entry.file, entry.start + position, data)
            position += len(data)
            if position - shown >= TICK or position == entry.nbytes:
                self.advance(position - shown)
                shown = position

        if step.base is not None:
            for merged in merged_blocks(
                self.reading(step), step.merged, len(self.readers), self.job.recipe, step.lam, canonical(step.name)
            ):
                change, base = change + merged.change, base + merged.base
                if not (change + base) < float("inf"):
                    raise RunError(
                        f"{step.name} holds values that are not finite, in the tuned model or in the backbone"
                    )
                put(self.final(step, merged.start, merged.stop, merged.values))
        for start, stop in spans(entry.count - step.merged):
            put(self.kept(step, step.merged + start, step.merged + stop))
        self.read_back(step, entry, digest.hexdigest())
        compared = step.base is not None
        return TensorReport(
            step.name, step.action, entry.count, step.merged, step.lam if compared else None,
            change**0.5 if compared else None, base**0.5 if compared else None, digest.hexdigest(),
        )  # fmt: skip

    def reading(self, step: Step) -> Read:
        """The ``read(start, stop)`` of :func:`~textreg.merging.methods.merged_blocks` for one tensor."""

        def read(start: int, stop: int) -> tuple[np.ndarray, list[np.ndarray]]:
            base = self.base[: stop - start]
            self.readers[0].cast(step.base, start, stop, base)
            changes = [change[: stop - start] for change in self.changes]
            for reader, name, change in zip(self.readers, step.tuned, changes, strict=True):
                reader.floats(name, start, stop, change)
                change -= base
            return base, changes

        return read

    def final(self, step: Step, start: int, stop: int, values: np.ndarray) -> memoryview:
        """Bytes of one merged block in the output dtype; stored bytes at the end points of an interpolation."""
        width = WIDTH[step.target.dtype]
        if self.job.recipe.method in {"linear", "slerp"} and len(self.readers) == 1:
            stored = self.readers[0].stored(step.name)
            if step.lam == 0 and step.base.dtype == step.target.dtype:
                return self.readers[0].raw(step.base, start * width, (stop - start) * width)
            if step.lam == 1 and stored.dtype == step.target.dtype and step.name not in self.job.models[0].changes:
                return self.readers[0].raw(stored, start * width, (stop - start) * width)
        return self.rounded(step, values)

    def kept(self, step: Step, start: int, stop: int) -> memoryview:
        """Bytes of one block of a tensor that is not merged: the first tuned model's own."""
        reader, width = self.readers[0], WIDTH[step.target.dtype]
        stored = reader.stored(step.name)
        if stored.dtype == step.target.dtype and step.name not in reader.weights.changes:
            return reader.raw(stored, start * width, (stop - start) * width)
        values = self.base[: stop - start]
        reader.floats(step.name, start, stop, values)
        if not np.isfinite(values).all():
            raise RunError(f"{step.name} holds values that are not finite in {reader.weights.source}")
        return self.rounded(step, values)

    def rounded(self, step: Step, values: np.ndarray) -> memoryview:
        """Bytes of a block [n] float32 in the output dtype, rounded once."""
        stored = self.output.view(step.target.dtype, len(values))
        narrow(values, step.target.dtype, stored, self.output.scratch)
        if step.target.dtype == "F16" and np.isinf(stored).any():
            raise RunError(
                f"{step.name} at lambda {step.lam:g} leaves the range of float16; convert the models to bfloat16"
            )
        return self.output.bytes[: stored.nbytes]

    def read_back(self, step: Step, entry: Entry, expected: str) -> None:
        """Raises :class:`RunError` when the bytes on disk are not those that were written."""

        digest = xxhash.xxh3_128()
        for start, stop in spans(entry.nbytes, len(self.output.bytes)):
            view = self.output.bytes[: stop - start]
            self.outputs.read(entry.file, entry.start + start, view)
            digest.update(view)
        if digest.hexdigest() != expected:
            raise RunError(f"{step.name} reads back differently from what was written; check the disk and run again")
