"""What merging buys and what it costs: fidelity against seeing, along lambda.

Everything that matters lies in a small part of the area, and one curve starts far from it.  So the axes hold the data
and not 0 to 100 %, and where a curve comes from far below, the vertical axis is broken: above the break the whole
curve of the system that keeps the language best, below it the way of the others.  ``figures`` re-exports the drawing.
"""

import itertools
from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.ticker import MultipleLocator, PercentFormatter
from matplotlib.transforms import Bbox

from textreg.figures.style import MEASURES, SYSTEMS, handle, legend_above, refuse_empty, size, style, system_marks
from textreg.figures.tables import require

SEEING = ("visual", "questions")  # a panel each
GRID = 0.05  # limits of the axes are multiples of this
NEAR = 0.1  # a curve that starts no further below the best one needs no break


def frontier(sweep: pd.DataFrame, *, fidelity: str = "lf_plus", chosen: Mapping[str, float] | None = None) -> Figure:
    """Fidelity on image prompts against seeing along lambda, one curve per tuned system, one panel per way of seeing.

    ``sweep`` has ``seed, system, lambda, visual``, maybe ``questions``, and the column ``fidelity`` (one of lf,
    lf_plus, grounded), over languages already averaged, all in 0..1.  A curve is the mean over seeds at the lambdas
    that every seed has; single seeds are drawn faintly.  Lambda 0 is the system ``backbone``.  ``chosen`` rings a
    system's lambda.
    """
    require(sweep, ("seed", "system", "lambda", "visual", fidelity), "lambda sweep")
    refuse_empty(sweep, "lambda frontier")
    marks = system_marks(sweep["system"].unique())
    panels = [name for name in SEEING if name in sweep and sweep[name].notna().any()]
    cut = break_of(sweep, fidelity)
    low, high = _limits(sweep[fidelity])
    parts = [(low, high)] if cut is None else [(cut, high), (low, cut)]
    with style():
        fig = Figure(figsize=size("page", height=3.9 if cut is None else 4.4))
        grid = fig.subplots(len(parts), len(panels), squeeze=False, sharex="col", sharey="row",
                            gridspec_kw={"height_ratios": [3, 2][: len(parts)], "hspace": 0.04})  # fmt: skip
        for column, seen in enumerate(panels):
            axes = grid[:, column]
            for ax, bounds in zip(axes, parts, strict=True):
                # A point on the break belongs to the upper part alone.
                shown = (bounds[0], 1.0 if ax is axes[0] else np.nextafter(bounds[1], 0.0))
                _curves(ax, sweep, seen, fidelity, marks, chosen or {}, shown)
                broken = (cut == bounds[0], cut == bounds[1])
                _scale(ax, "y", bounds, broken)
                _scale(ax, "x", _limits(sweep[seen]))
                ax.grid(axis="both")
            axes[-1].set_xlabel(MEASURES["chrf" if seen == "visual" and not captions_judged(sweep) else seen])
            if cut is not None:
                _show_break(*axes)
        fig.supylabel(MEASURES[fidelity], fontsize=9)
        handles = [handle(look, line=True) for look in marks.values()]
        if chosen:
            ring = {"markersize": 10, "markerfacecolor": "none", "markeredgecolor": "#222222"}
            handles.append(Line2D([], [], marker="o", linestyle="", label="chosen lambda", **ring))
        legend_above(fig, grid[0, 0], len(handles), handles)
        fig.draw_without_rendering()  # names are placed by pixels, which the layout decides
        for column, seen in enumerate(panels):
            _name_ends(grid[:, column], sweep, seen, fidelity, marks, cut)
    return fig


def captions_judged(sweep: pd.DataFrame) -> bool:
    """Whether ``visual`` is a share of captions that are right; where no content can be judged it is their chrF."""
    return "grounded" not in sweep or bool(sweep["grounded"].notna().any())


def break_of(sweep: pd.DataFrame, fidelity: str) -> float | None:
    """Where to break the fidelity axis (0..1): below the curve that stays highest; None where none comes from afar."""
    lowest = sweep.groupby("system")[fidelity].min()
    best = lowest.max()
    if best - lowest.min() <= NEAR:
        return None
    return float(np.floor(best / GRID - 1e-9) * GRID)


def _curve(rows: pd.DataFrame, seen: str, fidelity: str) -> pd.DataFrame:
    """Means over seeds, indexed by lambda; a lambda that some seeds lack would make the curve jump between them."""
    rows = rows.dropna(subset=[seen, fidelity])
    found = rows.groupby("lambda")[[seen, fidelity]].agg(["mean", "size"])
    complete = found[(seen, "size")] == rows["seed"].nunique()
    return found.loc[complete, [(seen, "mean"), (fidelity, "mean")]].droplevel(1, axis=1).sort_index()


