"""Answers of anyone's model, read in parts, from whatever columns hold them.

The names that lmms-eval, VLMEvalKit, LLaVA, OpenAI's batches and most people use are known (``columns.yaml``); any
other is said by ``--map answer=prediction``, also inside a record (``language=doc.lang``, ``answer=resps.0``).  Three
choices are not obvious.  Where a prediction, however it is called, stands beside ``answer``, the answer is the
reference, as in VLMEvalKit.  A list of texts is several answers.  What is no answer of the model (null, an error, a
refused or unfinished empty reply) is left out and counted by reason, neither right nor wrong; a language that nobody
can read stays as it is written, unscored.

Use: ``for table in Answers("answers.jsonl"): ...``.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.resources import files
from itertools import chain, islice
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import yaml
from pydantic import Field, TypeAdapter, ValidationError

from textreg.data.codes import named_language, suggestion
from textreg.display import well_formed
from textreg.errors import InputError, did_you_mean, quoted
from textreg.serve.sources import rows

PART = 20_000  # rows per table
LOOKED_AT = 100  # rows from which the columns are chosen
SHOWN = 3
TABLES: dict[str, Any] = yaml.safe_load(files(__package__).joinpath("columns.yaml").read_text("utf-8"))
KNOWN, SAID, THOUGHTS, STOPPED = (TABLES[name] for name in ("known", "said", "thoughts", "stopped"))
NUMBERS: dict[str, TypeAdapter[Any]] = {
    "seed": TypeAdapter(Annotated[int, Field(ge=-(2**63), lt=2**63)]), "lambda": TypeAdapter(float)
}  # fmt: skip
FAULTS = ("error", "response.body.error", "result.error")  # where an error of the server is told
FAULTY = frozenset(name for place in FAULTS for name in (place, place.split(".")[0]))
COLUMNS = ("answer", "language", "seed", "lambda", "system", "arm", "item_id", "task", "prompt", "reference")


def read_map(words: Iterable[str]) -> dict[str, str]:
    """``["answer=prediction"]`` -> column -> where it is; InputError for anything else."""
    chosen = {}
    for word in words:
        column, sign, place = word.partition("=")
        if not sign or not place or column not in KNOWN:
            raise InputError(
                f"--map {word!r}: expected COLUMN=NAME, such as answer=prediction{did_you_mean(column, KNOWN)}"
            )
        if column in chosen:
            raise InputError(f"--map {word!r}: {column} is {chosen[column]!r} already; name one place")
        chosen[column] = place
    return chosen


class Answers:
    """A file of answers: an iterator over tables of at most ``size`` rows with the columns that the file has.

    ``language``: of the rows that name none.  After reading, ``taken`` says what was read from where, ``bad`` counts
    the broken rows (``skip_bad``; else the first raises), ``left_out`` what was no answer, by reason, and ``unread``
    languages that could not be read.  Raises InputError for a missing or unreadable file, missing columns, a bad row
    (with its place) and a file without a usable row.
    """

    def __init__(
        self, path: str | Path, places: Mapping[str, str] | None = None, language: str = "", skip_bad: bool = False,
        size: int = PART,
    ):  # fmt: skip
        self.path, self.size, self.skip_bad = Path(path), size, skip_bad
        self.language = named_language(language) if language else ""
        self.places = dict(places or {})
        self.taken, self.count, self.bad, self.first_bad = "", 0, 0, list[str]()
        self.left_out, self.unread = Counter[str](), Counter[str]()

    def __iter__(self) -> Iterator[pd.DataFrame]:
        good = self._checked()
        columns: list[str] = []
        while part := list(islice(good, self.size)):
            self.count += len(part)
            columns = columns or [name for name in COLUMNS if any(name in row for row in part)]
            yield pd.DataFrame.from_records(part, columns=columns)
        if not columns:
            why = f"; all {self.bad} rows are bad, the first: {self.first_bad[0]}" if self.bad else ""
            why += "".join(f"; {count} rows left out: {reason}" for reason, count in self.left_out.items())
            raise InputError(f"{self.path}: no answers in it{why}")
        if self.unread.total() == self.count:
            first = next(iter(self.unread))
            raise InputError(
                f"{self.path}: no row names a language that can be read, the first: {quoted(first)}{suggestion(first)}"
            )

    def _checked(self) -> Iterator[dict[str, Any]]:
        source = rows(self.path, self._wanted)
        head = list(islice(source, LOOKED_AT))
        if head and self.path.is_dir() and (file := head[0][0].rpartition(", ")[0]):
            self.taken = f"of the folder, only the files *{''.join(Path(file).suffixes[-2:])} were read "
        while not any(isinstance(row, dict) for _, row in head) and (more := list(islice(source, LOOKED_AT))):
            head += more
        if found := [row for _, row in head if isinstance(row, dict)]:
            self._choose(found)
        for where, row in chain(head, source):
            try:
                yield from self._read(row)
            except InputError as failure:
                message = f"{self.path}, {where}: {failure}"
                if not self.skip_bad:
                    raise InputError(f"{message} (--skip-bad leaves such rows out)") from None
                self.bad += 1
                self.first_bad += [message] if len(self.first_bad) < SHOWN else []

    def _wanted(self, names: Sequence[str]) -> bool:
        """Whether a table with these columns has answers and their language."""
        asked = ("answer",) if self.language else ("answer", "language")
        ways = ([[self.places[c]]] if c in self.places else _ways(c, dict.fromkeys(names)) for c in asked)
        return all(any(name in names for way in found for name in way) for found in ways)

    def _choose(self, head: list[dict]) -> None:
        """Decide where each column is, from the first rows."""
        known: dict[str, Any] = {}
        count = Counter(name for row in head for name in row)
        for row in head:
            known |= {name: value for name, value in row.items() if known.get(name) is None}
        prompts = ["system"] * all(len(str(row.get("system", "")).split()) > 4 for row in head)  # it names no model
        for column in KNOWN:
            if column in self.places:
                place = self.places[column]
                if place not in known and all(at(row, place) is None for row in head):
                    raise InputError(
                        f"{self.path}: --map {column}={place}: no {place!r} in it{did_you_mean(place, known)}"
                    )
                continue
            taken = {*self.places.values(), *prompts}
            ways = [[name for name in way if name not in taken] for way in _ways(column, known)]
            often = {name: count[name if name in count else name.split(".")[0]] for name in chain(*ways)}
            for way in ways:
                free = [name for name in way if 3 * often[name] >= 2 * max(often.values()) > 0]
                held = {name: sum(_holds(at(row, name)) for row in head) for name in free}
                here = [name for name in free if 3 * held[name] >= 2 * max(held.values()) > 0]
                if here := here or [name for name in free if name in known]:
                    self.places[column] = here[0]
                    break
        for column in ("answer", "language"):
            if column not in self.places and not (column == "language" and self.language):
                more = " or name the language of all by --language CODE" if column == "language" else ""
                raise InputError(
                    f"{self.path}: column {column!r} is missing{did_you_mean(column, known)}; say where it is by "
                    f"--map {column}=NAME{more}"
                )
        told = [f"{column} from {quoted(self.places[column])}" for column in COLUMNS if column in self.places]
        ours = all(self.places.get(column, column) == column for column in COLUMNS)
        self.taken += "" if ours else f"taken: {', '.join(told)}"

    def _read(self, row: dict | str) -> Iterator[dict[str, Any]]:
        if isinstance(row, str):
            raise InputError(row)
        value = {column: at(row, place) for column, place in self.places.items()}
        for column in ("answer", "language"):
            place = self.places.get(column, "")
            lacking = place and value.get(column) is None and not {place, place.split(".")[0]} & set(row)
            if lacking and (column == "answer" or not self.language):
                if _failed(row):
                    self.left_out["an error"] += 1
                    return
                raise InputError(f"no {place!r} in it{did_you_mean(place, row)}")
        checked = {"language": self._language(value.get("language"))}
        for name in ("system", "arm", "item_id", "task", "prompt", "reference"):
            if value.get(name) not in (None, "") and value[name] == value[name]:
                checked[name] = _text(value[name])
        for name in NUMBERS:
            if value.get(name) not in (None, ""):
                checked[name] = _number(value[name], name)
        said = value["answer"]
        if isinstance(said, str) and said[:2] == "[{" and self.places["answer"] in TABLES["turns"]:
            raise InputError("a conversation as one text, in which nobody can tell turns; write it as JSON lines")
        for answer in _texts(said):
            reason = _no_answer(answer, value, row)
            if reason:
                self.left_out[reason] += 1
            else:
                yield {"answer": well_formed(answer), **checked}

    def _language(self, value: object) -> str:
        if (value is None or value == "") and self.language:
            return self.language
        if not isinstance(value, str) or not value.strip():
            raise InputError(f"unknown language code {quoted(value, 40)}; it should be a tag, a code or a name")
        try:
            return named_language(value)
        except InputError:
            written = well_formed(value.strip())[:40]
            self.unread[written] += 1
            return written

    def notes(self) -> list[str]:
        """What a user should know of the reading, in sentences."""
        said = [self.taken.strip()] if self.taken else []
        if self.bad:
            said.append(f"bad rows left out: {self.bad}; the first: {'; '.join(self.first_bad)}")
        said += [f"left out, because it is no answer ({reason}): {count}" for reason, count in self.left_out.items()]
        for written, count in self.unread.most_common(SHOWN):
            said.append(
                f"{quoted(written)} is no language that could be read{suggestion(written)}: {count} answers not scored"
            )
        if len(self.unread) > SHOWN:
            said.append(f"{len(self.unread) - SHOWN} more words are no languages")
        return said


def _ways(column: str, known: Mapping[str, Any]) -> Iterator[list[str]]:
    """Where a column may be among ``known`` (name -> a value), the surest places first; answers have a second list."""
    spelled = {_words(name): name for name in known}
    needed, others = map(set, TABLES["made_of"].get(column, ((), ())))
    made = [name for words, name in spelled.items() if needed & {*words} and needed | others >= {*words}]
    made = [name for name in made if not isinstance(known[name], int | float)]
    for names in ((*KNOWN[column], *made), TABLES["else"] if column == "answer" else ()):
        yield [name if name in known else spelled.get(_words(name), name) for name in names]


def _words(name: str) -> tuple[str, ...]:
    return tuple(word.lower() for word in re.findall("[A-Z]?[a-z]+|[A-Z]+|[0-9]+", name))


def _holds(value: Any) -> bool:
    return value is not None and not (isinstance(value, dict) and not value.keys() & set(SAID))


def _failed(row: dict, kinds: type = object) -> bool:
    if FAULTY.isdisjoint(row):
        return False
    found = (at(row, place) for place in FAULTS)
    return any(error and isinstance(error, kinds) and str(error).lower() not in TABLES["no_error"] for error in found)


def at(row: Any, place: str) -> Any:
    """The value at ``doc.lang`` or ``resps.0``; None where there is none.  A name with a dot in it goes first."""
    if isinstance(row, dict) and place in row:
        return row[place]
    for part in place.split(".") if "." in place else ():
        if isinstance(row, list) and part.isdecimal() and int(part) < len(row):
            row = row[int(part)]
        elif isinstance(row, dict):
            row = row.get(part)
        else:
            return None
    return row if "." in place else None


def _texts(value: object) -> list[str | None]:
    """Answers in one cell: a text, a number as text, a list of these in whatever lists, parts of a message, the last
    turn of a conversation that is the model's."""
    if value is None or isinstance(value, str) or (isinstance(value, float) and math.isnan(value)):
        return [value if isinstance(value, str) else None]
    if isinstance(value, int | float):
        return [str(value)]
    if isinstance(value, dict) and value.keys() & set(SAID):
        return _texts(next((value[name] for name in SAID if value.get(name) is not None), None))
    if isinstance(value, list) and value and all(isinstance(part, dict) for part in value):
        turns = [part for part in value if isinstance(part.get("role", part.get("from")), str)]
        said = [turn for turn in turns if turn.get("role", turn.get("from")).lower() in TABLES["speakers"]]
        if turns:
            return _texts(said[-1].get("content", said[-1].get("value"))) if said else [None]
        kept = [part for part in value if not (part.get("thought") or part.get("type") in THOUGHTS)]
        told = [part.get("text", part.get("refusal")) for part in kept]
        parts = [part for part in told if isinstance(part, str)]
        if parts:  # of one message, unless they are numbered
            return parts if all("index" in part for part in value) else ["".join(parts)]
    if isinstance(value, list) and value:
        return [text for part in value for text in _texts(part)]
    if isinstance(value, list):
        return [None]
    raise InputError(f"'answer' should be text, not {quoted(value, 40)}; --map answer=NAME.KEY says what inside it is")


