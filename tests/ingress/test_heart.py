"""A node's signs of life, in a real Redis, and what it hears of their loss."""

import asyncio
from typing import Any

from ingress.heart import Heart
from ingress.reach import Reach
from wire.errors import BusUnavailable
from wire.keys import Keys
from wire.moves import Moves
from wire.streams import Bus
from wire.tasks import end

NODE = "node-1"


async def nothing() -> None:
    """Nobody asks."""


def heart_of(bus: Bus, given_up: Any) -> Heart:
    loop = asyncio.get_running_loop()
    reach = Reach("redis://somewhere", 30.0, loop.time, lambda: None)
    return Heart(bus, Moves(bus), NODE, reach, given_up)


def test_a_node_lives_until_it_dies(bus: Bus, redis_url: str, run: Any, wait_until: Any) -> None:
    async def scenario() -> None:
        own = Bus(redis_url, bus.keys)
        moves = Moves(bus)

        async def lives() -> bool:
            return await moves.living([NODE]) == [True]

        async def is_dead() -> bool:
            return not await lives()

        async with asyncio.TaskGroup() as tasks:
            beating = tasks.create_task(heart_of(own, nothing).run())
            await wait_until(lives)
            await wait_until(lambda: bus.present([bus.keys.ingress_present(NODE)]))
            await end(beating)
        await own.close()
        await wait_until(is_dead)  # long before its last beat is over
        assert await bus._redis.pttl(bus.keys.alive(NODE)) > 0

    run(scenario())


def test_who_was_taken_for_dead_hears_of_it(bus: Bus, run: Any) -> None:
    given_up: list[int] = []

    async def notice() -> None:
        given_up.append(1)
        if len(given_up) == 1:
            raise BusUnavailable("just now")

    async def scenario() -> None:
        heart, moves = heart_of(bus, notice), Moves(bus)
        await heart.beat()
        await heart.beat()
        assert given_up == []
        await moves.bury([NODE])
        await heart.beat()
        await heart.beat()
        await heart.beat()
        assert given_up == [1, 1]  # until it is done

    run(scenario())


def test_without_redis_the_node_notices(run: Any, free_port: Any) -> None:
    async def scenario() -> None:
        bus = Bus(f"redis://127.0.0.1:{free_port()}/0", Keys("nowhere"))
        heart = heart_of(bus, nothing)
        await heart.beat()
        assert heart._reach.ready is False
        await bus.close()

    run(scenario())
