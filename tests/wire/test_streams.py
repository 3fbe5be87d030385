"""The bus against a real Redis: offers and leases, audio logs, fenced publishing, inboxes, and a Redis that is away.

Time is never waited for: a worker "sleeps past its lease" by having its idle time set, or by a lease of 0 ms. That
every key expires is checked after each test (`namespace` in conftest).
"""

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fakes import append
from wire import metrics, streams
from wire.entries import (
    AudioEntry,
    AudioFrame,
    Checkpoint,
    Control,
    Event,
    Lease,
    Offer,
    Order,
    Publication,
    Saved,
    SessionEvent,
    WorkerLoad,
    pack_audio,
    pack_checkpoint,
)
from wire.errors import BusUnavailable
from wire.keys import REPLAY_HOLDER, WORKERS_GROUP, Keys
from wire.params import SessionParams
from wire.streams import READ_ENTRIES, Bus, Logged, Restoration, following

LEASE_MS = 3_000
NOW_MS = 0  # a lease that is over at once
BLOCK_MS = 20
PARAMS = SessionParams().for_worker()


@pytest.fixture
def server(redis_url: str) -> Iterator[Any]:
    """A bare client, to look at the server behind the bus's back."""
    with redis.Redis.from_url(redis_url) as client:
        yield client


def offer_of(session: str, pool: str = "english", ingress: str = "node-1") -> Offer:
    return Offer(session, ingress, pool, PARAMS)


def frame(position: int, samples: int = 4) -> AudioFrame:
    return AudioFrame(position, bytes(2 * samples))


def event(lease: Lease, sequence: int, text: str = "") -> SessionEvent:
    return SessionEvent(lease.session, lease.generation, sequence, Event.MESSAGE, text=text)


async def offered(bus: Bus, *sessions: str) -> list[Offer]:
    offers = [offer_of(session) for session in sessions]
    for offer in offers:
        await bus.offer(offer)
    return offers


async def taken(bus: Bus, session: str, worker: str = "a") -> Lease:
    """A lease on a new session."""
    await bus.offer(offer_of(session))
    [lease] = await bus.take("english", worker, 1, BLOCK_MS)
    assert lease.session == session
    return lease


def owner(server: Any, keys: Keys, offer_id: bytes) -> str | None:
    """Which worker holds the offer, by the server's books."""
    pending: Any = server.xpending_range(keys.offers("english"), WORKERS_GROUP, offer_id, offer_id, 1)
    return pending[0]["consumer"].decode() if pending else None


def fall_asleep(server: Any, keys: Keys, lease: Lease, worker: str, idle_ms: int = 60_000) -> None:
    """As if `worker` had not renewed for `idle_ms`."""
    server.xclaim(
        keys.offers("english"), WORKERS_GROUP, worker, 0, [lease.offer_id], idle=idle_ms, justid=True
    )


# ---------------------------------------------------------------------------------------------------------------------
# offers


def test_an_offer_is_taken_with_all_it_says(run, bus: Bus, keys: Keys, server: Any):
    async def scenario() -> None:
        await bus.join("english")
        offer = offer_of("s")
        offer_id = await bus.offer(offer)
        assert await bus.waiting("english") == 1
        [lease] = await bus.take("english", "a", 4, BLOCK_MS)
        assert lease == Lease(offer_id, offer, lease.generation, None, takes=1)
        assert await bus.waiting("english") == 0
        assert owner(server, keys, offer_id) == "a"

    run(scenario())


def test_offers_made_before_the_first_worker_joined_are_not_lost(run, bus: Bus):
    async def scenario() -> None:
        await offered(bus, "early")
        assert await bus.take("english", "a", 4, BLOCK_MS) == []  # finds no group, and makes it
        assert [lease.session for lease in await bus.take("english", "a", 4, BLOCK_MS)] == ["early"]

    run(scenario())


def test_no_more_than_asked_for_and_each_offer_once(run, bus: Bus):
    async def scenario() -> None:
        await bus.join("english")
        await bus.join("english")
        await offered(bus, "1", "2", "3")
        first = await bus.take("english", "a", 2, BLOCK_MS)
        second = await bus.take("english", "b", 2, BLOCK_MS)
        assert [lease.session for lease in (*first, *second)] == ["1", "2", "3"]
        assert await bus.take("english", "a", 2, BLOCK_MS) == []

    run(scenario())


def test_a_worker_that_waits_is_woken_by_an_offer(run, bus: Bus):
    async def scenario() -> None:
        await bus.join("english")
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(bus.take("english", "a", 1, 60_000))
            await offered(bus, "s")
        assert [lease.session for lease in waiting.result()] == ["s"]

    run(scenario())


def test_pools_do_not_mix(run, bus: Bus):
    async def scenario() -> None:
        for pool in ("english", "multilang"):
            await bus.join(pool)
        await bus.offer(offer_of("m", pool="multilang"))
        assert await bus.take("english", "a", 1, BLOCK_MS) == []
        assert await bus.waiting("multilang") == 1

    run(scenario())


def test_a_withdrawn_offer_is_gone(run, bus: Bus, keys: Keys, server: Any):
    async def scenario() -> None:
        await bus.join("english")
        offer = offer_of("s")
        offer_id = await bus.offer(offer)
        await append(bus, [("s", frame(0))])
        await bus.withdraw(offer, offer_id)
        assert await bus.take("english", "a", 1, BLOCK_MS) == []
        assert await bus.waiting("english") == 0
        assert set(server.scan_iter(match=keys.everything())) == {keys.offers("english")}
        assert server.xlen(keys.offers("english")) == 0

    run(scenario())


def test_a_session_withdrawn_while_a_worker_reached_for_it_is_let_go(run, bus: Bus, keys: Keys, server: Any):
    async def scenario() -> None:
        await bus.join("english")
        offer_id = await bus.offer(offer_of("s"))
        server.delete(keys.state("s"))
        assert await bus.take("english", "a", 1, BLOCK_MS) == []
        assert owner(server, keys, offer_id) is None
        assert server.xlen(keys.offers("english")) == 0

    run(scenario())


