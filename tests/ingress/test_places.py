"""`ingress.places`: sessions have places among their key's, the licence's and the replays', over all nodes."""

import time
from pathlib import Path
from typing import Any

import pytest
import redis

from ingress import server
from tests.nodes import FULL, TERMINATE, Node, Nodes, begin, error, licensed, minted, presenting, rest
from wire.entries import WorkerLoad
from wire.errors import INTERNAL_ERROR, REASON_SEE_ERROR, too_many_sessions
from wire.keys import LICENSE_HOLDER
from wire.streams import Bus


def test_a_key_has_its_sessions_over_all_nodes(run, nodes: Nodes, tmp_path: Path):
    keys = tmp_path / "keys"
    keys.write_text("alpha name=one sessions=2\nbeta\n")

    async def scenario() -> None:
        secret = "s" * 32
        async with (
            nodes(api_keys_file=keys, token_secret=secret) as here,
            nodes(api_keys_file=keys, token_secret=secret) as there,
        ):
            async with (
                here.client(**presenting("alpha")) as first,
                there.client(**presenting(minted(here, "alpha"))) as second,
            ):
                await begin(first)
                await begin(second)
                for node in (here, there):
                    async with node.client(**presenting("alpha")) as third:
                        assert await rest(third) == error(3009, FULL)
                    async with node.client(**presenting("beta")) as other:
                        await begin(other)
                await first.send(TERMINATE)
                assert (await rest(first))[1] == 1000
                await nodes.wait_until(lambda: places(here) == 1)
                async with there.client(**presenting("alpha")) as third:
                    await begin(third)
            await nodes.wait_until(lambda: places(here) == 0)  # however they left

    def places(node: Node) -> int:
        with redis.Redis.from_url(nodes.redis_url) as client:
            found = list(client.scan_iter(match=node.bus.keys.places("*")))
            return sum(client.zcard(key) for key in found)

    run(scenario())


