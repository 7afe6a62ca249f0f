"""A hub on the loopback interface: just enough of its HTTP interface to serve folders as repositories, and its errors.

Repositories are folders below ``root`` named ``<owner>/<name>``; ``gated/...`` asks for accepted terms, any other
name is missing.  The one revision of a repository is ``COMMIT`` (also called ``main``).
"""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def _handler(root: Path, asked: list[str]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            asked.append(f"{self.command} {self.path}")
            parts = [part for part in unquote(urlsplit(self.path).path).split("/") if part]
            parts = [part for part in parts if part not in ("api", "datasets", "models")]
            name, rest = "/".join(parts[:2]), parts[2:]
            if parts and parts[0] == "gated":
                return self.refuse(403, "GatedRepo")
            if not (root / name).is_dir():
                return self.refuse(404, "RepoNotFound")
            revision = rest[1] if len(rest) > 1 else "main"
            if revision not in ("main", COMMIT):
                return self.refuse(404, "RevisionNotFound")
            files = sorted(p for p in (root / name).rglob("*") if p.is_file())
            if rest and rest[0] == "resolve":
                return self.send(root / name / "/".join(rest[2:]))
            if rest and rest[0] == "tree":
                tree = [self.entry(path, root / name) for path in files]
                return self.answer(json.dumps(tree).encode())
            siblings = [{"rfilename": p.relative_to(root / name).as_posix()} for p in files]
            return self.answer(json.dumps({"id": name, "sha": COMMIT, "siblings": siblings, "tags": []}).encode())

        do_HEAD = do_GET

        def entry(self, path: Path, base: Path) -> dict[str, object]:
            oid = hashlib.sha1(path.read_bytes()).hexdigest()
            return {"type": "file", "path": path.relative_to(base).as_posix(), "size": path.stat().st_size, "oid": oid}

        def send(self, path: Path) -> None:
            data = path.read_bytes()
            etag = hashlib.sha1(data).hexdigest()
            self.answer(data, {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT})

        def refuse(self, status: int, code: str) -> None:
            self.answer(b"", {"X-Error-Code": code, "X-Error-Message": code}, status)

        def answer(self, body: bytes, headers: dict[str, str] | None = None, status: int = 200) -> None:
            self.send_response(status)
            for key, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Nothing on stderr."""

    return Handler


@contextmanager
def serving(root: Path) -> Iterator[tuple[str, list[str]]]:
    """The address of a running hub, and the list of requests it saw."""
    asked: list[str] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(root, asked))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
