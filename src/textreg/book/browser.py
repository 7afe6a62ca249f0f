"""What only a browser sees of the built book: every page is opened in headless Chromium, on a desk and on a telephone.

Held to: nothing is asked of another host, no error in the console, no page over 2 MB with all that it loads, nothing
wider than the screen, no code cut off on a desk, every link inside the book has its target, and axe-core finds nothing
serious or critical.  Not obvious: Chromium and its driver are no dependency of the book (the extra ``browser``, and
the distribution's Chromium); where one is missing this says so, and nothing was checked.

    python -m textreg.book.browser _build/html
    python -m textreg.book.browser _build/html --pdf textreg.pdf
"""

import os
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import unquote, urlsplit

import typer

from textreg.errors import InputError

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
SCREENS = ((1366, 800), (390, 844))
PAPER = ("intro", "results", "method", "measures", "limits", "references")
LARGEST = 2 * 2**20
SERIOUS = ("serious", "critical")
WIDER = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
CUT = """[...document.querySelectorAll('.bd-article pre')].filter(e => e.scrollWidth > e.clientWidth + 1)
         .map(e => e.textContent.trim().slice(0, 40))"""
LINKS = """[...document.querySelectorAll('.bd-article a[href], .bd-sidebar-primary a[href]')].map(e => e.href)"""
IDS = "[...document.querySelectorAll('[id]')].map(e => e.id)"


def missing() -> str:
    """Why no browser can be had here; empty where one can."""
    if not (find_spec("playwright") and find_spec("axe_playwright_python")):
        return "the driver is not installed (pip install -e '.[browser]')"
    return "" if _chromium() else "no Chromium here (install the distribution's, or name it in CHROMIUM)"


def _chromium() -> str | None:
    return os.environ.get("CHROMIUM") or next((found for name in NAMES if (found := shutil.which(name))), None)


@contextmanager
def opened() -> Iterator[Any]:
    """A running headless Chromium of playwright; raises :class:`InputError` where there is none."""
    if why := missing():
        raise InputError(why)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=_chromium(), args=["--no-sandbox"])
        yield browser
        browser.close()


def check(html: Path, browser: Any) -> list[str]:
    """One line per problem of the pages below ``html``: the page, and what is wrong."""
    from axe_playwright_python.sync_playwright import Axe

    axe, problems, links, ids = Axe(), [], {}, {}
    pages = [path for path in sorted(html.rglob("*.html")) if "_static" not in path.parts and not _moved(path)]
    for width, height in SCREENS:
        context = browser.new_context(viewport={"width": width, "height": height})
        for path in pages:
            name, seen, asked = path.relative_to(html).as_posix(), [], []
            page = context.new_page()
            page.on("console", lambda said, seen=seen: seen.append(said.text) if said.type == "error" else None)
            page.on("pageerror", lambda error, seen=seen: seen.append(str(error)))
            page.on("request", lambda request, asked=asked: asked.append(request.url))
            page.goto(path.resolve().as_uri())
            found = [f"console: {text[:120]}" for text in seen]
            found += [f"asks for {url}" for url in asked if not url.startswith(("file:", "data:", "blob:"))]
            if (over := page.evaluate(WIDER)) > 0:
                found.append(f"{over} pixels wider than a screen of {width}")
            if width > height:
                found += [f"code is cut off: {text!r}" for text in page.evaluate(CUT)]
                loaded = {unquote(urlsplit(url).path) for url in asked if url.startswith("file:")}
                if (size := sum(Path(file).stat().st_size for file in loaded if Path(file).is_file())) > LARGEST:
                    found.append(f"{size / 2**20:.1f} MB with all that it loads")
                serious = [v for v in axe.run(page).response["violations"] if v["impact"] in SERIOUS]
                found += [f"axe {v['id']} ({v['impact']}): {v['nodes'][0]['html'][:100]}" for v in serious]
                links[path.resolve()], ids[path.resolve()] = page.evaluate(LINKS), set(page.evaluate(IDS))
            problems += [f"{name}: {text}" for text in found]
            page.close()
        context.close()
    return [*problems, *_dead(html, links, ids)]


def print_paper(html: Path, out: Path, browser: Any) -> None:
    """The pages of :data:`PAPER` as one PDF; figures stay drawings of lines, folded parts stay folded."""
    texts = [(html / "book" / f"{name}.html").read_text(encoding="utf-8") for name in PAPER]
    articles = [found[0] for text in texts if (found := re.search(r"<article\b.*?</article>", text, re.DOTALL))]
    made = html / "book" / "paper-for-print.html"
    # The first page with mathematics lends its head, so that formulas are set.
    frame = next((text for text in texts if "mathjax" in text.lower()), texts[0])
    body = f"<body>{''.join(articles)}</body>"
    made.write_text(re.sub(r"<body.*</body>", lambda _: body, frame, flags=re.DOTALL), encoding="utf-8")
    page = browser.new_page()
    page.goto(made.resolve().as_uri())
    page.wait_for_load_state("networkidle")
    page.pdf(path=out, format="A4", margin=dict.fromkeys(("top", "bottom", "left", "right"), "18mm"))
    page.close()
    made.unlink()


def _moved(path: Path) -> bool:
    """Whether a page only sends to another."""
    return 'http-equiv="refresh"' in path.read_text(encoding="utf-8").lower()


def _dead(html: Path, links: dict[Path, list[str]], ids: dict[Path, set[str]]) -> Iterator[str]:
    """Links to pages, files and places of the book that are not there; the explorer's places are its own choice."""
    for path, found in links.items():
        for link in dict.fromkeys(found):
            parts = urlsplit(link)
            target = Path(unquote(parts.path))
            if parts.scheme != "file":
                continue
            if not target.exists():
                yield f"{path.relative_to(html.resolve())}: {target.name} is not there"
            elif (place := unquote(parts.fragment)) and "=" not in place and place not in ids.get(target, set()):
                yield f"{path.relative_to(html.resolve())}: {target.name} has no #{place}"


def main(
    html: Annotated[Path, typer.Argument(help="the built pages")] = Path("_build/html"),
    pdf: Annotated[Path | None, typer.Option(help="print the paper-like pages here instead")] = None,
) -> None:
    """Print every problem of the built book, exit code 1 if there is one; or print the paper-like pages to a PDF."""
    if why := missing():
        print(f"NOT CHECKED in a browser: {why}")
        return
    if not (html / "index.html").is_file():
        print(f"error: {html}: no built book here; make book makes it", file=sys.stderr)
        raise typer.Exit(2)
    with opened() as browser:
        if pdf:
            print_paper(html, pdf, browser)
            print(pdf)
            return
        problems = check(html, browser)
    for line in problems:
        print(line)
    print(f"{len(problems) or 'no'} problem{'' if len(problems) == 1 else 's'} in the browser")
    if problems:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
