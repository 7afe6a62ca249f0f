"""Whether what a run shows in the book still stands, as notes for its pages.

The plan of the run (:mod:`textreg.runs.plan`) is asked, as ``textreg status`` asks it.  A notebook that no ``textreg
run`` executed has no record to be compared with, and its page says that too.

    notes = book_standing.notes(root, Path("runs/laptop"))
    notes.page("03_tune-TR")
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from textreg.book import pages
from textreg.errors import InputError
from textreg.runs import notebooks, plan, status

NOTE = "```{{admonition}} {title}\n:class: warning\n\n{text}\n```\n"
CURE = "`textreg run` brings it up to date."


@dataclass(frozen=True)
class Notes:
    """``reasons``: stem of an executed notebook -> unit and why it does not stand; ``known``: the stems that were
    judged; ``unchecked``: why none could be, else empty."""

    reasons: Mapping[str, tuple[str, str]]
    known: frozenset[str]
    unchecked: str = ""

    def page(self, stem: str) -> str:
        """The note of the page that shows this notebook; empty when its result stands."""
        if stem in self.reasons:
            text = f"This page shows an execution whose result does not stand: {self.reasons[stem][1]}.\n{CURE}"
            return NOTE.format(title="Not up to date", text=text)
        if stem not in self.known:
            text = f"Nothing says whether this page is up to date: {self.unchecked or 'the run does not list it'}."
            return NOTE.format(title="Not checked", text=text)
        return ""

    def scores(self) -> str:
        """The note above tables and figures of the run; empty when every unit stands."""
        if self.unchecked:
            return NOTE.format(
                title="Not checked", text=f"Nothing says whether these results stand: {self.unchecked}."
            )
        if not self.reasons:
            return ""
        units = "; ".join(f"{name}: {why}" for name, why in self.reasons.values())
        text = f"These are results of a run of which not everything stands ({units}).\n{CURE}"
        return NOTE.format(title="Not up to date", text=text)


def notes(root: Path, run: Path | None) -> Notes:
    """What to write beside the notebooks and results of ``run``; nothing is executed."""
    if run is None:
        return Notes({}, frozenset())
    if not (run / plan.RUN_FILE).exists():
        return Notes({}, frozenset(), "no `textreg run` executed it")
    try:
        states = status.collect(run, root)
    except InputError as error:
        return Notes({}, frozenset(), f"its run could not be checked ({_told(str(error), run)})")
    reasons = {
        unit.stem: (pages.escaped(unit.name), _told("; ".join(state.reasons[:3]), run))
        for unit, state in states.items()
        if state.state != "done"
    }
    return Notes(reasons, frozenset(unit.stem for unit in states))


def _told(text: str, run: Path) -> str:
    """Without markup and without a path of this machine."""
    places = notebooks.machine_places(run, "the run")
    return pages.escaped(notebooks.cleaned(text, places, []))
