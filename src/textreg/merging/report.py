"""What a merge did: a table to read, a JSON file to keep, and the norms behind a figure.

``merge_report.json`` lies in the merged folder.  Norms are Frobenius norms of the *whole* change that tuning made
(tuned - base, root mean square over several tuned models), before lambda; ``relative`` divides by the norm of the
base, so that layers of different size compare.  Hashes are xxh3-128 of the tensor's bytes: fast enough to be always
on, meant against accidents and not against forgers.

    report.table()                      # rich
    pandas.DataFrame(report.layer_norms())
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.table import Table

from textreg.merging.tensors import read_json
from textreg.vlm.layouts import canonical, layer_and_module

REPORT = "merge_report.json"


@dataclass(frozen=True)
class TensorReport:
    """One output tensor: ``action`` is merged, resized, kept or replaced; norms are absent where nothing was
    compared."""

    name: str
    action: str
    elements: int
    merged_elements: int
    lam: float | None
    change_norm: float | None
    base_norm: float | None
    xxh3_128: str


@dataclass(frozen=True)
class MergeReport:
    """A finished merge; ``reload`` says what loading it in its transformers class would miss (or why that was not
    asked)."""

    tuned: tuple[str, ...]
    base: str
    out: str
    recipe: Mapping[str, Any]
    seconds: float
    nbytes: int
    files: tuple[str, ...]
    notes: tuple[str, ...]
    reload: Mapping[str, Any]
    tensors: tuple[TensorReport, ...] = field(repr=False)

    def counts(self) -> dict[str, int]:
        """Number of tensors per action."""
        actions = [tensor.action for tensor in self.tensors]
        return {action: actions.count(action) for action in ("merged", "resized", "kept", "replaced")}

    def layer_norms(self) -> list[dict[str, Any]]:
        """One row per layer and module (``self_attn``, ``mlp``, ...; ``layer`` is None outside the layers).

        Columns: layer, module, elements, change (norm of tuned - base), base (norm), relative (their quotient; None
        where the base is zero).
        """
        groups: dict[tuple[int | None, str], list[TensorReport]] = {}
        for tensor in self.tensors:
            if tensor.change_norm is not None:
                groups.setdefault(layer_and_module(canonical(tensor.name)), []).append(tensor)
        rows = []
        for (layer, module), members in sorted(groups.items(), key=lambda item: (item[0][0] is None, *item[0])):
            change = math.sqrt(sum(member.change_norm**2 for member in members))
            base = math.sqrt(sum(member.base_norm**2 for member in members))
            rows.append({
                "layer": layer, "module": module, "elements": sum(member.merged_elements for member in members),
                "change": change, "base": base, "relative": change / base if base else None,
            })  # fmt: skip
        return rows

    def table(self) -> "Table":
        """A rich table: what happened to how many tensors, then where tuning moved the model."""

        method = f"{self.recipe['method']}, lambda {self.recipe['lam']:g}"
        table = Table(title=f"{method}: {self.out} ({self.nbytes / 1e9:.2f} GB in {self.seconds:.1f} s)")
        for column, side in {"part": "left", "tensors": "right", "change": "right", "relative": "right"}.items():
            table.add_column(column, justify=side)
        for action, count in self.counts().items():
            if count:
                table.add_row(action, str(count), "", "")
        table.add_section()
        for label, rows in by_layer(self.layer_norms()).items():
            change = math.sqrt(sum(row["change"] ** 2 for row in rows))
            base = math.sqrt(sum(row["base"] ** 2 for row in rows))
            table.add_row(label, "", f"{change:.4g}", f"{change / base:.2%}" if base else "")
        table.caption = "\n".join(self.notes) or None
        return table

    def write(self, folder: Path) -> None:
        """Writes :data:`REPORT` into ``folder``."""
        text = json.dumps(asdict(self) | {"counts": self.counts(), "layers": self.layer_norms()}, indent=1)
        (folder / REPORT).write_text(text + "\n", encoding="utf-8")


def by_layer(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """Rows of :meth:`MergeReport.layer_norms` grouped to whole layers, labelled for a reader."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        label = row["module"] if row["layer"] is None else f"layer {row['layer']}"
        groups.setdefault(label, []).append(row)
    return groups


def read_report(folder: str | Path) -> MergeReport:
    """The report in a merged folder; :class:`~textreg.errors.InputError` when it is missing or unreadable."""
    value = read_json(Path(folder) / REPORT)
    tensors = tuple(TensorReport(**tensor) for tensor in value.pop("tensors"))
    plain = {name: value[name] for name in ("base", "out", "recipe", "seconds", "nbytes", "reload")}
    listed = {name: tuple(value[name]) for name in ("tuned", "files", "notes")}
    return MergeReport(**plain, **listed, tensors=tensors)
