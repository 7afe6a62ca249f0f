"""The loss in models people use, a larger set: short answers of published VLMs to questions about dishes.

WorldCuisines (Winata et al. 2024; its repository is Apache-2.0, closed models' outputs carry their makers' terms)
keeps what each model said to open questions in 30 languages and varieties.  Its small test split is scored by the
rules of ``textreg score``; answers of fewer than ``LETTERS`` letters are left out, because a dish's name is in no
language.  Varieties of a language count as one; Sardinian, which the identifiers do not know, is not scored.  Writes
``cuisines.csv`` (a model in a language, Wilson's bounds at 95 %), ``cuisines.md`` and a map.  The code of Min Nan is
``nan``: read the table with ``keep_default_na=False, na_values=""``.

    git clone --depth 1 --filter=blob:none --sparse https://github.com/worldcuisines/worldcuisines
    git -C worldcuisines sparse-checkout set evaluation/result/small
    python bench/cuisines.py worldcuisines
"""

import re
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import pandas as pd
import seaborn as sns
import typer
from langcodes import Language
from matplotlib.figure import Figure
from real_vlms import fidelity

from textreg.book.pages import UNDEFINED, table
from textreg.data.codes import read_language
from textreg.errors import InputError
from textreg.fidelity.annotation import annotate
from textreg.fidelity.identifiers import DEFAULT, open_identifier
from textreg.figures.style import save_figure, size, style

FILES = "evaluation/result/small"
NAMED = re.compile(r"task\d_oe_(?P<system>.+)_pred_small")
TWICE = ("old_pangea-7b", "molmo-7b-d-fp32", "molmo-7b-o-fp32")  # files of a model that has another
LETTERS = 20
FEW = 6  # languages of a model on the map
FEWEST = 30  # scored answers of a model in a language, for a cell of the map


def read_answers(folder: Path) -> pd.DataFrame:
    """``system, language, item_id, prompt, answer``; raises InputError where the folder holds none."""
    parts = []
    for path in sorted((folder / FILES).glob("task*_oe_*.jsonl")):
        named = NAMED.fullmatch(path.stem)
        if named and named["system"] not in TWICE:
            rows = pd.read_json(path, lines=True, dtype={"qa_id": str}).dropna(subset=["prediction", "lang"])
            parts.append(rows.assign(system=named["system"], task=path.stem.partition("_")[0]))
    if not parts:
        raise InputError(f"{folder}: no answers in {FILES}; is it a clone of worldcuisines/worldcuisines?")
    found = pd.concat(parts, ignore_index=True)
    languages = {each: read_language(each.partition("_")[0]) for each in found["lang"].unique()}
    found["answer"] = found["prediction"].astype(str).str.strip()
    found["item_id"] = found["task"] + "-" + found["lang"] + "-" + found["qa_id"]
    return found.assign(language=found["lang"].map(languages), prompt="")


def long_enough(answers: pd.DataFrame) -> pd.DataFrame:
    """Those with enough letters."""
    letters = answers["answer"].str.count(r"[^\W\d_]")
    return answers[letters >= LETTERS].reset_index(drop=True)


def foreign(found: pd.DataFrame) -> pd.DataFrame:
    """Languages other than English with answers enough."""
    return found[(found["language"] != "en") & (found["scored"] >= FEWEST)]


def page(found: pd.DataFrame) -> str:
    """A line per model: means over the languages other than English."""
    other = foreign(found)
    rows = []
    for system, mine in sorted(other.groupby("system"), key=lambda each: -each[1]["english"].mean()):
        worst, least = mine.loc[mine["english"].idxmax()], mine.loc[mine["english"].idxmin()]
        lf = mine["lf"].dropna()
        rows.append([
            system, f"{mine['scored'].sum():,}", len(mine), f"{mine['english'].mean():.0f}",
            f"{_name(worst['language'])} {worst['english']:.0f}", f"{_name(least['language'])} {least['english']:.0f}",
            f"{lf.mean():.0f}" if len(lf) else UNDEFINED,
        ])  # fmt: skip
    head = ["model", "answers", "languages", "English instead", "most in", "least in", "LF"]
    return table(head, rows, f"Answers of {LETTERS} letters and more, per cent, means over languages")


def _name(code: str) -> str:
    return Language.get(code).display_name()


def drawn(found: pd.DataFrame) -> Figure:
    """English instead of the asked language, by model and language."""
    other = foreign(found)
    cells = other.pivot(index="system", columns="language", values="english").dropna(thresh=FEW)
    cells = cells.loc[cells.mean(axis=1).sort_values(ascending=False).index, cells.mean().sort_values().index[::-1]]
    with style():
        fig = Figure(figsize=size("page", height=4.6))
        ax = fig.subplots()
        sns.heatmap(
            cells.rename(columns=_name), vmin=0, vmax=100, cmap="cividis", ax=ax,
            xticklabels=True, yticklabels=True, cbar_kws={"label": "English instead (%)"},
        )  # fmt: skip
        ax.set(xlabel="asked in", ylabel="")
        ax.set_title("Answered in English instead", loc="left")
        ax.grid(False)
    return fig


def main(
    folder: Annotated[Path, typer.Argument(help="clone of worldcuisines/worldcuisines")],
    out: Annotated[Path, typer.Option()] = Path("results/real_vlms"),
) -> None:
    """Score and write."""
    answers = long_enough(read_answers(folder))
    found = fidelity(annotate(answers, open_identifier(DEFAULT), None))
    found.to_csv(out / "cuisines.csv", index=False)
    (out / "cuisines.md").write_text(page(found), encoding="utf-8")
    means = found[found["language"] != "en"].groupby("system")["english"].mean()
    told = "; ".join(f"{system} {mean:.0f}" for system, mean in means.items())
    with TemporaryDirectory() as place:
        alt = f"A map of models by language, English answers instead of the asked language; means in per cent: {told}."
        saved = save_figure(drawn(found), Path(place) / "cuisines", alt=alt, data=found)
        (out / "cuisines.svg").write_bytes(saved.paths["svg"].read_bytes())
    typer.echo(
        f"{len(answers)} answers of {found['system'].nunique()} models in {found['language'].nunique()} languages"
    )


if __name__ == "__main__":
    typer.run(main)
