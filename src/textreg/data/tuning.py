"""Which rows an arm is tuned on: visual instructions, and text-only rows as the arm says.

Two choices are not obvious.  A text share *replaces* visual rows: every arm takes the same number of steps over the
same number of rows, so that TR and its English control differ in the language of their text alone.  The order is
planned before training (:func:`textreg.data.mixture.compose`) and the training follows it, so a resumed arm sees
exactly the rows it would have seen.

Use: ``rows, order = arm_rows(settings)``.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from textreg.data import mixture
from textreg.data.rows import read_rows
from textreg.errors import InputError
from textreg.settings import Tune

if TYPE_CHECKING:
    import pandas as pd

TEXT_FILES = {"multilingual": "text.parquet", "english": "text_control.parquet"}


def arm_rows(settings: Tune) -> tuple["pd.DataFrame", mixture.RowOrder]:
    """The pool of an arm (visual rows, then text rows) and the order in which training sees it.

    An arm without text has a text share of 0.  Raises :class:`InputError` for a share without text, or a missing file.
    """
    import pandas as pd

    folder = Path(settings.run) / "prepare_data"
    visual = read_rows(folder / "visual.parquet")
    if settings.text == "none":
        order = mixture.compose(len(visual), 0, text_share=0.0, **_plan(settings))
        return visual, order
    if settings.text_share == 0.0:
        raise InputError(
            f"tune[{settings.arm}]: text={settings.text} with text_share 0; say text=none, or give a share"
        )
    text = read_rows(folder / TEXT_FILES[settings.text])
    text = mixture.with_image(text, settings.text_image, visual["image_id"].dropna().tolist(), settings.seed)
    order = mixture.compose(len(visual), len(text), text_share=settings.text_share, **_plan(settings))
    return pd.concat([visual, text], ignore_index=True), order


def _plan(settings: Tune) -> dict:
    return {
        "steps": settings.steps,
        "batch_size": settings.batch_size,
        "phases": settings.text_phases,
        "seed": settings.seed,
    }


def shown(rows: "pd.DataFrame", order: mixture.RowOrder) -> "pd.DataFrame":
    """What an arm is shown, for its log and its model card: ``source, language, image, rows, share``.

    ``image`` says whether the rows have one; the shares sum to 1.
    """
    seen = rows.iloc[order.positions]
    keys = [seen["source"], seen["language"], seen["image_id"].notna().rename("image")]
    table = seen.groupby(keys).size().rename("rows").reset_index()
    return table.assign(share=table["rows"] / len(seen)).sort_values(["image", "rows"], ascending=False)
