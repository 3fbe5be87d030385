"""The least a Python server can do with audio: receive it, by the library that ingress uses, and forget it.

What an ingress takes is told beside what this takes, on the same machine in the same run: machines differ.
"""

import asyncio
import contextlib
import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection

from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from cli import up
from wire import service


@contextmanager
def running() -> Iterator[tuple[int, int]]:
    """The server, while inside: its port and its process id."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_main, args=(theirs,), daemon=True)
    process.start()
    theirs.close()
    try:
        yield ours.recv(), process.pid or 0
    finally:
        ours.close()
        process.join(10)
        process.kill()


def _main(owner: Connection) -> None:
    service.allow_open_files(20_000)
    with asyncio.Runner(loop_factory=service.new_event_loop) as runner:
        runner.run(_serve(owner))


async def _serve(owner: Connection) -> None:
    gone = asyncio.Event()
    asyncio.get_running_loop().add_reader(owner.fileno(), gone.set)
    async with serve(
        _receive, up.LOCAL_HOST, 0, compression=None, ping_interval=None, backlog=4096
    ) as server:
        owner.send(next(iter(server.sockets)).getsockname()[1])
        await gone.wait()
        server.close(close_connections=False)
        for connection in server.connections:
            connection.transport.abort()


async def _receive(connection: ServerConnection) -> None:
    with contextlib.suppress(ConnectionClosed):
        while True:
            await connection.recv()
