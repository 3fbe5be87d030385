"""`ingress.reach`: Redis comes and goes, under a real node."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis

from cli import redis_fleet
from cli.child import free_ports
from tests.nodes import FRAME, TERMINATE, Nodes, OwnRedis, begin, error, only, rest
from wire.errors import INTERNAL_ERROR


def test_redis_absent_at_start(run, nodes: Nodes, own_redis: OwnRedis, caplog: pytest.LogCaptureFixture):
    async def scenario() -> None:
        url = own_redis.url.replace("//", "//:pa55word@")
        async with nodes(redis_url=url, ready=False) as node:
            await nodes.wait_until(lambda: "Redis is away" in caplog.text)
            status, body = await node.get("/v3/health")
            assert (status, json.loads(body)["status"]) == (503, "starting")
            async with node.client() as client:
                assert await rest(client) == error(3005, "Session Cancelled: The server is not ready")

    run(scenario())
    (record,) = [record for record in caplog.records if "Redis is away" in record.message]
    assert record.url == own_redis.url.replace("//", "//:***@")  # type: ignore[attr-defined]


def test_redis_appears(run, nodes: Nodes, own_redis: OwnRedis):
    async def scenario() -> None:
        async with nodes(redis_url=own_redis.url, ready=False) as node:
            assert not node.probe.ready
            own_redis.start()
            await nodes.wait_until(lambda: node.probe.ready)
            async with node.client() as client:
                await begin(client)

    run(scenario())


def test_redis_away_for_too_long_ends_sessions(run, nodes: Nodes, own_redis: OwnRedis):
    async def scenario() -> None:
        own_redis.start()
        await nodes.wait_until(own_redis.answers)
        async with nodes(redis_url=own_redis.url, redis_patience_s=0.5) as node, node.client() as client:
            await begin(client)
            own_redis.stop()
            assert await rest(client) == error(3005, INTERNAL_ERROR)
            assert (await node.get("/v3/health"))[0] == 503

    run(scenario())


def test_redis_away_for_a_moment_costs_nothing(run, nodes: Nodes, own_redis: OwnRedis):
    async def scenario() -> None:
        own_redis.start()
        await nodes.wait_until(own_redis.answers)
        async with nodes(redis_url=own_redis.url) as node, node.client() as client:
            await begin(client)
            await client.send(FRAME)
            own_redis.freeze(True)
            for _ in range(20):
                await client.send(FRAME)
            await nodes.wait_until(lambda: node.ingress._outbox.pending_bytes > len(FRAME))
            own_redis.freeze(False)
            await client.send(TERMINATE)
            messages, code, _ = await rest(client)
            assert (messages[0]["transcript"], code) == ("16800 samples", 1000)

    run(scenario())


def test_redis_that_comes_back_empty_is_given_what_it_lost(run, nodes: Nodes, own_redis: OwnRedis):
    async def scenario() -> None:
        own_redis.start()
        await nodes.wait_until(own_redis.answers)
        async with nodes(redis_url=own_redis.url) as node, node.client() as client:
            await begin(client)
            for _ in range(5):
                await client.send(FRAME)
            await nodes.wait_until(lambda: len(only(node.worker).pcm) == 5 * len(FRAME))
            lease = only(node.worker).lease
            own_redis.stop()
            await nodes.wait_until(lambda: not node.probe.ready)
            for _ in range(5):
                await client.send(FRAME)
            own_redis.start()
            await nodes.wait_until(lambda: only(node.worker).lease.generation > lease.generation)
            await client.send(TERMINATE)
            messages, code, _ = await rest(client)
            assert (messages[0]["transcript"], code) == ("8000 samples", 1000)
            async with node.client() as another:
                await begin(another)

    run(scenario())


def test_a_session_that_redis_lost_and_nobody_holds_any_more_is_ended(run, nodes: Nodes, own_redis: OwnRedis):
    async def scenario() -> None:
        own_redis.start()
        await nodes.wait_until(own_redis.answers)
        held = 2**16
        async with (
            nodes(redis_url=own_redis.url, max_session_held_bytes=held) as node,
            node.client() as client,
        ):
            await begin(client)
            for _ in range(held // len(FRAME) + 2):
                await client.send(FRAME)
            await nodes.wait_until(lambda: len(only(node.worker).pcm) > held)
            own_redis.stop()
            await nodes.wait_until(lambda: not node.probe.ready)
            own_redis.start()
            assert await rest(client) == error(3005, INTERNAL_ERROR)

    run(scenario())


def test_a_redis_that_takes_no_more_ends_sessions_and_is_found_again(run, nodes: Nodes, own_redis: OwnRedis):
    async def scenario() -> None:
        own_redis.start()
        await nodes.wait_until(own_redis.answers)
        async with nodes(redis_url=own_redis.url, redis_patience_s=0.5) as node:
            async with node.client() as client:
                await begin(client)
                with redis.Redis.from_url(own_redis.url) as admin:
                    admin.config_set("maxmemory", "1")
                    await client.send(FRAME)
                    messages, code, _ = await rest(client)
                    assert (messages[-1]["error_code"], code) == (3005, 3005)
                    admin.config_set("maxmemory", "0")
            await nodes.wait_until(lambda: node.ingress._outbox.pending_bytes == 0)
            await nodes.wait_until(lambda: node.probe.ready)
            async with node.client() as client:
                await begin(client)

    run(scenario())


@pytest.mark.timeout(180)
@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)  # see tests/wire/test_servers.py
@pytest.mark.parametrize(
    "kind", ["sentinel", "cluster 0", *(pytest.param(f"cluster {n}", marks=pytest.mark.slow) for n in (1, 2))]
)
def test_a_session_goes_on_when_a_replica_takes_the_place_of_its_master(
    run, redis_url: str, namespace: str, wait_until, tmp_path: Path, kind: str
):
    """In the cluster each master is killed once: that of the session's keys, that of the offers, that of the inbox."""

    def patient(condition: Callable[[], Any]) -> Any:
        return wait_until(condition, within_s=60)

    async def scenario(url: str, victim: redis_fleet.Server) -> None:
        async with Nodes(url, namespace, patient)() as node, node.client() as client:
            await begin(client)
            for _ in range(5):
                await client.send(FRAME)
            await patient(lambda: len(only(node.worker).pcm) == 5 * len(FRAME))
            lease = only(node.worker).lease
            await asyncio.to_thread(victim.kill)
            for _ in range(5):
                await client.send(FRAME)
            await patient(lambda: only(node.worker).lease.generation > lease.generation)
            await patient(lambda: node.probe.ready)
            await client.send(TERMINATE)
            messages, code, _ = await rest(client)
            assert (messages[0]["transcript"], code) == ("8000 samples", 1000)

    if kind == "sentinel":
        with redis_fleet.sentinels(free_ports(5), tmp_path) as (master, _, watchers):
            hosts = ",".join(f"127.0.0.1:{watcher.port}" for watcher in watchers)
            run(scenario(f"redis+sentinel://{hosts}/{redis_fleet.SERVICE}", master))
    else:
        with redis_fleet.cluster(free_ports(6), tmp_path) as servers:
            hosts = ",".join(f"127.0.0.1:{server.port}" for server in servers)
            run(scenario(f"redis+cluster://{hosts}", servers[int(kind.split()[1])]))
