"""What came out, in sentences: every number and every comparison is read from the answers.

A sentence compares two systems by the interval of their difference on the same requests: one is above or below the
other where the interval leaves out zero, else the two are not told apart.  What comes out against the expectation is
told in the same words.  Where a system was not evaluated, its sentence is left out.

    for line in outcome.findings(load_results("results/laptop")).values(): print(line)
"""

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from types import MappingProxyType

import numpy as np

from textreg.fidelity.estimates import Estimate, Point, estimate
from textreg.figures.style import language_names
from textreg.figures.tables import Results

ASKED = ("image", "asked")
ENGLISH = ("image", "english")
MIXED = ("image", "mixed")
STRICT = ("image", "lf_plus")
RIGHT = ("image", "grounded")
QUESTIONS = ("image", "content", "questions", "en")
CAPTIONS = ("image", "content", "caption", "en")
NEVER_SHOWN = ("image", "content", "where", "en")
#: Kinds of questions, as what a model can do.
SKILLS = MappingProxyType(
    {
        "colour": "naming colours",
        "count": "counting",
        "exist": "telling what is there",
        "larger": "comparing sizes",
        "shape": "naming shapes",
        "where": "telling where",
    }
)


class Values:
    """Estimates over everything that was drawn, in words."""

    def __init__(self, results: Results) -> None:
        self._results = results

    def of(self, *terms: tuple[float, str, tuple]) -> Estimate:
        """The weighted sum of (weight, system, point); raises KeyError where it is undefined or was not evaluated."""
        found = self._results.estimate(*((weight, Point(system, *point)) for weight, system, point in terms))
        if np.isnan(found.value):
            raise KeyError(f"{terms} was not measured")
        return found

    def told(self, system: str, point: tuple) -> str:
        """The mean in per cent: ``"67 %"``, unbroken."""
        return f"{100 * self.of((1.0, system, point)).value:.0f}\u00a0%"

    def told_apart(self, system: str, point: tuple) -> list[float]:
        """The mean of each language model, in per cent, in the order in which they come."""
        answers, found = self._results.measured, [(1.0, Point(system, *point))]
        return [100 * estimate(mine, found).value for _, mine in answers.groupby("backbone", sort=False)]

    def difference(self, one: str, other: str, point: tuple) -> str:
        """``"+3.1 [1.0, 5.2] points"``: one minus the other."""
        return points(self.of((1.0, one, point), (-1.0, other, point)))

    def against(self, one: str, other: str, point: tuple) -> str:
        """``"above"``, ``"below"`` or ``"not told apart from"``, by the interval of the difference."""
        found = self.of((1.0, one, point), (-1.0, other, point))
        return "above" if found.low > 0 else "below" if found.high < 0 else "not told apart from"


def points(found: Estimate, sign: str = "+") -> str:
    """``"+3.1 [1.0, 5.2] points"``, unbroken; with an empty ``sign`` only what is negative has one."""
    value, low, high = (round(100 * number, 1) + 0.0 for number in (found.value, found.low, found.high))
    return f"{value:{sign}.1f} [{low:.1f},\u00a0{high:.1f}] points".replace("-", "−")


def findings(results: Results) -> dict[str, str]:
    """Name of a finding -> Markdown sentences with the numbers it rests on (per cent; differences in points)."""
    if not _judged(results):
        return {}
    values, told = Values(results), {}
    for tell in (_loss, _document, _cure, _controls, _content, _seeing, _alone, _price, _left_out):
        with suppress(KeyError):  # a profile without this system, arm or question
            told[tell.__name__.strip("_")] = tell(values, results)
    return told


def _loss(v: Values, _: Results) -> str:
    return (
        f"**The loss.** Asked about a picture, `BM` answers in the asked language {v.told('BM', ASKED)} of the time, "
        f"the untuned `backbone` {v.told('backbone', ASKED)} ({v.difference('BM', 'backbone', ASKED)}). "
        f"{v.told('BM', ENGLISH)} of `BM`'s answers are clean English, {v.told('BM', MIXED)} mixed or broken."
    )


def short(results: Results) -> dict[str, str]:
    """``loss``, ``cure`` and ``price``: answers to the questions of the first page, in means without intervals but in
    the words that the intervals allow; empty where a system or an arm was not evaluated."""
    if not _judged(results):
        return dict.fromkeys(SHORT, "")
    v = Values(results)
    return {name: _where_measured(partial(tell, v)) for name, tell in SHORT.items()}


