"""The book: stage executed notebooks and generated tables, then build strictly.

Staging copies what papermill executed into the git-ignored ``book/_executed/``: it refuses a notebook with a failed or
unexecuted cell, hides the cells papermill injected (by tag, never by position), and drops machine paths.  A stage that
no run has executed appears as its source, under a note that says so; one whose result no longer stands says why (the
plan of the run is asked, as ``textreg status`` asks it).  The
build is Jupyter Book 1 with warnings as errors; afterwards every page of the table of contents must exist, every
picture must have an alternative text, and nothing may be loaded from another host.

    python -m textreg.book.build --run runs/laptop
"""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from html.parser import HTMLParser
from importlib import metadata
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any

import typer

from textreg.book import explorer, first, lighter, outcome, pages, pictures, studies
from textreg.book import results as results_pages
from textreg.errors import InputError, RunError
from textreg.evaluation import claims
from textreg.figures import book
from textreg.figures.tables import Results, load_results
from textreg.processes import die_with_parent
from textreg.runs import notebooks, plan, report
from textreg.runs.stages import repository
from textreg.settings import stage_classes

STAGED = Path("book/_executed")
MADE_STATIC = "static"  # below STAGED; _config.yml names it beside book/_static
SHIPPED = Path("results/laptop")
FIGURES = "figures-0"  # below STAGED
RATES = Path("bench/results/tuning_rate.md")
PREFERRED_ARM = "TR"
ACTIVE_HTML = re.compile(r"<\s*(script|iframe|object|embed)\b|<[^>]*\son\w+\s*=|javascript:", re.IGNORECASE)
KERNEL = MappingProxyType({"name": "python3", "display_name": "Python 3", "language": "python"})
LANGUAGE = MappingProxyType({"name": "python", "pygments_lexer": "ipython3"})
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
BACKBONE = "00_backbone"
NOT_EXECUTED = (
    "```{admonition} Not executed here\n:class: warning\n\n"
    "No run was at hand when this book was built, so this page shows the notebook's source without results.\n"
    "`make reproduce` fills it.\n```"
)

NOTE = "```{{admonition}} {title}\n:class: warning\n\n{text}\n```\n"
CURE = "`textreg run` brings it up to date."


def stage(root: Path, run: Path | None = None, results: Path | None = None) -> dict[str, Path | None]:
    """Fill ``book/_executed`` anew from a run folder and a folder of shipped results; both may be absent.

    Returns page -> run notebook it shows, or None where the source stands in.

    Raises :class:`InputError` for a run folder that does not exist and a notebook with a failed or unexecuted cell.
    """
    if run is not None and not run.is_dir():
        raise InputError(f"{run}: no such run folder; give one that 'textreg run' has made")
    if results is None and (root / SHIPPED).is_dir():
        results = root / SHIPPED
    target = root / STAGED
    if target.exists():
        shutil.rmtree(target)
    (target / MADE_STATIC).mkdir(parents=True)
    staged: dict[str, Path | None] = {}
    standing = notes(root, run)
    for number, name in enumerate(stage_classes()):
        page = f"{number:02d}_{name}"
        executed, others = _executed(run, page)
        staged[page] = executed
        source = executed or root / "notebooks" / f"{page}.ipynb"
        content = notebooks.read(source)
        note = pages.backbone_note() if page == BACKBONE else NOT_EXECUTED
        content = staged_notebook(content, source, others, run) if executed else _source_notebook(content, note)
        if executed and (stands := standing.page(executed.stem)):
            _insert_note(content, stands)
        # Nothing else of a notebook's metadata concerns a reader, and without a language nothing is highlighted.
        content["metadata"] = {"kernelspec": dict(KERNEL), "language_info": dict(LANGUAGE)}
        (target / f"{page}.ipynb").write_text(json.dumps(content, ensure_ascii=False, indent=1), encoding="utf-8")
    _stage_pages(root, run, results, standing.scores())
    return staged


