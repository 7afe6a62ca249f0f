"""The figures of the book: which tables each is drawn from, its caption, and the words for who cannot see it.

Each function takes the tables of a results folder (:func:`textreg.figures.tables.load_results`) and the folder to save
in, and returns the saved figure, or None where there is nothing to draw it from.  ``06_figures`` calls them in turn;
the book's results page draws them all from shipped results, which needs no model.  An alternative text says in words
and numbers, read from the same tables, what a drawing shows; a caption says what to look for, in one or two sentences
without numbers.  So the two are written apart.
"""

import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

from textreg.data.mixture import paper_mixture
from textreg.fidelity.measures import confusion as cross
from textreg.figures import bars
from textreg.figures import per_language as by_language
from textreg.figures.answers import GalleryItem
from textreg.figures.answers import confusion as draw_confusion
from textreg.figures.answers import gallery as draw_gallery
from textreg.figures.frontier import captions_judged
from textreg.figures.frontier import frontier as draw_frontier
from textreg.figures.losses import loss_curves
from textreg.figures.rate import GENTLE, RATE, RISE, rates, read_table
from textreg.figures.style import (
    CONTEXTS,
    MEASURES,
    SHORT_MEASURES,
    Saved,
    language_names,
    language_order,
    save_figure,
)
from textreg.figures.tables import (
    Results,
    classes,
    describe,
    group_small,
    headline,
    macro,
    over_runs,
    per_language,
)
from textreg.scenes.rows import draw_scenes, images

PAPER_SYSTEMS = by_language.PAPER_SYSTEMS
GALLERY_LANGUAGES = ("it", "de", "el", "uk", "eu")

CAPTIONS: Mapping[str, str] = MappingProxyType(
    {
        "0_classes": (
            "What the answers are: asked with the image, with its content as English text, and as text of the asked "
            "language. Orange is clean English."
        ),
        "1_language_fidelity": "LF per prompt language, with the image: the counterpart of the paper's Fig. 1.",
        "2_mixture": (
            "Our shares of the text rows, spread evenly, beside those in the caption of the paper's Fig. 2."
        ),
        "3_intervals": (
            "From LF+ (hollow) to LF (filled), as in the paper's Fig. 3: the longer a bar, the more answers mix "
            "languages or break the grammar."
        ),
        "4_frontier": (
            "Fidelity against seeing as lambda falls from 1, the tuned arm; rings: the lambdas chosen on validation "
            "images; faint: single seeds. The horizontal axis does not begin at 0."
        ),
        "5_arms": ("The same requests in every arm; IFL is text in the asked language minus image."),
        "6_confusion": (
            "Asked language (rows) by answered language as identified (columns), scored answers with the image."
        ),
        "7_losses": "Arms train on different rows, so that levels compare within an arm; bands are ranges over seeds.",
        "8_gallery": (
            "The first test images, not chosen ones: what three systems answered, and what it says in English."
        ),
        "9_grounding": "In the asked language (LF, LF+), and right as well (GF).",
        "10_held_out": "Captions of images in languages with text rows, and without.",
        "11_rate": ("One seed of BM per rate; in the grey part the training loss rises by more than a tenth."),
    }
)

#: The frontier of test images ends in a system that the sweep of validation images does not have.
BACKBONE_END = "The end at lambda 0 is the system backbone, whose projector comes from alignment and not from tuning."


def answer_classes(results: Results, out: Path) -> Saved | None:
    """What the answers of every system are: the asked language, clean English, or neither."""
    if results.answers.empty or "class" not in results.answers:
        return None
    drawn = classes(results.verdicts)
    image = drawn[drawn["arm"] == "image"]
    told = {name: describe(image[image["class"] == name], "share") for name in ("asked", "english", "mixed")}
    alt = (
        f"Stacked bars of the classes of answers, one bar per system, one panel per request arm. With the image, in "
        f"the asked language: {told['asked']}; in clean English: {told['english']}; mixed or broken: {told['mixed']}."
    )
    return _save(bars.answer_classes(drawn), out / "0_classes", alt, drawn)


def fidelity(results: Results, out: Path) -> Saved:
    """Counterpart of the paper's Fig. 1: LF per language."""
    table = headline(results.fidelity, results.chosen)
    drawn = per_language(table, "lf", "image", PAPER_SYSTEMS)
    fig = by_language.per_language_plot(drawn, MEASURES["lf"], PAPER_SYSTEMS, left_out=results.held_out)
    alt = (
        f"Language fidelity on image prompts, one row per language, one point per system. Mean over the languages "
        f"other than English: {describe(macro(table, 'lf', 'image', PAPER_SYSTEMS))}. {_bounds(results)}"
    )
    return _save(fig, out / "1_language_fidelity", alt, drawn, _bounds(results))