def _judged(results: Results) -> bool:
    return not results.answers.empty and "class" in results.answers


def _short_loss(v: Values) -> str:
    takes, beyond = _taken(v)
    image, english, own = (f"{round(100 * takes[arm].value)}" for arm in ("image", "text_en", "text"))
    blank = f"{round(100 * takes['blank'].value)} under blank ones, " if "blank" in takes else ""
    lead = "Its English"
    if beyond.low > 0:
        lead = "The picture, beside its English"
    elif blank and _beyond(v, "blank").low <= 0:
        lead = "Not what it shows"
    return (
        f"*{lead}.* Tuning takes {image} of 100 answers out of the asked language under pictures, {blank}{english} "
        f"under the same content as English text, {own} where the text is in the asked language."
    )


def _short_cure(v: Values) -> str:
    as_well = v.against("EN", "TR", ASKED) != "below"
    return (
        f"*{'As far as these intervals tell' if as_well else 'No'}.* Of the answers to pictures {v.told('TR', ASKED)} "
        f"are in the asked language with multilingual text, {v.told('EN', ASKED)} with as much English text, "
        f"{v.told('BM', ASKED)} with none."
    )


def _short_price(v: Values) -> str:
    kinds = {kind: ("image", "content", kind, "en") for kind in SKILLS}
    moves = {kind: _where_measured(partial(v.against, "BM+M", "BM", point)) for kind, point in kinds.items()}
    paid, gained = ([kind for kind, move in moves.items() if move == word] for word in ("below", "above"))
    lead = _listed([SKILLS[kind] for kind in paid], "and") or "nothing that the intervals tell"
    told = "; ".join(
        f"{SKILLS[kind]} {v.told('BM+M', kinds[kind])}, before {v.told('BM', kinds[kind])}" for kind in paid + gained
    )
    return (
        f"*{lead[0].upper()}{lead[1:]}.* Merged, `BM` keeps {v.told('BM+M', ASKED)} of its answers in the asked "
        f"language and has {v.told('BM+M', QUESTIONS)} of English questions right, before {v.told('BM', QUESTIONS)}"
        f"{f' ({told})' if told else ''}; `TR` needs no merging for {v.told('TR', ASKED)}."
    )


SHORT = {"loss": _short_loss, "cure": _short_cure, "price": _short_price}


def _lost(arm: str, sign: float = 1.0) -> list[tuple[float, str, tuple]]:
    return [(sign, "backbone", (arm, "asked")), (-sign, "BM", (arm, "asked"))]


def _beyond(v: Values, arm: str) -> Estimate:
    """What tuning took of the asked language under pictures beyond what it took in another arm."""
    return v.of(*_lost("image"), *_lost(arm, -1.0))


def _taken(v: Values) -> tuple[dict[str, Estimate], Estimate]:
    """What tuning took of the asked language by arm (``blank`` where it was asked), and what under pictures beyond
    under English text."""
    taken = {arm: v.of(*_lost(arm)) for arm in ("image", "text_en", "text")}
    with suppress(KeyError):
        taken["blank"] = v.of(*_lost("blank"))
    return taken, _beyond(v, "text_en")


def _document(v: Values, _: Results) -> str:
    taken, beyond = _taken(v)
    takes = {arm: points(found, "") for arm, found in taken.items()}
    word = (
        "more than English text does, and so adds something of its own"
        if beyond.low > 0
        else "less than English text does, so it need be no more than one more English context: such a loss is called "
        "English-induced"
        if beyond.high < 0
        else "no more than English text does, as far as the interval tells: such a loss is called English-induced"
    )
    blank = f"{takes['blank']} under blank ones, " if "blank" in takes else ""
    return (
        f"**A picture or an English document?** The picture takes {word}. Tuning takes {takes['image']} under "
        f"pictures, {blank}{takes['text_en']} under the same content as English text (difference to pictures "
        f"{points(beyond)}), and {takes['text']} under the content in the asked language."
    )


def _cure(v: Values, _: Results) -> str:
    return (
        f"**The cure.** With multilingual text, `TR` answers in the asked language {v.told('TR', ASKED)} of the time "
        f"(LF+ {v.told('TR', STRICT)}): {v.against('TR', 'BM', ASKED)} `BM` ({v.difference('TR', 'BM', ASKED)}), "
        f"{v.against('TR', 'backbone', ASKED)} `backbone` ({v.difference('TR', 'backbone', ASKED)})."
    )


