"""Recordings in a real Redis: written, read in every state of decay, erased, kept within their limits."""

import asyncio
from dataclasses import replace

import msgpack  # type: ignore[import-untyped]
import pytest
import redis

from wire.archive import Archive, NoRecording, Written
from wire.entries import Event, Lease, Offer, Publication, SessionEvent
from wire.errors import StackError
from wire.recorded import FORMAT, Audio, Item, Said, SessionEnd, SessionFacts, TooNew, pack_batch
from wire.recordings import Recording, assemble
from wire.sealing import Locked

KEY = bytes(range(32))
FACTS = SessionFacts("some-id", 100.0, "english", {"sample_rate": 16_000}, why="all")
END = SessionEnd(103.0, "ended", 100)
HOUR_S, ROOM = 3600.0, 10_000


def batch(archive: Archive, number: int = 0, *items: Item, session: str = "some-id") -> tuple[str, bytes]:
    return session, archive.box(session).seal(pack_batch("ingress", number, items))


async def recorded(
    archive: Archive, session: str = "some-id", started_s: float = 100.0, most: int = ROOM
) -> None:
    """Two parts and an end."""
    facts = replace(FACTS, id=session, started_s=started_s)
    await archive.begin(facts, HOUR_S, most)
    audio = Audio(101.0, 0, bytes(1000))
    parts = [
        batch(archive, 0, audio, session=session),
        batch(archive, 1, Said(102.0, "hello"), session=session),
    ]
    assert await archive.append(parts) == [Written.YES, Written.YES]
    await archive.finish(session, END)


@pytest.fixture
def server(redis_url):
    with redis.Redis.from_url(redis_url) as client:
        yield client


def named(server, keys, session: str = "some-id") -> list[bytes]:
    return [key for key in server.scan_iter(match=keys.everything()) if session.encode() in key]


@pytest.mark.parametrize("key", [None, KEY])
def test_what_was_written_is_read(bus, run, key):
    archive = Archive(bus, key)
    run(recorded(archive))
    recording = run(archive.load("some-id"))
    assert recording == Recording(FACTS, END, (Audio(101.0, 0, bytes(1000)), Said(102.0, "hello")))
    [listed] = run(archive.listing())
    assert (listed.facts, listed.end, listed.sealed, listed.cut) == (FACTS, END, key is not None, False)
    assert listed.size > 1000
    assert HOUR_S - 60 < listed.left_s <= HOUR_S


def test_nothing_is_begun_twice_and_a_lost_script_is_loaded_again(bus, run, server):
    archive = Archive(bus)
    run(archive.begin(FACTS, HOUR_S, ROOM))
    assert run(archive.append([batch(archive)])) == [Written.YES]
    server.script_flush()
    assert run(archive.append([batch(archive, 1)])) == [Written.YES]
    assert run(archive.append([])) == []


def test_nothing_readable_lies_in_redis_with_a_key(bus, run, server, keys):
    run(recorded(Archive(bus, KEY)))
    log = server.xrange(keys.recording_log("some-id"))
    facts = server.hgetall(keys.recording_facts("some-id"))
    assert b"hello" not in b"".join(fields[b"e"] for _, fields in log)
    assert b"english" not in b"".join(facts.values())


def test_without_the_key_the_list_shows_what_it_can_and_the_rest_says_why(bus, run):
    run(recorded(Archive(bus, KEY)))
    [listed] = run(Archive(bus).listing())
    assert (listed.id, listed.started_s, listed.sealed, listed.facts) == ("some-id", 100.0, True, None)
    assert "RECORD_KEY is not set" in listed.fault
    with pytest.raises(Locked, match=r"some-id cannot be read: .*RECORD_KEY is not set"):
        run(Archive(bus).load("some-id"))
    with pytest.raises(Locked, match="RECORD_KEY is not the key"):
        run(Archive(bus, bytes(32)).load("some-id"))


def test_what_is_not_there_says_what_may_have_become_of_it(bus, run, server, keys):
    archive = Archive(bus)
    with pytest.raises(NoRecording, match="no recording some-id"):
        run(archive.load("some-id"))
    run(recorded(archive))
    server.delete(keys.recording_facts("some-id"), keys.recording_log("some-id"))  # as when they expire
    with pytest.raises(NoRecording, match="expired"):
        run(archive.load("some-id"))
    assert run(archive.listing()) == []
    run(archive.tidy(ROOM))
    assert run(archive.index()) == []


def test_a_log_whose_begin_is_trimmed_is_read_as_far_as_it_goes(bus, run, server, keys):
    archive = Archive(bus)
    run(recorded(archive))
    server.xtrim(keys.recording_log("some-id"), maxlen=1, approximate=False)
    recording = run(archive.load("some-id"))
    assert recording.items == (Said(102.0, "hello"),)
    assert recording.faults == ("1 of 2 parts written by ingress are missing",)


def test_parts_that_cannot_be_read_leave_the_others(bus, run, server, keys):
    archive = Archive(bus)
    run(recorded(archive))
    server.xadd(keys.recording_log("some-id"), {"e": b"rubbish"})
    server.xadd(keys.recording_log("some-id"), {"other": b"field"})
    server.hset(keys.recording_facts("some-id"), "facts", b"rubbish")
    recording = run(archive.load("some-id"))
    assert recording.facts == SessionFacts("some-id", 100.0)
    assert len(recording.items) == 2
    assert "what it is of cannot be read" in recording.faults[0]
    assert "2 of 4 parts of the log cannot be read" in recording.faults[1]