def mixture(results: Results, out: Path) -> Saved | None:
    """Counterpart of the paper's Fig. 2: the languages of the text rows, beside the shares its caption names."""
    if results.mixture.empty:
        return None

    named = {entry.language: entry.share / 100 for entry in paper_mixture() if entry.paper}
    grouped = group_small(results.mixture)
    largest = grouped.iloc[0]
    names = language_names(grouped["language"])
    alt = (
        f"Our share of the text rows beside the paper's for the {len(named)} languages that the caption of its Fig. 2 "
        f"names, Portuguese with 2.1 % the largest of them. Ours has {len(grouped)} languages or groups of them, the "
        f"largest {names[largest['language']]} with {100 * largest['share']:.1f} %."
    )
    return _save(by_language.mixture(results.mixture, named), out / "2_mixture", alt, grouped)


def intervals(results: Results, out: Path) -> Saved:
    """Counterpart of the paper's Fig. 3: LF against LF+ per language."""
    table = headline(results.fidelity, results.chosen)
    upper, lower = (per_language(table, metric, "image", PAPER_SYSTEMS) for metric in ("lf", "lf_plus"))
    drawn = upper.merge(lower, on=["system", "language", "seeds", "n"], suffixes=("_lf", "_lf_plus"))
    gaps = (macro(table, "lf", "image", PAPER_SYSTEMS), macro(table, "lf_plus", "image", PAPER_SYSTEMS))
    alt = (
        f"For each language and system a bar from LF+ up to LF. Means without English: LF {describe(gaps[0])}; "
        f"LF+ {describe(gaps[1])}. The longer the bar, the more answers mix languages or break the grammar."
    )
    fig = by_language.interval_plot(table, left_out=results.held_out)
    return _save(fig, out / "3_intervals", alt, drawn, _bounds(results))


def frontier(results: Results, out: Path, measure: str = "lf_plus") -> Saved | None:
    """Fidelity against visual accuracy along lambda: test images where the run has them, else the validation sweep."""
    points, split = (results.sweep, "validation") if results.frontier.empty else (results.frontier, "test")
    if points.empty:
        return None
    measure = _measured(points, measure)
    if points[measure].isna().all():
        return None
    judged = captions_judged(points)
    columns = [name for name in (measure, "visual", "questions") if name in points]
    means = over_runs(points, ["system", "lambda"], columns).mul(100).sort_index()
    means = means.reindex(columns=[measure, "visual", "questions"])
    asked = " and questions" if means["questions"].notna().any() else ""
    seen = f"the share of English captions{asked} that are right" if judged else "chrF of English captions"
    told = "; ".join(
        f"{system} from {_point(curve.iloc[-1], measure, judged)} at lambda {curve.index[-1]:g} to "
        f"{_point(curve.iloc[0], measure, judged)} at lambda {curve.index[0]:g}"
        for system, curve in ((system, rows.droplevel(0)) for system, rows in means.groupby(level=0))
    )
    alt = f"Curves of {SHORT_MEASURES[measure]} against {seen}, as lambda falls, {split} images: {told}."
    fig = draw_frontier(points, fidelity=measure, chosen=results.chosen)
    end = BACKBONE_END if 0.0 in set(points["lambda"]) else ""
    return _save(fig, out / "4_frontier", f"{alt} {end}", points, end)


def _point(row: pd.Series, measure: str, judged: bool) -> str:
    """What stands at one lambda, in words; ``row`` in per cent."""
    parts = {SHORT_MEASURES[measure]: row[measure], "captions" if judged else "chrF": row["visual"]}
    parts |= {"questions": row["questions"]} if judged else {}
    return ", ".join(f"{name} {value:.0f}" for name, value in parts.items() if pd.notna(value))


def arms(results: Results, out: Path) -> Saved:
    """Image, blank and text arms: image-induced fidelity loss itself."""
    table = headline(results.fidelity, results.chosen)
    drawn = pd.concat(
        [macro(table, "lf", arm).assign(arm=arm) for arm in CONTEXTS if arm in set(table["arm"])], ignore_index=True
    )
    told = "; ".join(f"{CONTEXTS[arm]}: {describe(rows)}" for arm, rows in drawn.groupby("arm", sort=False))
    alt = f"Points of LF per system, one for each arm of the same requests. {told}."
    return _save(by_language.arms(drawn), out / "5_arms", alt, drawn)


