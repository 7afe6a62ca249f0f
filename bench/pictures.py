"""What is shipped of runs at pictures scale: the verdict on each answer, how it was made, and a few answers to read.

Names that people wrote stay where they are, but for those of a few emoji, which Unicode lets be shown (Unicode-3.0):
the first concepts in the order of their code points, the languages in turn, so that nobody chose them.

    textreg data pictures --out runs/emoji && textreg data backbone runs/emoji
    textreg run --profile pictures
    python bench/pictures.py runs/pictures --out results/pictures

Several run folders (seeds) go into one table; ``--name web`` is that of another profile, ``pictures-web``.
"""

import json
import os
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer

from textreg.runs.manifest import processor

COLUMNS = ["seed", "system", "lambda", "arm", "task", "language", "item_id", "said", "read", "class", "content"]
EXAMPLES = 12
LANGUAGES = ("de", "it", "ja", "ru", "tr", "fr")
TAUGHT = ("english_share", "cross_lingual", "steps", "batch_size", "learning_rate", "rank")
SYSTEMS = ("backbone", "BM", "TR")


def main(
    runs: list[Path],
    out: Annotated[Path, typer.Option()] = Path("results/pictures"),
    backbone: Annotated[Path, typer.Option(help="of textreg data backbone")] = Path("runs/emoji/backbone"),
    name: Annotated[str, typer.Option(help="of the table; examples are those of verdicts alone")] = "verdicts",
) -> None:
    """Write verdicts, examples and how they were made."""
    answers = [pd.read_parquet(run / "evaluate" / "answers.parquet") for run in runs]
    table = pd.concat([part[COLUMNS] for part in answers], ignore_index=True).assign(backbone="backbone")
    table["right_in_english"] = (table["read"] == "right") & (table["said"] == "english")
    out.mkdir(parents=True, exist_ok=True)
    table.to_parquet(out / f"{name}.parquet", index=False, compression="zstd")
    if name == "verdicts":
        examples(answers[0]).to_csv(out / "examples.csv", index=False)
    units = [json.loads(path.read_text("utf-8")) for run in runs for path in run.rglob("manifest.json")]
    left_out = pd.concat([pd.read_csv(run / "prepare_data" / "left_out.csv") for run in runs])
    told = [f"{code} {count}" for code, count in left_out.groupby("language")["left_out"].max().items() if count]
    taught = json.loads((backbone / "made_with.json").read_text("utf-8"))
    about = {
        "command": f"textreg run --profile {units[0]['profile']}",
        "commit": ", ".join(sorted({unit["git_commit"][:7] for unit in units})),
        "original language model": ", ".join(f"{key} {taught[key]}" for key in TAUGHT),
        "hardware": f"{processor()}, {os.cpu_count()} cores, one thread a process",
        "seeds": len(runs),
        "seconds of all notebooks, a seed": round(sum(unit["seconds"] for unit in units) / len(runs)),
        "peak memory of a notebook, MB": max(unit["peak_memory_mb"] for unit in units),
        "names left out because they are spelt as in English": ", ".join(told) or "none",
    }
    (out / ("about.json" if name == "verdicts" else f"about_{name}.json")).write_text(
        json.dumps(about, indent=1) + "\n", "utf-8"
    )
    print(f"{len(table)} verdicts of {len(runs)} run(s) in {out}")


def examples(answers: pd.DataFrame) -> pd.DataFrame:
    """``concept, language, name``, what each system answered to the picture, the languages in turn, and, under ``en``,
    what BM says where English is asked."""
    rows = answers[(answers["arm"] == "image") & (answers["task"] == "caption")].copy()
    rows["concept"] = rows["item_id"].str.partition("@")[0]
    rows["name"] = [json.loads(text)[1] for text in rows["reference"]]
    wide = rows.pivot(index=["concept", "language", "name"], columns="system", values="answer")[list(SYSTEMS)]
    english = rows[(rows["language"] == "en") & (rows["system"] == "BM")].set_index("concept")["answer"]
    found = []
    for number, concept in enumerate(sorted(set(rows["concept"]), key=lambda code: int(code.split("-")[0], 16))):
        code = LANGUAGES[number % len(LANGUAGES)]
        if (concept, code) in wide.index.droplevel("name"):  # a name that is spelt as in English is not asked for
            found.append(wide.loc[[concept]].query("language == @code"))
    table = pd.concat(found[:EXAMPLES]).reset_index()
    return table.assign(en=table["concept"].map(english))


if __name__ == "__main__":
    typer.run(main)
