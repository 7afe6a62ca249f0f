import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from textreg.errors import InputError
from textreg.scenes import grammar, languages
from textreg.scenes import instructions as tasks
from textreg.scenes.scene import Group, Scene, canonical, sample, to_json

CODES = languages.codes()
code_of = st.sampled_from(CODES)
seeds = st.integers(0, 10**9)
PAIR = Scene((Group("red", "star", "small"), Group("black", "cross", "large")), "right")


@pytest.mark.parametrize("code", CODES)
def test_every_instruction_accepts_its_own_answer(code):
    rng = random.Random(0)
    for _ in range(60):
        scene = sample(rng)
        made = [tasks.description(scene, code, rng)]
        made += [tasks.question(scene, code, rng, kind) for kind in tasks.question_kinds(scene)]
        source = rng.choice([other for other in CODES if other != code])
        kinds = tasks.text_kinds(scene, code, source)
        made += [tasks.text_instruction(scene, code, rng, kind, source) for kind in kinds]
        for one in made:
            assert one.language == code
            assert tasks.meaning_in(one.answer, one.task, code) == one.meaning, one
            assert tasks.meaning_in_any_language(one.answer, one.task) == one.meaning, one
            assert "{" not in one.prompt + one.answer, one


@given(seeds, code_of, code_of)
def test_the_right_content_in_another_language_is_not_right(seed, code, other):
    rng = random.Random(seed)
    scene = sample(rng)
    one = tasks.description(scene, code, rng)
    elsewhere = tasks.description(scene, other, rng).answer
    assert (tasks.meaning_in(elsewhere, one.task, code) == one.meaning) == (code == other)
    assert tasks.meaning_in_any_language(elsewhere, one.task) == one.meaning


@given(seeds, code_of)
def test_the_right_language_with_other_content_is_not_right(seed, code):
    rng = random.Random(seed)
    scene, other = sample(rng), sample(rng)
    one = tasks.description(scene, code, rng)
    answer = tasks.description(other, code, rng).answer
    assert (tasks.meaning_in(answer, one.task, code) == one.meaning) == (canonical(scene) == canonical(other))


@given(seeds, code_of)
def test_descriptions_are_answered_in_full_sentences(seed, code):
    rng = random.Random(seed)
    scene = sample(rng)
    answer = tasks.description(scene, code, rng).answer
    assert answer != grammar.caption(scene, code, 0) and answer.endswith(".")
    assert len(answer.split()) >= 4


def test_a_caption_told_from_the_other_side_is_right_too():
    meaning = to_json(canonical(PAIR))
    left = "The image shows a large black cross to the left of a small red star."
    right = left.replace("left", "right")
    assert tasks.meaning_in(left, "caption", "en") == meaning
    assert tasks.meaning_in(right, "caption", "en") != meaning


def test_where_asks_for_the_first_object_of_the_canonical_scene():
    one = tasks.question(PAIR, "en", random.Random(0), "where")
    assert "the cross" in one.prompt
    assert (one.answer, one.meaning) == ("to the left of a small red star", "left|small red star|1")


@given(seeds, seeds)
def test_a_question_about_something_is_answered_yes_exactly_when_it_is_there(seed, again):
    scene = sample(random.Random(seed))
    one = tasks.question(scene, "en", random.Random(again), "exist")
    there = any(f"{group.colour} {group.shape} " in one.prompt.replace("?", " ") for group in scene.groups)
    assert one.answer == one.meaning == ("yes" if there else "no")


def test_questions_without_a_single_answer_are_not_asked():
    stars = Scene((Group("red", "star", "small", 2),))
    assert tasks.question_kinds(stars) == ("count", "exist")
    with pytest.raises(InputError, match="no single answer"):
        tasks.question(stars, "en", random.Random(0), "colour")
    same_size = Scene((Group("red", "star", "small"), Group("blue", "cross", "small")), "left")
    assert "larger" not in tasks.question_kinds(same_size)


def test_no_language_is_drawn_that_was_not_asked_for():
    rng = random.Random(0)
    made = [tasks.text_instruction(sample(rng), "de", rng) for _ in range(300)]
    assert all(one.task != "translate" for one in made)
    allowed = grammar.words("de")
    for one in (one for one in made if one.task == "describe_text"):
        assert set(grammar.split_words(one.prompt.partition(": ")[2])) <= allowed


def test_translation_needs_a_source_in_another_language():
    for source in (None, "de"):
        with pytest.raises(InputError, match="source in another language"):
            tasks.text_instruction(PAIR, "de", random.Random(0), "translate", source)


def test_translating_takes_the_prompt_of_the_target_and_the_text_of_the_source():
    one = tasks.text_instruction(PAIR, "de", random.Random(0), "translate", "eu")
    prompt, _, text = one.prompt.partition(": ")
    assert "Deutsch" in prompt
    assert grammar.parse(text, "eu") == grammar.parse(one.answer, "de") == PAIR


def test_flipping_starts_with_the_other_object_in_the_same_frame():
    one = tasks.text_instruction(PAIR, "en", random.Random(3), "flip")
    given_text = one.prompt.partition(": ")[2]
    assert grammar.parse(given_text, "en") == PAIR
    assert grammar.parse(one.answer, "en").groups == PAIR.groups[::-1]


def test_reading_puts_the_caption_above_the_question():
    one = tasks.text_instruction(PAIR, "en", random.Random(0), "read")
    text, asked = one.prompt.split("\n")
    assert grammar.parse(text, "en") == PAIR and asked.endswith("?")
    assert one.task.startswith("read_") and not tasks.is_sentence_task(one.task)


def test_an_unknown_task_is_refused_with_a_suggestion():
    with pytest.raises(InputError, match=r"'captoin'.*'caption'"):
        tasks.meaning_in("x", "captoin", "en")
