"""Judges of language fidelity: is an answer in the asked language throughout, with nothing mixed in?

A judge is a function from (prompt, answer, language) rows to verdicts; where a scene's grammar can judge, ``annotate``
asks it itself.  :class:`LLMJudge` asks a language model at any OpenAI-compatible endpoint, with a rubric of our own
(``prompts/judge_*.jinja``, the counterparts of the paper's Figs. 4 and 5, whose wording is not known to us).
Three choices are not obvious.  The answer reaches the model as a JSON string without ``<`` and ``>``, so it can
neither close its quotes nor spell a chat template's special tokens.  The verdict is three flags under a strict schema;
what does not fit is asked again and in the end undecided, so no answer can move a verdict out of its form.  Verdicts
are kept in a journal by model, rubric, language and answer; equal answers are judged once.

Use: ``LLMJudge(Service("http://localhost:8000/v1", "judge"), "verdicts.jsonl")(rows)``.
"""

import hashlib
import json
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from importlib.resources import files
from math import isnan
from pathlib import Path

import pandas as pd
from jinja2 import Environment, StrictUndefined
from langcodes import Language
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from textreg.data.codes import read_language
from textreg.display import JOINERS, counting
from textreg.fidelity.annotation import Judge
from textreg.fidelity.service import Malformed, Service, Session, Unanswered, for_each, run_async
from textreg.files import Journal

Row = tuple[str, str, str]
MAX_CHARS = 4000
MAX_TOKENS = 200
RECORD = {"ok": bool, "reasons": str, "tokens_in": int, "tokens_out": int}  # what the journal keeps of a verdict
POINTS = ("asked_language", "unmixed", "right_script")


@dataclass(frozen=True)
class Verdict:
    """``ok``: True, False, or None where nothing could be decided; ``reasons`` in words; tokens read and written for
    it (also by an earlier run, if ``cached``)."""

    ok: bool | None
    reasons: str
    tokens_in: int = 0
    tokens_out: int = 0
    cached: bool = False


@dataclass(frozen=True)
class Price:
    """Price of a million tokens, in whatever currency the result is wanted."""

    tokens_in: float
    tokens_out: float


@dataclass(frozen=True)
class Usage:
    """What judging took: verdicts, those from the journal, those undecided, tokens and cost of the new ones (cost
    None without a price)."""

    verdicts: int
    cached: int
    undecided: int
    tokens_in: int
    tokens_out: int
    cost: float | None


@dataclass(frozen=True)
class Agreement:
    """Two judges on the ``n`` answers that both decided: accuracy 0..1, Cohen's kappa -1..1; None where undefined."""

    n: int
    accuracy: float | None
    kappa: float | None


@dataclass(frozen=True)
class LLMJudge:
    """A language model as the judge; ``journal`` keeps its verdicts (a path, made where it is missing).

    Only the first ``max_chars`` characters of an answer are judged; ``progress`` says on stderr how many are.  Calling
    it raises InputError for an unknown language, a server that is not there or refuses the key, RunError when request
    after request fails.
    """

    service: Service
    journal: str | Path
    max_chars: int = MAX_CHARS
    progress: bool = False

    def __call__(self, rows: Iterable[Row]) -> list[Verdict]:
        rows = list(rows)
        keys = [self.key(answer, language) for _, answer, language in rows]
        with Journal(self.journal, RECORD) as journal:
            pending, early = {}, set()
            for key, (_, answer, language) in zip(keys, rows, strict=True):
                if key in journal:
                    early.add(key)
                elif answer.strip():
                    pending[key] = _messages(answer[: self.max_chars], language)
            undecided = run_async(self._ask(pending, journal)) if pending else {}
            verdicts, counted = [], set()
            for key, (_, answer, _) in zip(keys, rows, strict=True):
                if not answer.strip():
                    verdicts.append(Verdict(False, "empty"))
                elif key in undecided:
                    verdicts.append(undecided[key] if key not in counted else replace(undecided[key], cached=True))
                    counted.add(key)
                else:
                    verdicts.append(
                        Verdict(**{name: journal[key][name] for name in RECORD}, cached=key in early or key in counted)
                    )
                    counted.add(key)
        return verdicts

    def key(self, answer: str, language: str) -> str:
        """What a verdict depends on: endpoint, model, rubric, language and the judged part of the answer."""
        parts = (self.service.url, self.service.model, _rubric_hash(), language, answer[: self.max_chars])
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    async def _ask(self, pending: dict[str, list[dict[str, str]]], journal: Journal) -> dict[str, Verdict]:
        undecided: dict[str, Verdict] = {}
        form = {"type": "json_schema", "json_schema": {"name": "verdict", "strict": True, "schema": schema()}}

        async with Session(self.service) as session:

            async def judge(key: str) -> None:
                try:
                    reply = await session.ask(
                        pending[key], read_verdict, temperature=0, max_tokens=MAX_TOKENS, response_format=form
                    )
                except Unanswered as failure:
                    why = f"undecided: {failure}"
                    undecided[key] = Verdict(None, why, failure.tokens_in, failure.tokens_out)
                else:
                    ok, reasons = read_verdict(reply.text)
                    kept = asdict(Verdict(ok, reasons, reply.tokens_in, reply.tokens_out))
                    journal.append(key, {name: value for name, value in kept.items() if name != "cached"})
                advance()

            with counting("verdicts", len(pending), shown=self.progress) as advance:
                await for_each(pending, judge, self.service.concurrency)
        return undecided


