"""One door to a served model: the chat endpoint of any server that speaks OpenAI's protocol.

Judges and the evaluation of served models share it, so that faults are met in one way.  What may pass (429, 5xx,
time-outs, cut connections, malformed replies) is tried again with growing, jittered waits that obey ``Retry-After``;
what cannot (401, 402, 403, 404) ends the run with one line; a request that fails for good is the caller's to count,
but many in a row end the run.  Servers differ: one that refuses an argument is asked in the way it wants from then on,
and the session notes that (:data:`MANNERS`); replies may come as a stream or in parts.  A reply in which the model
said nothing, because of a filter, a tool or the token limit, is no answer.  The key comes from the environment alone
(``TEXTREG_API_KEY``, else ``OPENAI_API_KEY``) and every 8 characters of it are cut out of every text that comes back,
so it reaches no file, log or message.

Use: ``async with Session(Service("http://localhost:8000/v1", "my-model")) as session: await session.ask(messages)``.
"""

import asyncio
import json
import os
import re
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import import_module
from typing import Any, TypeVar
from urllib.parse import urlsplit

from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from textreg.display import well_formed
from textreg.errors import InputError, RunError

API_KEYS = ("TEXTREG_API_KEY", "OPENAI_API_KEY")
NO_KEY = "none"  # servers of one's own ask for no key, the client insists on one
FATAL = {
    401: f"the server refuses the key; set {API_KEYS[0]} or {API_KEYS[1]}",
    402: "the account has no credit left; pay, or name another server",
    403: "the key may not use this model; ask for access or name another model",
    404: "no such model or address; check the model's name, and that the address ends as the server says (often /v1)",
}
#: How a server may want to be asked: name of the manner -> (what its refusal says, what the user is told).
MANNERS = {
    "max_completion_tokens": (r"max_tokens", "it takes max_completion_tokens in place of max_tokens"),
    "no temperature": (r"temperature", "it takes no temperature: answers are drawn at its own, and differ every time"),
    "stream": (r"\bstream", "it answers in streams only"),
    "system": (r"system.{0,30}(required|missing|must|need|expect)|(requires?|missing).{0,30}system",
               "it demands a system prompt: 'You are a helpful assistant.' was sent"),
}  # fmt: skip
CONTEXT = re.compile(r"context|too long|too large|exceed", re.IGNORECASE)  # no refusal of an argument
PICTURE = re.compile(r"(image|picture|pixel).*(large|big|size|dimension|exceed|limit)", re.IGNORECASE)
SILENT = {
    "content_filter": "the server's content filter took the answer",
    "tool_calls": "the model called a tool instead of answering",
    "length": "the token limit was reached before the answer began; raise it",
}
LARGEST, LARGEST_PACKED = 16 * 2**20, 2**18  # bytes of a reply, and of a compressed one, which may grow a thousandfold
MOST = {"timeout": 86_400, "attempts": 100, "concurrency": 1024, "failures": 10**6, "longest_wait": 86_400}
PART = 8  # characters of a key that are never shown
Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Service:
    """Where a model is served and how patiently it is asked.

    ``timeout`` and the waits are in seconds, ``attempts`` counts tries of one request, ``concurrency`` requests in
    flight, ``failures`` requests in a row that may fail for good before the run ends.  An address without a path gets
    ``/v1``.  Raises InputError for an address that is none, or that carries a password.
    """

    url: str
    model: str
    timeout: float = 120.0
    attempts: int = 6
    concurrency: int = 8
    failures: int = 8
    first_wait: float = 0.5
    longest_wait: float = 30.0

    def __post_init__(self) -> None:
        try:
            parts = urlsplit(self.url)
            _ = parts.port
        except ValueError:
            parts = urlsplit("")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InputError(
                f"endpoint {self.url.rpartition('@')[2][:80]!r}: not an address; expected http://HOST:PORT/v1"
            )
        if parts.username or parts.password or parts.query:
            raise InputError(
                f"endpoint at {parts.hostname}: no password or query in the address; set {API_KEYS[0]} instead"
            )
        if not self.model.strip():
            raise InputError("endpoint: the model's name is empty; name the model that the server offers")
        for name, most in MOST.items():
            if not 0 < getattr(self, name) <= most:
                raise InputError(f"endpoint: {name} is {getattr(self, name)}; it must be above 0 and at most {most}")
        path = parts.path.rstrip("/").removesuffix("/chat/completions") or "/v1"
        object.__setattr__(self, "url", f"{parts.scheme}://{parts.netloc}{path}")