@pytest.mark.parametrize("entry", [{b"e": b"\xff"}, {b"x": b""}])
def test_an_offer_that_cannot_be_read_is_removed_and_harms_no_other(
    run, bus: Bus, keys: Keys, server: Any, entry: dict[Any, Any]
):
    async def scenario() -> None:
        await bus.join("english")
        server.xadd(keys.offers("english"), entry)
        await offered(bus, "good")
        assert [lease.session for lease in await bus.take("english", "a", 4, BLOCK_MS)] == ["good"]
        assert server.xlen(keys.offers("english")) == 1

    run(scenario())


# ---------------------------------------------------------------------------------------------------------------------
# leases


def test_a_session_passes_to_the_next_holder_with_its_checkpoint(run, bus: Bus):
    async def scenario() -> None:
        first = await taken_after_join(bus, "s")
        saved = Checkpoint(2, 48_000, "5-0", PARAMS)
        assert await bus.publish([Publication(first, (), saved)]) == []
        assert await bus.take_over("english", "b", 4, LEASE_MS) == []
        [second] = await bus.take_over("english", "b", 4, NOW_MS)
        assert second == Lease(first.offer_id, first.offer, second.generation, saved, takes=2)
        assert second.generation > first.generation

    run(scenario())


@pytest.mark.parametrize("field", ["offer", "checkpoint"])
def test_a_state_that_another_version_wrote_harms_no_worker(
    run, bus: Bus, keys: Keys, server: Any, field: str
):
    """The lease comes without parameters, which the worker answers by ending that session alone."""

    async def scenario() -> None:
        await bus.join("english")
        await offered(bus, "bad", "good")
        server.hset(keys.state("bad"), field, b"\xc1")
        bad, good = await bus.take("english", "a", 4, BLOCK_MS)
        assert (bad.session, bad.offer.params, bad.checkpoint) == ("bad", {}, None)
        assert good.offer == offer_of("good")

    run(scenario())


def test_a_take_prolongs_the_sessions_life(run, bus: Bus, keys: Keys, server: Any):
    async def scenario() -> None:
        await bus.join("english")
        await offered(bus, "s")
        server.expire(keys.state("s"), 5)
        await bus.take("english", "a", 1, BLOCK_MS)
        assert server.ttl(keys.state("s")) > streams.SESSION_TTL_S - 5

    run(scenario())


async def taken_after_join(bus: Bus, session: str, worker: str = "a") -> Lease:
    await bus.join("english")
    return await taken(bus, session, worker)


def test_renewal_keeps_a_lease_alive(run, bus: Bus, keys: Keys, server: Any):
    async def scenario() -> None:
        lease = await taken_after_join(bus, "s")
        fall_asleep(server, keys, lease, "a", LEASE_MS - 1_000)
        assert await bus.renew("english", "a", [lease]) == []
        pending: Any = server.xpending_range(keys.offers("english"), WORKERS_GROUP, "-", "+", 1)
        assert pending[0]["time_since_delivered"] < 1_000
        assert await bus.take_over("english", "b", 4, LEASE_MS) == []

    run(scenario())


def test_renewing_nothing_is_nothing(run, bus: Bus):
    run(bus.join("english"))
    assert run(bus.renew("english", "a", [])) == []
    assert run(bus.publish([])) == []
    assert run(bus.read({})) == {}


def test_who_slept_past_its_lease_cannot_take_it_back(run, bus: Bus, keys: Keys, server: Any):
    async def scenario() -> None:
        old = await taken_after_join(bus, "s", "a")
        fall_asleep(server, keys, old, "a")
        [new] = await bus.take_over("english", "b", 4, LEASE_MS)

        assert await bus.renew("english", "a", [old]) == [old]
        assert owner(server, keys, old.offer_id) == "b"
        await bus.give_back("english", "a", [old])
        assert await bus.take_over("english", "c", 4, LEASE_MS) == []
        await bus.settle("english", "a", [old])
        assert owner(server, keys, old.offer_id) == "b"
        assert await bus.renew("english", "b", [new]) == []

    run(scenario())


def test_who_slept_past_its_lease_cannot_publish(run, bus: Bus, keys: Keys, server: Any):
    async def scenario() -> None:
        old = await taken_after_join(bus, "s", "a")
        await append(bus, [("s", frame(0))])
        [(entry_id, _)] = (await bus.read({"s": b"0"}))["s"].entries
        [new] = await bus.take_over("english", "b", 4, NOW_MS)
        late = Publication(old, [event(old, 1, "late")], Checkpoint(9, 9, entry_id.decode(), PARAMS))
        assert await bus.publish([late]) == [old]
        assert await bus.publish([Publication(new, [event(new, 1, "in time")])]) == []

        assert [entry[0] for entry in entries_of(server, keys.events("s"))] == [
            f"{new.generation}-1".encode()
        ]
        assert server.xlen(keys.inbox("node-1")) == 1
        assert server.xlen(keys.audio("s")) == 1
        [third] = await bus.take_over("english", "c", 4, NOW_MS)
        assert third.checkpoint is None

    run(scenario())


def test_even_the_same_worker_is_fenced_by_its_own_second_take(run, bus: Bus):
    async def scenario() -> None:
        old = await taken_after_join(bus, "s", "a")
        [new] = await bus.take_over("english", "a", 4, NOW_MS)
        assert await bus.publish([Publication(old, [event(old, 7)])]) == [old]
        assert await bus.publish([Publication(new, [event(new, 1)])]) == []

    run(scenario())