class Form(BaseModel):
    """What a judge must reply."""

    model_config = ConfigDict(extra="forbid", strict=True)
    asked_language: bool
    unmixed: bool
    right_script: bool
    reason: str = Field(max_length=1000)


def schema() -> dict[str, object]:
    """The JSON schema of a verdict, as it is sent to servers that can enforce one."""
    return Form.model_json_schema()


def read_verdict(text: str) -> tuple[bool, str]:
    """Verdict and reasons of a judge's reply: one JSON object of exactly the schema, at most in a code fence.

    Raises :class:`~textreg.fidelity.service.Malformed` for anything else.
    """

    text = text.strip()
    if text.startswith("```") and text.endswith("```"):
        text = text[3:-3].removeprefix("json").strip()
    try:
        form = Form.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "reply"
        raise Malformed(f"no valid verdict: {where}: {first['msg'][:100]}") from None
    failed = [point for point in POINTS if not getattr(form, point)]
    reason = " ".join(form.reason.split())
    return not failed, f"not {', '.join(failed)}: {reason}" if failed else reason


def system_prompt() -> str:
    """The rubric, as sent."""
    return _template("judge_system").render().strip()


def user_prompt(answer: str, language: str) -> str:
    """The question about one answer, as sent; ``language`` is any that ``read_language`` reads (else InputError)."""
    tag = Language.get(read_language(language))
    script = "Han" if tag.to_tag() == "zh" else tag.maximize().script_name()
    quoted = "".join(map(_harmless, json.dumps(answer, ensure_ascii=False)))
    return _template("judge_user").render(name=tag.display_name(), code=language, script=script, answer=quoted).strip()


def _harmless(character: str) -> str:
    """A character of a JSON string, escaped where it is invisible or could begin a special token."""
    if character in "<>":
        return f"\\u{ord(character):04x}"
    return character if character.isprintable() or character in JOINERS else json.dumps(character)[1:-1]


def _messages(answer: str, language: str) -> list[dict[str, str]]:
    return [{"role": "system", "content": system_prompt()}, {"role": "user", "content": user_prompt(answer, language)}]


def _source(name: str) -> str:
    return files(__package__).joinpath("prompts", f"{name}.jinja").read_text("utf-8")


@cache
def _template(name: str):

    return Environment(undefined=StrictUndefined, autoescape=False).from_string(_source(name))


@cache
def _rubric_hash() -> str:
    return hashlib.sha256((_source("judge_system") + _source("judge_user")).encode()).hexdigest()


def usage(verdicts: Sequence[Verdict], price: Price | None = None) -> Usage:
    """Count what a list of verdicts took; cached ones cost nothing again."""
    new = [verdict for verdict in verdicts if not verdict.cached]
    read, written = sum(v.tokens_in for v in new), sum(v.tokens_out for v in new)
    cost = (read * price.tokens_in + written * price.tokens_out) / 1e6 if price else None
    undecided = sum(verdict.ok is None for verdict in verdicts)
    return Usage(len(verdicts), len(verdicts) - len(new), undecided, read, written, cost)


def agreement(pairs: Sequence[tuple[bool, bool]]) -> Agreement:
    """Accuracy and Cohen's kappa of two judges on the answers that both decided.

    Kappa is undefined where both always say the same single thing.  Source of kappa: Cohen 1960, as in scikit-learn.
    """

    from sklearn.metrics import accuracy_score, cohen_kappa_score

    if not pairs:
        return Agreement(0, None, None)
    left, right = zip(*pairs, strict=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one label only: said by the None below
        kappa = float(cohen_kappa_score(left, right, labels=[False, True]))
    return Agreement(len(pairs), float(accuracy_score(left, right)), None if isnan(kappa) else kappa)


@dataclass
class Record:
    """A judge that remembers what its verdicts took; ``judge`` returns :class:`~textreg.fidelity.judges.Verdict`
    objects."""

    judge: Judge
    price: Price | None = None
    _verdicts: list[Verdict] = field(default_factory=list)
    _both: list[tuple[bool, bool]] = field(default_factory=list)

    def __call__(self, rows: Sequence[Row]) -> list[Verdict]:
        verdicts = list(self.judge(rows))
        self._verdicts += verdicts
        return verdicts

    @property
    def usage(self) -> Usage:
        """What all verdicts so far took."""
        return usage(self._verdicts, self.price)

    def compare(self, annotated: pd.DataFrame) -> None:
        """Remember verdict and grammar of the answers that have both."""
        both = annotated[annotated["judged"].notna() & annotated["parsed"].notna()]
        self._both += zip(both["judged"].tolist(), both["parsed"].tolist(), strict=True)

    @property
    def agreement(self) -> Agreement | None:
        """Accuracy and kappa against the exact judge; None where no answer has both."""
        return agreement(self._both) if self._both else None


def sentences(spent: Usage | None, agreed: Agreement | None) -> list[str]:
    """What a user should know of the judging, in whole sentences."""
    said = []
    if spent is not None:
        cost = "" if spent.cost is None else f", cost {spent.cost:.4g}"
        said.append(
            f"judge: {spent.verdicts} verdicts, {spent.cached} of them known from earlier, {spent.undecided} "
            f"undecided; {spent.tokens_in:,} tokens read, {spent.tokens_out:,} written{cost}"
        )
    if agreed is not None:
        kappa = "undefined" if agreed.kappa is None else f"{agreed.kappa:.2f}"
        said.append(
            f"judge and grammar agree on {100 * agreed.accuracy:.1f} % of {agreed.n} answers, Cohen's kappa {kappa}"
        )
    return said
