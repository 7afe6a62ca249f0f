"""Figures: the tables behind them, what they show, how they are saved, and that everybody can read them."""

import json
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from matplotlib.text import Text
from PIL import Image
from result_folders import (
    PAPER,
    confusion_tables,
    fidelity_table,
    has_white_edges,
    loss_table,
    mixture_table,
    sweep_table,
    write_run,
)

from textreg.errors import InputError
from textreg.figures import frontier, losses, style
from textreg.figures import per_language as figures
from textreg.figures.answers import GalleryItem, confusion, gallery
from textreg.figures.bars import grouped
from textreg.figures.style import SYSTEMS, system_marks
from textreg.figures.tables import (
    describe,
    group_small,
    headline,
    load_results,
    macro,
    per_language,
    questions_by_task,
)

CHOSEN = pd.DataFrame([(0, "TR", 0.75)], columns=["seed", "system", "lambda"])


def shown_items():
    texts = {
        "de": ("Beschreibe das Bild.", "Auf dem Bild sieht man ein kleines rotes Kreuz über einem blauen Quadrat."),
        "el": ("Περιέγραψε την εικόνα.", "Στην εικόνα φαίνεται ένας μικρός κόκκινος σταυρός πάνω από ένα τετράγωνο."),
        "uk": ("Опиши зображення.", "На зображенні видно маленький червоний хрест над великим синім квадратом."),
    }
    picture, english = Image.new("RGB", (48, 48), "grey"), ("BM", "The picture shows a small red cross.", "wrong")
    return [
        GalleryItem(picture, code, prompt, (english, ("TR", answer, "right"), ("TR+M", answer, "language")))
        for code, (prompt, answer) in texts.items()
    ]


def by_language(fidelity, systems, **options):
    return figures.per_language_plot(per_language(fidelity, "lf", "image", systems), "LF (%)", systems, **options)


def by_arm(fidelity):
    return pd.concat([macro(fidelity, "lf", arm).assign(arm=arm) for arm in fidelity["arm"].unique()])


def all_figures(fidelity, seeds=2):
    """Every figure of the project with its data: ``(name, figure, table)``."""
    head = headline(fidelity)
    return [
        ("fidelity", by_language(head, figures.PAPER_SYSTEMS, left_out=["sv"]), per_language(head)),
        ("mixture", figures.mixture(mixture_table(), PAPER), group_small(mixture_table())),
        ("intervals", figures.interval_plot(head, left_out=["sv"]), per_language(head, "lf_plus")),
        ("frontier", frontier.frontier(sweep_table(seeds), chosen=CHOSEN), sweep_table(seeds)),
        ("arms", figures.arms(by_arm(head)), by_arm(head)),
        ("confusion", confusion(confusion_tables()), confusion_tables()["BM"]),
        ("losses", losses.loss_curves(loss_table(seeds)), loss_table(seeds)),
        ("gallery", gallery(shown_items()), pd.DataFrame({"answer": ["..."]})),
        (
            "bars",
            grouped({"LF": ("#CFE3F2", macro(head)), "GF": ("#0072B2", macro(head, "grounded"))}, "x", "y"),
            macro(head),
        ),
    ]


