"""Answers of every system to every request: what ``04_merge`` and ``05_evaluate`` ask, at every lambda.

Three choices are not obvious.  A merged system is the adapter turned down to its lambda (:mod:`textreg.vlm.adapters`),
which equals the exported merge and costs no second model.  Systems are answered side by side, one process and one
thread each, because a small model gains nothing from a second thread.  Answers are appended batch by batch under a
plan that names adapter, lambda and requests: an interrupted evaluation goes on, and an answer of another model is
never reused; with each stands why it ended, so that the share that the token limit cut off is known.

Run it: ``papermill notebooks/05_evaluate.ipynb out.ipynb``.
"""

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import nullcontext
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pandas as pd

from textreg.compute import set_up
from textreg.evaluation.served import ask_server
from textreg.files import Journal
from textreg.processes import die_with_parent
from textreg.settings import Evaluate, Merge
from textreg.vlm import generation
from textreg.vlm.adapters import scaled_adapter
from textreg.vlm.systems import System, open_system


def answer_arm(
    settings: Evaluate | Merge, items: Sequence[tuple[System, "pd.DataFrame", Path]]
) -> list["pd.DataFrame"]:
    """Answers of systems of one arm to their requests, as tables of the answers contract (DESIGN:
    ``answers.parquet``).

    ``items``: system, requests, file of its answers.  One loaded model serves every lambda.  Answers already in a file
    (same adapter, lambda, requests and length limit) are not asked again; where none is missing no model is loaded.
    """
    compute = set_up(settings.threads, precision=settings.precision)
    arm = items[0][0].arm
    model: Any = None
    tables = []
    for which, requests, part in items:
        plan = answer_plan(settings, which, requests)
        keys = (f"{plan}|" + requests["arm"] + "|" + requests["item_id"] + "|" + requests["language"]).tolist()
        with Journal(part, {"answer": str, "finish": str}) as journal:
            missing = [position for position, key in enumerate(keys) if key not in journal]
            if missing and getattr(settings, "endpoint", ""):
                ask_server(settings, which.name, requests.iloc[missing], journal, [keys[place] for place in missing])
            elif missing:
                if model is None:
                    ids = sorted({name for _, asked, _ in items for name in asked["image_id"].dropna()})
                    how = {"precision": settings.precision, "device": compute.device}
                    model, processor, seen = open_system(settings.run, arm, ids, **how)
                asked = requests.iloc[missing].reset_index(drop=True)
                with scaled_adapter(model, which.lam) if arm else nullcontext():
                    _ask(settings, model, processor, seen, asked, journal, [keys[position] for position in missing])
            said = [journal[key] for key in keys]
        table = requests[["language", "arm", "item_id", "task", "prompt", "reference"]].copy()
        table.insert(0, "seed", settings.seed)
        table.insert(1, "system", which.name)
        table.insert(2, "lambda", which.lam)
        table.insert(8, "answer", [each["answer"] for each in said])
        table["finish"] = [each["finish"] for each in said]
        tables.append(table)
    return tables


def _ask(
    settings: Evaluate | Merge,
    model: Any,
    processor: Any,
    seen: Any,
    asked: "pd.DataFrame",
    journal: Journal,
    keys: Sequence[str],
) -> None:
    """Answer ``asked`` and keep every batch in the journal, row by row under its key."""

    def keep(batch: list) -> None:
        for position, answer in batch:
            journal.append(keys[position], {"answer": answer.text, "finish": answer.finish})

    options = {"max_new_tokens": settings.max_new_tokens, "batch_size": settings.batch_size}
    generation.answer(model, processor, asked, seen, on_batch=keep, **options)


def answer_plan(settings: Evaluate | Merge, which: System, requests: "pd.DataFrame") -> str:
    """A hash of what decides the answers: aligned projector, adapter, lambda, requests and the length limit."""
    run = Path(settings.run)
    served = bool(getattr(settings, "endpoint", ""))
    digest = hashlib.sha256(repr((which.lam, settings.max_new_tokens, settings.precision, served)).encode())
    files = [run / "align" / "projector.safetensors", run / "align" / "base.json"]
    if which.arm:
        files += sorted((run / "tune" / which.arm / "adapter").glob("*.safetensors"))
    for path in files:
        digest.update(path.read_bytes())
    digest.update(requests[["prompt", "image_id", "arm", "item_id"]].to_csv(index=False).encode())
    return digest.hexdigest()[:16]


def answer_all(
    settings: Evaluate | Merge,
    work: Sequence[tuple[System, "pd.DataFrame"]],
    folder: Path,
    report: Callable[[str], None] = print,
) -> "pd.DataFrame":
    """Answer several systems; one table of all answers, in the order of ``work``.

    With one worker the systems of an arm share a loaded model; with more each system has a process of its own, side by
    side.  ``report`` is told when a system is done.
    """

    items = [(which, requests, folder / which.part) for which, requests in work]
    workers = min(getattr(settings, "workers", 1), len(work))
    tables: dict[int, pd.DataFrame] = {}

    def done(numbers: Sequence[int], found: Sequence[pd.DataFrame]) -> None:
        for number, table in zip(numbers, found, strict=True):
            tables[number] = table
            report(f"{items[number][2].stem}: {len(table)} answers")

    if workers <= 1:
        for arm in dict.fromkeys(which.arm for which, _, _ in items):
            numbers = [number for number, item in enumerate(items) if item[0].arm == arm]
            done(numbers, answer_arm(settings, [items[number] for number in numbers]))
    else:
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=die_with_parent) as pool:
            futures = {pool.submit(answer_arm, settings, [item]): number for number, item in enumerate(items)}
            for future in as_completed(futures):
                done([futures[future]], future.result())
    return pd.concat([tables[number] for number in range(len(work))], ignore_index=True)
