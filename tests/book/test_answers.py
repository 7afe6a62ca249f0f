"""Answers shown to readers: whose each word is, the first screen in the book and in the README, and the explorer."""

import json
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import pytest

from textreg.book import browser, explorer, first
from textreg.figures import marks
from textreg.figures.tables import load_results
from textreg.scenes import grammar
from textreg.scenes.scene import Group, Scene

ROOT = Path(__file__).parents[2]
SCENE = Scene((Group("red", "circle", "small", 1),), None)


@pytest.fixture(scope="module")
def shown(results):
    return first.first(results)


@pytest.mark.parametrize("code", ["it", "el", "eu"])
def test_a_native_answer_has_no_foreign_word_and_means_what_it_says(code):
    answer = grammar.caption(SCENE, code)
    assert {kind for _, kind in marks.words(answer, code)} == {marks.OWN}
    assert marks.gloss(answer, code) == grammar.caption(SCENE, "en", frame=0)


def test_words_of_english_and_of_neither_language_are_told_apart():
    kinds = dict(marks.words("Das Bild zeigt red zvaigzde", "de"))
    assert kinds == {"Das": "own", "Bild": "own", "zeigt": "own", "red": "english", "zvaigzde": "foreign"}
    assert marks.gloss("Das Bild zeigt red zvaigzde", "de") == ""
    assert marks.words("Lo que sea", "xx") == [("Lo", "own"), ("que", "own"), ("sea", "own")]


def test_the_prompt_is_glossed_by_the_english_prompt_of_the_same_meaning():
    assert marks.question("Che cosa mostra l'immagine?", "it") == "What does the image show?"
    assert marks.question("Was?", "de") == ""


def test_the_first_screen_shows_a_picture_that_bm_answers_in_english_and_the_shares_of_all_answers(shown):
    assert shown.code == "it" and [said.system for said in shown.answers] == ["BM", "TR", "TR+M"]
    bm, tr, _ = shown.answers
    assert bm.kind == "english" and dict(bm.numbers)["English"] == "100\u00a0%"
    assert tr.kind == "asked" and tr.right and dict(tr.numbers)["asked, right"] == "100\u00a0%"
    page = first.html(shown)
    assert "100\u00a0% of the time in English" in page and "#picture=test-00000:caption&amp;language=it" in page


def test_the_first_screen_says_what_its_model_does_where_nothing_is_lost(results):
    rows = results.answers["system"].replace({"BM": "TR", "TR": "BM"})
    turned = first.first(replace(results, answers=results.answers.assign(system=rows)))
    assert turned.answers[0].kind == "asked" and "answers 0\u00a0% of the time in English" in first.html(turned)


def test_results_without_judged_answers_have_no_first_screen_and_an_explorer_that_says_so(results, tmp_path):
    bare = replace(results, answers=results.answers.drop(columns="class"))
    assert first.first(bare) is None and "make reproduce" in first.html(None)
    explorer.write(bare, tmp_path, tmp_path / "page.html")
    assert "make reproduce" in (tmp_path / "page.html").read_text() and not (tmp_path / explorer.DATA).exists()


def test_the_drawing_of_the_readme_is_an_svg_that_says_what_it_shows(shown):
    drawing = ET.fromstring(first.svg(shown))
    words = "".join(drawing.itertext())
    assert all(said.answer in " ".join(words.split()) for said in shown.answers)
    assert drawing.attrib["role"] == "img"


def test_the_readme_shows_the_shipped_results():
    made = first.first(load_results(ROOT / first.SHIPPED))
    if made is None:
        pytest.skip("the shipped answers have no classes yet")
    assert (ROOT / first.FILE).read_text(encoding="utf-8") == first.svg(made), (
        "the README shows other results than are shipped; refresh it with: python -m textreg.book.first"
    )


