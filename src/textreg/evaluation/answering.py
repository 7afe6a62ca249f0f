"""Answers of every system to every request, and their scores: the work of ``04_merge`` and ``05_evaluate``.

Three choices are not obvious.  A merged system is the adapter turned down to its lambda (:mod:`textreg.vlm.sweep`),
which equals the exported merge and costs no second model.  Systems are answered side by side, one process and one
thread each, because a small model gains nothing from a second thread.  Answers are appended batch by batch under a
plan that names adapter, lambda and requests: an interrupted evaluation goes on, and an answer of another model is
never reused.

Run it: ``papermill notebooks/05_evaluate.ipynb out.ipynb``.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import nullcontext
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

from textreg.compute import die_with_parent
from textreg.data.requests import read_requests
from textreg.errors import InputError, did_you_mean, shown
from textreg.files import Journal
from textreg.settings import Evaluate, Merge

if TYPE_CHECKING:
    import pandas as pd

BACKBONE = "backbone"
MERGED = "+M"
SWEEP_COLUMNS = ("seed", "system", "lambda", "split", "lf", "lf_plus", "grounded", "visual", "questions")


@dataclass(frozen=True)
class System:
    """A row of the results: an arm's adapter at a lambda; ``arm`` empty for the aligned, untuned model."""

    name: str
    arm: str = ""
    lam: float = 1.0

    @property
    def part(self) -> str:
        """File name of its answers."""
        return f"{self.name}@{self.lam:g}.jsonl"


def system(run: str | Path, name: str) -> System:
    """The system called ``name`` in a run: ``backbone``, an arm (``TR``) or a merged arm (``TR+M``) at its chosen
    lambda.

    Raises :class:`InputError` for an arm that is not tuned, or not merged, in this run.
    """
    if name == BACKBONE:
        return System(BACKBONE)
    arm = name.removesuffix(MERGED)
    tuned = sorted(path.parent.name for path in Path(run).glob("tune/*/adapter"))
    if arm not in tuned:
        raise InputError(f"system {name!r}: no tuned arm {arm!r} in {run}{did_you_mean(arm, tuned)}; run tune first")
    return System(name, arm, chosen_lambda(run, arm) if name != arm else 1.0)


def chosen_lambda(run: str | Path, arm: str) -> float:
    """The lambda in 0..1 that ``04_merge`` chose for an arm on the validation split.

    Raises :class:`InputError` where ``choice.json`` is missing or damaged, or holds no such lambda.
    """
    path = Path(run) / "merge" / f"{arm}{MERGED}" / "choice.json"
    if not path.is_file():
        raise InputError(f"{path} is missing; run the stage merge for arm {arm} first")
    cure = f"run the stage merge for arm {arm} again with --force"
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: damaged ({str(error).partition(chr(10))[0][:120]}); {cure}") from None
    lam = content.get("lambda") if isinstance(content, dict) else None
    if isinstance(lam, bool) or not isinstance(lam, int | float) or not 0 <= lam <= 1:
        raise InputError(f"{path}: lambda = {shown(lam)}, a number from 0 to 1 is expected; {cure}")
    return float(lam)


def sweep_requests(run: str | Path, split: str) -> "pd.DataFrame":
    """What a sweep asks at every lambda: the captions of all languages and the English questions, with the image."""
    asked = read_requests(run, split, ["image"])
    return asked[(asked["task"] == "caption") | (asked["language"] == "en")].reset_index(drop=True)


