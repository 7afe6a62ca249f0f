"""Answers on a page: whatever a model writes is shown and nothing of it acts."""

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from textreg.display import visible_answer


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


def test_a_long_answer_says_how_much_is_left_out():
    assert visible_answer("a" * 100_000, limit=10) == "a" * 10 + " … (+99,990 characters)"


def test_stacked_accents_do_not_grow_over_the_page():
    assert visible_answer("a" + "\u0301" * 50) == "a" + "\u0301" * 4
