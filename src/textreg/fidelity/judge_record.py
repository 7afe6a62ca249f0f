"""What judging a file took, part by part: verdicts, tokens, cost, and how far the judge agrees with the grammars.

A file is scored in parts and its verdicts are not kept, so they are counted as they pass.

Use: ``record = Record(LLMJudge(...), price)``, then ``annotate(part, identifier, record)`` and ``record.usage``.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

import pandas as pd

from textreg.fidelity.annotation import Judge
from textreg.fidelity.judges import Agreement, Price, Row, Usage, Verdict, agreement, usage


@dataclass
class Record:
    """A judge that remembers what its verdicts took; ``judge`` returns :class:`~textreg.fidelity.judges.Verdict`
    objects."""

    judge: Judge
    price: Price | None = None
    usage: Usage | None = None
    _both: list[tuple[bool, bool]] = field(default_factory=list)

    def __call__(self, rows: Sequence[Row]) -> list[Verdict]:
        verdicts = list(self.judge(rows))
        self.usage = _sum(self.usage, usage(verdicts, self.price))
        return verdicts

    def compare(self, annotated: pd.DataFrame) -> None:
        """Remember verdict and grammar of the answers that have both."""
        both = annotated[annotated["judged"].notna() & annotated["parsed"].notna()]
        self._both += zip(both["judged"].tolist(), both["parsed"].tolist(), strict=True)

    @property
    def agreement(self) -> Agreement | None:
        """Accuracy and kappa against the exact judge; None where no answer has both."""
        if not self._both:
            return None
        judged, parsed = zip(*self._both, strict=True)
        return agreement([Verdict(ok, "") for ok in judged], [Verdict(ok, "") for ok in parsed])


def _sum(first: Usage | None, second: Usage) -> Usage:
    if first is None:
        return second
    left, right = asdict(first), asdict(second)
    return Usage(**{name: None if left[name] is None else left[name] + right[name] for name in left})


def sentences(spent: Usage | None, agreed: Agreement | None) -> list[str]:
    """What a user should know of the judging, in whole sentences."""
    said = []
    if spent is not None:
        cost = "" if spent.cost is None else f", cost {spent.cost:.4g}"
        said.append(
            f"judge: {spent.verdicts} verdicts, {spent.cached} of them known from earlier, {spent.undecided} "
            f"undecided; {spent.tokens_in:,} tokens read, {spent.tokens_out:,} written{cost}"
        )
    if agreed is not None:
        kappa = "undefined" if agreed.kappa is None else f"{agreed.kappa:.2f}"
        said.append(
            f"judge and grammar agree on {100 * agreed.accuracy:.1f} % of {agreed.n} answers, Cohen's kappa {kappa}"
        )
    return said
