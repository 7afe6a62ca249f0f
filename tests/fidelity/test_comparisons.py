"""Paired comparisons on small annotated tables written by hand: no identifier is needed, only its flags."""

import numpy as np
import pandas as pd
import pytest

from textreg.errors import InputError
from textreg.fidelity.measures import compare, ifl, macro_means


def annotated(*rows):
    """Rows of (system, language, arm, item, lf)."""
    table = pd.DataFrame(rows, columns=["system", "language", "arm", "item_id", "lf"])
    return table.assign(seed=0, lf=table["lf"].astype("boolean"))


def arms(language, text, image, system="BM"):
    """One row per item and arm from two lists of outcomes."""
    both = (("text", text), ("image", image))
    return [(system, language, arm, str(i), lf) for arm, values in both for i, lf in enumerate(values)]


def test_ifl_is_text_minus_image_over_the_pairs_scored_in_both():
    found = ifl(annotated(*arms("es", [1, 1, 1, 1, None], [1, 0, 0, None, 1]))).set_index("language").loc["es"]
    assert (found["n"], found["text_lf"]) == (3, 1.0)
    assert found["image_lf"] == pytest.approx(1 / 3) and found["ifl"] == pytest.approx(2 / 3)
    assert found["p_value"] == pytest.approx(0.5)  # two discordant pairs, both one way: 2 * (1/2)^2
    assert found["low"] <= found["ifl"] <= found["high"]


def test_ifl_over_all_languages_pairs_within_a_language_and_averages_items():
    rows = arms("es", [1, 1], [0, 1]) + arms("de", [1, 1], [0, 1])
    found = ifl(annotated(*rows)).set_index("language").loc["all"]
    assert found["n"] == 2 and found["ifl"] == 0.5  # item 0 lost in both languages, item 1 in none


def test_ifl_keeps_systems_apart():
    rows = arms("es", [1, 1], [0, 0], "BM") + arms("es", [1, 1], [1, 1], "TR")
    found = ifl(annotated(*rows)).query("language == 'es'").set_index("system")["ifl"]
    assert found.to_dict() == {"BM": 1.0, "TR": 0.0}


def test_ifl_without_a_scored_pair_is_undefined():
    found = ifl(annotated(*arms("es", [None, 1], [1, None])))
    assert (found["n"] == 0).all() and found["ifl"].isna().all() and found["p_value"].isna().all()


def test_ifl_without_an_arm_or_items_is_refused():
    table = annotated(("BM", "es", "image", "0", True))
    with pytest.raises(InputError, match="'text' is not among"):
        ifl(table)
    with pytest.raises(InputError, match="item_id"):
        ifl(table.drop(columns="item_id"))


def test_an_item_answered_twice_on_one_side_is_refused():
    with pytest.raises(InputError, match="twice"):
        ifl(annotated(*arms("es", [1], [1]), *arms("es", [1], [1])))


def test_two_systems_are_compared_on_the_same_items():
    rows = [("TR", "es", "image", str(i), lf) for i, lf in enumerate([1, 1, 1, 0])]
    rows += [("BM", "es", "image", str(i), lf) for i, lf in enumerate([0, 0, 1, 0])]
    rows += [("BM", "es", "text", str(i), 1) for i in range(4)]
    found = compare(annotated(*rows), "TR", "BM").set_index("language").loc["es"]
    assert (found["n"], found["difference"], found["p_value"]) == (4, 0.5, 0.5)


def test_an_unknown_system_is_refused_with_a_suggestion():
    with pytest.raises(InputError, match="did you mean 'BM'"):
        compare(annotated(("BM", "es", "image", "0", True)), "BM", "BMM")


def test_macro_means_weigh_languages_not_answers():
    rows = [("BM", "es", "image", str(i), 1) for i in range(9)] + [("BM", "de", "image", "0", 0)]
    rows += [("BM", "mi", "image", "0", None)]
    found = macro_means(annotated(*rows), {"all": ["es", "de", "mi"], "none": ["mi"]}).set_index("group")
    assert found.loc["all", "mean"] == 0.5 and found.loc["all", "languages"] == 2
    assert found.loc["all", "low"] <= 0.5 <= found.loc["all", "high"]
    assert np.isnan(found.loc["none", "mean"]) and found.loc["none", "languages"] == 0


def test_macro_means_of_a_chosen_measure():
    table = annotated(("BM", "es", "image", "0", 1)).assign(wpr=pd.array([False], dtype="boolean"))
    assert macro_means(table, {"all": ["es"]}, measure="wpr")["mean"].tolist() == [0.0]
