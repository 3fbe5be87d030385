"""How long a crowd waits at the door: many WebSockets opened at the same moment, time to 101 for each.

A real ingress over a real Redis, no worker. The crowd is a process of its own and speaks HTTP by hand: a client library
would need more of this machine than the server does, and its own work would be what is measured.
"""

import asyncio
import multiprocessing
import ssl
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from cli import bench_tls, redis_server, up
from cli.bench_figures import percentile
from cli.bench_machine import Usage, metric
from cli.child import Child, died_of
from wire import service

PATHS = ("/", "/v3/ws")
GOAL_MAX_MS = 1_000.0
READY_TIMEOUT_S = 30.0
#: How long one may wait before it counts as failed.
PATIENCE_S = 30.0
METHOD = (
    "Real ingress, real Redis, no worker. One process opens all connections at the same moment, half on / and half on "
    "/v3/ws, with an Authorization header as the official clients send it, by plain asyncio and requests made before; "
    "none is closed before all are open. Time is from the call that connects to the last byte of the 101's header, "
    "and holds what the generator itself was late (over TLS, its half of the cryptography too). Each round is a crowd "
    "of its own, after all of the last have left."
)
_REQUEST = (
    "GET {path}?sample_rate=16000 HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nAuthorization: self-hosted\r\n"
    "User-Agent: steno bench\r\nAssemblyAI-Version: 2025-05-12\r\n\r\n"
)


@dataclass(frozen=True)
class Crowd:
    """What one round saw: ms to 101 of each that got in, why the others did not, and the generator's use of a core."""

    opened_ms: list[float]
    failures: list[str]
    cpu: float


def run(count: int, rounds: int, tell: Callable[[str], None], tls: bool = False) -> dict[str, Any]:
    """Measure, over TLS if so wished. Raises StackError."""
    levels = []
    with tempfile.TemporaryDirectory(prefix="steno-bench-") as folder, redis_server.EmbeddedRedis() as redis:
        certificate = bench_tls.make(Path(folder)) if tls else None
        door = Door(redis.url, Path(folder) / "ingress.log", count, certificate)
        try:
            door.wait()
            for number in range(rounds):
                tell(f"round {number + 1} of {rounds}, {count} at once")
                usage = Usage({"ingress": door.child.pid, "redis": redis.child.pid})
                crowd = send(door.port, count, certificate)
                levels.append(summary(crowd) | {"cores": usage.cores()})
                door.check()
                door.wait()
        finally:
            door.child.stop(up.STOP_GRACE_S)
    return {
        "settings": {"connections": count, "rounds": rounds, "tls": tls},
        "method": METHOD,
        "goals": {"max_ms": GOAL_MAX_MS},
        "holds": all(level["failed"] == 0 and level["max_ms"] <= GOAL_MAX_MS for level in levels),
        "rounds": levels,
    }


def summary(crowd: Crowd) -> dict[str, Any]:
    """One round in numbers; `percentiles_ms` from 0 to 100 stand for all of it."""
    every = (percentile(crowd.opened_ms, part) for part in range(101))
    parts = {f"p{part}_ms": percentile(crowd.opened_ms, part) for part in (50, 99)}
    parts["max_ms"] = max(crowd.opened_ms, default=None)
    return {
        "opened": len(crowd.opened_ms),
        "failed": len(crowd.failures),
        "failures": sorted(set(crowd.failures))[:5],
        **{name: None if value is None else round(value, 1) for name, value in parts.items()},
        "generator_cores": round(crowd.cpu, 2),
        "percentiles_ms": [round(value, 1) for value in every if value is not None],
    }


