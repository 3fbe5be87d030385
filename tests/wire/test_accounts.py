"""Licence and usage in a real Redis: status, trust, usage until it is counted."""

from collections.abc import Iterator
from typing import Any

import pytest
import redis

from wire import accounts as module
from wire import metrics
from wire.accounts import STATUS_TTL_S, Accounts
from wire.entries import Billing, LicenseState, LicenseStatus, TrustRecord, UsageRecord
from wire.errors import BusUnavailable, EntryError
from wire.keys import Keys
from wire.streams import Bus

STATUS = LicenseStatus(LicenseState.CONNECTED, "id", Billing.USAGE, ("english",), 3, 1, 2, 3, "")
TRUST = TrustRecord("id", 1, "passed", "", False, 0, 5, 6, b"seal")


@pytest.fixture
def accounts(bus: Bus) -> Accounts:
    return Accounts(bus)


@pytest.fixture
def server(redis_url: str) -> Iterator[Any]:
    with redis.Redis.from_url(redis_url) as client:
        yield client


def lap(session: str, number: int = 1, over: bool = False) -> UsageRecord:
    return UsageRecord(session, number, number * 1000, number * 1001, "english", "m", 5000, 9 if over else -1)


# ---------------------------------------------------------------------------------------------------------------------
# licence


def test_a_status_lives_for_seconds(run, accounts, server, keys: Keys):
    async def scenario() -> None:
        assert await accounts.status() is None
        await accounts.publish_status(STATUS)
        assert await accounts.status() == STATUS
        assert 0 < server.ttl(keys.license_status()) <= STATUS_TTL_S
        server.set(keys.license_status(), b"nonsense", ex=5)
        with pytest.raises(EntryError):
            await accounts.status()

    run(scenario())


def test_trust_is_kept_for_longer_than_any_window(run, accounts, server, keys: Keys):
    from licensing.license import LONGEST_TRUST_S

    async def scenario() -> None:
        assert await accounts.trust() is None
        await accounts.save_trust(TRUST)
        assert await accounts.trust() == TRUST
        assert server.ttl(keys.license_trust()) > LONGEST_TRUST_S

    run(scenario())


# ---------------------------------------------------------------------------------------------------------------------
# usage


async def taken(accounts: Accounts, consumer: str = "one") -> list[tuple[bytes, UsageRecord]]:
    before = refused()
    entries = await accounts.take_usage(consumer, 100)
    assert refused() == before
    return entries


def refused() -> float:
    return metrics.REGISTRY.get_sample_value("steno_entries_refused_total") or 0.0


def test_a_record_is_taken_once_and_gone_when_settled(run, accounts, server, keys: Keys):
    async def scenario() -> None:
        await accounts.join_usage()
        await accounts.join_usage()
        await accounts.append_usage([lap("a"), lap("b", 2, over=True)])
        entries = await taken(accounts)
        assert [record for _, record in entries] == [lap("a"), lap("b", 2, over=True)]
        assert await taken(accounts, "two") == []
        assert (await accounts.waiting_usage()).count == 2
        await accounts.settle_usage(entries)
        assert await accounts.waiting_usage() == module.Waiting(0, 0.0)
        assert server.xpending(keys.usage(), "usage")["pending"] == 0
        assert set(server.hgetall(keys.usage_open())) == {b"a"}

    run(scenario())


def test_records_written_before_the_first_consumer_are_not_lost(run, accounts):
    async def scenario() -> None:
        await accounts.append_usage([lap("early")])
        assert await taken(accounts) == []  # finds no group, and makes it
        assert [record.session for _, record in await taken(accounts)] == ["early"]

    run(scenario())


def test_superseded_entries_leave_without_being_counted(run, accounts, server, keys: Keys):
    async def scenario() -> None:
        await accounts.join_usage()
        await accounts.append_usage([lap("a", 1), lap("a", 2)])
        [(old, _), new] = await taken(accounts)
        await accounts.settle_usage((), [old])
        assert (await accounts.waiting_usage()).count == 1
        assert not server.exists(keys.usage_open())
        await accounts.settle_usage([new])
        await accounts.settle_usage(())
        assert (await accounts.waiting_usage()).count == 0

    run(scenario())


def test_who_keeps_its_records_keeps_them(run, accounts, server, keys: Keys):
    async def scenario() -> None:
        await accounts.join_usage()
        await accounts.append_usage([lap("a"), lap("b")])
        [(first, _), (second, _)] = await taken(accounts, "stuck")
        await accounts.give_back_usage("stuck", [first, second])
        await accounts.keep_usage("stuck", [first])
        found = await accounts.take_over_usage("two", 10, 60_000)
        assert [entry for entry, _ in found] == [second]
        assert await accounts.take_over_usage("three", 10, 60_000) == []

    run(scenario())