def _controls(v: Values, _: Results) -> str:
    return (
        f"**The controls.** As much English text (`EN`) keeps {v.told('EN', ASKED)}, "
        f"{v.against('EN', 'BM', ASKED)} `BM` ({v.difference('EN', 'BM', ASKED)})."
    ) + _where_measured(
        lambda: (
            f" Text in every language that never crosses them (`TR-mono`) keeps {v.told('TR-mono', ASKED)}, "
            f"{v.against('TR-mono', 'BM', ASKED)} `BM` and {v.against('TR-mono', 'TR', ASKED)} `TR`."
        )
    )


def _content(v: Values, _: Results) -> str:
    foreign = ("image", "grounded", "questions")
    return (
        f"**Right as well.** Of the captions, `TR` gives {v.told('TR', RIGHT)} in the asked language and right, "
        f"{v.against('TR', 'BM', RIGHT)} `BM` ({v.told('BM', RIGHT)}; `backbone` {v.told('backbone', RIGHT)}); of the "
        f"answers to questions {v.told('TR', foreign)}, {v.against('TR', 'BM', foreign)} `BM` "
        f"({v.told('BM', foreign)}; `backbone` {v.told('backbone', foreign)})."
    )


def _seeing(v: Values, _: Results) -> str:
    return (
        f"**Seeing.** Asked in English, `TR` has {v.told('TR', CAPTIONS)} of the captions right, "
        f"{v.against('TR', 'BM', CAPTIONS)} `BM` ({v.told('BM', CAPTIONS)}; `backbone` "
        f"{v.told('backbone', CAPTIONS)}), and {v.told('TR', QUESTIONS)} of the questions, "
        f"{v.against('TR', 'BM', QUESTIONS)} `BM` ({v.told('BM', QUESTIONS)}; `backbone` "
        f"{v.told('backbone', QUESTIONS)})."
    ) + _where_measured(
        lambda: (
            f" Of a kind of question that no picture trained (`where`) it has {v.told('TR', NEVER_SHOWN)}, "
            f"{v.against('TR', 'backbone', NEVER_SHOWN)} `backbone` ({v.told('backbone', NEVER_SHOWN)})"
            f"{_by_language_model(v)}."
        )
    )


def _by_language_model(v: Values) -> str:
    """What a mean over language models hides where they move in opposite directions; nothing where there is one."""
    pairs = list(zip(*(v.told_apart(system, NEVER_SHOWN) for system in ("TR", "backbone")), strict=True))
    each = "; ".join(f"{after:.0f}\u00a0% after tuning, {before:.0f}\u00a0% before" for after, before in pairs)
    return f", by language model {each}" if len(pairs) > 1 else ""


def _listed(words: list[str], last: str) -> str:
    return f" {last} ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


def _where_measured(tell: Callable[[], str]) -> str:
    """The end of a sentence that a profile need not have measured; else nothing."""
    try:
        return tell()
    except KeyError:
        return ""


def _alone(v: Values, _: Results) -> str:
    return (
        f"**Merging.** `BM+M`, never shown a multilingual text, keeps {v.told('BM+M', ASKED)}, "
        f"{v.against('BM+M', 'BM', ASKED)} `BM` and {v.against('BM+M', 'TR', ASKED)} `TR`. `TR+M` keeps "
        f"{v.told('TR+M', ASKED)}, {v.against('TR+M', 'TR', ASKED)} `TR` ({v.difference('TR+M', 'TR', ASKED)})."
    )


def _price(v: Values, _: Results) -> str:
    told = "; ".join(
        f"`{arm}+M` against `{arm}`: captions {v.difference(f'{arm}+M', arm, CAPTIONS)}, questions "
        f"{v.difference(f'{arm}+M', arm, QUESTIONS)}"
        for arm in ("BM", "TR")
    )
    return f"**The price**, in English answers that are right. {told}."


def _left_out(v: Values, results: Results) -> str:
    codes = tuple(results.held_out)
    seen = tuple(sorted(set(results.fidelity["language"]) - set(codes) - {"en"}))
    if not codes or not seen:
        raise KeyError("no language was left out")
    names = list(language_names(codes).values())
    there, here = ("image", "asked", "caption", codes), ("image", "asked", "caption", seen)
    return (
        f"**Languages left out.** No text row is in {_listed(names, 'or')}. There `TR` keeps {v.told('TR', there)}, "
        f"in the languages of its text {v.told('TR', here)}; `BM` has {v.told('BM', there)} and {v.told('BM', here)}."
    )
