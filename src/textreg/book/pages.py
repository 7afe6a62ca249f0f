"""Generated parts of the book: tables of results, figures, costs and versions, as MyST Markdown.

Pages under ``book/`` hold words; every measured number comes from here, read from result files and manifests when the
book is built.  Tables are ``csv-table`` directives with escaped cells, so that a bar, a bracket or markup stays text.
Pure functions: folders in, Markdown out; :mod:`textreg.book.build` writes the files.
"""

import csv
import io
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median
from types import MappingProxyType
from typing import Any

import pandas as pd
from langcodes import Language

from textreg import settings
from textreg.fidelity.estimates import Point
from textreg.figures import predictions, published
from textreg.figures.style import language_names, language_order
from textreg.figures.tables import Results, headline, losses_by_arm, per_language, questions_by_task, system_order
from textreg.micro import assets

UNDEFINED = "–"
NUMBERS = re.compile(r"[\s\d.,+–%±()\\[\]-]+")  # a column of these is set flush right
NARROW = "\u00a0"  # between the ends of a range, which stays on one line where a cell is broken


def table(header: Sequence[str], rows: Iterable[Sequence[Any]], title: str = "") -> str:
    """A MyST ``csv-table``; cells are escaped, so that nothing in them is read as markup.  Of the columns that hold
    numbers alone the style sheet is told the places, as classes."""
    text, cells = io.StringIO(), [[escaped(cell) for cell in row] for row in rows]
    columns = enumerate(zip(*cells, strict=True), start=1)
    numeric = "".join(f" n{place}" for place, column in columns if NUMBERS.fullmatch("".join(column)))
    options = ":header-rows: 1\n" + (f":class:{numeric}\n" if numeric else "")
    csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL).writerows([map(escaped, header), *cells])
    return f"````{{csv-table}} {title}\n{options}\n{text.getvalue()}````\n"


def escaped(cell: Any) -> str:
    """Text of a table cell without Markdown or HTML meaning, on one line."""
    text = re.sub(f"[^\\S{NARROW}]+", " ", str(cell)).strip()
    for sign in "\\`*_{}[]<>#|$&":
        text = text.replace(sign, "\\" + sign)
    return text


def per_cent(value: float, low: float = float("nan"), high: float = float("nan"), digits: int = 1) -> str:
    """``"96.1"`` or ``"96.1 [95.0, 97.2]"``, the range with ``digits`` decimals and unbroken; undefined is a dash."""
    if pd.isna(value):
        return UNDEFINED
    value, low, high = (  # rounded once, and never -0.0
        round(100 * number, places) + 0.0 for number, places in ((value, 1), (low, digits), (high, digits))
    )
    interval = "" if pd.isna(low) or pd.isna(high) else f" [{low:.{digits}f},{NARROW}{high:.{digits}f}]"
    return f"{value:.1f}{interval}"


def over_seeds(values: pd.Series, digits: int = 1) -> str:
    """The mean in per cent, and where there are several values their range with ``digits`` decimals."""
    return per_cent(values.mean(), *((values.min(), values.max()) if len(values) > 1 else ()), digits=digits)


#: Columns of the table of systems: what is asked, and what is said of the answers.
SYSTEM_COLUMNS = MappingProxyType(
    {
        "asked": ("image", "asked"),
        "English": ("image", "english"),
        "mixed": ("image", "mixed"),
        "LF+": ("image", "lf_plus"),
        "GF": ("image", "grounded"),
        "questions, asked and right": ("image", "grounded", "questions"),
        "English captions": ("image", "content", "caption", "en"),
        "English questions": ("image", "content", "questions", "en"),
    }
)
#: The same for the other arms of a request.
ARM_COLUMNS = MappingProxyType(
    {
        "English text: asked": ("text_en", "asked"),
        "English text: English": ("text_en", "english"),
        "blank: asked": ("blank", "asked"),
        "blank: English": ("blank", "english"),
        "text: asked": ("text", "asked"),
    }
)


def systems_table(results: Results) -> str:
    """Classes of the answers to pictures, LF+, what is right in the asked language, and English skills."""
    return _by_system(results, SYSTEM_COLUMNS, "Systems asked about pictures, per cent")


def arms_table(results: Results) -> str:
    """The other arms of the same requests."""
    return _by_system(results, ARM_COLUMNS, "The same requests without the picture, per cent")


def losses_table(results: Results) -> str:
    """What tuning took of the asked language, by arm, against the untuned model on the same requests."""
    names = {"image": "pictures", "text_en": "English text", "text": "text", "beyond": "pictures beyond English text"}
    answers = results.measured
    if answers.empty:
        return ""
    found = losses_by_arm(answers).set_index(["system", "arm"])
    systems = system_order(found.index.get_level_values("system"))
    rows = [[system, *(per_cent(*found.loc[(system, arm)], digits=0) for arm in names)] for system in systems]
    title = f"Answers in the asked language lost against the untuned model, points; {_spread(answers)}"
    return table(["system", *names.values()], rows, escaped(title)) if rows else ""


