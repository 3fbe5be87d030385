"""What is gathered is written once, in order, whatever happens to Redis in between."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from ingress.ledger import Ledger
from ingress.outbox import Outbox
from wire.entries import (
    AudioEntry,
    AudioFrame,
    Checkpoint,
    Control,
    Offer,
    Order,
    Saved,
    pack_audio,
    pack_checkpoint,
)
from wire.errors import BusUnavailable
from wire.keys import Keys
from wire.streams import FORGOTTEN_TTL_S, SESSION_TTL_S, Bus

FRAME = bytes(1600)


def frames(count: int, first: int = 0) -> list[AudioFrame]:
    return [AudioFrame(800 * number, FRAME) for number in range(first, first + count)]


async def logged(bus: Bus, session: str) -> list[Any]:
    found = await bus.read({session: b"0-0"})
    return [entry for _, entry in found[session].entries] if session in found else []


async def lifetime_s(bus: Bus, key: bytes) -> int:
    """Seconds until the key is gone: -2 if it is already."""
    return int(await bus._redis.ttl(key))


def unreachable(free_port: Callable[[], int]) -> Bus:
    return Bus(f"redis://127.0.0.1:{free_port()}/0", Keys("test"))


def test_entries_of_all_sessions_arrive_in_order(run, bus: Bus):
    async def scenario() -> None:
        outbox = Outbox(bus, tick_ms=20)
        end = Control(Order.TERMINATE, 2400)
        for frame in frames(3):
            outbox.append("a", frame)
            outbox.append("b", frame)
        outbox.append("a", end)
        assert outbox.pending_bytes == 6 * len(FRAME) + len(pack_audio(end))
        await outbox.flush()
        assert outbox.pending_bytes == 0
        assert await logged(bus, "a") == [*frames(3), end]
        assert await logged(bus, "b") == frames(3)
        await outbox.flush()
        assert await logged(bus, "b") == frames(3), "written once"

    run(scenario())


def test_small_frames_become_one_entry(run, bus: Bus):
    """A log holds so many entries; in packets of 2.5 ms five minutes would not fit."""

    async def scenario() -> None:
        outbox = Outbox(bus, tick_ms=20)
        for number in range(64):
            outbox.append("a", AudioFrame(40 * number, bytes([number, 0]) * 40))
            outbox.append("b", AudioFrame(40 * number, bytes(80)))
        assert outbox.pending_bytes == 2 * 64 * 80
        await outbox.flush()
        assert outbox.pending_bytes == 0
        found = await logged(bus, "a")
        assert [(frame.position, len(frame.pcm)) for frame in found] == [
            (800 * n, 1_600) for n in range(3)
        ] + [(2_400, 320)]
        assert b"".join(frame.pcm for frame in found) == b"".join(bytes([n, 0]) * 40 for n in range(64))

    run(scenario())


def test_frames_with_a_gap_or_an_order_between_stay_apart(run, bus: Bus):
    async def scenario() -> None:
        outbox = Outbox(bus, tick_ms=20)
        order = Control(Order.FORCE_ENDPOINT, 40)
        entries: list[AudioEntry] = [
            AudioFrame(0, bytes(80)),
            order,
            AudioFrame(40, bytes(80)),
            AudioFrame(200, bytes(80)),
        ]
        for entry in entries:
            outbox.append("a", entry)
        await outbox.flush()
        assert await logged(bus, "a") == entries

    run(scenario())


def test_what_no_log_could_hold_is_refused_where_it_is_appended(run, bus: Bus):
    outbox = Outbox(bus, tick_ms=20)
    with pytest.raises(UnicodeEncodeError):
        outbox.append("a", Control(Order.CONFIGURE, 0, {"prompt": "\ud800"}))
    assert outbox.pending_bytes == 0


async def offered(bus: Bus, session: str, *entries: AudioEntry) -> tuple[Outbox, Offer, bytes]:
    """A session that a worker holds, with these entries in its log."""
    offer = Offer(session, "node", "english", {"speech_model": "m"})
    await bus.join("english")
    offer_id = await bus.offer(offer)
    await bus.take("english", "worker", 1, 20)
    outbox = Outbox(bus, tick_ms=1)
    for entry in entries:
        outbox.append(session, entry)
    await outbox.flush()
    return outbox, offer, offer_id


def test_a_session_that_redis_has_lost_is_written_anew_from_its_checkpoint(run, bus: Bus, keys: Keys):
    async def scenario() -> None:
        outbox, offer, offer_id = await offered(bus, "a", *frames(4))
        saved = Checkpoint(1, 1600, "2-0", {"speech_model": "m"})
        outbox.ledger.saved(Saved("a", 5, pack_checkpoint(saved)))
        await bus._redis.delete(keys.state("a"), keys.audio("a"), keys.offers("english"))
        made: list[bytes | None] = []
        outbox.append("a", frames(1, first=4)[0])
        outbox.restore(offer, offer_id, 6, made.append)
        await outbox.flush()
        [lease] = await bus.take_over("english", "b", 1, 0) or await bus.take("english", "b", 1, 20)
        assert made == [lease.offer_id]
        assert (lease.session, lease.checkpoint) == ("a", saved)
        assert lease.generation > 6
        found = (await bus.read({"a": b"2-0"}))["a"].entries
        assert [entry for _, entry in found] == frames(3, first=2)
        assert await bus.touch({"a": outbox.ledger.last_written("a")}) == []

    run(scenario())


def test_a_session_of_which_too_much_was_let_go_cannot_be_restored(run, bus: Bus):
    async def scenario() -> None:
        outbox = Outbox(bus, 1, ledger=Ledger(2**20, 4_000))
        for frame in frames(5):
            outbox.append("a", frame)
        await outbox.flush()
        made: list[bytes | None] = []
        outbox.restore(Offer("a", "node", "english", {}), b"1-0", 0, made.append)
        await outbox.flush()
        assert made == [None]

    run(scenario())


def test_a_session_that_ended_meanwhile_is_not_restored(run, bus: Bus):
    async def scenario() -> None:
        outbox, offer, offer_id = await offered(bus, "a", *frames(2))
        made: list[bytes | None] = []
        outbox.restore(offer, offer_id, 6, made.append)
        outbox.forget("a")
        await outbox.flush()
        assert made == []
        assert outbox.ledger.bytes == 0

    run(scenario())


def test_an_entry_keeps_its_number_through_failed_tries(run, bus: Bus, free_port: Callable[[], int]):
    """What arrived although the answer was lost is not there twice, and what is added meanwhile is not part of it."""

    async def scenario() -> None:
        lost = unreachable(free_port)
        outbox = Outbox(lost, tick_ms=1)
        outbox.append("a", AudioFrame(0, bytes(80)))
        with pytest.raises(BusUnavailable):
            await outbox.flush()
        outbox.append("a", AudioFrame(40, bytes(80)))
        await bus.append([("a", 1, AudioFrame(0, bytes(80)))])  # it had arrived after all
        outbox._bus = bus
        await outbox.flush()
        assert await logged(bus, "a") == [AudioFrame(0, bytes(80)), AudioFrame(40, bytes(80))]
        await lost.close()

    run(scenario())


def test_while_redis_takes_nothing_the_rest_of_an_ended_session_is_dropped(
    run, free_port: Callable[[], int], wait_until
):
    async def scenario() -> None:
        bus = unreachable(free_port)
        outbox = Outbox(bus, tick_ms=1)
        outbox.append("other", frames(1)[0])
        async with asyncio.TaskGroup() as tasks:
            loop = tasks.create_task(outbox.run(lambda _: None))
            await wait_until(lambda: outbox.stuck_since is not None)
            loop.cancel()
        for frame in frames(5):
            outbox.append("a", frame)
        end = Control(Order.ABANDON, 4_000)
        outbox.append("a", end)
        outbox.forget("a")
        assert [item.entry for item in outbox._pending] == [frames(1)[0], end]
        assert outbox.pending_bytes == len(FRAME) + len(pack_audio(end))
        await bus.close()

    run(scenario())


def test_what_comes_during_a_flush_waits_for_the_next(run, bus: Bus):
    async def scenario() -> None:
        outbox = Outbox(bus, tick_ms=20)
        outbox.append("a", frames(1)[0])
        async with asyncio.TaskGroup() as tasks:
            flush = tasks.create_task(outbox.flush())
            await asyncio.sleep(0)  # into the append
            assert not flush.done()
            outbox.append("a", frames(1, first=1)[0])
        assert outbox.pending_bytes == len(FRAME)
        await outbox.flush()
        assert await logged(bus, "a") == frames(2)

    run(scenario())


def test_the_loop_writes_by_itself_and_rests_when_idle(run, bus: Bus, wait_until):
    async def scenario() -> None:
        outbox = Outbox(bus, tick_ms=1)
        async with asyncio.TaskGroup() as tasks:
            loop = tasks.create_task(outbox.run(lambda error: pytest.fail(str(error))))
            for number, frame in enumerate(frames(3), start=1):
                outbox.append("a", frame)
                await wait_until(lambda: outbox.pending_bytes == 0)
                assert len(await logged(bus, "a")) == number
            await wait_until(lambda: not outbox._work.is_set())
            loop.cancel()

    run(scenario())


def test_a_withdrawn_session_leaves_nothing_behind(run, bus: Bus):
    async def scenario() -> None:
        outbox = Outbox(bus, tick_ms=20)
        offer = Offer("a", "node", "english", {})
        offer_id = await bus.offer(offer)
        outbox.append("a", frames(1)[0])
        await outbox.flush()
        outbox.append("a", frames(1, first=1)[0])
        outbox.withdraw(offer, offer_id)
        outbox.append("b", frames(1)[0])
        await outbox.flush()
        assert await bus.waiting("english") == 0
        assert await logged(bus, "a") == []
        assert await logged(bus, "b") == frames(1)
        assert await lifetime_s(bus, bus.keys.state("a")) == -2
        assert outbox.pending_bytes == 0

    run(scenario())


def test_a_session_that_ends_during_a_flush_is_not_forgotten_before_its_last_entry(run, bus: Bus):
    """Its log would be made anew by the last entry, and outlive the session by a minute."""

    async def scenario() -> None:
        outbox = Outbox(bus, tick_ms=20)
        outbox.append("a", frames(1)[0])
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(outbox.flush())
            await asyncio.sleep(0)  # the flush has begun: what follows is not in it
            outbox.append("a", Control(Order.ABANDON, 800))
            outbox.forget("a")
        await outbox.flush()
        assert 0 < await lifetime_s(bus, bus.keys.audio("a")) <= FORGOTTEN_TTL_S

    run(scenario())


def test_a_forgotten_session_expires_soon(run, bus: Bus):
    async def scenario() -> None:
        outbox = Outbox(bus, tick_ms=20)
        outbox.append("a", frames(1)[0])
        outbox.append("b", frames(1)[0])
        outbox.append("a", Control(Order.ABANDON, 800))
        outbox.forget("a")
        await outbox.flush()
        assert [len(await logged(bus, name)) for name in "ab"] == [2, 1]
        assert 0 < await lifetime_s(bus, bus.keys.audio("a")) <= FORGOTTEN_TTL_S
        assert FORGOTTEN_TTL_S < await lifetime_s(bus, bus.keys.audio("b")) <= SESSION_TTL_S

    run(scenario())


def test_without_redis_everything_is_still_to_do(run, free_port: Callable[[], int]):
    async def scenario() -> None:
        bus = unreachable(free_port)
        outbox = Outbox(bus, tick_ms=20)
        outbox.append("a", frames(1)[0])
        outbox.withdraw(Offer("b", "node", "english", {}), b"1-0")
        outbox.forget("c")
        for _ in range(2):
            with pytest.raises(BusUnavailable):
                await outbox.flush()
            assert outbox.pending_bytes == len(FRAME)
            assert [len(queue) for queue in (outbox._pending, outbox._withdrawn, outbox._forgotten)] == [
                1,
                1,
                1,
            ]
        await bus.close()

    run(scenario())


def test_the_loop_tells_of_each_failed_try(run, free_port: Callable[[], int], wait_until):
    async def scenario() -> None:
        bus = unreachable(free_port)
        missed: list[BusUnavailable] = []
        outbox = Outbox(bus, tick_ms=1)
        async with asyncio.TaskGroup() as tasks:
            loop = tasks.create_task(outbox.run(missed.append))
            outbox.append("a", frames(1)[0])
            await wait_until(lambda: len(missed) == 2)
            loop.cancel()
        assert all(isinstance(error, BusUnavailable) for error in missed)
        await bus.close()

    run(scenario())


def test_a_place_is_freed_at_the_next_flush(run, bus: Bus):
    async def scenario() -> None:
        outbox = Outbox(bus, tick_ms=20)
        assert await bus.take_place("key", "a", 1)
        outbox.free("key", "a")
        assert not await bus.take_place("key", "b", 1)
        await outbox.flush()
        assert await bus.take_place("key", "b", 1)

    run(scenario())


def test_a_place_that_cannot_be_freed_now_is_freed_later(run, bus: Bus, free_port):
    async def scenario() -> None:
        outbox, away = Outbox(bus, tick_ms=20), unreachable(free_port)
        assert await bus.take_place("key", "a", 1)
        outbox.free("key", "a")
        outbox._bus = away
        with pytest.raises(BusUnavailable):
            await outbox.flush()
        outbox._bus = bus
        await outbox.flush()
        assert await bus.take_place("key", "b", 1)
        await away.close()

    run(scenario())


def test_a_frame_costs_few_calls(run, bus: Bus, calls):
    outbox = Outbox(bus, tick_ms=20)
    outbox.append("one", AudioFrame(0, bytes(1_600)))
    # Measured: 17. Audio is most of what a node does.
    assert calls(lambda: outbox.append("one", AudioFrame(800, bytes(1_600)))) <= 18
