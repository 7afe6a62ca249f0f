"""Links inside the repository: every page, picture, heading, source and included file that a text names must exist.

Looked at are the Markdown files of the repository and of the book, and the notebooks' text cells; addresses of other
hosts are left alone, so that the check needs no network.  The book's build finds its own broken references, too, but
only after minutes, and it never sees the README.  Pages that only a build makes (``_executed/``) count as there when
their notebook is.

    python -m textreg.book.links
"""

import re
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

from markdown_it import MarkdownIt

from textreg.runs import notebooks
from textreg.runs.stages import repository

OUTSIDE = re.compile(r"[a-z][a-z0-9+.-]*:|//", re.IGNORECASE)
ROLE = re.compile(r"\{(doc|cite(?::[a-z]+)?)\}`(?:[^`<]*<)?([^`<>]+)>?`")
INCLUDED = re.compile(r"^`{3,}\{(?:literal)?include\} +(\S+)", re.MULTILINE)
KEY = re.compile(r"^@\w+\{([^,\s]+)", re.MULTILINE)
MADE = "_executed"


def pages(root: Path) -> list[Path]:
    """The texts that are checked."""
    return [*sorted(root.glob("*.md")), *sorted((root / "book").glob("*.md")), *sorted(root.glob("notebooks/*.ipynb"))]


def broken(root: Path) -> list[str]:
    """One line per link that leads nowhere: the file, what it names, and why that is wrong."""
    bibliography = root / "book" / "references.bib"
    sources = set(KEY.findall(bibliography.read_text(encoding="utf-8"))) if bibliography.is_file() else set()
    return [
        f"{page.relative_to(root).as_posix()}: {problem}"
        for page in pages(root)
        for problem in _problems(root, page, _text(page), sources)
    ]


def _text(page: Path) -> str:
    if page.suffix == ".md":
        return page.read_text(encoding="utf-8")
    cells = notebooks.read(page)["cells"]
    return "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")


def _problems(root: Path, page: Path, text: str, sources: set[str]) -> Iterator[str]:
    for target in _targets(text):
        path, _, heading = target.partition("#")
        file = page.parent / path if path else page
        if not _exists(root, file):
            yield f"link to {target}, which does not exist"
        elif heading and file.suffix == ".md" and heading not in headings(file.read_text(encoding="utf-8")):
            yield f"link to {target}, but {file.name} has no such heading"
    for kind, names in ROLE.findall(text):
        for name in (name.strip() for name in names.split(",")):
            if kind == "doc" and not _page_exists(root, page.parent / name):
                yield f"{{doc}} {name}, which is no page"
            elif kind != "doc" and name not in sources:
                yield f"{{{kind}}} {name}, which references.bib lacks"
    for name in INCLUDED.findall(text):
        if not name.startswith(f"{MADE}/") and not _exists(root, page.parent / name):
            yield f"includes {name}, which does not exist"


def _targets(text: str) -> Iterator[str]:
    """Destinations of links and pictures, without those of other hosts; code is not looked at."""
    for block in MarkdownIt("commonmark").enable("table").parse(text):
        for token in block.children or ():
            found = token.attrGet("src" if token.type == "image" else "href")
            if token.type in ("link_open", "image") and found and not OUTSIDE.match(str(found)):
                yield str(found)


def headings(text: str) -> set[str]:
    """Anchors of a page's headings, as GitHub and the book make them: lower case, words joined by hyphens."""
    tokens = MarkdownIt("commonmark").parse(text)
    lines = [after.content for token, after in pairwise(tokens) if token.type == "heading_open"]
    return {re.sub(r"[^\w\- ]", "", line.lower()).strip().replace(" ", "-") for line in lines}


def _exists(root: Path, file: Path) -> bool:
    """Whether a file lies in the repository; one that only this machine has, outside of it, does not count."""
    resolved = file.resolve()
    return resolved.is_relative_to(root.resolve()) and resolved.exists()


def _page_exists(root: Path, page: Path) -> bool:
    if page.parent.name == MADE:
        return (root / "notebooks" / f"{page.name}.ipynb").is_file()
    return _exists(root, page.with_name(page.name + ".md")) or _exists(root, page.with_name(page.name + ".ipynb"))


def main() -> int:
    """Print every broken link of this repository; 1 when there is one."""
    root = repository()
    found = broken(root)
    for line in found:
        print(line)
    print(f"{len(pages(root))} texts, {len(found) or 'no'} broken link{'' if len(found) == 1 else 's'}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