def test_a_lease_given_back_is_taken_at_once(run, bus: Bus):
    async def scenario() -> None:
        lease = await taken_after_join(bus, "s", "a")
        await bus.give_back("english", "a", [lease])
        [again] = await bus.take_over("english", "b", 4, LEASE_MS)
        assert (again.session, again.takes) == ("s", 2)
        assert again.generation > lease.generation
        assert await bus.take_over("english", "c", 4, LEASE_MS) == []

    run(scenario())


def test_a_settled_lease_leaves_nothing_to_take(run, bus: Bus, keys: Keys, server: Any):
    async def scenario() -> None:
        lease = await taken_after_join(bus, "s", "a")
        await bus.settle("english", "a", [lease])
        assert await bus.take_over("english", "b", 4, NOW_MS) == []
        assert server.xlen(keys.offers("english")) == 0
        assert await bus.renew("english", "a", [lease]) == [lease]

    run(scenario())


@pytest.mark.parametrize("ending", ["withdrawn", "expired"])
def test_a_session_that_is_gone_is_lost_to_its_holder(run, bus: Bus, keys: Keys, server: Any, ending: str):
    async def scenario() -> None:
        lease = await taken_after_join(bus, "s", "a")
        if ending == "withdrawn":
            await bus.withdraw(lease.offer, lease.offer_id)
        else:
            server.delete(keys.state("s"))
        assert await bus.publish([Publication(lease, [event(lease, 1)])]) == [lease]
        assert await bus.renew("english", "a", [lease]) == [lease]
        assert not server.exists(keys.events("s"))

    run(scenario())


def test_a_server_that_forgot_the_script_is_taught_again(run, bus: Bus, server: Any):
    async def scenario() -> None:
        lease = await taken_after_join(bus, "s", "a")
        server.script_flush()
        assert await bus.renew("english", "a", [lease]) == []

    run(scenario())


def test_a_worker_leaves_without_its_leases_being_lost(run, bus: Bus, keys: Keys, server: Any):
    async def scenario() -> None:
        lease = await taken_after_join(bus, "s", "a")
        await bus.give_back("english", "a", [lease])
        await bus.leave("english", "a")
        [again] = await bus.take_over("english", "b", 4, LEASE_MS)
        await bus.settle("english", "b", [again])
        await bus.leave("english", "b")
        names = [consumer["name"] for consumer in consumers_of(server, keys)]
        assert b"b" not in names

    run(scenario())


def consumers_of(server: Any, keys: Keys) -> list[dict[str, Any]]:
    found: Any = server.xinfo_consumers(keys.offers("english"), WORKERS_GROUP)
    return list(found)


def entries_of(server: Any, key: bytes) -> list[Any]:
    found: Any = server.xrange(key)
    return list(found)


# What any order of takes, sleeps and late words may do, against a model that fits on a page: `holder` and `generation`
# of each session. Workers remember every lease they ever got, so most of what they try is late.

WORKERS = ("a", "b", "c")
steps = st.lists(
    st.tuples(
        st.sampled_from(["offer", "take", "take over", "renew", "publish", "give back", "settle"]),
        st.sampled_from(WORKERS),
        st.integers(0, 7),
    ),
    min_size=15,
    max_size=30,
)


@given(steps)
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_one_holder_at_a_time_whatever_happens(
    run, redis_url: str, namespace: str, steps: list[tuple[str, str, int]]
):
    async def scenario(bus: Bus) -> None:
        pool = f"pool-{time.monotonic_ns()}"
        await bus.join(pool)
        holder: dict[str, str] = {}
        generation: dict[str, int] = {}
        got: list[Lease] = []

        def take(worker: str, leases: list[Lease]) -> None:
            for lease in leases:
                assert lease.generation > generation.get(lease.session, 0)
                generation[lease.session] = lease.generation
                holder[lease.session] = worker
                got.append(lease)

        for number, (step, worker, pick) in enumerate(steps):
            lease = got[pick % len(got)] if got else None
            if step == "offer":
                await bus.offer(offer_of(f"{pool}-{number}", pool))
            elif step == "take":
                take(worker, await bus.take(pool, worker, 2, 1))
            elif step == "take over":
                take(worker, await bus.take_over(pool, worker, 1, NOW_MS))
            elif lease and step == "renew":
                lost = await bus.renew(pool, worker, [lease])
                assert (lost == []) == (holder.get(lease.session) == worker)
            elif lease and step == "publish":
                lost = await bus.publish([Publication(lease, [event(lease, number + 1)])])
                assert (lost == []) == (generation[lease.session] == lease.generation)
            elif lease and step == "give back":
                await bus.give_back(pool, worker, [lease])
            elif lease and step == "settle":
                await bus.settle(pool, worker, [lease])
                if holder.get(lease.session) == worker:
                    del holder[lease.session]

    async def with_bus() -> None:
        bus = Bus(redis_url, Keys(namespace))
        try:
            await scenario(bus)
        finally:
            await bus.close()

    run(with_bus())


# ---------------------------------------------------------------------------------------------------------------------
# audio


def test_audio_is_read_by_cursor_for_many_sessions_in_one_go(run, bus: Bus):
    async def scenario() -> None:
        await append(bus, [("x", frame(0)), ("y", frame(0)), ("x", frame(4))])
        cursors = dict.fromkeys(("x", "y", "silent"), b"0")
        found = await bus.read(cursors)
        assert {name: [entry.position for _, entry in log.entries] for name, log in found.items()} == {
            "x": [0, 4],
            "y": [0],
        }
        cursors |= {name: log.cursor for name, log in found.items()}
        assert await bus.read(cursors) == {}
        await append(bus, [("y", frame(4))])
        found = await bus.read(cursors)
        assert [entry for _, entry in found["y"].entries] == [frame(4)]
        assert found["y"].cursor == found["y"].entries[-1][0]

    run(scenario())


