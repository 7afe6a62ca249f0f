"""Where tuning moved the language model: the size of the change, layer by layer, from the report of a merge.

A module of its own, so that a merge without a figure does not wait for the drawing library.

    draw_changes(read_report("merged"), "figures/changes")      # svg, pdf, png, the numbers as csv, the words as json
"""

from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from textreg.display import drawn_answer
from textreg.errors import InputError
from textreg.figures.style import Saved, handle, legend_above, save_figure, size, style, system_marks
from textreg.merging.report import MergeReport


def change_table(report: MergeReport) -> pd.DataFrame:
    """Rows ``layer, module, elements, change, base, relative``; ``layer`` is missing outside the layers.

    Raises :class:`InputError` when the merge compared nothing.
    """
    rows = report.layer_norms()
    if not rows:
        raise InputError(f"the merge in {report.out} compared no tensor; there is no change to draw")
    return pd.DataFrame(rows).astype({"layer": "Int64", "relative": float})


def changes(table: pd.DataFrame) -> Figure:
    """Relative change per layer, a line for each module; embeddings, final norm and head as points beside them.

    ``table`` is that of :func:`change_table`; layers whose base is zero have no relative change and are left out.
    """
    shown = table.dropna(subset="relative")
    shown = shown.assign(module=shown["module"].map(drawn_answer))  # names out of somebody's checkpoint
    inside = shown[shown["layer"].notna()]
    outside = shown[shown["layer"].isna()]
    last = int(inside["layer"].max()) if len(inside) else -1
    marks = system_marks(inside["module"].unique())
    with style():
        fig = Figure(figsize=size("page"))
        ax = fig.subplots()
        for module, look in marks.items():
            rows = inside[inside["module"] == module]
            ax.plot(
                rows["layer"].astype(int), 100 * rows["relative"], color=look.colour, linestyle=look.line,
                marker=look.marker, markersize=4,
            )  # fmt: skip
        places = [last + 2 + number for number in range(len(outside))]
        ax.plot(places, 100 * outside["relative"], "D", color="black", markersize=4)
        layers = list(range(0, last + 1, max(1, (last + 8) // 8)))
        ax.set_xticks([*layers, *places], [*map(str, layers), *outside["module"]], rotation=90 if len(outside) else 0)
        ax.set(xlabel="layer", ylabel="change, % of the base's norm", title="Where tuning moved the language model")
        ax.set_ylim(bottom=0)
        ax.grid(axis="y")
        if marks:
            legend_above(fig, ax, 2, [handle(look, line=True) for look in marks.values()])
    return fig


def draw_changes(report: MergeReport, stem: str | Path) -> Saved:
    """Draws and saves the figure of one report; ``stem`` is its path without a suffix."""
    table = change_table(report)
    most = table.loc[table["relative"].idxmax()] if table["relative"].notna().any() else table.iloc[0]
    where = most["module"] if pd.isna(most["layer"]) else f"{most['module']} of layer {most['layer']}"
    alt = (
        f"Relative change of the weights per layer and module, tuned model against backbone; "
        f"the largest is {most['relative']:.2%}, in {where}."
    )
    return save_figure(changes(table), stem, alt=alt, data=table)
