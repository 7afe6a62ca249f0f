"""What became of a prediction: a box that says held, failed, undecided or not measured, in a notebook and on a page.

Not obvious: a box shows and decides nothing, so it makes no result stale; what *must* hold stays an ``assert`` beside
it.  A claim is put to its question by what it measures, so that a new line of ``claims.yml`` finds its place unaided.

    predicted("All visual rows are English", set(rows["language"]) == {"en"})
    claimed(claims.judge(answers, claims.load()), claims.load(), "cure")
"""

import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType

import pandas as pd

from textreg.evaluation.claims import Claim, judge, load
from textreg.fidelity.asked import same_language
from textreg.fidelity.identifiers import open_identifier
from textreg.figures.tables import ENGLISH, Results, headline, over_runs, per_language, require

VERDICTS = MappingProxyType({"met": "held", "missed": "failed", "undecided": "undecided", "undefined": "not measured"})
SIGNS = MappingProxyType({"held": "✓", "failed": "✗", "undecided": "?", "not measured": "–"})
COLOURS = MappingProxyType({"held": "#009E73", "failed": "#D55E00", "undecided": "#999999", "not measured": "#999999"})


@dataclass(frozen=True)
class Prediction:
    """One prediction, what became of it (a value of :data:`VERDICTS`), and what was measured."""

    said: str
    verdict: str
    measured: str = ""

    def __str__(self) -> str:
        return f"{SIGNS[self.verdict]} {self.verdict}: {self.said}" + (f" ({self.measured})" if self.measured else "")


@dataclass(frozen=True)
class Predictions:
    """Boxes, one below the other."""

    each: tuple[Prediction, ...]

    def _repr_html_(self) -> str:
        return "".join(
            f'<p class="prediction" style="border-left: 0.3em solid {COLOURS[one.verdict]}; padding-left: 0.6em">'
            f"<strong>{SIGNS[one.verdict]} Predicted, {one.verdict}:</strong> {html.escape(one.said)}"
            + (f" <em>({html.escape(one.measured)})</em>" if one.measured else "")
            + "</p>"
            for one in self.each
        )

    def __str__(self) -> str:
        return "\n".join(map(str, self.each))


def predicted(said: str, held: bool | None, measured: str = "") -> Predictions:
    """One box; ``held`` is None where nothing was measured."""
    verdict = "not measured" if held is None else "held" if held else "failed"
    return Predictions((Prediction(said, verdict, measured),))


def about(claim: Claim) -> str:
    """The question that a claim answers: loss, document, cure, left_out, right, seeing or merging."""
    system, arm, measure, *rest = claim.of
    if system.endswith("+M"):
        return "merging"
    if claim.beyond or arm != "image":
        return "document"
    if len(rest) > 1 and not isinstance(rest[1], str):
        return "left_out"
    lost = "loss" if {system, *(claim.minus or ())[:1]} <= {"BM", "backbone"} else "cure"
    return {"content": "seeing", "grounded": "right"}.get(measure, lost)


def claimed(judged: pd.DataFrame, claims: Iterable[Claim], question: str) -> Predictions:
    """The claims of one question with their verdicts; ``judged`` is what :func:`claims.judge` says of them."""
    found, boxes = judged.set_index("claim"), []
    for claim in (claim for claim in claims if about(claim) == question):
        row = found.loc[claim.claim]
        value, low, high = (f"{100 * row[name]:.1f}" for name in ("value", "low", "high"))
        measured = "" if pd.isna(row["value"]) else f"{value} [{low}, {high}], bound {claim.bound}"
        boxes.append(Prediction(claim.claim, VERDICTS[row["verdict"]], measured))
    return Predictions(tuple(boxes))


_promised = cache(load)


def of_results(results: Results, question: str) -> Predictions:
    """The claims of one question, held against results; none where no answers were kept."""
    answers = results.measured
    if answers.empty or "class" not in answers:
        return Predictions(())
    asked = tuple(claim for claim in _promised() if about(claim) == question)
    return claimed(judge(answers, asked), asked, question)


def looked(found: pd.DataFrame) -> Predictions:
    """The predictions of the mechanism (``prediction, held``); of several seeds how often each held."""
    require(found, ("prediction", "held"), "verdicts of the mechanism")
    boxes = []
    for said, rows in found.groupby("prediction", sort=False):
        times, runs = int(rows["held"].sum()), len(rows)
        verdict = "held" if times == runs else "failed" if times == 0 else "undecided"
        boxes.append(Prediction(str(said), verdict, f"in {times} of {runs} runs" if runs > 1 else ""))
    return Predictions(tuple(boxes))


