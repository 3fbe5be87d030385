"""Every form of REDIS_URL leads to the right servers, and everything the bus does works on each, through a failover."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio.cluster import NodesManager

from cli import redis_fleet
from cli.child import free_ports
from cli.redis_fleet import SERVICE, Server
from wire import ticks
from wire.accounts import Accounts
from wire.entries import (
    AudioFrame,
    Checkpoint,
    Event,
    Offer,
    Publication,
    Saved,
    SessionEvent,
    UsageRecord,
    WorkerLoad,
)
from wire.errors import BusUnavailable
from wire.keys import Keys
from wire.params import SessionParams
from wire.servers import is_lost, parse
from wire.streams import Bus, Restoration

PARAMS = SessionParams().for_worker()
SESSIONS = [f"s{number}" for number in range(12)]


@pytest.mark.parametrize(
    "url,hosts,service,db,options",
    [
        ("redis://h:1/2", (), "", 0, {}),
        ("unix:///tmp/x.sock", (), "", 0, {}),
        ("redis+sentinel://a:1,b:2/m", (("a", 1), ("b", 2)), "m", 0, {}),
        ("redis+sentinel://a,b/m/3", (("a", 26379), ("b", 26379)), "m", 3, {}),
        (
            "redis+sentinel://u:p%40ss@a:1/m?sentinel_password=x&ssl=true",
            (("a", 1),),
            "m",
            0,
            {"username": "u", "password": "p@ss", "sentinel_password": "x", "ssl": True},
        ),
        ("redis+cluster://:pw@a:7000,[::1]:7001", (("a", 7000), ("::1", 7001)), "", 0, {"password": "pw"}),
    ],
)
def test_a_url_is_read(url: str, hosts: object, service: str, db: int, options: dict[str, Any]):
    found = parse(url)
    assert (found.hosts, found.service, found.db, dict(found.options)) == (hosts, service, db, options)


@pytest.mark.parametrize(
    "url,text",
    [
        ("http://h", "should begin with"),
        ("redis", "should begin with"),
        ("redis+sentinel://a:1", "HOST:PORT/SERVICE"),
        ("redis+sentinel://a:1/m/x", "HOST:PORT/SERVICE"),
        ("redis+sentinel://:secret@a:99999/m", "HOST:PORT"),
        ("redis+cluster://a:1,/", "HOST:PORT"),
        ("redis+cluster://a:1/0", "no databases"),
    ],
)
def test_what_is_no_url_is_told_without_its_secrets(url: str, text: str):
    with pytest.raises(ValueError, match=text) as told:
        parse(url)
    assert "secret" not in str(told.value)


def test_only_a_lost_connection_is_one():
    closed = "unable to perform operation on <TCPTransport closed=True>; the handler is closed"
    assert is_lost(RuntimeError(closed))
    assert not is_lost(AttributeError("'NoneType' object has no attribute 'session'"))  # a bug of ours
    theirs: Any = NodesManager
    with pytest.raises(AttributeError) as told:
        theirs.set_nodes(None, {}, None)
    assert is_lost(told.value)
    assert not is_lost(RuntimeError("no running event loop"))


class Fleet:
    """Some servers, the URL that finds them, and a way to kill one that matters."""

    def __init__(self, url: str, victim: Server) -> None:
        self.url, self.victim = url, victim


@pytest.fixture(params=["sentinel", "cluster"])
def fleet(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Fleet]:
    if request.param == "sentinel":
        with redis_fleet.sentinels(free_ports(5), tmp_path) as (master, _, watchers):
            hosts = ",".join(f"127.0.0.1:{watcher.port}" for watcher in watchers)
            yield Fleet(f"redis+sentinel://{hosts}/{SERVICE}/0", master)
    else:
        with redis_fleet.cluster(free_ports(6), tmp_path) as servers:
            hosts = ",".join(f"127.0.0.1:{server.port}" for server in servers)
            yield Fleet(f"redis+cluster://{hosts}", servers[0])


def event(session: str, generation: int, number: int) -> SessionEvent:
    return SessionEvent(session, generation, number, Event.MESSAGE, text=str(number))


async def everything(bus: Bus) -> None:
    """A life of several sessions, in different slots, as ingress, worker and usage lead it together."""
    await bus.join("english")
    offers = [Offer(session, "node", "english", PARAMS) for session in SESSIONS]
    ids = await bus.offer_all(offers)
    assert all(isinstance(made, bytes) for made in ids)
    await bus.append([(session, 1, AudioFrame(0, bytes(8))) for session in SESSIONS])
    assert await bus.touch(dict.fromkeys(SESSIONS, 1)) == []
    leases = await bus.take("english", "a", 100, 50)
    assert sorted(lease.session for lease in leases) == sorted(SESSIONS)
    assert await bus.renew("english", "a", leases) == []
    found = await bus.read(dict.fromkeys(SESSIONS, b"0-0"))
    assert {session: len(logged.entries) for session, logged in found.items()} == dict.fromkeys(SESSIONS, 1)
    saved = Checkpoint(1, 4, "1-0", PARAMS)
    told = [Publication(one, [event(one.session, one.generation, 0)], saved) for one in leases]
    assert await bus.publish(told) == []
    reports = await anext(bus.inbox("node", 50))
    assert sum(isinstance(report, Saved) for report in reports) == len(SESSIONS)
    assert await bus.read({SESSIONS[0]: b"1-0"}) == {}
    lost = leases[0]
    again = Restoration(lost.offer, lost.offer_id, lost.generation, b"", [(1, AudioFrame(0, bytes(8)))], 1)
    await bus.restore(again)
    assert [lease.session for lease in await bus.renew("english", "a", leases)] == [lost.session]
    [anew] = await bus.take("english", "b", 1, 50)
    await bus.give_back("english", "b", [anew])
    [over] = await bus.take_over("english", "a", 1, 60_000)
    await bus.settle("english", "a", [*leases[1:], over])
    assert await bus.waiting("english") == 0
    await bus.report("english", "a", WorkerLoad(1, 1, 0, 2_000_000_000, "m"))
    assert list(await bus.loads("english")) == ["a"]
    assert await bus.take_place("key", "s", 1)
    await bus.keep_places([("key", "s"), ("license", "s")])
    await bus.free_place("key", "s")
    await bus.withdraw(offers[1], leases[1].offer_id)
    await bus.forget(SESSIONS)
    await bus.leave("english", "a")
    assert await bus.incarnation()
    accounts = Accounts(bus)
    await accounts.join_usage()
    await accounts.append_usage([UsageRecord("s", 1, 1, 1, "english", "m", 1)])
    assert (await accounts.waiting_usage()).count == 1
    records = await accounts.take_usage("c", 10)
    await accounts.settle_usage(records)
    assert await accounts.silent_usage(0.0) != []


async def until_it_works(act: Callable[[], Any], wait_until: Any) -> Any:
    async def tried() -> bool:
        try:
            await act()
        except BusUnavailable:
            return False
        return True

    await wait_until(tried, within_s=60)


# redis-py forgets connections to nodes of a cluster that it strikes off its list; the collector closes them.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.timeout(180)
def test_all_that_the_bus_does_works_and_goes_on_after_a_failover(run, fleet: Fleet, wait_until):
    async def scenario() -> None:
        bus = Bus(fleet.url, Keys("test"))
        await everything(bus)
        before = await bus.incarnation()
        calls = 0
        missed: list[Exception] = []

        async def called() -> None:
            nonlocal calls
            calls += 1

        drain = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            queue = bus.keys.ticks("x")
            tasks.create_task(ticks.every_second(fleet.url, queue, called, drain, missed.append))
            await wait_until(lambda: calls > 1)
            assert missed == []
            fleet.victim.kill()
            await until_it_works(lambda: bus.report("p", "w", WorkerLoad(1, 1, 0, 0, "m")), wait_until)
            await until_it_works(bus.incarnation, wait_until)
            assert await bus.incarnation() != before
            reached, calls = calls, 0
            assert reached
            await wait_until(lambda: calls > 0, within_s=60)
            drain.set()
        other = Bus(fleet.url, Keys("afterwards"))
        await until_it_works(lambda: everything(other), wait_until)
        await other.close()
        await bus.close()

    run(scenario())
