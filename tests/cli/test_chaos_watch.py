"""`cli.chaos_watch`: what is looked up in a real Redis."""

from typing import Any

import pytest
import redis

from cli import chaos_watch
from wire.entries import Offer, UsageRecord, pack_usage
from wire.keys import WORKERS_GROUP, Keys
from wire.params import SessionParams
from wire.streams import Bus

POOL = "english"


@pytest.fixture
def client(redis_url: str) -> Any:
    with redis.Redis.from_url(redis_url) as found:
        yield found


def test_who_holds_what(bus: Bus, run: Any, client: Any, keys: Keys) -> None:
    offer = Offer("s", "node", POOL, SessionParams().for_worker())

    async def scenario() -> None:
        await bus.join(POOL)
        await bus.offer(offer)
        assert chaos_watch.holders(client, keys, POOL) == {}
        await bus.take(POOL, "a", 1, 20)

    run(scenario())
    assert chaos_watch.leases(client, keys, POOL) == 1
    held = chaos_watch.holders(client, keys, POOL)
    assert (held, chaos_watch.doubly_held(held)) == ({"s": ["a"]}, [])
    client.xadd(keys.offers(POOL), {b"e": client.xrange(keys.offers(POOL))[0][1][b"e"]})
    client.xreadgroup(WORKERS_GROUP, "b", {keys.offers(POOL): ">"})
    held = chaos_watch.holders(client, keys, POOL)
    assert (held, chaos_watch.doubly_held(held)) == ({"s": ["a", "b"]}, ["s"])


def test_the_newest_lap_of_a_session_that_is_over_counts(client: Any, keys: Keys) -> None:
    for lap, audio_ms, ended_ms in ((2, 5_000, 9), (1, 4_000, -1)):
        record = UsageRecord("s", lap, audio_ms, 6_000, POOL, "m", 1, ended_ms)
        client.xadd(keys.usage(), {"e": pack_usage(record)})
    running = UsageRecord("t", 1, 1_000, 1_000, POOL, "m", 1)
    client.xadd(keys.usage(), {"e": pack_usage(running)})
    client.expire(keys.usage(), 60)
    assert chaos_watch.used_ms(client, keys) == {"s": 5_000}


def test_what_is_left(client: Any, keys: Keys) -> None:
    assert not any(chaos_watch.left(client, keys).values())
    client.set(keys.state("s"), "x", ex=60)
    client.set(keys.usage(), "x")
    assert chaos_watch.left(client, keys) == {"session": 1, "never": 1}
    client.expire(keys.usage(), 60)