class Door:
    """An ingress process with room for everybody; `more` are variables on top, `module` what is run instead of ours."""

    def __init__(
        self,
        redis_url: str,
        log: Path,
        count: int,
        certificate: bench_tls.Certificate | None = None,
        more: Mapping[str, str] | None = None,
        module: Sequence[str] = ("cli.main",),
    ) -> None:
        self.port, self.probe_port = (up.free_port() for _ in range(2))
        env = {
            "HOST": up.LOCAL_HOST,
            "PORT": str(self.port),
            "REDIS_URL": redis_url,
            "MAX_SESSIONS": str(2 * count),
            "ADMISSION_TIMEOUT_S": "120",  # there is no worker
            "PROBE_HOST": up.LOCAL_HOST,
            "PROBE_PORT": str(self.probe_port),
            "DRAIN_GRACE_S": "0",
            "LICENSE_REQUIRED": "false",
            **(certificate.env() if certificate else {}),
            **(more or {}),
        }
        self.child = Child("ingress", [sys.executable, "-m", *module, "ingress", "--with-parent"], env, log)

    def wait(self) -> None:
        """Until it is ready and nobody is inside. Raises StackFailed."""
        deadline_s = time.monotonic() + READY_TIMEOUT_S
        while not (up.is_ready(self.probe_port) and self._inside() == 0):
            self.check()
            if time.monotonic() > deadline_s:
                raise up.StackFailed(f"the ingress is not ready after {READY_TIMEOUT_S:.0f} s")
            time.sleep(0.05)

    def check(self) -> None:
        """Raises StackFailed if it has died."""
        if (code := self.child.exit_code) is not None:
            raise up.StackFailed(f"the ingress died ({died_of(code)})\n{self.child.tail()}")

    def _inside(self) -> int:
        return int(metric(self.probe_port, "steno_sessions_open").get("", -1))


def send(port: int, count: int, certificate: bench_tls.Certificate | None = None) -> Crowd:
    """A crowd from another process."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(gather, port, count, certificate).result()


def gather(port: int, count: int, certificate: bench_tls.Certificate | None = None) -> Crowd:
    """The crowd, from this process."""
    service.allow_open_files(count + 64)
    context = certificate.trusting() if certificate else None
    started_s, cpu_s = time.monotonic(), time.process_time()
    opened_ms, failures = asyncio.run(_all(port, count, context))
    return Crowd(opened_ms, failures, (time.process_time() - cpu_s) / (time.monotonic() - started_s))


class _Opening(asyncio.Protocol):
    """One that wants in. `opened` is set to the time of its 101, in seconds."""

    def __init__(self, request: bytes, opened: "asyncio.Future[float]") -> None:
        self._request, self._opened = request, opened
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast(asyncio.WriteTransport, transport).write(self._request)

    def data_received(self, data: bytes) -> None:
        if self._opened.done():
            return
        self._received += data
        if b"\r\n\r\n" in self._received:
            if self._received.startswith(b"HTTP/1.1 101 "):
                self._opened.set_result(time.monotonic())
            else:
                self._opened.set_exception(ConnectionError(self._received[:40].decode("latin-1")))

    def connection_lost(self, error: Exception | None) -> None:
        if not self._opened.done():
            self._opened.set_exception(ConnectionError(str(error or "closed before an answer")))


async def _all(port: int, count: int, context: ssl.SSLContext | None) -> tuple[list[float], list[str]]:
    requests = [_REQUEST.format(path=path).encode() for path in PATHS]
    transports: list[asyncio.BaseTransport] = []
    async with asyncio.TaskGroup() as tasks:
        waiting = [
            tasks.create_task(_one(port, requests[number % len(requests)], transports, context))
            for number in range(count)
        ]
    for transport in transports:
        transport.close()
    results = [one.result() for one in waiting]
    opened = [result for result in results if isinstance(result, float)]
    return opened, [result for result in results if isinstance(result, str)]


async def _one(
    port: int, request: bytes, transports: list[asyncio.BaseTransport], context: ssl.SSLContext | None
) -> float | str:
    """ms to 101, or why not."""
    loop = asyncio.get_running_loop()
    opened: asyncio.Future[float] = loop.create_future()
    started_s = time.monotonic()
    try:
        async with asyncio.timeout(PATIENCE_S):
            transport, _ = await loop.create_connection(
                lambda: _Opening(request, opened),
                up.LOCAL_HOST,
                port,
                ssl=context,
                server_hostname=bench_tls.NAME if context else None,
            )
            transports.append(transport)
            return (await opened - started_s) * 1000
    except (OSError, TimeoutError) as error:
        return str(error) or "no answer in time"
