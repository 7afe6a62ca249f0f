"""The chat client against a server that fails in every way a server fails."""

import asyncio
import gzip
import json
import socket
import time

import pytest
from faulty_server import FaultyServer, Server, completion

from textreg.errors import InputError, RunError
from textreg.fidelity import service as module
from textreg.fidelity.service import Malformed, Service, Session, Unanswered, for_each, run_async

HELLO = [{"role": "user", "content": "hola"}]
FAULTS = ("429", "500", "503", "408", "malformed", "html", "foreign", "empty", "cut", "drop", "hang", "trickle")
SLOW = ("hang", "trickle")


def quick(url: str, **options) -> Service:
    return Service(url, "m", **{"timeout": 20, "first_wait": 0.01, "longest_wait": 0.4, **options})


def ask(service: Service, **options):
    async def once():
        async with Session(service) as session:
            return await session.ask(HELLO, **options)

    return run_async(once())


def ask_often(service: Service, count: int, together: int = 1, **options):
    """The replies to so many requests; None for one that failed for good."""

    async def work():
        replies = []
        async with Session(service) as session:

            async def one(_):
                try:
                    replies.append(await session.ask(HELLO, **options))
                except Unanswered:
                    replies.append(None)

            await for_each(range(count), one, together)
        return replies

    return run_async(work())


@pytest.mark.parametrize("fault", FAULTS)
def test_a_passing_fault_is_retried_until_the_answer_comes(fault):
    with FaultyServer(faults=[fault, fault]) as server:
        reply = ask(quick(server.url, timeout=0.5 if fault in SLOW else 20))
    assert reply.text == "hola"
    assert len(server.requests) >= 3


@pytest.mark.parametrize("fault", ["429", "500", "malformed", "cut", "hang", "400"])
def test_a_fault_that_stays_is_an_unanswered_request_that_says_why(fault):
    with FaultyServer(faults=fault) as server, pytest.raises(Unanswered) as failure:
        ask(quick(server.url, attempts=2, timeout=0.5 if fault in SLOW else 20))
    assert len(server.requests) == (1 if fault == "400" else 2)
    assert "\n" not in str(failure.value)
    assert failure.value.__cause__ is None


@pytest.mark.parametrize(("status", "cure"), [("401", "TEXTREG_API_KEY"), ("403", "access"), ("404", "model's name")])
def test_a_refusal_ends_at_once_with_its_cure(status, cure):
    with FaultyServer(faults=status) as server, pytest.raises(InputError, match=cure):
        ask(quick(server.url))
    assert len(server.requests) == 1


def test_a_server_that_is_not_there_is_an_input_error():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(InputError, match="nothing answers there"):
        ask(quick(url, attempts=2))


def test_many_failures_in_a_row_end_the_run_and_single_ones_do_not():
    with FaultyServer(faults=["400", "", "400", "400", "", "400"]) as server:
        assert ask_often(quick(server.url, failures=3), 9).count(None) == 4
    with FaultyServer(faults="400") as server, pytest.raises(RunError, match="3 requests in a row"):
        ask_often(quick(server.url, failures=3), 9)
    assert len(server.requests) == 3


def test_retry_after_is_obeyed():
    with FaultyServer(faults=["wait"]) as server:
        start = time.monotonic()
        ask(quick(server.url))
    assert time.monotonic() - start >= 0.3


def test_no_more_requests_than_allowed_are_in_flight():
    with FaultyServer(delay=0.03) as server:
        ask_often(quick(server.url, concurrency=3), 12, together=12)
    assert server.most_together == 3


def test_tokens_of_rejected_tries_are_counted():
    replies = iter(["no", "yes"])

    def check(text):
        if text == "no":
            raise Malformed("not yes")

    with FaultyServer(answer=lambda _: next(replies)) as server:
        reply = ask(quick(server.url), check=check)
    assert (reply.text, reply.tokens_in, reply.tokens_out) == ("yes", 20, 6)


@pytest.mark.parametrize("name", ["TEXTREG_API_KEY", "OPENAI_API_KEY"])
def test_the_key_is_sent_and_appears_in_no_reply_message_or_repr(name, monkeypatch):
    monkeypatch.delenv("TEXTREG_API_KEY", raising=False)
    monkeypatch.setenv(name, "sk-secret-123")
    with FaultyServer(answer=lambda _: "the key is sk-secret-123") as server:
        reply = ask(quick(server.url))
    assert server.headers[0]["authorization"] == "Bearer sk-secret-123"
    assert reply.text == "the key is ***"
    for fault in ("401", "400", "500"):
        with FaultyServer(faults=fault) as server, pytest.raises((InputError, Unanswered)) as failure:
            ask(quick(server.url, attempts=1))
        assert "sk-secret" not in str(failure.value)
        assert "***" in str(failure.value)
    assert "sk-secret" not in repr(quick(server.url))