@dataclass(frozen=True)
class Reply:
    """What a model said, stripped; why it stopped (``stop``, ``length``); tokens read and written, over all tries."""

    text: str
    finish: str
    tokens_in: int = 0
    tokens_out: int = 0


class Malformed(Exception):
    """A reply that does not keep the form asked for; worth another try."""


class Unanswered(Exception):
    """A request that failed for good; the message says why in a few words, tokens are those of all its tries."""

    tokens_in = tokens_out = 0


class PictureTooLarge(Unanswered):
    """The server refuses the picture of a request for its size; a smaller one may pass."""


class TooMuch(Exception):
    """A reply that goes on and on; not worth another try."""


class Session:
    """An open connection with a limit on requests in flight; ``manners`` are those the server was found to want."""

    def __init__(self, service: Service):
        self.service = service
        self._free = asyncio.Semaphore(service.concurrency)
        self._in_row = 0
        self._reached = False
        self.manners: set[str] = set()

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know of how the server had to be asked."""
        return tuple(f"{self.service.url}: {MANNERS[manner][1]}" for manner in sorted(self.manners))

    async def __aenter__(self) -> "Session":
        from openai import AsyncOpenAI, DefaultAsyncHttpxClient

        self._key = next((os.environ[name] for name in API_KEYS if os.environ.get(name)), NO_KEY)
        if not re.fullmatch(r"[!-~]+", self._key):
            raise InputError(f"the key in {' or '.join(API_KEYS)} is malformed: it holds a blank or a foreign letter")
        try:
            self._client = AsyncOpenAI(
                api_key=self._key, base_url=self.service.url, timeout=self.service.timeout, max_retries=0,
                http_client=DefaultAsyncHttpxClient(event_hooks={"response": [_bounded]}),
            )  # fmt: skip
        except (ImportError, OSError, ValueError) as error:  # proxies and certificates that the environment names
            raise InputError(f"no connection can be made with the proxy or certificates set: {error}") from None
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.close()

    async def ask(
        self, messages: Sequence[Mapping[str, Any]], check: Callable[[str], object] | None = None, **options: Any
    ) -> Reply:
        """The reply to a conversation; ``check`` raises :class:`Malformed` for a text that is not what was asked for.

        Raises InputError where no try can succeed (no server, key, model), Unanswered where this request failed for
        good (PictureTooLarge, which the caller may mend), RunError when ``failures`` requests in a row did.
        """

        used = [0, 0]
        retrying = AsyncRetrying(
            retry=retry_if_exception(_may_pass),
            stop=stop_after_attempt(self.service.attempts),
            wait=self._wait,
            reraise=True,
        )
        try:
            async with self._free:
                reply = await retrying(self._mannered, messages, check, used, options)
        except Exception as error:
            failure = self._explained(error)
            if isinstance(failure, Unanswered):
                failure.tokens_in, failure.tokens_out = used
            raise failure from None
        self._in_row = 0
        return reply

    async def _mannered(self, messages, check, used: list[int], options: Mapping[str, Any]) -> Reply:
        """One try, asked again for each manner that the server turns out to want."""
        from openai import BadRequestError, UnprocessableEntityError

        while True:
            now = set(self.manners)
            try:
                return await self._once(messages, check, used, options, now)
            except (BadRequestError, UnprocessableEntityError) as error:
                words = _told(error)
                wanted = [name for name, (said, _) in MANNERS.items() if re.search(said, words, re.IGNORECASE)]
                new = next((name for name in wanted if name not in now), None)
                if new is None or CONTEXT.search(words):
                    raise
                self.manners.add(new)

    async def _once(self, messages, check, used: list[int], options: Mapping[str, Any], manners: set[str]) -> Reply:
        options, messages = {"stream": False} | dict(options), list(messages)
        if "max_completion_tokens" in manners and "max_tokens" in options:
            options["max_completion_tokens"] = options.pop("max_tokens")
        if "no temperature" in manners:
            options.pop("temperature", None)
        if "system" in manners:
            messages.insert(0, {"role": "system", "content": "You are a helpful assistant."})
        async with asyncio.timeout(self.service.timeout):  # of the whole exchange; a client's own limit is per read
            if "stream" in manners:
                options["stream"] = True
            found = await self._client.chat.completions.create(model=self.service.model, messages=messages, **options)
            chunks = (
                [chunk.model_dump(warnings=False) async for chunk in found] if "stream" in manners else _chunks(found)
            )
        self._reached = True
        text, finish, silent, tokens = _read(chunks)
        text = self._without_key(text.strip())
        used[0] += tokens[0]
        used[1] += tokens[1]
        if silent and not text:
            raise Unanswered(silent)
        if check:
            check(text)
        return Reply(text, finish, *used)

    def _wait(self, state) -> float:

        asked = _retry_after(state.outcome.exception())
        grown = wait_random_exponential(multiplier=self.service.first_wait, max=self.service.longest_wait)(state)
        return min(max(asked, grown), self.service.longest_wait)

    def _explained(self, error: Exception) -> Exception:
        """The failure in this project's terms, without the key."""
        from openai import APIConnectionError, APIStatusError, APITimeoutError, OpenAIError

        status = 402 if _no_credit(error) else getattr(error, "status_code", None)
        if isinstance(error, APIStatusError) and status in FATAL:
            return InputError(f"{self._where()}: {FATAL[status]} (status {status}: {self._short(error)})")
        if status == 413 or (status in (400, 422) and PICTURE.search(_told(error))):
            return PictureTooLarge(f"status {status}: {self._short(error)}")
        timed_out = isinstance(error, APITimeoutError | TimeoutError)
        refused = type(error.__cause__).__name__ == "ConnectError"  # of httpx, whichever of its versions carries this
        if isinstance(error, APIConnectionError) and refused and not self._reached:
            return InputError(f"{self._where()}: nothing answers there; start the server, or correct the address")
        if timed_out:
            reason = f"no reply within {self.service.timeout:g} s"
        elif isinstance(error, TooMuch) or isinstance(error.__cause__, TooMuch):
            reason = "the reply is larger than any answer"
        elif isinstance(error, OpenAIError | Malformed | Unanswered | ValueError):
            reason = f"status {status}: {self._short(error)}" if status else self._short(error)
        else:
            return error
        self._in_row += 1
        if self._in_row >= self.service.failures:
            refused = isinstance(error, Unanswered) or (status and not _may_pass(error))
            cure = "ask in the way it wants" if refused else "run the same command again when the server is well"
            return RunError(
                f"{self._where()}: {self._in_row} requests in a row failed, the last with: {reason}; what was "
                f"answered is kept, {cure}"
            )
        return Unanswered(reason)

    def _where(self) -> str:
        return f"model {self.service.model!r} at {self.service.url}"

    def _short(self, error: Exception) -> str:
        return self._without_key(" ".join(_told(error).split()) or type(error).__name__)[:200]

    def _without_key(self, text: str) -> str:
        """The text with every run of :data:`PART` or more characters of the key masked."""
        key = self._key
        if key == NO_KEY:
            return text
        runs = {key[i : i + PART] for i in range(max(1, len(key) - PART + 1))}
        size = min(PART, len(key))
        hidden = [False] * len(text)
        for i in range(len(text) - size + 1):
            if text[i : i + size] in runs:
                hidden[i : i + size] = [True] * size
        if True not in hidden:
            return text
        marked = "".join("\0" if mask else letter for letter, mask in zip(text, hidden, strict=True))
        return re.sub("\0+", "***", marked)


