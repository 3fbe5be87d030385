"""A node's licence and usage over a real Redis: statuses heard, laps written, Redis away."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from ingress.dues import Dues
from ingress.license import LicenseGate
from wire.accounts import Accounts
from wire.entries import Billing, LicenseState, LicenseStatus, UsageRecord
from wire.errors import BusUnavailable, Close
from wire.keys import Keys
from wire.streams import Bus

STATUS = LicenseStatus(LicenseState.CONNECTED, "id", Billing.USAGE, ("english",), 2, 1, 2, 3)


class Node:
    """A node's dues, the audio of its sessions, and its clock, turned by hand; up for so long when it began."""

    def __init__(self, accounts: Accounts, clock: Any, up_s: float = 0.0) -> None:
        self.heard: dict[str, int] = {}
        self.dues = Dues(
            accounts,
            LicenseGate(),
            lambda session: self.heard.get(session, 0),
            lambda: clock() + up_s,
            lambda: 1_700_000_000.0 + clock(),
        )

    def open(self, session: str) -> None:
        assert self.dues.refusal("english") is None
        self.dues.begin(session, "english", "m")


@pytest.fixture
def accounts(bus: Bus) -> Accounts:
    return Accounts(bus)


async def told(accounts: Accounts) -> dict[str, UsageRecord]:
    return {record.session: record for record in await accounts.usage_records()}


def test_nobody_is_admitted_before_a_status_and_who_is_licensed_after_it(run, accounts, clock):
    async def scenario() -> None:
        node = Node(accounts, clock)
        refusal = node.dues.refusal("english")
        assert refusal is not None
        assert refusal.code is Close.SERVER_ERROR
        await accounts.publish_status(STATUS)
        await node.dues.beat()
        assert node.dues.refusal("english") is None
        refusal = node.dues.refusal("multilang")
        assert refusal is not None
        assert refusal.code is Close.UNAUTHORIZED

    run(scenario())


def test_laps_are_written_every_few_seconds_and_at_the_end(run, accounts, clock):
    async def scenario() -> None:
        node = Node(accounts, clock)
        await accounts.publish_status(STATUS)
        await node.dues.beat()
        node.open("a")
        node.heard["a"] = 4000
        clock.advance(4.9)
        await node.dues.beat()
        assert await told(accounts) == {}
        clock.advance(0.1)
        await node.dues.beat()
        first = (await told(accounts))["a"]
        assert (first.lap, first.audio_ms, first.session_ms, first.over) == (1, 4000, 5000, False)
        node.heard["a"] = 6500
        clock.advance(1.5)
        node.dues.end("a")
        await node.dues.flush()
        last = (await told(accounts))["a"]
        assert (last.lap, last.audio_ms, last.session_ms, last.over) == (2, 6500, 6500, True)
        assert (last.pool, last.model) == ("english", "m")

    run(scenario())


def test_flat_billing_writes_nothing(run, accounts, clock):
    async def scenario() -> None:
        node = Node(accounts, clock)
        await accounts.publish_status(replace(STATUS, billing=Billing.FLAT, max_sessions=0))
        await node.dues.beat()
        node.open("a")
        clock.advance(10)
        await node.dues.beat()
        node.dues.end("a")
        await node.dues.flush()
        assert await told(accounts) == {}

    run(scenario())


def test_while_redis_is_away_nothing_is_forgotten(run, bus, accounts, keys: Keys, clock, free_port):
    async def scenario() -> None:
        nowhere = Bus(f"redis://127.0.0.1:{free_port()}/0", keys)
        node = Node(accounts, clock)
        await accounts.publish_status(STATUS)
        await node.dues.beat()
        node.open("a")
        node.dues._accounts = Accounts(nowhere)  # the same node, its Redis unplugged
        clock.advance(60)
        node.heard["a"] = 60_000
        node.dues.end("a")
        for _ in range(2):
            with pytest.raises(BusUnavailable):
                await node.dues.flush()
        node.dues._accounts = accounts
        await node.dues.beat()
        assert (await told(accounts))["a"].audio_ms == 60_000
        await nowhere.close()

    run(scenario())


def test_what_redis_lost_of_sessions_that_are_over_is_told_again(run, accounts, keys: Keys, bus, clock):
    async def scenario() -> None:
        node = Node(accounts, clock)
        await accounts.publish_status(STATUS)
        await node.dues.beat()
        node.open("a")
        node.heard["a"] = 3_000
        clock.advance(3)
        node.dues.end("a")
        await node.dues.flush()
        before = await told(accounts)
        await bus.execute(lambda pipe: pipe.delete(keys.usage()))
        node.dues.tell_again()
        await node.dues.flush()
        assert await told(accounts) == before != {}

    run(scenario())


def test_laps_that_were_being_written_when_the_node_ended_are_written_at_its_end(run, accounts, clock):
    async def scenario() -> None:
        node = Node(accounts, clock)
        await accounts.publish_status(STATUS)
        await node.dues.beat()
        node.open("a")
        node.dues.end("a")
        async with asyncio.TaskGroup() as tasks:
            writing = tasks.create_task(node.dues.flush())
            await asyncio.sleep(0)
            writing.cancel()
        assert await told(accounts) == {}
        await node.dues.flush()
        assert list(await told(accounts)) == ["a"]

    run(scenario())


def test_an_unreadable_status_is_none(run, bus, accounts, keys: Keys, clock):
    async def scenario() -> None:
        node = Node(accounts, clock)
        await bus.execute(lambda pipe: pipe.set(keys.license_status(), b"nonsense", ex=10))
        await node.dues.beat()
        assert node.dues.refusal("english") is not None

    run(scenario())


def test_a_session_that_another_worker_takes_goes_on_counting(run, accounts, clock):
    async def scenario() -> None:
        node = Node(accounts, clock)
        await accounts.publish_status(STATUS)
        await node.dues.beat()
        node.open("a")
        clock.advance(3)
        node.dues.begin("a", "english", "m")
        clock.advance(3)
        node.dues.end("a")
        await node.dues.flush()
        assert (await told(accounts))["a"].session_ms == 6000

    run(scenario())


def test_a_session_that_moved_is_told_by_its_new_node_alone(run, accounts, clock):
    """Whatever the old one has told, or tells too late."""

    async def scenario() -> None:
        old, new = Node(accounts, clock), Node(accounts, clock, up_s=86_400.0)
        await accounts.publish_status(STATUS)
        for node in (old, new):
            await node.dues.beat()
        assert old.dues.lap("s") == (0, 0)
        old.heard["s"] = 5_000
        old.open("s")
        clock.advance(6)
        await old.dues.beat()
        lap, begun_ms = old.dues.lap("s")
        assert lap == 1
        new.dues.go_on("s", "english", "m", lap, begun_ms)
        old.dues.end("s")  # it does not know yet
        await old.dues.beat()
        new.heard["s"] = 7_000
        clock.advance(6)
        await new.dues.beat()
        record = (await told(accounts))["s"]
        assert (record.audio_ms, record.over, record.started_ms) == (7_000, False, begun_ms)
        assert record.session_ms == 12_000
        old.dues.move("s")
        new.dues.end("s")
        await new.dues.beat()
        assert (await told(accounts))["s"].over

    run(scenario())