@pytest.mark.parametrize(
    "url",
    ["", "localhost:8000", "ftp://host/v1", "http://", "http://host:port", "http://u:p@host/v1", "http://h/v1?k=1"],
)
def test_an_address_that_is_none_is_refused(url):
    with pytest.raises(InputError):
        Service(url, "m")


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ("http://h:1", "http://h:1/v1"),
        ("http://h:1/", "http://h:1/v1"),
        ("http://h:1/v1/", "http://h:1/v1"),
        ("https://h/v1/chat/completions", "https://h/v1"),
        ("https://h/v1beta/openai", "https://h/v1beta/openai"),
    ],
)
def test_the_address_is_completed_like_people_write_it(given, used):
    assert Service(given, "m").url == used


def test_it_works_where_an_event_loop_is_already_running():
    async def in_a_notebook():
        return run_async(asyncio.sleep(0, result=7))

    assert asyncio.run(in_a_notebook()) == 7


def refused(message: str, status: int = 400) -> tuple[int, dict]:
    return status, {"error": {"message": message, "type": "invalid_request_error"}}


def streamed(*pieces: str) -> tuple[int, str, dict]:
    about = {"id": "c", "object": "chat.completion.chunk", "created": 0, "model": "m"}
    choices = [{"index": 0, "delta": {"content": piece}, "finish_reason": None} for piece in pieces]
    lines = "".join(f"data: {json.dumps(about | {'choices': [choice]})}\n\n" for choice in choices)
    return 200, lines + "data: [DONE]\n\n", {"content_type": "text/event-stream"}


HOLA = (200, completion("hola"))
MAKES = {
    "max_completion_tokens alone": (
        lambda b: refused("Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.")
        if "max_tokens" in b else HOLA if b["max_completion_tokens"] == 9 else refused("?"), "max_completion_tokens"),
    "no temperature": (
        lambda b: refused("'temperature' does not support 0 with this model") if "temperature" in b else HOLA,
        "no temperature"),
    "a form that forbids it": (
        lambda b: (422, {"detail": [{"loc": ["body", "temperature"], "msg": "Extra inputs are not permitted"}]})
        if "temperature" in b else HOLA, "no temperature"),
    "both": (
        lambda b: refused("temperature unsupported") if "temperature" in b
        else refused("max_tokens unsupported") if "max_tokens" in b else HOLA, "max_completion_tokens|no temperature"),
    "a system prompt": (
        lambda b: HOLA if b["messages"][0]["role"] == "system" else refused("A system message is required"), "system"),
    "streams on demand": (
        lambda b: streamed("ho", "la") if b["stream"] else refused("Set stream to true: this model only streams"),
        "stream"),
    "streams always": (lambda b: streamed("ho", "", "la"), ""),
    "content in parts": (
        lambda b: (200, completion({"content": [{"type": "text", "text": "ho"}, {"text": "la"}]})), ""),
    "a refusal beside no content": (lambda b: (200, completion({"content": None, "refusal": "hola"})), ""),
    "usage in words": (lambda b: (200, completion("hola", usage={"prompt_tokens": "10", "x": [3]})), ""),
    "usage without end": (lambda b: (200, completion("hola", usage={"prompt_tokens": 10**400})), ""),
    "no usage": (lambda b: (200, completion("hola", usage=None)), ""),
    "reasoning beside an answer": (lambda b: (200, completion({"content": "hola", "reasoning_content": "..."})), ""),
    "packed": (lambda b: (200, gzip.compress(json.dumps(HOLA[1]).encode()), {"content_encoding": "gzip"}), ""),
}  # fmt: skip


