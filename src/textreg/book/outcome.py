"""What came out, in sentences: every number and every comparison is read from the result files.

A sentence compares two systems by the range of their seeds: one is above or below the other where the ranges do not
meet, else the two are level.  With one seed there is no range, and the sentence gives the numbers and no verdict.
Where a system was not evaluated, its sentence is left out.

    for line in outcome.sentences(load_results("results/laptop"), claims.load("book/claims.yml")): print(line)
"""

import pandas as pd

from textreg.book import claims as promises
from textreg.figures.style import SHORT_MEASURES, language_names
from textreg.figures.tables import Results, headline, image_loss, macro, visual_accuracy

UNMERGED = ("BM", "TR", "EN")


class Values:
    """Means (0..1) with their range over seeds, by measure and system, each computed once."""

    def __init__(self, results: Results) -> None:
        fidelity, visual = (headline(table, results.chosen) for table in (results.fidelity, results.visual))
        self._tables = {
            "visual": visual_accuracy(visual),
            "questions": visual_accuracy(visual, questions=True),
            "lf_loss": image_loss(fidelity, "lf"),
            "lf_plus_loss": image_loss(fidelity, "lf_plus"),
        }
        self._tables |= {
            f"{metric}_{arm}": macro(fidelity, metric, arm)
            for metric in ("lf", "lf_plus", "grounded")
            for arm in ("image", "blank", "text")
        }
        left_out = list(results.held_out)
        kept = sorted(set(fidelity["language"]) - set(left_out) - {"en"})
        self._tables["seen"] = macro(fidelity, "lf_plus", languages=kept)
        self._tables["left_out"] = macro(fidelity, "lf_plus", languages=left_out)

    def of(self, measure: str, system: str) -> pd.Series:
        """``value, low, high`` of one system; raises KeyError where it is undefined or was not evaluated."""
        row = self._tables[measure].set_index("system").loc[system]
        if pd.isna(row["value"]):
            raise KeyError(f"{measure} of {system}")
        return row

    def told(self, measure: str, system: str) -> str:
        """The mean in per cent: ``"66.6 %"``."""
        return f"{100 * self.of(measure, system)['value']:.1f} %"

    def against(self, measure: str, one: str, other: str) -> str:
        """``"above"``, ``"below"`` or ``"level with"``, by the ranges over seeds; ``"beside"`` where there is none."""
        a, b = self.of(measure, one), self.of(measure, other)
        if pd.isna(a["low"]) or pd.isna(b["low"]):
            return "beside"
        return "above" if a["low"] > b["high"] else "below" if a["high"] < b["low"] else "level with"


def sentences(results: Results, promised: tuple[promises.Claim, ...] = ()) -> list[str]:
    """Markdown sentences, one per finding, each with the numbers it rests on (per cent; differences in points)."""
    values = Values(results)
    lines = []
    for tell in (_loss, _languages, _cure, _control, _alone, _merged, _price, _backbone, _left_out):
        try:
            lines.append(tell(values, results))
        except KeyError:  # a profile without this system, or a measure that nobody judged
            continue
    return [*(line for line in lines if line), *_misses(results, promised)]


def _loss(v: Values, _: Results) -> str:
    return (
        f"**The loss.** Tuned in English alone, `BM` keeps the asked language in {v.told('lf_image', 'BM')} of its "
        f"answers to an image by LF and in {v.told('lf_plus_image', 'BM')} by LF+; for `backbone`, before the tuning, "
        f"it is {v.told('lf_image', 'backbone')} and {v.told('lf_plus_image', 'backbone')}."
    )


def _languages(v: Values, _: Results) -> str:
    lost = {m: v.of(f"{m}_text", "backbone")["value"] - v.of(f"{m}_text", "BM")["value"] for m in ("lf", "lf_plus")}
    if lost["lf"] > v.of("lf_loss", "BM")["value"] or lost["lf_plus"] < v.of("lf_plus_loss", "BM")["value"] / 2:
        return ""  # another finding than the one that these words tell
    return (
        f"**The image, and the languages as such.** Asked the same as text, `BM` has an LF of "
        f"{v.told('lf_text', 'BM')}, so by LF the loss needs the image. By LF+ it does not: as text "
        f"{v.told('lf_plus_text', 'BM')} and with a blank image {v.told('lf_plus_blank', 'BM')} of its answers are "
        f"clean, against {v.told('lf_plus_text', 'backbone')} and {v.told('lf_plus_blank', 'backbone')} of "
        f"`backbone`. Tuning in English harms the languages as such, and the image adds "
        f"{100 * v.of('lf_plus_loss', 'BM')['value']:.0f} points to that."
    )


def _cure(v: Values, _: Results) -> str:
    return (
        f"**The cure.** With multilingual text `TR` has an LF of {v.told('lf_image', 'TR')}, an LF+ of "
        f"{v.told('lf_plus_image', 'TR')} and a GF of {v.told('grounded_image', 'TR')} on images, where `BM` has a GF "
        f"of {v.told('grounded_image', 'BM')}; it is {_levels(v, 'TR', 'BM', ('lf_image', 'lf_plus_image'))}. "
        f"English captions: {v.told('visual', 'TR')}, {v.against('visual', 'TR', 'BM')} `BM` with "
        f"{v.told('visual', 'BM')}."
    )


