"""Offers: alone at once, a crowd in few round trips, and nobody waits for ever."""

import asyncio
from collections.abc import Callable, Sequence

import pytest
import redis

from ingress.offers import BATCH, Offers
from wire.entries import Offer
from wire.errors import BusUnavailable
from wire.keys import Keys
from wire.params import SessionParams
from wire.streams import Bus

PARAMS = SessionParams().for_worker()


def offer_of(session: str, pool: str = "english") -> Offer:
    return Offer(session, "node", pool, PARAMS)


class Counted(Bus):
    """Tells how many offers went in each round trip."""

    sizes: list[int]

    async def offer_all(self, offers: Sequence[Offer]) -> list[bytes | Exception]:
        self.sizes.append(len(offers))
        return await super().offer_all(offers)


@pytest.fixture
def counted(run, redis_url: str, keys: Keys):
    bus = Counted(redis_url, keys)
    bus.sizes = []
    yield bus
    run(bus.close())


def test_an_offer_alone_is_made_at_once_and_can_be_taken(run, bus: Bus):
    async def scenario() -> None:
        offers = Offers(bus)
        await bus.join("english")
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(offers.run())
            made = await offers.make(offer_of("s"))
            (lease,) = await bus.take("english", "w", 8, 20)
            assert (lease.offer_id, lease.offer) == (made, offer_of("s"))
            running.cancel()

    run(scenario())


def test_a_crowd_takes_few_round_trips_and_each_gets_its_own(run, counted: Counted):
    async def scenario() -> None:
        offers, count = Offers(counted), 2 * BATCH + 5
        await counted.join("english")
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(offers.run())
            making = [tasks.create_task(offers.make(offer_of(str(number)))) for number in range(count)]
            made = {str(number): await one for number, one in enumerate(making)}
            leases = await counted.take("english", "w", count, 20)
            running.cancel()
        assert sum(counted.sizes) == count
        assert len(counted.sizes) <= 4
        assert max(counted.sizes) <= BATCH
        assert {lease.session: lease.offer_id for lease in leases} == made

    run(scenario())


def test_an_offer_that_redis_refuses_harms_no_other(run, bus: Bus, keys: Keys, redis_url: str):
    async def scenario() -> None:
        with redis.Redis.from_url(redis_url) as server:
            server.set(keys.offers("broken"), "not a stream", ex=60)
        offers = Offers(bus)
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(offers.run())
            pools = ("english", "broken", "english")
            making = [offers.make(offer_of(str(number), pool)) for number, pool in enumerate(pools)]
            results = await asyncio.gather(*making, return_exceptions=True)
            assert [type(result) for result in results] == [bytes, redis.ResponseError, bytes]
            running.cancel()

    run(scenario())


def test_what_cannot_be_packed_is_told_and_the_next_is_made(run, bus: Bus):
    async def scenario() -> None:
        offers = Offers(bus)
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(offers.run())
            with pytest.raises(TypeError):
                await offers.make(Offer("s", "node", "english", {"x": object()}))
            assert await offers.make(offer_of("t"))
            running.cancel()

    run(scenario())


def test_redis_is_away(run, free_port: Callable[[], int]):
    async def scenario() -> None:
        away = Bus(f"redis://127.0.0.1:{free_port()}/0", Keys("test"))
        offers = Offers(away)
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(offers.run())
            for _ in range(2):
                with pytest.raises(BusUnavailable):
                    await offers.make(offer_of("s"))
            running.cancel()
        await away.close()

    run(scenario())


def test_nobody_waits_for_offers_that_are_made_no_more(run, bus: Bus):
    async def scenario() -> None:
        offers = Offers(bus)
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(offers.run())
            making = [tasks.create_task(_why(offers, str(number))) for number in range(2 * BATCH)]
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            running.cancel()
        reasons = [one.result() for one in making]
        assert any(reasons)
        assert all(reason is None or isinstance(reason, BusUnavailable) for reason in reasons)
        with pytest.raises(BusUnavailable, match="no offers any more"):
            await offers.make(offer_of("late"))

    run(scenario())


async def _why(offers: Offers, session: str) -> Exception | None:
    try:
        await offers.make(offer_of(session))
    except BusUnavailable as error:
        return error
    return None


def test_a_client_that_leaves_meanwhile_holds_up_nobody(run, bus: Bus):
    async def scenario() -> None:
        offers = Offers(bus)
        async with asyncio.TaskGroup() as tasks:
            leaving = tasks.create_task(offers.make(offer_of("leaving")))
            staying = tasks.create_task(offers.make(offer_of("staying")))
            await asyncio.sleep(0)
            leaving.cancel()
            running = tasks.create_task(offers.run())
            assert await staying
            running.cancel()
        assert leaving.cancelled()

    run(scenario())
