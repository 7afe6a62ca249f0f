"""The book: what staging lets through and what it refuses, the generated tables, and a strict build."""

import base64
import io
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from fontTools import ttLib
from result_folders import write_run
from sphinx_external_toc.parsing import parse_toc_yaml

from textreg.book import build, lighter
from textreg.book import pages as book_pages
from textreg.book import results as results_page
from textreg.errors import InputError, RunError
from textreg.figures import book as figure_set
from textreg.micro import assets
from textreg.settings import stage_classes

ROOT = Path(__file__).parents[2]
FIGURES = tuple(name for name in figure_set.CAPTIONS if name != "11_rate")  # which is of no run
PAGES = [f"{number:02d}_{stage}" for number, stage in enumerate(stage_classes())]


def notebook(title, *cells):
    """A notebook of a title and code cells given as (source, output, tags)."""
    made = [nbformat.v4.new_markdown_cell(f"# {title}")]
    for number, (source, output, tags) in enumerate(cells, start=1):
        outputs = [output] if output else []
        cell = nbformat.v4.new_code_cell(source, outputs=outputs, execution_count=number, metadata={"tags": tags})
        made.append(cell)
    return nbformat.v4.new_notebook(
        cells=made, metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    )


def stream(text):
    return nbformat.v4.new_output("stream", name="stdout", text=text)


def html(text):
    return nbformat.v4.new_output("display_data", data={"text/html": text})


def make_root(root):
    """A miniature repository: three pages, and every notebook with one cell."""
    (root / "notebooks").mkdir(parents=True)
    shutil.copytree(ROOT / "book/_static", root / "book/_static")
    shutil.copy(ROOT / "_config.yml", root)
    shutil.copy(ROOT / "book/references.bib", root / "book")
    blocks = [f"```{{raw}} html\n:file: _executed/{name}.html\n```\n" for name in ("first", "vlm", "explorer")]
    (root / "book/intro.md").write_text("\n".join(["# Title\n\nA page. {cite:p}`hinck2024`\n", *blocks]))
    (root / "book/references.md").write_text("# References\n\n```{bibliography}\n```\n")
    (root / "book/results.md").write_text("# Results\n\n```{include} _executed/results.md\n```\n")
    toc = ["format: jb-book", "root: book/intro", "chapters:", "- file: book/results", "- file: book/references"]
    (root / "book/_toc.yml").write_text("\n".join([*toc, *(f"- file: book/_executed/{page}" for page in PAGES)]))
    for page in PAGES:
        nbformat.write(notebook(page, ("x = 1", None, ["parameters"])), root / f"notebooks/{page}.ipynb")
    return root


@pytest.fixture
def root(tmp_path):
    return make_root(tmp_path / "clone")


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """A run folder with scores and one executed notebook per stage; ``tune`` ran for two arms."""
    folder = write_run(tmp_path_factory.mktemp("runs") / "mine")
    (folder / "notebooks").mkdir()
    for page in PAGES[1:]:
        for name in [f"{page}-BM", f"{page}-TR"] if page == "03_tune" else [page]:
            cells = ("x = 1", None, ["parameters"]), ("x = 2", None, ["injected-parameters"]), ("x", stream("2"), [])
            nbformat.write(notebook(name, *cells), folder / f"notebooks/{name}.ipynb")
    manifest = {
        "unit": "tune[BM]", "stage": "tune", "profile": "laptop", "seconds": 12.4, "peak_memory_mb": 900.0,
        "threads": 1, "started": "2026-01-01T00:00:00", "python": "3.11.7", "versions": {"torch": "2.13.0"},
        "git_commit": "abc", "git_dirty": False, "system": "Linux x86_64", "processor": "A processor", "cores": 2,
    }  # fmt: skip
    (folder / "tune/BM/manifest.json").write_text(json.dumps(manifest))
    return folder


@pytest.fixture(scope="module")
def shown(scored, tmp_path_factory):
    """What staging makes of that run, which has no figures yet, beside the table of rates: (repository, pages)."""
    root = make_root(tmp_path_factory.mktemp("shown") / "clone")
    shutil.copy(ROOT / "notebooks/06_figures.ipynb", root / "notebooks")
    (root / "bench/results").mkdir(parents=True)
    shutil.copy(ROOT / build.RATES, root / build.RATES)
    return root, build.stage(root, scored)


@pytest.fixture(scope="module")
def page(shown):
    """The results page."""
    return (shown[0] / "book/_executed/results.md").read_text()


