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
from textreg.figures.tables import over_runs, require

ROOM = (34, 12)  # points (1/72 inch) across and down that a written lambda takes
CLEAR = (20, 12)  # points that a ring keeps from it
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
        rings = over_runs(rings, ["system"], ["seeing", fidelity])
        ax.plot(rings["seeing"], rings[fidelity], clip_on=False, **RING)
        per_cent(ax, MEASURES[fidelity], axis="y")
        ax.set(xlabel=_seeing_label(sweep), title="What merging buys, and what it costs")
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
        _write_lambdas(ax, points, fidelity, marks, rings.to_numpy(float))
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
    """Means over runs, indexed by lambda; a lambda that some runs lack would make the curve jump between them."""
    known = rows.dropna(subset=["seeing", fidelity])
    runs = known.groupby("lambda").size()
    return over_runs(known, ["lambda"], ["seeing", fidelity]).loc[runs.index[runs == runs.max()]].sort_index()


def _write_lambdas(ax, points: pd.DataFrame, fidelity: str, marks, taken: np.ndarray) -> None:
    """The lambda of every point of a curve that has room beside what is ``taken``, the ends first."""
    scale = 72 / ax.figure.dpi
    rings = [ax.transData.transform(place) * scale for place in taken]
    written: list[np.ndarray] = []
    for system, rows in points.groupby("system", sort=False):
        curve = _curve(rows, fidelity)
        ends = [*curve.index[:1], *curve.index[-1:]]
        for lam in dict.fromkeys([*ends, *curve.index]):
            place = ax.transData.transform(curve.loc[lam].to_numpy(float)) * scale
            left = ax.transAxes.inverted().transform(place / scale)[0] > 0.8
            middle = np.add(place, ((-ROOM[0] if left else ROOM[0]) / 2, -6))
            clear = [(np.abs(middle - ring) > CLEAR).any() for ring in rings]
            if lam and all(clear + [(np.abs(middle - other) > ROOM).any() for other in written]):
                written.append(middle)
                aside = {"xytext": (-7 if left else 7, -9), "ha": "right" if left else "left"}
                label = ax.annotate(f"λ {lam:g}", curve.loc[lam], textcoords="offset points", **aside)
                label.set(color=marks[system].colour, in_layout=False)
