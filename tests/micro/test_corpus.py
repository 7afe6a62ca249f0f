"""What the micro backbone reads: which languages, which scenes, and how often the rule of the prompt is broken."""

import random
import re

import pytest

from textreg.micro.corpus import FULL_MIXTURE, WHOLE_SCENES, context, example
from textreg.scenes import instructions
from textreg.scenes.grammar import parse, parse_any
from textreg.scenes.splits import draw, split_of
from textreg.settings import Backbone

PLAIN = {"languages": ["en", "de", "el"], "documents": 0.0, "word_contexts": 0.0, "mixed_words": 0.0}


def settings(**knobs):
    return Backbone(**PLAIN | knobs)


def pairs(count, step=FULL_MIXTURE, **knobs):
    rng, chosen = random.Random(0), settings(**knobs)
    return [example(rng, chosen, step) for _ in range(count)]


def of_one_language(text):
    return next(iter(parse_any(text)), None)


def conflicts(**knobs):
    """The languages of context, prompt and answer, of descriptions whose context is in another language."""
    found, prompts = [], {prompt: code for code in PLAIN["languages"] for prompt in _prompts(code)}
    for prompt, answer in pairs(1500, cross_lingual=1.0, **knobs):
        context_text, _, asked = prompt.rpartition("\n")
        spoken = of_one_language(context_text)
        if asked in prompts and spoken and spoken != prompts[asked]:
            found.append((spoken, prompts[asked], of_one_language(answer)))
    return found


def _prompts(code):
    rng = random.Random(0)
    return {instructions.description(draw(rng, "train"), code, rng).prompt for _ in range(60)}


def test_training_begins_with_bare_phrases_of_one_group_and_goes_on_with_those_of_whole_scenes():
    for step, groups in ((0, {1}), (WHOLE_SCENES, {1, 2, 3})):
        scenes = [scene for _, answer in pairs(100, step) for scene in parse_any(answer).values()]
        assert {len(scene.groups) for scene in scenes} == groups
        assert not any(answer.endswith(".") for _, answer in pairs(100, step))


@pytest.mark.parametrize("step", [0, WHOLE_SCENES, FULL_MIXTURE])
def test_only_the_given_languages_and_scenes_of_the_training_split_are_shown(step):
    shown = [text for pair in pairs(150, step, languages=["uk", "el"], english_share=0.0) for text in pair]
    assert not re.search(r"[a-zA-Z]", " ".join(shown))
    scenes = [scene for text in shown for line in text.split("\n") for scene in parse_any(line).values()]
    assert len(scenes) > 150 and {split_of(scene) for scene in scenes} == {"train"}


@pytest.mark.parametrize("pull", [0.0, 0.3, 1.0])
def test_the_pull_is_the_share_of_conflicts_that_are_answered_in_the_language_of_the_context(pull):
    found = conflicts(context_pull=pull)
    pulled = sum(answered == spoken for spoken, _, answered in found) / len(found)
    assert len(found) > 200 and {answered in (spoken, asked) for spoken, asked, answered in found} == {True}
    assert pulled == pytest.approx(pull, abs=0.08)


def test_without_cross_lingual_contexts_nothing_conflicts():
    for prompt, answer in pairs(300, cross_lingual=0.0):
        lines = [line.partition(": ")[2] or line for line in prompt.split("\n")]
        spoken = {code for text in (*lines, answer) for code in parse_any(text)}
        assert len(spoken) <= 1


def test_a_document_has_no_prompt_and_goes_on_in_its_own_language():
    for text, answer in pairs(100, documents=1.0):
        assert of_one_language(text) == of_one_language(answer) is not None
        assert parse(text, of_one_language(text)) == parse(answer, of_one_language(answer))


def test_words_are_of_one_language_or_of_two_whose_share_decides_a_document():
    rng, one, two = random.Random(0), settings(word_contexts=1.0), settings(word_contexts=1.0, mixed_words=1.0)
    scene = draw(rng, "train")
    assert set(context(scene, "de", rng, one)[1]) == {"de"}
    spoken = [set(context(scene, "de", rng, two)[1]) for _ in range(40)]
    assert {len(codes) for codes in spoken} == {1, 2} and all(codes <= {"de", "en", "el"} for codes in spoken)


def test_english_has_its_share_of_the_prompts():
    answers = [of_one_language(answer) for _, answer in pairs(800, english_share=0.6, cross_lingual=0.0)]
    known = [code for code in answers if code]
    assert known.count("en") / len(known) == pytest.approx(0.6, abs=0.07)
