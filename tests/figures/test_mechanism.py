"""The figures of the mechanism study: what they draw, what they say in words, and that all can read them."""

import itertools
import json

import pandas as pd
import pytest
from result_folders import has_white_edges

from textreg.errors import InputError
from textreg.evaluation.mechanism import ARMS, SHARES
from textreg.figures import mechanism
from textreg.figures.style import SIZES

SYSTEMS = {"backbone": 0.97, "BM": 0.1, "TR": 0.95}
LANGUAGES = ("de", "el", "uk")


def table(columns, **options):
    """Every combination of the options, with ``asked`` and ``english`` from the system's level."""
    rows = pd.DataFrame(
        itertools.product(SYSTEMS, LANGUAGES, *options.values()), columns=["system", "language", *options]
    )
    level = rows["system"].map(SYSTEMS)
    return rows.assign(asked=level, english=(1 - level) / 2)[["system", "language", *options, *columns]]


def arms_table():
    return table(["asked", "english"], arm=ARMS)


def dose_table():
    return table(["english"], context=["words", "visual tokens"], share=SHARES)


def update_table():
    return pd.DataFrame({"system": ["BM", "TR"] * 4, "layer": [1, 1, 2, 2, 3, 3, 4, 4], "along": 2.0, "length": 8.0})


def patch_table():
    rows = table(["english"], layer=[1, 2, 3]).query("system != 'TR'")
    return rows.assign(done=rows["system"].map({"BM": "taken out", "backbone": "put in"}))


def layers_table():
    return table(["english"], kept=["without", "alone"], layer=[1, 2, 3]).query("system == 'BM'")


FIGURES = {
    "arms": (mechanism.arms, arms_table),
    "dose": (mechanism.dose, dose_table),
    "update": (mechanism.update, update_table),
    "patch": (lambda rows, out: mechanism.patch(rows, arms_table(), out), patch_table),
    "layers": (lambda rows, out: mechanism.layers(rows, arms_table(), out), layers_table),
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    out = tmp_path_factory.mktemp("mechanism")
    return {name: draw(table(), out) for name, (draw, table) in FIGURES.items()}


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_has_a_name_of_its_own_a_named_width_and_no_text_cut_off(saved, name):
    """A table of the plain name lies in the same folder."""
    assert saved[name].stem.name == f"{name}_figure"
    about = json.loads(saved[name].paths["json"].read_text())
    assert about["width_inches"] in {width for width, _ in SIZES.values()}
    assert has_white_edges(saved[name].paths["png"])


def test_the_words_say_where_the_mass_is_and_how_it_grows(saved):
    alt = saved["arms"].alt
    assert "3 languages (German, Greek, Ukrainian)" in alt
    assert "image: backbone asked language 97 %, English 2 %, BM asked language 10 %, English 45 %" in alt
    assert "words: backbone from 2 to 2 %, BM from 45 to 45 %" in saved["dose"].alt
    assert "BM 0.25, 0.25, 0.25, 0.25; TR" in saved["update"].alt
    assert "As they are: backbone 2 %, BM 45 %. backbone, put in: 2, 2, 2 %; BM, taken out: 45" in saved["patch"].alt
    assert "As they are: BM 45 %. adapter without this layer: 45, 45, 45 %" in saved["layers"].alt


def test_languages_count_alike_however_many_requests_they_have():
    table = pd.DataFrame(
        {"system": "BM", "language": ["de"] * 9 + ["el"], "asked": [1.0] * 9 + [0.0], "english": [0.0] * 10}
    )
    means = mechanism.macro_means(table, ["system"], ["asked"])
    assert means.to_dict("records") == [{"system": "BM", "asked": 0.5}]


def test_the_numbers_beside_the_figure_are_the_means_drawn(saved):
    drawn = pd.read_csv(saved["arms"].paths["csv"])
    assert drawn.query("system == 'BM'")["asked"].tolist() == pytest.approx([0.1] * 4)


@pytest.mark.parametrize("name", FIGURES)
def test_a_table_without_rows_or_without_a_column_is_refused(name, tmp_path):
    draw, table = FIGURES[name]
    with pytest.raises(InputError, match="nothing to draw"):
        draw(table().iloc[:0], tmp_path)
    with pytest.raises(InputError, match="'system' is missing"):
        draw(table().drop(columns="system"), tmp_path)
    assert not list(tmp_path.iterdir())


def test_an_arm_that_was_not_asked_has_no_panel(tmp_path):
    assert "blank" not in mechanism.arms(arms_table().query("arm != 'blank'"), tmp_path).alt
