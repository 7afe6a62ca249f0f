"""Several systems asked about one picture, side by side: the work of ``textreg ask``.

Without a model named these are the systems that the package ships, one seed of the laptop profile, with a picture to
ask about; so the loss and its cure can be seen seconds after the install.  Not obvious: the language asked for is the
prompt's own, recognised among the prompts of the micro world first, because no identifier is sure of three words; what
the micro model has never read is said, not guessed.

Use: ``compare(asked_about(None), "Beschreibe das Bild.", SYSTEMS)``.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.table import Table
from rich.text import Text

from textreg.data.codes import code_book, named_language
from textreg.display import visible_answer
from textreg.errors import InputError
from textreg.fidelity.annotation import annotate
from textreg.fidelity.identifiers import open_identifier
from textreg.micro import assets
from textreg.scenes import grammar, languages
from textreg.serve.written import without_points
from textreg.vlm import systems
from textreg.vlm.assembly import read_base

SYSTEMS = Path(__file__).parent / "shipped"
SAMPLE = SYSTEMS / "sample.png"


@dataclass(frozen=True)
class Asked:
    """A picture, and the JSON of its scene where that is known (of the shipped one it is)."""

    picture: Path
    scene: str = ""


def asked_about(picture: Path | None) -> Asked:
    """The picture to ask about; None is the shipped one."""
    if picture is not None:
        return Asked(picture)
    about = SAMPLE.with_suffix(".json")
    if not (SAMPLE.is_file() and about.is_file()):
        raise InputError(f"{SAMPLE} is missing; name a picture, or install the package again")
    return Asked(SAMPLE, json.loads(about.read_text(encoding="utf-8"))["scene"])


def prompt_language(prompt: str) -> str:
    """Code of the language of a prompt: of the micro world's prompts where it is one, else as identified."""
    text = prompt.strip()
    for code in languages.codes():
        if text in languages.load(code).prompts:
            return code
    return open_identifier("py3langid", candidates=code_book()).identify([text])[0].code


def compare(
    asked: Asked, prompt: str, run: str | Path, names: list[str] | None = None, language: str = "", length: int = 64
) -> pd.DataFrame:
    """``system, answer, class, lf_plus, content, foreign``: what each system of a run says, and what it is.

    ``foreign`` are the words that the asked language's grammar does not know, of languages that have one; ``content``
    is missing where the scene is not known.
    """
    code = named_language(language) if language else prompt_language(prompt)
    told = systems.ask_systems(asked.picture, prompt, run, names, length)
    table = pd.DataFrame({"system": list(told), "answer": list(told.values())})
    table = table.assign(language=code, task="caption", prompt=prompt)
    table["reference"] = json.dumps([asked.scene]) if asked.scene else None
    judged = annotate(table, open_identifier("py3langid", candidates=code_book()), "exact")
    judged["foreign"] = [", ".join(foreign_words(answer, code)) for answer in judged["answer"]]
    return judged[["system", "answer", "class", "lf_plus", "content", "foreign", "language"]]


def foreign_words(answer: str, code: str) -> list[str]:
    """Words of an answer that are none of the language's closed word list; empty for a language without one."""
    if code not in languages.codes():
        return []
    own = grammar.words(code)
    return list(dict.fromkeys(word for word in grammar.split_words(answer) if word not in own))


def unread(code: str, run: str | Path) -> str:
    """A sentence if the micro model of a run has never read this language; empty otherwise."""
    base = read_base(Path(run) / "align")
    if not assets.is_shipped(base.llm):
        return ""
    known = assets.check(assets.WEIGHTS / base.llm)["settings"]["languages"]
    if code in known:
        return ""
    book = code_book()
    name = book[code].name if code in book else code
    return f"the prompt looks like {name}, which this model has never read; it knows {', '.join(known)}"


def spoken(answer: str) -> str:
    """The language of one answer in words: its code, or what identifiers that disagree say."""
    label = open_identifier().identify([without_points(answer)])[0]
    return label.code + (f" ({' or '.join(label.votes)})" if label.votes else "")


def show(table: pd.DataFrame, note: str = "") -> None:
    """Print the answers side by side, foreign words marked, and what each answer is."""
    shown = Table("system", "answer", "class", "LF+", "right", box=None, pad_edge=False)
    signs = {True: "yes", False: "no"}
    for row in table.rename(columns={"class": "kind"}).itertuples():
        answer = Text(visible_answer(row.answer))
        if words := [re.escape(word) for word in row.foreign.split(", ") if word]:
            answer.highlight_regex(rf"(?i)(?<!\w)(?:{'|'.join(words)})(?!\w)", "bold underline")
        cells = ["–" if pd.isna(value) else signs[bool(value)] for value in (row.lf_plus, row.content)]
        shown.add_row(row.system, answer, "–" if pd.isna(row.kind) else row.kind, *cells)
    console = Console()
    console.print(shown)
    foreign = {row.system: row.foreign for row in table.itertuples() if row.foreign}
    for system, words in foreign.items():
        console.print(Text(f"{system}: not words of the asked language: {visible_answer(words)}"))
    if note:
        console.print(Text(note))