@pytest.fixture
def run(tmp_path, scored, shown):
    """The run with its figures."""
    folder = shutil.copytree(scored, tmp_path / "runs" / "mine")
    shutil.copytree(shown[0] / "book/_executed/figures-0", folder / "figures", ignore=shutil.ignore_patterns("11_*"))
    return folder


def staged(root, page):
    return json.loads((root / f"book/_executed/{page}.ipynb").read_text())


def notes(root, page):
    return ["".join(cell["source"]) for cell in staged(root, page)["cells"] if cell["id"].startswith("book-note")]


def published(run, *cells):
    """A run's notebook of these cells as the book shows it."""
    content = json.loads(nbformat.writes(notebook("Changed", *cells)))
    return build.staged_notebook(content, run / "notebooks/05_evaluate.ipynb", [], run)


def test_without_a_run_every_page_says_that_it_was_not_executed_and_that_of_the_backbone_shows_what_is_shipped(root):
    build.stage(root)
    for page in PAGES:
        assert "not executed here" in notes(root, page)[0].lower()
    (note,) = notes(root, "00_backbone")
    made = json.loads(assets.FOLDER.joinpath(assets.MANIFEST).read_text())
    assert made["rebuild"] in note and "no part of a normal run" in note and "make reproduce" not in note
    assert all(f'"{100 * row["asked"]:.1f}"' in note for row in made["held_out"]["llm"])


def test_a_run_shows_executed_notebooks_and_of_a_stage_that_ran_per_arm_tr_with_the_names_of_the_others(shown):
    root, pages = shown
    assert pages["00_backbone"] is None and pages["03_tune"].name == "03_tune-TR.ipynb"
    text = json.dumps(staged(root, "01_prepare_data"))
    assert "Not executed" not in text and '"text": ["2"]' in text
    assert any("`BM`" in note for note in notes(root, "03_tune"))


def test_injected_parameters_are_hidden_by_their_tag(shown):
    cells = staged(shown[0], "01_prepare_data")["cells"]
    hidden = ["".join(cell["source"]) for cell in cells if "hide-cell" in cell["metadata"].get("tags", [])]
    assert hidden == ["x = 2"]


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        (("1/0", nbformat.v4.new_output("error", ename="ZeroDivisionError", evalue="x", traceback=[]), []), "ZeroDiv"),
        (("import sys; sys.exit()", nbformat.v4.new_output("error", ename="SystemExit", evalue="0"), []), "sys.exit"),
        (("show()", html("<img src=x onerror=alert(1)>"), []), "active HTML"),
        (("show()", html("<div><SCRIPT>alert(1)</SCRIPT></div>"), []), "active HTML"),
        (("show()", html("<a href='javascript:alert(1)'>x</a>"), []), "active HTML"),
    ],
)
def test_a_failed_or_dangerous_notebook_is_not_published(scored, cell, message):
    with pytest.raises(InputError, match=message):
        published(scored, cell)


def test_a_notebook_with_a_cell_that_never_ran_is_refused(root, run):
    path = run / "notebooks/05_evaluate.ipynb"
    content = json.loads(path.read_text())
    content["cells"][-1]["execution_count"] = None
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match="did not run"):
        build.stage(root, run)


def test_machine_paths_do_not_reach_the_book(scored):
    text = json.dumps(published(scored, ("x", stream(f"{scored.resolve()}/evaluate {Path.home()}/x"), [])))
    assert str(scored.resolve()) not in text and "<run>/evaluate" in text and f"{Path.home()}/x" not in text


def write_note(run, **changes):
    note = {"profile": "mine", "scale": "scenes", "seed": 0, "file": "profiles/mine.yaml", "overrides": []}
    (run / "run.json").write_text(json.dumps(note | changes))


def test_what_no_run_recorded_says_that_it_was_not_checked(shown, page):
    assert "no `textreg run` executed it" in notes(shown[0], "05_evaluate")[0]
    assert "no `textreg run` executed it" in page


@pytest.mark.parametrize("text", ["{", "[]", '{"unit": "align"}'])
def test_a_damaged_manifest_costs_a_line_of_the_tables_and_not_the_book(run, text):
    (run / "align").mkdir(exist_ok=True)
    (run / "align/manifest.json").write_text(text)
    assert "tune" in book_pages.costs_table({"run": run})
    assert "align" not in book_pages.costs_table({"run": run})