def confusion(results: Results, out: Path) -> Saved | None:
    """Asked by answered language of BM, the control EN and TR."""
    rows = captions(results, ("BM", "EN", "TR"))
    rows = rows[rows["answered"].notna()] if len(rows) else rows  # none where no answer told its language
    if rows.empty:
        return None
    counts = pd.concat({key: cross(told) for key, told in rows.groupby(["backbone", "seed", "system"], sort=False)})
    shares = counts.fillna(0).div(counts.sum(axis=1), axis=0)
    shares = shares.rename_axis(index=["backbone", "seed", "system", "asked"], columns="answered")
    shares = over_runs(shares.reset_index(), ["system", "asked"], list(shares.columns)).rename_axis(columns="answered")
    tables = {system: shares.loc[system] for system in dict.fromkeys(rows["system"])}
    told = ", ".join(f"{s} {100 * t.drop(index='en', errors='ignore').get('en', pd.Series(0.0)).mean():.0f} %"
                     for s, t in tables.items())  # fmt: skip
    alt = f"Matrices of asked by answered language, one per system. Answered in English when asked otherwise: {told}."
    return _save(draw_confusion(tables), out / "6_confusion", alt, shares.stack().rename("share").reset_index())


def losses(results: Results, out: Path) -> Saved | None:
    """Tuning loss of every arm."""
    if results.losses.empty:
        return None
    ends = results.losses.sort_values("step").groupby(["arm", "backbone", "seed"]).tail(1)
    last = over_runs(ends, ["arm"], ["loss"])["loss"].sort_index()
    alt = "Curves of the tuning loss over steps, on a logarithmic axis. Last values in nats per token: " + ", ".join(
        f"{arm} {value:.3f}" for arm, value in last.items()
    )
    data = results.losses[["seed", "arm", "step", "loss"]]
    return _save(loss_curves(results.losses), out / "7_losses", alt, data)


def training(log: Path, arm: str, out: Path) -> Saved | None:
    """The loss of one training, from its ``log.csv``; saved as ``loss`` in ``out``.  None of one that ended before its
    first line."""
    if not log.read_text(encoding="utf-8").strip():
        return None
    table = pd.read_csv(log)[["step", "loss"]].assign(seed=0, arm=arm)
    ends = f"from {table['loss'].iloc[0]:.2f} to {table['loss'].iloc[-1]:.3f} nats per token"
    alt = f"Curve of the training loss of {arm} over {table['step'].iloc[-1]} steps, {ends}."
    return save_figure(loss_curves(table), out / "loss", alt=alt, data=table)


def rate(measured: Path, out: Path) -> Saved | None:
    """Outcome against learning rate, from the table of ``bench/tuning_rate.py``; None where there is none."""
    if not measured.is_file():
        return None
    table = read_table(measured)
    told = "; ".join(
        (f"at {row.rate:g} " if row.rate > 0 else "untuned ")
        + f"{row.asked:.0f} %{f', loss up {row.rise:.0f} %' if row.rise > GENTLE else ''}"
        for row in table.rename(columns={RISE: "rise", RATE: "rate"}).itertuples()
    )
    alt = (
        f"Lines over BM's learning rate: answers in the asked language, and in clean English. Asked language: {told}."
    )
    return _save(rates(table), out / "11_rate", alt, table)


def gallery(
    results: Results, out: Path, codes: Sequence[str] = GALLERY_LANGUAGES, systems: Sequence[str] = PAPER_SYSTEMS
) -> Saved | None:
    """Test images with the answers of several systems, one language each: the first images, not chosen ones."""
    rows = captions(results)
    if rows.empty:
        return None
    rows = rows[(rows["seed"] == rows["seed"].min()) & rows["system"].isin(systems)]
    asked = [code for code in codes if code in set(rows["language"])]
    asked = asked or language_order(set(rows["language"]) - {"en"})[: len(codes)]
    items = list(dict.fromkeys(rows["item_id"]))[: len(asked)]
    drawn = pictures(results, int(rows["seed"].iloc[0]), items)
    shown = []
    for item, code in zip(items, asked, strict=False):
        here = rows[(rows["item_id"] == item) & (rows["language"] == code)].set_index("system")
        if item in drawn and len(here):
            told = tuple((s, here.loc[s, "answer"], _verdict(here.loc[s])) for s in systems if s in here.index)
            prompt = here["prompt"].iloc[0].replace("<image>", "").strip()
            shown.append(GalleryItem(drawn[item], code, prompt, told))
    if not shown:
        return None
    data = pd.DataFrame(
        [(item.language, item.prompt, *answer) for item in shown for answer in item.answers],
        columns=["language", "prompt", "system", "answer", "verdict"],
    )
    first = data.iloc[0]
    alt = (
        f"{len(shown)} test images with a prompt in {', '.join(language_names(asked).values())} and the answers of "
        f"{', '.join(systems)}. The first, asked {first['prompt']!r}: {first['system']} answered {first['answer']!r}."
    )
    return _save(draw_gallery(shown), out / "8_gallery", alt, data)


