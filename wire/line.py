"""A connection of our own to one Redis server, for what is asked of it every few milliseconds.

redis-py's client packs word by word in Python, sends in a task of its own, and takes a connection from its pool and
gives it back with each call (DECISIONS.md, "A line to Redis"). A line keeps one of the library's connections, which
knows sentinels, TLS and passwords, and hands it what hiredis has packed. One caller at a time; the others wait.
"""

import asyncio
from collections.abc import Sequence
from typing import Any

import hiredis
from redis.exceptions import ResponseError


class Line:
    """`ask` as often as you like, from one event loop; `close` when done. `pool`: what makes redis-py's connections."""

    def __init__(self, pool: Any, timeout_s: float) -> None:
        self._pool = pool
        self._timeout_s = timeout_s
        self._connection: Any = None
        self._lock = asyncio.Lock()

    async def ask(self, commands: Sequence[Sequence[Any]]) -> list[Any]:
        """Run the commands in one round trip; their results in order, errors that Redis answers among them.

        Raises what redis-py raises where the server is not reached, and TimeoutError. Nothing is tried twice; the next
        call connects anew.
        """
        packed = [hiredis.pack_command(tuple(words)) for words in commands]
        async with self._lock, asyncio.timeout(self._timeout_s):
            connection = self._connection = self._connection or self._pool.make_connection()
            # One that the server has closed meanwhile is made anew.
            await self._pool.ensure_connection(connection)
            connection.socket_timeout = None  # there is one for all; the library's would be a task for each
            await connection.send_packed_command(packed, check_health=False)
            return [await _answer(connection) for _ in packed]

    async def close(self) -> None:
        if self._connection is not None:
            await self._connection.disconnect()


async def _answer(connection: Any) -> Any:
    try:
        return await connection.read_response()
    except ResponseError as error:
        return error
