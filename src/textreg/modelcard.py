"""The model card of an exported checkpoint: what it is made of, what it was shown, what was measured, what it cannot
do.

Every number comes from the run's result files; a card without results says so.  The card never claims an evaluation
that was not made.  Example: ``ModelCard(name="TR+M", base_llm="...", base_tower="...").render()``.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from textreg.errors import InputError

TEMPLATE = Path(__file__).with_name("modelcard.md.jinja")
TABLE = ("language", "arm", "n", "lf", "lf_low", "lf_high", "lf_plus", "grounded")


@dataclass(frozen=True)
class ModelCard:
    """Facts of a card.

    Args:
        languages: codes of the languages seen in tuning (text rows included).
        data: ``(source, language, rows, share)`` lines, from ``mixture.csv``.
        fidelity: rows of ``fidelity.csv`` of this system, as dictionaries; missing values are None.
        settings: tuning settings worth stating (rank, steps, text share, lambda ...).
        limits: sentences added to the standing ones.
    """

    name: str
    base_llm: str
    base_tower: str
    licence: str = "other"
    languages: Sequence[str] = ()
    data: Sequence[tuple[str, str, int, float]] = ()
    fidelity: Sequence[dict[str, object]] = ()
    settings: dict[str, object] = field(default_factory=dict)
    limits: Sequence[str] = ()

    def render(self) -> str:
        """The card as Markdown with the hub's YAML head."""
        from jinja2 import Environment, StrictUndefined

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


def card_of_run(run: str | Path, system: str, **facts: object) -> ModelCard:
    """The card of one system from a run folder's ``mixture.csv`` and ``fidelity.csv``.

    Raises:
        InputError: the run has no mixture yet.
    """
    import pandas as pd

    run = Path(run)
    mixture = run / "prepare_data" / "mixture.csv"
    if not mixture.is_file():
        raise InputError(f"{run}: no prepare_data/mixture.csv here: run the stage `prepare_data` first")
    table = pd.read_csv(mixture, keep_default_na=False)
    data = list(table[["source", "language", "rows", "share"]].itertuples(index=False, name=None))
    fidelity: list[dict[str, object]] = []
    scores = run / "evaluate" / "fidelity.csv"
    if scores.is_file():
        measured = pd.read_csv(scores)
        chosen = measured[measured["system"] == system]
        fidelity = chosen.astype(object).where(chosen.notna(), None).to_dict("records")
    return ModelCard(name=system, data=data, fidelity=fidelity, languages=sorted(set(table["language"])), **facts)
