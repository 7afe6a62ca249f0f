import random
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from textreg.errors import InputError
from textreg.scenes import grammar, languages
from textreg.scenes.grammar import answer_meaning, caption, exclusive_share, frame_count, parse, parse_any, words
from textreg.scenes.scene import Group, Scene, sample

CODES = languages.codes()
code_of = st.sampled_from(CODES)


@st.composite
def any_scene(draw):
    rng = random.Random(draw(st.integers(0, 10**9)))
    return sample(rng, sizes=rng.random() < 0.8)


PAIR = Scene((Group("red", "star", "small"), Group("black", "cross", "large")), "above")


@pytest.mark.parametrize("code", CODES)
def test_parsing_gives_back_every_scene_in_every_frame(code):
    rng = random.Random(0)
    for _ in range(300):
        scene = sample(rng, sizes=rng.random() < 0.8)
        for frame in range(frame_count(code)):
            assert parse(caption(scene, code, frame), code) == scene


@given(any_scene(), code_of, st.randoms(use_true_random=False))
def test_parsing_forgives_case_spaces_and_the_final_stop_only(scene, code, rng):
    text = caption(scene, code, rng=rng)
    assert parse("  " + text.lower().replace(" ", "  ").removesuffix("."), code) == scene
    assert parse(text.replace("'", "’"), code) == scene
    for junk in (text + " x", "x " + text, text + "..", text + text, text + "!", text.split(" ", 1)[1]):
        assert parse(junk, code) is None


@given(any_scene(), code_of, code_of, st.randoms(use_true_random=False))
def test_a_sentence_is_read_by_no_other_language(scene, code, other, rng):
    if code != other:
        assert parse(caption(scene, code, rng=rng), other) is None


@given(any_scene(), code_of.filter(lambda code: code != "en"), st.randoms(use_true_random=False))
def test_mixed_languages_are_rejected_by_both(scene, code, rng):
    native, english = caption(scene, code, rng=rng), caption(scene, "en", rng=rng)
    own, other = native.split(), english.split()
    cut = rng.randrange(1, min(len(own), len(other)))
    for mixed in (own[:cut] + other[cut:], other[:cut] + own[cut:]):
        assert not parse_any(" ".join(mixed), ("en", code))


@pytest.mark.parametrize(
    "code, wrong",
    [
        ("en", "The image shows a small red stars."),
        ("en", "There are a small red star in the picture."),
        ("en", "There is two small red stars in the picture."),
        ("es", "La imagen muestra un estrella roja."),
        ("es", "La imagen muestra una estrella rojo."),
        ("fr", "L'image montre un petite étoile rouge."),
        ("de", "Das Bild zeigt ein kleiner roter Stern."),
        ("de", "Das Bild zeigt einen kleinen roten Stern über ein großes Kreuz."),
        ("pl", "Obraz przedstawia mała czerwona gwiazda."),
        ("el", "Η εικόνα δείχνει ένας μαύρος σταυρός."),
        ("uk", "На малюнку зображено маленька червона зірка."),
        ("eu", "Irudian bi izar gorri txiki dago."),
        ("it", "Nell'immagine ci sono una stella rossa."),
        ("lt", "Vaizde matome maža žvaigždė."),
        ("ga", "Tá réalta beag dearg sa phictiúr."),
        ("sv", "Bilden visar ett liten röd stjärna."),
    ],
)
def test_wrong_agreement_is_rejected(code, wrong):
    assert parse(wrong, code) is None


def test_known_captions_are_spelled_as_written_here():
    expected = {
        "en": "The image shows a small red star above a large black cross.",
        "de": "Das Bild zeigt einen kleinen roten Stern über einem großen schwarzen Kreuz.",
        "fr": "L'image montre une petite étoile rouge au-dessus d'une grande croix noire.",
        "pl": "Obraz przedstawia małą czerwoną gwiazdę nad dużym czarnym krzyżem.",
        "eu": "Irudian izar gorri txiki bat gurutze beltz handi baten gainean dago.",
        "ga": "Tá réalta bheag dhearg os cionn croise móire duibhe sa phictiúr.",
        "el": "Η εικόνα δείχνει ένα μικρό κόκκινο αστέρι πάνω από έναν μεγάλο μαύρο σταυρό.",
    }
    assert {code: caption(PAIR, code) for code in expected} == expected


@given(st.text(), code_of)
@example("", "en")
@example(" and ", "en")
@example("The image shows .", "en")
@example("a red star above ", "en")
@example("\x00\ud800", "fr")
def test_parsing_never_raises(text, code):
    parsed = parse(text, code)
    assert parsed is None or isinstance(parsed, Scene)
    assert answer_meaning(text, code, "where") is None or parsed is None


@pytest.mark.parametrize("piece", ["a", " ", "\u0301\u0323", " above ", " and ", "a red star above ", "."])
def test_parsing_a_very_long_text_is_quick(piece):
    text = "The image shows a red star" + piece * (100_000 // len(piece))
    started = time.perf_counter()
    parse_any(text)
    assert time.perf_counter() - started < 0.5


def test_more_than_three_objects_are_no_scene():
    assert parse("three red stars above a blue cross", "en") is None
    assert parse("two red stars and two blue crosses", "en") is None


@pytest.mark.parametrize("code", CODES)
def test_a_caption_holds_only_words_of_its_list(code):
    rng = random.Random(1)
    for _ in range(200):
        text = caption(sample(rng), code, rng=rng)
        assert set(grammar.split_words(text)) <= words(code)


@given(any_scene(), code_of.filter(lambda code: code != "en"), st.randoms(use_true_random=False))
def test_the_exclusive_share_is_one_for_native_and_zero_for_english(scene, code, rng):
    assert exclusive_share(caption(scene, code, rng=rng), code) == 1.0
    assert exclusive_share(caption(scene, "en", rng=rng), code) == 0.0


def test_the_exclusive_share_is_undefined_without_exclusive_words():
    assert exclusive_share("", "es") is None
    assert exclusive_share("12 xyz", "es") is None
    assert exclusive_share("The image shows a red star.", "en") is None
    assert 0 < exclusive_share("La imagen shows una estrella red.", "es") < 1


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("relation", ["above", "below", "left", "right"])
def test_a_place_phrase_means_its_relation_and_object(code, relation):
    text = grammar.place(relation, Group("blue", "square", "large", 2), code)
    assert answer_meaning(text, code, "where") == f"{relation}|large blue square|2"


def test_short_answers_are_read_in_their_language():
    assert answer_meaning("Rojo.", "es", "colour") == "red"
    assert answer_meaning("roja", "es", "colour") == "red"
    assert answer_meaning("dos", "es", "count") == "2"
    assert answer_meaning("sí", "es", "exist") == "yes"
    assert answer_meaning("red", "es", "colour") is None
    assert answer_meaning("", "es", "exist") is None
    assert "rojo" in grammar.short_answers("es", "larger")


def test_an_unknown_question_is_refused_with_a_suggestion():
    with pytest.raises(InputError, match=r"'color'.*'colour'"):
        grammar.short_answers("en", "color")


@pytest.mark.parametrize("task", [task for task in grammar.ANSWER_TASKS if task != "where"])
def test_no_short_answer_means_different_things_in_two_languages(task):
    seen = {}
    for code in CODES:
        for word in grammar.short_answers(code, task):
            assert seen.setdefault(word, answer_meaning(word, code, task)) == answer_meaning(word, code, task), word