@pytest.fixture(scope="module")
def written(results, tmp_path_factory):
    """The explorer as a page of its own, with its script and style."""
    folder = tmp_path_factory.mktemp("explorer")
    (folder / "_static").mkdir()
    (folder / "book").mkdir()
    explorer.write(results, folder / "_static", folder / "book/block.html")
    for name in ("answers.js", "textreg.css"):
        (folder / "_static" / name).write_bytes((ROOT / "book/_static" / name).read_bytes())
    block = (folder / "book/block.html").read_text(encoding="utf-8")
    head = '<!doctype html><html lang="en"><title>x</title><link rel="stylesheet" href="../_static/textreg.css">'
    (folder / "book/answers.html").write_text(f"{head}<main><h1>x</h1>{block}</main>", encoding="utf-8")
    return folder


def shelf_of(folder):
    return json.loads((folder / "_static" / explorer.DATA).read_text(encoding="utf-8").partition("=")[2])


def test_every_answer_of_the_explorer_is_the_one_of_the_results(results, written):
    shelf = shelf_of(written)
    table = results.answers.set_index(["item_id", "language", "arm", "system"])["answer"]
    names = [
        (item, code, arm, system)
        for item, _ in shelf["pictures"]
        for code, _ in shelf["languages"]
        for arm, _ in shelf["arms"]
        for system in shelf["systems"]
    ]
    assert len(names) == len(shelf["rows"]) > 500
    for name, packed in zip(names, shelf["rows"], strict=True):
        assert shelf["texts"][packed // 3][0] == table[name]
    assert (written / "_static" / explorer.DATA).stat().st_size < 2**20


def test_the_explorer_has_a_table_without_javascript_and_asks_no_other_host(written):
    page = (written / "book/answers.html").read_text(encoding="utf-8")
    assert page.count("<tr>") > 50 and '<form id="explorer" class="explorer" hidden' in page
    assert not re.search(r'(?:src|href)="(?:https?:)?//', page)


needs_browser = pytest.mark.skipif(bool(browser.missing()), reason=f"not looked at in a browser: {browser.missing()}")


@pytest.fixture(scope="module")
def chromium():
    with browser.opened() as found:
        yield found


@pytest.fixture
def page(chromium, written):
    context = chromium.new_context(viewport={"width": 390, "height": 800})
    page = context.new_page()
    page.goto((written / "book/answers.html").as_uri() + "#picture=test-00001:caption&language=it&arm=image")
    yield page
    context.close()


@pytest.mark.slow
@needs_browser
def test_a_deep_link_opens_its_choice_and_a_click_goes_to_the_next_picture(page):
    rows = page.locator("#explorer-table tbody tr")
    assert rows.count() == 4 and "Italian" in rows.first.inner_text()
    page.get_by_text("next picture").click()
    assert "picture=test-00002" in page.url and rows.count() == 4


@pytest.mark.slow
@needs_browser
def test_the_explorer_is_used_by_keyboard_alone_and_fits_a_telephone(page):
    page.locator("select[name=filter]").focus()
    page.keyboard.type("clean")
    rows = page.locator("#explorer-table tbody tr")
    assert rows.count() == 1 and "BM" in rows.first.inner_text() and page.locator("mark.english").count() > 3
    assert page.locator("#explorer-count").inner_text() == "1 answer"
    assert page.evaluate(browser.WIDER) <= 0


@pytest.mark.slow
@needs_browser
def test_the_browser_finds_what_is_wrong_with_a_page_and_nothing_with_a_good_one(chromium, written, tmp_path):
    (tmp_path / "index.html").write_text(
        '<html lang="en"><title>x</title><main class="bd-article"><h1>x</h1><img src="a.png"><a href="b.html">b</a>'
        '<div style="width: 2000px">x</div></main><script>undefined.x</script></html>'
    )
    found = " ".join(browser.check(tmp_path, chromium))
    for word in ("console:", "wider than a screen", "axe image-alt (critical)", "b.html is not there"):
        assert word in found
    (written / "book/block.html").unlink(missing_ok=True)
    assert browser.check(written, chromium) == []
