"""Figures without a counterpart in the paper: answered languages, losses, grounding, held-out languages, the gallery.

The same rules as in ``figures``, which re-exports them: a table in, a drawing out, no files.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from textwrap import wrap
from types import MappingProxyType

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

from textreg.errors import InputError, did_you_mean
from textreg.figures.files import size, style
from textreg.figures.style import (
    MEASURES,
    SHORT_MEASURES,
    handle,
    language_names,
    language_order,
    legend_above,
    per_cent,
    refuse_empty,
    system_marks,
)
from textreg.figures.tables import macro, require


def confusion(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """Asked by answered language, one matrix per system.

    Each table holds counts: index = asked language, columns = answered language; codes outside the asked set are
    summed as "other", ``und`` is "none".  Rows are drawn as per cent of the answers asked for in that language.
    """
    import seaborn as sns

    if not tables:
        raise InputError("confusion figure: no table given; pass one asked x answered table per system")
    asked = language_order(code for table in tables.values() for code in table.index)
    extra = [name for name in ("other", "none") if any(name in _folded(table, asked) for table in tables.values())]
    columns = [*asked, *extra]
    stacked = len(asked) > 10 or len(tables) == 1
    with style():
        across = 1 if stacked else len(tables)
        # Square cells: the width that labels and the colour bar leave decides the height, or white space stays over.
        side = min(0.215, 3.65 / (across * len(columns))) * len(asked)
        shape = (len(tables), 1) if stacked else (1, len(tables))
        fig = Figure(figsize=size("page", height=1.2 + (side + 0.55) * shape[0] if stacked else 1.15 + side))
        axes = fig.subplots(*shape, squeeze=False, sharey=True).ravel()
        for ax, (system, table) in zip(axes, tables.items(), strict=True):
            folded = _folded(table, asked).reindex(index=asked, columns=columns, fill_value=0)
            shares = 100 * folded.div(folded.sum(axis=1).replace(0, np.nan), axis=0)
            sns.heatmap(
                shares,
                ax=ax,
                vmin=0,
                vmax=100,
                cmap="cividis",
                linewidths=0.5,
                linecolor="white",
                square=True,
                cbar=ax is axes[-1],
                cbar_kws={"label": "answers (%)", "shrink": 0.6},
            )
            ax.set(title=system, xlabel="answered", ylabel="asked" if ax is axes[0] or stacked else "")
            ax.set_xticks(np.arange(len(columns)) + 0.5, columns, rotation=90)
            ax.set_yticks(np.arange(len(asked)) + 0.5, asked, rotation=0)
    return fig


def loss_curves(losses: pd.DataFrame) -> Figure:
    """Training loss per arm (nats per supervised token), mean over seeds; the band is their range.

    ``losses`` has ``seed, arm, step, loss``.  Arms train on different rows, so that levels compare only within an arm.
    """
    import seaborn as sns

    require(losses, ("seed", "arm", "step", "loss"), "loss log")
    refuse_empty(losses, "loss curves")
    marks = system_marks(losses["arm"].unique())
    with style():
        fig = Figure(figsize=size("page"))
        ax = fig.subplots()
        sns.lineplot(
            losses,
            x="step",
            y="loss",
            hue="arm",
            style="arm",
            ax=ax,
            legend=False,
            linewidth=1.6,
            palette={arm: look.colour for arm, look in marks.items()},
            errorbar=("pi", 100),
            dashes={arm: _dashes(look.line) for arm, look in marks.items()},
        )
        ax.set(xlabel="optimizer step", ylabel="loss (nats per token)", yscale="log", title="Training loss")
        ax.grid(axis="both")
        ax.legend(handles=[handle(look, line=True, marker=False) for look in marks.values()], ncols=2)
    return fig


def fidelity_and_grounding(fidelity: pd.DataFrame, systems: Sequence[str] | None = None) -> Figure:
    """LF, LF+ and GF of every system on image prompts, mean over non-English languages."""
    systems = list(systems or fidelity["system"].unique())
    fills = {"lf": ("#56B4E9", ""), "lf_plus": ("#0072B2", "////"), "grounded": ("#222222", "....")}
    return _grouped_bars(
        {metric: macro(fidelity, metric, "image", systems) for metric in fills},
        systems,
        fills,
        {metric: SHORT_MEASURES[metric] for metric in fills},
        "mean over non-English languages, image prompts (%)",
    )


def held_out(
    fidelity: pd.DataFrame, left_out: Sequence[str], systems: Sequence[str] | None = None, metric: str = "lf_plus"
) -> Figure:
    """Languages present in the text rows against those left out of them, per system (image prompts)."""
    systems = list(systems or fidelity["system"].unique())
    seen = sorted(set(fidelity["language"]) - set(left_out) - {"en"})
    names = language_names(left_out)
    fills = {"seen": ("#0072B2", ""), "left out": ("#E69F00", "////")}
    labels = {
        "seen": f"in the text rows ({len(seen)})",
        "left out": f"left out ({', '.join(names[code] for code in left_out)})",
    }
    tables = {
        "seen": macro(fidelity, metric, "image", systems, seen),
        "left out": macro(fidelity, metric, "image", systems, list(left_out)),
    }
    return _grouped_bars(tables, systems, fills, labels, MEASURES[metric])


def _grouped_bars(
    tables: Mapping[str, pd.DataFrame],
    systems: Sequence[str],
    fills: Mapping[str, tuple[str, str]],
    labels: Mapping[str, str],
    axis_label: str,
) -> Figure:
    for table in tables.values():
        refuse_empty(table, "bar figure")
    systems = [system for system in systems if any(system in set(table["system"]) for table in tables.values())]
    marks, thickness = system_marks(systems), 0.8 / len(tables)
    with style():
        fig = Figure(figsize=size("page", height=1.2 + 0.21 * len(tables) * len(systems)))
        ax = fig.subplots()
        for position, (name, table) in enumerate(tables.items()):
            rows = table.set_index("system").reindex(systems)
            places = np.arange(len(systems)) + (position - (len(tables) - 1) / 2) * thickness
            colour, hatch = fills[name]
            ax.barh(
                places,
                rows["value"],
                thickness * 0.9,
                color=colour,
                hatch=hatch,
                edgecolor="white",
                linewidth=0,
                label=labels[name],
            )
            ax.hlines(places, rows["low"], rows["high"], color="#888888", linewidth=1.2)
            for place, value, high in zip(places, rows["value"], rows["high"], strict=True):
                text, edge = ("n/a", 0.0) if np.isnan(value) else (f"{100 * value:.0f}", np.nanmax([value, high]))
                ax.annotate(text, (edge, place), (4, 0), textcoords="offset points", va="center")
        ax.set_yticks(range(len(systems)), [marks[system].label for system in systems])
        ax.set_ylim(len(systems) - 0.5, -0.5)
        per_cent(ax, axis_label)
        ax.set_xlim(0, 1.12)
        legend_above(fig, ax, len(tables))
    return fig


def _folded(table: pd.DataFrame, asked: Sequence[str]) -> pd.DataFrame:
    names = {code: code if code in asked else ("none" if code == "und" else "other") for code in table.columns}
    return table.rename(columns=names).T.groupby(level=0, sort=False).sum().T


def _dashes(line: str) -> tuple[float, ...] | str:
    return {"-": "", "--": (4, 1.5), ":": (1, 1.2), "-.": (4, 1.2, 1, 1.2)}[line]


@dataclass(frozen=True)
class Shown:
    """One item of the gallery: a picture, the prompt, and ``(system, answer, verdict)`` per system.

    ``verdict`` is ``right`` (asked language, right content), ``language`` (asked language only) or ``wrong``.
    """

    image: Image.Image
    language: str
    prompt: str
    answers: tuple[tuple[str, str, str], ...]


VERDICTS = MappingProxyType(
    {
        "right": ("✓", "#00664b", "asked language, right content"),
        "language": ("≈", "#8a5a00", "asked language, wrong content"),
        "wrong": ("✗", "#a33b00", "mixed, foreign or ungrammatical"),
    }
)


def gallery(items: Sequence[Shown], columns: int = 46) -> Figure:
    """Images with the answers of several systems; a sign and a colour tell right, right language only, and wrong.

    ``columns`` is the width of the text in characters.  Long answers are cut after three lines.
    """
    if not items:
        raise InputError("gallery: no item to show")
    blocks = [_block(item, columns) for item in items]
    line = 0.165  # inches, at 9 pt
    heights = [max(line * (sum(len(text) for text, *_ in block) + 0.9), 0.95) for block in blocks]
    with style():
        fig = Figure(figsize=size("page", height=sum(heights) + 0.65))
        fig.set_layout_engine("none")  # every place is computed here
        total, top = fig.get_size_inches()[1], fig.get_size_inches()[1] - 0.6
        for position, (sign, colour, meaning) in enumerate(VERDICTS.values()):
            fig.text(0.02, 1 - (0.17 + 0.16 * position) / total, f"{sign} {meaning}", color=colour, va="center")
        for item, block, height in zip(items, blocks, heights, strict=True):
            side = min(0.85, height - 0.1)
            ax = fig.add_axes((0.02, (top - side - 0.05) / total, side / 5.0, side / total))
            ax.imshow(item.image, interpolation="nearest")
            ax.set(xticks=[], yticks=[])
            ax.grid(visible=False)
            ax.spines[:].set_visible(True)
            cursor = top - 0.02
            for text, colour, weight in block:
                fig.text(
                    0.215, cursor / total, "\n".join(text), color=colour, weight=weight, va="top", linespacing=1.2
                )
                cursor -= line * len(text)
            top -= height
    return fig


def _block(item: Shown, columns: int) -> list[tuple[list[str], str, str]]:
    name = language_names([item.language])[item.language]
    block = [(_wrapped(f"{name}: {item.prompt}", columns), "#222222", "bold")]
    for system, answer, verdict in item.answers:
        if verdict not in VERDICTS:
            raise InputError(f"gallery: verdict {verdict!r} is not known{did_you_mean(verdict, VERDICTS)}")
        sign, colour, _ = VERDICTS[verdict]
        block.append((_wrapped(f"{sign} {system}: {answer or '(empty)'}", columns), colour, "normal"))
    return block


def _wrapped(text: str, columns: int) -> list[str]:
    # A dollar sign would start Matplotlib's formula mode; control characters have no glyph.
    clean = "".join(character for character in text if character.isprintable()).replace("$", r"\$")
    return wrap(clean, columns, max_lines=3, placeholder=" …") or [""]
