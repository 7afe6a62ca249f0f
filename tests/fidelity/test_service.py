"""The chat client against a server that fails in every way a server fails."""

import asyncio
import socket
import time

import pytest
from faulty_server import FaultyServer

from textreg.errors import InputError, RunError
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
    async def many(service):
        failed = []
        async with Session(service) as session:

            async def one(_):
                try:
                    await session.ask(HELLO)
                except Unanswered as failure:
                    failed.append(str(failure))

            await for_each(range(9), one, 1)
        return failed

    with FaultyServer(faults=["400", "", "400", "400", "", "400"]) as server:
        assert len(run_async(many(quick(server.url, failures=3)))) == 4
    with FaultyServer(faults="400") as server, pytest.raises(RunError, match="3 requests in a row"):
        run_async(many(quick(server.url, failures=3)))
    assert len(server.requests) == 3


def test_retry_after_is_obeyed():
    with FaultyServer(faults=["wait"]) as server:
        start = time.monotonic()
        ask(quick(server.url))
    assert time.monotonic() - start >= 0.3


def test_no_more_requests_than_allowed_are_in_flight():
    async def many(service):
        async with Session(service) as session:
            await for_each(range(12), lambda _: session.ask(HELLO), 12)

    with FaultyServer(delay=0.03) as server:
        run_async(many(quick(server.url, concurrency=3)))
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
    [
        "",
        "localhost:8000",
        "ftp://host/v1",
        "http://",
        "http://host:port",
        "http://u:p@host/v1",
        "http://h/v1?k=1",
        "x",
    ],
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
