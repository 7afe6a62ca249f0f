"""The loss in models people use: answers of eleven published VLMs to the same picture questions in up to 8 languages.

The answers are those of Pangea's evaluation (Yue et al. 2024; the repository is Apache-2.0, the closed models' outputs
carry their makers' terms), so they are fetched and never committed; only the tables are.  Scored by the rules of
``textreg score``.  A row counts only if its *question* is in the language it is filed under, as the identifiers see
it: some files hold questions in English.  Bounds are Wilson's at 95 %.  Four tables:

* ``fidelity.csv``: a model in a language: LF, English, other, mixed, empty, undecided
* ``identifiers.csv``: the same LF and English by each identifier, and how often it agrees with the default
* ``judge.csv``: the score (1 to 5) that Pangea's judge gave, where the answer is in the asked language and in English
* ``reverse.csv``: what English questions are answered in

    git clone --depth 1 --filter=blob:none --sparse https://github.com/neulab/Pangea
    git -C Pangea sparse-checkout set evaluation/lmms-eval/lmms_eval/tasks/xchat/responses
    python bench/real_vlms.py Pangea --out results/real_vlms

``--answers FILE`` also writes the answers as JSON lines, for ``textreg score FILE``.
"""

import argparse
import json
import re
from pathlib import Path
from typing import Any

import pandas as pd

from textreg.data.codes import read_language
from textreg.errors import InputError
from textreg.fidelity.annotation import annotate
from textreg.fidelity.identifiers import DEFAULT, open_identifier
from textreg.fidelity.intervals import share_bounds

FILES = "evaluation/lmms-eval/lmms_eval/tasks/xchat/responses"
NAMED = re.compile(r"(?P<system>.+)-(?P<language>[A-Za-z]+?)|(?P<unnamed>[a-z]+)_prompts_responses")
SYSTEM = re.compile(r"^You are [^\n]*assistant[^\n]*\n+")  # some files keep it with the question
JUDGED, UNNAMED = "-results", "unlabelled"  # files whose names tell no model
OTHERS = ("pycld2", "py3langid", "heliport", "lid176")
KEYS = ["system", "language"]


def read_answers(folder: Path) -> pd.DataFrame:
    """``system, language, item_id, prompt, answer, score`` of every answer; a score where the judged file beside it
    holds the same answer, because one of those holds the answers of another model.

    Raises InputError where the folder holds none.
    """
    files = sorted((folder / FILES).glob("*.json"))
    if not files:
        raise InputError(f"{folder}: no answers in {FILES}; is it a clone of neulab/Pangea?")
    rows = []
    for path in files:
        named = NAMED.fullmatch(path.stem)
        if path.stem.endswith(JUDGED) or not named:
            continue
        key = (named["system"] or UNNAMED, read_language((named["language"] or named["unnamed"]).title()))
        beside = path.with_name(path.stem + JUDGED + ".json")
        scores = {said(row): row["score"] for row in read(beside)} if beside.exists() else {}
        for number, row in enumerate(read(path)):
            prompt = SYSTEM.sub("", row.get("input") or row["question"])
            answer = said(row)
            score = pd.to_numeric(scores.get(answer), errors="coerce")
            rows.append((*key, f"{path.stem}:{number}", prompt, answer, score))
    return pd.DataFrame(rows, columns=[*KEYS, "item_id", "prompt", "answer", "score"])


def read(path: Path) -> list[dict[str, Any]]:
    return json.loads(path.read_text(encoding="utf-8"))


def said(row: dict[str, Any]) -> str:
    return (row["response"] or "").strip()


def percent(flags: pd.Series) -> float | None:
    """Share of True among what is not missing; None where nothing is."""
    told = flags.dropna()
    return round(100 * float(told.mean()), 1) if len(told) else None


def share(group: pd.DataFrame, what: pd.Series, name: str) -> dict[str, float]:
    """``name``, ``name_low``, ``name_high``: a share of the group's scored answers, in per cent."""
    hits, n = int(what.sum()), int(group["lf"].notna().sum())
    low, high = share_bounds(hits, n, method="wilson")
    found = {name: hits / n if n else float("nan"), f"{name}_low": float(low), f"{name}_high": float(high)}
    return {key: round(100 * value, 1) for key, value in found.items()}


