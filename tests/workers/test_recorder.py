"""What a worker records, told as the engine tells it."""

import logging

import pytest

from wire.archive import Archive
from wire.entries import AudioFrame, Event, Lease, Offer, Publication
from wire.params import SessionParams
from wire.recorded import OFFER_RECORDED, Decided, Published, SessionFacts, Stepped, Taken
from workers.endpointing import Ending
from workers.recognizer import Hypothesis, Observation, Spec
from workers.recorder import Recorder
from workers.seat import Seat
from workers.turns import Flush

SPEC = Spec("scripted", "none", 4, chunk_samples=1024, hop_ms=32)
KEY = bytes(range(32))


def seated(mark: str | None = "plain", generation: int = 1) -> Seat:
    params = SessionParams().for_worker() | ({OFFER_RECORDED: mark} if mark else {})
    return Seat(Lease(b"0-1", Offer("s", "node", "english", params), generation, None))


def feed(seat: Seat, samples: int) -> None:
    frame = AudioFrame(seat.position, bytes(2 * samples))
    seat.receive(b"1-1", [(b"1-1", frame)], 0.0)
    seat.consumed(frame)


@pytest.fixture
def archive(bus, run) -> Archive:
    made = Archive(bus)
    run(made.begin(SessionFacts("s", 100.0), 60.0, 10**6))
    return made


def test_steps_decisions_and_events_are_kept_with_their_times(archive, run):
    recorder, seat = Recorder(archive, "ada", SPEC, "12ab"), seated()
    recorder.seated(seat)
    feed(seat, 1024)
    recorder.read(seat)
    recorder.read(seat)  # nothing new
    recorder.step(0.0, 3)
    hops = (Observation(32, 0.25), Observation(64, 1.5))
    recorder.stepped(seat, 1024, Hypothesis(hops))
    recorder.decided(seat, Flush(64, Ending("silent", 64, 70, {"words": 1})))
    recorder.decided(seat, Flush(64))  # nobody knows why
    told = seat.report(Event.TAKEN)
    recorder.published([told], [])
    recorder.left(seat.lease)
    run(recorder.flush())

    recording = run(archive.load("s"))
    taken, step, decided, published = recording.items
    assert isinstance(taken, Taken)
    assert (taken.worker, taken.model, taken.digest, taken.generation) == ("ada", "scripted", "12ab", 1)
    assert isinstance(step, Stepped)
    assert (step.from_ms, step.to_ms, step.sessions) == (0, 64, 3)
    assert taken.at_s <= step.queued_s <= step.begun_s <= step.at_s
    assert recording.speech == [(32, 0.25), (64, 1.0)]
    assert isinstance(decided, Decided)
    assert (decided.rule, decided.end_ms, decided.heard_ms, decided.numbers) == (
        "silent",
        64,
        70,
        {"words": 1},
    )
    assert isinstance(published, Published)
    assert (published.event, published.generation, published.sequence) == ("TAKEN", 1, 0)
    assert published.decided_s == step.at_s


def test_a_final_tells_the_checkpoint_that_came_with_it(archive, run):
    recorder, seat = Recorder(archive, "ada", SPEC), seated()
    recorder.seated(seat)
    saved = Publication(seat.lease, seat.report(Event.MESSAGE).events, seat.checkpoint(3, 64, 0))
    recorder.published([saved], [])
    run(recorder.flush())
    [published] = run(archive.load("s")).of(Published)
    assert (published.next_turn, published.next_ms) == (3, 64)


def test_audio_waits_from_when_it_was_read_until_its_step(archive, run):
    recorder, seat = Recorder(archive, "ada", SPEC), seated()
    times = iter(range(100, 200))
    recorder._scribe.now_s = lambda: float(next(times))
    recorder.seated(seat)  # 100
    for _ in range(3):
        feed(seat, 512)
        recorder.read(seat)  # 101, 102, 103
    recorder.step(0.5, 1)
    recorder.stepped(seat, 1024, Hypothesis())  # 104
    recorder.stepped(seat, 1500, Hypothesis())  # 105
    run(recorder.flush())
    steps = run(archive.load("s")).of(Stepped)
    assert [(step.queued_s, step.begun_s, step.at_s) for step in steps] == [
        (102, 103.5, 104),
        (103, 104.5, 105),
    ]


def test_of_sessions_that_are_not_recorded_and_of_lost_ones_nothing_is_kept(archive, run):
    recorder = Recorder(archive, "ada", SPEC)
    plain, lost = seated(None), seated()
    recorder.seated(plain)
    recorder.read(plain)
    recorder.stepped(plain, 10, Hypothesis())
    recorder.decided(plain, Flush(1, Ending("silent", 1, 1, {})))
    recorder.published([plain.report(Event.TAKEN)], [])
    recorder.left(plain.lease)
    recorder.seated(lost)
    recorder.published([lost.report(Event.TAKEN)], [lost.lease])
    run(recorder.flush())
    assert [type(item) for item in run(archive.load("s")).items] == [Taken]


def test_of_what_was_erased_nothing_is_kept_either(archive, run):
    recorder, seat = Recorder(archive, "ada", SPEC), seated()
    recorder.seated(seat)
    run(archive.erase("s"))
    run(recorder.flush())
    recorder.stepped(seat, 10, Hypothesis())
    recorder.left(seat.lease)
    run(recorder.flush())
    assert run(archive.listing()) == []


def test_an_older_lease_that_leaves_does_not_end_the_newer(archive, run):
    recorder, older, newer = Recorder(archive, "ada", SPEC), seated(), seated(generation=2)
    recorder.seated(older)
    recorder.seated(newer)
    recorder.left(older.lease)
    recorder.published([newer.report(Event.TAKEN)], [])
    run(recorder.flush())
    recording = run(archive.load("s"))
    assert [taken.generation for taken in recording.takes] == [1, 2]
    assert [item.generation for item in recording.of(Published)] == [2]
    assert not recording.faults


@pytest.mark.parametrize("key,mark", [(None, "sealed"), (KEY, "plain")])
def test_what_is_to_be_encrypted_is_never_written_plainly(
    bus, run, key, mark, caplog: pytest.LogCaptureFixture
):
    archive = Archive(bus, key)
    run(archive.begin(SessionFacts("s", 100.0), 60.0, 10**6))
    recorder = Recorder(archive, "ada", SPEC)
    with caplog.at_level(logging.WARNING):
        recorder.seated(seated(mark))
    run(recorder.flush())
    assert "RECORD_KEY differs" in caplog.text
    assert run(archive.load("s")).items == ()
