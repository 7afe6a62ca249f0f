"""Our numbers beside published ones."""

import pandas as pd
import pytest

from textreg.figures import published


def fidelity(languages, lf, system="TR", arm="image", **changes):
    rows = [{"seed": 0, "system": system, "lambda": 1.0, "language": code, "arm": arm} for code in languages]
    return pd.DataFrame(rows).assign(n=10, n_scored=10, lf=lf, **changes)


def test_the_language_groups_partition_the_36():
    groups = published.groups()
    assert len(groups["seen"]) == 18 and len(groups["unseen"]) == 17
    assert {*groups["seen"], *groups["unseen"], "en"} == set(groups["all"])


def test_published_averages_lie_where_their_groups_put_them():
    # The reported mean holds English (close to 100) once, the seen group 18 times and the unseen 17 times.
    table = published.beside(fidelity(["en"], 1.0)).query("source == 'published'")
    expected = (18 * table["seen"] + 17 * table["unseen"] + 100) / 36
    assert (table["all"] - expected).abs().max() < 3.0
    assert len(table) == 15


def test_own_means_are_over_languages_in_percent_and_of_the_image_arm_alone():
    groups = published.groups()
    own = pd.concat(
        [
            fidelity(groups["seen"], 0.8),
            fidelity(groups["unseen"], 0.5),
            fidelity(["en"], 1.0),
            fidelity(groups["all"], 0.0, arm="text"),
        ]
    )
    row = published.beside(own).set_index("model").loc["TR"]
    assert row["seen"] == pytest.approx(80) and row["unseen"] == pytest.approx(50)
    assert row["all"] == pytest.approx((18 * 80 + 17 * 50 + 100) / 36)
    assert row["n"] == 360


def test_a_mean_that_lacks_a_language_is_empty_not_a_mean_of_the_rest():
    seen = published.groups()["seen"]
    row = published.beside(fidelity(seen, 0.8)).set_index("model").loc["TR"]
    assert row["seen"] == pytest.approx(80)
    assert pd.isna(row["all"]) and pd.isna(row["unseen"])


def test_the_caveats_name_the_english_instruction():
    assert any("instruction is English" in line for line in published.caveats())
