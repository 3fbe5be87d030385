"""`steno replay play`: a server that tells every client what a recorded client was told, when it was told.

For developers of apps: point one at it, and it meets the session of Tuesday again. What the app sends is read and
counts for nothing; only its Terminate brings what is left at once.
"""

import asyncio
import contextlib
import json
from collections.abc import Callable

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from wire.errors import REASON_ENDED, Close, StackError
from wire.recorded import Connection
from wire.recordings import Recording

HOST = "127.0.0.1"


class CannotPlay(StackError):
    """There is nothing to play, or nowhere to play it."""


class Player:
    """Plays one recording to any number of clients; `fast`: without its pauses. `tell` hears of each client."""

    def __init__(self, recording: Recording, fast: bool, tell: Callable[[str], None]) -> None:
        if not recording.messages:
            raise CannotPlay(f"in the recording {recording.facts.id} the client was told nothing")
        self._start_s = recording.messages[0].at_s
        self._messages = [(message.at_s, message.item.text) for message in recording.messages]
        closed = [one for one in recording.of(Connection) if one.happened == "closed"]
        last = closed[-1] if closed else None
        self._close = (last.code, last.reason) if last else (int(Close.NORMAL), REASON_ENDED)
        self._fast = fast
        self._tell = tell

    async def listen(self, port: int, host: str = HOST) -> Server:
        """The server, running. Raises CannotPlay for a taken port."""
        try:
            return await serve(self._play, host, port, compression=None, max_size=2**20)
        except OSError as error:
            raise CannotPlay(f"cannot listen on {host} port {port}: {error.strerror or error}") from None

    async def _play(self, connection: ServerConnection) -> None:
        self._tell("a client connected")
        hurry = asyncio.Event()
        with contextlib.suppress(ConnectionClosed):
            async with asyncio.TaskGroup() as tasks:
                reading = tasks.create_task(_read(connection, hurry))
                await self._send(connection, hurry)
                reading.cancel()
            await connection.close(*self._close)
        self._tell("its session is over")

    async def _send(self, connection: ServerConnection, hurry: asyncio.Event) -> None:
        begun_s = asyncio.get_running_loop().time()
        for at_s, text in self._messages:
            if not self._fast:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout_at(begun_s + at_s - self._start_s):
                        await hurry.wait()
            with contextlib.suppress(ConnectionClosed):
                await connection.send(text)


async def _read(connection: ServerConnection, hurry: asyncio.Event) -> None:
    with contextlib.suppress(ConnectionClosed):
        async for message in connection:
            if isinstance(message, str) and _ends(message):
                hurry.set()
    hurry.set()  # it is gone


def _ends(text: str) -> bool:
    try:
        fields = json.loads(text)
    except ValueError:
        return False
    return isinstance(fields, dict) and fields.get("type") == "Terminate"