def _no_answer(answer: str | None, value: Mapping[str, Any], row: dict) -> str:
    """Why a row holds no answer of the model; '' if it does."""
    if answer is None or not answer.strip():
        if _failed(row):
            return "an error"
        finish, said = value.get("finish"), value["answer"] if isinstance(value["answer"], dict) else {}
        if isinstance(finish, str) and finish.lower() not in STOPPED:
            return f"empty, finish reason {quoted(finish, 40)}"
        unsaid = (why for name, why in TABLES["unsaid"].items() if said.get(name))
        return next(unsaid, "null" if answer is None else "")
    failed = answer.startswith("Failed to obtain answer via API")  # as VLMEvalKit writes it
    return "an error" if failed or _failed(row, dict | str) else ""


def _text(value: object) -> str:
    return well_formed(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str))


def _number(value: object, name: str) -> int | float:
    """A seed or a lambda; raises InputError for what only Python takes for that number (true, 1.7 as 1, infinity).

    A lambda that is NaN, which tables write where there is none, stays NaN; ``42.0`` is the seed 42.
    """
    try:
        number = NUMBERS[name].validate_python(value)
    except ValidationError:
        number = math.inf
    if isinstance(value, bool) or math.isinf(number):
        wanted = "a whole number below 2**63" if name == "seed" else "a finite number"
        raise InputError(f"{name!r} should be {wanted}, not {quoted(value, 40)}")
    return number
