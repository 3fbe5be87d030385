"""The vendor's side with switches: the real issuer or tracker behind an HTTP server that can be made to fail.

`fault` is one of FAULTS, "" for none; `seen` is every request as it came off the wire.
"""

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from wire.web import Ask, Tell

FAULTS = (
    "slow",
    "dripping",
    "500",
    "half",
    "garbage",
    "empty",
    "redirect",
    "huge",
    "cut",
    "lost answer",
    "replay",
)


@dataclass(frozen=True)
class Seen:
    """One request: body parsed, header names in lower case."""

    path: str
    headers: dict[str, str]
    body: Any


class Vendor(ThreadingHTTPServer):
    """Answers with `respond` unless `fault` says otherwise. A context manager."""

    daemon_threads = True

    def __init__(self, respond: Callable[[Ask], Tell], port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Request)
        self.respond = respond
        self.fault = ""
        self.seen: list[Seen] = []
        #: What "replay" answers with: the body of the first good answer.
        self.first = b""
        self.closing = threading.Event()
        self._thread = threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self.shutdown()
        self._thread.join()
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients hang up on faulty servers; that is what is being tested."""


class _Request(BaseHTTPRequestHandler):
    server: Vendor

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.seen.append(Seen(self.path, headers, body))
        fault = self.server.fault
        if fault == "500":
            return self._send(500, b'{"error": "internal error"}')
        if fault == "slow":
            self.server.closing.wait(30)
            return None
        if fault == "cut":
            return self.connection.close()
        if fault == "redirect":
            return self._send(302, b"", {"Location": "http://127.0.0.1:9/elsewhere"})
        if fault == "huge":
            return self._send(200, b"x" * 1_000_000)
        if fault == "garbage":
            return self._send(200, b"\xff\xfe<html>captive portal</html>")
        if fault == "empty":
            return self._send(200, b"")
        key = headers.get("authorization", "").removeprefix("Bearer ")
        told = self.server.respond(Ask("POST", self.path, body, key))
        data = (told.body if isinstance(told.body, str) else json.dumps(told.body)).encode()
        if fault == "lost answer":  # the request was honoured, and nobody heard of it
            return self.connection.close()
        if fault == "half":
            return self._send(told.status, data[: len(data) // 2], length=len(data))
        if fault == "dripping":
            return self._drip(data)
        if fault == "replay" and self.server.first:
            data = self.server.first
        self.server.first = self.server.first or data
        return self._send(told.status, data)

    def _send(
        self, status: int, body: bytes, headers: dict[str, str] | None = None, length: int | None = None
    ) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)

    def _drip(self, body: bytes) -> None:
        """A byte now and then: no single wait is long."""
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        for place in range(len(body)):
            if self.server.closing.wait(0.05):
                return
            self.wfile.write(body[place : place + 1])

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 named by the base class
        """Quiet."""
