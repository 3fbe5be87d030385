"""Who is connected is seen, and who no longer is, at once: by a real Redis."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from cli import redis_fleet
from cli.child import free_ports
from cli.redis_fleet import Server
from wire.keys import Keys
from wire.presence import Presence
from wire.streams import Bus
from wire.tasks import end

Run = Callable[..., Any]
KEYS = Keys("presence")
CHANNEL, NOBODY = KEYS.worker_present("english", "a"), KEYS.worker_present("english", "b")


@pytest.fixture(scope="module")
def server(tmp_path_factory: Any) -> Iterator[Server]:
    found = Server(free_ports(1)[0], tmp_path_factory.mktemp("presence"))
    with redis_fleet.running(found):
        yield found


@asynccontextmanager
async def showing(url: str) -> AsyncIterator[Presence]:
    bus = Bus(url, KEYS)
    presence = Presence(bus, CHANNEL)
    try:
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(presence.run())
            try:
                yield presence
            finally:
                await end(running)
    finally:
        await bus.close()


def test_who_is_shown_is_seen_until_it_goes(server: Server, run: Run, wait_until: Any) -> None:
    async def scenario() -> None:
        other = Bus(server.url, KEYS)
        async with showing(server.url) as presence:
            assert not presence.seen
            await presence.show()
            assert presence.seen
            assert await other.present([CHANNEL, NOBODY]) == [True, False]
            assert await other.present([]) == []
            with server.client() as client:
                assert list(client.scan_iter(match=KEYS.everything())) == []  # a channel is no key
        await wait_until(lambda: is_gone(other))
        await other.close()

    run(scenario())


def test_who_loses_the_connection_is_seen_again(server: Server, run: Run, wait_until: Any) -> None:
    async def scenario() -> None:
        other = Bus(server.url, KEYS)
        async with showing(server.url) as presence:
            await presence.show()
            with server.client() as client:
                client.client_kill_filter(_type="pubsub")
            await wait_until(lambda: is_there(other))
            await asyncio.to_thread(server.restart)
            await wait_until(lambda: is_there(other))
        await other.close()

    run(scenario())


async def is_there(asked: Bus) -> bool:
    return (await asked.present([CHANNEL])) == [True]


async def is_gone(asked: Bus) -> bool:
    return (await asked.present([CHANNEL])) == [False]


def test_who_may_not_listen_goes_on_without(server: Server, run: Run, caplog: Any) -> None:
    async def scenario() -> None:
        bus = Bus(server.url.replace("://", "://old:secret@"), KEYS)
        presence = Presence(bus, CHANNEL)
        await presence.run()  # ends
        assert not presence.seen
        await bus.close()

    with server.client() as client:
        client.acl_setuser("old", enabled=True, passwords=["+secret"], keys=["*"], commands=["+ping"])
    run(scenario())
    assert "renew the ACL file" in caplog.text


def test_without_redis_nobody_waits_for_ever(
    run: Run, free_port: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wire.presence.SHOW_S", 0.05)

    async def scenario() -> None:
        async with showing(f"redis://127.0.0.1:{free_port()}/0") as presence:
            await presence.show()
            assert not presence.seen

    run(scenario())


def test_in_a_cluster_nobody_says_to_be_seen(run: Run) -> None:
    async def scenario() -> None:
        bus = Bus("redis+cluster://127.0.0.1:1", KEYS)
        presence = Presence(bus, CHANNEL)
        await presence.show()
        await presence.run()  # ends
        assert not presence.seen
        await bus.close()

    run(scenario())
