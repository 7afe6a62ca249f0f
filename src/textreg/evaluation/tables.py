"""From answers to the tables of ``05_evaluate``: verdicts, losses by the image, comparisons of systems.

Answers are written with their verdicts, so that whatever shows them later identifies no language and parses no
sentence again.

Use: ``scored = annotated(settings, answers, judge_of(settings))``;
``write_tables(out, scored, {"ifl": ifl_table(scored, 1000)})``.
"""

from pathlib import Path

import pandas as pd

from textreg.data.codes import code_book
from textreg.evaluation import named
from textreg.fidelity.annotation import Judge, annotate
from textreg.fidelity.identifiers import open_identifier
from textreg.fidelity.judges import LLMJudge
from textreg.fidelity.measures import compare, ifl
from textreg.fidelity.service import Service
from textreg.files import atomic_write
from textreg.settings import Evaluate, Merge


def annotated(settings: Evaluate | Merge, answers: pd.DataFrame, judge: Judge | str | None = "exact") -> pd.DataFrame:
    """The answers with everything that can be said of each (:func:`textreg.fidelity.annotation.annotate`); at
    pictures scale they are looked up in the run's dictionary."""
    if settings.scale == "pictures":
        return named.annotate(answers, settings.run)
    identifier = open_identifier(settings.identifier, candidates=code_book(), model=settings.identifier_model)
    return annotate(answers, identifier, judge)


def judge_of(settings: Evaluate) -> Judge | str | None:
    """Who decides the second condition of LF+: the grammars, a model at an endpoint (its verdicts are kept),
    nobody."""
    if settings.judge != "llm":
        return None if settings.judge == "none" else settings.judge
    service = Service(settings.judge_endpoint, settings.judge_model)
    return LLMJudge(service, Path(settings.run) / "evaluate" / "verdicts.jsonl")


def ifl_table(main: pd.DataFrame, bootstrap: int) -> pd.DataFrame:
    """Image-induced fidelity loss of LF and of LF+, per system and language, with intervals (column ``measure``)."""
    captions = main[(main["task"] == "caption") & (main["language"] != "en")]
    if not {"image", "text"} <= set(captions["arm"]):
        return pd.DataFrame()
    tables = [ifl(captions, measure, bootstrap=bootstrap).assign(measure=measure) for measure in ("lf", "lf_plus")]
    return pd.concat(tables, ignore_index=True)


def comparison_table(main: pd.DataFrame, bootstrap: int) -> pd.DataFrame:
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


def write_tables(folder: Path, answers: pd.DataFrame, tables: dict[str, pd.DataFrame]) -> None:
    """Write ``answers.parquet`` (with the verdicts) and each table as csv, whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(folder / "answers.parquet") as path:
        answers.to_parquet(path, index=False)
    for name, table in tables.items():
        with atomic_write(folder / f"{name}.csv") as path:
            table.to_csv(path, index=False, float_format="%.6g")
