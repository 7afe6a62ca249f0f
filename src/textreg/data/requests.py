"""What a run asks: the arms of a request, and ``requests.parquet`` by split, arm and task.

The arms differ in nothing but where the content is: in the image, nowhere (a blank image), or in a text before the
same prompt, which may be in the asked language (``text``), in English (``text_en``), or key words (``keywords``).

The same rows are read when a model is looked at before and after a training, swept, evaluated and looked into, so that
all of them speak of the same images and questions.

Use: ``read_requests("runs/laptop", "test", ["image"], ["caption"])``.
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from textreg.data.mixture import PLACEHOLDER
from textreg.data.rows import read_rows

if TYPE_CHECKING:
    import pandas as pd


T = TypeVar("T")
IMAGE_TURN = f"{PLACEHOLDER}\n"


def request_arms(prompt: str, image: T, blank: T, texts: Mapping[str, str]) -> Iterator[tuple[str, T | None, str]]:
    """Arm, picture and words of a request: ``image``, ``blank``, and an arm for each of ``texts`` (arm -> content).

    ``image`` and ``blank``: pictures, or what names them.
    """
    yield "image", image, IMAGE_TURN + prompt
    yield "blank", blank, IMAGE_TURN + prompt
    for arm, content in texts.items():
        yield arm, None, f"{content}\n{prompt}"


def read_requests(run: str | Path, split: str, arms: Iterable[str], tasks: Iterable[str] = ()) -> "pd.DataFrame":
    """Requests of one split and some arms, in file order; ``tasks`` empty means all."""

    table = read_rows(Path(run) / "prepare_data" / "requests.parquet")
    wanted = (table["split"] == split) & table["arm"].isin(list(arms))
    if tasks := list(tasks):
        wanted &= table["task"].isin(tasks)
    return table[wanted].reset_index(drop=True)