def test_orders_keep_their_place_among_the_audio(run, bus: Bus):
    async def scenario() -> None:
        entries: list[AudioEntry] = [
            frame(0),
            Control(Order.CONFIGURE, 4, PARAMS),
            frame(4),
            Control(Order.FORCE_ENDPOINT, 8),
            Control(Order.TERMINATE, 8),
        ]
        await append(bus, [("s", entry) for entry in entries])
        assert [entry for _, entry in (await bus.read({"s": b"0"}))["s"].entries] == entries

    run(scenario())


def test_a_long_backlog_takes_several_reads_and_loses_nothing(run, bus: Bus):
    async def scenario() -> None:
        count = 2 * READ_ENTRIES + 5
        await append(bus, [("s", frame(4 * number)) for number in range(count)])
        cursor, positions = b"0", []
        for _ in range(3):
            log = (await bus.read({"s": cursor}))["s"]
            assert len(log.entries) <= READ_ENTRIES
            positions += [entry.position for _, entry in log.entries]
            cursor = log.cursor
        assert positions == [4 * number for number in range(count)]

    run(scenario())


def refused() -> float:
    return metrics.REGISTRY.get_sample_value("steno_entries_refused_total") or 0.0


def test_entries_that_cannot_be_read_are_counted_and_passed(run, bus: Bus, keys: Keys, server: Any):
    before = refused()

    async def scenario() -> None:
        await append(bus, [("s", frame(0))])
        server.xadd(keys.audio("s"), {b"e": b"\xff"}, id="2-0")
        server.xadd(keys.audio("s"), {b"other": pack_audio(frame(4))}, id="3-0")
        log = (await bus.read({"s": b"0"}))["s"]
        assert (len(log.entries), refused() - before) == (1, 2)
        assert await bus.read({"s": log.cursor}) == {}

    run(scenario())


