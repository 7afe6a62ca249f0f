"""Verdicts on answers that are names: the columns of every other scale, by the dictionary of the run.

``class`` is the dictionary's language; what fits two languages, or none, is ``short`` (too short to say) and has no
LF, and tables count how many have one. ``content`` is whether the name is right in whatever language, ``grounded``
whether it is right in the asked one, and the two columns ``said`` (language) and ``read`` (right, wrong, unreadable)
keep what was looked up. ``lf_plus`` asks that every word be of the asked language alone.

Use: ``annotate(answers, "runs/pictures")``.
"""

import json
from pathlib import Path

import numpy as np
import pandas as pd

from textreg.errors import InputError
from textreg.fidelity.labels import UNDETERMINED
from textreg.pictures.dictionary import ASKED, EITHER, EMPTY, NONE, RIGHT, Dictionary

CLASS = {EITHER: "short", NONE: "short"}  # the others have the dictionary's own names
ENGLISH = "english"


def annotate(answers: pd.DataFrame, run: str | Path) -> pd.DataFrame:
    """The answers (``answer, language, reference``) with every column that tables are made of.

    Raises :class:`InputError` where the run has no ``prepare_data/names.csv``.
    """
    path = Path(run) / "prepare_data" / "names.csv"
    try:
        dictionary = Dictionary(pd.read_csv(path, keep_default_na=False, dtype=str))
    except FileNotFoundError:
        raise InputError(f"{path} is missing: run the stage prepare_data first") from None
    concepts = [json.loads(reference)[0] for reference in answers["reference"]]
    asked = answers["language"].tolist()
    found = [dictionary.look_up(*row) for row in zip(answers["answer"], asked, concepts, strict=True)]
    table = answers.copy(deep=False)
    said = pd.Series([each.language for each in found], index=table.index, dtype=object)
    own = (said == ASKED).to_numpy()
    english = ((said == ENGLISH) | ((said == ASKED) & (table["language"] == "en"))).to_numpy()
    open_ones = said.isin(list(CLASS)).to_numpy()
    right = np.array([each.content == RIGHT for each in found])
    table["said"], table["read"] = said, [each.content for each in found]
    table["class"] = said.map(lambda word: CLASS.get(word, word))
    table["identified"] = [each.code or UNDETERMINED for each in found]
    table["unrestricted"] = None
    table["answered"] = [
        each.code if told not in (EMPTY, *CLASS) else None for each, told in zip(found, said, strict=True)
    ]
    table["by_list"], table["undecided"], table["repetition"], table["refusal"] = True, False, False, False
    table["confidence"], table["exclusive"] = np.float32(1.0), np.float32("nan")
    table["words"] = [len(str(answer).split()) for answer in table["answer"]]
    table["set_aside"] = ""
    for name, flags in {"lf": own, "english": english, "other": (said == "other").to_numpy(), "judged": own}.items():
        table[name] = pd.array(flags, dtype="boolean")
        table.loc[open_ones, name] = pd.NA
    table["lf_plus"] = table["lf"]
    table["content"], table["grounded"] = (pd.array(flags, dtype="boolean") for flags in (right, right & own))
    for name in ("parsed", "lpr", "wpr"):
        table[name] = pd.array([None] * len(table), dtype="boolean")
    table["lines"], table["short_lines"] = np.int32(0), np.int32(0)
    return table