def staged_notebook(content: dict[str, Any], source: Path, others: list[str], run: Path | None) -> dict[str, Any]:
    """An executed notebook made fit for the book; see the module's docstring for what that means."""
    failure = notebooks.unfinished(content)
    recorded = content.get("metadata", {}).get("textreg", {}).get("failure")
    if failure is not None or recorded or content.get("metadata", {}).get("papermill", {}).get("exception"):
        message = failure.message if failure else recorded or "papermill recorded a failure"
        raise InputError(f"{source.name}: {message}; a failed notebook is not published, run the stage again")
    content = notebooks.cleaned(content, notebooks.machine_places(run or source.parent, "<run>"), [])
    for number, cell in enumerate(content["cells"], start=1):
        tags = cell.get("metadata", {}).get("tags", [])
        if {"injected-parameters", "parameters"} & set(tags):
            cell["metadata"]["tags"] = [*tags, "hide-cell" if "injected-parameters" in tags else "hide-input"]
        for output in cell.get("outputs", []):
            if ACTIVE_HTML.search("".join(output.get("data", {}).get("text/html", ""))):
                raise InputError(f"{source.name}: cell {number} shows active HTML; escape what it displays")
    if others:
        shown = source.stem.partition("-")[2]
        note = f"*This page shows the arm `{shown}`; papermill ran the same notebook for {', '.join(others)}.*"
        _insert_note(content, note)
    return content


def build(
    run: Path | None = None, out: Path | None = None, root: Path | None = None, results: Path | None = None
) -> Path:
    """Stage and build the book; returns its ``index.html``.

    ``run``: a run folder whose notebooks are shown (default: sources under a note).  ``out``: where ``_build`` goes
    (default: the repository).  Raises :class:`InputError` when Jupyter Book 1 is not installed, :class:`RunError` when
    the build has a warning, misses a page, shows a picture without alternative text or loads from another host.
    """
    root = root or repository()
    out = out or root
    try:
        version = metadata.version("jupyter-book")
    except metadata.PackageNotFoundError:
        raise InputError("jupyter-book is not installed; pip install -e '.[book]'") from None
    if int(version.split(".")[0]) >= 2:
        raise InputError(f"jupyter-book {version} reads no _config.yml; pip install 'jupyter-book>=1.0.4.post1,<2'")
    from sphinx_external_toc.parsing import parse_toc_yaml

    stage(root, run, results)
    command = [str(Path(sys.executable).with_name("jupyter-book")), "build", str(root), "--path-output", str(out)]
    command += ["--config", str(root / "_config.yml"), "--toc", str(root / "book" / "_toc.yml")]
    done = subprocess.run([*command, "-n", "-W", "--keep-going", "-q"], capture_output=True, text=True, check=False)
    html = out / "_build" / "html"
    if done.returncode:
        text = COLOUR.sub("", done.stdout + done.stderr).replace(f"{root}/", "")
        report = [line for line in text.splitlines() if "WARNING" in line or "ERROR" in line]
        raise RunError("the book did not build: " + (" | ".join(report[:5]) or text.strip()[-500:]))
    lighter.lighten(html)
    problems = check_pages(html, parse_toc_yaml(root / "book" / "_toc.yml"))
    if problems:
        raise RunError("the book was built but is not fit to publish: " + " | ".join(problems[:5]))
    return html / "index.html"


def check_pages(html: Path, names: Iterable[str]) -> list[str]:
    """Pages that are missing, and what :class:`_Inspector` finds on the others."""
    problems = []
    for page in ("index", *names):
        path = html / f"{page}.html"
        if not path.is_file():
            problems.append(f"{page}.html was not made")
            continue
        inspector = _Inspector()
        inspector.feed(path.read_text(encoding="utf-8"))
        problems += [f"{page}.html: {problem}" for problem in inspector.problems]
    return problems


class _Inspector(HTMLParser):
    """Collects pictures without alternative text, resources of other hosts, and markup that was not understood."""

    def __init__(self) -> None:
        super().__init__()
        self.problems: list[str] = []

    def handle_data(self, data: str) -> None:
        if "```{" in data:
            self.problems.append(f"{data.strip()[:40]!r} was not understood; a title holds no backtick")

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        source = (
            given.get("src")
            or (given.get("href") if tag == "link" and given.get("rel") == "stylesheet" else None)
            or ""
        )
        if source.startswith(("http:", "https:", "//")):
            self.problems.append(f"<{tag}> loads {source}")
        alt = given.get("alt") or ""
        # Sphinx puts a file name where a notebook's picture has no description.
        if tag == "img" and (not alt.strip() or re.fullmatch(r"\S+\.(png|svg|jpg|jpeg)", alt)):
            self.problems.append(f"picture {Path(source[:80]).name!r} has no alternative text; show it by save_figure")


def _executed(run: Path | None, page: str) -> tuple[Path | None, list[str]]:
    """The run's notebook for a page, and the other arms for which the same notebook ran."""
    if run is None:
        return None, []
    folder = run / "notebooks"
    if (folder / f"{page}.ipynb").is_file():
        return folder / f"{page}.ipynb", []
    arms = sorted(path for path in folder.glob(f"{page}-*.ipynb") if not path.name.endswith(".failed.ipynb"))
    if not arms:
        return None, []
    chosen = next((path for path in arms if path.stem.partition("-")[2] == PREFERRED_ARM), arms[0])
    return chosen, [f"`{path.stem.partition('-')[2]}`" for path in arms if path != chosen]