def test_places_are_kept_for_as_long_as_sessions_run(run, nodes: Nodes, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(server, "TOUCH_S", 0.05)

    async def scenario() -> None:
        async with (
            nodes(api_keys="alpha", api_key_sessions=1) as node,
            node.client(**presenting("alpha")) as client,
        ):
            await begin(client)
            with redis.Redis.from_url(nodes.redis_url) as server_side:
                (key,) = server_side.scan_iter(match=node.bus.keys.places("*"))
                server_side.delete(key)
                await nodes.wait_until(lambda: server_side.zcard(key) == 1)

    run(scenario())


def test_a_session_whose_place_cannot_be_asked_for_is_refused_and_harms_nobody(run, nodes: Nodes):
    async def scenario() -> None:
        async with nodes(api_keys="alpha", api_key_sessions=1) as node:
            holder = node.ingress._check("alpha").holder
            assert holder
            with redis.Redis.from_url(nodes.redis_url) as server_side:
                server_side.set(node.bus.keys.places(holder), "not a sorted set", ex=60)
                async with node.client(**presenting("alpha")) as client:
                    assert await rest(client) == error(3005, INTERNAL_ERROR)
                server_side.delete(node.bus.keys.places(holder))
            async with node.client(**presenting("alpha")) as client:
                await begin(client)

    run(scenario())


def test_without_a_limit_redis_is_not_asked(run, nodes: Nodes):
    async def scenario() -> None:
        async with nodes(api_keys="alpha") as node, node.client(**presenting("alpha")) as client:
            await begin(client)
            with redis.Redis.from_url(nodes.redis_url) as server_side:
                assert not list(server_side.scan_iter(match=node.bus.keys.places("*")))

    run(scenario())


def test_the_licensed_number_of_sessions_is_counted_over_all_nodes(run, nodes: Nodes, wait_until):
    async def scenario() -> None:
        async with nodes() as one, nodes() as two:
            for node in (one, two):
                await licensed(node, wait_until, max_sessions=1)
            async with one.client() as client:
                await begin(client)
                async with two.client() as other:
                    assert await rest(other) == error(3009, too_many_sessions().text)
                await client.send(TERMINATE)
                assert (await rest(client))[1] == 1000
            places = one.bus.keys.places(LICENSE_HOLDER)
            await wait_until(lambda: no_member(one.bus, places))
            async with two.client() as client:
                await begin(client)

    run(scenario())


async def no_member(bus: Bus, places: bytes) -> bool:
    [members] = await bus.execute(lambda pipe: pipe.zcard(places))
    return not members


def test_replays_have_places_of_their_own_and_give_way(run, nodes: Nodes, wait_until):
    busy = (3009, REASON_SEE_ERROR)

    async def scenario() -> None:
        async with nodes(replay_sessions=1) as node:

            async def report(free: int) -> None:
                await node.bus.report("english", "w", WorkerLoad(4, free, 0, int(time.time()) + 60, "m"))

            async def refused() -> bool:
                async with node.client("/v3/ws?replay=true") as client:
                    return (await rest(client))[1:] == busy

            assert await refused(), "nobody is known to have time"
            await report(2)
            await wait_until(lambda: node.ingress._pools.spare("english") == 2)
            async with node.client("/v3/ws?replay=true") as client:
                await begin(client)
                assert await refused(), "there is one place"
                node.worker.takes = False
                await wait_until(lambda: not node.worker.taking)
                async with node.client() as live:
                    await report(0)
                    assert (await rest(client))[1:] == busy, "others wait for a worker"
                    node.worker.takes = True
                    await begin(live)

    run(scenario())


def test_a_pool_that_a_replay_of_another_node_fills_is_not_full_for_a_live_session(
    run, nodes: Nodes, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(server, "POOLS_S", 0.05)

    async def scenario() -> None:
        async with nodes(replay_sessions=1) as here, nodes(replay_sessions=1) as there:
            workers = (here.worker, there.worker)

            async def report(free: int, **held: int) -> None:
                load = WorkerLoad(1, free, 0, int(time.time()) + 60, "m", **held)  # type: ignore[arg-type]  # by name
                await here.bus.report("english", "w", load)

            await report(1)
            await nodes.wait_until(lambda: here.ingress._pools.spare("english") == 1)
            async with here.client("/v3/ws?replay=true") as replay:
                await begin(replay)
                await report(0, held=1)
                await nodes.wait_until(lambda: there.ingress._pools.room("english") == 0)
                async with there.client() as live:
                    assert await rest(live) == error(3009, FULL), "as far as is known, live sessions fill it"
                await report(0, held=1, replays=1)
                for worker in workers:
                    worker.takes = False
                await nodes.wait_until(lambda: not any(worker.taking for worker in workers))
                async with there.client() as live:
                    assert (await rest(replay))[1] == 3009
                    for worker in workers:
                        worker.takes = True
                    await begin(live)

    run(scenario())


def test_a_live_session_takes_the_place_of_a_replay_on_whatever_node(
    run, nodes: Nodes, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(server, "TOUCH_S", 0.05)
    limited: dict[str, Any] = {
        "api_keys": "alpha",
        "api_key_sessions": 1,
        "max_sessions": 1,
        "replay_sessions": 1,
    }

    async def scenario() -> None:
        async with nodes(**limited) as here, nodes(**limited) as there:
            await here.bus.report("english", "w", WorkerLoad(4, 4, 0, int(time.time()) + 60, "m"))
            await nodes.wait_until(lambda: here.ingress._pools.spare("english") == 4)
            async with here.client("/v3/ws?replay=true", **presenting("alpha")) as replay:
                await begin(replay)
                async with there.client(**presenting("alpha")) as live:
                    await begin(live)
                    assert (await rest(replay))[1] == 3009
                    async with here.client(**presenting("alpha")) as second:
                        assert await rest(second) == error(3009, FULL), "no replay is left"

    run(scenario())


def test_a_full_node_has_room_for_a_live_session_beside_a_replay(run, nodes: Nodes):
    async def scenario() -> None:
        async with nodes(max_sessions=1, replay_sessions=2) as node:
            await node.bus.report("english", "w", WorkerLoad(4, 4, 0, int(time.time()) + 60, "m"))
            await nodes.wait_until(lambda: node.ingress._pools.spare("english") == 4)
            async with node.client("/v3/ws?replay=true") as replay:
                await begin(replay)
                async with node.client("/v3/ws?replay=true") as another:
                    assert (await rest(another))[1] == 3009
                async with node.client() as live:
                    await begin(live)

    run(scenario())


def test_without_places_there_are_no_replays(run, nodes: Nodes, wait_until):
    async def scenario() -> None:
        async with nodes(replay_sessions=0) as node:
            await node.bus.report("english", "w", WorkerLoad(4, 4, 0, int(time.time()) + 60, "m"))
            await wait_until(lambda: node.ingress._pools.spare("english") == 4)
            async with node.client("/v3/ws?replay=true") as client:
                assert (await rest(client))[1] == 3009

    run(scenario())
