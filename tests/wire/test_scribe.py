"""Writing beside: batches in order, bounded, through outages, and never to what was erased."""

import logging
from collections.abc import Callable

import pytest

from wire.archive import Archive
from wire.errors import BusUnavailable
from wire.keys import Keys
from wire.recorded import Item, Missed, Said, SessionEnd, SessionFacts, Sound
from wire.scribe import Items, Scribe
from wire.streams import Bus

FACTS = SessionFacts("s", 100.0)
END = SessionEnd(200.0, "ended", 1000)


@pytest.fixture
def archive(bus, run) -> Archive:
    found = Archive(bus)
    run(found.begin(FACTS, 60.0, 10**6))
    return found


def test_items_arrive_in_their_order_and_the_end_after_them(archive, run):
    scribe = Scribe(archive, Items)
    scribe.open("s", "ingress")
    said = [Said(float(number), str(number)) for number in range(5)]
    for item in said[:3]:
        scribe.tapes["s"].note(item)
    run(scribe.flush())
    for item in said[3:]:
        scribe.tapes["s"].note(item)
    scribe.close("s", END)
    assert not scribe.tapes, "it would be too late"
    run(scribe.flush())
    recording = run(archive.load("s"))
    assert recording.items == tuple(said)
    assert (recording.end, recording.faults) == (END, ())
    assert not scribe._reels


class Numbered:
    """Notes are texts; what is no number cannot be made an item."""

    def __init__(self) -> None:
        self.noted: list[str] = []
        self.taken: list[int] = []

    def take(self, failed: Callable[[Exception], None]) -> list[Item | Sound]:
        self.taken.append(len(self.noted))
        found: list[Item | Sound] = []
        for note in self.noted:
            try:
                found.append(Said(float(note), note))
            except ValueError as error:
                failed(error)
        self.noted.clear()
        return found


def test_notes_become_items_once_and_one_that_cannot_costs_only_itself(archive, run, caplog):
    scribe = Scribe(archive, Numbered)
    scribe.open("s", "ingress")
    tape = scribe.tapes["s"]
    tape.noted += ["1", "1", "2", "2", "3", "3"]
    run(scribe.flush())
    assert tape.taken == [6]
    tape.noted += ["4", "no number", "5"]
    with caplog.at_level(logging.ERROR):
        run(scribe.flush())
    [record] = [one for one in caplog.records if "Not recorded" in one.message]
    assert record.session == "s"
    recording = run(archive.load("s"))
    assert [item.text for item in recording.of(Said)] == ["1", "1", "2", "2", "3", "3", "4", "5"]
    assert not recording.faults


def test_a_note_costs_few_calls_and_a_second_of_a_session_too(archive, run, calls):
    scribe = Scribe(archive, Items)
    scribe.open("s", "ingress")
    sound = Sound(0, [float(number) for number in range(20)], 20 * [bytes(1_600)], 32_000)
    assert calls(lambda: scribe.tapes["s"].note(sound)) <= 5
    reel = scribe._reels["s"]
    assert calls(lambda: scribe._pack(reel)) <= 40
    assert len(scribe._waiting) == 1
    run(scribe.flush())
    assert run(archive.load("s")).frames[-1].end == 16_000


def test_what_is_not_recorded_costs_nothing(archive, run):
    scribe = Scribe(archive, Items)
    scribe.close("another", END)
    run(scribe.flush())
    assert not scribe.tapes
    assert scribe._bytes == 0


def test_what_finds_no_room_is_dropped_and_told(archive, run, keys: Keys):
    scribe = Scribe(archive, Items, now_s=lambda: 150.0, most_bytes=1_000)
    away = Bus("redis://127.0.0.1:1/0", keys)
    scribe._archive = Archive(away)
    scribe.open("s", "ingress")
    for second in range(3):
        scribe.tapes["s"].note(Said(float(second), 1_000 * "a"))
        with pytest.raises(BusUnavailable):
            run(scribe.flush())
    assert scribe._bytes < 1_200
    run(away.close())
    scribe._archive = archive
    run(scribe.flush())
    run(scribe.flush())
    recording = run(archive.load("s"))
    assert [item.at_s for item in recording.of(Said)] == [0.0]
    assert recording.of(Missed) == [Missed(150.0, 2, "Redis was too slow to take them")]
    assert not recording.faults
    assert scribe._bytes == 0


def test_many_sessions_are_written_in_one_command_each_to_its_own(bus, run, calls):
    archive, names = Archive(bus), [f"s{number}" for number in range(20)]
    scribe = Scribe(archive, Items)
    for name in names:
        run(archive.begin(SessionFacts(name, 100.0), 60.0, 10**6))
        scribe.open(name, "ingress")
        scribe.tapes[name].note(Said(1.0, name))
    run(archive.erase("s3"))
    scribe.close("s4", END)
    asked = []
    ask = bus.run_script

    async def counted(*call):
        asked.append(call)
        return await ask(*call)

    bus.run_script = counted
    run(scribe.flush())
    assert len(asked) == 1
    assert len(asked[0][0]) == 1
    assert [name for name in names if name not in scribe.tapes] == ["s3", "s4"]
    for name in names:
        if name != "s3":
            recording = run(archive.load(name))
            assert [item.text for item in recording.of(Said)] == [name]
            assert recording.end == (END if name == "s4" else None)


def test_an_outage_delays_and_loses_nothing(archive, run, keys: Keys):
    scribe = Scribe(archive, Items)
    scribe.open("s", "ingress")
    scribe.tapes["s"].note(Said(1.0, "before"))
    away = Bus("redis://127.0.0.1:1/0", keys)
    scribe._archive = Archive(away)
    with pytest.raises(BusUnavailable):
        run(scribe.flush())
    scribe._archive = archive
    scribe.tapes["s"].note(Said(2.0, "after"))
    run(scribe.flush())
    run(away.close())
    recording = run(archive.load("s"))
    assert [item.text for item in recording.of(Said)] == ["before", "after"]
    assert not recording.faults


def test_erased_meanwhile_nothing_is_written_any_more(archive, run):
    scribe = Scribe(archive, Items)
    scribe.open("s", "ingress")
    scribe.tapes["s"].note(Said(1.0, "before"))
    run(archive.erase("s"))
    run(scribe.flush())
    assert "s" not in scribe.tapes
    scribe.close("s", END)
    run(scribe.flush())
    assert run(archive.listing()) == []
    assert not scribe._reels


def test_a_session_opened_anew_keeps_what_the_older_writer_had(archive, run):
    scribe = Scribe(archive, Items)
    for writer in ("worker 1", "worker 2"):
        scribe.open("s", writer)
        scribe.tapes["s"].note(Said(1.0, writer))
    run(scribe.flush())
    recording = run(archive.load("s"))
    assert [item.text for item in recording.of(Said)] == ["worker 1", "worker 2"]


def test_it_writes_by_itself_and_tells_of_failures(archive, run, wait_until):
    import asyncio

    scribe = Scribe(archive, Items)
    scribe.open("s", "ingress")
    scribe.tapes["s"].note(Said(1.0, "hello"))
    failures: list[BusUnavailable] = []

    async def scenario() -> None:
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(scribe.run(failures.append))
            await wait_until(lambda: not (scribe._bytes or scribe.tapes["s"]._noted))
            away = Bus("redis://127.0.0.1:1/0", archive._keys)
            scribe._archive = Archive(away)
            scribe.tapes["s"].note(Said(2.0, "again"))
            await wait_until(lambda: failures)
            running.cancel()
        await away.close()

    run(scenario())
    assert len(run(archive.load("s")).items) == 1
