"""The log of a training: ``log.csv`` and TensorBoard events.

A row per ``log_steps`` steps: loss and gradient norm are the Trainer's, rows and tokens are planned figures (exact),
rates are over the window.  On resume the rows behind the checkpoint are dropped, so the file reads as if nothing had
happened. Watch it with ``tensorboard --logdir runs/laptop/tune/TR/events``.
"""

import csv
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from tensorboardX import SummaryWriter
from transformers import TrainerCallback

from textreg.compute import Compute, matmul_peak, peak_memory_mb
from textreg.training.batches import Sample

COLUMNS = ("step", "loss", "learning_rate", "grad_norm", "rows", "tokens", "tokens_per_s", "mfu", "peak_memory_mb")


class StepLog(TrainerCallback):
    """Writes one row per log; ``loss`` is the last one.

    Args:
        order: row positions, [steps, rows per step].
        work: FLOP per step, [steps].
        start: steps done before, when resuming.
    """

    def __init__(
        self,
        folder: Path,
        samples: Sequence[Sample],
        order: np.ndarray,
        work: np.ndarray,
        how: Compute,
        device: str,
        every: int,
        start: int,
    ) -> None:
        self.path, self.order, self.work, self.device, self.every = folder / "log.csv", order, work, device, every
        self.lengths = np.array([len(sample) for sample in samples])
        self.supervised = np.array([sample.supervised for sample in samples])
        self.peak = matmul_peak(device, how.dtype)
        self.loss, self.last, self.since = float("nan"), start, perf_counter()
        self.events = folder / "events"
        self.writer: SummaryWriter | None = None
        self.start = start

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Open the files on the first process, keeping the rows up to the step resumed from."""
        self.since = perf_counter()
        if not state.is_world_process_zero:
            return
        kept = []
        if self.start and self.path.exists():
            with self.path.open(encoding="utf-8", newline="") as file:
                kept = [row for row in csv.DictReader(file) if int(row["step"]) <= self.start]
        with self.path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(kept)
        self.loss = float(kept[-1]["loss"]) if kept else self.loss
        self.writer = SummaryWriter(str(self.events), purge_step=self.start + 1 if self.start else None)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        """Close a window at every checkpoint and at the end too, so that an interruption changes no window."""
        saves = args.save_strategy == "steps" and state.global_step % args.save_steps == 0
        if saves or state.global_step == args.max_steps:
            control.should_log = True
        return control

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        """One row of figures for the steps since the last."""
        if not logs or "loss" not in logs or state.global_step == self.last:
            return
        now, step = perf_counter(), state.global_step
        chosen = self.order[self.last : step]
        seconds = max(now - self.since, 1e-9)
        tokens = int(self.lengths[chosen].sum())
        self.loss = float(logs["loss"])
        row = {
            "step": step,
            "loss": f"{self.loss:.6g}",
            "learning_rate": f"{logs.get('learning_rate', float('nan')):.6g}",
            "grad_norm": f"{float(logs.get('grad_norm', float('nan'))):.6g}",
            "rows": int(chosen.size),
            "tokens": tokens,
            "tokens_per_s": f"{tokens / seconds:.1f}",
            "mfu": f"{self.work[self.last : step].sum() / seconds / (self.peak * args.world_size):.4f}",
            "peak_memory_mb": f"{peak_memory_mb(self.device):.1f}",
        }
        self.last, self.since = step, now
        if self.writer is None:
            return
        with self.path.open("a", encoding="utf-8", newline="") as file:
            csv.DictWriter(file, COLUMNS, lineterminator="\n").writerow(row)
        for name, value in row.items():
            if name != "step":
                self.writer.add_scalar(name, float(value), step)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Close the event file."""
        if self.writer is not None:
            self.writer.close()
