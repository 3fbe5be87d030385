"""Listens for browsers until it is told to stop; the only file that knows uvicorn."""

import asyncio
import contextlib
import logging
import socket
from collections.abc import Iterator

import uvicorn

from console.desk import Desk
from console.door import Door
from console.live import MAX_MESSAGE_BYTES, Live
from console.settings import ConsoleSettings, url
from console.site import Site
from wire.errors import SettingsError
from wire.keys import Keys
from wire.service import Probe
from wire.streams import Bus

logger = logging.getLogger(__name__)

#: Most connections at once; more are answered with 503. Longest wait for open ones at the end, in seconds.
MAX_CONNECTIONS = 128
GRACE_S = 2
_POLL_S = 0.05


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are the process's business (`wire/service.py`)."""
        yield


async def serve(settings: ConsoleSettings, drain: asyncio.Event, probe: Probe) -> None:
    """Serve until `drain`. Raises SettingsError for a taken port, or an open door."""
    settings.check()
    bus = Bus(settings.redis_url, Keys(settings.namespace))
    live = Live(
        settings.console_ingress_url,
        settings.console_api_key.get_secret_value(),
        settings.console_live_sessions,
    )
    site = Site(Door(settings.token), Desk(bus, settings.metrics_urls, settings.seal_key), live)
    # Its own log would hold a line for each request; what a page asks for is nobody's business.
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    config = uvicorn.Config(
        site.app,
        access_log=False,
        log_config=None,
        lifespan="off",
        server_header=False,
        limit_concurrency=MAX_CONNECTIONS,
        timeout_graceful_shutdown=GRACE_S,
        ws="websockets-sansio",
        ws_max_size=MAX_MESSAGE_BYTES,
        ws_per_message_deflate=False,
    )
    server = _Server(config)
    try:
        with _listen(settings.console_host, settings.console_port) as door:
            async with asyncio.TaskGroup() as tasks:
                serving = tasks.create_task(server.serve(sockets=[door]))
                while not (server.started or serving.done()):  # noqa: ASYNC110 uvicorn has no event for it
                    await asyncio.sleep(_POLL_S)
                port = door.getsockname()[1]
                probe.ready = True
                logger.info("Listening", extra={"url": url(settings.console_host, port)})
                await drain.wait()
                probe.ready = False
                server.should_exit = True
    finally:
        await bus.close()


def _listen(host: str, port: int) -> socket.socket:
    door = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        door.bind((host, port))
        door.listen(MAX_CONNECTIONS)
    except (OSError, OverflowError) as error:
        door.close()
        reason = getattr(error, "strerror", None) or error
        raise SettingsError(f"CONSOLE_PORT: cannot listen on {host} port {port}: {reason}") from None
    return door
