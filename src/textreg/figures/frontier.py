"""What merging buys and what it costs: fidelity against seeing, along lambda, on one pair of axes.

Seeing is what the choice of lambda looks at (:func:`textreg.evaluation.sweep.choose_lambda`): the mean of English
captions and English questions that are right.  Not obvious: the axis of fidelity begins at 0 and has no break, so that
a height can be read as a share; a number beside a point is its lambda, left out where it would cover another.
"""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, PercentFormatter

from textreg.figures.style import (
    MEASURES,
    SYSTEMS,
    handle,
    legend_above,
    per_cent,
    refuse_empty,
    size,
    style,
    system_marks,
)
from textreg.figures.tables import require

ROOM = (34, 12)  # points (1/72 inch) across and down that a written lambda takes
RING = {"markersize": 11, "markerfacecolor": "none", "markeredgecolor": "#444444", "linestyle": "", "marker": "o"}


def frontier(sweep: pd.DataFrame, *, fidelity: str = "lf_plus", chosen: pd.DataFrame | None = None) -> Figure:
    """Fidelity on image prompts against seeing, one curve per merged system, lambda at its points.

    ``sweep`` has ``seed, system, lambda, visual``, maybe ``questions``, and the column ``fidelity`` (one of lf,
    lf_plus, grounded), over languages already averaged, all in 0..1.  A curve is the mean over seeds at the lambdas
    that every seed has; single seeds are drawn faintly.  Lambda 0 is the system ``backbone``.  ``chosen`` (``seed,
    system, lambda``) rings the mean over what each seed chose.
    """
    require(sweep, ("seed", "system", "lambda", "visual", fidelity), "lambda sweep")
    refuse_empty(sweep, "lambda frontier")
    points = with_seeing(sweep)
    marks = system_marks(points["system"].unique())
    with style():
        fig = Figure(figsize=size("page", height=3.9))
        ax = fig.subplots()
        for system, rows in points.groupby("system", sort=False):
            look = marks[system]
            if rows["seed"].nunique() > 1:
                ax.plot(rows["seeing"], rows[fidelity], look.marker, color=look.colour, alpha=0.2, markersize=3.5)
            curve = _curve(rows, fidelity)
            ax.plot(curve["seeing"], curve[fidelity], look.line, marker=look.marker, color=look.colour, clip_on=False)
            if 0.0 in curve.index:
                base = SYSTEMS["backbone"]
                ax.plot(*curve.loc[0.0], base.marker, color=base.colour, markersize=8, zorder=4)
        rings = points.iloc[:0] if chosen is None else points.merge(chosen, on=["seed", "system", "lambda"])
        rings = rings.groupby("system")[["seeing", fidelity]].mean()
        ax.plot(rings["seeing"], rings[fidelity], clip_on=False, **RING)
        per_cent(ax, MEASURES[fidelity], axis="y")
        ax.set(xlabel=_seeing_label(sweep))
        ax.margins(x=0.12)
        ax.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
        ax.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=""))
        ax.grid(axis="both")
        handles = [handle(look, line=True) for look in marks.values()]
        if 0.0 in set(points["lambda"]):
            handles.append(handle(SYSTEMS["backbone"]))
        if len(rings):
            handles.append(Line2D([], [], label="chosen", **RING))
        legend_above(fig, ax, 4, handles)
        fig.draw_without_rendering()  # lambdas are placed by pixels, which the layout decides
        _write_lambdas(ax, points, fidelity, marks)
    return fig


def with_seeing(sweep: pd.DataFrame) -> pd.DataFrame:
    """The sweep with ``seeing`` (0..1): captions and questions right, or captions alone."""
    seen = sweep.reindex(columns=["visual", "questions"]) if captions_judged(sweep) else sweep[["visual"]]
    return sweep.assign(seeing=seen.mean(axis=1))


def captions_judged(sweep: pd.DataFrame) -> bool:
    """Whether ``visual`` is a share of captions that are right; where no content can be judged it is their chrF."""
    return "grounded" not in sweep or bool(sweep["grounded"].notna().any())


def _seeing_label(sweep: pd.DataFrame) -> str:
    if not captions_judged(sweep):
        return MEASURES["chrf"]
    asked = "questions" in sweep and sweep["questions"].notna().any()
    return "English captions and questions right (%)" if asked else MEASURES["visual"]


def _curve(rows: pd.DataFrame, fidelity: str) -> pd.DataFrame:
    """Means over seeds, indexed by lambda; a lambda that some seeds lack would make the curve jump between them."""
    found = rows.dropna(subset=["seeing", fidelity]).groupby("lambda")[["seeing", fidelity]].agg(["mean", "size"])
    complete = found[("seeing", "size")] == found[("seeing", "size")].max()
    return found.loc[complete, [("seeing", "mean"), (fidelity, "mean")]].droplevel(1, axis=1).sort_index()


def _write_lambdas(ax, points: pd.DataFrame, fidelity: str, marks) -> None:
    """The lambda of every point of a curve that has room, the ends first."""
    written: list[np.ndarray] = []
    for system, rows in points.groupby("system", sort=False):
        curve = _curve(rows, fidelity)
        ends = [*curve.index[:1], *curve.index[-1:]]
        for lam in dict.fromkeys([*ends, *curve.index]):
            place = ax.transData.transform(curve.loc[lam].to_numpy(float)) / ax.figure.dpi * 72
            if lam and all((np.abs(place - other) > ROOM).any() for other in written):
                written.append(place)
                inward = "right" if ax.transAxes.inverted().transform(place * ax.figure.dpi / 72)[0] > 0.8 else "left"
                aside = (-7 if inward == "right" else 7, -9)
                label = ax.annotate(f"λ {lam:g}", curve.loc[lam], aside, textcoords="offset points", ha=inward)
                label.set(color=marks[system].colour, in_layout=False)