def _chunks(found: Any) -> list[dict[str, Any]]:
    """A reply as the list of its chunks: one completion, or a stream that came although none was asked for.

    Raises Malformed for anything else, with the server's words where it is an error under the status of a success.
    """
    if isinstance(found, str):
        lines = [line.removeprefix("data:").strip() for line in found.splitlines() if line.startswith("data:")]
        chunks = [json.loads(line) for line in lines if line != "[DONE]"]
    else:
        chunks = [found.model_dump(warnings=False)] if hasattr(found, "model_dump") else []
    if not chunks or not all(isinstance(chunk, dict) for chunk in chunks):
        raise Malformed("the reply is not a chat completion")
    for chunk in chunks:
        if error := chunk.get("error"):
            raise Malformed(f"the server says: {error.get('message', error) if isinstance(error, dict) else error}")
    return chunks


def _read(chunks: Sequence[Mapping[str, Any]]) -> tuple[str, str, str, tuple[int, int]]:
    """Text of a completion or of the chunks of one, why it ended, why nothing was said (or ''), tokens (in, out)."""
    text, finish, silent, tokens, choices = "", "", "", (0, 0), 0
    try:
        for chunk in chunks:
            usage = chunk.get("usage") or {}
            tokens = max(tokens, (_count(usage, "prompt_tokens"), _count(usage, "completion_tokens")))
            for choice in (chunk.get("choices") or [])[:1]:
                choices += 1
                message = choice.get("message") or choice.get("delta") or {}
                text += _words(message.get("content")) or message.get("refusal") or ""
                finish = choice.get("finish_reason") or finish
                if message.get("tool_calls"):
                    silent = SILENT["tool_calls"]
                elif message.get("reasoning_content") or message.get("reasoning"):
                    silent = silent or "the model thought and said nothing; raise the token limit"
    except (AttributeError, TypeError):
        choices = 0
    if not choices:
        raise Malformed("the reply is not a chat completion")
    return well_formed(text), finish, SILENT.get(finish, silent), tokens


