"""Language fidelity on Crossmodal-3600 as tasks of lmms-eval, which brings models and servers of its own.

A folder with two task files per language (the picture, and a person's caption in its place, whose difference is the
loss that the picture induces), a module that holds their functions, and a group of them all; lmms-eval reads it by
``--include_path``.  The choices that are not obvious: rows do not tell the asked language, so each language has a
module of its own; an answer that the identifier cannot place has no ``lf``, and ``scored`` tells how many have one.
The form is that of the tasks that lmms-eval ships (its task guide); the tests check it without lmms-eval.

    python -m textreg.serve.lmms tasks --languages de,es
    lmms-eval --model vllm --model_args model=NAME --tasks crossmodal_fidelity_de --include_path tasks
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import typer
import yaml

from textreg.data import hub
from textreg.data.crossmodal import check_languages, languages, prompts
from textreg.data.images import open_image
from textreg.errors import InputError, RunError
from textreg.fidelity.identifiers import open_identifier
from textreg.serve.written import annotated

DATA = "floschne/xm3600"
GROUP = "crossmodal_fidelity"
_opened = cache(open_identifier)
METRICS = {"lf": True, "english": False, "scored": True}  # metric -> whether more is better
MODULE = '''"""Functions of the task files in this folder."""

from textreg.serve.lmms import Asked

asked = Asked({code!r})
picture, nothing, prompt, told, target, results = (
    asked.picture, asked.nothing, asked.prompt, asked.told, asked.target, asked.results
)
'''


class Function(str):
    """A function in a task file: module beside it, and name."""


class _Dumper(yaml.SafeDumper):
    """Writes a :class:`Function` under the tag by which lmms-eval imports it."""


_Dumper.add_representer(Function, lambda dumper, name: dumper.represent_scalar("!function", str(name)))


@dataclass(frozen=True)
class Asked:
    """The functions of one language's tasks; ``doc`` is a row of the data set."""

    language: str

    def picture(self, doc: Mapping[str, Any]) -> list[Any]:
        """The picture, RGB."""
        image = doc["image"]
        return [open_image(image["bytes"]) if isinstance(image, dict) else image.convert("RGB")]

    def nothing(self, doc: Mapping[str, Any]) -> list[Any]:
        """No picture."""
        return []

    def prompt(self, doc: Mapping[str, Any], options: Any = None) -> str:
        """The request for a caption; paraphrases take turns by the image, the same one in both tasks."""
        return prompts()[self.language].of("native", sum(str(doc["image_id"]).encode()))

    def told(self, doc: Mapping[str, Any], options: Any = None) -> str:
        """The same request behind a person's caption."""
        return f"{self.target(doc)}\n{self.prompt(doc)}"

    def target(self, doc: Mapping[str, Any]) -> str:
        """A person's caption."""
        return str(doc["captions"][0]).strip()

    def results(self, doc: Mapping[str, Any], answers: Sequence[str]) -> dict[str, float]:
        """``lf`` and ``english``, 0 or 1, of an answer that the identifier can place; ``scored``: whether it can."""
        found = annotated(pd.DataFrame({"answer": [answers[0]], "language": [self.language]}), _opened(), None)
        placed = {name: found[name].iloc[0] for name in ("lf", "english")}
        scores = {name: float(value) for name, value in placed.items() if not pd.isna(value)}
        return {**scores, "scored": float("lf" in scores)}


def task(code: str, arm: str) -> dict[str, Any]:
    """A task file as a mapping; ``arm``: ``image`` or ``text``."""
    shown, asked = ("picture", "prompt") if arm == "image" else ("nothing", "told")
    return {
        "task": f"{GROUP}_{code}" + ("" if arm == "image" else f"_{arm}"),
        "dataset_path": DATA,
        "dataset_kwargs": {"revision": hub.known()[DATA]["revision"]},
        "test_split": code,
        "output_type": "generate_until",
        "doc_to_visual": Function(f"asked_{code}.{shown}"),
        "doc_to_text": Function(f"asked_{code}.{asked}"),
        "doc_to_target": Function(f"asked_{code}.target"),
        "generation_kwargs": {"max_new_tokens": 256, "temperature": 0, "do_sample": False},
        "process_results": Function(f"asked_{code}.results"),
        "metric_list": [
            {"metric": name, "aggregation": "mean", "higher_is_better": better} for name, better in METRICS.items()
        ],
        "metadata": [{"version": 1.0}],
    }


def write(folder: Path, codes: Sequence[str]) -> list[Path]:
    """The files of some languages; raises :class:`InputError` for an unknown one, or a folder that holds anything."""
    check_languages(codes)
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise InputError(f"{folder} is not an empty folder: choose another one")
    folder.mkdir(parents=True, exist_ok=True)
    tasks = [task(code, arm) for code in codes for arm in ("image", "text")]
    files = {each["task"]: each for each in tasks} | {
        GROUP: {"group": GROUP, "task": [each["task"] for each in tasks]}
    }
    for name, content in files.items():
        (folder / f"{name}.yaml").write_text(yaml.dump(content, Dumper=_Dumper, sort_keys=False), encoding="utf-8")
    for code in codes:
        (folder / f"asked_{code}.py").write_text(MODULE.format(code=code), encoding="utf-8")
    return sorted(folder.iterdir())


def main(
    folder: Annotated[Path, typer.Argument(help="folder for the task files")],
    languages_asked: Annotated[
        str, typer.Option("--languages", help="codes, separated by commas [default: all]")
    ] = "",
) -> None:
    """Write the tasks of lmms-eval."""
    try:
        written = write(folder, [code.strip() for code in languages_asked.split(",") if code.strip()] or languages())
    except (InputError, RunError) as error:
        typer.echo(f"textreg: {error}", err=True)
        raise typer.Exit(error.exit_code) from None
    typer.echo(f"{len(written)} files in {folder}; lmms-eval --tasks {GROUP} --include_path {folder}")


if __name__ == "__main__":
    typer.run(main)
