"""The model card of an exported checkpoint: what it is made of, what it was shown, what was measured, what it cannot
do.

Every number comes from the run's result files; a card without results says so.  The card never claims an evaluation
that was not made.  Example: ``ModelCard(name="TR+M", base_llm="...", base_tower="...").render()``.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import yaml
from jinja2 import Environment, StrictUndefined

from textreg.data.rows import read_rows
from textreg.errors import InputError

if TYPE_CHECKING:
    from textreg.vlm.assembly import Base
    from textreg.vlm.systems import System

BACKBONE = "backbone"
TEMPLATE = Path(__file__).with_name("modelcard.md.jinja")
TABLE = ("language", "arm", "n", "lf_before", "lf", "lf_low", "lf_high", "lf_plus", "grounded")
SEEN = ("task", "n", "before", "after", "low", "high")
LIMITS_OF_VLM = (
    "Tuned and measured on the whole picture at one size; the published processor may also cut it into tiles.",
)
ROUNDED = "Measured with the language model in 4 bits; the weights here are not rounded, so answers may differ."
TOLD = ("steps", "batch_size", "learning_rate", "text", "text_share", "text_phases", "precision", "seed")


@dataclass(frozen=True)
class ModelCard:
    """Facts of a card.

    Args:
        languages: codes of the languages seen in tuning (text rows included).
        data: ``(source, language, with an image, rows, share)`` lines, from ``tune/<arm>/shown.csv``.
        fidelity: rows of ``fidelity.csv`` of this system, as dictionaries; missing values are None.  ``lf_before`` is
            that of the model before the cure, on the same images.
        seen: English questions about pictures answered right ``before`` and ``after``, with the bounds of the latter,
            or of the change where the card shows validation images.
        split: of which images ``fidelity`` tells: ``test`` or ``validation``.
        settings: tuning settings worth stating (rank, steps, text share, lambda ...).
        limits: sentences added to the standing ones.
        published: a vision-language model was taken whole; both bases are its name.
    """

    name: str
    base_llm: str
    base_tower: str
    licence: str = "other"
    languages: Sequence[str] = ()
    data: Sequence[tuple[str, str, bool, int, float]] = ()
    fidelity: Sequence[dict[str, object]] = ()
    seen: Sequence[dict[str, object]] = ()
    split: str = "test"
    settings: dict[str, object] = field(default_factory=dict)
    limits: Sequence[str] = ()
    published: bool = False

    def render(self) -> str:
        """The card as Markdown with the hub's YAML head."""

        head = {
            "license": self.licence,
            "library_name": "transformers",
            "pipeline_tag": "image-text-to-text",
            "language": sorted(self.languages),
            "tags": ["textual-regularization", "language-fidelity"] + ["llava"] * (not self.published),
        }
        named = dict.fromkeys((self.base_llm, self.base_tower))
        bases = [base for base in named if "/" in base and not Path(base).exists()]
        if bases:
            head["base_model"] = bases
        environment = Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False)
        environment.filters |= {"cell": cell, "place": place}
        template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
        told = yaml.safe_dump(head, sort_keys=True, allow_unicode=True)
        return template.render(card=self, head=told, columns=TABLE, seen_columns=SEEN)


def place(name: str) -> str:
    """What a card calls a model: its hub id, or the name of its folder, not where that lies on this machine."""
    return Path(name).name if Path(name).exists() else name


def cell(value: object) -> str:
    """A table cell: empty where undefined, three decimals for numbers, bars escaped."""
    if value is None or value != value:
        return ""
    if isinstance(value, float):
        return f"{value:.3f}"
    return str(value).replace("|", "\\|").replace("\n", " ")


