"""Training loss of every arm over steps, on a logarithmic axis.

Arms train on different rows, so that levels compare only within an arm.
"""

import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from textreg.figures.style import (
    handle,
    refuse_empty,
    size,
    style,
    system_marks,
)
from textreg.figures.tables import require


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


def _dashes(line: str) -> tuple[float, ...] | str:
    return {"-": "", "--": (4, 1.5), ":": (1, 1.2), "-.": (4, 1.2, 1, 1.2)}[line]
