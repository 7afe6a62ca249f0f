"""Links inside the repository lead somewhere, and one that does not is named."""

import json
from pathlib import Path

import pytest

from textreg.book import links

ROOT = Path(__file__).parents[2]


@pytest.fixture
def repository(tmp_path):
    """A repository with two pages, a picture, a source and a notebook; every link in it is good."""
    (tmp_path / "book" / "_static").mkdir(parents=True)
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "book" / "_static" / "a.svg").write_text("<svg/>")
    (tmp_path / "book" / "references.bib").write_text("@article{one2020,\n title={x}}\n@misc{two2021,}\n")
    (tmp_path / "book" / "words.md").write_text("# Words\n\n## What `LF` means, exactly\n")
    (tmp_path / "README.md").write_text("# Top\n\n[words](book/words.md), ![a](book/_static/a.svg)\n")
    cells = [
        {"cell_type": "markdown", "metadata": {}, "source": "# Tune\n\nNext: [merge](03_tune.ipynb)"},
        {"cell_type": "code", "metadata": {}, "source": "x[0](no.md)", "outputs": [], "execution_count": None},
    ]
    notebook = {"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    (tmp_path / "notebooks" / "03_tune.ipynb").write_text(json.dumps(notebook))
    return tmp_path


GOOD = {
    "another host": "[x](https://example.org/none) <mailto:a@example.org>",
    "a heading": "[x](words.md#what-lf-means-exactly)",
    "a heading of the page itself": "# Here\n\n[x](#here)",
    "a page": "{doc}`words` and {doc}`the words <words>`",
    "a page that the build makes": "{doc}`_executed/03_tune`",
    "sources": "{cite:p}`one2020, two2021` and {cite:t}`one2020`",
    "an included file": "```{literalinclude} ../README.md\n```",
    "a generated file": "```{include} _executed/results.md\n```",
    "code": "`[x](none.md)`\n\n```\n[x](none.md)\n```",
}


@pytest.mark.parametrize("case", GOOD)
def test_a_good_link_is_not_complained_about(repository, case):
    (repository / "book" / "page.md").write_text(GOOD[case])
    assert links.broken(repository) == []


BROKEN = {
    "a file": ("[x](none.md)", "link to none.md, which does not exist"),
    "a picture": ("![x](_static/none.svg)", "link to _static/none.svg"),
    "a heading": ("[x](words.md#none)", "words.md has no such heading"),
    "a heading of the page itself": ("# Here\n\n[x](#there)", "page.md has no such heading"),
    "a file outside the repository": ("[x](../../../etc/passwd)", "which does not exist"),
    "a page": ("{doc}`none`", "{doc} none, which is no page"),
    "a page under another title": ("{doc}`the words <none>`", "{doc} none"),
    "a notebook that is not there": ("{doc}`_executed/09_none`", "{doc} _executed/09_none"),
    "one of several sources": ("{cite:p}`one2020, none`", "{cite:p} none, which references.bib lacks"),
    "an included file": ("```{literalinclude} ../none.py\n```", "includes ../none.py"),
    "a link in a table": ("| a |\n|---|\n| [x](none.md) |", "link to none.md"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_link_is_named_with_its_page(repository, case):
    text, expected = BROKEN[case]
    (repository / "book" / "page.md").write_text(text)
    (found,) = links.broken(repository)
    assert found.startswith("book/page.md: ") and expected in found


def test_text_cells_of_notebooks_are_looked_at_and_code_is_not(repository):
    path = repository / "notebooks" / "03_tune.ipynb"
    path.write_text(path.read_text().replace("(03_tune.ipynb)", "(04_gone.ipynb)"))
    assert links.broken(repository) == ["notebooks/03_tune.ipynb: link to 04_gone.ipynb, which does not exist"]


def test_this_repository_has_no_broken_link():
    assert links.broken(ROOT) == []