def _control(v: Values, _: Results) -> str:
    return (
        f"**The control.** The same share of English text does not do it: `EN` has an LF of "
        f"{v.told('lf_image', 'EN')} and an LF+ of {v.told('lf_plus_image', 'EN')}, "
        f"{_levels(v, 'EN', 'BM', ('lf_image', 'lf_plus_image'))}. Asked as text it has an LF+ of "
        f"{v.told('lf_plus_text', 'EN')}, {v.against('lf_plus_text', 'EN', 'BM')} `BM`."
        if v.of("lf_plus_image", "EN")["value"] < v.of("lf_plus_image", "TR")["value"]
        else f"**The control.** English text does as well: LF {v.told('lf_image', 'EN')}."
    )


def _alone(v: Values, _: Results) -> str:
    return (
        f"**Merging alone.** `BM+M` was never shown a multilingual text and reaches an LF+ of "
        f"{v.told('lf_plus_image', 'BM+M')} and a GF of {v.told('grounded_image', 'BM+M')}: "
        f"{_levels(v, 'BM+M', 'TR', ('lf_plus_image', 'grounded_image'))}. What it keeps of the questions is "
        f"{v.told('questions', 'BM+M')}, `TR` {v.told('questions', 'TR')}."
    )


def _merged(v: Values, _: Results) -> str:
    return (
        f"**Both.** `TR+M` has an LF+ of {v.told('lf_plus_image', 'TR+M')} and a GF of "
        f"{v.told('grounded_image', 'TR+M')}: {_levels(v, 'TR+M', 'TR', ('lf_plus_image', 'grounded_image'))}, and "
        f"{_levels(v, 'TR+M', 'BM+M', ('lf_plus_image', 'grounded_image'))}."
    )


def _price(v: Values, _: Results) -> str:
    told = "; ".join(
        f"{arm} to {arm}+M: captions {_points(v, 'visual', arm)}, questions {_points(v, 'questions', arm)}"
        for arm in ("BM", "TR")
    )
    return f"**The price of merging**, in points of English answers that are right. {told}."


def _backbone(v: Values, _: Results) -> str:
    measures = ("lf_plus_image", "grounded_image", "visual", "questions")
    better, worse = [], []
    for measure in measures:
        own, others = v.of(measure, "backbone")["value"], [v.of(measure, arm)["value"] for arm in UNMERGED]
        (better if own > max(others) else worse if own < min(others) else []).append(_name(measure))
    first = f"higher than every tuned system that was not merged on {_and(better)}" if better else ""
    last = f"lower than all of them on {_and(worse)}" if worse else ""
    return (
        f"**Before any tuning.** The mean of `backbone` is {' and '.join(part for part in (first, last) if part)} "
        f"(LF+ {v.told('lf_plus_image', 'backbone')}, GF {v.told('grounded_image', 'backbone')}, captions "
        f"{v.told('visual', 'backbone')}, questions {v.told('questions', 'backbone')}). "
        "What tuning teaches at this scale is to answer questions, and what it costs is language."
        if better and worse
        else ""
    )


def _left_out(v: Values, results: Results) -> str:
    if not results.held_out:
        return ""
    names = _and(list(language_names(results.held_out).values()))
    return (
        f"**A language left out.** {names} has no text row, and yet `TR` has an LF+ of {v.told('left_out', 'TR')} "
        f"there, against {v.told('seen', 'TR')} in the languages of its text; `BM` has {v.told('left_out', 'BM')}."
    )


def _misses(results: Results, promised: tuple[promises.Claim, ...]) -> list[str]:
    if not promised:
        return []
    found = promises.check(results, promised)
    missed = [
        f"{row.claim} ({100 * row.value:.1f}, bound {row.bound})" for row in found.itertuples() if row.met is False
    ]
    if not missed:
        return [f"**The bounds.** All of the {len(found)} are kept."]
    return [f"**The bounds.** {len(missed)} of {len(found)} are missed: {'; '.join(missed)}."]


def _levels(v: Values, one: str, other: str, measures: tuple[str, ...]) -> str:
    """``"above BM on LF and LF+"``: the measures with the same verdict told together."""
    by_verdict: dict[str, list[str]] = {}
    for measure in measures:
        by_verdict.setdefault(v.against(measure, one, other), []).append(_name(measure))
    return " and ".join(f"{verdict} `{other}` on {_and(names)}" for verdict, names in by_verdict.items())


def _points(v: Values, measure: str, arm: str) -> str:
    return f"{100 * (v.of(measure, f'{arm}+M')['value'] - v.of(measure, arm)['value']):+.1f}"


def _name(measure: str) -> str:
    return SHORT_MEASURES[measure.removesuffix("_image")]


def _and(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
