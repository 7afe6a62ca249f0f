"""Aligned with and without prompts, looked at inside: does the picture become an English context, and what does tuning
then have left to do?

Reads what ``07_mechanism`` wrote in the runs of ``textreg study alignment_prompts``.  A row of ``inside.csv`` is one
run and system: ``dose``, what its visual tokens' component along English adds to the probability that the answer opens
in English (0..1); and for a tuned system the update of the states that predict the first token, mean over layers:
``along`` English context minus context in the asked language, and its ``length``, both as parts of the length of BM's
in the run of the same seed with prompts.
``inside.md`` has the verdicts on what was predicted before the notebook ran there, and the means.

    textreg study alignment_prompts --again && python bench/alignment_inside.py
"""

from pathlib import Path
from typing import Annotated

import pandas as pd
import typer

from textreg.book.pages import over_seeds, table
from textreg.book.studies import verdicts_table
from textreg.runs.study import Expected

BARE, PROMPTED = {"align.prompts": 0.0}, {"align.prompts": 1.0}
#: Written before the notebook ran on these runs.
EXPECTED = (
    Expected(says="without prompts the English in visual tokens pulls the untuned model more",
             of={"system": "backbone"} | BARE, against={"system": "backbone"} | PROMPTED, measure="dose",
             at_least=0.05),
    Expected(says="less is left to learn: BM moves less towards English context", of={"system": "BM"} | BARE,
             against={"system": "BM"} | PROMPTED, measure="along", at_most=0.0),
    Expected(says="more is to do elsewhere: BM moves further in all", of={"system": "BM"} | BARE,
             against={"system": "BM"} | PROMPTED, measure="length", at_least=0.0),
)  # fmt: skip


def of_run(run: Path) -> pd.DataFrame:
    """Rows of one run, with the update's ``along`` and ``length`` as they were measured."""
    dose = pd.read_csv(run / "mechanism" / "dose.csv").query("context == 'visual tokens'")
    mean = dose.groupby(["system", "share"])["english"].mean().unstack()
    update = pd.read_csv(run / "mechanism" / "update.csv").groupby("system")[["along", "length"]].mean()
    found = update.join((mean[1.0] - mean[0.0]).rename("dose"), how="right").reset_index()
    prompts, _, seed = run.name.removeprefix("prompts-").partition("-seed-")
    found.insert(0, "run", run.name)
    # A study's verdicts look rows up by these.
    usual = {"task": "caption", "arm": "image", "group": "foreign"}
    return found.assign(seed=int(seed), **{"align.prompts": float(prompts)}, **usual)


def page(found: pd.DataFrame) -> str:
    """Verdicts and means as Markdown."""
    rows = []
    for (system, prompts), mine in found.groupby(["system", "align.prompts"], sort=False):
        cells = (over_seeds(mine[name]) for name in ("dose", "along", "length"))
        rows.append([system, f"{prompts:g}", *cells])
    head = ["system", "prompts in alignment", "English in visual tokens adds", "update along English", "its length"]
    title = f"Means over {found['seed'].nunique()} seeds with their range; updates in per cent of BM's with prompts"
    return verdicts_table(found, EXPECTED) + "\n" + table(head, rows, title)


def main(
    runs: Annotated[Path, typer.Option(help="of the study")] = Path("runs/studies/alignment_prompts"),
    out: Annotated[Path, typer.Option()] = Path("results/studies/alignment_prompts"),
) -> None:
    """Read, compare and write."""
    found = pd.concat(map(of_run, sorted(runs.glob("prompts-*-seed-*"))), ignore_index=True)
    unit = found[(found["system"] == "BM") & (found["align.prompts"] == 1.0)].set_index("seed")["length"]
    for name in ("along", "length"):
        found[name] /= found["seed"].map(unit)
    found.to_csv(out / "inside.csv", index=False, float_format="%.6g")
    (out / "inside.md").write_text(page(found), encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