def test_a_consumer_leaves_only_with_empty_hands(run, accounts, server, keys: Keys):
    async def scenario() -> None:
        await accounts.leave_usage("nobody")  # no group yet
        await accounts.join_usage()
        await accounts.append_usage([lap("a")])
        entries = await taken(accounts)
        await accounts.leave_usage("one")
        assert server.xpending(keys.usage(), "usage")["pending"] == 1
        await accounts.settle_usage(entries)
        await accounts.leave_usage("one")
        assert server.xinfo_consumers(keys.usage(), "usage") == []

    run(scenario())


def test_what_cannot_be_read_is_counted_and_stays(run, accounts, server, keys: Keys):
    async def scenario() -> None:
        await accounts.append_usage([lap("a")])
        await accounts.join_usage()
        for fields in ({"e": b"\x92\x63\x07"}, {"x": b"no such field"}):
            server.xadd(keys.usage(), fields)
        before = refused()
        entries = await accounts.take_usage("one", 10)
        assert ([record.session for _, record in entries], refused() - before) == (["a"], 2)
        await accounts.settle_usage(entries)
        assert (await accounts.waiting_usage()).count == 2

    run(scenario())


def test_trimmed_entries_are_passed_over(run, accounts, server, keys: Keys):
    async def scenario() -> None:
        await accounts.join_usage()
        await accounts.append_usage([lap("a")])
        entries = await taken(accounts, "stuck")
        server.xtrim(keys.usage(), maxlen=0)
        await accounts.give_back_usage("stuck", [entries[0][0]])
        assert await accounts.take_over_usage("two", 10, 1000) == []

    run(scenario())


def test_the_stream_is_bounded(run, accounts, server, keys: Keys, monkeypatch):
    monkeypatch.setattr(module, "USAGE_ENTRIES", 100)

    async def scenario() -> None:
        await accounts.append_usage([lap("a", number) for number in range(1000)])
        assert (await accounts.waiting_usage()).count < 400  # trimmed by whole nodes

    run(scenario())


def test_the_age_of_the_oldest_is_told(run, accounts, server, keys: Keys):
    async def scenario() -> None:
        await accounts.append_usage([lap("a")])
        seconds, _ = server.time()
        server.delete(keys.usage())
        server.xadd(keys.usage(), {"e": b""}, id=f"{(seconds - 60) * 1000}-0")
        found = await accounts.waiting_usage()
        assert 59 <= found.oldest_s <= 65
        await accounts.append_usage([])

    run(scenario())


def test_silent_sessions_are_closed_out_at_their_last_lap(run, accounts, server, keys: Keys):
    async def scenario() -> None:
        await accounts.join_usage()
        await accounts.append_usage([lap("old", 3), lap("new", 4)])
        entries = await taken(accounts)
        await accounts.settle_usage(entries)
        assert await accounts.silent_usage(60) == []
        value = server.hget(keys.usage_open(), "old")
        heard_ms, _, packed = value.partition(b" ")
        server.hset(keys.usage_open(), "old", b"%d " % (int(heard_ms) - 61_000) + packed)
        server.hset(keys.usage_open(), "broken", b"nonsense")
        silent = await accounts.silent_usage(60)
        assert silent == [lap("old", 3)]
        await accounts.close_out(silent)
        [(_, closing)] = await taken(accounts)
        assert (closing.session, closing.lap, closing.audio_ms, closing.over) == ("old", 3, 3000, True)
        assert closing.ended_ms == closing.started_ms + closing.session_ms
        assert await accounts.silent_usage(60) == []

    run(scenario())


def test_operators_see_each_session_s_newest_lap(run, accounts):
    async def scenario() -> None:
        await accounts.join_usage()
        await accounts.append_usage([lap("a", 1), lap("b", 1)])
        await accounts.settle_usage(await taken(accounts))
        await accounts.append_usage([lap("a", 2), lap("c", 5), lap("c", 4)])
        found = {record.session: record.lap for record in await accounts.usage_records()}
        assert found == {"a": 2, "b": 1, "c": 5}

    run(scenario())


def test_every_operation_says_when_redis_is_away(run, free_port):
    async def scenario() -> None:
        bus = Bus(f"redis://127.0.0.1:{free_port()}/0", Keys("x"))
        away = Accounts(bus)
        for attempt in (
            away.status(),
            away.trust(),
            away.publish_status(STATUS),
            away.append_usage([lap("a")]),
            away.take_usage("one", 1),
            away.waiting_usage(),
            away.silent_usage(1),
        ):
            with pytest.raises(BusUnavailable):
                await attempt
        await bus.close()

    run(scenario())


def test_a_command_that_redis_refuses_is_told(run, accounts, server, keys: Keys):
    async def scenario() -> None:
        server.set(keys.usage(), b"not a stream", ex=60)
        with pytest.raises(BusUnavailable, match="refused a command"):
            await accounts.append_usage([lap("a")])

    run(scenario())
