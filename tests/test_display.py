"""Answers on a page: whatever a model writes is shown and nothing of it acts."""

import html
import re
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from textreg.display import escape_answer, visible_answer


@settings(deadline=None)
@given(st.text())
def test_an_escaped_answer_holds_no_markup_and_reads_as_the_visible_one(text):
    escaped = escape_answer(text)
    assert not re.search(r"[!-\"$%'-/:<-@\[-`{-~]", escaped)  # ASCII punctuation but that of &#NN;
    assert re.sub(r"&#\d+;", "", escaped).count("&") == 0
    assert html.unescape(escaped).strip("\u2068\u2069") == visible_answer(text).strip("\u2068\u2069")


@settings(deadline=None)
@given(st.text())
def test_a_visible_answer_is_one_line_without_invisible_characters(text):
    shown = visible_answer(text)
    assert len(shown.splitlines()) <= 1
    assert all(c in "\u200c\u200d" or not unicodedata.category(c).startswith(("C", "Zl", "Zp")) for c in shown)


@pytest.mark.parametrize(
    "text", ["Ένας κόκκινος κύκλος", "Червоне коло", "دایره‌ی قرمز", "赤い丸", "लाल वृत्त", "d'un cercle"]
)
def test_plain_words_of_every_script_are_shown_as_they_are(text):
    assert visible_answer(text) == text
    assert html.unescape(escape_answer(text)).strip("\u2068\u2069") == text


def test_right_to_left_text_is_isolated_and_other_text_is_not():
    assert escape_answer("עיגול")[0] == "\u2068"
    assert escape_answer("עיגול")[-1] == "\u2069"
    assert escape_answer("circle") == "circle"


def test_a_long_answer_says_how_much_is_left_out():
    assert visible_answer("a" * 100_000, limit=10) == "a" * 10 + " … (+99,990 characters)"


def test_stacked_accents_do_not_grow_over_the_page():
    assert visible_answer("a" + "\u0301" * 50) == "a" + "\u0301" * 4
