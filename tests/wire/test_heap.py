"""Free memory goes back to the system."""

import asyncio
import resource
import subprocess
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


@pytest.mark.skipif(heap._SET is None or sys.platform != "linux", reason="no glibc")
def test_what_is_freed_at_the_end_of_the_heap_is_kept_for_the_next_beat() -> None:
    """In a process of its own: how a heap is kept cannot be asked, nor be set as it was."""
    code = """
import resource, sys
from wire import heap
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def beat():
    before = faults()
    for _ in range(20):
        parts = [bytearray(64_000) for _ in range(16)]
        del parts
    return faults() - before
beat()
given_back = beat()
assert heap.hold()
beat()
print(given_back, beat())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    given_back, held = map(int, done.stdout.split())
    assert given_back > 2_000
    assert held < given_back / 20


def test_where_it_cannot_be_done_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heap, "_TRIM", None)
    monkeypatch.setattr(heap, "_SET", None)
    assert heap.trim() is False
    assert heap.hold() is False


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
