"""What is gathered is written once, in order, whatever happens to Redis in between."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from ingress.outbox import Outbox
from wire.entries import AudioFrame, Control, Offer, Order
from wire.errors import BusUnavailable
from wire.keys import Keys
from wire.streams import FORGOTTEN_TTL_S, SESSION_TTL_S, Bus

FRAME = bytes(1600)


def frames(count: int, first: int = 0) -> list[AudioFrame]:
    return [AudioFrame(800 * number, FRAME) for number in range(first, first + count)]


async def logged(bus: Bus, session: str) -> list[Any]:
    found = await bus.read({session: b"0-0"})
    return [entry for _, entry in found[session].entries] if session in found else []


async def lifetime_s(bus: Bus, key: bytes) -> int:
    """Seconds until the key is gone: -2 if it is already."""
    return int(await bus._redis.ttl(key))


def unreachable(free_port: Callable[[], int]) -> Bus:
    return Bus(f"redis://127.0.0.1:{free_port()}/0", Keys("test"))


def test_entries_of_all_sessions_arrive_in_order(run, bus: Bus):
    async def scenario() -> None:
        outbox = Outbox(bus, tick_ms=20)
        end = Control(Order.TERMINATE, 2400)
        for frame in frames(3):
            outbox.append("a", frame)
            outbox.append("b", frame)
        outbox.append("a", end)
        assert outbox.pending_bytes == 6 * len(FRAME)
        await outbox.flush()
        assert outbox.pending_bytes == 0
        assert await logged(bus, "a") == [*frames(3), end]
        assert await logged(bus, "b") == frames(3)
        await outbox.flush()
        assert await logged(bus, "b") == frames(3), "written once"

    run(scenario())


def test_what_comes_during_a_flush_waits_for_the_next(run, bus: Bus):
    async def scenario() -> None:
        outbox = Outbox(bus, tick_ms=20)
        outbox.append("a", frames(1)[0])
        async with asyncio.TaskGroup() as tasks:
            flush = tasks.create_task(outbox.flush())
            await asyncio.sleep(0)  # into the append
            assert not flush.done()
            outbox.append("a", frames(1, first=1)[0])
        assert outbox.pending_bytes == len(FRAME)
        await outbox.flush()
        assert await logged(bus, "a") == frames(2)

    run(scenario())


def test_the_loop_writes_by_itself_and_rests_when_idle(run, bus: Bus, wait_until):
    async def scenario() -> None:
        outbox = Outbox(bus, tick_ms=1)
        async with asyncio.TaskGroup() as tasks:
            loop = tasks.create_task(outbox.run(lambda error: pytest.fail(str(error))))
            for number, frame in enumerate(frames(3), start=1):
                outbox.append("a", frame)
                await wait_until(lambda: outbox.pending_bytes == 0)
                assert len(await logged(bus, "a")) == number
            await wait_until(lambda: not outbox._work.is_set())
            loop.cancel()

    run(scenario())


def test_a_withdrawn_session_leaves_nothing_behind(run, bus: Bus):
    async def scenario() -> None:
        outbox = Outbox(bus, tick_ms=20)
        offer = Offer("a", "node", "english", {})
        offer_id = await bus.offer(offer)
        outbox.append("a", frames(1)[0])
        await outbox.flush()
        outbox.append("a", frames(1, first=1)[0])
        outbox.withdraw(offer, offer_id)
        outbox.append("b", frames(1)[0])
        await outbox.flush()
        assert await bus.waiting("english") == 0
        assert await logged(bus, "a") == []
        assert await logged(bus, "b") == frames(1)
        assert await lifetime_s(bus, bus.keys.state("a")) == -2
        assert outbox.pending_bytes == 0

    run(scenario())


def test_a_forgotten_session_expires_soon(run, bus: Bus):
    async def scenario() -> None:
        outbox = Outbox(bus, tick_ms=20)
        outbox.append("a", frames(1)[0])
        outbox.append("b", frames(1)[0])
        outbox.append("a", Control(Order.ABANDON, 800))
        outbox.forget("a")
        await outbox.flush()
        assert [len(await logged(bus, name)) for name in "ab"] == [2, 1]
        assert 0 < await lifetime_s(bus, bus.keys.audio("a")) <= FORGOTTEN_TTL_S
        assert FORGOTTEN_TTL_S < await lifetime_s(bus, bus.keys.audio("b")) <= SESSION_TTL_S

    run(scenario())


def test_without_redis_everything_is_still_to_do(run, free_port: Callable[[], int]):
    async def scenario() -> None:
        bus = unreachable(free_port)
        outbox = Outbox(bus, tick_ms=20)
        outbox.append("a", frames(1)[0])
        outbox.withdraw(Offer("b", "node", "english", {}), b"1-0")
        outbox.forget("c")
        for _ in range(2):
            with pytest.raises(BusUnavailable):
                await outbox.flush()
            assert outbox.pending_bytes == len(FRAME)
            assert [len(queue) for queue in (outbox._pending, outbox._withdrawn, outbox._forgotten)] == [
                1,
                1,
                1,
            ]
        await bus.close()

    run(scenario())


def test_the_loop_tells_of_each_failed_try(run, free_port: Callable[[], int], wait_until):
    async def scenario() -> None:
        bus = unreachable(free_port)
        missed: list[BusUnavailable] = []
        outbox = Outbox(bus, tick_ms=1)
        async with asyncio.TaskGroup() as tasks:
            loop = tasks.create_task(outbox.run(missed.append))
            outbox.append("a", frames(1)[0])
            await wait_until(lambda: len(missed) == 2)
            loop.cancel()
        assert all(isinstance(error, BusUnavailable) for error in missed)
        await bus.close()

    run(scenario())
