"""`wire.line` over a real Redis, and over a server that does not answer."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import redis.exceptions
from redis.exceptions import ResponseError

from wire import servers
from wire.keys import Keys
from wire.line import Line


@asynccontextmanager
async def line_to(url: str, timeout_s: float = 5.0) -> AsyncIterator[Line]:
    client = servers.connect(servers.parse(url), timeout_s, timeout_s, 2)
    line = Line(client.connection_pool, timeout_s)
    try:
        yield line
    finally:
        await line.close()
        await servers.close(client)


def test_results_come_in_order_and_errors_among_them(run, redis_url: str, keys: Keys) -> None:
    async def scenario() -> list[Any]:
        async with line_to(redis_url) as line:
            key = keys.workers("english")
            asked = [("SET", key, b"\0\r\n", "EX", 60), ("HGET", key, "field"), ("GET", key), ("STRLEN", key)]
            return await line.ask(asked)

    done, refused, value, length = run(scenario())
    assert (done, value, length) == (b"OK", b"\0\r\n", 3)
    assert isinstance(refused, ResponseError)


def test_a_connection_that_the_server_closed_is_made_anew(run, redis_url: str) -> None:
    async def scenario() -> tuple[int, list[Any]]:
        async with line_to(redis_url) as line, line_to(redis_url) as other:
            (number,) = await line.ask([("CLIENT", "ID")])
            await other.ask([("CLIENT", "KILL", "ID", number)])
            return number, await line.ask([("CLIENT", "ID")])

    before, (after,) = run(scenario())
    assert after > before


def test_many_callers_each_get_their_own(run, redis_url: str) -> None:
    async def scenario() -> list[list[Any]]:
        async with line_to(redis_url) as line:
            return await asyncio.gather(*(line.ask([("ECHO", f"{n}"), ("ECHO", "x" * n)]) for n in range(50)))

    assert run(scenario()) == [[b"%d" % n, b"x" * n] for n in range(50)]


def test_who_is_cancelled_leaves_no_answer_to_the_next(run, redis_url: str, keys: Keys) -> None:
    async def scenario() -> list[Any]:
        async with line_to(redis_url) as line:
            await line.ask([("PING",)])
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0):
                    await line.ask([("BLPOP", keys.workers("english"), 3)])
            return await line.ask([("ECHO", "mine")])

    assert run(scenario()) == [b"mine"]


def test_a_server_that_does_not_answer_is_given_up(run) -> None:
    async def scenario(port: int) -> None:
        async with line_to(f"redis://127.0.0.1:{port}/0", timeout_s=0.05) as line:
            with pytest.raises((TimeoutError, redis.exceptions.TimeoutError)):
                await line.ask([("PING",)])

    with socket.create_server(("127.0.0.1", 0)) as silent:
        run(scenario(silent.getsockname()[1]))


def test_without_a_server_it_says_so(run, free_port: Callable[[], int]) -> None:
    async def scenario() -> None:
        async with line_to(f"redis://127.0.0.1:{free_port()}/0") as line:
            with pytest.raises(redis.exceptions.ConnectionError):
                await line.ask([("PING",)])

    run(scenario())