def fidelity(table: pd.DataFrame) -> pd.DataFrame:
    rows = []
    for key, group in table.groupby(KEYS):
        shares = share(group, group["lf"], "lf") | share(
            group, group["english"] & (group["language"] != "en"), "english"
        )
        classes = {
            f"class_{name}": int((group["class"] == name).sum()) for name in ("other", "mixed", "empty", "short")
        }
        flags = {name: int(group[name].sum()) for name in ("undecided", "repetition", "refusal")}
        scored = {"asked": len(group), "scored": int(group["lf"].notna().sum())}
        rows.append(dict(zip(KEYS, key, strict=True)) | scored | shares | classes | flags)
    return pd.DataFrame(rows)


def identifiers(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Per identifier and language: LF, English, and agreement with the default on what both decide, in per cent."""
    rows, first = [], tables[DEFAULT]
    for name, table in tables.items():
        for language, group in table.groupby("language"):
            default = first.loc[group.index]
            both = group["lf"].notna() & default["lf"].notna()
            same = (group["lf"] == default["lf"]) & (group["english"] == default["english"])
            rows.append({
                "identifier": name, "language": language, "answers": len(group),
                "scored": int(group["lf"].notna().sum()),
                "lf": percent(group["lf"]),
                "english": percent(group["english"]) if language != "en" else None,
                "agreement": percent(same[both]),
            })  # fmt: skip
    return pd.DataFrame(rows)


def judged(table: pd.DataFrame) -> pd.DataFrame:
    """Mean score of answers in the asked language and of answers in English to questions in another language."""
    judged = table[table["score"].notna() & (table["language"] != "en") & table["lf"].notna()]
    found = judged.assign(
        answered=judged["lf"].map({True: "asked", False: "other"}).mask(judged["english"], "english")
    )
    means = found.groupby(["system", "answered"])["score"].agg(["size", "mean"]).round(2).unstack("answered")
    means.columns = [f"{'n' if what == 'size' else 'score'}_{answered}" for what, answered in means.columns]
    return means.reset_index()


def reverse(table: pd.DataFrame) -> pd.DataFrame:
    """What questions in English are answered in: counts by model."""
    english = table[(table["language"] == "en") & table["lf"].notna()]
    answered = english["answered"].where(english["lf"] | english["answered"].ne("en"), "en")
    return english.groupby(["system", answered.rename("answered")]).size().rename("answers").reset_index()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="clone of neulab/Pangea")
    parser.add_argument("--out", type=Path, default=Path("results/real_vlms"))
    parser.add_argument("--answers", type=Path, help="write the answers here as well")
    options = parser.parse_args()
    answers = read_answers(options.folder)
    if options.answers:
        answers.to_json(options.answers, orient="records", lines=True, force_ascii=False)
    asked = annotate(answers.assign(answer=answers["prompt"], prompt=""), open_identifier(DEFAULT), None)
    kept = answers[asked["lf"].fillna(False).to_numpy(dtype=bool)].reset_index(drop=True)
    print(f"{len(answers)} answers, {len(answers) - len(kept)} left out: the question is in another language")
    tables = {name: annotate(kept, open_identifier(name), None) for name in (DEFAULT, *OTHERS)}
    options.out.mkdir(parents=True, exist_ok=True)
    left_out = answers.groupby(KEYS).size().rename("answers").reset_index()
    made = {
        "fidelity": left_out.merge(fidelity(tables[DEFAULT]), how="left", on=KEYS),
        "identifiers": identifiers(tables), "judge": judged(tables[DEFAULT]), "reverse": reverse(tables[DEFAULT]),
    }  # fmt: skip
    for name, table in made.items():
        table.to_csv(options.out / f"{name}.csv", index=False)
        print(table.to_string())


if __name__ == "__main__":
    main()
