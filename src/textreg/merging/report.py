"""What a merge did: a table to read, a JSON file to keep, and the norms behind a figure.

``merge_report.json`` lies in the merged folder.  Norms are Frobenius norms of the *whole* change that tuning made
(tuned - base, root mean square over several tuned models), before lambda; ``relative`` divides by the norm of the
base, so that layers of different size compare.  Hashes are xxh3-128 of the tensor's bytes: fast enough to be always
on, meant against accidents and not against forgers.

    report.table()                      # rich
    pandas.DataFrame(report.layer_norms())
"""

import math
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from rich.table import Table

from textreg.errors import InputError
from textreg.files import read_as
from textreg.vlm.layouts import layer_and_module

REPORT = "merge_report.json"


class TensorReport(BaseModel):
    """One output tensor: ``action`` is merged, resized, kept or replaced; norms are absent where nothing was
    compared."""

    model_config = ConfigDict(frozen=True)
    name: str
    key: str
    action: str
    elements: int
    merged_elements: int
    lam: float | None
    change_norm: float | None
    base_norm: float | None
    xxh3_128: str


class MergeReport(BaseModel):
    """A finished merge; ``written`` names every file of the folder, ``reload`` says what loading it in its
    transformers class would miss (or why that was not asked)."""

    model_config = ConfigDict(frozen=True)
    tuned: tuple[str, ...]
    base: str
    out: str
    recipe: dict[str, Any]
    seconds: float
    nbytes: int
    written: tuple[str, ...]
    notes: tuple[str, ...]
    reload: dict[str, Any]
    tensors: tuple[TensorReport, ...] = Field(repr=False)

    def counts(self) -> dict[str, int]:
        """Number of tensors per action."""
        return {"merged": 0, "resized": 0, "kept": 0, "replaced": 0} | Counter(
            tensor.action for tensor in self.tensors
        )

    def layer_norms(self, whole: bool = False) -> list[dict[str, Any]]:
        """One row per layer and module (``self_attn``, ``mlp``, ...; ``layer`` is None outside the layers), or per
        ``whole`` layer.

        Columns: layer, module, elements, change (norm of tuned - base), base (norm), relative (their quotient; None
        where the base is zero).
        """
        groups: dict[tuple[int | None, str], list[TensorReport]] = defaultdict(list)
        for tensor in self.tensors:
            if tensor.change_norm is not None:
                layer, module = layer_and_module(tensor.key)
                groups[layer, f"layer {layer}" if whole and layer is not None else module].append(tensor)
        rows = []
        for (layer, module), members in sorted(groups.items(), key=lambda item: (item[0][0] is None, *item[0])):
            change = math.hypot(*(member.change_norm or 0.0 for member in members))
            base = math.hypot(*(member.base_norm or 0.0 for member in members))
            rows.append({
                "layer": layer, "module": module, "elements": sum(member.merged_elements for member in members),
                "change": change, "base": base, "relative": change / base if base else None,
            })  # fmt: skip
        return rows

    def table(self) -> Table:
        """A rich table: what happened to how many tensors, then where tuning moved the model."""
        method = f"{self.recipe['method']}, lambda {self.recipe['lam']:g}"
        table = Table(title=f"{method}: {self.out} ({self.nbytes / 1e9:.2f} GB in {self.seconds:.1f} s)")
        for column, side in {"part": "left", "tensors": "right", "change": "right", "relative": "right"}.items():
            table.add_column(column, justify=side)
        for action, count in self.counts().items():
            if count:
                table.add_row(action, str(count), "", "")
        table.add_section()
        for row in self.layer_norms(whole=True):
            relative = "" if row["relative"] is None else f"{row['relative']:.2%}"
            table.add_row(row["module"], "", f"{row['change']:.4g}", relative)
        return table

    def said(self) -> list[str]:
        """What a user should know beside the table, in sentences."""
        why = self.reload.get("reason")
        return [*self.notes, *([f"loading it was not checked: {why}"] if why else [])]

    def write(self, folder: Path) -> None:
        """Writes :data:`REPORT` into ``folder``."""
        (folder / REPORT).write_text(self.model_dump_json(indent=1) + "\n", encoding="utf-8")


def read_report(folder: str | Path) -> MergeReport:
    """The report in a merged folder; :class:`~textreg.errors.InputError` when it is missing or unreadable."""
    return read_as(Path(folder) / REPORT, MergeReport)


def written_by_a_merge(folder: Path) -> set[str]:
    """Names of the files in a folder that an earlier merge wrote; none where its report cannot be read."""
    try:
        return {REPORT, *read_report(folder).written}
    except InputError:
        return set()
