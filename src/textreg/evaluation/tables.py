"""From answers to the tables of ``05_evaluate``: verdicts, losses by the image, comparisons of systems.

Use: ``scored = annotated(settings, answers)``; ``write_tables(out, answers, {"ifl": ifl_table(scored, 1000)})``.
"""

from pathlib import Path

import pandas as pd

from textreg.fidelity.annotation import annotate
from textreg.fidelity.identifiers import open_identifier
from textreg.fidelity.judges import LLMJudge
from textreg.fidelity.measures import compare, ifl
from textreg.fidelity.service import Service
from textreg.files import atomic_write
from textreg.settings import Evaluate, Merge


def annotated(settings: Evaluate | Merge, answers: "pd.DataFrame") -> "pd.DataFrame":
    """The answers with everything that can be said of each (:func:`textreg.fidelity.annotation.annotate`); a sweep is
    judged exactly, where that can be.
    """

    judge = "exact" if isinstance(settings, Merge) else {"none": None, "exact": "exact"}.get(settings.judge)
    if isinstance(settings, Evaluate) and settings.judge == "llm":
        verdicts = Path(settings.run) / "evaluate" / "verdicts.jsonl"
        judge = LLMJudge(Service(settings.judge_endpoint, settings.judge_model), verdicts)
    return annotate(answers, open_identifier(settings.identifier, model=settings.identifier_model), judge)


def ifl_table(main: "pd.DataFrame", bootstrap: int) -> "pd.DataFrame":
    """Image-induced fidelity loss of LF and of LF+, per system and language, with intervals (column ``measure``)."""

    captions = main[(main["task"] == "caption") & (main["language"] != "en")]
    if not {"image", "text"} <= set(captions["arm"]):
        return pd.DataFrame()
    tables = [ifl(captions, measure, bootstrap=bootstrap).assign(measure=measure) for measure in ("lf", "lf_plus")]
    return pd.concat(tables, ignore_index=True)


def comparison_table(main: "pd.DataFrame", bootstrap: int) -> "pd.DataFrame":
    """Paired differences that the claims rest on: TR, EN and BM+M against BM, TR+M against TR, on image captions."""

    captions = main[(main["task"] == "caption") & (main["language"] != "en")]
    present, tables = set(captions["system"]), []
    for name, against in (("TR", "BM"), ("EN", "BM"), ("TR", "EN"), ("BM+M", "BM"), ("TR+M", "TR")):
        for measure in ("lf", "lf_plus", "grounded"):
            if {name, against} <= present:
                pair = captions[captions["system"].isin([name, against])]
                found = compare(pair, name, against, measure, bootstrap=bootstrap)
                tables.append(found.assign(measure=measure))
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def write_tables(folder: Path, answers: "pd.DataFrame", tables: "dict[str, pd.DataFrame]") -> None:
    """Write ``answers.parquet`` and each table as csv, whole or not at all."""

    folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(folder / "answers.parquet") as path:
        answers.to_parquet(path, index=False)
    for name, table in tables.items():
        with atomic_write(folder / f"{name}.csv") as path:
            table.to_csv(path, index=False, float_format="%.6g")