def fitted(log: str | Path) -> Predictions:
    """What a gentle training looks like, from its ``log.csv`` (``step, loss``)."""
    loss = pd.read_csv(log)["loss"]
    start, half, end = loss.iloc[0], loss.iloc[len(loss) // 2 :].max(), loss.iloc[-max(1, len(loss) // 10) :].mean()
    rise = loss.max() / start - 1
    late = (half - end) / (start - end) if start > end else float("nan")
    return Predictions(
        (
            *predicted("the loss never rises more than a tenth above its start", rise <= 0.1, f"{rise:+.0%}").each,
            *predicted("it falls mostly in the first half", late < 0.25, f"{late:.0%} of the fall was left").each,
        )
    )


def kept(asked: pd.DataFrame, before: Sequence[str], after: Sequence[str], text: str) -> Predictions:
    """Whether an arm keeps the asked language, as the kind of its ``text`` rows predicts.

    ``asked``: requests with their ``language``; the answers are those before and after tuning.
    """
    shares = [asked_share(asked.assign(answer=list(answers))) for answers in (before, after)]
    measured = f"by the identifier {shares[0]:.0%} before, {shares[1]:.0%} after"
    if text == "multilingual":
        return predicted("with multilingual text the answers stay in the asked language", shares[1] >= 0.9, measured)
    mono = "with text that crosses no languages some answers leave"
    said = mono if text == "mono" else "without multilingual text answers leave the asked language"
    return predicted(said, shares[1] < shares[0], measured)


def stays(answers: pd.DataFrame) -> Predictions:
    """Whether most answers (``language, answer``) are in the asked language."""
    share = asked_share(answers)
    return predicted("it answers in the asked language, mostly", _known(share, share > 0.5), f"{share:.0%}")


def asked_share(answers: pd.DataFrame) -> float:
    """Share (0..1) of the answers to prompts in other languages than English that are in the asked language, by the
    default identifier.  ``answers``: ``language, answer``."""
    rows = answers[answers["language"] != ENGLISH]
    found = open_identifier().identify([str(answer) for answer in rows["answer"]])
    hits = [same_language(code, label.code) for code, label in zip(rows["language"], found, strict=True)]
    return sum(hits) / len(hits) if hits else float("nan")


def swept(points: pd.DataFrame) -> Predictions:
    """What merging buys and what pays for it, from the smallest lambda above 0 to 1, mean over seeds.

    ``points``: ``system, lambda, lf_plus, visual, questions`` (0..1).
    """
    boxes: list[Prediction] = []
    for system, rows in points[points["lambda"] > 0].groupby("system", sort=False):
        means = over_runs(rows, ["lambda"], ["lf_plus", "visual", "questions"]).sort_index()
        if len(means) < 2:
            continue
        gain, captions, questions = (means.iloc[0] - means.iloc[-1]).tolist()
        lowest, told = f"lambda {means.index[0]:g} against {means.index[-1]:g}", "{:+.1f} points"
        boxes += predicted(
            f"{system}: fidelity rises as lambda falls", _known(gain, gain > 0), f"{lowest}: {told.format(100 * gain)}"
        ).each
        paid = f"{lowest}: questions {told.format(100 * questions)}, captions {told.format(100 * captions)}"
        boxes += predicted(
            f"{system}: questions pay for it, captions less", _known(questions, questions < min(captions, 0)), paid
        ).each
    return Predictions(tuple(boxes))


def _known(value: float, held: bool) -> bool | None:
    return None if pd.isna(value) else held


def everywhere(results: Results, above: str, below: str, metric: str = "lf") -> Predictions:
    """Whether one system lies above another in every language but English (image arm, mean over seeds)."""
    table = per_language(headline(results.fidelity, results.chosen), metric, "image", (above, below))
    values = table.pivot(index="language", columns="system", values="value")
    values = values.drop(index=ENGLISH, errors="ignore").dropna()
    said = f"{above} above {below} in every language"
    if not {above, below} <= set(values.columns) or values.empty:
        return predicted(said, None)
    times = int((values[above] > values[below]).sum())
    return predicted(said, times == len(values), f"in {times} of {len(values)}")


def gap(results: Results, longest: str, others: Sequence[str]) -> Predictions:
    """Whether one system has the longest bars from LF+ to LF (mean over languages, image arm)."""
    fidelity = headline(results.fidelity, results.chosen)
    rows = fidelity[(fidelity["arm"] == "image") & (fidelity["language"] != ENGLISH)]
    gaps = over_runs(rows.assign(gap=rows["lf"] - rows["lf_plus"]), ["system"], ["gap"])["gap"]
    found = {name: gaps.get(name, float("nan")) for name in (longest, *others)}
    held = None if pd.isna(list(found.values())).any() else found[longest] == max(found.values())
    told = ", ".join(f"{name} {100 * value:.1f}" for name, value in found.items() if pd.notna(value))
    return predicted(f"{longest} has the longest bars", held, f"points: {told}")
