"""Our Crossmodal-3600 fidelity beside published numbers, with the reasons why they are not the same measurement.

Two choices are not obvious.  Means are over languages, not over answers, as the published average is, and a mean of
our systems stands in a column only when every language of that column was measured: a run on nine languages has no
average over 36.  The caveats belong to the table and are printed with it.

Try it: ``print(published.beside(pandas.read_csv("runs/gpu/evaluate/fidelity.csv")))``.
"""

from functools import cache
from importlib import resources
from typing import Any

import pandas as pd
import yaml

from textreg.data import crossmodal

COLUMNS = ("model", "source", "n", "all", "seen", "unseen")


@cache
def _data() -> dict[str, Any]:
    return yaml.safe_load(resources.files(__package__).joinpath("published_fidelity.yaml").read_text("utf-8"))


def caveats() -> tuple[str, ...]:
    """Why the two kinds of row are not the same measurement, one sentence each."""
    return tuple(_data()["caveats"])


def conditions() -> tuple[str, ...]:
    """How the published numbers were measured, one sentence each."""
    return tuple(_data()["conditions"])


def groups() -> dict[str, tuple[str, ...]]:
    """The columns: ``all`` 36 languages, ``seen`` by the Salamandra backbone (18, without English), ``unseen``
    (17).
    """
    seen = tuple(_data()["seen"])
    unseen = tuple(code for code in crossmodal.languages() if code not in {*seen, "en"})
    return {"all": crossmodal.languages(), "seen": seen, "unseen": unseen}


def beside(fidelity: "pd.DataFrame") -> "pd.DataFrame":
    """Published and own mean LF in percent: ``model, source, n, all, seen, unseen``, best first.

    ``fidelity``: rows of ``fidelity.csv`` (``lf`` in 0..1), of which the image arm counts; seeds are averaged.  ``n``
    is the number of answers behind an own row and empty for a published one; a mean is empty where one of its
    languages was not measured.
    """

    rows = [
        (name, "published", None, values["reported"], values["seen"], values["unseen"])
        for name, values in _data()["models"].items()
    ]
    shown = fidelity[(fidelity["arm"] == "image") & fidelity["lf"].notna()]
    for (system, strength), group in shown.groupby(["system", "lambda"], dropna=False, sort=False):
        by_language = 100 * group.groupby("language")["lf"].mean()
        means = [
            by_language[list(wanted)].mean() if set(wanted) <= set(by_language.index) else None
            for wanted in groups().values()
        ]
        name = system if pd.isna(strength) or strength in (0, 1) else f"{system} (lambda {strength:g})"
        rows.append((name, "this run", int(group["n_scored"].sum()), *means))
    table = pd.DataFrame(rows, columns=list(COLUMNS)).astype(
        {"n": "Int64", "all": float, "seen": float, "unseen": float}
    )
    return table.sort_values("all", ascending=False, na_position="last", ignore_index=True, kind="stable")
