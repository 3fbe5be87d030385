"""`wire.census`: who is being served, read from a real Redis, which it leaves as it was."""

from typing import Any

import pytest
import redis

from wire.census import Census
from wire.entries import Event, Offer, Publication, SessionEvent
from wire.errors import BusUnavailable
from wire.keys import Keys
from wire.streams import Bus

POOL = "english"


def offer(name: str) -> Offer:
    return Offer(name, "node", POOL, {"speech_model": "m"})


def event(sequence: int) -> SessionEvent:
    return SessionEvent("a", 1, sequence, Event.MESSAGE, 100 * sequence, 0, False, f'{{"n":{sequence}}}')


@pytest.fixture
def census(bus: Bus) -> Census:
    return Census(bus)


def test_sessions_wait_are_held_and_are_gone(run, bus: Bus, census: Census):
    async def scenario() -> None:
        assert await census.sessions(POOL) == []
        await bus.join(POOL)
        await bus.offer(offer("a"))
        [lease] = await bus.take(POOL, "worker", 1, 1000)
        await bus.offer(offer("b"))
        newest, oldest = await census.sessions(POOL)
        assert (newest.offer.session, newest.worker, newest.takes) == ("b", "", 0)
        assert (oldest.offer, oldest.worker, oldest.takes) == (offer("a"), "worker", 1)
        assert oldest.offered_ms <= newest.offered_ms
        await bus.settle(POOL, "worker", [lease])
        assert [one.offer.session for one in await census.sessions(POOL)] == ["b"]

    run(scenario())


def test_a_pool_that_no_worker_ever_joined_is_read_as_well(run, bus: Bus, census: Census):
    async def scenario() -> None:
        await bus.offer(offer("a"))
        assert [one.worker for one in await census.sessions(POOL)] == [""]

    run(scenario())


def test_a_session_s_events_are_read_piece_by_piece(run, bus: Bus, census: Census):
    async def scenario() -> None:
        assert await census.session("a") is None
        assert await census.events("a", "") == ("", [])
        await bus.join(POOL)
        await bus.offer(offer("a"))
        [lease] = await bus.take(POOL, "worker", 1, 1000)
        assert await census.session("a") == (offer("a"), 1)
        await bus.publish([Publication(lease, [event(1), event(2)])])
        cursor, told = await census.events("a", "")
        assert told == [event(1), event(2)]
        assert await census.events("a", cursor) == (cursor, [])
        await bus.publish([Publication(lease, [event(3)])])
        assert (await census.events("a", cursor))[1] == [event(3)]

    run(scenario())


def test_what_another_version_wrote_is_left_out(run, redis_url: str, keys: Keys, census: Census):
    async def scenario() -> None:
        with redis.Redis.from_url(redis_url) as client:
            for key, fields in ((keys.offers(POOL), {"e": b"?"}), (keys.events("a"), {"x": b"?"})):
                client.xadd(key, fields)
                client.expire(key, 60)
            client.hset(keys.state("a"), "offer", b"?")
            client.expire(keys.state("a"), 60)
        assert await census.sessions(POOL) == []
        assert await census.session("a") is None
        assert (await census.events("a", ""))[1] == []

    run(scenario())


def test_looking_changes_nothing(run, bus: Bus, redis_url: str, keys: Keys, census: Census):
    def everything(client: Any) -> dict[bytes, bytes]:
        return {key: client.dump(key) for key in client.scan_iter(match=keys.everything())}

    async def scenario() -> None:
        await bus.join(POOL)
        await bus.offer(offer("a"))
        [lease] = await bus.take(POOL, "worker", 1, 1000)
        await bus.publish([Publication(lease, [event(1)])])
        with redis.Redis.from_url(redis_url) as client:
            before = everything(client)
            await census.sessions(POOL)
            await census.session("a")
            await census.events("a", "")
            assert everything(client) == before

    run(scenario())


def test_a_redis_that_is_away_is_told(run, keys: Keys, free_port):
    async def scenario() -> None:
        bus = Bus(f"redis://localhost:{free_port()}", keys, timeout_s=1)
        with pytest.raises(BusUnavailable):
            await Census(bus).sessions(POOL)
        await bus.close()

    run(scenario())
