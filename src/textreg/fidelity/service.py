"""One door to a served model: the chat endpoint of any server that speaks OpenAI's protocol.

Judges and the evaluation of served models share it, so that faults are met in one way.  What may pass (429, 5xx,
time-outs, cut connections, malformed replies) is tried again with growing, jittered waits that obey ``Retry-After``;
what cannot (401, 403, 404) ends the run with one line; a request that fails for good is the caller's to count, but
many in a row end the run.  The key comes from the environment alone (``TEXTREG_API_KEY``, else ``OPENAI_API_KEY``) and
is cut out of every text that comes back, so it reaches no file, log or message.

Use: ``async with Session(Service("http://localhost:8000/v1", "my-model")) as session: await session.ask(messages)``.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlsplit

from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from textreg.display import well_formed
from textreg.errors import InputError, RunError

API_KEYS = ("TEXTREG_API_KEY", "OPENAI_API_KEY")
NO_KEY = "none"  # servers of one's own ask for no key, the client insists on one
FATAL = {
    401: f"the server refuses the key; set {API_KEYS[0]} or {API_KEYS[1]}",
    403: "the key may not use this model; ask for access or name another model",
    404: "no such model or address; check the model's name, and that the address ends as the server says (often /v1)",
}
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
        for name in ("timeout", "attempts", "concurrency", "failures", "longest_wait"):
            if getattr(self, name) <= 0:
                raise InputError(f"endpoint: {name} is {getattr(self, name)}; it must be greater than 0")
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


class Session:
    """An open connection with a limit on requests in flight."""

    def __init__(self, service: Service):
        self.service = service
        self._free = asyncio.Semaphore(service.concurrency)
        self._in_row = 0
        self._reached = False

    async def __aenter__(self) -> "Session":
        from openai import AsyncOpenAI

        self._key = next((os.environ[name] for name in API_KEYS if os.environ.get(name)), NO_KEY)
        self._client = AsyncOpenAI(
            api_key=self._key, base_url=self.service.url, timeout=self.service.timeout, max_retries=0
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.close()

    async def ask(
        self,
        messages: Sequence[Mapping[str, Any]],
        check: Callable[[str], object] | None = None,
        **options: Any,
    ) -> Reply:
        """The reply to a conversation; ``check`` raises :class:`Malformed` for a text that is not what was asked for.

        Raises InputError where no try can succeed (no server, key, model), Unanswered where this request failed for
        good, RunError when ``failures`` requests in a row did.
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
                reply = await retrying(self._once, messages, check, used, options)
        except Exception as error:
            failure = self._explained(error)
            if isinstance(failure, Unanswered):
                failure.tokens_in, failure.tokens_out = used
            raise failure from None
        self._in_row = 0
        return reply

    async def _once(self, messages, check, used: list[int], options: Mapping[str, Any]) -> Reply:
        async with asyncio.timeout(self.service.timeout):  # of the whole exchange; a client's own limit is per read
            completion = await self._client.chat.completions.create(
                model=self.service.model, messages=list(messages), stream=False, **options
            )
        self._reached = True
        try:
            choice = completion.choices[0]
            text, finish = well_formed(choice.message.content or ""), choice.finish_reason or ""
            text = text.strip().replace(self._key, "***") if self._key != NO_KEY else text.strip()
        except (AttributeError, IndexError, TypeError):
            raise Malformed("the reply is not a chat completion") from None
        used[0] += getattr(completion.usage, "prompt_tokens", None) or 0
        used[1] += getattr(completion.usage, "completion_tokens", None) or 0
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

        status = getattr(error, "status_code", None)
        if isinstance(error, APIStatusError) and status in FATAL:
            return InputError(f"{self._where()}: {FATAL[status]} (status {status}: {self._short(error)})")
        timed_out = isinstance(error, APITimeoutError | TimeoutError)
        refused = type(error.__cause__).__name__ == "ConnectError"  # of httpx, whichever of its versions carries this
        if isinstance(error, APIConnectionError) and refused and not self._reached:
            return InputError(f"{self._where()}: nothing answers there; start the server, or correct the address")
        if timed_out:
            reason = f"no reply within {self.service.timeout:g} s"
        elif isinstance(error, OpenAIError | Malformed | ValueError):
            reason = f"status {status}: {self._short(error)}" if status else self._short(error)
        else:
            return error
        self._in_row += 1
        if self._in_row >= self.service.failures:
            return RunError(
                f"{self._where()}: {self._in_row} requests in a row failed, the last with: {reason}; what was "
                "answered is kept, run the same command again when the server is well"
            )
        return Unanswered(reason)

    def _where(self) -> str:
        return f"model {self.service.model!r} at {self.service.url}"

    def _short(self, error: Exception) -> str:
        text = " ".join(str(error).split()) or type(error).__name__
        return (text.replace(self._key, "***") if self._key != NO_KEY else text)[:200]


def _may_pass(error: BaseException) -> bool:
    from openai import APIConnectionError, APIResponseValidationError, APIStatusError

    if isinstance(error, APIStatusError):
        return error.status_code >= 500 or error.status_code in (408, 409, 425, 429)
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
