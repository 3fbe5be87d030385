"""A small HTTP server for the reference servers (issuer, tracker): JSON in, JSON out, every request bounded.

One thread for each request, at most MAX_THREADS of them. A request that is too long, too slow or no JSON is answered
with an error and touches nothing. It speaks plain HTTP: put it behind a proxy that ends TLS.
"""

import json
import logging
import socketserver
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import TracebackType
from typing import Any, Self

from wire.errors import SettingsError

logger = logging.getLogger(__name__)

#: Longest body that is read, longest silence within a request, most requests at once.
MAX_BODY_BYTES = 1024 * 1024
PATIENCE_S = 10.0
MAX_THREADS = 64


@dataclass(frozen=True)
class Ask:
    """One request: `body` is the JSON object of a POST, empty for a GET; `api_key` is what came as Bearer."""

    method: str
    path: str
    body: dict[str, Any] = field(default_factory=dict)
    api_key: str = ""


@dataclass(frozen=True)
class Tell:
    """The answer: a JSON object, or text of another `kind`."""

    status: int
    body: dict[str, Any] | str
    kind: str = "application/json"


class WebServer(socketserver.ThreadingMixIn, HTTPServer):
    """Serves `answer(ask)` on a thread of its own, from `start` (or entering) to `stop`."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, host: str, port: int, answer: Callable[[Ask], Tell]) -> None:
        """Listen. Raises SettingsError if the address cannot be had."""
        self.answer = answer
        self._room = threading.BoundedSemaphore(MAX_THREADS)
        self._thread: threading.Thread | None = None
        try:
            super().__init__((host, port), _Request)
        except OSError as error:
            raise SettingsError(f"cannot listen on {host} port {port}: {error.strerror or error}") from None

    def server_bind(self) -> None:
        """Bind without the look-up of the host's name, which can take seconds where name service is slow."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment]

    @property
    def url(self) -> str:
        return f"http://{self.server_name}:{self.server_port}"

    def start(self) -> Self:
        self._thread = threading.Thread(target=self.serve_forever, args=(0.1,), name="web", daemon=True)
        self._thread.start()
        return self

    def stop(self) -> None:
        """Free the port; requests that are being answered go on for as long as the process does."""
        if self._thread:
            self.shutdown()
            self._thread.join()
            self._thread = None
        self.server_close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def process_request(self, request: Any, client_address: Any) -> None:
        self._room.acquire()
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 the base calls it so
        logger.debug("Request broke off", exc_info=sys.exc_info(), extra={"peer": client_address})


class _Request(BaseHTTPRequestHandler):
    server: WebServer
    timeout = PATIENCE_S
    server_version = "steno"
    sys_version = ""

    def do_GET(self) -> None:
        self._respond(Ask("GET", self.path, api_key=self._api_key()))

    def do_POST(self) -> None:
        body = self._body()
        if isinstance(body, Tell):
            self._send(body)
        else:
            self._respond(Ask("POST", self.path, body, self._api_key()))

    def _respond(self, ask: Ask) -> None:
        try:
            told = self.server.answer(ask)
        except Exception:
            logger.exception("Request failed", extra={"path": ask.path})
            told = Tell(HTTPStatus.INTERNAL_SERVER_ERROR, {"error": "internal error"})
        self._send(told)

    def _body(self) -> dict[str, Any] | Tell:
        try:
            length = int(self.headers.get("Content-Length") or -1)
        except ValueError:
            length = -1
        if length < 0:
            return Tell(HTTPStatus.LENGTH_REQUIRED, {"error": "a Content-Length is needed"})
        if length > MAX_BODY_BYTES:
            return Tell(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, {"error": f"at most {MAX_BODY_BYTES} bytes"})
        try:
            body = json.loads(self.rfile.read(length))
        except (ValueError, RecursionError):
            body = None
        if not isinstance(body, dict):
            return Tell(HTTPStatus.BAD_REQUEST, {"error": "the body is not a JSON object"})
        return body

    def _api_key(self) -> str:
        scheme, _, key = (self.headers.get("Authorization") or "").partition(" ")
        return key.strip() if scheme.lower() == "bearer" else ""

    def _send(self, told: Tell) -> None:
        text = told.body if isinstance(told.body, str) else json.dumps(told.body)
        data = text.encode()
        self.send_response(told.status)
        self.send_header("Content-Type", told.kind)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(data)
        self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 named by the base class
        logger.debug("Request: %s", format % args)
