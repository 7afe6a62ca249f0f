"""Claims and their evidence: each line of ``book/claims.yml`` against the result files.

A claim is one number, a measure of one system or the difference of two, with a bound that was written down before
there were results, or after them where the line says so.  It is met, missed, or undefined where the results hold
nothing to decide it; nothing else is said.
The book's results page shows the table, misses included.
"""

from pathlib import Path
from typing import Literal

import pandas as pd
import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from textreg.errors import InputError
from textreg.figures.tables import Results, headline, macro, visual_accuracy

Measure = Literal["lf", "lf_plus", "grounded", "english_rate", "visual", "questions"]
Point = tuple[str, Literal["image", "blank", "text"], Measure]


class Claim(BaseModel):
    """One line of the claims file; ``of`` and ``minus`` are (system, request arm, measure)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    claim: str
    origin: Literal["paper", "ours"]
    of: Point
    minus: Point | None = None
    at_least: float | None = None
    at_most: float | None = None
    written: Literal["before", "after"] = "before"

    @model_validator(mode="after")
    def _one_bound(self) -> "Claim":
        if (self.at_least is None) == (self.at_most is None):
            raise ValueError("give at_least or at_most, one of the two")
        return self

    def met(self, value: float) -> bool | None:
        """Whether ``value`` keeps the bound; None when it is undefined.  A billionth of rounding is forgiven."""
        if pd.isna(value):
            return None
        return value >= self.at_least - 1e-9 if self.at_least is not None else value <= self.at_most + 1e-9

    @property
    def bound(self) -> str:
        """The bound in words, in per cent (points for a difference)."""
        number, word = (self.at_least, "at least") if self.at_least is not None else (self.at_most, "at most")
        return f"{word} {100 * number:.0f}"


def load(path: str | Path) -> tuple[Claim, ...]:
    """Read a claims file; a wrong line is an :class:`InputError` that names it."""
    lines = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    if not isinstance(lines, list):
        raise InputError(f"{path}: a list of claims is needed")
    claims = []
    for number, line in enumerate(lines, start=1):
        try:
            claims.append(Claim.model_validate(line))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "claim"
            raise InputError(f"{path}: claim {number}, {where}: {first['msg']}") from None
    return tuple(claims)


def measure(results: Results, claim: Claim) -> float:
    """The claim's number in -1..1, mean over seeds; NaN where a system, arm or measure was not evaluated."""
    value = _point(results, claim.of)
    return value if claim.minus is None else value - _point(results, claim.minus)


def check(results: Results, claims: tuple[Claim, ...]) -> pd.DataFrame:
    """``claim, origin, bound, written, value, met``: one row per claim; ``met`` is None where it is undefined."""
    rows = []
    for claim in claims:
        value = measure(results, claim)
        rows.append((claim.claim, claim.origin, claim.bound, claim.written, value, claim.met(value)))
    columns = ["claim", "origin", "bound", "written", "value", "met"]
    return pd.DataFrame(rows, columns=columns).astype({"met": object})


def _point(results: Results, point: Point) -> float:
    system, arm, name = point
    if name in ("visual", "questions"):
        table = visual_accuracy(headline(results.visual, results.chosen), questions=name == "questions")
    else:
        table = macro(headline(results.fidelity, results.chosen), name, arm)
    found = table.loc[table["system"] == system, "value"]
    return float(found.iloc[0]) if len(found) else float("nan")