def grounding(results: Results, out: Path) -> Saved:
    """LF, LF+ and GF of every system, side by side."""
    table = headline(results.fidelity, results.chosen)
    colours = {"lf": "#D9CFE8", "lf_plus": "#A58BC9", "grounded": "#6B4FA8"}  # no system has one of these
    values = {metric: macro(table, metric) for metric in colours}
    alt = (
        f"Bars of LF, LF+ and grounded fidelity of every system on image prompts. LF: {describe(values['lf'])}. "
        f"Grounded: {describe(values['grounded'])}."
    )
    shown = {SHORT_MEASURES[metric]: (colours[metric], rows) for metric, rows in values.items()}
    label = "mean over non-English languages, image prompts (%)"
    fig = bars.grouped(shown, "Is the right language also right?", label)
    data = pd.concat([rows.assign(measure=metric) for metric, rows in values.items()])
    return _save(fig, out / "9_grounding", alt, data)


def left_out(results: Results, out: Path) -> Saved | None:
    """Languages in the text rows against those left out of them."""
    if not results.held_out:
        return None
    table = headline(results.fidelity, results.chosen)
    codes, measure = list(results.held_out), _measured(table, "lf_plus")
    seen = sorted(set(table["language"]) - set(codes) - {"en"})
    if not seen:
        return None
    values = {"seen": macro(table, measure, languages=seen), "left out": macro(table, measure, languages=codes)}
    names = ", ".join(language_names(codes).values())
    alt = (
        f"Bars of {SHORT_MEASURES[measure]} per system. Languages in the text rows: {describe(values['seen'])}. "
        f"Left out ({names}): {describe(values['left out'])}."
    )
    data = pd.concat([rows.assign(languages=name) for name, rows in values.items()])
    shown = {
        f"in the text rows ({len(seen)})": ("#44AA99", values["seen"]),
        f"left out ({names})": ("#999933", values["left out"]),
    }
    fig = bars.grouped(shown, "Are languages without text kept?", MEASURES[measure])
    return _save(fig, out / "10_held_out", alt, data)


def _measured(table: pd.DataFrame, measure: str) -> str:
    """``measure``, or LF where no answer was judged, so that LF+ is undefined everywhere."""
    return measure if table[measure].notna().any() else "lf"


#: In the order of :data:`CAPTIONS`.
ALL: tuple[Callable[[Results, Path], Saved | None], ...] = (
    *(answer_classes, fidelity, mixture, intervals, frontier, arms),
    *(confusion, losses, gallery, grounding, left_out),
)


def draw_all(results: Results, out: Path) -> list[Saved]:
    """Every figure the results have tables for, saved in ``out``."""
    drawn = [draw(results, out) for draw in ALL]
    return [saved for saved in drawn if saved is not None]


def captions(results: Results, systems: Sequence[str] = PAPER_SYSTEMS) -> pd.DataFrame:
    """Image-arm captions of ``systems`` with language and verdict of each; empty without answers, and for
    answers that were written without their verdicts."""
    answers = results.verdicts
    if not {"answered", "grounded"} <= set(answers):
        return answers.iloc[:0]
    return answers[(answers["arm"] == "image") & (answers["task"] == "caption") & answers["system"].isin(systems)]


def _verdict(row: pd.Series) -> str:
    if pd.notna(row["grounded"]) and row["grounded"]:
        return "right"
    faithful = row["lf_plus"] if pd.notna(row["lf_plus"]) else row["lf"]
    return "language" if pd.notna(faithful) and faithful else "wrong"


def pictures(results: Results, seed: int, items: Sequence[str]) -> dict[str, Image.Image]:
    """Item -> its picture from the run, or drawn again from the seed where the run's images were not shipped."""
    wanted = {item.rpartition(":")[0]: item for item in items}
    for folder in (results.folder, results.folder / f"seed-{seed}"):
        path = folder / "prepare_data" / "images.parquet"
        if path.is_file():
            rows = pd.read_parquet(path, filters=[("image_id", "in", list(wanted))]).to_dict("records")
            break
    else:
        count = 1 + max((int(name.rpartition("-")[2]) for name in wanted if name.startswith("test-")), default=-1)
        rows = images({"test": draw_scenes(seed, "test", count)}, {}, seed)
    drawn = {row["image_id"]: row["image"]["bytes"] for row in rows if row["image_id"] in wanted}
    return {wanted[name]: Image.open(io.BytesIO(content)).convert("RGB") for name, content in drawn.items() if content}


def _save(fig: Figure, stem: Path, alt: str, data: pd.DataFrame, note: str = "") -> Saved:
    return save_figure(fig, stem, alt=alt, data=data, caption=f"{CAPTIONS[stem.name]} {note}".strip())


def _bounds(results: Results) -> str:
    return (
        f"Thin lines: range over {results.seeds} seeds."
        if results.seeds > 1
        else "Thin lines: 95 % intervals over images."
    )
