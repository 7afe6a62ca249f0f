"""Training of the projector (align) or of LoRA and projector (tune), through ``transformers.Trainer`` with our loss.

The choices that are not obvious: the language head runs on supervised positions only; the summed loss is divided by
the supervised tokens of the *whole* optimizer step, so accumulation and several processes change nothing; a batch
without images still calls the projector on zero rows, which gives it true zero gradients and keeps every process in
step; a checkpoint is written under a temporary name and renamed, so a killed run resumes from a whole one, bit for bit
on CPU.

    >>> log = train(model, processor, rows, features, Tune(steps=500), "runs/laptop/tune/TR", order=order)
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from tensorboardX import SummaryWriter
from torch import nn
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.integrations import TensorBoardCallback

from textreg import compute, ranks
from textreg.errors import InputError, RunError
from textreg.files import atomic_write
from textreg.training import checkpoints as resume
from textreg.training.batches import StepBatches, encode, shuffled_order
from textreg.training.learner import Learner
from textreg.training.probing import probe_micro_batch
from textreg.vlm.adapters import PROJECTOR, plain

if TYPE_CHECKING:
    from textreg.settings import Training
    from textreg.vlm.features import Features


@dataclass(frozen=True)
class TrainLog:
    """What a training did: ``loss`` is the mean per supervised token over the last logged window; rates are those of
    this process; ``resumed_from`` is a step or 0.
    """

    steps: int
    loss: float
    rows: int
    tokens: int
    supervised: int
    seconds: float
    rows_per_s: float
    tokens_per_s: float
    peak_memory_mb: float
    micro_batch: int
    resumed_from: int
    note: str


class EqualWindows(TrainerCallback):
    """Close a window of the log at every checkpoint and at the end too, so that an interruption changes no window."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        """Ask for a line of the log."""
        saves = args.save_strategy == "steps" and state.global_step % args.save_steps == 0
        control.should_log |= saves or state.global_step == args.max_steps
        return control


class StepTrainer(Trainer):
    """``Trainer`` with checkpoints of the trained weights alone, written whole or not at all, and a stop at NaN."""

    def __init__(self, *, checkpoints: Path, projector_rate: float | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.checkpoints = checkpoints
        self.projector_rate = projector_rate

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """The Trainer's optimizer; the projector has a learning rate of its own where the settings give one."""
        made_before = self.optimizer is not None
        optimizer = super().create_optimizer(model)
        if made_before or self.projector_rate is None:
            return optimizer
        named = (self.model if model is None else model).named_parameters()
        projector = {id(parameter) for name, parameter in named if PROJECTOR in name}
        groups = []
        for group in optimizer.param_groups:
            for own in (False, True):
                members = [parameter for parameter in group["params"] if (id(parameter) in projector) == own]
                if members:
                    groups.append(group | {"params": members} | ({"lr": self.projector_rate} if own else {}))
        optimizer.param_groups = groups
        return optimizer

    def training_step(self, model: nn.Module, inputs: dict, num_items_in_batch: Any = None) -> torch.Tensor:
        """One micro-batch; on CPU the loss is checked at once, on CUDA at the next log, because looking costs a
        wait.
        """
        loss = super().training_step(model, inputs, num_items_in_batch)
        if loss.device.type == "cpu" and not torch.isfinite(loss):
            raise self.not_finite()
        return loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Refuse to go on from a loss or a gradient that is not a number."""
        if not all(np.isfinite(logs.get(name, 0.0)) for name in ("loss", "grad_norm")):
            raise self.not_finite()
        super().log(logs, start_time)

    def not_finite(self) -> RunError:
        """The error of a diverged run: where it stopped, the last good checkpoint, and what becomes of that."""
        kept = resume.latest(self.checkpoints)
        where = f"the last good checkpoint is {kept}" if kept else "there is no checkpoint yet"
        cost = ", which begins a new training and discards that checkpoint: copy it to keep it" if kept else ""
        return RunError(
            f"the loss is not a number at step {self.state.global_step + 1}: training stopped, {where}: "
            f"lower learning_rate or raise warmup{cost}"
        )

    def _get_output_dir(self, trial: Any) -> str:
        return str(resume.staging(self.checkpoints))

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        state = self.model.state_dict()
        trained = {name for name, parameter in self.model.named_parameters() if parameter.requires_grad}
        if not self.is_fsdp_enabled and not all(torch.isfinite(state[name]).all() for name in trained):
            raise self.not_finite()
        super()._save_checkpoint(model, trial)
        if self.args.world_size > 1:
            torch.distributed.barrier()
        if self.args.should_save:
            resume.publish(self.checkpoints)

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        if self.args.should_save:
            resume.save_trained(self.model, Path(output_dir), state_dict)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        resume.load_trained(self.model if model is None else model, Path(resume_from_checkpoint))


def train(
    model: nn.Module,
    processor: Any,
    rows: pd.DataFrame,
    features: "Features | None",
    settings: "Training",
    out: str | Path,
    *,
    order: Sequence[int] | np.ndarray | None = None,
) -> TrainLog:
    """Train ``model`` in place: its projector, or with an adapter attached LoRA and projector.

    Args:
        model: from :mod:`textreg.vlm.assembly`, or :func:`textreg.vlm.adapters.attach` of it.
        rows: row file (``messages``, ``image_id``); see :func:`textreg.training.batches.encode`.
        features: where images come from; None when no row has one.
        settings: :class:`textreg.settings.Align` or :class:`textreg.settings.Tune`.
        out: folder for ``log.csv``, TensorBoard ``events`` and ``checkpoints``; an unfinished training of the same
            plan in it is resumed, one of another plan is discarded with a word in the log.
        order: row positions in training order, at least ``steps * batch_size``; None: shuffled epochs from ``seed``.

    Where the processes share the model out (FSDP) it stays shared out, and its trained weights are written to
    ``out / resume.GATHERED``.

    Raises:
        InputError: rows or settings that cannot be trained on.
        RunError: the loss is not a number, or one row does not fit into the GPU.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    vlm = plain(model)
    device = vlm.device.type
    how = compute.set_up(settings.threads, precision=settings.precision, device=device)
    prepare_parameters(model, settings.activation_checkpointing)
    wanted = settings.steps * settings.batch_size
    order = shuffled_order(len(rows), wanted, settings.seed) if order is None else np.asarray(order)
    used, positions = np.unique(order[:wanted], return_inverse=True)
    samples = encode(processor, rows.iloc[used], features, max_length=settings.max_length)
    learner = Learner(model)
    trained = [name for name, parameter in learner.named_parameters() if parameter.requires_grad]
    world, leads = ranks.world(), ranks.leads()
    micro = settings.micro_batch or probe_micro_batch(learner, samples, features, settings, device)
    plan = {
        "steps": settings.steps,
        "batch_size": settings.batch_size,
        "features": features,
        "pad_id": processor.tokenizer.pad_token_id,
    }
    if settings.batch_size % (micro * world):
        raise InputError(
            f"batch_size={settings.batch_size} is no multiple of micro_batch={micro} x {world} processes: adjust one"
        )
    dataset = StepBatches(samples, positions, groups=settings.batch_size // micro, **plan)
    folder = out / "checkpoints"
    newest = resume.resumable(folder, resume.plan_key(learner, settings, samples, positions), writes=leads)
    start = resume.step_of(newest)
    events = [TensorBoardCallback(SummaryWriter(str(out / "events"), purge_step=start + 1))] if leads else []
    trainer = StepTrainer(
        checkpoints=folder,
        projector_rate=getattr(settings, "projector_learning_rate", None),
        model=learner,
        args=arguments(settings, folder, accumulation=settings.batch_size // (micro * world), device=device),
        data_collator=first,
        train_dataset=dataset,
        callbacks=[EqualWindows(), *events],
    )
    trainer.remove_callback(_printer())
    compute.reset_peak_memory(device)  # what was probed before, and did not fit, is no memory of the training
    began = perf_counter()
    try:
        trainer.train(resume_from_checkpoint=str(newest) if newest else None)
    except torch.cuda.OutOfMemoryError:
        raise RunError(
            f"the GPU ran out of memory with micro_batch={micro}: lower it, or set activation_checkpointing=true"
        ) from None
    seconds = perf_counter() - began
    model.eval()
    whole = resume.gathered(trainer.model_wrapped, trained) if trainer.is_fsdp_enabled else None
    log = pd.DataFrame([line for line in trainer.state.log_history if "loss" in line])
    if leads:
        with atomic_write(out / "log.csv") as path:
            log[["step", "loss", "learning_rate", "grad_norm"]].to_csv(path, index=False)
        if whole is not None:
            resume.write_weights(whole, out / resume.GATHERED)
        resume.discard(folder)
    done = dataset.order[start:]
    lengths = np.array([len(sample) for sample in samples])
    supervised = np.array([sample.supervised for sample in samples])
    return TrainLog(
        steps=settings.steps,
        loss=float(log["loss"].iloc[-1]),
        rows=int(dataset.order.size),
        tokens=int(lengths[dataset.order].sum()),
        supervised=int(supervised[done].sum()),
        seconds=seconds,
        rows_per_s=done.size / seconds,
        tokens_per_s=float(lengths[done].sum()) / seconds,
        peak_memory_mb=compute.peak_memory_mb(device),
        micro_batch=micro,
        resumed_from=start,
        note=how.note,
    )


def first(items: list[dict[str, Any]]) -> dict[str, Any]:
    """Collator: an item of :class:`~textreg.training.batches.StepBatches` already is a batch."""
    return items[0]


def prepare_parameters(model: nn.Module, activation_checkpointing: bool) -> None:
    """Freeze everything but the projector and, where there are any, the adapters."""
    vlm = plain(model)
    if model is vlm:
        model.requires_grad_(False)
        vlm.model.multi_modal_projector.requires_grad_(True)
    if activation_checkpointing:
        with warnings.catch_warnings():
            # The new name is younger than the oldest transformers we support.
            warnings.filterwarnings("ignore", message=".*gradient_checkpointing_enable", category=FutureWarning)
            vlm.get_decoder().gradient_checkpointing_enable({"use_reentrant": False})


def arguments(settings: "Training", folder: Path, *, accumulation: int, device: str) -> TrainingArguments:
    """Our settings in the Trainer's words."""
    chosen = TrainingArguments(
        output_dir=str(folder),
        max_steps=settings.steps,
        per_device_train_batch_size=1,  # an item of the dataset is a micro-batch
        gradient_accumulation_steps=accumulation,
        train_sampling_strategy="sequential",
        learning_rate=settings.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=round(settings.warmup * settings.steps),
        weight_decay=settings.weight_decay,
        max_grad_norm=1.0,
        optim="adamw_torch_fused",
        bf16=settings.precision != "fp32",
        use_cpu=device == "cpu",
        ddp_backend="gloo" if device == "cpu" and ranks.world() > 1 else None,
        ddp_find_unused_parameters=False,
        dataloader_num_workers=settings.workers,
        dataloader_pin_memory=device != "cpu",
        logging_steps=settings.log_steps,
        logging_nan_inf_filter=False,
        save_strategy="steps" if settings.checkpoint_steps else "no",
        save_steps=settings.checkpoint_steps or settings.steps,
        seed=settings.seed,
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        label_names=["labels"],
    )
    if chosen.n_gpu > 1:
        # Several GPUs are for torchrun; the Trainer's fallback cuts a batch along rows, which its pictures lack.
        chosen._n_gpu = 1
    return chosen


def _printer() -> type:

    return PrinterCallback
