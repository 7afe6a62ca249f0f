"""The same seed under other instruction sets of one processor, and on another: does it move more than another seed?

Sums are added in another order, and after hundreds of steps the trained weights are another draw.  Each run trains
alignment and arms anew under what ``SETS`` says; its numbers stand beside the shipped seeds, their range and whether
they lie in it.  A run of the profile on another machine, as ``runs/instructions-ANYTHING``, stands beside them.
Prints Markdown for ``bench/results``.

    python bench/instructions.py run && python bench/instructions.py tell > bench/results/instructions.md
"""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import typer

from textreg.fidelity.estimates import Point, cells
from textreg.figures.tables import load_results
from textreg.runs import manifest

SHIPPED = Path("results/laptop")
#: Name -> what the environment says to ATen, oneDNN and MKL.  The profile aligns with one thread, the shipped run with
#: two, which is another rounding as well.
SETS: dict[str, dict[str, str]] = {
    "one thread": {},
    "AVX2": {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"},
    "no AVX": {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41", "MKL_ENABLE_INSTRUCTIONS": "SSE4_2"},
}
POINTS = {
    "asked": [Point(name, "image", "asked") for name in ("backbone", "BM", "EN", "TR")],
    "clean English": [Point(name, "image", "english") for name in ("BM", "EN", "TR")],
    "asked, under text": [Point(name, "text", "asked") for name in ("BM", "TR")],
    "asked, under English text": [Point(name, "text_en", "asked") for name in ("BM", "TR")],
    "English captions right": [Point(name, "image", "content", languages="en") for name in ("BM", "TR")],
    "English questions right": [Point(name, "image", "content", "questions", "en") for name in ("BM", "TR")],
}
app = typer.Typer(add_completion=False, help=__doc__)


def folder(name: str) -> Path:
    return Path("runs") / f"instructions-{name.replace(' ', '-')}"


@app.command()
def run() -> None:
    """Run the profile under every set; what is done is kept."""
    textreg = Path(sys.executable).with_name("textreg")
    for name, environment in SETS.items():
        words = ["run", "--profile", "instructions", "--run", str(folder(name)), "--jobs", "1"]
        subprocess.run([textreg, *words], env={**os.environ, **environment}, check=True)


@app.command()
def tell() -> None:
    """Print the table of the sets that have been run."""
    native = manifest.read(SHIPPED / "seed-0" / "evaluate")["instructions"]
    sets = {folder(name): name for name in SETS}
    others = {path: _machine(path) for path in sorted(Path("runs").glob("instructions-*")) if path not in sets}
    found = {name: path / "evaluate" / "answers.parquet" for path, name in {**sets, **others}.items()}
    runs = {name: pd.read_parquet(path) for name, path in found.items() if path.is_file()}
    print(
        f"Machine where no other is named: {manifest.processor()}, one thread a process (two in the shipped "
        "alignment), seed 0, the laptop profile's pictures."
    )
    print("`python bench/instructions.py run && python bench/instructions.py tell`\n")
    told = table(load_results(SHIPPED).answers, runs, f"{native}, shipped")
    print(told.to_markdown(index=False, floatfmt=".1f"))


def _machine(run: Path) -> str:
    """What a run was made on and with."""
    record = manifest.read(run / "evaluate") or {}
    processor = record.get("processor", "").replace("(R)", "").removesuffix(" Processor")
    return f"{processor}, {record.get('instructions')}, torch {record.get('versions', {}).get('torch')}"


def table(shipped: pd.DataFrame, runs: Mapping[str, pd.DataFrame], native: str) -> pd.DataFrame:
    """Every point (per cent) of shipped seed 0, of its runs under other instructions, and whether these lie in the
    range over the shipped seeds."""
    rows = []
    for what, points in POINTS.items():
        for point in points:
            seeds = _mean(shipped, point)
            here = [_mean(answers.assign(backbone=""), point).item() for answers in runs.values()]
            inside = "yes" if all(seeds.min() <= value <= seeds.max() for value in here) else "no"
            rows.append([point.system, what, seeds.loc[0], *here, f"{seeds.min():.0f} to {seeds.max():.0f}", inside])
    head = ["system", "measure, %", native, *runs, f"{shipped['seed'].nunique()} seeds", "inside"]
    return pd.DataFrame(rows, columns=head)


def _mean(answers: pd.DataFrame, point: Point) -> pd.Series:
    """The mean over languages (per cent), by seed."""
    return cells(answers, point).groupby(["seed", "language"]).mean().groupby("seed").mean().mul(100)


if __name__ == "__main__":
    app()
