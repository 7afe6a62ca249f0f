"""Claims and their evidence: each line of ``claims.yml`` against the answers of a run, or of many.

A claim is an estimate with a bound that was written down before there were test results, or after them where the line
says so.  It is met or missed where the whole interval says so, undecided where it does not, undefined where nothing
was measured; "no cost" is an equivalence test (:mod:`textreg.fidelity.estimates`).  Every run is judged, the shipped
ones together.

Use: ``judge(verdicts, load())``.
"""

from importlib import resources
from typing import Literal

import pandas as pd
import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from textreg.errors import InputError
from textreg.fidelity.estimates import CAPTION, Bound, Point, estimate

FILE = "claims.yml"
Cell = tuple[str, str, str] | tuple[str, str, str, str] | tuple[str, str, str, str, str | tuple[str, ...]]


class _Difference(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    of: Cell
    minus: Cell | None = None

    @property
    def terms(self) -> list[tuple[float, Point]]:
        cells = [(1.0, self.of)] + ([(-1.0, self.minus)] if self.minus else [])
        return [(sign, _point(cell)) for sign, cell in cells]


class Claim(_Difference):
    """One line of the claims file.

    ``of`` and ``minus`` are (system, request arm, measure), maybe with a task (``caption``, ``questions`` or a kind)
    and languages (``foreign``, ``en`` or a list); ``beyond`` is taken off: a difference of differences.
    """

    claim: str
    origin: Literal["paper", "ours"]
    beyond: _Difference | None = None
    at_least: float | None = None
    at_most: float | None = None
    within: float | None = None
    written: Literal["before", "after"] = "before"

    @model_validator(mode="after")
    def _one_bound(self) -> "Claim":
        if sum(bound is not None for bound in (self.at_least, self.at_most, self.within)) != 1:
            raise ValueError("give one of at_least, at_most and within")
        return self

    @property
    def terms(self) -> list[tuple[float, Point]]:
        """The points and their signs."""
        taken_off = [(-sign, point) for sign, point in self.beyond.terms] if self.beyond else []
        return [*super().terms, *taken_off]

    @property
    def bound(self) -> str:
        """The bound in words, in per cent (points for a difference)."""
        found = {"at least": self.at_least, "at most": self.at_most, "within ±": self.within}
        word, number = next((word, number) for word, number in found.items() if number is not None)
        return f"{word} {100 * number:.0f}".replace("± ", "±")


def _point(cell: Cell) -> Point:
    system, arm, measure, *rest = cell
    task, languages = [*rest, *(CAPTION, "foreign")[len(rest) :]]
    return Point(system, arm, measure, task, languages)


def load(text: str | None = None) -> tuple[Claim, ...]:
    """The claims of the package, or those of a YAML text; a wrong line is an :class:`InputError` that names it."""
    text = resources.files(__package__).joinpath(FILE).read_text("utf-8") if text is None else text
    lines = yaml.safe_load(text)
    if not isinstance(lines, list):
        raise InputError(f"{FILE}: a list of claims is needed")
    claims = []
    for number, line in enumerate(lines, start=1):
        try:
            claims.append(Claim.model_validate(line))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "claim"
            raise InputError(f"{FILE}: claim {number}, {where}: {first['msg']}") from None
    return tuple(claims)


def judge(verdicts: pd.DataFrame, claims: tuple[Claim, ...], resamples: int = 1000) -> pd.DataFrame:
    """``claim, origin, bound, written, value, low, high, runs, verdict``: one row per claim, shares in -1..1.

    ``verdicts``: answers with what can be said of each, and ``backbone``.
    """
    rows = []
    for claim in claims:
        found = estimate(verdicts, claim.terms, resamples=resamples)
        verdict = Bound(claim.at_least, claim.at_most, claim.within).verdict(found)
        told = (claim.claim, claim.origin, claim.bound, claim.written)
        rows.append((*told, found.value, found.low, found.high, found.runs, verdict))
    columns = ["claim", "origin", "bound", "written", "value", "low", "high", "runs", "verdict"]
    return pd.DataFrame(rows, columns=columns)
