"""Time by arq: once a second, in one process or in each, until told to stop; errors belong to the service."""

import asyncio
import contextlib
from collections import Counter
from functools import partial
from typing import Any

import pytest
import redis

from cli.redis_server import EmbeddedRedis
from wire import ticks


def unexpected(error: Exception) -> None:
    raise AssertionError("Redis was missed") from error


def test_it_calls_once_a_second_until_drained(run, redis_url, keys, wait_until):
    async def scenario() -> None:
        drain, called = asyncio.Event(), []
        loop = asyncio.get_running_loop()

        async def call() -> None:
            called.append(loop.time())

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(ticks.every_second(redis_url, keys.ticks("x"), call, drain, unexpected))
            await wait_until(lambda: len(called) >= 5)
            drain.set()
        assert 2.0 < called[4] - called[1] < 5.0  # the first comes at once

    run(scenario())


def test_the_queue_expires_whenever_it_is_left(run, redis_url, keys, wait_until):
    """Also by SIGKILL: looked at from outside, at any moment in which it is there, it has an expiry."""

    async def scenario() -> None:
        drain, seen = asyncio.Event(), []

        async def call() -> None:
            pass

        with redis.Redis.from_url(redis_url) as client:

            def look() -> bool:
                ttl: Any = client.ttl(keys.ticks("x"))
                seen.append(ttl)
                return seen.count(-2) >= 2 and max(seen) > 0 and len(seen) > 300

            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(ticks.every_second(redis_url, keys.ticks("x"), call, drain, unexpected))
                await wait_until(look)
                drain.set()
        assert seen.count(-1) <= 2  # between the two commands that make it and let it expire

    run(scenario())


def test_replicas_share_a_queue_and_each_second_is_one_of_them_s(run, redis_url, keys, wait_until):
    async def scenario() -> None:
        drain, seconds = asyncio.Event(), []
        called: Counter[str] = Counter()
        loop = asyncio.get_running_loop()

        async def call(name: str) -> None:
            called[name] += 1
            seconds.append(loop.time())

        async with asyncio.TaskGroup() as tasks:
            for name in "ab":
                tasks.create_task(
                    ticks.every_second(redis_url, keys.ticks("x"), partial(call, name), drain, unexpected)
                )
            await wait_until(lambda: len(seconds) >= 7)
            drain.set()
        # Each calls once when it starts; twice as fast would be two calls a second.
        assert seconds[6] - seconds[2] > 2.5

    run(scenario())


def test_processes_with_queues_of_their_own_are_called_each(run, redis_url, keys, wait_until):
    async def scenario() -> None:
        drain = asyncio.Event()
        called: Counter[str] = Counter()

        async def call(name: str) -> None:
            called[name] += 1

        async with asyncio.TaskGroup() as tasks:
            for name in "ab":
                tasks.create_task(
                    ticks.every_second(redis_url, keys.ticks(name), partial(call, name), drain, unexpected)
                )
            await wait_until(lambda: min(called["a"], called["b"]) >= 2)
            drain.set()

    run(scenario())


def test_what_the_call_raises_comes_out(run, redis_url, keys):
    async def call() -> None:
        raise ZeroDivisionError("ours")

    with pytest.raises(ZeroDivisionError, match="ours"):
        run(ticks.every_second(redis_url, keys.ticks("x"), call, asyncio.Event(), unexpected))


def test_a_slow_call_is_not_joined_by_a_second_one(run, redis_url, keys, wait_until):
    async def scenario() -> None:
        drain, go, inside, most, calls = asyncio.Event(), asyncio.Event(), 0, 0, 0

        async def call() -> None:
            nonlocal inside, most, calls
            inside, calls = inside + 1, calls + 1
            most = max(most, inside)
            await go.wait()
            inside -= 1

        loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(ticks.every_second(redis_url, keys.ticks("x"), call, drain, unexpected))
            await wait_until(lambda: calls == 1)
            later = loop.time() + 2.5
            await wait_until(lambda: loop.time() > later)
            assert calls == 1
            go.set()
            await wait_until(lambda: calls >= 2)
            drain.set()
        assert most == 1

    run(scenario())


