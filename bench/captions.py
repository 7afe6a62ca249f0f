"""What lifts the English captions of the micro world, and what it costs: seeing better against losing less.

Each run changes settings of the laptop profile, before or in tuning; the table puts how often BM describes a test
picture rightly in English beside how much of the asked language it keeps under pictures, and what TR keeps.  Not
obvious: one seed and one test set for all, so lines are compared with each other and not with the shipped mean.

    textreg run --profile laptop --run runs/named -p align.name_steps=500 --to evaluate
    python bench/captions.py runs/laptop runs/named > bench/results/captions.md
"""

import json
from pathlib import Path

import pandas as pd
import typer

from textreg.fidelity.estimates import Point
from textreg.figures.tables import Results, load_results
from textreg.runs import manifest
from textreg.runs.identity import WITHOUT_EFFECT

COLUMNS = {
    "BM: English captions right": Point("BM", "image", "content", languages="en"),
    "BM: asked language": Point("BM", "image", "asked"),
    "BM: clean English": Point("BM", "image", "english"),
    "TR: asked language": Point("TR", "image", "asked"),
    "untuned: asked language": Point("backbone", "image", "asked"),
}


def line(results: Results) -> dict[str, str]:
    """Per cent with 95 per cent bounds, by column."""
    found = {name: results.estimate((1.0, point)) for name, point in COLUMNS.items()}
    return {name: f"{100 * e.value:.0f} [{100 * e.low:.0f}, {100 * e.high:.0f}]" for name, e in found.items()}


def main(runs: list[Path]) -> None:
    """Print a line for each run, named by the settings that it changes."""
    rows = []
    for run in runs:
        said = json.loads((run / "run.json").read_text())["overrides"]
        words = [word for word in said if word.split("=")[0].split(".")[-1] not in WITHOUT_EFFECT]
        rows.append({"changed": ", ".join(f"`{word}`" for word in words) or "nothing", **line(load_results(run))})
    processor = manifest.read(runs[0] / "evaluate")["processor"]
    print(f"In per cent, with 95 per cent intervals over pictures and languages; {processor}, seed 0, exploratory.")
    print("`python bench/captions.py RUNS`, each run by `textreg run --profile laptop -p ... --to evaluate`\n")
    print(pd.DataFrame(rows).to_markdown(index=False))


if __name__ == "__main__":
    typer.run(main)
