"""The model card of an exported checkpoint: what it is made of, what it was shown, what was measured, what it cannot
do.

Every number comes from the run's result files; a card without results says so.  The card never claims an evaluation
that was not made.  Example: ``ModelCard(name="TR+M", base_llm="...", base_tower="...").render()``.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import yaml
from jinja2 import Environment, StrictUndefined

from textreg.data.rows import read_rows
from textreg.errors import InputError

if TYPE_CHECKING:
    from textreg.vlm.assembly import Base
    from textreg.vlm.systems import System

TEMPLATE = Path(__file__).with_name("modelcard.md.jinja")
TABLE = ("language", "arm", "n", "lf", "lf_low", "lf_high", "lf_plus", "grounded")
LIMITS_OF_VLM = (
    "Tuned and measured on the whole picture at one size; the published processor may also cut it into tiles.",
)
TOLD = ("steps", "batch_size", "learning_rate", "text", "text_share", "text_phases", "precision", "seed")


@dataclass(frozen=True)
class ModelCard:
    """Facts of a card.

    Args:
        languages: codes of the languages seen in tuning (text rows included).
        data: ``(source, language, with an image, rows, share)`` lines, from ``tune/<arm>/shown.csv``.
        fidelity: rows of ``fidelity.csv`` of this system, as dictionaries; missing values are None.
        split: of which images ``fidelity`` tells: ``test`` or ``validation``.
        settings: tuning settings worth stating (rank, steps, text share, lambda ...).
        limits: sentences added to the standing ones.
    """

    name: str
    base_llm: str
    base_tower: str
    licence: str = "other"
    languages: Sequence[str] = ()
    data: Sequence[tuple[str, str, bool, int, float]] = ()
    fidelity: Sequence[dict[str, object]] = ()
    split: str = "test"
    settings: dict[str, object] = field(default_factory=dict)
    limits: Sequence[str] = ()

    def render(self) -> str:
        """The card as Markdown with the hub's YAML head."""

        head = {
            "license": self.licence,
            "library_name": "transformers",
            "pipeline_tag": "image-text-to-text",
            "language": sorted(self.languages),
            "tags": ["textual-regularization", "language-fidelity", "llava"],
        }
        bases = [base for base in (self.base_llm, self.base_tower) if "/" in base and not Path(base).exists()]
        if bases:
            head["base_model"] = bases
        environment = Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False)
        environment.filters["cell"] = cell
        template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
        return template.render(card=self, head=yaml.safe_dump(head, sort_keys=True, allow_unicode=True), columns=TABLE)


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

    Raises:
        InputError: the run did not record what the arm was shown.
    """

    run = Path(run)
    data = data_shown(run, which)
    fidelity, scores = pd.DataFrame(), run / "evaluate" / "fidelity.csv"
    if validation is not None:
        fidelity = validation
    elif scores.is_file():
        measured = pd.read_csv(scores, keep_default_na=False, na_values=[""])  # "no" and "nan" are languages
        fidelity = measured[(measured["system"] == which.name) & (measured["lambda"] == which.lam)]
    return ModelCard(
        name=which.name,
        base_llm=base.vlm or base.llm,
        base_tower=base.vlm or base.tower,
        languages=sorted(set(data["language"])),
        data=list(data[["source", "language", "image", "rows", "share"]].itertuples(index=False, name=None)),
        fidelity=fidelity.astype(object).where(fidelity.notna(), None).to_dict("records"),
        split="test" if validation is None else "validation",
        settings=settings_of(run, which),
        limits=LIMITS_OF_VLM if base.vlm else (),
    )


def data_shown(run: Path, which: "System") -> "pd.DataFrame":
    """What a system was tuned on: ``shown.csv`` of its arm; for the backbone, the rows of alignment."""

    if not which.arm:
        rows = read_rows(run / "prepare_data" / "align.parquet", ["source", "language"])
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
    manifest = folder / "manifest.json"
    if manifest.is_file():
        parameters = json.loads(manifest.read_text(encoding="utf-8"))["parameters"]
        told = [name for name in TOLD if name in parameters]
        if parameters.get("text") == "none":  # the share of rows that there are not
            told = [name for name in told if name not in ("text_share", "text_phases")]
        found |= {name.replace("_", " "): parameters[name] for name in told}
    return found