def _by_system(results: Results, columns: Mapping[str, Sequence[str]], title: str) -> str:
    answers = results.measured
    if answers.empty:
        return ""
    systems = system_order(answers["system"])
    found = {
        name: [results.estimate((1.0, Point(system, *point))) for system in systems] for name, point in columns.items()
    }
    measured = {name: cells for name, cells in found.items() if any(each.runs for each in cells)}
    rows = [
        [system, *(per_cent(each.value, each.low, each.high, digits=0) for each in row)]
        for system, *row in zip(systems, *measured.values(), strict=True)
    ]
    return table(["system", *measured], rows, f"{title}; {_spread(answers)}")


def _spread(answers: pd.DataFrame) -> str:
    runs = answers[["backbone", "seed"]].drop_duplicates()
    many, seeds = runs["backbone"].nunique(), len(runs)
    over = f"{seeds} seeds of {many} backbones" if many > 1 else f"{seeds} seeds" if seeds > 1 else "one seed"
    return f"mean [95 % interval over {over}, scenes and languages]"


def questions_table(results: Results) -> str:
    """English questions by kind, with how many there are: a mean over kinds hides those that nobody can answer."""
    values = questions_by_task(headline(results.visual, results.chosen))
    systems = [name for name in values.columns if name not in ("task", "n")]
    rows = [[row["task"], row["n"], *(per_cent(row[name]) for name in systems)] for _, row in values.iterrows()]
    return table(["question", "n", *systems], rows, "English questions answered right, per cent")


def claims_table(judged: Mapping[str, pd.DataFrame]) -> str:
    """Each claim with its verdict and what was measured.

    ``judged``: origin -> what :func:`textreg.evaluation.claims.judge` returns, all of the same claims; of all but the
    first the value stands beside the verdict.
    """
    (origin, found), *others = judged.items()
    rows = []
    for place, row in enumerate(found.itertuples()):
        by = [*(["the paper's"] if row.origin == "paper" else []), *(["after the results"] * (row.written == "after"))]
        claim = f"{row.claim}: {row.bound}" + (f" ({', '.join(by)})" if by else "")
        beside = [each.iloc[place] for _, each in others]
        rows.append([verdict(row.verdict), claim, per_cent(row.value, row.low, row.high),
                     *(f"{verdict(each['verdict'])}: {per_cent(each['value'])}" for each in beside)])  # fmt: skip
    return table(["verdict", "predicted", origin, *(name for name, _ in others)], rows)


def verdict(word: str) -> str:
    """A verdict of the files in the words of the pages."""
    shown = predictions.VERDICTS[word]
    return f"{predictions.SIGNS[shown]}{NARROW}{shown}"


def languages_table(results: Results, metric: str = "lf", title: str = "LF") -> str:
    """One row per language, one column per system (image prompts), in per cent with range or interval."""
    values = per_language(headline(results.fidelity, results.chosen), metric)
    codes = language_order(values["language"], results.held_out)
    names = language_names(codes)
    cells = values.set_index(["language", "system"])[["value", "low", "high"]]
    systems = list(values["system"].unique())
    rows = [
        [
            names[code] + ("*" if code in results.held_out else ""),
            *(per_cent(*cells.loc[(code, system)], digits=0) for system in systems),
        ]
        for code in codes
    ]
    spread = _seeds(results) if results.seeds > 1 else "one seed [95 % interval over images]"
    star = "; * absent from the text rows" if results.held_out else ""
    return table(["language", *systems], rows, f"{title} on image prompts by language, per cent; {spread}{star}")


def costs_table(folders: dict[str, Path]) -> str:
    """Per run folder: median and range of the seconds and the largest peak of memory of every unit, in stage order.

    ``folders`` maps a label to a run folder or to a folder of seeds.
    """
    parts = [_costs(label, manifests(folder)) for label, folder in folders.items()]
    return "\n".join(part for part in parts if part) or "No run with manifests was found when this book was built.\n"


