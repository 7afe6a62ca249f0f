"""The tuning of one arm in several processes, one per GPU: what the notebook ``03_tune`` does, without the notebook.

A notebook is one process, so a run with several GPUs makes its data and its alignment as always, tunes its arms with
this command, and goes on: the arm's manifest is written as the runner writes it, and the runner finds the arm done.
What is tuned, and how, is what the run's profile and overrides say.  Each process works on its share of every step's
rows, with the whole model (DDP); ``accelerate launch --use_fsdp`` in place of ``torchrun`` shares the model out as
well (flags: the book, *How to run it*).  The first process alone writes.  Run folder and arm are arguments, not
options: torchrun takes ``--run`` for its own.

    textreg run --profile gpu --to align
    torchrun --nproc-per-node=4 -m textreg.runs.parallel runs/gpu TR
    textreg run --profile gpu
"""

import contextlib
import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from textreg import compute, ranks
from textreg.data import mixture
from textreg.data.images import ImageTable
from textreg.errors import InputError, RunError
from textreg.figures import book
from textreg.files import HashCache, atomic_write, remove_tree
from textreg.processes import largest_memory_mb
from textreg.runs import execution, manifest, plan, runner, stages
from textreg.settings import Tune
from textreg.training import checkpoints
from textreg.training.learner import Learner
from textreg.training.replay import own_answers
from textreg.training.train import TrainLog, train
from textreg.vlm import adapters, assembly, features

if TYPE_CHECKING:
    from peft import PeftModel


def look(run: Path, arm: str, root: Path) -> plan.State:
    """How the arm stands in the run, with its settings and identity.

    Raises:
        InputError: no run there, an arm its profile does not have, or a stage before this one that has not run.
    """
    profile, overrides = plan.remembered(run, root)
    (unit,) = plan.select(profile, only=["tune"], arms=[arm])
    place = plan.Place(run, root / "notebooks", overrides)
    hashes = HashCache(run / ".runner" / "hashes.json")
    states = plan.survey(profile, place, hashes, plan.with_upstream(profile, place, (unit,)))
    for other, state in states.items():
        if other != unit and state.state != "done":
            raise InputError(
                f"{unit.name} needs {other.name}, which is {state.state}: "
                f"textreg run --profile {profile.name} --run {stages.relative(run)} --to align"
            )
    return states[unit]


def tune(settings: Tune, out: Path) -> TrainLog:
    """Tune the arm in this process and its fellows; the first writes adapter, log and what the arm was shown."""
    how = compute.set_up(settings.threads, precision=settings.precision)
    ranks.join(how.device)
    run = Path(settings.run)
    rows, order = mixture.arm_rows(settings)
    model, processor = assembly.load_aligned(run / "align", precision=settings.precision, device=how.device)
    rows = own_answers(model, processor, rows, order.positions.tolist(), settings)
    ids = rows["image_id"].dropna().unique()
    images = ImageTable.read(run / "prepare_data" / "images.parquet", ids=ids)
    seen = features.open_features(model, processor, images, run / "features", ids=ids, cache=settings.cache_features)
    model = adapters.attach(model, rank=settings.rank, alpha=settings.alpha, seed=settings.seed)
    log = train(model, processor, rows, seen, settings, out, order=order.positions)
    if ranks.leads():
        print(order.describe())
        with atomic_write(out / "shown.csv") as path:
            mixture.rows_shown(rows, order).to_csv(path, index=False)
        adapters.save_adapter(whole(model, settings, out), out / "adapter")
    return log


def whole(model: "PeftModel", settings: Tune, out: Path) -> "PeftModel":
    """The trained model: ``model`` itself, or, where it is shared out, another one with the weights gathered."""
    folder = out / checkpoints.GATHERED
    if not folder.is_dir():
        return model
    # On the CPU, which has no 4-bit weights; those of the adapter are float32 in any case.
    precision = "bf16" if settings.precision == "4bit" else settings.precision
    aligned, _ = assembly.load_aligned(Path(settings.run) / "align", precision=precision)
    fresh = adapters.attach(aligned, rank=settings.rank, alpha=settings.alpha, seed=settings.seed)
    checkpoints.load_trained(Learner(fresh), folder)
    remove_tree(folder)
    return fresh


def tune_arm(run: Path, arm: str) -> None:
    """Bring one arm of a run up to date in all processes that were started.

    Raises:
        InputError: see :func:`look`; the run folder is in use.
        RunError: see :func:`textreg.training.train.train`.
    """
    state = look(run, arm, stages.repository())
    settings: Any = state.settings
    folder = run / state.unit.folder
    device = compute.set_up(settings.threads, precision=settings.precision).device
    ranks.smallest(0, device)  # all have looked before the first one changes anything
    if state.state == "done":
        print(f"{state.unit.name} is up to date")
        return
    with runner.sole(run) if ranks.leads() else contextlib.nullcontext():
        resumed = execution.prepare(folder, state.identity, fresh=False) if ranks.leads() else False
        ranks.smallest(0, device)
        began = datetime.now(UTC)
        log = tune(settings, folder)
        if not ranks.leads():
            return
        book.training(folder / "log.csv", arm, folder)
        manifest.write(
            folder,
            state.unit,
            state.identity,
            HashCache().folder(folder),
            profile=plan.remembered(run, stages.repository())[0].name,
            notebook=f"textreg.runs.parallel in {ranks.world()} processes",
            began=began,
            peak_memory_mb=largest_memory_mb(),
            threads=settings.threads,
            resumed=resumed,
        )
        (run / "notebooks" / f"{state.unit.stem}.failed.ipynb").unlink(missing_ok=True)
        print(f"{log.steps} steps, {log.rows_per_s:.0f} rows/s, {log.seconds:.0f} s, loss {log.loss:.3f}")


def main(
    run: Annotated[Path, typer.Argument(help="run folder, in which prepare_data and align are done")],
    arm: Annotated[str, typer.Argument(help="arm of the run's profile")],
) -> None:
    """Tune one arm of a run in as many processes as torchrun or accelerate launch has started."""
    try:
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(sys.stdout if ranks.leads() else nowhere):
            tune_arm(run, arm)
    except (InputError, RunError) as error:
        # Wrong input is wrong in every process: one says so.
        if ranks.leads() or isinstance(error, RunError):
            typer.echo(f"textreg: {error}", err=True)
        sys.exit(error.exit_code)
    finally:
        ranks.leave()


if __name__ == "__main__":
    typer.run(main)
