"""The rules of the Language Confusion Benchmark, case by case."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from textreg.fidelity.labels import Label
from textreg.fidelity.linewise import (
    LineRules,
    english_words,
    kept_lines,
    line_pass,
    lines_of,
    pieces,
    tokens,
    word_pass,
    words,
)

RU, EN = Label("ru", 0.9, "ru"), Label("en", 0.9, "en")


def test_a_line_of_five_tokens_is_kept_and_one_of_four_is_not():
    assert kept_lines("one two three four five\none two three four") == (["one two three four five"], 1)


def test_punctuation_counts_as_no_word_and_the_line_is_judged_as_it_is():
    assert kept_lines("l'image, montre: un (cercle) rouge!")[0] == ["l'image, montre: un (cercle) rouge!"]
    assert kept_lines("دائرة ، حمراء فوق مربع")[0] == [] and kept_lines("uno , dos ; tres")[0] == []


def test_an_em_dash_separates_words():
    assert kept_lines("one—two three four five")[0] == ["one—two three four five"]


def test_a_hyphen_is_deleted_so_its_word_counts_once():
    assert kept_lines("well-known one two three")[0] == []


def test_the_response_ends_where_the_next_question_begins():
    kept, short = kept_lines("один два три четыре пять\nQ: what is this thing here\nA: nothing")
    assert (kept, short) == (["один два три четыре пять"], 0)


def test_empty_lines_are_neither_kept_nor_short():
    assert kept_lines("\n\n  \n") == ([], 0)


def test_each_chinese_character_is_a_token_without_a_tokeniser():
    assert tokens("红色的圆 and 2") == ["红", "色", "的", "圆", "and", "2"]
    assert kept_lines("图片显示红圆")[0] == ["图片显示红圆"]


def test_korean_and_arabic_are_split_at_spaces():
    assert len(tokens("빨간 원 위에")) == 3 and len(tokens("دائرة حمراء")) == 2


def test_a_response_passes_only_if_every_kept_line_does():
    assert line_pass([True, True], [RU, RU]) is True
    assert line_pass([True, False], [RU, EN]) is False
    assert line_pass([True, None], [RU, EN]) is True  # a line on which identifiers disagree is left out


def test_a_response_without_a_kept_line_is_undefined_not_passed():
    assert line_pass([], []) is None and line_pass([None], [EN]) is None


def test_a_confidence_of_three_tenths_is_unknown():
    assert line_pass([True], [Label("ru", 0.3)]) is False
    assert line_pass([True], [Label("ru", 0.31)]) is True


def test_an_english_word_fails_a_russian_response():
    assert word_pass(["красный circle над синим квадратом"], "ru", True) is False
    assert word_pass(["красный круг над синим квадратом"], "ru", True) is True


@pytest.mark.parametrize("word", ["Paris", "CIRCLE", "the", "cat", "zzyzx"])
def test_capitalised_short_and_unknown_words_are_no_english_words(word):
    assert word_pass([f"красный {word} над синим квадратом"], "ru", True) is True


@pytest.mark.parametrize("language", ["ar", "hi", "ja", "ko", "ru", "zh"])
def test_six_languages_have_a_word_rate(language):
    assert word_pass(["image here"], language, True) is False


@pytest.mark.parametrize(("language", "passed"), [("de", True), ("ru", False), ("ru", None), ("uk", True)])
def test_the_word_rate_is_undefined_elsewhere_and_for_failed_lines(language, passed):
    assert word_pass(["ein circle"], language, passed) is None


def test_english_glued_to_chinese_is_found():
    assert word_pass(["红色的circle在上面"], "zh", True) is False


def test_the_word_list_is_lower_case_of_four_letters_or_more():
    words = english_words()
    assert len(words) > 30_000 and all(word.islower() and len(word) >= 4 for word in words)
    assert {"circle", "above", "picture"} <= words and not {"the", "Paris"} & words


def test_each_rule_is_an_option():
    loose = LineRules(min_tokens=2, delete="", unknown_up_to=0.0, word_languages=("uk",), cut_at="STOP")
    assert kept_lines("a, b STOP c d", loose)[0] == ["a, b"]
    assert line_pass([True], [Label("ru", 0.1)], loose) is True
    assert word_pass(["picture"], "uk", True, loose) is False


@given(st.text(max_size=300))
def test_no_text_makes_the_rules_raise_and_kept_lines_are_long_enough(text):
    kept, short = kept_lines(text)
    assert short >= 0 and all(len(tokens(line)) >= 5 for line in kept)


@given(st.text(alphabet="ab \n.-1", max_size=4000), st.integers(1, 6))
def test_pieces_leave_no_word_out(text, min_words):
    cut = pieces(lines_of(text), min_words)
    assert not cut or sum(map(words, cut)) == words(text)
    assert bool(cut) == (words(text) >= min_words)


@pytest.mark.parametrize(
    ("text", "count"),
    [("- Perro\n- Gato", 2), ("[120, 45, 310]", 0), ("🙂 !", 0), ("A. (b) 3) uno", 1), ("y el a la", 4), ("à la", 2)],
)
def test_bullets_digits_and_markers_are_no_words(text, count):
    assert words(text) == count
