"""`cli.bench_crowd`: a small crowd speaks to a bare server, and to who says nothing it says so."""

import asyncio
import threading
import time
from collections.abc import Iterator

import pytest

from cli import bench_bare, bench_crowd
from cli.bench_crowd import CrowdFailed, _first


def test_all_speak_in_real_time_and_newcomers_come_and_go() -> None:
    with bench_bare.running() as (port, pid), bench_crowd.running(port, greeted=False) as crowd:
        assert pid > 0
        crowd.grow(3)
        crowd.grow(5)
        started_s = time.monotonic()
        seen = crowd.measure(1.0)
        seconds = time.monotonic() - started_s
    assert seen.failed == 0
    assert len(seen.begins) >= 1
    assert min(seen.begins) > 0
    # 5 sessions x 20 frames a second; the machine may be busy, but no frame is sent before its time.
    assert 0 < len(seen.late) <= 5 * (20 * seconds + 2)
    assert min(seen.late) >= 0
    assert seen.cores > 0


@pytest.fixture
def mute() -> Iterator[int]:
    """The port of a server that hangs up on everybody."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    async def start() -> asyncio.Server:
        return await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)

    server = asyncio.run_coroutine_threadsafe(start(), loop).result()
    yield server.sockets[0].getsockname()[1]

    async def stop() -> None:
        server.close()
        await server.wait_closed()

    asyncio.run_coroutine_threadsafe(stop(), loop).result()
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def test_who_does_not_get_in_says_so(mute) -> None:
    with bench_crowd.running(mute) as crowd, pytest.raises(CrowdFailed, match="did not begin, of 2"):
        crowd.grow(2)


@pytest.mark.parametrize("size", [0, 125, 126, 70_000])
def test_a_frame_is_read_when_it_is_there(size: int) -> None:
    payload = b"x" * size
    if size < 126:
        length = bytes((size,))
    else:
        length = b"\x7e" + size.to_bytes(2, "big") if size < 2**16 else b"\x7f" + size.to_bytes(8, "big")
    whole = b"\x81" + length + payload
    assert _first(whole + b"more") == (len(whole), payload)
    assert _first(whole[:-1]) is None