def _costs(label: str, records: list[dict[str, Any]]) -> str:
    if not records:
        return ""
    rows, total, stages = [], 0.0, list(settings.stage_classes())
    arms = system_order(_arm(record["unit"]) for record in records)
    place = {arm: number for number, arm in enumerate(arms)}
    units = {record["unit"]: record for record in records}
    for unit in sorted(units, key=lambda unit: (stages.index(units[unit]["stage"]), place[_arm(unit)])):
        same = [record for record in records if record["unit"] == unit]
        seconds = [record["seconds"] for record in same]
        peaks = [record["peak_memory_mb"] for record in same if record.get("peak_memory_mb") is not None]
        spread = f" [{min(seconds):.0f}, {max(seconds):.0f}]" if len(same) > 1 else ""
        total += median(seconds)
        rows.append([unit, f"{median(seconds):.0f}{spread}", f"{max(peaks):.0f}" if peaks else UNDEFINED])
    rows.append(["one after another", f"{total:.0f}", UNDEFINED])
    machines = {record.get("accelerator") or record.get("processor") or UNDEFINED for record in records}
    threads = {record.get("threads", "?") for record in records}
    with_threads = f"{', '.join(map(str, sorted(threads, key=str)))} thread(s) each"
    title = f"Cost of every unit: {label}; {', '.join(sorted(machines))}, {with_threads}"
    return table(["unit", "seconds, median [range]", "peak memory, MB"], rows, title)


def _arm(unit: str) -> str:
    """``"TR"`` of ``"tune[TR]"``, empty for a stage that runs once."""
    return unit.partition("[")[2].rstrip("]")


def status_page(folders: dict[str, Path]) -> str:
    """When, where and with which versions each run was made, a column each."""
    told = {}
    for label, folder in folders.items():
        if not (records := manifests(folder)):
            continue
        last = records[-1]
        told[label] = {
            "profile": last.get("profile", UNDEFINED),
            "units": len(records),
            "seconds of all": f"{sum(record['seconds'] for record in records):.0f}",
            "first started": min(record["started"] for record in records)[:19].replace("T", " "),
            "system": f"{last.get('system', UNDEFINED)}, {last.get('cores')} cores",
            "processor": last.get("processor") or UNDEFINED,
            "accelerator": last.get("accelerator") or "none",
            "Python": last.get("python", UNDEFINED),
            "commit": f"{(last.get('git_commit') or UNDEFINED)[:12]}{' and changes' if last.get('git_dirty') else ''}",
        } | {name: version for name, version in last.get("versions", {}).items() if version}
    if not told:
        return "No run with manifests was found when this book was built.\n"
    names = dict.fromkeys(name for facts in told.values() for name in facts)
    return table(["what", *told], [[name, *(facts.get(name, UNDEFINED) for facts in told.values())] for name in names])


def published_page() -> str:
    """Published fidelity of released models, and how it was measured."""
    nothing = pd.DataFrame(columns=["system", "lambda", "language", "arm", "n", "lf"])
    found = published.beside(nothing)
    sizes = {name: len(codes) for name, codes in published.groups().items()}
    heads = {"model": "model", "all": "all {}", "seen": "Salamandra's {}", "unseen": "the other {}"}
    rows = [[UNDEFINED if pd.isna(row[column]) else row[column] for column in heads] for _, row in found.iterrows()]
    header = [head.format(sizes.get(column)) for column, head in heads.items()]
    shown = table(header, rows, "Mean LF on Crossmodal-3600 by number of languages, per cent, as published")
    return shown + "\n" + "\n".join(f"- {escaped(line)}" for line in published.conditions()) + "\n"


def real_models_page(results: Path) -> str:
    """Tables of the answers of published models (``bench/real_vlms.py``) and of the identifiers that may judge them
    (``bench/identifiers.py``), from ``results/real_vlms`` and ``results/identifiers``."""
    vlms, identifiers = results / "real_vlms", results / "identifiers" / "summary.csv"
    if not (vlms / "fidelity.csv").is_file() or not identifiers.is_file():
        return "The tables were not at hand when this book was built; `python bench/real_vlms.py` makes them.\n"
    found = pd.read_csv(vlms / "fidelity.csv")
    other = found[found["language"] != "en"]
    asked = language_order(other["language"].unique())
    means = other.groupby("system")[["lf", "english"]].mean().sort_values("lf")
    cell = {(row.system, row.language): f"{row.lf:.0f} ({row.english:.0f})" for row in other.itertuples()}
    rows = [
        [name, f"{mean.lf:.0f} ({mean.english:.0f})", *(cell.get((name, code), UNDEFINED) for code in asked)]
        for name, mean in means.iterrows()
    ]
    parts = [table(["model", "mean", *(Language.get(code).display_name() for code in asked)], rows,
                   "LF, and English instead in parentheses, per cent of the answers that were scored")]  # fmt: skip
    judged = pd.read_csv(vlms / "judge.csv").dropna(subset=["score_english"])
    rows = [[row.system, int(row.n_asked), f"{row.score_asked:.2f}", int(row.n_english), f"{row.score_english:.2f}"]
            for row in judged.itertuples()]  # fmt: skip
    head = ["model", "answers in the asked language", "mean score", "answers in English", "mean score"]
    parts.append(table(head, rows, "What the judge of these answers gave them, 1 to 5, whatever their language"))
    reverse = pd.read_csv(vlms / "reverse.csv")
    strayed = reverse[reverse["system"].isin(reverse.loc[reverse["answered"] != "en", "system"])]
    rows = [[row.system, row.answered, row.answers] for row in strayed.itertuples()]
    title = "Questions in English that were not all answered in it"
    parts.append(table(["model", "answered in", "answers"], rows, title))
    seen = pd.read_csv(vlms / "identifiers.csv").groupby("identifier", sort=False)["agreement"].mean()
    measured, lengths = pd.read_csv(identifiers), ("paragraph", "sentence", "phrase")
    rows = []
    for name, group in measured.groupby("identifier", sort=False):
        right = {row.length: per_cent(row.right, row.low, row.high) for row in group.itertuples()}
        sentence = group.set_index("length").loc["sentence"]
        real = f"{seen[name]:.1f}" if name in seen.index else UNDEFINED
        wrong = per_cent(sentence["undecided"]), per_cent(sentence["english"])
        rows.append([name.replace(",", " + "), *(right[length] for length in lengths), *wrong, real])
    head = ["identifier", *lengths, "undecided", "called English", "as the default, on answers"]
    title = (
        "Identifiers on the 36 languages: right, macro mean in per cent with 95 % bounds; errors at sentence length"
    )
    return "\n".join([*parts, table(head, rows, title)])


