"""The results page: a heading per question, what came out in sentences, one figure, and the evidence below it.

Not obvious: the sentences come from the answers (:mod:`textreg.book.outcome`), the figure from the folder of drawings,
and under each stand its data, its drawing as PDF, and the section of ``06_figures`` that draws it, found by the name
of the drawing function.  A question that the results do not hold has no heading.  Where a run was made, its verdicts
stand beside the shipped ones, below each question.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from docutils.nodes import make_id

from textreg.book import outcome, pages
from textreg.evaluation.claims import Claim, judge
from textreg.figures import book
from textreg.figures.predictions import VERDICTS, about
from textreg.figures.tables import Results

EVIDENCE = ("csv", "pdf")
FIGURES = "06_figures"
#: Stem of a figure -> the function that draws it.
FUNCTIONS = dict(zip(book.CAPTIONS, [*(draw.__name__ for draw in book.ALL), book.rate.__name__], strict=True))


@dataclass(frozen=True)
class Question:
    """A heading, the claims that were predicted of it, the findings told below, the figure, and what stands folded."""

    title: str
    predicted: tuple[str, ...]
    told: tuple[str, ...]
    drawing: str
    folded: tuple[str, ...] = ()
    tables: tuple[Callable[[Results], str], ...] = ()
    filter: str = ""


QUESTIONS = (
    Question("What is lost, and what comes instead?", ("loss",), ("loss",), "0_classes",
             ("6_confusion", "8_gallery"), (pages.systems_table,), "system=BM&arm=image&filter=english"),
    Question("Is it the picture, or is it English?", ("document",), ("document",), "5_arms", (),
             (pages.losses_table, pages.arms_table), "system=BM&arm=text_en&filter=english"),
    Question("Does multilingual text keep the asked language?", ("cure",), ("cure", "controls"), "3_intervals",
             ("1_language_fidelity", "2_mixture", "7_losses", "11_rate"),
             (pages.languages_table, partial(pages.languages_table, metric="lf_plus", title="LF+")),
             "system=TR&arm=image"),
    Question("Is the right language also right?", ("right", "seeing"), ("content", "seeing"), "9_grounding", (),
             (pages.questions_table,), "arm=image&filter=wrong"),
    Question("Does merging give it back, and at what price?", ("merging",), ("alone", "price"), "4_frontier"),
    Question("What of languages without any text?", ("left_out",), ("left_out",), "10_held_out"),
)  # fmt: skip


def drawing_cells(root: Path) -> dict[str, str]:
    """Stem of a figure -> the heading of the cell of ``06_figures`` that draws it."""
    stems = {name: stem for stem, name in FUNCTIONS.items()}
    cells = json.loads((root / "notebooks" / f"{FIGURES}.ipynb").read_text(encoding="utf-8"))["cells"]
    found, heading = {}, ""
    for cell in cells:
        text = "".join(cell["source"])
        if cell["cell_type"] == "markdown" and (titles := re.findall(r"^## (.+)$", text, re.MULTILINE)):
            heading = titles[-1]
        found |= {stems[name]: heading for name in re.findall(r"\bbook\.(\w+)\(", text) if name in stems}
    return found


def page(
    results: Results,
    figures: Path,
    origin: str,
    promised: Sequence[Claim],
    others: Mapping[str, Results],
    cells: Mapping[str, str],
) -> str:
    """What came out of one results folder, a section per question, and the claims with the verdicts of ``others``.

    ``figures`` holds the saved drawings, below the folder of staged pages; ``promised`` are the claims to hold the
    results to, if they are meant to show them; ``cells`` is what :func:`drawing_cells` finds.
    """
    told = outcome.findings(results)
    answered = {"measured": results, **others} if promised and told else {}
    judged = {name: judge(each.measured, tuple(promised)) for name, each in answered.items() if not each.answers.empty}
    parts = [f"*Below: {origin}.*{_counted(judged)}\n"]
    for question in QUESTIONS:
        lines = [told[name] for name in question.told if name in told]
        drawn = [name for name in (question.drawing, *question.folded) if (figures / f"{name}.svg").is_file()]
        if not lines and not drawn:
            continue
        shown = {name: _shown(figures / f"{name}.svg", cells.get(name, "")) for name in drawn}
        parts += [f"## {question.title}\n", *(f"{line}\n" for line in lines)]
        parts += [shown[name] for name in drawn if name == question.drawing]
        asked = {claim.claim for claim in promised if about(claim) in question.predicted}
        of_it = {name: table[table["claim"].isin(asked)] for name, table in judged.items()}
        parts += [pages.claims_table(of_it)] if asked and judged else []
        if question.filter and not results.answers.empty:
            parts.append(
                f'<a href="answers.html#{question.filter.replace("&", "&amp;")}">The answers themselves</a>.\n'
            )
        folded = [text for make in question.tables if (text := make(results))]
        folded += [shown[name] for name in drawn if name != question.drawing]
        parts += [dropdown("In numbers, and further figures", folded)] if folded else []
    return "\n".join(parts)


def _counted(judged: Mapping[str, pd.DataFrame]) -> str:
    """One sentence: how many predictions held."""
    if not judged:
        return ""
    found = next(iter(judged.values()))["verdict"]
    counts = [f"{(found == word).sum()} {said}" for word, said in VERDICTS.items() if (found == word).any()]
    return f"\nOf {len(found)} predictions: {', '.join(counts)}."


def beside(results: Results, origin: str) -> str:
    """A run beside shipped results: its sentences and tables; its figures have their own page."""
    where = f"Its verdicts stand beside the shipped ones, its figures on the page {{doc}}`_executed/{FIGURES}`.\n"
    told = [f"{line}\n" for line in outcome.findings(results).values()]
    folded = dropdown("In sentences and numbers", [*told, pages.systems_table(results), pages.losses_table(results)])
    return f"## {origin}\n\n{where}\n{folded}"


def _shown(path: Path, cell: str) -> str:
    """A figure and the line of its evidence: data, PDF, and where it is drawn."""
    folder = f"_executed/{path.parent.name}"
    links = [
        f"{{download}}`{kind.upper()} <{folder}/{path.stem}.{kind}>`"
        for kind in EVIDENCE
        if path.with_suffix(f".{kind}").is_file()
    ]
    if path.stem in FUNCTIONS:
        links.append(f"`figures.book.{FUNCTIONS[path.stem]}`")
    if cell:
        number = pages.escaped(cell.partition(".")[0])
        links.append(f'<a href="_executed/{FIGURES}.html#{make_id(cell)}">section {number} of {FIGURES}</a>')
    return figure(path) + (f"\nFrom {', '.join(links)}.\n" if links else "")


def figure(path: Path) -> str:
    """A MyST figure of a staged drawing, with the caption and the alternative text that were saved beside it."""
    about: dict[str, Any] = json.loads(path.with_name(f"{path.stem}.json").read_text(encoding="utf-8"))
    alt = about["alt"].replace("\n", " ")
    caption = about.get("caption") or path.stem.partition("_")[2].replace("_", " ")
    shown = f"_executed/{path.parent.name}/{path.name}"
    return f"```{{figure}} {shown}\n:alt: {alt}\n:width: 100%\n\n{pages.escaped(caption)}\n```\n"


def dropdown(title: str, parts: Sequence[str]) -> str:
    return "\n".join([f"``````{{dropdown}} {title}", *parts, "``````\n"])
