"""`cli.bench_handshake`: a small crowd at a real ingress, and what becomes of those who do not get in."""

import asyncio
import threading
from collections.abc import Callable, Iterator

import pytest

from cli import bench_handshake
from cli.bench_handshake import Crowd, gather, send, summary


@pytest.fixture
def answering() -> Iterator[Callable[[bytes], int]]:
    """`answering(reply)`: the port of a server that says this to everybody, then closes."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    servers: list[asyncio.Server] = []

    async def start(reply: bytes) -> int:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(reply)
            writer.close()

        servers.append(await asyncio.start_server(answer, "127.0.0.1", 0))
        port: int = servers[-1].sockets[0].getsockname()[1]
        return port

    async def stop() -> None:
        for server in servers:
            server.close()
            await server.wait_closed()

    yield lambda reply: asyncio.run_coroutine_threadsafe(start(reply), loop).result()
    asyncio.run_coroutine_threadsafe(stop(), loop).result()
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def test_a_small_crowd_gets_in() -> None:
    told: list[str] = []
    result = bench_handshake.run(20, 2, told.append)
    assert told == ["round 1 of 2, 20 at once", "round 2 of 2, 20 at once"]
    assert [(found["opened"], found["failed"]) for found in result["rounds"]] == [(20, 0)] * 2
    for found in result["rounds"]:
        assert 0 < found["p50_ms"] <= found["p99_ms"] <= found["max_ms"]
        assert found["percentiles_ms"][100] == found["max_ms"]
        assert set(found["cores"]) == {"ingress", "redis", "others"}


def test_a_small_crowd_gets_in_over_tls() -> None:
    result = bench_handshake.run(20, 1, lambda _: None, tls=True)
    assert [(found["opened"], found["failed"]) for found in result["rounds"]] == [(20, 0)]
    assert result["settings"]["tls"]


def test_time_ends_with_the_101(answering) -> None:
    crowd = send(answering(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n"), 3)
    assert len(crowd.opened_ms) == 3
    assert min(crowd.opened_ms) > 0
    assert crowd.failures == []


@pytest.mark.parametrize(
    "reply,why",
    [
        (b"HTTP/1.1 503 Service Unavailable\r\n\r\n", "HTTP/1.1 503 Service Unavailable"),
        (b"HTTP/1.1 101 Switch", "closed before an answer"),
        (b"", "closed before an answer"),
    ],
)
def test_who_does_not_get_in_is_counted_as_such(answering, reply, why) -> None:
    crowd = gather(answering(reply), 2)
    assert crowd.opened_ms == []
    assert len(crowd.failures) == 2
    assert all(why in failure for failure in crowd.failures)


def test_nobody_listens(free_port) -> None:
    crowd = gather(free_port(), 2)
    assert len(crowd.failures) == 2


def test_a_summary_of_nothing_and_of_something() -> None:
    assert summary(Crowd([], ["no", "no"], 0.1))["failures"] == ["no"]
    assert summary(Crowd([], ["no"], 0.1))["max_ms"] is None
    assert summary(Crowd([], ["no"], 0.1))["percentiles_ms"] == []
    found = summary(Crowd([1.0, 2.0, 9.04], [], 0.123))
    assert (found["p50_ms"], found["max_ms"], found["generator_cores"]) == (2.0, 9.0, 0.12)
