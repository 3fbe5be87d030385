"""Laps: cumulative, in time, one end; and the box in which they wait for Redis."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from ingress.laps import LapBox, LapCounter, LastLaps
from wire.entries import UsageRecord


def counter(now: float = 100.0) -> LapCounter:
    return LapCounter("s", "english", "m", 1_700_000_000_000, now, lap_s=5.0)


def test_a_lap_is_due_every_few_seconds():
    laps = counter()
    assert laps.next_deadline() == 105.0
    assert laps.tick(4000, 104.9) is None
    assert laps.tick(5000, 105.0) == UsageRecord("s", 1, 5000, 5000, "english", "m", 1_700_000_000_000, -1)
    assert laps.next_deadline() == 110.0
    assert laps.tick(5500, 109.9) is None
    second = laps.tick(9000, 112.0)
    assert second is not None
    assert (second.lap, second.audio_ms, second.session_ms) == (2, 9000, 12_000)
    assert laps.next_deadline() == 117.0


def test_the_end_is_told_once():
    laps = counter()
    last = laps.end(700, 100.75)
    assert last == UsageRecord("s", 1, 700, 750, "english", "m", 1_700_000_000_000, 1_700_000_000_750)
    assert laps.next_deadline() is None
    assert laps.end(700, 101.0) is None
    assert laps.tick(700, 200.0) is None


times = st.lists(st.tuples(st.floats(0, 20), st.integers(0, 20_000)), max_size=30)


@given(times)
def test_laps_grow_and_the_last_says_all(steps):
    laps, now, audio_ms, told = counter(), 100.0, 0, []
    for seconds, more_ms in steps:
        now, audio_ms = now + seconds, audio_ms + more_ms
        if record := laps.tick(audio_ms, now):
            told.append(record)
    last = laps.end(audio_ms, now)
    assert last is not None
    told.append(last)
    assert [record.lap for record in told] == list(range(1, len(told) + 1))
    assert [record.audio_ms for record in told] == sorted(record.audio_ms for record in told)
    assert [record.over for record in told] == [False] * (len(told) - 1) + [True]
    assert last.audio_ms == audio_ms
    assert last.session_ms == round((now - 100.0) * 1000)


def lap(session: str, number: int) -> UsageRecord:
    return UsageRecord(session, number, number, number, "english", "m", 0)


def test_the_box_keeps_the_newest_lap_of_each_session():
    box = LapBox()
    for record in (lap("a", 1), lap("b", 1), lap("a", 2), lap("a", 1)):
        box.put(record)
    assert box.take() == [lap("a", 2), lap("b", 1)]
    assert len(box) == 0
    assert box.take() == []


def test_last_laps_are_kept_for_a_while_and_only_of_sessions_that_are_over():
    last = LastLaps(most=2, kept_s=10)
    last.put(lap("runs", 1), 0)
    last.put(replace(lap("old", 1), ended_ms=1), 0)
    last.put(replace(lap("a", 1), ended_ms=1), 5)
    assert [record.session for record in last.lately(10)] == ["old", "a"]
    assert [record.session for record in last.lately(10.1)] == ["a"]
    for session in "bc":
        last.put(replace(lap(session, 1), ended_ms=1), 11)
    assert [record.session for record in last.lately(11)] == ["b", "c"]


def test_what_was_put_back_gives_way_to_what_is_newer():
    box = LapBox()
    box.put(lap("a", 1))
    box.put(lap("b", 1))
    taken = box.take()
    box.put(lap("a", 2))
    box.put_back(taken)
    assert sorted(record.session + str(record.lap) for record in box.take()) == ["a2", "b1"]


def test_the_box_is_bounded_and_says_what_it_dropped():
    box = LapBox(most=2)
    for session in "abc":
        box.put(lap(session, 1))
    assert [record.session for record in box.take()] == ["b", "c"]
    assert box.dropped == 1