def test_a_run_whose_record_is_damaged_says_that_it_was_not_checked(run):
    write_note(run, overrides="seed=1")
    assert "could not be checked" in build.notes(ROOT, run).page("05_evaluate")


def test_pages_of_units_that_do_not_stand_say_so_and_why(run):
    write_note(run, profile="laptop", file="profiles/laptop.yaml")
    (run / "align").mkdir(exist_ok=True)
    (run / "align/manifest.json").write_text("{}")
    found = build.notes(ROOT, run)
    assert "whose result does not stand" in found.page("02_align") and str(run) not in found.page("02_align")
    assert "delete it and run the stage again" in found.page("02_align")
    assert "did not finish" in found.page("05_evaluate")
    assert "of which not everything stands" in found.scores() and "evaluate: did not finish" in found.scores()


def test_a_page_of_a_unit_that_stands_has_no_note():
    found = build.Notes({"02_align": ("align", "code changed")}, frozenset({"02_align", "03_tune-TR"}))
    assert found.page("03_tune-TR") == ""
    assert "code changed" in found.page("02_align")
    assert "does not list it" in found.page("03_tune-OLD")
    assert build.Notes({}, frozenset({"02_align"})).scores() == ""


def test_a_missing_run_folder_is_named(root):
    with pytest.raises(InputError, match="no such run folder"):
        build.stage(root, root / "runs/none")


def row_of(shown, system):
    return next(line for line in shown.splitlines() if line.startswith(f'"{system}"'))


def test_tables_hold_the_shares_of_the_answers(results):
    whole, none = (book_pages.escaped(book_pages.per_cent(value, value, value, 0)) for value in (1.0, 0.0))
    shown = book_pages.systems_table(results)
    assert ":class: n2 n3" in shown and shown.splitlines()[4].startswith('"system","asked","English","mixed"')
    assert row_of(shown, "BM").startswith(f'"BM","{none}","{whole}","{none}"')
    assert row_of(shown, "TR").startswith(f'"TR","{whole}","{none}","{none}"')
    assert f'"BM","{none}","{whole}"' in row_of(book_pages.arms_table(results), "BM")


def first_cells(shown):
    return [line.split('","')[0].strip('"') for line in shown.splitlines() if line.startswith('"')][1:]


def test_systems_stand_in_one_order_whatever_the_order_of_the_files(results):
    turned = replace(results, answers=results.answers.iloc[::-1])
    for make in (book_pages.systems_table, book_pages.arms_table):
        assert first_cells(make(turned)) == ["backbone", "BM", "TR", "TR+M"]


def test_what_tuning_took_stands_by_arm_with_its_interval(results):
    whole, none = (book_pages.escaped(book_pages.per_cent(value, value, value, 0)) for value in (1.0, 0.0))
    shown = book_pages.losses_table(results)
    assert row_of(shown, "BM") == f'"BM","{whole}","{whole}","{none}","{none}"'
    assert "`" not in shown.splitlines()[0].lstrip("`"), "a backtick ends the directive before it began"


def test_questions_are_shown_by_kind_with_their_number(results):
    shown = book_pages.questions_table(results)
    assert '"colour","100","95.0"' in shown and "caption" not in shown.splitlines()[5]


def test_a_run_beside_shipped_results_shows_its_systems_and_no_figure_again(root, run):
    shipped = write_run(root / "results" / "laptop")
    shutil.copytree(run / "figures", shipped / "figures")
    build.stage(root, run, shipped)
    page = (root / "book/_executed/results.md").read_text()
    first, second = page.split("## This run (mine)")
    assert first.count("{figure}") == len(FIGURES) and "{figure}" not in second
    assert "Systems asked about pictures" in second and "06_figures" in second and "**The loss.**" in second
    assert '"predicted","measured","This run (mine)"' in first, "this run's verdict stands beside the shipped one"


def test_each_question_of_the_results_page_says_which_predictions_held(page):
    loss, document = page.split("\n## ")[1:3]
    assert '"✓\u00a0held","What comes instead is clean English: at least 30"' in loss
    assert "Text in the asked language stays intact" in document and "Text in the asked language" not in loss


def test_the_account_says_how_often_its_predictions_held_over_the_seeds(results, tmp_path):
    for seed, held in ((0, True), (1, False)):
        folder = tmp_path / f"seed-{seed}/mechanism"
        folder.mkdir(parents=True)
        (folder / "verdicts.csv").write_text(f"prediction,measured,against,held\nEnglish pulls,0.9,0.1,{held}\n")
    told = book_pages.account_page(replace(results, folder=tmp_path))
    assert 'undecided","English pulls","90 %","10 %","in 1 of 2 runs"' in told
    assert "make reproduce" in book_pages.account_page(None)


