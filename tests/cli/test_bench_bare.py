"""`cli.bench_bare`: a server that takes frames, as any client sends them, and forgets them."""

import asyncio

from websockets.asyncio.client import connect

from cli import bench_bare


def test_it_listens_takes_and_answers_a_close() -> None:
    async def scenario(port: int) -> int | None:
        async with connect(f"ws://127.0.0.1:{port}", proxy=None) as connection:
            for _ in range(10):
                await connection.send(bytes(1_600))
        return connection.close_code

    with bench_bare.running() as (port, pid):
        assert pid > 0
        assert asyncio.run(scenario(port)) == 1000
