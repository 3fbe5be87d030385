"""Batches: examples of each rule, properties over any history, and a machine with a tracker, crashes and duplicates."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from usage import batch as module
from usage.batch import FIRST_RETRY_S, LAST_RETRY_S, Batch, Batcher, Held, Rules, order
from wire.entries import UsageRecord

RULES = Rules(flush_s=5.0, batch_records=3, held_records=6, give_up_s=300.0)


def lap(session: str = "s", number: int = 1, audio_ms: int | None = None, over: bool = False) -> UsageRecord:
    ms = number * 1000 if audio_ms is None else audio_ms
    return UsageRecord(session, number, ms, ms, "english", "m", 1_000_000, 2_000_000 if over else -1)


def filled(*sessions: str, rules: Rules = RULES, now: float = 0.0) -> Batcher:
    batcher = Batcher(rules)
    for number, session in enumerate(sessions):
        assert batcher.add(b"%d" % number, lap(session), now) == []
    return batcher


def taken(batcher: Batcher) -> Batch:
    batch = batcher.take(9.0)
    assert batch is not None
    return batch


def records(batcher: Batcher, now: float = 100.0) -> list[UsageRecord]:
    batch = batcher.take(now)
    return [held.record for held in batch.held] if batch else []


# ---------------------------------------------------------------------------------------------------------------------
# when to flush


def test_records_wait_for_company_but_not_for_long():
    batcher = filled("a", now=10.0)
    assert not batcher.due(14.999)
    assert batcher.due(15.0)


def test_a_full_batch_waits_for_nothing():
    batcher = filled("a", "b")
    assert not batcher.due(0.0)
    batcher.add(b"x", lap("c"), 0.0)
    assert batcher.due(0.0)


def test_nothing_is_never_due():
    batcher = Batcher(RULES)
    assert not batcher.due(1e9)
    assert batcher.take(1e9) is None


def test_the_wait_counts_from_the_oldest_and_starts_anew_with_each_batch():
    batcher = filled("a", now=0.0)
    batcher.add(b"x", lap("b"), 4.0)
    assert batcher.due(5.0)
    batcher.take(5.0)
    batcher.add(b"y", lap("c"), 6.0)
    batcher.delivered()
    assert not batcher.due(10.999)
    assert batcher.due(11.0)


def test_what_a_full_batch_left_behind_waits_from_then_on():
    batcher = filled("a", "b", "c", "d", now=0.0)
    assert len(records(batcher, 2.0)) == 3
    batcher.delivered()
    assert not batcher.due(6.9)
    assert batcher.due(7.0)


def test_a_batch_takes_the_oldest_and_no_more_than_allowed():
    batcher = filled("a", "b", "c", "d")
    assert [record.session for record in records(batcher)] == ["a", "b", "c"]
    assert len(batcher) == 4
    assert batcher.room == 2
    assert list(batcher.entries()) == [b"0", b"1", b"2", b"3"]


def test_room_is_never_less_than_none():
    batcher = filled(*"abcdefgh")
    assert batcher.room == 0


# ---------------------------------------------------------------------------------------------------------------------
# which of a session's records


def test_a_newer_lap_supersedes_an_older_one():
    batcher = filled("s")
    assert batcher.add(b"new", lap("s", 2), 1.0) == [b"0"]
    assert [record.lap for record in records(batcher)] == [2]


def test_an_older_lap_is_superseded_itself():
    batcher = Batcher(RULES)
    batcher.add(b"new", lap("s", 2), 0.0)
    assert batcher.add(b"old", lap("s", 1), 0.0) == [b"old"]
    assert batcher.add(b"same", lap("s", 2), 0.0) == [b"same"]
    assert [record.lap for record in records(batcher)] == [2]


def test_the_end_is_newer_than_the_same_lap_and_older_than_the_next():
    assert order(lap("s", 1)) < order(lap("s", 1, over=True)) < order(lap("s", 2))
    batcher = filled("s")
    assert batcher.add(b"end", lap("s", 1, over=True), 0.0) == [b"0"]
    assert batcher.add(b"on", lap("s", 2), 0.0) == [b"end"]


def test_the_same_entry_again_changes_nothing():
    batcher = filled("s")
    assert batcher.add(b"0", lap("s"), 1.0) == []
    batcher.take(1.0)
    assert batcher.add(b"0", lap("s"), 1.0) == []
    assert len(batcher) == 1


def test_on_the_way_nothing_is_superseded_and_nothing_older_is_taken():
    batcher = filled("s")
    batcher.add(b"x", lap("t", 5), 0.0)
    batcher.take(0.0)
    assert batcher.add(b"old", lap("t", 4), 0.0) == [b"old"]
    assert batcher.add(b"again", lap("t", 5), 0.0) == [b"again"]
    assert batcher.add(b"new", lap("t", 6), 0.0) == []
    assert list(batcher.entries()) == [b"0", b"x", b"new"]
    assert batcher.add(b"newer", lap("t", 7), 0.0) == [b"new"]


def test_what_was_delivered_is_not_delivered_again():
    batcher = filled("s")
    batcher.take(0.0)
    batcher.delivered()
    assert batcher.add(b"copy", lap("s"), 0.0) == [b"copy"]
    assert batcher.add(b"new", lap("s", 2), 0.0) == []


def test_memory_of_what_was_delivered_is_bounded_and_keeps_the_newest(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "REMEMBERED", 2)
    batcher = filled("a", "b", "c")
    batcher.take(0.0)
    batcher.delivered()
    assert batcher.add(b"a2", lap("a"), 0.0) == []  # forgotten; the tracker still knows it
    assert batcher.add(b"b2", lap("b"), 0.0) == [b"b2"]
    assert batcher.add(b"c2", lap("c"), 0.0) == [b"c2"]


# ---------------------------------------------------------------------------------------------------------------------
# failures


def test_a_batch_stays_the_same_through_failures():
    batcher = filled("a")
    first = batcher.take(0.0)
    batcher.failed(0.0, 0.5)
    batcher.add(b"x", lap("a", 2), 0.0)
    batcher.add(b"y", lap("b"), 0.0)
    assert batcher.take(100.0) == first
    assert batcher.delivered() == first
    assert [record.session for record in records(batcher)] == ["a", "b"]


def test_pauses_double_up_to_the_longest_and_start_anew_after_a_success():
    batcher = filled("a")
    batcher.take(0.0)
    for wanted in (1, 2, 4, 8, 16, 30, 30):
        batcher.failed(1000.0, 0.999999999)
        assert not batcher.due(1000.0 + wanted - 0.01)
        assert batcher.due(1000.0 + wanted)
    batcher.failed(1000.0, 0.0)
    assert not batcher.due(1000.0 + LAST_RETRY_S / 2 - 0.01)
    assert batcher.due(1000.0 + LAST_RETRY_S / 2)
    batcher.delivered()
    batcher.add(b"x", lap("b"), 1000.0)
    batcher.take(1005.0)
    batcher.failed(1005.0, 0.0)
    assert not batcher.due(1005.0 + FIRST_RETRY_S / 2 - 0.01)
    assert batcher.due(1005.0 + FIRST_RETRY_S / 2)


def test_giving_up_comes_at_the_stated_time_and_not_before():
    batcher = filled("a")
    assert not batcher.gave_up(1e9)
    batcher.take(0.0)
    assert not batcher.gave_up(1e9)
    batcher.failed(10.0, 0.5)
    batcher.failed(200.0, 0.5)
    assert not batcher.gave_up(309.999)
    assert batcher.gave_up(310.0)
    batcher.delivered()
    assert not batcher.gave_up(1e9)


def test_what_was_not_taken_can_be_neither_delivered_nor_failed():
    batcher = filled("a")
    with pytest.raises(RuntimeError):
        batcher.delivered()
    with pytest.raises(RuntimeError):
        batcher.failed(0.0, 0.5)
    assert len(batcher) == 1


def test_a_key_is_made_of_the_records_alone():
    one, other = filled("a", "b"), Batcher(RULES)
    other.add(b"9", lap("b"), 3.0)
    other.add(b"8", lap("a"), 4.0)
    key = taken(one).key
    assert taken(other).key == key
    for changed in (lap("a", 2), lap("a", over=True), lap("c")):
        third = Batcher(RULES)
        third.add(b"9", lap("b"), 3.0)
        third.add(b"8", changed, 4.0)
        assert taken(third).key != key


laps = st.builds(lap, st.sampled_from("abcd"), st.integers(0, 5), over=st.booleans())


@given(st.lists(laps, max_size=30), st.data())
def test_whatever_comes_in_whatever_order_each_session_s_newest_is_delivered(
    added: list[UsageRecord], data: st.DataObject
):
    batcher, gone = Batcher(RULES), set()
    delivered: list[Held] = []
    for number, record in enumerate(added):
        gone.update(batcher.add(b"%d" % number, record, float(number)))
        if data.draw(st.booleans()) and (batch := batcher.take(float(number))):
            if data.draw(st.booleans()):
                batcher.failed(float(number), 0.5)
            else:
                batcher.delivered()
                delivered += batch.held
    while batch := batcher.take(1e6):
        batcher.delivered()
        delivered += batch.held
    newest = {
        session: max(map(order, (r for r in added if r.session == session)))
        for session in "abcd"
        if any(r.session == session for r in added)
    }
    told = {
        session: max(order(h.record) for h in delivered if h.record.session == session) for session in newest
    }
    assert told == newest
    entries = [held.entry for held in delivered]
    assert len(entries) == len(set(entries))
    assert gone.isdisjoint(entries)
    assert gone | set(entries) == {b"%d" % number for number in range(len(added))}


# ---------------------------------------------------------------------------------------------------------------------
# a machine: Redis, two processes that crash, a tracker that loses answers


class Billing(RuleBasedStateMachine):
    """Entries in a stream, two batchers, and a tracker that keeps each session's newest lap.

    The model is the sum of what sessions really used. Processes are killed at any point, entries are delivered twice,
    answers are lost; clocks are each process's own.
    """

    @initialize()
    def begin(self) -> None:
        self.stream: dict[bytes, UsageRecord] = {}  # what Redis holds
        self.used: dict[str, UsageRecord] = {}
        self.counted: dict[str, UsageRecord] = {}
        self.processes = [Batcher(RULES), Batcher(RULES)]
        self.now = 0.0
        self.number = 0

    @rule(session=st.sampled_from("abcde"), ms=st.integers(1, 5000), over=st.booleans())
    def a_session_goes_on(self, session: str, ms: int, over: bool) -> None:
        last = self.used.get(session)
        if last is not None and last.over:
            return
        record = lap(session, last.lap + 1 if last else 0, (last.audio_ms if last else 0) + ms, over)
        self.used[session] = record
        self.number += 1
        self.stream[b"%d" % self.number] = record

    @rule(session=st.sampled_from("abcde"))
    def a_session_is_closed_out(self, session: str) -> None:
        """Rightly or not: its ingress may go on afterwards."""
        last = self.counted.get(session)
        if last is not None and not last.over:
            self.number += 1
            self.stream[b"%d" % self.number] = replace(last, ended_ms=2_000_000)

    @rule(which=st.integers(0, 1), data=st.data())
    def a_process_takes(self, which: int, data: st.DataObject) -> None:
        """New entries, or those of the other process: Redis may deliver any of them to anybody."""
        if self.stream:
            entry = data.draw(st.sampled_from(sorted(self.stream)))
            for gone in self.processes[which].add(entry, self.stream[entry], self.now):
                self.stream.pop(gone, None)

    @rule(seconds=st.floats(0, 20))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(which=st.integers(0, 1), arrives=st.booleans(), answered=st.booleans(), killed=st.booleans())
    def a_process_delivers(self, which: int, arrives: bool, answered: bool, killed: bool) -> None:
        process = self.processes[which]
        if not process.due(self.now):
            return
        batch = process.take(self.now)
        assert batch is not None
        if arrives:
            for held in batch.held:
                known = self.counted.get(held.record.session)
                if known is None or order(held.record) > order(known):
                    self.counted[held.record.session] = held.record
        if killed:
            self.processes[which] = Batcher(RULES)
        elif arrives and answered:
            for held in process.delivered().held:
                self.stream.pop(held.entry, None)
        else:
            process.failed(self.now, 0.5)

    @rule(which=st.integers(0, 1))
    def a_process_is_killed(self, which: int) -> None:
        self.processes[which] = Batcher(RULES)

    @invariant()
    def nothing_is_counted_that_was_not_used(self) -> None:
        for session, record in self.counted.items():
            assert record.audio_ms <= self.used[session].audio_ms

    @invariant()
    def what_is_not_counted_is_in_redis(self) -> None:
        for session, record in self.used.items():
            counted = self.counted.get(session)
            if counted is None or counted.audio_ms < record.audio_ms:
                assert record in self.stream.values()

    def teardown(self) -> None:
        """The world comes to rest: one process is left, and everything arrives."""
        process = Batcher(RULES)
        for _ in range(100):
            for entry, record in list(self.stream.items()):
                for gone in process.add(entry, record, self.now):
                    self.stream.pop(gone, None)
            batch = process.take(self.now)
            if batch is None:
                break
            for held in batch.held:
                known = self.counted.get(held.record.session)
                if known is None or order(held.record) > order(known):
                    self.counted[held.record.session] = held.record
            for held in process.delivered().held:
                self.stream.pop(held.entry, None)
        assert not self.stream
        wanted = {session: record.audio_ms for session, record in self.used.items()}
        assert {session: record.audio_ms for session, record in self.counted.items()} == wanted


TestBilling = Billing.TestCase
TestBilling.settings = settings(stateful_step_count=40)
