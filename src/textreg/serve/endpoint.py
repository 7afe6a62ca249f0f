"""Answers of a served model: every probe asked once, whatever happens in between, and written as ``answers.parquet``.

The server may be any that speaks OpenAI's chat protocol (``transformers serve``, vLLM, SGLang, llama.cpp, a paid
service).  Two choices are not obvious.  Each answer goes to a journal at once, under a hash of everything it depends
on (address, model, generation arguments, prompt, image), so a second run asks only for what is missing and a changed
argument is a new question.  A request that fails for good stays out of the table and is counted: it is neither right
nor wrong.  Decoding is greedy (temperature 0).

Use: ``evaluate(Service("http://localhost:8000/v1", "my-vlm"), scene_set(), Path("runs/my-vlm"))``.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd

from textreg.data.images import data_url
from textreg.data.requests import IMAGE_TURN
from textreg.display import counting
from textreg.errors import InputError, RunError, quoted
from textreg.fidelity.service import SILENT, PictureTooLarge, Service, Session, Unanswered, for_each, run_async
from textreg.files import Journal, atomic_write
from textreg.serve.answers import STOPPED, THOUGHTS, at
from textreg.serve.probes import LONGEST, Probe, ProbeSet, png

JOURNAL = "answers.jsonl"
ANSWERS = "answers.parquet"
RECORD = {"answer": str, "finish": str, "tokens_in": int, "tokens_out": int}  # what the journal keeps of an answer
MAX_TOKENS = 64
SMALLER = 336  # pixels: longest side of a picture that is sent again because the server refused it for its size
AS_SERVED = 1.0  # the merge coefficient of a model that nobody merged here


@dataclass(frozen=True)
class Evaluation:
    """Where the answers are and how they came: newly ``asked``, ``kept`` from earlier, ``unanswered`` (reason ->
    requests), ``cut`` off by the token limit, tokens of all answers in the table, ``notes`` for the user."""

    answers: Path
    asked: int
    kept: int
    unanswered: Mapping[str, int]
    cut: int
    tokens_in: int
    tokens_out: int
    notes: tuple[str, ...] = ()


def evaluate(
    service: Service, probes: ProbeSet, out: str | Path, *, max_tokens: int = MAX_TOKENS, progress: bool = True
) -> Evaluation:
    """Ask every probe, at most ``service.concurrency`` at a time, and write ``answers.parquet`` into ``out``.

    Answers already in the journal of ``out`` are not asked for again.  Raises InputError or RunError as
    :meth:`~textreg.fidelity.service.Session.ask` does, and RunError when no request got an answer; what was answered
    till then is kept.
    """
    if max_tokens < 1:
        raise InputError(f"max_tokens: {max_tokens}; an answer needs at least 1 token")
    out = Path(out)
    options = {"temperature": 0, "max_tokens": max_tokens}
    keys = [request_key(service, options, probe) for probe in probes.probes]
    unanswered: Counter[str] = Counter()
    notes: list[str] = []
    with Journal(out / JOURNAL, RECORD) as journal:
        pending = {key: probe for key, probe in zip(keys, probes.probes, strict=True) if key not in journal}
        kept = len(set(keys)) - len(pending)
        if pending:
            with counting("answers", len(pending), kept, progress) as advance:
                notes += run_async(_ask(service, options, pending, journal, unanswered, advance))
        found = [(probe, journal[key]) for key, probe in zip(keys, probes.probes, strict=True) if key in journal]
    if not found:
        reasons = "; ".join(f"{why} ({count} times)" for why, count in unanswered.most_common(3))
        raise RunError(
            f"model {service.model!r} at {service.url}: no request got an answer: {reasons}; cure that, then ask again"
        )
    silent = sorted({probe.arm for probe in probes.probes} - {probe.arm for probe, _ in found})
    notes += [f"no request of the arm {arm} got an answer: what is compared with it is left out" for arm in silent]
    table = answer_table(service.model, found)
    with atomic_write(out / ANSWERS) as temporary:
        table.to_parquet(temporary, index=False)
    return Evaluation(
        out / ANSWERS, asked=len(pending) - unanswered.total(), kept=kept, unanswered=dict(unanswered),
        cut=sum(record["finish"] == "length" for _, record in found),
        tokens_in=sum(record["tokens_in"] for _, record in found),
        tokens_out=sum(record["tokens_out"] for _, record in found), notes=(*probes.notes, *notes),
    )  # fmt: skip


def sentences(found: Evaluation) -> list[str]:
    """What a user should know beside the scores: counts, requests without an answer, answers cut off, notes."""
    said = [
        f"{found.asked} answers asked for, {found.kept} kept from earlier; {found.tokens_in:,} tokens read, "
        f"{found.tokens_out:,} written: {found.answers}"
    ]
    said += [f"{count} requests without an answer, left out: {why}" for why, count in found.unanswered.items()]
    if found.cut:
        said.append(f"{found.cut} answers are cut off by the token limit; raise it if they look unfinished")
    return [*said, *found.notes]


def request_key(service: Service, options: Mapping[str, Any], probe: Probe) -> str:
    """SHA-256 of what an answer depends on."""
    picture = (probe.picture.digest, probe.picture.blank) if probe.picture else None
    parts = (service.url, service.model, sorted(options.items()), probe.prompt, picture)
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def messages(probe: Probe, longest: int = LONGEST) -> list[dict[str, Any]]:
    """The conversation that is sent: image before text, as the arms were trained and as servers expect it.

    ``longest`` limits the longest side of the picture, in pixels.
    """
    text = probe.prompt.removeprefix(IMAGE_TURN)
    if probe.picture is None:
        return [{"role": "user", "content": text}]
    image = {"type": "image_url", "image_url": {"url": data_url(png(probe.picture, longest))}}
    return [{"role": "user", "content": [image, {"type": "text", "text": text}]}]


class _Session(Session):
    """A session to which a text completion, a part or a ``function_call`` come as a chat completion has them."""

    async def __aenter__(self) -> Session:
        await super().__aenter__()
        self._create, completions = self._client.chat.completions.create, SimpleNamespace(create=self._heard)
        self._client = SimpleNamespace(chat=SimpleNamespace(completions=completions), close=self._client.close)
        return self

    async def _heard(self, stream: bool, **asked: Any) -> Any:
        try:  # some servers do not know the word stream, even where it is told to be false
            found = await self._create(**asked, **({"stream": True} if stream else {}))
        except (RecursionError, ValueError) as error:
            why = "nested too deep" if isinstance(error, RecursionError) else f"no JSON ({error})"
            raise ValueError(f"the reply is {why}") from None
        if hasattr(found, "__aiter__"):
            return _streamed(found)
        if isinstance(found, str):  # a stream that was not asked for
            return re.sub(
                r"(?m)^data: *(\{.*\})", lambda line: f"data: {json.dumps(_delta(json.loads(line[1])))}", found
            )
        whole = found.model_dump(warnings=False) if hasattr(found, "model_dump") else {}
        for choice in whole.get("choices") or ():
            if isinstance(choice, dict) and choice.get("message") is choice.get("text") is None:
                raise ValueError("the reply is not a chat completion: its message is null")
            if isinstance(choice, dict) and isinstance(said := choice.get("message") or {}, dict):
                choice["message"] = _message(said, choice)
        told = whole.get("detail") or whole.get("message")  # of an error that is not called one
        return f"data: {json.dumps({'error': told, **whole} if isinstance(told, str) else whole)}"

    def _explained(self, error: Exception) -> Exception:
        said, cure = str(error.__cause__)[:120], "try http; a certificate of its own is named in SSL_CERT_FILE"
        secure = InputError(f"{self._where()}: no secure connection ({said}); {cure}")
        return secure if said.startswith("[SSL") else super()._explained(error)


async def _streamed(chunks: Any) -> AsyncIterator[SimpleNamespace]:
    async for chunk in chunks:
        told = _delta(chunk.model_dump(warnings=False))
        yield SimpleNamespace(model_dump=lambda told=told, **_: told)


def _delta(chunk: dict[str, Any]) -> dict[str, Any]:
    """The chunk of a stream, in which a text completion has its text where a chat completion has it."""
    for choice in chunk.get("choices") or ():
        if isinstance(choice, dict) and isinstance(choice.get("text"), str) and not choice.get("delta"):
            choice["delta"] = {"content": choice["text"]}
    return chunk


def _message(said: Mapping[str, Any], choice: Mapping[str, Any]) -> dict[str, Any]:
    """The message of a choice; Unanswered where nothing was said and the server names a reason of its own."""
    content, calls = said.get("content"), said.get("tool_calls") or said.get("function_call")
    content = choice.get("text") if content is None else [content] if isinstance(content, dict) else content
    if isinstance(content, list):
        parts = [part for part in content if not (isinstance(part, dict) and part.get("type") in THOUGHTS)]
        content = [at(part, "text.value") or part for part in parts]
    elif not (content is None or isinstance(content, str)):
        content = str(content)
    why = choice.get("finish_reason")
    if not (content or calls or said.get("refusal") or why in SILENT or str(why or "").lower() in STOPPED):
        raise Unanswered(f"nothing was said, finish reason {quoted(why, 40)}")
    return {**said, "content": content, "tool_calls": calls}


async def _ask(
    service: Service, options: Mapping[str, Any], pending: Mapping[str, Probe], journal: Journal,
    unanswered: Counter[str], advance: Callable[[], None],
) -> list[str]:  # fmt: skip
    """Asks what is pending; returns notes on how it had to be asked."""
    smaller = 0
    async with _Session(service) as session:

        async def ask(key: str) -> None:
            nonlocal smaller
            try:
                try:
                    reply = await session.ask(messages(pending[key]), **options)
                except PictureTooLarge:
                    reply = await session.ask(messages(pending[key], SMALLER), **options)
                    smaller += 1
            except Unanswered as failure:
                unanswered[str(failure)] += 1
            else:
                record = asdict(reply)
                journal.append(key, {"answer": record.pop("text"), **record})
            advance()

        await for_each(pending, ask, service.concurrency)
    told = f"{smaller} pictures were refused for their size and sent with {SMALLER} pixels at most"
    return [*session.notes, *([told] if smaller else [])]


def answer_table(system: str, found: Sequence[tuple[Probe, Mapping[str, Any]]]) -> "pd.DataFrame":
    """Probes and their records in the columns of ``answers.parquet``, in the order of the probes."""
    asked = ("language", "arm", "item_id", "task", "prompt")
    rows = [
        (0, system, AS_SERVED, *(getattr(probe, name) for name in asked), record["answer"], probe.reference)
        for probe, record in found
    ]
    return pd.DataFrame(rows, columns=["seed", "system", "lambda", *asked, "answer", "reference"])