def test_a_recording_of_a_later_release_is_told(bus, run, server, keys):
    archive = Archive(bus)
    run(recorded(archive))
    server.hset(keys.recording_facts("some-id"), "facts", msgpack.packb([FORMAT + 1, {}]))
    assert len(run(archive.load("some-id")).items) == 2, "what can be read is shown"
    server.delete(keys.recording_log("some-id"))
    server.xadd(keys.recording_log("some-id"), {"e": msgpack.packb([FORMAT + 1, "ingress", 0, []])})
    server.expire(keys.recording_log("some-id"), 60)
    with pytest.raises(TooNew, match=r"some-id cannot be read: written in format .* by a later release"):
        run(archive.load("some-id"))


def test_beyond_its_limit_nothing_is_written_and_that_is_told(bus, run):
    archive = Archive(bus)
    run(archive.begin(FACTS, HOUR_S, 1500))
    audio = Audio(101.0, 0, bytes(1000))
    results = run(archive.append([batch(archive, 0, audio), batch(archive, 1, audio)]))
    assert results == [Written.YES, Written.FULL]
    run(archive.finish("some-id", END))
    recording = run(archive.load("some-id"))
    assert recording.end is not None
    assert recording.end.cut
    assert "RECORD_SESSION_BYTES" in recording.faults[0]


def test_erased_nothing_with_its_id_is_left_and_nothing_comes_back(bus, run, server, keys):
    archive = Archive(bus)

    async def scenario() -> None:
        await bus.offer(Offer("some-id", "node", "english", {}))
        lease = Lease(b"0-1", Offer("some-id", "node", "english", {}), 1, None)
        server.hset(keys.state("some-id"), "generation", 1)
        await bus.publish([Publication(lease, (SessionEvent("some-id", 1, 0, Event.MESSAGE, text="hello"),))])
        await recorded(archive)
        assert named(server, keys)
        assert await archive.erase("some-id")
        assert await archive.append([batch(archive, 2, Said(1.0, "late"))]) == [Written.GONE]
        await archive.finish("some-id", END)
        assert not await archive.erase("some-id")

    run(scenario())
    assert named(server, keys) == []
    assert server.zscore(keys.recordings(), "some-id") is None


def test_erasing_what_still_runs_leaves_the_session_alone(bus, run, server, keys):
    archive = Archive(bus)

    async def scenario() -> None:
        await bus.offer(Offer("some-id", "node", "english", {}))
        await archive.begin(FACTS, HOUR_S, ROOM)
        assert await archive.erase("some-id")

    run(scenario())
    assert named(server, keys) == [keys.state("some-id")]


def test_the_oldest_go_where_all_together_are_too_large(bus, run):
    archive = Archive(bus)

    async def scenario() -> None:
        for number in range(4):
            await recorded(archive, f"id-{number}", 100.0 + number)
        sizes = {listed.id: listed.size for listed in await archive.listing()}
        room = sizes["id-2"] + sizes["id-3"]
        assert await archive.tidy(room) == room
        assert [listed.id for listed in await archive.listing()] == ["id-2", "id-3"]
        assert await archive.tidy(room) == room

    run(scenario())


def test_what_a_node_was_told_long_ago_leaves_its_inbox(bus, run, server, keys):
    archive = Archive(bus)
    seconds, _ = server.time()
    for age_s in (120, 90, 5):
        server.xadd(keys.inbox("node"), {"0": b"event"}, id=f"{1000 * (seconds - age_s)}-0")
    server.expire(keys.inbox("node"), 60)
    run(archive.forget_told("node"))
    assert server.xlen(keys.inbox("node")) == 1
    run(archive.forget_told("another"))


def test_a_whole_recording_is_brought_in_once(bus, run):
    archive = Archive(bus, KEY)
    items = tuple(Audio(100.0 + n, 16_000 * n, bytes(32_000)) for n in range(10))
    whole = assemble(FACTS, END, [], ())
    whole = replace(whole, items=items)
    run(archive.put(whole, HOUR_S, 10**6))
    assert run(archive.load("some-id")) == whole
    with pytest.raises(StackError, match="already"):
        run(archive.put(whole, HOUR_S, 10**6))
    run(archive.erase("some-id"))
    with pytest.raises(StackError, match="larger than RECORD_SESSION_BYTES"):
        run(archive.put(whole, HOUR_S, 200_000))
    assert run(archive.listing()) == []


def test_a_running_session_is_followed_to_its_end(bus, run, server, keys):
    archive = Archive(bus)
    heard: list[str] = []

    async def scenario() -> None:
        offer = Offer("some-id", "node", "english", {})
        await bus.offer(offer)
        server.hset(keys.state("some-id"), "generation", 1)
        lease = Lease(b"0-1", offer, 1, None)

        async def pause() -> None:
            if len(heard) < 3:
                told = SessionEvent("some-id", 1, len(heard), Event.MESSAGE, text=f"word {len(heard)}")
                await bus.publish([Publication(lease, (told,))])
            else:
                server.delete(keys.state("some-id"), keys.events("some-id"))
            await asyncio.sleep(0)

        await archive.follow("some-id", lambda event: heard.append(event.text), pause)
        with pytest.raises(NoRecording, match="no session some-id runs"):
            await archive.follow("some-id", lambda event: heard.append(event.text), pause)

    run(scenario())
    assert heard == ["word 0", "word 1", "word 2"]
