"""Generated parts of the book: tables of results, figures, costs and versions, as MyST Markdown.

Pages under ``book/`` hold words; every measured number comes from here, read from result files and manifests when the
book is built.  Tables are ``csv-table`` directives with escaped cells, so that a bar, a bracket or markup stays text.
Pure functions: folders in, Markdown out; :mod:`textreg.book` writes the files.
"""

import csv
import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from textreg import claims, published
from textreg.figure_data import Results, headline, macro, per_language, visual_accuracy
from textreg.figure_marks import language_names, language_order

UNDEFINED = "–"


def table(header: Sequence[str], rows: Iterable[Sequence[Any]], title: str = "") -> str:
    """A MyST ``csv-table``; cells are escaped, so that nothing in them is read as markup."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL)
    writer.writerow([escaped(cell) for cell in header])
    writer.writerows([escaped(cell) for cell in row] for row in rows)
    return f"````{{csv-table}} {title}\n:header-rows: 1\n\n{text.getvalue()}````\n"


def escaped(cell: Any) -> str:
    """Text of a table cell without Markdown or HTML meaning, on one line."""
    text = " ".join(str(cell).split())
    for sign in "\\`*_{}[]<>#|$&":
        text = text.replace(sign, "\\" + sign)
    return text


def per_cent(value: float, low: float = float("nan"), high: float = float("nan")) -> str:
    """``"96.1"`` or ``"96.1 [95.0, 97.2]"``; undefined values are a dash."""
    if pd.isna(value):
        return UNDEFINED
    interval = "" if pd.isna(low) or pd.isna(high) else f" [{100 * low:.1f}, {100 * high:.1f}]"
    return f"{100 * value:.1f}{interval}"


def systems_table(results: Results) -> str:
    """LF, LF+, GF, LF of the text arm, English captions and questions right, and IFL of every system, in per cent."""
    fidelity = headline(results.fidelity, results.chosen)
    columns = {
        "LF": macro(fidelity, "lf"),
        "LF+": macro(fidelity, "lf_plus"),
        "GF": macro(fidelity, "grounded"),
        "LF, text arm": macro(fidelity, "lf", "text"),
        "captions, English": visual_accuracy(headline(results.visual, results.chosen)),
        "questions, English": visual_accuracy(headline(results.visual, results.chosen), questions=True),
    }
    columns = {name: rows.set_index("system") for name, rows in columns.items() if len(rows)}
    rows = []
    for system in fidelity["system"].unique():
        found = {name: values.loc[system] for name, values in columns.items() if system in values.index}
        cells = {name: per_cent(row["value"], row["low"], row["high"]) for name, row in found.items()}
        text, image = found.get("LF, text arm"), found["LF"]
        loss = UNDEFINED if text is None else per_cent(text["value"] - image["value"])
        rows.append([system, *(cells.get(name, UNDEFINED) for name in columns), loss])
    title = f"Systems, per cent; {_seeds(results)}"
    return table(["system", *columns, "IFL"], rows, title)


def claims_table(results: Results, path: Path) -> str:
    """Each claim of the claims file with what was measured, misses included."""
    words = {True: "met", False: "MISSED", None: "undefined"}
    found = claims.check(results, claims.load(path))
    rows = [[row.claim, row.origin, row.bound, per_cent(row.value), words[row.met]] for row in found.itertuples()]
    met = sum(row.met is True for row in found.itertuples())
    title = f"Claims: {met} of {len(found)} met; per cent, differences in points"
    return table(["claim", "whose", "written down before", "measured", "verdict"], rows, title)


def languages_table(results: Results, metric: str = "lf", title: str = "LF") -> str:
    """One row per language, one column per system (image prompts), in per cent."""
    values = per_language(headline(results.fidelity, results.chosen), metric)
    codes = language_order(values["language"])
    names = language_names(codes)
    wide = values.pivot(index="language", columns="system", values="value").reindex(codes)
    systems = [system for system in values["system"].unique() if system in wide]
    rows = [[names[code], *(per_cent(wide.loc[code, system]) for system in systems)] for code in codes]
    return table(["language", *systems], rows, f"{title} on image prompts by language, per cent; {_seeds(results)}")


def results_page(results: Results, figures: Path, origin: str, figure_path: str, promised: Path | None = None) -> str:
    """Tables and figures of one results folder under a heading that says where the numbers come from.

    ``figures`` holds the saved drawings; ``figure_path`` is that folder as the page sees it.  ``promised`` is the file
    of claims to hold the results to, if they are meant to show them.
    """
    parts = [f"## {origin}\n", systems_table(results)]
    parts += [claims_table(results, promised)] if promised else []
    parts.append(languages_table(results))
    parts.append(languages_table(results, "lf_plus", "LF+"))
    drawings = sorted(figures.glob("*.svg"), key=lambda path: (len(path.stem.partition("_")[0]), path.stem))
    parts += [figure(path, f"{figure_path}/{path.name}") for path in drawings]
    return "\n".join(parts)


def figure(path: Path, shown: str) -> str:
    """A MyST figure with the alternative text that was saved beside the drawing."""
    about = json.loads(path.with_name(f"{path.stem}.json").read_text(encoding="utf-8"))
    alt = about["alt"].replace("\n", " ")
    return f"```{{figure}} {shown}\n:alt: {alt}\n:width: 100%\n\n{escaped(alt)}\n```\n"


def costs_table(folders: dict[str, Path]) -> str:
    """Seconds and peak memory of every unit, from the manifests; ``folders`` maps a label to a run folder."""
    rows = []
    for label, folder in folders.items():
        for record in manifests(folder):
            memory = record.get("peak_memory_mb")
            machine = record.get("accelerator") or record.get("processor") or UNDEFINED
            rows.append(
                [
                    label,
                    record["unit"],
                    f"{record['seconds']:.0f}",
                    UNDEFINED if memory is None else f"{memory:.0f}",
                    f"{machine}, {record.get('threads', '?')} thread(s)",
                ]
            )
    if not rows:
        return "No run with manifests was found when this book was built.\n"
    return table(["run", "unit", "seconds", "peak memory (MB)", "machine"], rows, "Cost of every unit, as run")


def status_page(folders: dict[str, Path]) -> str:
    """When, where and with which versions each run was made."""
    parts = []
    for label, folder in folders.items():
        records = manifests(folder)
        if not records:
            continue
        last = records[-1]
        versions = {name: version for name, version in last.get("versions", {}).items() if version}
        rows = [
            ["profile", last.get("profile", UNDEFINED)],
            ["units", len(records)],
            ["time", f"{sum(record['seconds'] for record in records):.0f} s, summed over units"],
            ["first started", min(record["started"] for record in records)],
            [
                "system",
                f"{last.get('system', UNDEFINED)}, {last.get('processor') or UNDEFINED}, {last.get('cores')} cores",
            ],
            ["accelerator", last.get("accelerator") or "none"],
            ["Python", last.get("python", UNDEFINED)],
            [
                "commit",
                f"{last.get('git_commit') or UNDEFINED}{' and uncommitted changes' if last.get('git_dirty') else ''}",
            ],
            *([name, version] for name, version in versions.items()),
        ]
        parts += [f"## {label}\n", table(["what", "value"], rows)]
    return "\n".join(parts) or "No run with manifests was found when this book was built.\n"


def published_page() -> str:
    """Published fidelity of released models, and why it is not the same measurement as ours."""
    nothing = pd.DataFrame(columns=["system", "lambda", "language", "arm", "n", "lf"])
    found = published.beside(nothing)
    columns = [column for column in found.columns if column not in ("source", "n")]
    rows = [[UNDEFINED if pd.isna(row[column]) else row[column] for column in columns] for _, row in found.iterrows()]
    shown = table(columns, rows, "Mean LF on Crossmodal-3600, per cent, as published")
    return shown + "\n" + "\n".join(f"- {escaped(caveat)}" for caveat in published.caveats()) + "\n"


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
