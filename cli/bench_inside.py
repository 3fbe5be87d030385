"""An ingress inside this process, with clients that it does not pay for: what a change of its settings costs it.

Clients are sockets that the harness writes to and reads from by hand, on the ingress's own thread, so that it works
while they do not; the time that they take is known and left out. What remains is all that the thread does for a frame:
the kernel's part, the loop's, ours.
"""

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress

from cli import up
from cli.bench_crowd import FRAME, FRAME_MS, REQUEST
from ingress.server import Ingress
from ingress.settings import IngressSettings
from wire.errors import StackError
from wire.keys import Keys
from wire.service import Probe, few_collections
from wire.streams import Bus

#: Clients write in so many groups, one after the other, in the time of a frame.
GROUPS = 10
#: How long clients may wait for their 101, in seconds.
PATIENCE_S = 20.0


class Inside:
    """The ingress of this thread, while `running`; its clients come in classes."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._clients: dict[str, list[socket.socket]] = {}

    async def enter(self, name: str, count: int, asks: str) -> None:
        """So many clients of this class, whose query asks for more. Raises StackError."""
        loop = asyncio.get_running_loop()
        request = REQUEST.replace(b" HTTP/1.1", asks.encode() + b" HTTP/1.1", 1)
        entered = self._clients.setdefault(name, [])
        for _ in range(count):
            client = socket.socket()
            client.setblocking(False)
            entered.append(client)
            async with asyncio.timeout(PATIENCE_S):
                await loop.sock_connect(client, (up.LOCAL_HOST, self._port))
                await loop.sock_sendall(client, request)
                answer = await loop.sock_recv(client, 4096)
            if not answer.startswith(b"HTTP/1.1 101"):
                raise StackError(f"the ingress let nobody in: {answer[:100]!r}")

    async def speak(self, name: str, seconds: float, settle_s: float) -> float:
        """All clients of this class speak for so long, others are silent. Processor seconds that this thread took in
        that time, and in `settle_s` after it, but for the clients' own. Raises StackError.
        """
        clients, started_s = self._clients[name], time.monotonic()
        began_s, theirs_s = time.thread_time(), 0.0
        for number in range(round(seconds * 1000 / FRAME_MS) * GROUPS):
            due_s = started_s + number * FRAME_MS / 1000 / GROUPS
            await asyncio.sleep(max(0.001, due_s - time.monotonic()))
            before_s = time.thread_time()
            for client in clients[number % GROUPS :: GROUPS]:
                _say(client)
            theirs_s += time.thread_time() - before_s
        await asyncio.sleep(settle_s)
        return time.thread_time() - began_s - theirs_s

    def leave(self) -> None:
        for client in [client for clients in self._clients.values() for client in clients]:
            client.close()


def _say(client: socket.socket) -> None:
    """One frame; what it was told is forgotten. Raises StackError when it was hung up on."""
    try:
        client.send(FRAME)
        with suppress(BlockingIOError):  # it was told nothing
            if not client.recv(65_536):
                raise ConnectionResetError
    except ConnectionError as gone:
        raise StackError("the ingress hung up on a client") from gone


@asynccontextmanager
async def running(redis_url: str, count: int, env: Mapping[str, object]) -> AsyncIterator[Inside]:
    """An ingress on any free port, for so many sessions. Raises StackError."""
    fixed = {"host": up.LOCAL_HOST, "port": 0, "drain_grace_s": 0, "license_required": False}
    settings = IngressSettings(redis_url=redis_url, max_sessions=count, **fixed, **env)  # type: ignore[arg-type]
    bus, drain = Bus(settings.redis_url, Keys(settings.namespace)), asyncio.Event()
    probe = Probe(up.LOCAL_HOST, 0)
    ingress = Ingress(settings, bus, probe)
    try:
        with few_collections():  # as in the service
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(ingress.run(drain))
                await ingress.listening.wait()
                async with asyncio.timeout(PATIENCE_S):
                    while not probe.ready:  # noqa: ASYNC110 others set it, from no loop of ours
                        await asyncio.sleep(0.05)
                inside = Inside(ingress.port)
                try:
                    yield inside
                finally:
                    inside.leave()
                    drain.set()
    finally:
        await bus.close()