def test_published_numbers_stand_without_words_about_rows_that_are_not_there():
    page = book_pages.published_page()
    assert "Pixtral" in page and "ours" not in page and "column n" not in page


def test_answers_of_published_models_are_shown_from_the_shipped_tables_and_missed_in_words(tmp_path):
    page = book_pages.real_models_page(ROOT / "results")
    fidelity = pd.read_csv(ROOT / "results/real_vlms/fidelity.csv")
    assert all(f'"{book_pages.escaped(system)}"' in page for system in fidelity["system"])
    row = fidelity[(fidelity["system"] == "cambrian") & (fidelity["language"] == "ja")].iloc[0]
    assert f'"{row["lf"]:.0f} ({row["english"]:.0f})"' in page and "Kinyarwanda" in page
    assert page.count("csv-table") == 4
    assert "not at hand" in book_pages.real_models_page(tmp_path)


def test_every_figure_has_one_place_on_the_results_page_its_caption_and_its_evidence_below(page):
    placed = [name for each in results_page.QUESTIONS for name in (each.drawing, *each.folded)]
    assert sorted(placed) == sorted(figure_set.CAPTIONS)
    assert sorted(FIGURES) == sorted(results_page.drawing_cells(ROOT))
    for name in placed:
        assert f"{{download}}`CSV <_executed/figures-0/{name}.csv>`" in page
    assert page.count("06_figures.html#") == len(FIGURES) and "{dropdown}" in page and "`figures.book.rate`" in page
    blocks = re.findall(r"```\{figure\}[^\n]*\n:alt: ([^\n]*)\n[^\n]*\n\n([^\n]*)\n```", page)
    assert len(blocks) == len(placed)
    for alt, caption in blocks:
        assert caption and caption not in book_pages.escaped(alt) and len(caption) < 250


def test_pages_lose_what_no_reader_needs_and_keep_mathematics(tmp_path):
    page = (
        '<head><script src="_static/vendor/fontawesome/6/js/all.min.js"></script>'
        '<script>const THEBE_JS_URL = 1</script><img alt="drawn" src="data:image/svg+xml;base64,PHN2Zy8+"/>'
        '<script defer src="_static/mathjax/tex.js"></script></head><div role="list" class="citation-list">{}</div>'
    )
    for name, text in (("plain", "x"), ("maths", '<span class="math">x</span>')):
        (tmp_path / f"{name}.html").write_text(page.format(text))
    lighter.lighten(tmp_path)
    plain, maths = ((tmp_path / f"{name}.html").read_text() for name in ("plain", "maths"))
    assert not re.search("fontawesome|THEBE|mathjax|role=|base64", plain) and "mathjax" in maths
    assert 'src="plain-0.svg"' in plain and (tmp_path / "plain-0.svg").read_text() == "<svg/>"
    lighter.lighten(tmp_path)
    assert (tmp_path / "plain.html").read_text() == plain


def test_undefined_values_are_a_dash_in_tables():
    assert book_pages.per_cent(float("nan")) == book_pages.UNDEFINED
    assert book_pages.per_cent(0.0) == "0.0"


@pytest.mark.parametrize("cell", ["<script>x</script>", "[a](javascript:b)", "`{ref}`x`", "a|b", "*bold* $x$", "a\nb"])
def test_a_cell_with_markup_stays_text(cell):
    from markdown_it import MarkdownIt

    rendered = MarkdownIt().render(book_pages.escaped(cell))
    assert not re.search(r"<(?!/?p>)", rendered)


def test_costs_and_versions_come_from_manifests(scored):
    shown = book_pages.costs_table({"run": scored})
    assert '"tune\\[BM\\]","12","900"' in shown and "A processor, 1 thread(s)" in shown
    assert '"torch","2.13.0"' in book_pages.status_page({"run": scored})