def answer_arm(
    settings: Evaluate | Merge, items: Sequence[tuple[System, "pd.DataFrame", Path]]
) -> list["pd.DataFrame"]:
    """Answers of systems of one arm to their requests, as tables of the answers contract (DESIGN:
    ``answers.parquet``).

    ``items``: system, requests, file of its answers.  One loaded model serves every lambda.  Answers already in a file
    (same adapter, lambda, requests and length limit) are not asked again; where none is missing no model is loaded.
    """
    from textreg.compute import set_up
    from textreg.data.images import ImageTable
    from textreg.vlm import adapters, assembly, features
    from textreg.vlm.sweep import scaled_adapter

    compute = set_up(settings.threads, precision=settings.precision)
    run, arm = Path(settings.run), items[0][0].arm
    model: Any = None
    tables = []
    for which, requests, part in items:
        plan = answer_plan(settings, which, requests)
        keys = (f"{plan}|" + requests["arm"] + "|" + requests["item_id"] + "|" + requests["language"]).tolist()
        with Journal(part, {"answer": str}) as journal:
            missing = [position for position, key in enumerate(keys) if key not in journal]
            if missing:
                if model is None:
                    how = {"precision": settings.precision, "device": compute.device}
                    model, processor = assembly.load_aligned(run / "align", **how)
                    ids = {name for _, asked, _ in items for name in asked["image_id"].dropna()}
                    images = ImageTable.read(run / "prepare_data" / "images.parquet", ids=ids)
                    seen = features.open_features(model, processor, images, ids=sorted(ids))
                    model = adapters.load_adapter(model, run / "tune" / arm / "adapter") if arm else model
                asked = requests.iloc[missing].reset_index(drop=True)
                with scaled_adapter(model, which.lam) if arm else nullcontext():
                    _ask(settings, model, processor, seen, asked, journal, [keys[position] for position in missing])
            answers = [journal[key]["answer"] for key in keys]
        table = requests[["language", "arm", "item_id", "task", "prompt", "reference"]].copy()
        table.insert(0, "seed", settings.seed)
        table.insert(1, "system", which.name)
        table.insert(2, "lambda", which.lam)
        table.insert(8, "answer", answers)
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
    from textreg.vlm import generation

    def keep(batch: list) -> None:
        for position, answer in batch:
            journal.append(keys[position], {"answer": answer.text})

    options = {"max_new_tokens": settings.max_new_tokens, "batch_size": settings.batch_size}
    generation.answer(model, processor, asked, seen, on_batch=keep, **options)


def answer_plan(settings: Evaluate | Merge, which: System, requests: "pd.DataFrame") -> str:
    """A hash of what decides the answers: aligned projector, adapter, lambda, requests and the length limit."""
    run = Path(settings.run)
    digest = hashlib.sha256(repr((which.lam, settings.max_new_tokens, settings.precision)).encode())
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
    import pandas as pd

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


def annotated(settings: Evaluate | Merge, answers: "pd.DataFrame") -> "pd.DataFrame":
    """The answers with everything that can be said of each (:func:`textreg.fidelity.annotation.annotate`); a sweep is
    judged exactly, where that can be.
    """
    from textreg.fidelity.annotation import annotate
    from textreg.fidelity.identifiers import open_identifier

    judge = "exact" if isinstance(settings, Merge) else {"none": None, "exact": "exact"}.get(settings.judge)
    if isinstance(settings, Evaluate) and settings.judge == "llm":
        from textreg.fidelity.judges import LLMJudge
        from textreg.fidelity.service import Service

        verdicts = Path(settings.run) / "evaluate" / "verdicts.jsonl"
        judge = LLMJudge(Service(settings.judge_endpoint, settings.judge_model), verdicts)
    return annotate(answers, open_identifier(settings.identifier, model=settings.identifier_model), judge)


def sweep_table(scored: "pd.DataFrame", languages: Sequence[str], split: str) -> "pd.DataFrame":
    """One row per system and lambda from annotated image-arm answers: the columns of ``sweep.csv``.

    ``lf``, ``lf_plus`` and ``grounded`` are macro means over ``languages``; ``visual`` is the share of English
    captions whose content is right, or where people wrote the references, so that no content can be judged exactly,
    their chrF; ``questions`` is the share of English questions answered right, undefined where none was judged.  All
    in 0..1.
    """
    import pandas as pd

    from textreg.fidelity.references import caption_scores

    rows = []
    shown = scored[scored["arm"] == "image"]
    for (seed, name, lam), everything in shown.groupby(["seed", "system", "lambda"]):
        group = everything[everything["task"] == "caption"]
        asked = everything[(everything["task"] != "caption") & (everything["language"] == "en")]
        questions = asked["content"].astype(float).mean()
        foreign = group[group["language"].isin(languages)].groupby("language")
        means = {m: foreign[m].mean().astype(float).mean() for m in ("lf", "lf_plus", "grounded")}
        english = group[group["language"] == "en"]
        judged = english["content"].notna().any()
        visual = english["content"].astype(float).mean() if judged else caption_scores(english)["chrf"].mean() / 100
        seen = {"visual": visual, "questions": questions}
        rows.append({"seed": seed, "system": name, "lambda": lam, "split": split, **means, **seen})
    return pd.DataFrame(rows, columns=list(SWEEP_COLUMNS))