def backbone_note() -> str:
    """What stands on the page of ``00_backbone`` where no run has executed it: the scores of the shipped product."""
    made = json.loads((assets.FOLDER / assets.MANIFEST).read_text(encoding="utf-8"))
    held_out = pd.DataFrame(made["held_out"]["llm"]).set_index(["language", "arm"])[["asked", "english", "exact"]]
    by_arm = held_out.unstack("arm").swaplevel(axis=1)
    shown = [("text", "asked"), ("text", "exact"), ("text_en", "asked"), ("text_en", "english"), ("text_en", "exact")]
    names = language_names(by_arm.index)
    rows = [
        [names[code], *map(per_cent, row)] for code, row in zip(by_arm.index, by_arm[shown].to_numpy(), strict=True)
    ]
    head = ["language", "text: asked", "right", "English text: asked", "in English", "right"]
    title = "The shipped language model before any picture, on unseen scenes: in which language, and right, per cent"
    scores = table(head, rows, title)
    return (
        "```{admonition} Not executed here\n:class: note\n\n"
        "This stage is no part of a normal run: what it made is shipped with the package, and the scores below are "
        f"those of the shipped files.\nTo train them again: `{made['rebuild']}`.\n```\n\n{scores}\n"
        f"{_questions(made['held_out']['questions'])}\n"
        f"The shipped tower names every attribute of {per_cent(made['held_out']['tower']['all'])} % of the scenes "
        "that it has not seen.\n"
    )


def _questions(rows: list[dict[str, Any]]) -> str:
    """One sentence: of each kind of question about text, the share that the untuned model answers right."""
    right = pd.DataFrame(rows).groupby("kind")["right"].mean().sort_values(ascending=False)
    listed = ", ".join(f"{kind} {per_cent(share)}" for kind, share in right.items())
    return f"Questions about scenes told in the asked language, right in per cent, mean over languages: {listed}."


def account_page(results: Results | None) -> str:
    """Which predictions of the account held, by the mechanism study of every seed, and by how much."""
    paths = sorted(results.folder.rglob("mechanism/verdicts.csv")) if results else []
    if not paths:
        return "No study of the mechanism was at hand when this book was built; `make reproduce` makes one.\n"
    found, rows = pd.concat(map(pd.read_csv, paths)), []
    for one, (_, runs) in zip(predictions.looked(found).each, found.groupby("prediction", sort=False), strict=True):
        more, less = runs[["measured", "against"]].mean()
        told = (f"{100 * more:.0f} %", f"{100 * less:.0f} %") if more <= 1 else (f"{more:.0f}", f"{less:.0f}")
        rows.append([f"{predictions.SIGNS[one.verdict]}{NARROW}{one.verdict}", one.said, *told, one.measured])
    title = (
        f"Answers that begin in English, mean over {len(paths)} run(s); of the movement its length, in units of the "
        "hidden state"
    )
    return table(["verdict", "predicted", "the larger", "the smaller", "how often"], rows, title)


def manifests(folder: Path) -> list[dict[str, Any]]:
    """The manifests below a run folder, or below the ``seed-*`` folders of a results folder, oldest first."""
    records = []
    for path in sorted(folder.rglob("manifest.json")):
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue  # its page says that it is damaged
        records += [record] if isinstance(record, dict) and {"unit", "started", "seconds"} <= record.keys() else []
    return sorted(records, key=lambda record: record["started"])


def _seeds(results: Results) -> str:
    return f"mean [range] over {results.seeds} seeds" if results.seeds > 1 else "one seed"
