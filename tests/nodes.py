"""Ingress nodes on real ports over a real Redis, for tests: started, asked and stopped."""

import asyncio
import contextlib
import json
import logging
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import redis
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from cli.redis_server import find
from ingress.server import Ingress
from ingress.session import Session
from ingress.settings import IngressSettings
from ingress.tokens import TokenRequest
from tests.fakes import ScriptedWorker, Served
from wire.accounts import Accounts
from wire.entries import Billing, LicenseState, LicenseStatus, SessionEvent
from wire.errors import REASON_SEE_ERROR
from wire.keys import Keys
from wire.service import Probe
from wire.streams import Bus

#: How long a test waits for what must happen, in seconds.
PATIENCE_S = 10
#: 50 ms at 16 kHz.
FRAME = bytes(range(200)) * 8
TERMINATE = '{"type": "Terminate"}'
AUTHORIZED = {"Authorization": "self-hosted"}


@dataclass
class Node:
    """A running node, its worker, and what a test asks of them."""

    ingress: Ingress
    worker: ScriptedWorker
    probe: Probe
    drain: asyncio.Event
    bus: Bus

    def url(self, target: str = "/v3/ws", scheme: str = "ws") -> str:
        return f"{scheme}://127.0.0.1:{self.ingress.port}{target}"

    def client(self, target: str = "/v3/ws", **options: Any) -> connect:
        """A connection attempt, to be entered; without the client's own keep-alive, so that tasks can be counted."""
        options = {"additional_headers": AUTHORIZED, "ping_interval": None, "compression": None} | options
        return connect(self.url(target), **options)

    async def get(self, target: str, headers: Mapping[str, str] | None = None) -> tuple[int, str]:
        """An HTTP request by the standard library's client."""

        def request() -> tuple[int, str]:
            asked = urllib.request.Request(self.url(target, "http"), headers=dict(headers or {}))
            try:
                with urllib.request.urlopen(asked, timeout=5) as response:
                    return response.status, response.read().decode()
            except urllib.error.HTTPError as error:
                with error:
                    return error.code, error.read().decode()

        return await asyncio.to_thread(request)


class Nodes:
    """Starts nodes in the test's namespace and stops them."""

    def __init__(self, redis_url: str, namespace: str, wait_until: Callable[..., Any]) -> None:
        self.redis_url = redis_url
        self.namespace = namespace
        self.wait_until = wait_until

    @contextlib.asynccontextmanager
    async def __call__(
        self, new_session: Callable[..., Session] = Session, ready: bool = True, **settings: Any
    ) -> AsyncIterator[Node]:
        chosen: dict[str, Any] = {
            "redis_url": self.redis_url,
            "host": "127.0.0.1",
            "port": 0,
            "drain_grace_s": 0,
            "license_required": False,
        } | settings
        loaded = IngressSettings(namespace=self.namespace, **chosen)
        bus, drain = Bus(loaded.redis_url, Keys(self.namespace)), asyncio.Event()
        probe = Probe("127.0.0.1", 0)
        node = Node(Ingress(loaded, bus, probe, new_session), ScriptedWorker(bus), probe, drain, bus)
        try:
            async with asyncio.TaskGroup() as tasks:
                running = tasks.create_task(node.ingress.run(drain), name="ingress")
                await node.ingress.listening.wait()
                if ready:
                    await self.wait_until(lambda: probe.ready)
                    await bus.join("english")
                tasks.create_task(node.worker.serve(), name="worker")
                try:
                    yield node
                finally:
                    drain.set()
                    await asyncio.wait([running])
                    node.worker.stop()
        finally:
            await bus.close()


async def begin(client: ClientConnection) -> dict[str, Any]:
    """Read up to Begin."""
    message: dict[str, Any] = json.loads(await client.recv())
    assert message.get("type") == "Begin", message
    return message


async def rest(client: ClientConnection) -> tuple[list[dict[str, Any]], int, str]:
    """Everything still to come, then the code and the reason of the close."""
    messages: list[dict[str, Any]] = []
    while True:
        try:
            frame = await client.recv()
        except ConnectionClosed as closed:
            assert closed.rcvd is not None, "the server did not close, it vanished"
            return messages, closed.rcvd.code, closed.rcvd.reason
        assert isinstance(frame, str), "protocol 0.3, item 6: text frames only"
        messages.append(json.loads(frame))


def error(code: int, text: str) -> tuple[list[dict[str, Any]], int, str]:
    """What `rest` returns for a session that ends with an Error."""
    return [{"error_code": code, "error": text, "type": "Error"}], code, REASON_SEE_ERROR


def only(worker: ScriptedWorker) -> Served:
    """The one session that the worker serves."""
    (served,) = worker.served.values()
    return served


def count(metric: Any, **labels: str) -> float:
    return float((metric.labels(**labels) if labels else metric)._value.get())


def alarms(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """What an operator would look into; asyncio's own notes about slow callbacks tell of the machine."""
    return [each for each in caplog.records if each.levelno >= logging.WARNING and each.name != "asyncio"]


async def nothing_waits(node: Node) -> bool:
    return await node.bus.waiting("english") == 0


FULL = "Unauthorized Connection: Too many concurrent sessions"


def presenting(key: str) -> dict[str, Any]:
    return {"additional_headers": {"Authorization": key}}


def minted(node: Node, key: str, **wanted: int) -> str:
    """A token, also with what no client may ask for."""
    asked: dict[str, Any] = {"expires_in_seconds": 60, "max_session_duration_seconds": 60} | wanted
    return node.ingress._access.credentials.mint(key, TokenRequest.model_construct(**asked), time.time())


LICENSED = LicenseStatus(LicenseState.CONNECTED, "id", Billing.USAGE, ("english",), 2, 1, 2, 3)


async def licensed(node: Node, wait_until: Callable[..., Any], **other: Any) -> None:
    """As if the licensing service said so; until the node has heard it."""
    status = replace(LICENSED, **other)
    await Accounts(node.bus).publish_status(status)
    await wait_until(lambda: node.ingress._dues.gate._status == status)


async def waits(node: Node) -> bool:
    return await node.bus.waiting("english") == 1


async def put_in_inbox(node: Node, *events: SessionEvent) -> None:
    """What Redis would refuse from a worker that lost its lease, but may still be on its way."""
    served = only(node.worker)
    inbox = node.bus.keys.inbox(served.lease.offer.ingress)
    from wire.entries import pack_event

    await node.bus._redis.xadd(inbox, {str(place): pack_event(event) for place, event in enumerate(events)})


@contextlib.asynccontextmanager
async def careless(node: Node) -> AsyncIterator[asyncio.StreamReader]:
    """A client that opens a WebSocket and takes no further part."""
    reader, writer = await asyncio.open_connection("127.0.0.1", node.ingress.port)
    writer.write(
        b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nAuthorization: x\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    )
    try:
        yield reader
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


class OwnRedis:
    """A server that a test may stop, freeze and start again at the same address."""

    def __init__(self, port: int, folder: Path) -> None:
        self.url = f"redis://127.0.0.1:{port}/0"
        self._command = [str(find()), "--port", str(port), "--save", "", "--dir", str(folder)]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL)

    async def answers(self) -> bool:
        with redis.Redis.from_url(self.url) as client:
            try:
                return bool(client.ping())
            except redis.ConnectionError:
                return False

    def freeze(self, frozen: bool) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP if frozen else signal.SIGCONT)

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._process = None