def test_costs_have_one_row_per_unit_in_the_order_of_the_stages(tmp_path):
    for seed, seconds in enumerate((10.0, 30.0, 20.0)):
        for unit in ("evaluate", "tune[EN]", "tune[TR]", "align"):
            folder = tmp_path / f"seed-{seed}" / unit.strip("]").replace("[", "/")
            folder.mkdir(parents=True)
            record = {"unit": unit, "stage": unit.partition("[")[0], "seconds": seconds, "peak_memory_mb": 100 + seed,
                      "started": f"2026-01-01T00:00:0{seed}", "processor": "P", "threads": 1}  # fmt: skip
            (folder / "manifest.json").write_text(json.dumps(record))
    shown = book_pages.costs_table({"three seeds": tmp_path})
    assert first_cells(shown) == ["align", "tune\\[EN\\]", "tune\\[TR\\]", "evaluate", "one after another"]
    assert '"align","20 \\[10, 30\\]","102"' in shown and '"one after another","80"' in shown


def test_the_miniature_book_builds_strictly_and_every_page_is_fit_to_publish(root, run, tmp_path):
    bar = notebook("Bar", ("work()", stream("10 %\r50 %\r100 %\r\ndone\n"), []))
    nbformat.write(bar, run / "notebooks/05_evaluate.ipynb")
    index = build.build(run, tmp_path / "out", root)
    names = ("book/results.html", "_static/icons.css", "book/_executed/05_evaluate.html")
    page, icons, told = ((index.parent / name).read_text() for name in names)
    assert "100 %" in told and "50 %" not in told, "of a progress bar the last state is left"
    assert page.count("<figure") == len(FIGURES) and "This run (mine)" in page
    assert "fontawesome" not in page and "icons.css" in page
    font = re.search(r"base64,([^)]*)", icons)[1]
    assert 0xF071 in ttLib.TTFont(io.BytesIO(base64.b64decode(font))).getBestCmap()  # the theme's sign of a warning


def test_a_page_with_a_broken_link_fails_the_build(root, tmp_path):
    (root / "book/intro.md").write_text("# Title\n\n[nowhere](missing.md) {cite:p}`nobody2020`\n")
    with pytest.raises(RunError, match="did not build"):
        build.build(None, tmp_path / "out", root)


def test_the_inspection_finds_missing_pages_silent_pictures_and_foreign_scripts(tmp_path):
    (tmp_path / "index.html").write_text(
        '<img src="_images/a.png" alt="_images/a.png"><p>````{csv-table} `x`</p><script src="https://x.org/y.js">'
    )
    problems = " ".join(build.check_pages(tmp_path, ["gone"]))
    said = ("no alternative text", "was not understood", "loads https://x.org/y.js", "gone.html was not")
    assert all(each in problems for each in said)


def test_the_table_of_contents_lists_every_page_and_notebook_and_nothing_else():
    pages = {f"book/{path.stem}" for path in (ROOT / "book").glob("*.md")}
    assert set(parse_toc_yaml(ROOT / "book/_toc.yml")) == pages | {f"book/_executed/{page}" for page in PAGES}


def test_pages_hold_no_typed_measurement():
    """A percentage or a decimal number in the prose of a results page would be a number nobody can trace."""
    for name in ("results", "status", "limits"):
        prose = re.sub(r"```python.*?```", "", (ROOT / f"book/{name}.md").read_text(), flags=re.DOTALL)
        assert not re.search(r"\d+(\.\d+)?\s*%|\b0\.\d+", prose.replace("100 %", "")), name


def test_tables_of_several_seeds_say_so(results):
    seeds = pd.concat([results.fidelity.assign(seed=seed) for seed in (0, 1)])
    assert "mean [range] over 2 seeds" in book_pages.languages_table(replace(results, fidelity=seeds))


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem)
def test_every_notebook_has_one_title_and_sections_below_it(path):
    """A second first-level heading would be a page of its own in the book's navigation."""
    cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "markdown"]
    text = "\n\n".join("".join(cell["source"]) for cell in cells)
    headings = re.findall(r"^(#+) ", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE)
    assert "".join(cells[0]["source"]).startswith("# ")
    assert headings.count("#") == 1 and headings[0] == "#"


def test_references_link_to_addresses_of_the_right_shape():
    text = (ROOT / "book/references.bib").read_text()
    entries = re.split(r"(?m)^(?=@)", text)[1:]
    assert len(entries) > 20
    assert all(re.fullmatch(r"\d{4}\.\d{5}", number) for number in re.findall(r"eprint = \{([^}]*)\}", text))
    assert all(re.fullmatch(r"https://[\w./-]+", address) for address in re.findall(r"url = \{([^}]*)\}", text))
    assert "arXiv:" not in text, "give eprint and archiveprefix, which become a link"
