"""Where clients knock: the port, and all that is answered over plain HTTP. WebSockets go on to the node.

Keep-alive pings are not sent: they would cost a task per connection, and cut off a client that is being slowed down,
whose pongs wait behind its audio. A client that has vanished is found by its silence (protocol 1.6).
"""

import json
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Any

from websockets import http11
from websockets.asyncio.server import Server, ServerConnection
from websockets.asyncio.server import serve as serve_websocket
from websockets.http11 import Request, Response

from ingress.access import Access
from ingress.certificates import certificates
from ingress.connection import CLOSE_TIMEOUT_S, Connection
from ingress.handshake import Load, Route, issue, route, show, try_another
from ingress.pools import Pools
from ingress.settings import IngressSettings
from wire.errors import SettingsError

logger = logging.getLogger(__name__)

# A request line may hold a hundred key terms and a prompt, in percent-encoded UTF-8; the library's own limit is 8 KiB.
http11.MAX_LINE_LENGTH = 64 * 1024


class Front:
    """`listen` once. Raises SettingsError for keys or certificates that cannot be read."""

    def __init__(
        self,
        settings: IngressSettings,
        access: Access,
        pools: Pools,
        load: Callable[[], Load],
        now: Callable[[], float],
    ) -> None:
        self._settings = settings
        self._access = access
        self._pools = pools
        self._load = load
        self._now = now
        self._certificates = certificates(settings)

    async def listen(self, handle: Callable[[Connection], Awaitable[None]]) -> Server:
        """Let `handle` have each WebSocket until it is closed. Raises SettingsError for a taken port."""
        settings = self._settings

        async def opened(connection: ServerConnection) -> None:
            if not isinstance(connection, Connection):  # what is asked for below
                raise TypeError(type(connection))
            await handle(connection)

        try:
            return await serve_websocket(
                opened,
                settings.host,
                settings.port,
                backlog=settings.backlog,
                open_timeout=settings.open_timeout_s,
                process_request=self._answer,
                create_connection=Connection,
                compression=None,
                max_size=settings.max_message_bytes,
                ping_interval=None,
                close_timeout=CLOSE_TIMEOUT_S,
                server_header="steno",
                logger=_library_logger(),
                **self._tls(),
            )
        except OSError as error:
            place = f"{settings.host} port {settings.port}"
            raise SettingsError(f"PORT: cannot listen on {place}: {error.strerror or error}") from None

    def refresh(self) -> None:
        """Keys and certificates, were they changed. What goes wrong leaves the old ones and ends nothing."""
        try:
            self._access.refresh()
            if self._certificates is not None:
                self._certificates.refresh()
        except Exception:
            logger.exception("Keys or certificates not reloaded")

    def _tls(self) -> dict[str, Any]:
        if self._certificates is None:
            return {}
        return {"ssl": self._certificates.context, "ssl_handshake_timeout": self._settings.open_timeout_s}

    def _answer(self, connection: ServerConnection, request: Request) -> Response | None:
        """Health checks, tokens, what is served, and unknown paths; None goes on to a WebSocket.

        Other methods than GET never come here: the library does not parse them and closes the connection.
        """
        match route(request.path):
            case Route.SESSION:
                elsewhere = try_another(request.path, request.headers.raw_items(), self._load())
                code = HTTPStatus.SERVICE_UNAVAILABLE
                return _json(connection, code, {"status": "try another node"}) if elsewhere else None
            case Route.HEALTH:
                return self._health(connection)
            case Route.TOKEN:
                now_s = time.time()
                credentials = self._access.credentials
                return _json(
                    connection, *issue(request.path, request.headers.raw_items(), credentials, now_s)
                )
            case Route.MODELS:
                # Heard with the other pools' loads, a moment ago: asking often costs Redis nothing.
                default = self._settings.default_speech_model
                page = self._pools.page(default, self._now()) if self._load().ready else None
                asked = request.headers.raw_items()
                return _json(connection, *show(asked, self._access.credentials, page))
            case _:
                return connection.respond(HTTPStatus.NOT_FOUND, "Not found\n")

    def _health(self, connection: ServerConnection) -> Response:
        load = self._load()
        if load.healthy:
            status = "ready"
        elif load.draining:
            status = "draining"
        else:
            status = "starting" if not load.ready else "unlicensed"
        code = HTTPStatus.OK if load.healthy else HTTPStatus.SERVICE_UNAVAILABLE
        return _json(connection, code, {"status": status, "sessions": load.sessions})


def _json(connection: ServerConnection, code: HTTPStatus, fields: Mapping[str, Any]) -> Response:
    response = connection.respond(code, json.dumps(fields))
    del response.headers["Content-Type"]
    response.headers["Content-Type"] = "application/json"
    response.headers["Cache-Control"] = "no-store"
    return response


def _library_logger() -> logging.Logger:
    """For websockets: its errors only. At DEBUG it would log messages, and a stranger's TCP connection as an error."""
    library = logging.getLogger(f"{__name__}.websockets")
    library.setLevel(logging.ERROR)
    library.addFilter(_not_a_failed_handshake)
    return library


def _not_a_failed_handshake(record: logging.LogRecord) -> bool:
    return record.msg != "opening handshake failed"
