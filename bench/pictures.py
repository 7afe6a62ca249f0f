"""What is shipped of runs at pictures scale: the verdict on each answer, without the answer, and how it was made.

Names and answers hold the words of their owners and stay where they are; a verdict is ours.

    textreg data pictures --out runs/emoji && textreg data backbone runs/emoji
    textreg run --profile pictures
    python bench/pictures.py runs/pictures --out results/pictures

Several run folders (seeds) go into one table.
"""

import argparse
import json
import os
from pathlib import Path

import pandas as pd

from textreg.runs.manifest import processor

COLUMNS = ["seed", "system", "lambda", "arm", "task", "language", "item_id", "said", "read", "class", "content"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, default=Path("results/pictures"))
    asked = parser.parse_args()
    parts = [pd.read_parquet(run / "evaluate" / "answers.parquet", columns=COLUMNS) for run in asked.runs]
    table = pd.concat(parts, ignore_index=True).assign(backbone="backbone")
    table["right_in_english"] = (table["read"] == "right") & (table["said"] == "english")
    asked.out.mkdir(parents=True, exist_ok=True)
    table.to_parquet(asked.out / "verdicts.parquet", index=False, compression="zstd")
    units = [json.loads(path.read_text("utf-8")) for run in asked.runs for path in run.rglob("manifest.json")]
    left_out = pd.concat([pd.read_csv(run / "prepare_data" / "left_out.csv") for run in asked.runs])
    told = [f"{code} {count}" for code, count in left_out.groupby("language")["left_out"].max().items() if count]
    about = {
        "command": "textreg run --profile pictures",
        "hardware": f"{processor()}, {os.cpu_count()} cores, one thread a process",
        "seeds": len(asked.runs),
        "seconds of all notebooks": round(sum(unit["seconds"] for unit in units)),
        "names left out because they are spelt as in English": ", ".join(told) or "none",
    }
    (asked.out / "about.json").write_text(json.dumps(about, indent=1) + "\n", "utf-8")
    print(f"{len(table)} verdicts of {len(asked.runs)} run(s) in {asked.out}")


if __name__ == "__main__":
    main()