def test_a_log_is_bounded(run, bus: Bus, keys: Keys, server: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(streams, "AUDIO_LOG_ENTRIES", 100)

    async def scenario() -> None:
        await append(bus, [("s", frame(4 * number)) for number in range(300)])
        assert server.xlen(keys.audio("s")) <= 200  # trimmed by whole nodes of the server's

    run(scenario())


def test_events_inboxes_and_offers_are_bounded(
    run, bus: Bus, keys: Keys, server: Any, monkeypatch: pytest.MonkeyPatch
):
    for name in ("EVENT_LOG_ENTRIES", "INBOX_ENTRIES", "OFFER_ENTRIES"):
        monkeypatch.setattr(streams, name, 100)

    async def scenario() -> None:
        lease = await taken_after_join(bus, "s")
        for number in range(300):
            await bus.publish([Publication(lease, [event(lease, number)])])
        await bus.offer_all([offer_of(f"t{number}") for number in range(300)])
        for key in (keys.events("s"), keys.inbox("node-1"), keys.offers("english")):
            assert 0 < server.xlen(key) <= 200, key  # trimmed by whole nodes of the server's

    run(scenario())


def test_touch_prolongs_and_forget_shortens_a_sessions_life(run, bus: Bus, keys: Keys, server: Any):
    async def scenario() -> None:
        lease = await taken_after_join(bus, "s")
        await append(bus, [("s", frame(0))])
        await bus.publish([Publication(lease, [event(lease, 1)])])
        session_keys = [keys.state("s"), keys.audio("s"), keys.events("s")]
        for key in session_keys:
            server.expire(key, 5)
        assert await bus.touch({"s": 1}) == []
        assert all(server.ttl(key) > streams.SESSION_TTL_S - 5 for key in session_keys)
        await bus.forget(["s"])
        assert all(0 < server.ttl(key) <= streams.FORGOTTEN_TTL_S for key in session_keys)

    run(scenario())


def test_touch_tells_which_sessions_redis_has_forgotten(run, bus: Bus, keys: Keys, server: Any):
    async def scenario() -> None:
        await offered(bus, "kept", "lost", "kept too")
        await append(bus, [("lost", frame(0))])
        server.delete(keys.state("lost"))
        asked = {"kept": 0, "lost": 1, "kept too": 0, "never was": 0}
        assert await bus.touch(asked) == ["lost", "never was"]
        assert await bus.touch({}) == []

    run(scenario())


def numbers(logged: dict[str, Logged]) -> list[int]:
    return [streams.number_of(entry_id) for entry_id, _ in logged["s"].entries] if "s" in logged else []


def test_appending_costs_few_calls_a_frame(run, bus: Bus, calls):
    number = 0

    def append(count: int) -> int:
        nonlocal number
        number += 1
        entries = [(f"s{session}", number, frame(0)) for session in range(count)]
        return calls(lambda: run(bus.append(entries)))

    append(10)  # connects, and teaches the script
    one = append(1)
    # Measured: 6 for each frame more. By redis-py's client it was 52.
    assert append(10) - one <= 9 * 7


def test_a_gap_is_waited_for_and_never_passed_over(run, bus: Bus):
    async def scenario() -> None:
        await bus.append([("s", 1, frame(0)), ("s", 4, frame(12))])
        found = await bus.read({"s": b"0-0"})
        assert numbers(found) == [1]
        assert await bus.read({"s": found["s"].cursor}) == {}

    run(scenario())


def test_an_entry_written_twice_is_there_once(run, bus: Bus):
    async def scenario() -> None:
        twice = [("s", 1, frame(0)), ("s", 2, frame(4))]
        await bus.append(twice)
        await bus.append([*twice, ("s", 3, frame(8))])
        assert numbers(await bus.read({"s": b"0-0"})) == [1, 2, 3]

    run(scenario())


def test_a_log_that_ends_before_what_was_appended_is_told(run, bus: Bus):
    async def scenario() -> None:
        await offered(bus, "s")
        await bus.append([("s", number, frame(4 * number - 4)) for number in (1, 2)])
        assert await bus.touch({"s": 2}) == []
        assert await bus.touch({"s": 3}) == ["s"]

    run(scenario())


@pytest.mark.parametrize("lost", ["nothing", "the last entries", "all"])
def test_a_session_is_restored_as_its_ingress_knows_it(run, bus: Bus, keys: Keys, server: Any, lost: str):
    saved = pack_checkpoint(Checkpoint(3, 4, "1-0", PARAMS))

    async def scenario() -> None:
        old = await taken_after_join(bus, "s", "a")
        await bus.append([("s", number, frame(4 * number - 4)) for number in range(1, 6)])
        if lost == "the last entries":
            server.xdel(keys.audio("s"), "3-0")
        if lost == "all":
            server.delete(keys.state("s"), keys.audio("s"), keys.offers("english"))
        kept = [(number, frame(4 * number - 4)) for number in range(2, 6)]
        offer_id = await bus.restore(Restoration(old.offer, old.offer_id, old.generation, saved, kept, 7))
        assert await bus.renew("english", "a", [old]) == [old]
        assert await bus.publish([Publication(old, [event(old, 1)])]) == [old]
        await bus.join("english")
        [new] = await bus.take("english", "b", 1, BLOCK_MS)
        assert (new.offer_id, new.takes) == (offer_id, 2)
        assert new.checkpoint == Checkpoint(3, 4, "1-0", PARAMS)
        assert new.generation > old.generation
        assert numbers(await bus.read({"s": b"1-0"})) == [2, 3, 4, 5]
        # A first try that arrives late finds that it was done.
        await bus.append([("s", 6, frame(20))])
        await bus.restore(Restoration(old.offer, offer_id, old.generation, saved, kept, 7))
        assert numbers(await bus.read({"s": b"1-0"})) == [2, 3, 4, 5, 6]
        assert await bus.publish([Publication(new, [event(new, 1)])]) == []

    run(scenario())


def test_a_node_to_which_a_session_has_moved_may_restore_it_whatever_the_one_before_did(run, bus: Bus):
    async def scenario() -> None:
        lease = await taken_after_join(bus, "s", "a")
        entries = [(number, frame(4 * number - 4)) for number in range(1, 4)]
        for number, moves, kept in ((70, 0, 2), (1, 1, 3), (71, 0, 1)):
            lost = Restoration(lease.offer, lease.offer_id, 1, b"", entries[:kept], number, moves)
            await bus.restore(lost)
        assert numbers(await bus.read({"s": b"0-0"})) == [1, 2, 3]

    run(scenario())


def test_a_generation_that_redis_has_forgotten_is_not_given_again(run, bus: Bus, keys: Keys, server: Any):
    async def scenario() -> None:
        first = await taken_after_join(bus, "s", "a")
        before = server.hgetall(keys.state("s"))
        [second] = await bus.take_over("english", "b", 1, NOW_MS)
        server.hset(keys.state("s"), mapping=before)  # it failed over, losing its last write
        await bus.restore(Restoration(first.offer, first.offer_id, first.generation, b"", (), 1))
        assert await bus.publish([Publication(second, [event(second, 1)])]) == [second]
        [third] = await bus.take("english", "c", 1, BLOCK_MS)
        assert first.generation < second.generation < third.generation

    run(scenario())


def test_of_two_offers_of_one_session_only_the_first_counts(run, bus: Bus, server: Any, keys: Keys):
    """One that was made without an answer is made again."""

    async def scenario() -> None:
        lease = await taken_after_join(bus, "s", "a")
        lost = Restoration(lease.offer, lease.offer_id, lease.generation, b"", (), 1)
        await bus.restore(lost)
        await bus.restore(lost)
        [taken] = await bus.take("english", "b", 2, BLOCK_MS)
        assert await bus.take("english", "c", 2, BLOCK_MS) == []
        assert await bus.publish([Publication(taken, [event(taken, 0)])]) == []
        assert server.xlen(keys.offers("english")) == 1
        [again] = await bus.take_over("english", "c", 2, NOW_MS)
        assert again.offer_id == taken.offer_id

    run(scenario())


def test_a_full_redis_takes_no_event_and_says_so(run, bus: Bus, server: Any):
    async def scenario() -> None:
        lease = await taken_after_join(bus, "s", "a")
        server.config_set("maxmemory", 1)
        try:
            with pytest.raises(BusUnavailable):
                await bus.publish([Publication(lease, [event(lease, 0)])])
        finally:
            server.config_set("maxmemory", 2**29)
        assert await bus.publish([Publication(lease, [event(lease, 0)])]) == []
        [[told]] = [await anext(bus.inbox("node-1", BLOCK_MS))]
        assert told == event(lease, 0)

    run(scenario())


# ---------------------------------------------------------------------------------------------------------------------
# events


async def received(inbox: AsyncIterator[list[SessionEvent | Saved]], count: int) -> list[SessionEvent]:
    """The next `count` events (and what came with the last of them)."""
    events: list[SessionEvent] = []
    while len(events) < count:
        events += [event for event in await anext(inbox) if isinstance(event, SessionEvent)]
    return events


def test_an_ingress_hears_of_checkpoints_after_what_they_are_about(run, bus: Bus):
    async def scenario() -> None:
        lease = await taken_after_join(bus, "s")
        saved = Checkpoint(1, 12, "3-0", PARAMS)
        await bus.publish([Publication(lease, [event(lease, 0)], saved)])
        told = await anext(bus.inbox("node-1", BLOCK_MS))
        assert told == [event(lease, 0), Saved("s", lease.generation, pack_checkpoint(saved))]

    run(scenario())


def test_events_reach_the_log_and_the_inbox_of_their_ingress(run, bus: Bus, keys: Keys, server: Any):
    async def scenario() -> None:
        await bus.join("english")
        for session, node in (("1", "north"), ("2", "south"), ("3", "north")):
            await bus.offer(offer_of(session, ingress=node))
        one, two, three = await bus.take("english", "a", 3, BLOCK_MS)
        published = [
            Publication(one, [event(one, 1, "a"), event(one, 2, "b")]),
            Publication(two, [event(two, 1, "c")]),
            Publication(three, [event(three, 1, "d")]),
        ]
        assert await bus.publish(published) == []
        north = await received(bus.inbox("north", BLOCK_MS), 3)
        south = await received(bus.inbox("south", BLOCK_MS), 1)
        assert [(e.session, e.sequence, e.text) for e in north] == [
            ("1", 1, "a"),
            ("1", 2, "b"),
            ("3", 1, "d"),
        ]
        assert [(e.session, e.sequence, e.text) for e in south] == [("2", 1, "c")]
        assert [entry[0] for entry in entries_of(server, keys.events("1"))] == [
            f"{one.generation}-{number}".encode() for number in (1, 2)
        ]

    run(scenario())


def test_more_events_than_ten_keep_their_order(run, bus: Bus):
    async def scenario() -> None:
        lease = await taken_after_join(bus, "s")
        await bus.publish([Publication(lease, [event(lease, number + 1) for number in range(25)])])
        assert [e.sequence for e in await received(bus.inbox("node-1", BLOCK_MS), 25)] == list(range(1, 26))

    run(scenario())


def test_a_checkpoint_trims_the_audio_that_is_not_needed_any_more(run, bus: Bus):
    async def scenario() -> None:
        lease = await taken_after_join(bus, "s")
        await append(bus, [("s", frame(4 * number)) for number in range(5)])
        entries = (await bus.read({"s": b"0"}))["s"].entries
        saved = Checkpoint(1, 12, entries[2][0].decode(), PARAMS)
        await bus.publish([Publication(lease, [event(lease, 1)], saved)])
        left = (await bus.read({"s": entries[2][0]}))["s"].entries
        assert left == entries[3:]
        [successor] = await bus.take_over("english", "b", 1, NOW_MS)
        assert successor.checkpoint == saved
        resumed = (await bus.read({"s": saved.entry_id.encode()}))["s"].entries
        assert resumed == left

    run(scenario())


def test_a_checkpoint_before_any_audio_trims_nothing(run, bus: Bus):
    async def scenario() -> None:
        lease = await taken_after_join(bus, "s")
        await append(bus, [("s", frame(0))])
        await bus.publish([Publication(lease, [event(lease, 1)], Checkpoint(0, 0, "", PARAMS))])
        assert len((await bus.read({"s": b"0"}))["s"].entries) == 1

    run(scenario())


def test_publishing_again_after_a_lost_answer_writes_the_log_once(run, bus: Bus, keys: Keys, server: Any):
    async def scenario() -> None:
        lease = await taken_after_join(bus, "s")
        again = Publication(lease, [event(lease, 1, "x"), event(lease, 2, "y")])
        assert await bus.publish([again]) == []
        assert await bus.publish([again]) == []
        assert [entry[0] for entry in entries_of(server, keys.events("s"))] == [
            f"{lease.generation}-{number}".encode() for number in (1, 2)
        ]

    run(scenario())


def test_one_lost_session_does_not_hold_up_the_others(run, bus: Bus):
    async def scenario() -> None:
        lost = await taken_after_join(bus, "lost", "a")
        await bus.take_over("english", "b", 1, NOW_MS)
        kept = await taken(bus, "kept", "a")
        published = [Publication(lost, [event(lost, 1, "late")]), Publication(kept, [event(kept, 1, "well")])]
        assert await bus.publish(published) == [lost]
        assert [e.text for e in await received(bus.inbox("node-1", BLOCK_MS), 1)] == ["well"]

    run(scenario())


def test_an_inbox_passes_over_what_it_cannot_read(run, bus: Bus, keys: Keys, server: Any):
    async def scenario() -> None:
        lease = await taken_after_join(bus, "s")
        server.xadd(keys.inbox("node-1"), {b"0": b"\xff"})
        await bus.publish([Publication(lease, [event(lease, 1, "well")])])
        assert [e.text for e in await received(bus.inbox("node-1", BLOCK_MS), 1)] == ["well"]

    run(scenario())


def test_an_inbox_outlives_its_connection_and_misses_nothing(run, bus: Bus, server: Any, wait_until):
    failures: list[BusUnavailable] = []

    async def scenario() -> None:
        lease = await taken_after_join(bus, "s")
        inbox = bus.inbox("node-1", 60_000, failures.append)
        await bus.publish([Publication(lease, [event(lease, 1)])])
        assert [e.sequence for e in await received(inbox, 1)] == [1]
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(received(inbox, 1))
            await wait_until(lambda: blocked_clients(server))
            server.client_kill_filter(_type="normal", skipme=True)
            with pytest.raises(BusUnavailable):
                await bus.ping()
            await bus.publish([Publication(lease, [event(lease, 2)])])
        assert [e.sequence for e in waiting.result()] == [2]

    run(scenario())
    assert failures


def blocked_clients(server: Any) -> int:
    info: Any = server.info("clients")
    return int(info["blocked_clients"])


# ---------------------------------------------------------------------------------------------------------------------
# loads


def test_loads_of_workers_that_reported_lately(run, bus: Bus, keys: Keys, server: Any):
    soon, past = int(time.time()) + 60, int(time.time()) - 1

    async def scenario() -> None:
        fresh = WorkerLoad(16, 12, 80, soon, "m")
        await bus.report("english", "a", fresh)
        await bus.report("english", "silent", WorkerLoad(16, 16, 0, past, "m"))
        server.hset(keys.workers("english").decode(), "older version", b"\xff")
        assert await bus.loads("english") == {"a": fresh}
        assert await bus.loads("multilang") == {}
        await bus.join("english")
        await bus.leave("english", "a")
        assert await bus.loads("english") == {}

    run(scenario())


@pytest.mark.parametrize("worker_s,reader_s", [(3_600, 0), (-3_600, 0), (-30, 30)])
def test_machines_whose_clocks_differ_agree_how_long_a_load_counts(
    run, redis_url: str, keys: Keys, monkeypatch: pytest.MonkeyPatch, worker_s: float, reader_s: float
):
    wall = time.time

    def bus_of(skew_s: float) -> Bus:
        monkeypatch.setattr(time, "time", lambda: wall() + skew_s)
        return Bus(redis_url, keys)

    async def scenario() -> None:
        worker, reader = bus_of(worker_s), bus_of(reader_s)
        await worker.join("english")
        load = WorkerLoad(16, 12, 80, int(worker.unix_s()) + 10, "m")
        await worker.report("english", "a", load)
        assert await reader.loads("english") == {"a": load}
        await worker.report("english", "a", replace(load, deadline_s=int(worker.unix_s()) - 1))
        assert await reader.loads("english") == {}
        for bus in (worker, reader):
            await bus.close()

    run(scenario())


def test_nothing_waits_in_a_pool_that_nobody_joined(run, bus: Bus):
    assert run(bus.waiting("english")) == 0


@pytest.mark.parametrize("entry_id,after", [("5-0", "5-1"), ("1700000000000-9", "1700000000000-10")])
def test_following(entry_id: str, after: str):
    assert following(entry_id) == after


# ---------------------------------------------------------------------------------------------------------------------
# a Redis that is away, or silent

LEASE = Lease(b"1-0", offer_of("s"), 1, None)
CALLS: dict[str, Callable[[Bus], Any]] = {
    "ping": lambda bus: bus.ping(),
    "execute": lambda bus: bus.execute(lambda pipe: pipe.ping()),
    "offer": lambda bus: bus.offer(offer_of("s")),
    "offer_all": lambda bus: bus.offer_all([offer_of("s"), offer_of("t")]),
    "withdraw": lambda bus: bus.withdraw(offer_of("s"), b"1-0"),
    "append": lambda bus: bus.append([("s", 1, frame(0))]),
    "touch": lambda bus: bus.touch({"s": 0}),
    "restore": lambda bus: bus.restore(Restoration(offer_of("s"), b"1-0", 0, b"", (), 1)),
    "run_script": lambda bus: bus.run_script([((b"k",), ("touch",))]),
    "incarnation": lambda bus: bus.incarnation(),
    "forget": lambda bus: bus.forget(["s"]),
    "take_place": lambda bus: bus.take_place("key", "s", 1),
    "keep_places": lambda bus: bus.keep_places([("key", "s")]),
    "displace": lambda bus: bus.displace("key"),
    "free_place": lambda bus: bus.free_place("key", "s"),
    "join": lambda bus: bus.join("english"),
    "take": lambda bus: bus.take("english", "a", 1, 1),
    "take_over": lambda bus: bus.take_over("english", "a", 1, 1),
    "renew": lambda bus: bus.renew("english", "a", [LEASE]),
    "settle": lambda bus: bus.settle("english", "a", [LEASE]),
    "give_back": lambda bus: bus.give_back("english", "a", [LEASE]),
    "read": lambda bus: bus.read({"s": b"0"}),
    "publish": lambda bus: bus.publish([Publication(LEASE, [event(LEASE, 1)])]),
    "report": lambda bus: bus.report("english", "a", WorkerLoad(1, 1, 0, 0, "m")),
    "leave": lambda bus: bus.leave("english", "a"),
    "loads": lambda bus: bus.loads("english"),
    "offered": lambda bus: bus.offered("english"),
    "present": lambda bus: bus.present([b"channel"]),
    "stay_present": lambda bus: bus.stay_present(b"channel", lambda: None),
    "waiting": lambda bus: bus.waiting("english"),
}


def test_every_call_of_the_bus_is_tried():
    public = {name for name, value in vars(Bus).items() if not name.startswith("_") and callable(value)}
    assert public - {"inbox", "close", "clock", "unix_s"} == set(CALLS)


@pytest.mark.parametrize("name", CALLS)
def test_without_redis_every_call_says_so(run, name: str, free_port: Callable[[], int]):
    bus = Bus(f"redis://127.0.0.1:{free_port()}/0", Keys("nowhere"))
    with pytest.raises(BusUnavailable, match="Redis cannot be reached"):
        run(CALLS[name](bus))
    run(bus.close())


@pytest.mark.parametrize("name", CALLS)
def test_a_redis_that_does_not_answer_is_given_up(run, name: str):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        bus = Bus(f"redis://127.0.0.1:{silent.getsockname()[1]}/0", Keys("nowhere"), timeout_s=0.05)
        with pytest.raises(BusUnavailable):
            run(CALLS[name](bus))
        run(bus.close())


def test_waiting_for_offers_longer_than_the_timeout_is_no_fault(run, redis_url: str, keys: Keys):
    async def scenario() -> None:
        bus = Bus(redis_url, keys, timeout_s=0.3)
        await bus.join("english")
        assert await bus.take("english", "a", 1, 400) == []
        await bus.close()

    run(scenario())


def test_an_inbox_without_redis_keeps_trying(run, free_port: Callable[[], int], wait_until):
    failures: list[BusUnavailable] = []

    async def scenario() -> None:
        bus = Bus(f"redis://127.0.0.1:{free_port()}/0", Keys("nowhere"))
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(received(bus.inbox("node-1", BLOCK_MS, failures.append), 1))
            await wait_until(lambda: len(failures) >= 3)
            waiting.cancel()
        await bus.close()

    run(scenario())


def test_a_cancelled_caller_ends_wherever_it_was(run, bus: Bus):
    """Some cancellations meet the end of a send, where redis-py on Python 3.11 forgets them."""

    async def calling() -> None:
        while True:
            await bus.ping()

    async def scenario() -> None:
        for ticks in range(150):
            async with asyncio.TaskGroup() as group:
                task = group.create_task(calling())
                for _ in range(ticks % 30):
                    await asyncio.sleep(0)
                task.cancel()
                done, _ = await asyncio.wait({task}, timeout=5)
                while not task.done():  # or the group would wait for ever
                    task.cancel()
                    await asyncio.sleep(0)
            assert done, f"cancelled after {ticks % 30} ticks, and went on"

    run(scenario())


def test_a_pipeline_of_others_tells_what_redis_refuses_unless_it_is_forgiven(run, bus: Bus, keys: Keys):
    def fill(pipe: Any) -> None:
        pipe.set(keys.offers("x"), b"text", ex=60)
        pipe.xlen(keys.offers("x"))
        pipe.get(keys.offers("x"))

    async def scenario() -> None:
        assert await bus.execute(fill, forgive=("WRONGTYPE",)) == [True, None, b"text"]
        with pytest.raises(BusUnavailable, match="refused a command: WRONGTYPE"):
            await bus.execute(fill, forgive=("BUSYGROUP",))

    run(scenario())


# ---------------------------------------------------------------------------------------------------------------------
# places


def let_places_end(server: Any, key: bytes) -> None:
    """As if PLACE_TTL_S had passed without a touch: the deadlines of all places lie in the past."""
    for session in server.zrange(key, 0, -1):
        server.zadd(key, {session: 1})


def test_a_key_has_so_many_places_and_no_more(run, bus: Bus):
    async def scenario() -> None:
        assert [await bus.take_place("key", session, 2) for session in "abc"] == [True, True, False]
        assert await bus.take_place("other", "c", 1), "another key, another limit"
        await bus.free_place("key", "a")
        assert await bus.take_place("key", "c", 2)
        assert not await bus.take_place("key", "d", 2)

    run(scenario())


def test_a_place_is_taken_once_however_often_it_is_asked_for(run, bus: Bus):
    async def scenario() -> None:
        assert [await bus.take_place("key", "a", 1) for _ in range(3)] == [True] * 3
        assert not await bus.take_place("key", "b", 1)
        await bus.free_place("key", "a")
        await bus.free_place("key", "a")
        assert await bus.take_place("key", "b", 1)

    run(scenario())


def test_nodes_that_ask_at_once_get_no_more_than_there_are(run, redis_url: str, keys: Keys):
    async def scenario() -> None:
        nodes = [Bus(redis_url, keys) for _ in range(4)]
        async with asyncio.TaskGroup() as tasks:
            asked = [
                tasks.create_task(node.take_place("key", f"{number}-{session}", 7))
                for number, node in enumerate(nodes)
                for session in range(10)
            ]
        assert sum(one.result() for one in asked) == 7
        for node in nodes:
            await node.close()

    run(scenario())


def test_many_at_once_over_several_nodes_take_no_place_too_many(run, redis_url, keys: Keys):
    async def scenario() -> None:
        buses = [Bus(redis_url, keys) for _ in range(3)]
        asked = [buses[number % 3].take_place("acme", f"s{number}", 20) for number in range(60)]
        assert sum(await asyncio.gather(*asked)) == 20
        for bus in buses:
            await bus.close()

    run(scenario())


def test_a_place_nobody_keeps_is_free_again(run, bus: Bus, keys: Keys, server: Any):
    """Its node has died."""

    async def scenario() -> None:
        assert await bus.take_place("key", "a", 1)
        assert 0 < server.pttl(keys.places("key")) <= streams.PLACE_TTL_S * 1000
        let_places_end(server, keys.places("key"))
        assert await bus.take_place("key", "b", 1)

    run(scenario())


def test_a_place_that_is_kept_outlives_the_others(run, bus: Bus, keys: Keys, server: Any):
    async def scenario() -> None:
        for session in "ab":
            assert await bus.take_place("key", session, 2)
        let_places_end(server, keys.places("key"))
        await bus.keep_places([("key", "a")])
        assert server.zrange(keys.places("key"), 0, -1) == [b"a"]
        assert [await bus.take_place("key", session, 2) for session in "cd"] == [True, False]
        await bus.keep_places([])

    run(scenario())


def test_a_session_that_runs_has_its_place_again_after_redis_came_back_empty(
    run, bus: Bus, keys: Keys, server: Any
):
    async def scenario() -> None:
        await bus.keep_places([("key", "a"), ("key", "b")])
        assert server.zcard(keys.places("key")) == 2
        assert not await bus.take_place("key", "c", 1), "also beyond a limit that has shrunk"
        assert server.pttl(keys.places("key")) > 0

    run(scenario())


def test_a_replay_that_gave_up_its_place_does_not_get_it_back_by_keeping_it(
    run, bus: Bus, keys: Keys, server: Any
):
    """Its node keeps it at any moment: also right after, when a live session has the place."""

    async def scenario() -> None:
        replays = [(holder, session) for session in "ab" for holder in ("key", REPLAY_HOLDER)]
        for holder, session in replays:
            assert await bus.take_place(holder, session, 2)
        assert await bus.keep_places([], replays) == set()
        assert await bus.displace("key")
        assert await bus.take_place("key", "live", 2)
        assert await bus.keep_places([("key", "live")], replays) == {"a"}
        # Who was kept in the same millisecond comes by name, else by time.
        assert set(server.zrange(keys.places("key"), 0, -1)) == {b"b", b"live"}
        assert server.zrange(keys.places(REPLAY_HOLDER), 0, -1) == [b"b"]
        assert await bus.displace("key")
        assert not await bus.displace("key"), "no replay is left"

    run(scenario())


def test_a_full_redis_refuses_to_keep_places_and_the_caller_goes_on(run, bus: Bus, keys: Keys, server: Any):
    async def scenario() -> None:
        server.set(keys.places("key"), "not a sorted set", ex=60)
        with pytest.raises(BusUnavailable, match="refused"):
            await bus.keep_places([("key", "a")])

    run(scenario())
