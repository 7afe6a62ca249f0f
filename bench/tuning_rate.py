"""Outcome against learning rate: is the loss of language there at a gentle rate, or only next to divergence?

Gentle means that the training loss never rises more than a tenth above its start, and that the rate is at most a third
of the first at which it does.  Reads a run of the profile ``rate``; prints Markdown for ``bench/results``.

    textreg run --profile rate --to evaluate && python bench/tuning_rate.py runs/rate > bench/results/tuning_rate.md
"""

from pathlib import Path

import pandas as pd
import typer

from textreg.figures.tables import classes
from textreg.runs import manifest, stages

WINDOW = 3  # logged means (of 20 steps each) that are averaged before they are compared


def rise(log: pd.DataFrame) -> float:
    """The largest smoothed training loss over the first logged mean, minus 1."""
    smooth = log["loss"].rolling(WINDOW, min_periods=1).mean()
    return float(smooth.max() / log["loss"].iloc[0] - 1)


def main(run: Path) -> None:
    """Print rise of the loss and classes of the answers to pictures, by arm."""
    answers = pd.read_parquet(run / "evaluate" / "answers.parquet").assign(backbone="shipped")
    found = classes(answers, ["image"]).pivot(index="system", columns="class", values="share").mul(100)
    english = answers[(answers["language"] == "en") & (answers["arm"] == "image") & (answers["task"] == "caption")]
    right = english.groupby("system")["content"].mean().astype(float).mul(100)
    rows = []
    for system in found.index:
        if system == "backbone":
            rate, rises = float("nan"), float("nan")
        else:
            unit = stages.Unit("tune", system)
            rate = manifest.read(run / unit.folder)["parameters"]["learning_rate"]
            rises = 100 * rise(pd.read_csv(run / unit.folder / "log.csv"))
        rows.append((system, rate, rises, *found.loc[system, ["asked", "english", "mixed"]], right[system]))
    head = ["system", "learning rate", "loss rises by, %", "asked", "clean English", "mixed", "English captions right"]
    record = manifest.read(run / "evaluate")
    print("# Outcome against learning rate\n")
    print(f"Machine: {record['processor']}, one thread per arm, seed 0, 60 test images; shares in per cent.")
    print("`textreg run --profile rate --to evaluate && python bench/tuning_rate.py runs/rate`\n")
    print(pd.DataFrame(rows, columns=head).round(4).to_markdown(index=False, floatfmt=".4g"))


if __name__ == "__main__":
    typer.run(main)
