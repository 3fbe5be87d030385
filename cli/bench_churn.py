"""What many short sessions leave behind: memory, files, tasks and keys, before and after.

Real ingress and Redis as processes, a scripted worker and the clients in processes of their own. The clients are of
every kind: well-behaved, vanishing in mid-speech, leaving before Begin, sending nonsense, too much, no audio,
or what cannot be decoded.
"""

import asyncio
import contextlib
import multiprocessing
import random
import ssl
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from cli import bench_scripted, bench_tls, redis_server, up
from cli.bench_machine import largest, metric
from wire.streams import FORGOTTEN_TTL_S, MAX_CONNECTIONS

AT_ONCE = 50
WARM_UP = 1_000
FRAME = bytes(3_200)  # 100 ms
#: Unix sockets of an ingress: its pool of connections to Redis, which stay open once many commands met at one moment;
#: its inbox and the news, each on one of its own; and the loop's pair.
MAX_UNIX_SOCKETS = MAX_CONNECTIONS + 4
#: Keys of ended sessions live so long; then nothing may be left of them.
KEYS_GONE_S = 2.0 * FORGOTTEN_TTL_S
KINDS = (
    *("good", "vanishing", "early", "nonsense", "too long", "wordless", "bad parameter"),
    *("mu-law", "broken opus", "broken aac"),
)
_QUERIES = {
    "bad parameter": "sample_rate=4000",
    "mu-law": "sample_rate=16000&encoding=pcm_mulaw",
    "broken opus": "encoding=opus",
    "broken aac": "encoding=aac",
}
#: What cannot be decoded: no packet of Opus, and more than is searched for the first frame of AAC.
_BROKEN = {"broken opus": b"\xff" * 400, "broken aac": bytes(70_000)}
METHOD = (
    "Real ingress and Redis as processes, a scripted worker (no model) and the clients in processes of their own, "
    f"{AT_ONCE} sessions at a time, kinds in turn at random: {', '.join(KINDS)}. Measured after {WARM_UP} sessions of "
    "warm-up and again after all; keys are counted once the last session's have had their time to expire. "
    "files: without Unix sockets, which are connections to Redis, pooled and bounded. "
    "growth: memory of the ingress process, after less before, per thousand sessions between."
)


def run(sessions: int, tell: Callable[[str], None], tls: bool = False) -> dict[str, Any]:
    """Measure, over TLS if so wished. Raises StackError."""
    with tempfile.TemporaryDirectory(prefix="steno-bench-") as folder, redis_server.EmbeddedRedis() as redis:
        certificate = bench_tls.make(Path(folder)) if tls else None
        env = {"MAX_SESSIONS": str(4 * AT_ONCE), **(certificate.env() if certificate else {})}
        stack = up.Stack(pools=(), redis_url=redis.url, env=env)
        with bench_scripted.running(redis.url), stack:
            tell(f"warming up with {WARM_UP} sessions")
            _churn(stack.url, WARM_UP, 0, certificate)
            until_no_keys(redis)
            before = _state(stack, redis)
            tell(f"{sessions} sessions")
            started_s = time.monotonic()
            outcomes = _churn(stack.url, sessions, 1, certificate)
            seconds = time.monotonic() - started_s
            tell("waiting for keys to expire")
            until_no_keys(redis)
            after = _state(stack, redis)
    grown_kib = (after["ingress_rss_kib"] - before["ingress_rss_kib"]) * 1000 / sessions
    return {
        "settings": {"sessions": sessions, "at_once": AT_ONCE, "tls": tls},
        "method": METHOD,
        "before": before,
        "after": after,
        "outcomes": outcomes,
        "seconds": round(seconds, 1),
        "growth_kib_per_1000": round(grown_kib, 1),
        "leaks": leaks(before, after),
    }


def leaks(before: Mapping[str, float], after: Mapping[str, float]) -> list[str]:
    """What is left that should not be: names of measures."""
    left = [
        name for name in ("tasks", "files", "sessions_open", "session_keys") if after[name] > before[name]
    ]
    return left + ["unix_sockets"] * (after["unix_sockets"] > MAX_UNIX_SOCKETS)


