"""Ways to merge beside the linear one, before TR and after it: does one of them leave the line of lambda?

The runs of ``textreg study merging`` are merged by ``textreg merge``'s own function, with the language model they
started from, and answer the study's pictures and English questions.  With one tuned model TIES is ``trim`` and DARE is
``drop``.  Writes ``methods.csv`` (rows as in the study's table) and ``methods.md`` (verdicts on what was predicted
before any of these merges was made, and the means) beside that table.

    textreg study merging --again && python bench/merging_methods.py
"""

from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import pandas as pd
import torch
import typer

from textreg.book.pages import over_seeds, table
from textreg.book.studies import verdicts_table
from textreg.data.images import ImageTable
from textreg.evaluation.sweep import sweep_requests
from textreg.evaluation.tables import annotated
from textreg.merging.merge import merge
from textreg.runs import study_table
from textreg.runs.study import Expected
from textreg.settings import Evaluate
from textreg.vlm.assembly import read_base
from textreg.vlm.export import export_system
from textreg.vlm.features import open_features
from textreg.vlm.generation import answer
from textreg.vlm.loading import source
from textreg.vlm.published import load_vlm
from textreg.vlm.systems import System


@dataclass(frozen=True)
class Way:
    """A merge: its name in the table, and what :func:`textreg.merging.merge.merge` is told."""

    name: str
    lam: float
    told: dict[str, Any] = field(default_factory=dict)


LOWER, UPPER = "*layers.[01].*", "*layers.[23].*"
WAYS = (
    Way("linear", 1.0),
    Way("linear", 0.85),
    Way("linear", 0.5),
    Way("TIES, a fifth kept", 1.0, {"method": "trim", "density": 0.2}),
    Way("TIES, half kept", 1.0, {"method": "trim", "density": 0.5}),
    Way("DARE, a fifth kept", 1.0, {"method": "drop", "density": 0.2}),
    Way("DARE, half kept", 1.0, {"method": "drop", "density": 0.5}),
    Way("lower half at 0.3", 1.0, {"patterns": {LOWER: 0.3}}),
    Way("upper half at 0.3", 1.0, {"patterns": {UPPER: 0.3}}),
)
BM, TR, WHOLE = {"system": "BM"}, {"system": "TR"}, {"method": "linear", "lambda": 1.0}
SEEING = {"task": "questions", "group": "en", "measure": "content"}
#: Written before the first of these merges.
EXPECTED = (
    Expected(says="TIES with a fifth kept stays below TR", of=BM | {"method": "TIES, a fifth kept"},
             against=TR | WHOLE, at_most=0.0),
    Expected(says="DARE with half kept changes what linear at 1 says by little", of=BM | {"method": "DARE, half kept"},
             against=BM | WHOLE, within=0.05),
    Expected(says="the upper layers hold the loss: turning them down gives back more than turning the lower ones down",
             of=BM | {"method": "upper half at 0.3"}, against=BM | {"method": "lower half at 0.3"}, at_least=0.0),
    Expected(says="layer by layer or not, merging alone stays below TR", of=BM | {"method": "upper half at 0.3"},
             against=TR | WHOLE, at_most=0.0),
    Expected(says="turning the upper layers down costs seeing", of=BM | {"method": "upper half at 0.3"},
             against=BM | WHOLE, at_most=0.0, **SEEING),
)  # fmt: skip


def asked(run: Path, seed: int, arm: str, way: Way, tuned: Path) -> pd.DataFrame:
    """Scored answers of one merge to the test pictures."""
    settings = Evaluate(run=str(run), seed=seed)
    requests = sweep_requests(run, "test")
    with TemporaryDirectory() as place:
        merge(
            tuned, source(read_base(run / "align").llm, "llm"), Path(place) / "out", way.lam,
            seed=seed, check_reload=False, workers=1, **way.told,
        )  # fmt: skip
        model, processor = load_vlm(str(Path(place) / "out"))
        images = ImageTable.read(run / "prepare_data" / "images.parquet", ids=requests["image_id"])
        seen = open_features(model, processor, images, ids=requests["image_id"].unique())
        said = answer(model, processor, requests, seen, max_new_tokens=settings.max_new_tokens)
    found = requests[["language", "arm", "item_id", "task", "prompt", "reference"]].copy()
    found = found.assign(seed=seed, system=arm, answer=[each.text for each in said], finish=[x.finish for x in said])
    return annotated(settings, found.assign(**{"lambda": way.lam}))


def page(found: pd.DataFrame) -> str:
    """Verdicts and means as Markdown."""
    lines = []
    for (name, lam), mine in found.groupby(["method", "lambda"], sort=False):
        cells = []
        for arm in ("BM", "TR"):
            for task, group, measure in (("caption", "foreign", "asked"), ("questions", "en", "content")):
                rows = study_table.rows_of(mine, system=arm, task=task, group=group)
                cells.append(over_seeds(rows[measure]))
        lines.append([name, f"{lam:g}", *cells])
    head = ["merged by", "lambda", "BM: asked language", "BM: English questions", "TR: asked", "TR: questions"]
    seeds = found["seed"].nunique()
    means = table(
        head, lines, f"Means over {seeds} seeds in per cent, with their range; pictures of the study merging"
    )
    return verdicts_table(found, EXPECTED) + "\n" + means


def main(
    runs: Annotated[Path, typer.Option(help="of the study merging")] = Path("runs/studies/merging"),
    out: Annotated[Path, typer.Option()] = Path("results/studies/merging"),
) -> None:
    """Merge, ask, score and write."""
    torch.set_num_threads(1)
    tables = []
    for run in sorted(runs.glob("*-seed-*")):
        seed = int(run.name.rpartition("-")[2])
        for arm in ("BM", "TR"):
            with TemporaryDirectory() as place:
                tuned = export_system(run, System(arm, arm, 1.0), Path(place) / "tuned")
                for way in WAYS:
                    scored = asked(run, seed, arm, way, tuned)
                    groups = {"foreign": sorted(set(scored["language"]) - {"en"}), "en": ["en"]}
                    rows = study_table.rows(scored, groups)
                    rows.insert(0, "run", run.name)
                    rows.insert(1, "method", way.name)
                    tables.append(rows.assign(seed=seed))
                    typer.echo(f"seed {seed}, {arm}, {way.name}, lambda {way.lam:g}")
    found = pd.concat(tables, ignore_index=True)
    found.to_csv(out / "methods.csv", index=False, float_format="%.6g")
    (out / "methods.md").write_text(page(found), encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