def _words(content: object) -> str:
    """The text of a message: a string, or a list of parts, each a string or an object with ``text``."""
    if isinstance(content, list):
        return "".join(part if isinstance(part, str) else str(part.get("text") or "") for part in content)
    return content if isinstance(content, str) else ""


def _count(usage: object, name: str) -> int:
    """A count of tokens; 0 where the server's is none."""
    value = usage.get(name) if isinstance(usage, dict) else None
    return value if type(value) is int and 0 <= value < 2**31 else 0


async def _bounded(response: Any) -> None:
    """Gives the body of a reply an end: beyond :data:`LARGEST` bytes reading raises TooMuch."""
    httpx: Any = import_module(type(response).__module__.partition(".")[0])  # httpx, or the fork of the client
    body, packed = response.stream, response.headers.get("content-encoding", "identity") != "identity"

    class Bounded(httpx.AsyncByteStream):
        async def __aiter__(self):
            left = LARGEST_PACKED if packed else LARGEST
            async for piece in body:
                left -= len(piece)
                if left < 0:
                    raise TooMuch
                yield piece

        async def aclose(self) -> None:
            await body.aclose()

    response.stream = Bounded()


def _told(error: BaseException) -> str:
    """The words of an error, with the body where the client leaves out one that has not OpenAI's form."""
    text, body = str(error), getattr(error, "body", None)
    return f"{text}: {body}" if body and re.fullmatch(r"Error code: \d+", text) else text


def _no_credit(error: BaseException) -> bool:
    return getattr(error, "code", None) == "insufficient_quota"


def _may_pass(error: BaseException) -> bool:
    from openai import APIConnectionError, APIResponseValidationError, APIStatusError

    if isinstance(error, APIStatusError):
        passing = error.status_code >= 500 or error.status_code in (408, 409, 425, 429)
        return passing and not _no_credit(error)
    if isinstance(error.__cause__, TooMuch):
        return False
    return isinstance(error, APIConnectionError | APIResponseValidationError | TimeoutError | ValueError | Malformed)


def _retry_after(error: BaseException | None) -> float:
    """Seconds a server asks to wait; 0 where it says nothing, or a date."""
    response = getattr(error, "response", None)
    try:
        return max(0.0, float(response.headers.get("retry-after", 0))) if response is not None else 0.0
    except ValueError:
        return 0.0


async def for_each(items: Iterable[Item], work: Callable[[Item], Awaitable[None]], workers: int) -> None:
    """``work`` on every item, ``workers`` at a time; items are drawn as they are needed.  The first error ends all."""
    source = iter(items)

    async def worker() -> None:
        for item in source:
            await work(item)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(workers):
                group.create_task(worker())
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None


def run_async(work: Coroutine[Any, Any, Result]) -> Result:
    """Run a coroutine from plain code, also inside a notebook, whose own event loop is busy."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(max_workers=1) as thread:
        return thread.submit(asyncio.run, work).result()