def test_a_call_in_the_midst_is_waited_for(run, redis_url, keys, wait_until):
    async def scenario() -> None:
        drain, began, ended = asyncio.Event(), asyncio.Event(), []

        async def call() -> None:
            began.set()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0)
            ended.append(True)

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(ticks.every_second(redis_url, keys.ticks("x"), call, drain, unexpected))
            await began.wait()
            drain.set()
        assert ended

    run(scenario())


def test_two_stacks_on_one_server_do_not_take_each_other_s_seconds(run, redis_url, keys, wait_until):
    other = type(keys)(keys.namespace + "-other")

    async def scenario() -> None:
        drain = asyncio.Event()
        called: Counter[str] = Counter()

        async def call(name: str) -> None:
            called[name] += 1

        async with asyncio.TaskGroup() as tasks:
            for name, of in (("ours", keys), ("theirs", other)):
                tasks.create_task(
                    ticks.every_second(redis_url, of.ticks("x"), partial(call, name), drain, unexpected)
                )
            await wait_until(lambda: min(called["ours"], called["theirs"]) >= 3)
            drain.set()

    run(scenario())
    with redis.Redis.from_url(redis_url) as client:
        left = list(client.scan_iter(match=other.everything()))
        assert [key for key in left if client.ttl(key) == -1] == []
        if left:
            client.delete(*left)


@pytest.mark.timeout(90)
def test_it_outlives_redis(run, keys, free_port, wait_until):
    async def scenario() -> None:
        drain, called = asyncio.Event(), []
        missed: list[Exception] = []
        first = EmbeddedRedis()
        first.start()
        url = first.url
        relay = Relay()
        await relay.open(url)

        async def call() -> None:
            called.append(1)

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(ticks.every_second(relay.url, keys.ticks("x"), call, drain, missed.append))
            await wait_until(lambda: called)
            await relay.cut()
            await wait_until(lambda: missed)
            before = len(called)
            await relay.mend()
            await wait_until(lambda: len(called) > before + 1)
            drain.set()
        await relay.close()
        first.stop()

    run(scenario())


class Relay:
    """A wire to Redis that can be cut: a port that passes bytes on, or hangs up."""

    async def open(self, url: str) -> None:
        from urllib.parse import urlsplit

        self._path = urlsplit(url)
        self._whole = True
        self._writers: list[asyncio.StreamWriter] = []
        self._server = await asyncio.start_server(self._pass, "127.0.0.1", 0)
        self.url = f"redis://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/0"

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self._whole:
            writer.close()
            return
        there = await (
            asyncio.open_unix_connection(self._path.path)
            if self._path.scheme == "unix"
            else asyncio.open_connection(self._path.hostname, self._path.port)
        )
        self._writers += [writer, there[1]]
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._pump(reader, there[1]))
            tasks.create_task(self._pump(there[0], writer))

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(4096):
                writer.write(data)
        writer.close()

    async def cut(self) -> None:
        self._whole = False
        for writer in self._writers:
            writer.close()

    async def mend(self) -> None:
        self._whole = True

    async def close(self) -> None:
        await self.cut()
        self._server.close()


def test_it_ends_whenever_it_is_cancelled(run, redis_url, keys):
    """Though redis-py may forget the cancellation of a send: which it does now and then, at a moment of its choice."""

    async def scenario() -> None:
        async def call() -> None:
            pass

        for pause_s in (0.0, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032) * 6:
            args = (redis_url, keys.ticks("x"), call, asyncio.Event(), unexpected)
            async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
                task = tasks.create_task(ticks.every_second(*args))
                await asyncio.wait([task], timeout=pause_s)
                task.cancel()
            assert task.cancelled()

    run(scenario())