def card_of_run(run: str | Path, which: "System", base: "Base", validation: "pd.DataFrame | None" = None) -> ModelCard:
    """The card of one system, from what its run recorded.

    Data are the rows that the arm was shown (the backbone: those of alignment).  Results are ``validation`` (rows of
    the ``fidelity.csv`` contract) where given, else the test results that the run has of this system at this lambda.
    What they were before the cure is told beside them: of lambda 0 on validation images, of the backbone on test ones.

    Raises:
        InputError: the run did not record what the arm was shown.
    """

    run = Path(run)
    data = data_shown(run, which)
    fidelity = validation if validation is not None else _read(run / "evaluate" / "fidelity.csv")
    before = pd.DataFrame()
    if {"system", "lambda"} <= set(fidelity):
        of_system = fidelity["system"] == which.name
        of_before = (fidelity["lambda"] == 0) if validation is not None else fidelity["system"] == BACKBONE
        before = fidelity[of_before & (which.name != BACKBONE)].set_index(["language", "arm"])["lf"]
        fidelity = fidelity[of_system & (fidelity["lambda"] == which.lam)]
        if len(before):
            places = pd.MultiIndex.from_frame(fidelity[["language", "arm"]])
            fidelity = fidelity.assign(lf_before=before.reindex(places).to_numpy())
    seen = _seen_on_validation(run, which) if validation is not None else _seen_on_test(run, which)
    measured = run / ("evaluate" if validation is None else f"merge/{which.name}")
    rounded = bool(len(fidelity)) and _parameters(measured).get("precision") == "4bit"
    return ModelCard(
        name=which.name,
        base_llm=base.vlm or base.llm,
        base_tower=base.vlm or base.tower,
        languages=sorted(set(data["language"])),
        data=list(data[["source", "language", "image", "rows", "share"]].itertuples(index=False, name=None)),
        fidelity=fidelity.astype(object).where(fidelity.notna(), None).to_dict("records"),
        seen=seen,
        split="test" if validation is None else "validation",
        settings=settings_of(run, which),
        limits=(*(LIMITS_OF_VLM if base.vlm else ()), *([ROUNDED] if rounded else ())),
        published=bool(base.vlm),
    )


def _read(path: Path) -> "pd.DataFrame":
    """A table of results, empty where there is none; "no" and "nan" are languages."""
    return pd.read_csv(path, keep_default_na=False, na_values=[""]) if path.is_file() else pd.DataFrame()


def _seen_on_validation(run: Path, which: "System") -> list[dict[str, object]]:
    """The regression check that the lambda was chosen by."""
    table = _read(run / "merge" / which.name / "regression.csv")
    told = table[table["lambda"] == which.lam] if len(table) else table
    return told.assign(task="English questions").to_dict("records")


def _seen_on_test(run: Path, which: "System") -> list[dict[str, object]]:
    """Every English task of ``visual.csv``, beside what the backbone says."""
    table = _read(run / "evaluate" / "visual.csv")
    if table.empty:
        return []
    table = table[table["language"] == "en"].rename(columns={"accuracy": "after"})
    before = table[table["system"] == BACKBONE].set_index("task")["after"]
    own = table[(table["system"] == which.name) & (table["lambda"] == which.lam)]
    return own.assign(before=own["task"].map(before)).to_dict("records")


def data_shown(run: Path, which: "System") -> "pd.DataFrame":
    """What a system was tuned on: ``shown.csv`` of its arm; for the backbone, the rows of alignment."""

    if not which.arm:
        path = run / "prepare_data" / "align.parquet"
        if not path.is_file():  # a published model, of whose own data nothing is known
            return pd.DataFrame(columns=["source", "language", "image", "rows", "share"])
        rows = read_rows(path, ["source", "language"])
        table = rows.groupby(["source", "language"]).size().rename("rows").reset_index()
        return table.assign(image=True, share=table["rows"] / len(rows))
    path = run / "tune" / which.arm / "shown.csv"
    if not path.is_file():
        raise InputError(f"{path} is missing: run the stage tune for arm {which.arm} again")
    return pd.read_csv(path, keep_default_na=False)


def settings_of(run: Path, which: "System") -> dict[str, object]:
    """Settings worth stating: lambda, the adapter's shape and, where the stage left its manifest, the training's."""
    if not which.arm:
        return {}
    folder = run / "tune" / which.arm
    adapter = json.loads((folder / "adapter" / "adapter_config.json").read_text(encoding="utf-8"))
    found = {"lambda": f"{which.lam:g}", "LoRA rank": adapter["r"], "LoRA alpha": adapter["lora_alpha"]}
    parameters = _parameters(folder)
    told = [name for name in TOLD if name in parameters]
    if parameters.get("text") == "none":  # the share of rows that there are not
        told = [name for name in told if name not in ("text_share", "text_phases")]
    return found | {name.replace("_", " "): parameters[name] for name in told}


def _parameters(folder: Path) -> dict[str, Any]:
    """The settings that a stage left in its manifest, empty where there is none."""
    path = folder / "manifest.json"
    return json.loads(path.read_text(encoding="utf-8"))["parameters"] if path.is_file() else {}
