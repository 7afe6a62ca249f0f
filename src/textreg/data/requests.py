"""What a run asks: ``requests.parquet`` by split, arm and task.

The same rows are read when a model is looked at before and after a training, swept, evaluated and looked into, so that
all of them speak of the same images and questions.

Use: ``read_requests("runs/laptop", "test", ["image"], ["caption"])``.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from textreg.data.rows import read_rows

if TYPE_CHECKING:
    import pandas as pd


def read_requests(run: str | Path, split: str, arms: Iterable[str], tasks: Iterable[str] = ()) -> "pd.DataFrame":
    """Requests of one split and some arms, in file order; ``tasks`` empty means all."""

    table = read_rows(Path(run) / "prepare_data" / "requests.parquet")
    wanted = (table["split"] == split) & table["arm"].isin(list(arms))
    if tasks := list(tasks):
        wanted &= table["task"].isin(tasks)
    return table[wanted].reset_index(drop=True)
