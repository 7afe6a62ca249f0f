"""The figures of the mechanism study: what they draw, what they say in words, and that all can read them."""

import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from textreg.errors import InputError
from textreg.evaluation.mechanism import ARMS
from textreg.figures import mechanism
from textreg.figures.style import SIZES

SYSTEMS = {"backbone": 0.97, "BM": 0.1, "TR": 0.95}
LANGUAGES = ("de", "el", "uk")


def first_token_table():
    rows = [
        (system, arm, code, level, (1 - level) / 2)
        for system, level in SYSTEMS.items()
        for arm in ARMS
        for code in LANGUAGES
        for _ in range(3)
    ]
    return pd.DataFrame(rows, columns=["system", "arm", "language", "asked", "english"])


def forced_prefix_table():
    rows = [
        (system, code, words, 10, min(1.0, level + 0.3 * words))
        for system, level in SYSTEMS.items()
        for code in LANGUAGES
        for words in range(4)
    ]
    return pd.DataFrame(rows, columns=["system", "language", "words", "n", "lf_plus"])


def turning_table():
    rows = [
        (system, code, arm, words, 10, max(0.0, level - 0.02 * words))
        for system, level in SYSTEMS.items()
        for code in LANGUAGES
        for arm in ("image", "text")
        for words in range(13)
    ]
    return pd.DataFrame(rows, columns=["system", "language", "arm", "words", "n", "kept"])


def probe_table():
    rows = [
        (system, arm, layer, min(1.0, 1 / 3 + layer / 4), 1 / 3)
        for system in SYSTEMS
        for arm in ARMS
        for layer in range(5)
    ]
    return pd.DataFrame(rows, columns=["system", "arm", "layer", "accuracy", "chance"])


FIGURES = {
    "first_token": (mechanism.first_token, first_token_table),
    "turning": (mechanism.turning, turning_table),
    "forced_prefix": (mechanism.forced_prefix, forced_prefix_table),
    "probe": (mechanism.probe, probe_table),
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    out = tmp_path_factory.mktemp("mechanism")
    return {name: draw(table(), out) for name, (draw, table) in FIGURES.items()}


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_does_not_overwrite_the_table_it_was_drawn_from(saved, name):
    assert saved[name].stem.name == f"{name}_figure"
    assert all(path.is_file() for path in saved[name].paths.values())


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_has_a_named_width_and_no_text_cut_off(saved, name):
    about = json.loads(saved[name].paths["json"].read_text())
    assert about["width_inches"] in {width for width, _ in SIZES.values()}
    pixels = np.asarray(Image.open(saved[name].paths["png"]).convert("L"))
    for edge in (pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]):
        assert (edge > 250).all()


def test_the_words_for_the_first_token_say_where_the_mass_is(saved):
    alt = saved["first_token"].alt
    assert "3 languages (German, Greek, Ukrainian)" in alt
    assert "image: backbone asked language 97 %, English 2 %, BM asked language 10 %, English 45 %" in alt


def test_the_words_for_turning_say_how_much_is_left_after_some_words(saved):
    assert "After 1, 3, 6, 12 words, image: backbone 95, 91, 85, 73 %" in saved["turning"].alt


def test_the_words_for_given_words_say_what_each_gives_back(saved):
    assert "with 0, 1, 2, 3 words: backbone 97, 100, 100, 100 %; BM 10, 40, 70, 100 %" in saved["forced_prefix"].alt


def test_the_words_for_the_probe_name_its_chance(saved):
    assert "chance is 33 %" in saved["probe"].alt
    assert "text only: backbone 100 % (best layer 100 %)" in saved["probe"].alt


def test_languages_count_alike_however_many_requests_they_have():
    table = pd.DataFrame(
        {"system": "BM", "language": ["de"] * 9 + ["el"], "asked": [1.0] * 9 + [0.0], "english": [0.0] * 10}
    )
    means = mechanism.macro_means(table, ["system"], ["asked"])
    assert means.to_dict("records") == [{"system": "BM", "asked": 0.5}]


def test_the_numbers_beside_the_figure_are_the_means_drawn(saved):
    drawn = pd.read_csv(saved["first_token"].paths["csv"])
    assert drawn.query("system == 'BM'")["asked"].tolist() == pytest.approx([0.1] * 3)


@pytest.mark.parametrize("values", [[0.5], [1.0, 1.0, 1.0], [0.1, 0.5, 0.52], [0.0, 0.97, 1.2]])
def test_names_at_the_end_of_curves_stand_apart_and_in_order(values):
    places = mechanism.spread(np.array(values))
    assert (np.diff(places) >= 0.075 - 1e-9).all() and places.max() <= 1.0


@pytest.mark.parametrize("name", FIGURES)
def test_a_table_without_rows_or_without_a_column_is_refused(name, tmp_path):
    draw, table = FIGURES[name]
    with pytest.raises(InputError, match="nothing to draw"):
        draw(table().iloc[:0], tmp_path)
    with pytest.raises(InputError, match="'system' is missing"):
        draw(table().drop(columns="system"), tmp_path)
    assert not list(tmp_path.iterdir())


def test_an_arm_that_was_not_asked_has_no_panel(tmp_path):
    table = probe_table().query("arm != 'blank'")
    assert "blank" not in mechanism.probe(table, tmp_path).alt
