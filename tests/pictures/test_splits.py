from dataclasses import replace

import pytest

from textreg.pictures.splits import SHOWN, Secrets, plain, roles_of


def test_every_concept_has_one_role_and_no_role_is_empty(concepts):
    roles = roles_of(concepts)
    assert set(roles) == set(concepts.names["en"])
    assert set(roles.values()) == {"picture", "validation", "test", "new", "text"}
    assert sum(role in SHOWN for role in roles.values()) == concepts.picture_concepts


def test_the_concepts_that_the_tower_tells_apart_are_shown(concepts):
    apart = {concept: float(number >= 20) for number, concept in enumerate(sorted(concepts.drawn))}
    roles = roles_of(replace(concepts, told_apart=apart))
    assert {concept for concept, role in roles.items() if role in SHOWN} == {c for c, share in apart.items() if share}


def test_a_name_of_several_words_is_never_asked_for(concepts):
    one = concepts.drawn[0]
    names = {**concepts.names, "en": {**concepts.names["en"], one: "two words"}}
    assert roles_of(replace(concepts, names=names))[one] == "text"


TOLD = ["Katze", "die KATZE!", "Kater, Katze", "白い子猫です"]
NOT_TOLD = ["Katzen", "cat", "Taxi", "猫です"]  # another word, spelt as in English, a single sign that tells nothing


@pytest.mark.parametrize("text", [*TOLD, *NOT_TOLD])
def test_a_secret_is_found_as_whole_words_or_anywhere_where_there_are_no_spaces(concepts, text):
    names = {"en": {"a": "cat", "b": "taxi"}, "de": {"a": "Katze", "b": "Taxi"}, "ja": {"a": "子猫", "b": "猫"}}
    secrets = Secrets(replace(concepts, names=names), {"a": "test", "b": "picture"})
    assert (secrets.tells(text) is not None) is (text in TOLD)


def test_plain_ignores_case_punctuation_and_the_kind_of_apostrophe():
    assert plain("  Qu’est-ce QUE c'est ?") == "qu'est ce que c'est"
