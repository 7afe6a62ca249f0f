"""Training loss of every arm over steps, on a logarithmic axis.

Arms train on different rows, so that levels compare only within an arm.
"""

from types import MappingProxyType

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

from textreg.figures.style import handle, legend_above, refuse_empty, size, style, system_marks
from textreg.figures.tables import over_runs, require

DASHES = MappingProxyType({"-": (), "--": (4, 1.5), ":": (1, 1.2), "-.": (4, 1.2, 1, 1.2)})


def loss_curves(losses: pd.DataFrame) -> Figure:
    """Training loss per arm (nats per supervised token), mean over seeds; the band is their range.

    ``losses`` has ``seed, arm, step, loss``.  Arms train on different rows, so that levels compare only within an arm.
    """

    require(losses, ("seed", "arm", "step", "loss"), "loss log")
    refuse_empty(losses, "loss curves")
    marks = system_marks(losses["arm"].unique())
    with style():
        fig = Figure(figsize=size("page"))
        ax = fig.subplots()
        means = over_runs(losses, ["arm", "step"], ["loss"])["loss"]
        for arm, look in marks.items():
            mean, spread = means[arm].sort_index(), losses[losses["arm"] == arm].groupby("step")["loss"]
            ax.fill_between(mean.index, spread.min(), spread.max(), color=look.colour, alpha=0.1, linewidth=0)
            ax.plot(mean.index, mean, color=look.colour, dashes=DASHES[look.line])
        ax.set(xlabel="optimizer step", ylabel="training loss (nats per token)", yscale="log",
               title="Does the training settle?")  # fmt: skip
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.yaxis.set_major_formatter(ScalarFormatter())
        ax.yaxis.set_minor_formatter(NullFormatter())
        ax.grid(axis="both")
        legend_above(fig, ax, 4, [handle(look, line=True, marker=False) for look in marks.values()])
    return fig