def _source_notebook(content: dict[str, Any], note: str) -> dict[str, Any]:
    for cell in content["cells"]:
        if cell.get("cell_type") == "code":
            cell["outputs"], cell["execution_count"] = [], None
    _insert_note(content, note)
    return content


def _insert_note(content: dict[str, Any], note: str) -> None:
    """Put a note below the title, which is the first cell."""
    number = sum(str(cell.get("id", "")).startswith("book-note") for cell in content["cells"])
    cell = {"cell_type": "markdown", "id": f"book-note-{number}", "metadata": {}, "source": note}
    content["cells"].insert(1, cell)


def _stage_pages(root: Path, run: Path | None, results: Path | None, standing: str) -> None:
    target, shipped = root / STAGED, root / "results"
    folders = {
        f"{origin} ({folder.name})": folder
        for origin, folder in (("Shipped results", results), ("This run", run))
        if folder is not None and not (origin == "This run" and folder == results)
    }
    scored = {origin: folder for origin, folder in folders.items() if _has_scores(folder)}
    with ProcessPoolExecutor(1, initializer=die_with_parent) as beside:  # drawings, half of the work, on another core
        drawn = [beside.submit(_draw, folder, root) for folder in [*scored.values()][:1]]
        drawn += beside.submit(studies.write, target, root), beside.submit(pictures.write, shipped, target)
        read = {origin: load_results(folder) for origin, folder in scored.items()}
        shelf = next(iter(read.values()), None)
        shown = first.first(shelf) if shelf else None
        explorer.write(shelf, target / MADE_STATIC, target / "explorer.html")
        told = outcome.short(shelf) if shelf else dict.fromkeys(outcome.SHORT, "")
        written = {f"short_{name}.md": text for name, text in told.items()} | {
            "first.html": first.html(shown),
            "vlm.html": first.vlm(shown),
            "account.md": pages.account_page(shelf),
            "published.md": pages.published_page(),
            "real_vlms.md": pages.real_models_page(shipped),
            "costs.md": pages.costs_table(folders),
            "status.md": pages.status_page(folders),
        }
        drawn[0].result()
        written["results.md"] = _results(root, read, run, standing)
        for name, text in written.items():
            (target / name).write_text(text, encoding="utf-8")
        for each in drawn:
            each.result()


def _draw(scored: Path, root: Path) -> None:
    """The figures of the results page: those that a run has drawn, else drawn from its tables."""
    figures = root / STAGED / FIGURES
    if (scored / "figures").is_dir():
        shutil.copytree(scored / "figures", figures, ignore=shutil.ignore_patterns("*.png"))
    else:
        book.draw_all(load_results(scored), figures)
    book.rate(root / RATES, figures)


def _results(root: Path, scored: Mapping[str, Results], run: Path | None, standing: str) -> str:
    """The results page: the first of ``scored`` with its figures, the others beside it."""
    if not scored:
        return "No results were at hand when this book was built; `make reproduce` makes them.\n"
    (origin, found), *others = scored.items()
    # The claims are about the laptop profile; toy runs promise nothing.
    held = () if found.folder.name == "smoke" else claims.load()
    judged = {name: each for name, each in others if each.folder.name != "smoke"}
    cells = results_pages.drawing_cells(root)
    page = results_pages.page(found, root / STAGED / FIGURES, origin, held, judged, cells)
    beside = [results_pages.beside(each, name) for name, each in others]
    return "\n".join([*([standing] if found.folder == run else []), page, *beside])


def _has_scores(folder: Path) -> bool:
    return (folder / "evaluate/fidelity.csv").is_file() or any(folder.glob("seed-*/evaluate/fidelity.csv"))


def main(
    run: Annotated[Path | None, typer.Option(help="run folder whose executed notebooks are shown")] = None,
    out: Annotated[Path | None, typer.Option(help="folder in which _build is made")] = None,
    results: Annotated[Path | None, typer.Option(help="folder of shipped results (default: results/laptop)")] = None,
) -> None:
    """Build the book and print its address."""
    try:
        print(build(run, out, results=results).resolve().as_uri())
    except (InputError, RunError) as error:
        print(f"book: {error}", file=sys.stderr)
        raise typer.Exit(error.exit_code) from None


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
        states = report.collect(run, root)
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


if __name__ == "__main__":
    typer.run(main)
