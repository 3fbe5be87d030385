"""Free memory goes back to the system."""

import asyncio
import resource
import sys
from pathlib import Path

import pytest

from wire import heap

MIB = 2**20


def resident() -> int:
    """Memory of this process, in bytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


@pytest.mark.skipif(heap._TRIM is None or sys.platform != "linux", reason="no glibc")
def test_what_lies_free_between_what_is_used_is_given_back() -> None:
    pieces = [bytes(1_000 + place % 7) for place in range(200_000)]
    used = pieces[::500]  # all over the heap
    full = resident()
    pieces.clear()
    assert heap.trim()
    assert resident() < full - 100 * MIB
    assert sum(map(sys.getsizeof, used)) < MIB


def test_where_it_cannot_be_done_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heap, "_TRIM", None)
    assert heap.trim() is False


def test_it_is_done_again_and_again(run, wait_until, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(heap, "_TRIM", asked.append)

    async def scenario() -> None:
        async with asyncio.TaskGroup() as tasks:
            loop = tasks.create_task(heap.keep_trim(0.001))
            await wait_until(lambda: len(asked) >= 3)
            loop.cancel()

    run(scenario())
    assert set(asked) == {0}
