"""Writing beside: batches in order, bounded, through outages, and never to what was erased."""

import pytest

from wire.archive import Archive
from wire.errors import BusUnavailable
from wire.keys import Keys
from wire.recorded import Audio, Item, Missed, Said, SessionEnd, SessionFacts
from wire.scribe import Scribe
from wire.streams import Bus

FACTS = SessionFacts("s", 100.0)
END = SessionEnd(200.0, "ended", 1000)


@pytest.fixture
def archive(bus, run) -> Archive:
    found = Archive(bus)
    run(found.begin(FACTS, 60.0, 10**6))
    return found


def test_items_arrive_in_their_order_and_the_end_after_them(archive, run):
    scribe = Scribe(archive)
    scribe.open("s", "ingress")
    said = [Said(float(number), str(number)) for number in range(5)]
    for item in said[:3]:
        scribe.keep("s", item)
    run(scribe.flush())
    for item in said[3:]:
        scribe.keep("s", item)
    scribe.close("s", END)
    scribe.keep("s", Said(9.0, "too late"))
    run(scribe.flush())
    recording = run(archive.load("s"))
    assert recording.items == tuple(said)
    assert (recording.end, recording.faults) == (END, ())
    assert not scribe._reels


def test_frames_are_gathered_and_keep_their_place_among_the_rest(archive, run):
    scribe = Scribe(archive)
    scribe.open("s", "ingress")
    wanted: list[Item] = [
        Audio(1.0, 0, b"\1\1"),
        Audio(2.0, 1, b"\2\2"),
        Said(3.0, "hello"),
        Audio(4.0, 2, b"\3\3"),
    ]
    for item in [*wanted, Audio(5.0, 9, b"\4\4")]:
        if isinstance(item, Audio):
            scribe.keep_audio("s", item.at_s, item.position, item.pcm)
            scribe.keep_audio("another", item.at_s, item.position, item.pcm)
        else:
            scribe.keep("s", item)
    assert len(scribe._reels["s"].items) == 4
    run(scribe.flush())
    assert list(run(archive.load("s")).items) == [*wanted, Audio(5.0, 9, b"\4\4")]
    assert scribe._bytes == 0


def test_what_is_not_recorded_costs_nothing(archive, run):
    scribe = Scribe(archive)
    scribe.keep("another", Said(1.0, "hello"))
    scribe.close("another", END)
    run(scribe.flush())
    assert not scribe.writes("another")
    assert scribe._bytes == 0


def test_what_finds_no_room_is_dropped_and_told(archive, run):
    scribe = Scribe(archive, lambda: 150.0, most_bytes=2_000)
    scribe.open("s", "ingress")
    for second in range(2):
        scribe.keep("s", Audio(float(second), 400 * second, bytes(800)))
    scribe.keep("s", Audio(2.0, 800, bytes(800)))
    scribe.keep_audio("s", 3.0, 1200, bytes(800))
    run(scribe.flush())
    run(scribe.flush())
    recording = run(archive.load("s"))
    assert len(recording.frames) == 2
    assert recording.of(Missed) == [Missed(150.0, 2, "Redis was too slow to take them")]
    assert scribe._bytes == 0


def test_an_outage_delays_and_loses_nothing(archive, run, keys: Keys):
    scribe = Scribe(archive)
    scribe.open("s", "ingress")
    scribe.keep("s", Said(1.0, "before"))
    away = Bus("redis://127.0.0.1:1/0", keys)
    scribe._archive = Archive(away)
    with pytest.raises(BusUnavailable):
        run(scribe.flush())
    scribe._archive = archive
    scribe.keep("s", Said(2.0, "after"))
    run(scribe.flush())
    run(away.close())
    recording = run(archive.load("s"))
    assert [item.text for item in recording.of(Said)] == ["before", "after"]
    assert not recording.faults


def test_erased_meanwhile_nothing_is_written_any_more(archive, run):
    scribe = Scribe(archive)
    scribe.open("s", "ingress")
    scribe.keep("s", Said(1.0, "before"))
    run(archive.erase("s"))
    run(scribe.flush())
    assert not scribe.writes("s")
    scribe.close("s", END)
    run(scribe.flush())
    assert run(archive.listing()) == []
    assert not scribe._reels


def test_a_session_opened_anew_keeps_what_the_older_writer_had(archive, run):
    scribe = Scribe(archive)
    for writer in ("worker 1", "worker 2"):
        scribe.open("s", writer)
        scribe.keep("s", Said(1.0, writer))
    run(scribe.flush())
    recording = run(archive.load("s"))
    assert [item.text for item in recording.of(Said)] == ["worker 1", "worker 2"]


def test_it_writes_by_itself_and_tells_of_failures(archive, run, wait_until):
    import asyncio

    scribe = Scribe(archive)
    scribe.open("s", "ingress")
    scribe.keep("s", Said(1.0, "hello"))
    failures: list[BusUnavailable] = []

    async def scenario() -> None:
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(scribe.run(failures.append))
            await wait_until(lambda: not scribe._bytes)
            away = Bus("redis://127.0.0.1:1/0", archive._keys)
            scribe._archive = Archive(away)
            scribe.keep("s", Said(2.0, "again"))
            await wait_until(lambda: failures)
            running.cancel()
        await away.close()

    run(scenario())
    assert len(run(archive.load("s")).items) == 1
