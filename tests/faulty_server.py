"""A chat server on loopback whose faults a test chooses: 429, 500, hang, malformed JSON, cut connection, and others.

``with FaultyServer(answer=..., faults=["429", "hang"]) as server:`` the first request meets the first fault, and so
on; when the faults are used up, ``answer(body) -> str`` answers.  ``server.requests`` holds every body that arrived,
``server.answered`` those that got an answer,
``server.headers`` the headers (lower case).  ``faults="500"`` (a text) is met by every request.
"""

import json
import threading
import time
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def last_text(body: dict) -> str:
    """The text of the last message."""
    content = body["messages"][-1]["content"]
    return content if isinstance(content, str) else next(part["text"] for part in content if part["type"] == "text")


def completion(message: dict | str, finish: str = "stop", **more: object) -> dict:
    """A chat completion with one message, or its content alone."""
    message = {"content": message} if isinstance(message, str) else message
    usage = {"prompt_tokens": 10, "completion_tokens": 3, "total_tokens": 13}
    choice = {"index": 0, "finish_reason": finish, "message": {"role": "assistant"} | message}
    return {
        "id": "c",
        "object": "chat.completion",
        "created": 0,
        "model": "m",
        "choices": [choice],
        "usage": usage,
    } | more


class FaultyServer:
    def __init__(
        self, answer: Callable[[dict], str] = last_text, faults: Sequence[str] | str = (), delay: float = 0.0
    ):
        self.answer, self.delay = answer, delay
        self.faults = faults if isinstance(faults, str) else list(faults)
        self.requests: list[dict] = []
        self.answered: list[dict] = []
        self.headers: list[dict] = []
        self.together = self.most_together = 0
        self._lock = threading.Lock()
        self._closing = threading.Event()

    def __enter__(self) -> "FaultyServer":
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                owner._handle(self)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()

    def _handle(self, handler: BaseHTTPRequestHandler) -> None:
        data = handler.rfile.read(length := int(handler.headers["content-length"]))
        if len(data) < length:  # the client was killed while it was asking
            return
        body = json.loads(data)
        with self._lock:
            self.requests.append(body)
            self.headers.append({name.lower(): value for name, value in handler.headers.items()})
            fault = self.faults if isinstance(self.faults, str) else (self.faults.pop(0) if self.faults else "")
            self.together += 1
            self.most_together = max(self.most_together, self.together)
        try:
            time.sleep(self.delay)
            getattr(self, f"_fault_{fault}", self._status)(handler, body, fault)
        except (BrokenPipeError, ConnectionResetError):
            pass
        finally:
            with self._lock:
                self.together -= 1

    def _send(self, handler, status: int, text: str | bytes, length: int | None = None, **headers: str) -> None:
        data = text if isinstance(text, bytes) else text.encode()
        handler.send_response(status)
        handler.send_header("content-type", headers.pop("content_type", "application/json"))
        handler.send_header("content-length", str(len(data) if length is None else length))
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(data)
        handler.wfile.flush()

    def _completion(self, body: dict) -> dict:
        return completion(self.answer(body), model=body["model"])

    def _fault_(self, handler, body: dict, fault: str) -> None:
        self._send(handler, 200, json.dumps(self._completion(body)))
        with self._lock:
            self.answered.append(body)

    def _status(self, handler, body: dict, fault: str) -> None:
        key = handler.headers.get("authorization", "")
        self._send(handler, int(fault), json.dumps({"error": {"message": f"refused with {fault}, sent was {key}"}}))

    def _fault_wait(self, handler, body: dict, fault: str) -> None:
        self._send(handler, 429, "{}", retry_after="0.3")

    def _fault_hang(self, handler, body: dict, fault: str) -> None:
        self._closing.wait(30)

    def _fault_trickle(self, handler, body: dict, fault: str) -> None:
        self._send(handler, 200, " ", length=1000)
        while not self._closing.wait(0.1):
            handler.wfile.write(b" ")
            handler.wfile.flush()

    def _fault_malformed(self, handler, body: dict, fault: str) -> None:
        self._send(handler, 200, '{"choices": [{"index": 0, "mess')

    def _fault_html(self, handler, body: dict, fault: str) -> None:
        self._send(handler, 200, "<html>gateway</html>")

    def _fault_foreign(self, handler, body: dict, fault: str) -> None:
        self._send(handler, 200, '{"hello": "world"}')

    def _fault_empty(self, handler, body: dict, fault: str) -> None:
        self._send(handler, 200, json.dumps(self._completion(body) | {"choices": []}))

    def _fault_cut(self, handler, body: dict, fault: str) -> None:
        self._send(handler, 200, '{"choices": [', length=1000)
        handler.close_connection = True
        handler.connection.close()

    def _fault_drop(self, handler, body: dict, fault: str) -> None:
        handler.close_connection = True
        handler.connection.close()


class Server(FaultyServer):
    """A server of some make: ``play(body)`` gives status, body (an object, text or bytes) and headers."""

    def __init__(self, play: Callable[[dict], tuple]):
        super().__init__()
        self.play = play

    def _fault_(self, handler, body: dict, fault: str) -> None:
        status, reply, *headers = self.play(body)
        self._send(handler, status, json.dumps(reply) if isinstance(reply, dict) else reply, **dict(*headers))