@pytest.mark.parametrize("make", list(MAKES))
def test_a_server_of_any_make_is_asked_as_it_wants_and_read_as_it_answers(make):
    play, manners = MAKES[make]

    async def twice(service):
        async with Session(service) as session:
            replies = [await session.ask(HELLO, temperature=0, max_tokens=9) for _ in range(2)]
            return replies, session.manners, session.notes

    with Server(play) as server:
        replies, found, notes = run_async(twice(quick(server.url, attempts=1)))
    assert [reply.text for reply in replies] == ["hola", "hola"]
    assert found == set(filter(None, manners.split("|")))
    assert len(server.requests) == 2 + len(found) and len(notes) == len(found)
    assert all(reply.tokens_in in (0, 10) for reply in replies)


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        (completion("", "content_filter"), "content filter"),
        (completion({"content": None, "tool_calls": [{"id": "1"}]}, "tool_calls"), "called a tool"),
        (completion("", "length"), "token limit"),
        (completion({"content": "", "reasoning_content": "First, I look"}), "thought and said nothing"),
        ({"error": {"message": "model is loading", "code": 503}}, "model is loading"),
        ({"error": "out of memory"}, "out of memory"),
        ({"choices": None, "usage": 7}, "not a chat completion"),
        ({"choices": [{"message": "hola"}]}, "not a chat completion"),
    ],
)
def test_a_reply_in_which_nothing_was_said_is_no_answer_and_says_why(reply, why):
    with Server(lambda _: (200, reply)) as server, pytest.raises(Unanswered, match=why):
        ask(quick(server.url, attempts=1))


def test_silence_that_the_model_chose_is_an_empty_answer():
    with Server(lambda _: (200, completion(""))) as server:
        assert ask(quick(server.url)).text == ""


@pytest.mark.parametrize(
    "answer",
    [refused("You exceeded your current quota", 402),
     (429, {"error": {"message": "You exceeded your current quota", "code": "insufficient_quota"}})],
)  # fmt: skip
def test_an_account_without_credit_ends_at_once(answer):
    with Server(lambda _: answer) as server, pytest.raises(InputError, match=r"no credit left.*exceeded your current"):
        ask(quick(server.url))
    assert len(server.requests) == 1


def test_what_a_server_refuses_is_told_in_its_words_and_not_called_illness():
    words = "max_tokens is too large: the maximum context length is 8"
    with Server(lambda _: refused(words)) as server, pytest.raises(RunError, match="context length is 8") as failure:
        ask_often(quick(server.url, failures=2), 3, max_tokens=9)
    assert "server is well" not in str(failure.value)
    assert len(server.requests) == 2


@pytest.mark.parametrize("packed", [True, False])
def test_a_reply_without_end_is_left_after_so_many_bytes(packed, monkeypatch):
    monkeypatch.setattr(module, "LARGEST", 10_000)
    monkeypatch.setattr(module, "LARGEST_PACKED", 100)
    body = json.dumps(completion("x" * 100_000)).encode()
    play = (200, gzip.compress(body), {"content_encoding": "gzip"}) if packed else (200, body)
    with Server(lambda _: play) as server, pytest.raises(Unanswered, match="larger than any answer"):
        ask(quick(server.url))
    assert len(server.requests) == 1


@pytest.mark.parametrize("key", ["with blank", "line\nend", "schlüssel", "\ttab"])
def test_a_malformed_key_is_called_that_and_not_shown(key, monkeypatch):
    monkeypatch.setenv("TEXTREG_API_KEY", key)
    with pytest.raises(InputError, match="malformed") as failure:
        ask(quick("http://127.0.0.1:9"))
    assert key not in str(failure.value)


def test_no_eight_characters_of_the_key_are_shown(monkeypatch):
    monkeypatch.setenv("TEXTREG_API_KEY", "sk-abcdefghijklmnop")
    with FaultyServer(answer=lambda _: "starts sk-abcdefgh..., ends ghijklmnop, has sk-abc") as server:
        assert ask(quick(server.url)).text == "starts ***..., ends ***, has sk-abc"


@pytest.mark.parametrize(
    "variable", [("ALL_PROXY", "socks4://127.0.0.1:1"), ("HTTP_PROXY", "nonsense://x"), ("SSL_CERT_FILE", "/nowhere")]
)
def test_a_proxy_or_certificate_that_cannot_be_used_is_one_line(variable, monkeypatch):
    monkeypatch.setenv(*variable)
    with FaultyServer() as server, pytest.raises(InputError, match="proxy or certificates") as failure:
        ask(quick(server.url, attempts=1))
    assert "\n" not in str(failure.value)


@pytest.mark.parametrize(
    "option", [{"concurrency": 10**20}, {"timeout": float("nan")}, {"timeout": 0}, {"attempts": -1}]
)
def test_numbers_without_sense_are_refused(option):
    with pytest.raises(InputError, match=next(iter(option))):
        Service("http://h", "m", **option)