def choose_lambda(sweep: "pd.DataFrame", tolerated_visual_loss: float) -> float:
    """The rule of ``04_merge``: of the lambdas that see as well as lambda 1 within the tolerance, the one with the
    highest LF+, or LF where no judge said what LF+ is.

    Seeing is the mean of English captions and English questions, or captions alone where no question was judged: a
    lambda that describes well and has forgotten what tuning taught about questions is no good choice.  Ties go to the
    larger lambda, which changes the tuned model least.  Raises :class:`InputError` without lambda 1, or when there was
    no English caption to see by.
    """
    tuned = sweep[sweep["lambda"] == 1.0]
    if tuned.empty:
        raise InputError("merge.lambdas: 1.0 is missing; the rule compares every lambda with the tuned model")
    if tuned["visual"].isna().any():
        raise InputError("merge: no English caption tells what lambda costs: add en to prepare_data.languages")
    measure = "lf_plus" if sweep["lf_plus"].notna().any() else "lf"
    seeing = sweep.reindex(columns=["visual", "questions"]).mean(axis=1)  # leaves undefined ones out
    kept = sweep[seeing >= seeing[tuned.index[0]] - tolerated_visual_loss - 1e-9]
    best = kept.sort_values([measure, "lambda"], ascending=[False, False]).iloc[0]
    return float(best["lambda"])


def frontier(settings: Evaluate) -> list[System]:
    """The further lambdas at which ``05_evaluate`` asks the merged systems, for the frontier figure."""
    merged = [name for name in settings.systems if name.endswith(MERGED)]
    chosen = [system(settings.run, name) for name in merged]
    return [replace(which, lam=lam) for which in chosen for lam in settings.frontier_lambdas if lam != which.lam]


def split_frontier(scored: "pd.DataFrame", systems: Sequence[System]) -> tuple["pd.DataFrame", "pd.DataFrame"]:
    """The rows of the results (every system at its own lambda), and the points of the frontier.

    The frontier holds all lambdas of the merged systems, lambda 1 (the tuned arm) and 0 (the backbone) among them.
    """
    import pandas as pd

    own = {(which.name, which.lam) for which in systems}
    keys = list(zip(scored["system"], scored["lambda"], strict=True))
    main = scored[[key in own for key in keys]]
    merged = [which for which in systems if which.name.endswith(MERGED)]
    points = [scored[scored["system"].isin([which.name for which in merged])]]
    for which in merged:
        ends = scored[scored["system"].isin([which.arm, BACKBONE])].copy()
        ends["lambda"] = ends["lambda"].where(ends["system"] != BACKBONE, 0.0)
        points.append(ends.assign(system=which.name))
    return main, pd.concat(points, ignore_index=True)


def ifl_table(main: "pd.DataFrame", bootstrap: int) -> "pd.DataFrame":
    """Image-induced fidelity loss of LF and of LF+, per system and language, with intervals (column ``measure``)."""
    import pandas as pd

    from textreg.fidelity.measures import ifl

    captions = main[(main["task"] == "caption") & (main["language"] != "en")]
    if not {"image", "text"} <= set(captions["arm"]):
        return pd.DataFrame()
    tables = [ifl(captions, measure, bootstrap=bootstrap).assign(measure=measure) for measure in ("lf", "lf_plus")]
    return pd.concat(tables, ignore_index=True)


def comparison_table(main: "pd.DataFrame", bootstrap: int) -> "pd.DataFrame":
    """Paired differences that the claims rest on: TR, EN and BM+M against BM, TR+M against TR, on image captions."""
    import pandas as pd

    from textreg.fidelity.measures import compare

    captions = main[(main["task"] == "caption") & (main["language"] != "en")]
    present, tables = set(captions["system"]), []
    for name, against in (("TR", "BM"), ("EN", "BM"), ("TR", "EN"), ("BM+M", "BM"), ("TR+M", "TR")):
        for measure in ("lf", "lf_plus", "grounded"):
            if {name, against} <= present:
                pair = captions[captions["system"].isin([name, against])]
                found = compare(pair, name, against, measure, bootstrap=bootstrap)
                tables.append(found.assign(measure=measure))
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def write_tables(folder: Path, answers: "pd.DataFrame", tables: "dict[str, pd.DataFrame]") -> None:
    """Write ``answers.parquet`` and each table as csv, whole or not at all."""
    from textreg.files import atomic_write

    folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(folder / "answers.parquet") as path:
        answers.to_parquet(path, index=False)
    for name, table in tables.items():
        with atomic_write(folder / f"{name}.csv") as path:
            table.to_csv(path, index=False, float_format="%.6g")
