"""This node's recordings: begun or not, noted, ended, and kept within their limit."""

import asyncio
import logging

import pytest

from ingress.consent import Policy, Record
from ingress.recorder import Recorder
from ingress.session import Append, Reply
from ingress.tape import Tape
from wire.archive import Archive
from wire.entries import AudioEntry, AudioFrame, Control, Order
from wire.keys import Keys
from wire.recorded import Audio, Connection, Ordered, Said, SessionFacts, Told
from wire.streams import Bus

POLICY = Policy(Record.ASK, keep_s=60.0, session_bytes=10**6, total_bytes=10**7)
FACTS = SessionFacts("s", 100.0, why="asked")


def test_a_session_from_begin_to_end(bus, run):
    archive = Archive(bus)
    recorder = Recorder(archive, POLICY, "node")

    async def scenario() -> None:
        assert recorder.why(None, True) == "asked"
        assert await recorder.begin(FACTS)
        recorder.note("s", b"..", [Append(AudioFrame(0, b"\1\1"))])
        recorder.note("s", b"..", [Append(AudioFrame(1, b"\2\2")), Append(AudioFrame(2, b"\3\3"))])
        recorder.note("s", "hello", [Reply("you too")])
        recorder.note("s", b"..", [Reply("an error")])
        recorder.note("another", "hello", [])
        recorder.connection("s", "lost")
        recorder.end("s", "ended", 1000)
        recorder.note("s", "too late", [])
        await recorder.flush()

    run(scenario())
    recording = run(archive.load("s"))
    assert [type(item) for item in recording.items] == [Audio, Audio, Audio, Said, Told, Told, Connection]
    assert recording.end is not None
    assert (recording.end.outcome, recording.end.audio_ms) == ("ended", 1000)


def test_a_session_that_moves_is_written_by_each_node_it_comes_to(bus, run):
    archive = Archive(bus)
    north, south = Recorder(archive, POLICY, "north"), Recorder(archive, POLICY, "south")

    async def scenario() -> None:
        assert await north.begin(FACTS)
        for number, (node, other) in enumerate([(north, south), (south, north), (north, south)]):
            node.note("s", f"message {number}", [])
            await node.flush()
            node.let_go("s")
            await node.flush()
            assert await other.has("s")
            other.go_on("s", [], [])
        south.end("s", "ended", 1000)
        await south.flush()
        assert not await south.has("another")

    run(scenario())
    recording = run(archive.load("s"))
    assert [item.text for item in recording.of(Said)] == ["message 0", "message 1", "message 2"]
    assert recording.end is not None
    assert recording.faults == ()


def test_what_a_node_that_was_killed_had_not_written_is_filled_in_from_what_redis_has_of_the_session(
    bus, run
):
    archive = Archive(bus)
    north, south = Recorder(archive, POLICY, "north"), Recorder(archive, POLICY, "south")
    log: list[AudioEntry] = [AudioFrame(n, b"\1\1") for n in range(4)] + [
        Control(Order.FORCE_ENDPOINT, 4, None)
    ]
    told = ['{"type":"Begin","configuration":{"resume_token":"secret"},"sequence":1,"type":"Begin"}', "two"]

    async def scenario() -> None:
        assert await north.begin(FACTS)
        north.note("s", b"..", [Append(log[0])])
        north.note("s", b"..", [Append(log[1])])
        north.note("s", None, [Reply(told[0])])
        await north.flush()
        for entry in log[2:]:
            north.note("s", b"..", [Append(entry)])  # it dies before it has written them
        south.go_on("s", log[1:], told)
        south.note("s", b"..", [Append(AudioFrame(4, b"\5\5"))])
        south.note("s", None, [Reply("three")])
        south.end("s", "ended", 1000)
        await south.flush()

    run(scenario())
    recording = run(archive.load("s"))
    assert [frame.position for frame in recording.frames] == [0, 1, 2, 3, 4]
    assert [order.order for order in recording.of(Ordered)] == ["FORCE_ENDPOINT"]
    texts = [item.text for item in recording.of(Told)]
    assert [len(texts), texts[1:]] == [3, ["two", "three"]]
    assert "secret" not in texts[0]
    assert recording.faults == ()


def test_without_redis_the_session_goes_on_unrecorded(run, caplog: pytest.LogCaptureFixture):
    async def scenario() -> None:
        bus = Bus("redis://127.0.0.1:1/0", Keys("none"))
        recorder = Recorder(Archive(bus), POLICY, "node")
        assert not await recorder.begin(FACTS)
        recorder.note("s", "hello", [])
        await recorder.flush()
        await bus.close()

    with caplog.at_level(logging.WARNING):
        run(scenario())
    assert "Session is not recorded" in caplog.text


def test_a_bug_here_is_logged_and_harms_nobody(bus, run, caplog: pytest.LogCaptureFixture):
    archive = Archive(bus)
    recorder = Recorder(archive, POLICY, "node")
    run(recorder.begin(FACTS))
    recorder.note("s", "hello", [Reply(5)])  # type: ignore[arg-type]
    recorder.note("s", b"..", [Append(AudioFrame(0, b"\1\1"))])
    with caplog.at_level(logging.ERROR):
        run(recorder.flush())
    assert "Not recorded" in caplog.text
    assert run(archive.load("s")).pcm == b"\1\1"


def test_a_frame_costs_few_calls(bus, run, calls):
    recorder, effects = Recorder(Archive(bus), POLICY, "node"), [Append(AudioFrame(0, bytes(1_600)))]
    run(recorder.begin(FACTS))
    frame = bytes(1_600)
    assert calls(lambda: recorder.note("s", frame, effects)) <= 6
    assert calls(lambda: recorder.note("another", frame, effects)) <= 4
    tape = Tape()
    for number in range(20):
        tape.note(1.0, frame, [Append(AudioFrame(800 * number, frame))])
    assert calls(lambda: tape.take(print)) <= 20 * 2 + 20


def test_all_together_are_kept_within_their_limit(bus, run, wait_until):
    archive = Archive(bus)
    policy = Policy(Record.ALL, keep_s=60.0, session_bytes=10**6, total_bytes=5_000)

    async def scenario() -> None:
        recorder = Recorder(archive, policy, "node")
        for number in range(3):
            await recorder.begin(SessionFacts(f"s{number}", 100.0 + number, why="all"))
            recorder.note(f"s{number}", b"", [Append(AudioFrame(0, bytes(4_000)))])
        async with asyncio.TaskGroup() as tasks:
            await recorder.flush()
            running = tasks.create_task(recorder.run(print))

            async def only_the_newest() -> bool:
                return [one.id for one in await archive.listing()] == ["s2"]

            await wait_until(only_the_newest)
            running.cancel()

    run(scenario())
