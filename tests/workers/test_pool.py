"""Leases of one worker, over a real Redis."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from wire.entries import Lease, Offer, WorkerLoad
from wire.errors import BusUnavailable
from wire.keys import WORKERS_GROUP, Keys
from wire.params import SessionParams
from wire.presence import Presence
from wire.streams import Bus
from wire.tasks import end
from workers.pool import Pool

POOL = "english"
PARAMS = SessionParams().for_worker()
Run = Callable[..., Any]


def hire(bus: Bus, name: str, lease_s: float = 60.0) -> Pool:
    return Pool(bus, POOL, name, lease_s)


async def offer(bus: Bus, *sessions: str) -> None:
    for session in sessions:
        await bus.offer(Offer(session, "node", POOL, PARAMS))


async def taken(bus: Bus, pool: Pool, *sessions: str) -> list[Lease]:
    await pool.join()
    await offer(bus, *sessions)
    leases = await pool.take(len(sessions), 20)
    assert [lease.session for lease in leases] == list(sessions)
    return leases


def test_renewal_comes_four_times_in_the_life_of_a_lease(bus: Bus) -> None:
    assert hire(bus, "a", lease_s=3.0).renew_s == 0.75


def test_offers_are_taken_up_to_a_count_and_kept(bus: Bus, run: Run) -> None:
    async def scenario() -> None:
        pool = hire(bus, "a")
        await pool.join()
        assert await pool.take(2, 1) == []
        await offer(bus, "s", "t", "u")
        assert [lease.session for lease in await pool.take(2, 20)] == ["s", "t"]
        assert [lease.session for lease in await pool.take(2, 20)] == ["u"]
        assert sorted(pool.leases) == ["s", "t", "u"]
        assert await pool.renew() == []

    run(scenario())


def test_a_settled_session_is_gone_for_good(bus: Bus, run: Run) -> None:
    async def scenario() -> None:
        pool = hire(bus, "a", lease_s=0.001)
        leases = await taken(bus, pool, "s")
        await pool.settle(leases)
        assert pool.leases == {}
        assert await hire(bus, "b", lease_s=0.0).take_over(5) == []

    run(scenario())


def test_a_worker_that_leaves_gives_everything_back_at_once(bus: Bus, run: Run) -> None:
    async def scenario() -> None:
        first, second = hire(bus, "a"), hire(bus, "b")
        await taken(bus, first, "s", "t")
        assert await second.take_over(5) == []  # the leases are young
        await first.leave()
        assert first.leases == {}
        leases = await second.take_over(5)
        assert sorted(lease.session for lease in leases) == ["s", "t"]
        assert {lease.takes for lease in leases} == {2}

    run(scenario())


def test_a_lease_taken_by_another_is_lost_and_cannot_be_renewed(bus: Bus, run: Run) -> None:
    async def scenario() -> None:
        first, second = hire(bus, "a"), hire(bus, "b", lease_s=0.0)
        [old, kept] = await taken(bus, first, "s", "t")
        assert [lease.session for lease in await second.take_over(1)] == ["s"]
        assert await first.renew() == [old]
        assert list(first.leases.values()) == [kept]
        assert await first.renew() == []
        await first.settle([old])  # too late, and harmless
        assert await second.renew() == []

    run(scenario())


def test_a_session_whose_client_is_gone_is_lost(bus: Bus, keys: Keys, run: Run) -> None:
    async def scenario() -> None:
        pool = hire(bus, "a")
        [lease] = await taken(bus, pool, "s")
        await bus.withdraw(lease.offer, b"0-1")
        assert await pool.renew() == [lease]
        assert pool.leases == {}

    run(scenario())


def test_a_newer_lease_of_our_own_is_not_dropped_with_the_old_one(bus: Bus, run: Run) -> None:
    async def scenario() -> None:
        pool = hire(bus, "a", lease_s=0.0)  # sleeps past every lease
        [old] = await taken(bus, pool, "s")
        [new] = await pool.take_over(1)
        assert (old.takes, new.takes) == (1, 2)
        assert not pool.drop(old)
        assert pool.leases == {"s": new}
        await pool.settle([new])

    run(scenario())


def test_without_redis_everything_says_so(run: Run, free_port: Callable[[], int]) -> None:
    async def scenario() -> None:
        bus = Bus(f"redis://127.0.0.1:{free_port()}/0", Keys("nowhere"))
        pool = hire(bus, "a")
        for act in (pool.join(), pool.take(1, 1), pool.take_over(1), pool.leave()):
            with pytest.raises(BusUnavailable):
                await act
        await bus.close()

    run(scenario())


def test_what_is_handed_over_another_takes_at_once(bus: Bus, run: Run) -> None:
    async def scenario() -> None:
        first, second = hire(bus, "a"), hire(bus, "b")
        kept, given = await taken(bus, first, "s", "t")
        await first.hand_over([given])
        assert list(first.leases) == ["s"]
        [lease] = await second.take_over(5)
        assert (lease.session, lease.generation) == ("t", 2)
        assert await first.renew() == []
        await first.settle([kept])

    run(scenario())


def test_room_is_what_others_have_told(bus: Bus, run: Run) -> None:
    async def scenario() -> None:
        first = hire(bus, "a")
        assert await first.spare() == 0
        later = int(time.time()) + 60
        for name, free, deadline_s in (("a", 5, later), ("b", 3, later), ("c", 4, later), ("gone", 7, 1)):
            await bus.report(POOL, name, WorkerLoad(8, free, 0, deadline_s, "model"))
        assert await first.spare() == 7

    run(scenario())


def test_of_a_worker_that_is_seen_to_be_gone_sessions_are_taken_sooner(
    redis_url: str, bus: Bus, run: Run, wait_until: Any
) -> None:
    """Not of one that is connected, nor of one that would not be seen, however long ago it has renewed."""
    load = WorkerLoad(8, 5, 0, int(time.time()) + 60, "model")
    lease_ms, gone_ms = 1_000_000, 1

    async def take_over() -> list[Lease]:
        return await bus.take_over(POOL, "b", 5, lease_ms, gone_ms)

    async def idle() -> Any:
        return await bus._redis.xpending_range(
            bus.keys.offers(POOL), WORKERS_GROUP, "-", "+", 1, idle=gone_ms
        )

    async def scenario() -> None:
        first_bus = Bus(redis_url, bus.keys)
        presence = Presence(first_bus, bus.keys.worker_present(POOL, "a"))
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(presence.run())
            await presence.show()
            await taken(bus, hire(bus, "a"), "s")
            await wait_until(idle)
            await bus.report(POOL, "a", replace(load, seen=True))
            assert await take_over() == []  # it is there
            await end(running)
        await first_bus.close()
        await bus.report(POOL, "a", load)
        assert await take_over() == []  # it never said that it would be seen
        await bus.report(POOL, "a", replace(load, seen=True))
        assert await bus.take_over(POOL, "b", 5, lease_ms) == []  # nobody looked
        [lease] = await wait_until(take_over)
        assert (lease.session, lease.generation) == ("s", 2)

    run(scenario())
