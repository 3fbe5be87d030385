"""Room for one more: counted while it is plenty, asked for near the end, and asked once for a crowd."""

import asyncio
from collections.abc import Callable

import pytest

from ingress.admission import FRESH_S, Admission
from ingress.pools import Pools
from tests.conftest import Clock
from wire.entries import WorkerLoad


class Redis:
    """What Redis would tell of one pool."""

    def __init__(self, slots: int, clock: Clock) -> None:
        self.slots, self.offered, self.looks = slots, 0, 0
        self.reachable = True
        self.pools = Pools()
        self._clock = clock
        self.gate: asyncio.Event | None = None
        self.asked = asyncio.Event()

    async def look(self) -> None:
        self.looks += 1
        offered = self.offered
        self.asked.set()
        if self.gate:
            await self.gate.wait()
        if self.reachable:
            load = WorkerLoad(self.slots, max(0, self.slots - offered), 0, 0, "m")
            self.pools.heard({"p": {"w": load}}, self._clock(), {}, {"p": offered})

    def admission(self, queue: int = 0) -> Admission:
        return Admission(self.pools, self.look, queue, self._clock)


async def enter(redis: Redis, admission: Admission) -> bool:
    if await admission.is_full("p"):
        return False
    with admission.offering("p"):
        redis.offered += 1
    return True


@pytest.fixture
def redis(clock: Clock) -> Redis:
    return Redis(8, clock)


def test_as_many_are_let_in_as_there_are_slots(run: Callable, redis: Redis):
    async def scenario() -> None:
        admission = redis.admission()
        await admission.look_again()
        assert [await enter(redis, admission) for _ in range(10)] == [True] * 8 + [False] * 2

    run(scenario())


def test_a_slot_that_is_free_in_a_moment_is_waited_for(run: Callable, redis: Redis):
    async def scenario() -> None:
        admission = redis.admission()
        redis.offered = 8
        await admission.look_again()
        redis._clock.advance(FRESH_S)
        redis.asked.clear()
        async with asyncio.TaskGroup() as tasks:
            full = tasks.create_task(admission.is_full("p"))
            await redis.asked.wait()
            redis.offered = 7  # somebody has ended
            while not full.done():
                redis._clock.advance(FRESH_S)
                await asyncio.sleep(0)
        assert not full.result()

    run(scenario())


def test_who_would_make_room_is_counted_as_room(run: Callable, redis: Redis):
    async def scenario() -> None:
        admission = redis.admission()
        redis.offered = 8
        await admission.look_again()
        assert await admission.is_full("p")
        assert not await admission.is_full("p", yielding=lambda: 1)
        redis.offered = 9
        redis._clock.advance(FRESH_S)
        assert await admission.is_full("p", yielding=lambda: 1)

    run(scenario())


def test_nobody_is_refused_where_nothing_is_known(run: Callable, redis: Redis):
    assert run(redis.admission().is_full("p")) is False


def test_redis_is_asked_near_the_end_only(run: Callable, redis: Redis):
    async def scenario() -> None:
        admission = redis.admission()
        await admission.look_again()
        for _ in range(5):
            assert await enter(redis, admission)
            redis._clock.advance(FRESH_S)
        assert redis.looks == 1
        await enter(redis, admission)
        redis._clock.advance(FRESH_S)
        await enter(redis, admission)
        assert redis.looks == 2

    run(scenario())


def test_what_other_nodes_took_is_found_before_it_is_too_late(run: Callable, redis: Redis):
    async def scenario() -> None:
        admission = redis.admission()
        await admission.look_again()
        assert [await enter(redis, admission) for _ in range(6)] == [True] * 6
        redis.offered += 2  # another node's
        redis._clock.advance(FRESH_S)
        assert not await enter(redis, admission)

    run(scenario())


def test_a_slot_that_is_free_again_is_found(run: Callable, redis: Redis):
    async def scenario() -> None:
        admission = redis.admission()
        redis.offered = 8
        await admission.look_again()
        assert not await enter(redis, admission)
        redis.offered -= 1
        redis._clock.advance(FRESH_S)
        assert await enter(redis, admission)

    run(scenario())


def test_some_may_queue(run: Callable, redis: Redis):
    async def scenario() -> None:
        admission = redis.admission(queue=2)
        await admission.look_again()
        assert [await enter(redis, admission) for _ in range(11)] == [True] * 10 + [False]

    run(scenario())


def test_a_crowd_asks_together_and_gets_no_more_than_there_is(run: Callable, redis: Redis):
    async def scenario() -> None:
        admission = redis.admission()
        redis.offered = 6
        await admission.look_again()
        redis._clock.advance(FRESH_S)
        entered = await asyncio.gather(*(enter(redis, admission) for _ in range(50)))
        assert (sum(entered), redis.looks) == (2, 2)

    run(scenario())


def test_what_is_offered_during_a_look_counts_after_it(run: Callable, redis: Redis):
    async def scenario() -> None:
        admission = redis.admission()
        await admission.look_again()
        redis._clock.advance(FRESH_S)
        redis.gate, redis.asked = asyncio.Event(), asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(admission.look_again())
            await redis.asked.wait()
            assert [await enter(redis, admission) for _ in range(6)] == [True] * 6  # the look has read 0
            redis.gate.set()
        assert [await enter(redis, admission) for _ in range(3)] == [True, True, False]

    run(scenario())


def test_a_redis_that_does_not_answer_is_not_asked_by_each(run: Callable, redis: Redis):
    async def scenario() -> None:
        redis.reachable = False
        admission = redis.admission()
        await asyncio.gather(*(admission.look_again() for _ in range(20)))
        assert redis.looks == 1
        assert await enter(redis, admission), "an old or no knowledge refuses nobody"

    run(scenario())