# Machado, Oliveira and Fernandes (2009), severity 1.0, applied to linear RGB.
DEFICIENCIES = {
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


def lab(colour, deficiency=None):
    """CIE Lab (D65) of a hex colour as somebody with the deficiency sees it."""
    rgb = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    if deficiency:
        linear = np.clip(np.array(DEFICIENCIES[deficiency]) @ linear, 0, 1)
    to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    xyz = np.array(to_xyz) @ linear / np.array([0.9505, 1.0, 1.089])
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.fixture(scope="module")
def drawn():
    return all_figures(fidelity_table(seeds=2))


@pytest.fixture(scope="module")
def saved_twice(drawn, tmp_path_factory):
    """Two folders of files from two separate drawings of the same tables."""
    folders = [tmp_path_factory.mktemp(turn) for turn in ("first", "second")]
    for folder, figs in zip(folders, (drawn, all_figures(fidelity_table(seeds=2))), strict=True):
        for name, fig, table in figs:
            style.save_figure(fig, folder / name, alt="a figure drawn from synthetic numbers", data=table)
    return folders


def test_every_figure_has_a_named_width_and_can_be_read_on_a_telephone(drawn):
    """Nothing is smaller than 8.5 CSS pixels when the figure is 360 pixels wide."""
    for name, fig, _ in drawn:
        assert fig.get_size_inches()[0] in {width for width, _ in style.SIZES.values()}
        texts = [text for text in fig.findobj(Text) if text.get_visible() and text.get_text().strip()]
        pixels = min(text.get_fontsize() for text in texts) / 72 * 360 / fig.get_size_inches()[0]
        assert pixels >= 8.5, f"{name}: {pixels:.1f} px"


def test_no_text_is_cut_off_at_the_edge_of_a_figure(saved_twice):
    for path in sorted(saved_twice[0].glob("*.png")):
        assert has_white_edges(path), path.name


def test_drawing_the_same_table_twice_gives_the_same_bytes(saved_twice):
    first, second = saved_twice
    names = sorted(path.name for path in first.iterdir())
    assert len(names) == 5 * 9
    for name in names:
        assert (first / name).read_bytes() == (second / name).read_bytes(), name


def test_a_saved_figure_keeps_its_name_carries_its_words_everywhere_and_no_date(drawn, tmp_path):
    _, fig, table = drawn[0]
    alt = 'BM < TR & "TR+M": a figure drawn from synthetic numbers'
    saved = style.save_figure(fig, tmp_path / "lambda_0.5", alt=alt, data=table)
    assert saved.paths["svg"].name == "lambda_0.5.svg"
    assert json.loads(saved.paths["json"].read_text())["alt"] == alt
    drawing = saved.paths["svg"].read_text()
    assert "<title>BM &lt; TR &amp; " in drawing and 'alt="BM &lt; TR &amp; &quot;TR+M&quot;' in saved._repr_html_()
    assert "dc:date" not in drawing and "Matplotlib v" not in drawing
    assert b"CreationDate" not in saved.paths["pdf"].read_bytes()


@pytest.mark.parametrize("alt", ["", "   ", "Figure 1", "see the caption"])
def test_a_figure_without_a_description_is_refused_and_writes_nothing(drawn, tmp_path, alt):
    _, fig, table = drawn[0]
    with pytest.raises(InputError, match="alternative text"):
        style.save_figure(fig, tmp_path / "f", alt=alt, data=table)
    assert not list(tmp_path.iterdir())


def test_the_numbers_beside_a_figure_are_the_numbers_drawn(tmp_path):
    table = per_language(headline(fidelity_table()), "lf", "image", ["BM"])
    fig = by_language(fidelity_table(), ["BM"])
    saved = style.save_figure(fig, tmp_path / "f", alt="a figure drawn from synthetic numbers", data=table)
    again = pd.read_csv(saved.paths["csv"]).set_index("language")["value"]
    drawn_points = np.sort(fig.axes[0].lines[0].get_xdata().astype(float))
    assert np.allclose(np.sort(again.to_numpy()), drawn_points, atol=1e-5)


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("deficiency", [None, *DEFICIENCIES])
def test_systems_of_the_headline_figure_differ_in_colour_for_everyone(deficiency, dark):
    colours = {name: mark.colour.lower() for name, mark in SYSTEMS.items()}
    colours |= {name: style.DARK.get(colour, colour) for name, colour in colours.items() if dark}
    for one, other in combinations(("BM", "TR", "TR+M"), 2):
        distance = np.linalg.norm(lab(colours[one], deficiency) - lab(colours[other], deficiency))
        assert distance > 15, f"{one} and {other} look alike ({distance:.0f})"


def contrast(one, other):
    """Ratio of luminances as WCAG counts it, 1 to 21."""
    brightness = sorted(0.05 + ((lab(colour)[0] + 16) / 116) ** 3 for colour in (one, other))
    return brightness[1] / brightness[0]


def test_in_the_dark_every_colour_that_is_turned_stands_out_from_the_page():
    paper = style.DARK["#ffffff"]
    marks = [mark.colour.lower() for mark in [*SYSTEMS.values(), *system_marks(f"arm {n}" for n in range(6)).values()]]
    for colour in marks:
        assert contrast(style.DARK.get(colour, colour), paper) > 3, colour


def test_every_system_has_a_marker_and_a_hatch_of_its_own():
    marks = system_marks([*SYSTEMS, *(f"arm {number}" for number in range(6))]).values()
    assert len({mark.marker for mark in marks}) == len({mark.hatch for mark in marks}) == len(marks)


def test_small_languages_are_grouped_and_shares_still_sum_to_one():
    table = group_small(mixture_table())
    assert table["share"].sum() == pytest.approx(1)
    assert table.iloc[-1]["language"] == "Others"
    assert table.iloc[-1]["share"] == pytest.approx(0.05)
    assert (table["share"][:-1] >= 0.03).all()


def test_one_seed_shows_the_bootstrap_bounds_and_several_their_range():
    one = per_language(fidelity_table(1), "lf", "image", ["TR"]).set_index("language").loc["de"]
    assert one["high"] - one["low"] == pytest.approx(0.05 + min(0.05, 1 - one["value"]), abs=1e-9)
    several = fidelity_table(3)
    german = several.query("system == 'TR' and language == 'de' and arm == 'image'")["lf"]
    row = per_language(several, "lf", "image", ["TR"]).set_index("language").loc["de"]
    assert (row["low"], row["high"], row["seeds"]) == (german.min(), german.max(), 3)


def test_undefined_fidelity_stays_undefined_and_is_drawn_nowhere():
    table = fidelity_table(systems=["BM", "TR"])
    table.loc[table["system"] == "BM", ["lf", "lf_low", "lf_high", "lf_plus", "grounded"]] = np.nan
    assert macro(table).set_index("system")["value"].isna()["BM"]
    assert "BM undefined" in describe(macro(table))
    fig = by_language(table, ["BM", "TR"])
    assert np.isnan(fig.axes[0].lines[0].get_xdata().astype(float)).all()
    bars = grouped({"LF": ("#0072B2", macro(table))}, "title", "axis")
    assert "n/a" in [text.get_text() for text in bars.axes[0].texts]


def test_the_arms_figure_writes_text_minus_image_as_the_loss():
    table = fidelity_table(systems=["BM"])
    means = table[table["language"] != "en"].groupby("arm")["lf"].mean()
    assert f"{100 * (means['text'] - means['image']):+.0f}" in annotations(figures.arms(by_arm(table)))


def annotations(fig):
    return [text.get_text() for ax in fig.axes for text in ax.texts]


def test_the_frontier_has_one_pair_of_axes_from_0_and_lambda_at_its_points():
    points = pd.concat([sweep_table(2), sweep_table(2).query("`lambda` == 1").assign(**{"lambda": 0.0})])
    (ax,) = frontier.frontier(points).axes
    assert ax.get_ylim()[0] < 0 < 1 < ax.get_ylim()[1]
    assert annotations(ax.figure).count("λ 1") == 2 and "λ 0" not in annotations(ax.figure)


def test_the_lambdas_of_the_frontier_do_not_cover_each_other():
    points = sweep_table(1)
    for crowded in (points, points.assign(visual=0.9 + 0.02 * points["visual"])):
        fig = frontier.frontier(crowded)
        fig.draw_without_rendering()
        for ax in fig.axes:
            boxes = [Text.get_window_extent(label) for label in ax.texts if label.get_text()]
            assert boxes and not any(one.overlaps(two) for one, two in combinations(boxes, 2))


def test_seeing_is_the_mean_of_captions_and_questions_where_both_were_judged():
    points = sweep_table(1).assign(questions=0.0)
    assert frontier.with_seeing(points)["seeing"].tolist() == (points["visual"] / 2).tolist()
    unjudged = points.assign(grounded=float("nan"))
    assert frontier.with_seeing(unjudged)["seeing"].tolist() == points["visual"].tolist()


def test_the_ring_of_the_frontier_stands_at_what_was_chosen():
    row = sweep_table(1).query("system == 'TR' and `lambda` == 0.75").iloc[0]
    lines = frontier.frontier(sweep_table(1), chosen=CHOSEN).axes[0].lines
    (ring,) = [line for line in lines if line.get_markerfacecolor() == "none"]
    assert (*ring.get_xdata(), *ring.get_ydata()) == pytest.approx((row["visual"], row["lf_plus"]))


def test_a_curve_of_means_leaves_out_a_lambda_that_only_some_seeds_have():
    points = pd.concat([sweep_table(2), sweep_table(1).query("`lambda` == 0.5").assign(**{"lambda": 0.4})])
    own = points.query("system == 'TR'")
    (curve,) = [line for line in frontier.frontier(own).axes[0].lines if line.get_linestyle() != "None"]
    assert sorted(curve.get_xdata()) == sorted(own.query("`lambda` != 0.4").groupby("lambda")["visual"].mean())


def test_the_legend_of_the_mixture_hides_no_point():
    fig = figures.mixture(mixture_table(), PAPER)
    fig.draw_without_rendering()
    (ax,) = fig.axes
    assert ax.get_legend().get_window_extent().y0 >= ax.get_window_extent().y1 - 1


def test_every_share_of_a_matrix_that_counts_stands_in_its_cell():
    tables = confusion_tables()
    told = annotations(confusion(tables))
    row = tables["BM"].loc["de"]
    assert f"{100 * row['en'] / row.sum():.0f}" in told and told.count("96") == len(tables["TR"])


def test_the_gallery_marks_foreign_words_alone_and_says_each_answer_once():
    fig = gallery(shown_items())
    colours = {text.get_text(): text.get_color() for text in fig.texts}
    assert colours["picture"] == "#a33b00" and colours["rotes"] == "#222222"
    assert sum(text.get_text() == "rotes" for text in fig.texts) == 2, "two verdicts, two answers"


def test_the_matrices_fill_their_figure(saved_twice):
    dark = np.asarray(Image.open(saved_twice[0] / "confusion.png").convert("L")) < 250
    rows = np.flatnonzero(dark.any(axis=1))
    assert rows[0] < 0.08 * len(dark) and rows[-1] > 0.92 * len(dark)


def test_questions_of_a_kind_are_means_over_seeds_and_captions_left_out():
    rows = [(0, "TR", "where", 10, 0.7), (1, "TR", "where", 30, 0.9), (0, "TR", "caption", 9, 1.0)]
    visual = pd.DataFrame(rows, columns=["seed", "system", "task", "n", "accuracy"]).assign(language="en")
    (row,) = questions_by_task(visual).to_dict("records")
    assert row == {"task": "where", "TR": pytest.approx(0.8), "n": 40}


def test_several_lambdas_of_a_merged_system_need_the_chosen_one():
    table = pd.concat([fidelity_table(), fidelity_table(systems=["TR+M"]).assign(**{"lambda": 0.25})])
    with pytest.raises(InputError, match="none named as chosen"):
        headline(table)
    kept = headline(table, pd.DataFrame([(0, "TR+M", 0.25)], columns=["seed", "system", "lambda"]))
    assert set(kept[kept["system"] == "TR+M"]["lambda"]) == {0.25}


def test_seeds_of_a_results_folder_are_read_together(tmp_path):
    for seed in (0, 1, 2):
        write_run(tmp_path / f"seed-{seed}", seed)
    results = load_results(tmp_path)
    assert results.seeds == 3
    assert set(results.losses["seed"]) == {0, 1, 2} and set(results.losses["arm"]) == {"BM"}
    assert set(results.sweep["system"]) == {"TR+M"}
    assert set(results.chosen["lambda"]) == {0.75}


def test_a_folder_without_results_is_named_with_the_cure(tmp_path):
    with pytest.raises(InputError, match="no evaluate"):
        load_results(tmp_path)


def test_a_missing_column_is_named(tmp_path):
    run = write_run(tmp_path / "run", 0)
    fidelity_table().drop(columns="lf_plus").to_csv(run / "evaluate/fidelity.csv", index=False)
    with pytest.raises(InputError, match="'lf_plus' is missing"):
        load_results(run)


def test_answers_with_formula_signs_and_control_characters_are_drawn_as_they_are(tmp_path):
    picture = Image.new("RGB", (48, 48))
    answers = (
        ("BM", "costs $5 and $x^{$ <b>bold</b> \x00\x1b[31m \u202e", "wrong"),
        ("TR", "", "wrong"),
        ("TR+M", "x" * 9000, "right"),
    )
    fig = gallery([GalleryItem(picture, "de", "Beschreibe das Bild.", answers)])
    style.save_figure(
        fig, tmp_path / "f", alt="a figure drawn from hostile answers only", data=pd.DataFrame({"a": [1]})
    )
    assert any("(empty)" in text.get_text() for text in fig.texts)


def test_a_callers_own_style_is_left_alone(drawn):
    import matplotlib as mpl

    with mpl.rc_context({"font.size": 31.0, "svg.hashsalt": "mine"}):
        by_language(fidelity_table(), ["BM"])
        assert mpl.rcParams["font.size"] == 31.0 and mpl.rcParams["svg.hashsalt"] == "mine"