def _curves(
    ax: Axes,
    sweep: pd.DataFrame,
    seen: str,
    fidelity: str,
    marks: Mapping,
    chosen: Mapping,
    shown: tuple[float, float],
) -> None:
    """Every curve, and the points whose fidelity lies within ``shown``."""
    for system, rows in sweep.groupby("system", sort=False):
        look = marks[system]
        if rows["seed"].nunique() > 1:
            single = rows[rows[fidelity].between(*shown)]
            ax.plot(single[seen], single[fidelity], look.marker, color=look.colour, alpha=0.22, markersize=4)
        curve = _curve(rows, seen, fidelity)
        ax.plot(curve[seen], curve[fidelity], color=look.colour, linestyle=look.line)
        points = curve[curve[fidelity].between(*shown)]
        ax.plot(points[seen], points[fidelity], look.marker, color=look.colour)
        if system in chosen and chosen[system] in points.index:
            ring = {"markersize": 13, "markerfacecolor": "none", "markeredgecolor": "#222222"}
            ax.plot(*points.loc[chosen[system]], "o", **ring)
        if 0.0 in points.index:
            base = SYSTEMS["backbone"]
            ax.plot(*points.loc[0.0], base.marker, color=base.colour, markersize=8, zorder=4)


def _name_ends(
    axes: np.ndarray, sweep: pd.DataFrame, seen: str, fidelity: str, marks: Mapping, cut: float | None
) -> None:
    """Both ends of every curve by name, with a thin line to the point; the backbone, where curves meet, once."""
    drawn = {system: _curve(rows, seen, fidelity) for system, rows in sweep.groupby("system", sort=False)}
    curves = {system: curve for system, curve in drawn.items() if len(curve)}
    taken: dict[Axes, list[Bbox]] = {ax: _covered(ax, curves.values(), seen, fidelity) for ax in axes}
    named = set()
    for system, curve in curves.items():
        for lam in (curve.index[0], curve.index[-1]):
            point = curve.loc[lam]
            # Lambda 1 is the arm itself, under the name that it has everywhere else.
            text = {0.0: "backbone", 1.0: f"{system.removesuffix('+M')} (λ = 1)"}.get(lam, f"λ = {lam:g}")
            if text not in named:
                named.add(text)
                ax = axes[0] if cut is None or point[fidelity] >= cut else axes[-1]
                colour = marks[system].colour if lam else SYSTEMS["backbone"].colour
                taken[ax].append(_name(ax, text, (point[seen], point[fidelity]), colour, taken[ax]))


def _covered(ax: Axes, curves: Iterable[pd.DataFrame], seen: str, fidelity: str) -> list[Bbox]:
    """Small boxes (pixels) along the curves of an axes, which a name should not cover."""
    boxes = []
    for curve in curves:
        points = ax.transData.transform(curve[[seen, fidelity]].to_numpy(float))  # (lambdas, 2)
        for first, second in itertools.pairwise(points):
            for share in np.linspace(0, 1, 24):
                x, y = first + share * (second - first)
                boxes.append(Bbox.from_bounds(x - 4, y - 4, 8, 8))
    return boxes


def _name(ax: Axes, text: str, point: tuple[float, float], colour: str, taken: list[Bbox]) -> Bbox:
    """Write ``text`` near ``point``, inside, where it covers least of what is ``taken``; its place (pixels)."""
    renderer = FigureCanvasAgg(ax.figure).get_renderer()
    best, least, place = None, np.inf, None
    for distance, (side, rise) in itertools.product((1.0, 1.6, 2.3), itertools.product((1, -1), (-1, 1, 0))):
        label = ax.annotate(
            text, point, (18 * side * distance, 20 * rise * distance), textcoords="offset points",
            ha="left" if side > 0 else "right", va="center", color=colour,
            arrowprops={"arrowstyle": "-", "color": "#888888", "linewidth": 0.7, "shrinkA": 0, "shrinkB": 4},
        )  # fmt: skip
        label.set_in_layout(False)
        label.update_positions(renderer)
        box = Text.get_window_extent(label, renderer)
        outside = not (ax.bbox.contains(box.x0, box.y0) and ax.bbox.contains(box.x1, box.y1))
        cost = sum(box.overlaps(other) for other in taken) + 50 * outside + distance
        if cost < least:
            if best is not None:
                best.remove()
            best, least, place = label, cost, box
        else:
            label.remove()
    return place


def _limits(values: pd.Series) -> tuple[float, float]:
    """Multiples of the grid that hold the values (0..1)."""
    low = np.floor((values.min() - 0.005) / GRID + 1e-9) * GRID
    return max(float(low), 0.0), min(float(np.ceil((values.max() + 0.005) / GRID) * GRID), 1.0)


def _scale(ax: Axes, axis: str, bounds: tuple[float, float], broken: tuple[bool, bool] = (False, False)) -> None:
    low, high = bounds
    below, above = (0.0 if end else 0.03 * (high - low) for end in broken)  # room for a marker at an end of the data
    which = ax.xaxis if axis == "x" else ax.yaxis
    step = next((step for step in (0.05, 0.1, 0.2) if (high - low) / step <= 6), 0.2)
    which.set_major_locator(MultipleLocator(step))
    which.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=""))
    ax.set(**{f"{axis}lim": (low - below, high + above)})


def _show_break(upper: Axes, lower: Axes) -> None:
    upper.spines["bottom"].set_visible(False)
    upper.tick_params(axis="x", length=0, labelbottom=False)
    for ax, place in ((upper, 0.0), (lower, 1.0)):
        ax.plot([0], [place], marker=[(-1, -0.5), (1, 0.5)], linestyle="", color="#888888", markersize=9,
                transform=ax.transAxes, clip_on=False)  # fmt: skip