def _churn(url: str, sessions: int, seed: int, certificate: bench_tls.Certificate | None) -> dict[str, int]:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(_clients, url, sessions, seed, certificate).result()


def _clients(url: str, sessions: int, seed: int, certificate: bench_tls.Certificate | None) -> dict[str, int]:
    return asyncio.run(_all(url, sessions, seed, certificate.trusting() if certificate else None))


async def _all(url: str, sessions: int, seed: int, context: ssl.SSLContext | None) -> dict[str, int]:
    kinds = random.Random(seed)
    outcomes: Counter[str] = Counter()
    waiting = [kinds.choice(KINDS) for _ in range(sessions)]

    async def one_after_another() -> None:
        while waiting:
            kind = waiting.pop()
            outcomes[f"{kind}: {await session(url, kind, context)}"] += 1

    async with asyncio.TaskGroup() as tasks:
        for _ in range(AT_ONCE):
            tasks.create_task(one_after_another())
    return dict(sorted(outcomes.items()))


async def session(url: str, kind: str, context: ssl.SSLContext | None = None) -> str:
    """One session of its kind; how it ended for the client: a close code, or what it did itself."""
    query = f"?{_QUERIES.get(kind, 'sample_rate=16000')}"
    try:
        connection = await connect(
            url + query,
            additional_headers={"Authorization": "bench"},
            compression=None,
            proxy=None,
            ssl=context,
        )
    except (OSError, TimeoutError, InvalidHandshake) as error:
        return f"not connected, {type(error).__name__}"
    try:
        if kind == "early":
            await connection.close()
            return "left"
        await connection.recv()
        for _ in range(3 if kind != "wordless" else 0):
            await connection.send(_BROKEN.get(kind, FRAME))
        match kind:
            case "vanishing":
                connection.transport.abort()
                return "vanished"
            case "nonsense":
                await connection.send("{")
            case "too long":
                await connection.send(FRAME * 12)
            case _:
                await connection.send('{"type":"Terminate"}')
        while True:
            await connection.recv()
    except ConnectionClosed as closed:
        return str(closed.rcvd.code if closed.rcvd else "lost")
    finally:
        with contextlib.suppress(Exception):
            await connection.close()


def _state(stack: up.Stack, redis: redis_server.EmbeddedRedis) -> dict[str, float]:
    """The ingress process and Redis, at rest."""
    port = stack.probe_ports["ingress"]
    until(lambda: value(port, "steno_sessions_open") == 0, 30, "sessions that do not end")
    time.sleep(1.5)  # the gauge of tasks is set once a second
    ingress = largest(stack.pids["ingress"])
    unix_sockets = len(ingress.net_connections("unix"))
    return {
        "ingress_rss_kib": ingress.memory_info().rss // 1024,
        "files": ingress.num_fds() - unix_sockets,
        "unix_sockets": unix_sockets,
        "threads": ingress.num_threads(),
        "tasks": value(port, "steno_tasks"),
        "sessions_open": value(port, "steno_sessions_open"),
        "session_keys": _session_keys(redis),
    }


def value(port: int, name: str) -> float:
    """Raises StackFailed for a metric that is not there: two wrong states would look alike."""
    found = metric(port, name).get("")
    if found is None:
        raise up.StackFailed(f"the ingress tells no {name}")
    return found


def _session_keys(redis: redis_server.EmbeddedRedis) -> int:
    return redis.count_keys("*session*")


def until_no_keys(redis: redis_server.EmbeddedRedis, within_s: float = KEYS_GONE_S) -> None:
    """Raises StackFailed when keys of sessions are there for longer."""
    until(lambda: not _session_keys(redis), within_s, "keys that outlive their sessions")


def until(condition: Callable[[], bool], within_s: float, what: str) -> None:
    """Raises StackFailed when it does not come true: then that is the leak."""
    deadline_s = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline_s:
            raise up.StackFailed(f"{what}, after {within_s:.0f} s")
        time.sleep(0.2)
