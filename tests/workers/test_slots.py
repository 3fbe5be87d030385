"""Seats and steps: samples go in and come out once, in order, and results find the rightful owner."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from wire.strides import HELD
from workers.recognizer import NO_FLUSH, Hypothesis, SlotOptions, Spec
from workers.slots import Room, Slots

CHUNK = 160  # 10 ms
SPEC = Spec("test", "MIT", slots=3, chunk_samples=CHUNK, hop_ms=10)
DEFAULT, OTHER = SlotOptions(), SlotOptions(vad_threshold=0.9)


def ramp(start, count):
    """Samples that tell their own position."""
    return (np.arange(start, start + count) % 30_000).astype(np.int16)


def seated(*sessions, spec=SPEC, origin_ms=0, **options):
    slots = Slots(spec, **options)
    for session in sessions:
        slots.seat(session, 1, origin_ms, DEFAULT)
    return slots


def row(plan, slot):
    """The samples of one row, as they were fed."""
    return np.rint(plan.batch.audio[slot, : plan.batch.samples[slot]] * 32768).astype(np.int16).tolist()


def said(heard_ms=0, flushed_ms=None):
    return Hypothesis(heard_ms=heard_ms, flushed_ms=flushed_ms)


def run(slots, *results):
    """One step whose first slots answer `results`; returns the plan and what was delivered."""
    plan = slots.plan()
    answers = [*results, *[None] * (SPEC.slots - len(results))]
    return plan, slots.deliver(plan, answers)


# ---------------------------------------------------------------------------------------------------------------------
# seats


def test_a_session_gets_the_first_free_slot():
    slots = seated("a", "b")
    assert slots.free == 1
    slots.unseat("a")
    assert slots.free == 2
    assert slots.seat("c", 1, 0, DEFAULT) == 0
    assert slots.seat("d", 1, 0, DEFAULT) == 2


def test_two_seats_or_one_too_many_are_refused():
    slots = seated("a", "b")
    with pytest.raises(ValueError, match="seated already"):
        slots.seat("a", 2, 0, DEFAULT)
    slots.seat("c", 1, 0, DEFAULT)
    with pytest.raises(ValueError, match="every slot is taken"):
        slots.seat("d", 1, 0, DEFAULT)
    slots.integrity()


@pytest.mark.parametrize("name", ["unseat", "cut", "room", "fed", "planned", "stepped"])
def test_a_session_without_a_seat_is_unknown(name):
    with pytest.raises(KeyError):
        getattr(seated("a"), name)("b")


# ---------------------------------------------------------------------------------------------------------------------
# audio


def test_a_slot_waits_for_a_full_chunk():
    slots = seated("a")
    slots.feed("a", ramp(0, CHUNK - 1))
    assert slots.plan() is None
    slots.feed("a", ramp(CHUNK - 1, 2))
    plan, _ = run(slots)
    assert row(plan, 0) == ramp(0, CHUNK).tolist()
    assert (slots.fed("a"), slots.planned("a"), slots.stepped("a")) == (CHUNK + 1, CHUNK, CHUNK)
    assert slots.plan() is None


def test_a_slot_that_lags_catches_up_by_whole_chunks():
    slots = seated("a", spec=replace(SPEC, catch_up=3))
    slots.feed("a", ramp(0, 5 * CHUNK + 20))
    assert [len(row(run(slots)[0], 0)) for _ in range(2)] == [3 * CHUNK, 2 * CHUNK]
    assert slots.plan() is None
    slots.feed("a", ramp(5 * CHUNK + 20, 2 * CHUNK))
    slots.cut("a")
    assert row(run(slots)[0], 0) == ramp(5 * CHUNK, 2 * CHUNK + 20).tolist()


def test_int16_is_scaled_and_float32_passes():
    slots = seated("a", "b")
    slots.feed("a", np.full(CHUNK, -32768, np.int16))
    slots.feed("b", np.full(CHUNK, 0.25, np.float32))
    plan, _ = run(slots)
    assert (plan.batch.audio[0] == -1.0).all()
    assert (plan.batch.audio[1] == 0.25).all()


@pytest.mark.parametrize("samples", [np.zeros(4), np.zeros((2, 2), np.int16), np.zeros(4, np.int32)])
def test_other_samples_are_refused(samples):
    with pytest.raises(ValueError, match="expected int16"):
        seated("a").feed("a", samples)


def test_the_backlog_is_bounded_and_a_refusal_takes_nothing():
    slots = seated("a", backlog_s=1)
    assert slots.room("a") == 16_000
    assert slots.feed("a", ramp(0, 15_900)) == 100
    with pytest.raises(ValueError, match="room for 100"):
        slots.feed("a", ramp(0, 101))
    assert slots.fed("a") == 15_900
    assert slots.backlogs_ms() == [993]
    run(slots)
    assert slots.room("a") == 100 + CHUNK
    slots.integrity()


def test_a_cut_sends_the_rest_out_short_and_nothing_reaches_across():
    slots = seated("a")
    slots.feed("a", ramp(0, CHUNK + 50))
    assert slots.cut("a") == CHUNK + 50
    slots.feed("a", ramp(CHUNK + 50, 2 * CHUNK))
    rows = [row(run(slots)[0], 0) for _ in range(4)]
    assert [len(samples) for samples in rows] == [CHUNK, 50, CHUNK, CHUNK]
    assert [sample for samples in rows for sample in samples] == ramp(0, 3 * CHUNK + 50).tolist()
    assert slots.plan() is None


def test_a_cut_with_nothing_waiting_asks_for_no_step():
    slots = seated("a")
    assert slots.cut("a") == 0
    slots.feed("a", ramp(0, CHUNK))
    run(slots)
    assert slots.cut("a") == slots.stepped("a") == CHUNK
    assert slots.plan() is None


def test_a_resumed_session_counts_from_its_origin():
    slots = seated("a", origin_ms=2_000)
    assert slots.fed("a") == slots.stepped("a") == 32_000
    slots.feed("a", ramp(0, CHUNK))
    plan, _ = run(slots)
    assert plan.batch.origin_ms[0] == 2_000
    assert slots.stepped("a") == 32_000 + CHUNK


# ---------------------------------------------------------------------------------------------------------------------
# reset, options, flush


def test_reset_and_options_come_once_with_the_first_chunk():
    slots = seated("a", "b")
    slots.feed("b", ramp(0, 2 * CHUNK))
    first, _ = run(slots)
    second, _ = run(slots)
    assert first.batch.reset.tolist() == [False, True, False]
    assert dict(first.batch.options) == {1: DEFAULT}
    assert not second.batch.reset.any()
    assert not second.batch.options


def test_new_options_ride_with_the_next_row():
    slots = seated("a")
    slots.feed("a", ramp(0, CHUNK))
    run(slots)
    slots.configure("a", OTHER)
    assert slots.plan() is None
    slots.feed("a", ramp(0, CHUNK))
    assert dict(run(slots)[0].batch.options) == {0: OTHER}


def test_a_flush_is_asked_once_and_steps_go_on_until_it_is_answered():
    slots = seated("a")
    slots.feed("a", ramp(0, CHUNK))
    run(slots, said())
    slots.flush("a", 10)
    asked, _ = run(slots, said())
    again, _ = run(slots, said())  # the two plans have arrays of their own
    assert (asked.batch.flush_ms[0], again.batch.flush_ms[0]) == (10, NO_FLUSH)
    assert asked.batch.samples[0] == again.batch.samples[0] == 0
    assert asked.owners[0] == again.owners[0]
    assert asked.owners[0].session == "a"
    run(slots, said(flushed_ms=10))
    assert slots.plan() is None


def test_no_empty_step_is_planned_while_the_flush_is_still_being_computed():
    slots = seated("a")
    slots.feed("a", ramp(0, CHUNK))
    run(slots)
    slots.flush("a", 10)
    plan = slots.plan()
    assert slots.plan() is None
    slots.deliver(plan, [said(flushed_ms=10), None, None])
    assert slots.plan() is None


def test_a_flush_waits_for_the_chunk_that_reaches_it():
    """How audio is cut into chunks does not hang on flushes, so neither does what is decoded."""
    slots = seated("a")
    slots.feed("a", ramp(0, 2 * CHUNK + 48))
    slots.flush("a", 23)
    found = []
    for _ in range(2):
        plan, _ = run(slots, said())
        found.append((int(plan.batch.samples[0]), int(plan.batch.flush_ms[0])))
    assert slots.plan() is None
    slots.feed("a", ramp(2 * CHUNK + 48, CHUNK - 48))
    plan, _ = run(slots, said())
    assert [*found, (int(plan.batch.samples[0]), int(plan.batch.flush_ms[0]))] == [
        (CHUNK, NO_FLUSH),
        (CHUNK, NO_FLUSH),
        (CHUNK, 23),
    ]


def test_a_cut_takes_a_flush_along():
    slots = seated("a")
    slots.feed("a", ramp(0, 48))
    slots.flush("a", 3)
    slots.cut("a")
    plan, _ = run(slots, said())
    assert (int(plan.batch.samples[0]), int(plan.batch.flush_ms[0])) == (48, 3)


def test_a_steady_seat_catches_up_at_the_pace_it_is_given():
    slots = Slots(replace(SPEC, catch_up=4))
    slots.seat("a", 2, 0, SlotOptions(), steady=True)
    slots.seat("b", 1, 0, SlotOptions())
    for session in "ab":
        slots.feed(session, ramp(0, 6 * CHUNK))
    taken = []
    for pace in (1, 2, 1):
        assert slots.catching_up
        plan = slots.plan(pace=pace)
        assert plan is not None
        slots.deliver(plan, [None] * SPEC.slots)
        taken.append(int(plan.batch.samples[0]))
    assert taken == [CHUNK, 2 * CHUNK, CHUNK]
    run(slots)
    run(slots)
    assert not slots.catching_up
    slots.feed("a", ramp(6 * CHUNK, 3 * CHUNK))
    assert run(slots)[0].batch.samples[0] == 3 * CHUNK  # it has caught up, and is as any other


def test_a_seat_whose_audio_was_held_up_catches_up_as_one_taken_over_does():
    slots = seated("a")
    slots.steady("a")
    slots.feed("a", ramp(0, 3 * CHUNK))
    assert slots.catching_up
    assert run(slots)[0].batch.samples[0] == CHUNK


def test_a_replay_takes_what_the_recorded_steps_took_and_then_a_chunk_a_step():
    slots = Slots(replace(SPEC, catch_up=4))
    slots.seat("a", 1, 0, SlotOptions(), strides=bytes([2, 0, 1, 3, 0, 2]))
    slots.feed("a", ramp(0, 5 * CHUNK))
    taken = []

    def step(*answers: Hypothesis) -> None:
        plan = slots.plan(pace=4)
        assert plan is not None
        slots.deliver(plan, [*answers, *[None] * (SPEC.slots - len(answers))])
        taken.append(int(plan.batch.samples[0]) // CHUNK)

    step()
    assert slots.replaying  # before the order comes: nothing is dropped
    slots.flush("a", 15)  # as the recorded session did: its step had no new audio
    step(said(flushed_ms=15))
    step()
    assert slots.plan() is None, "three chunks are not there yet"
    slots.feed("a", ramp(5 * CHUNK, 7 * CHUNK))
    while slots.replaying:
        step()
    assert taken == [2, 0, 1, 3, 2, 1, 1, 1, 1]
    slots.integrity()


@pytest.mark.parametrize("recorded", [b"", bytes([1]), bytes([1, 5])])
def test_the_last_flush_of_a_replay_waits_for_no_audio(recorded):
    slots = Slots(SPEC)
    slots.seat("a", 1, 0, SlotOptions(), strides=recorded)
    slots.feed("a", ramp(0, CHUNK))
    run(slots)
    slots.finish("a")
    slots.flush("a", 10)
    plan, _ = run(slots, said(flushed_ms=10))
    assert plan.batch.flush_ms[0] == 10
    assert slots.plan() is None


def test_a_cut_lets_a_replay_go_on_with_what_there_is():
    slots = seated()
    slots.seat("a", 1, 0, SlotOptions(), strides=bytes([3]))
    slots.feed("a", ramp(0, CHUNK + 48))
    assert slots.plan() is None
    slots.cut("a")
    plan, _ = run(slots)
    assert plan.batch.samples[0] == CHUNK  # what a row of this recognizer holds
    plan, _ = run(slots)
    assert plan.batch.samples[0] == 48


def test_a_replay_without_strides_gives_a_chunk_a_step_however_much_there_is():
    slots = Slots(replace(SPEC, catch_up=4))
    slots.seat("a", 1, 0, SlotOptions(), strides=b"")
    taken = []
    for _ in range(2):
        slots.feed("a", ramp(0, 2 * CHUNK))
        while slots.replaying:
            plan = slots.plan(pace=4)
            assert plan is not None
            slots.deliver(plan, [None] * SPEC.slots)
            taken.append(int(plan.batch.samples[0]))
    assert taken == [CHUNK] * 4
    assert slots.plan(pace=4) is None


def test_a_flush_in_the_past_is_asked_at_once():
    slots = seated("a")
    slots.feed("a", ramp(0, 2 * CHUNK))
    run(slots)
    slots.flush("a", 7)
    assert run(slots)[0].batch.flush_ms[0] == 7


def test_a_flush_of_audio_never_fed_is_refused():
    slots = seated("a")
    slots.feed("a", ramp(0, CHUNK))
    with pytest.raises(ValueError, match="flush at 11 ms"):
        slots.flush("a", 11)


# ---------------------------------------------------------------------------------------------------------------------
# results


def test_results_go_to_those_who_still_sit_there():
    slots = seated("a", "b", "c")
    for session in "abc":
        slots.feed(session, ramp(0, CHUNK))
    plan = slots.plan()
    slots.unseat("a")
    slots.unseat("b")
    slots.seat("d", 1, 0, DEFAULT)  # where "a" sat
    slots.seat("b", 2, 0, DEFAULT)  # the same session, taken anew
    answers = [said(1), said(2), said(3)]
    assert slots.deliver(plan, answers) == [("c", 1, answers[2])]
    assert slots.stepped("b") == slots.stepped("d") == 0


def test_even_the_same_generation_seated_anew_gets_no_old_result():
    slots = seated("a")
    slots.feed("a", ramp(0, CHUNK))
    plan = slots.plan()
    slots.unseat("a")
    slots.seat("a", 1, 0, DEFAULT)
    assert slots.deliver(plan, [said(), None, None]) == []
    slots.integrity()


def test_plans_come_back_in_order_and_two_at_most_are_out():
    slots = seated("a")
    slots.feed("a", ramp(0, 3 * CHUNK))
    first, second = slots.plan(), slots.plan()
    with pytest.raises(RuntimeError, match="two plans are out"):
        slots.plan()
    with pytest.raises(ValueError, match="oldest plan"):
        slots.deliver(second, [None] * 3)
    with pytest.raises(ValueError, match="one result for each"):
        slots.deliver(first, [None] * 2)
    slots.deliver(first, [None] * 3)
    slots.deliver(second, [None] * 3)
    with pytest.raises(ValueError, match="oldest plan"):
        slots.deliver(second, [None] * 3)


def test_a_plan_in_the_making_leaves_the_one_being_computed_alone():
    slots = seated("a", "b")
    slots.feed("a", ramp(0, 2 * CHUNK))
    first = slots.plan()
    slots.feed("b", ramp(500, CHUNK))
    second = slots.plan()
    assert row(first, 0) == ramp(0, CHUNK).tolist()
    assert first.batch.samples.tolist() == [CHUNK, 0, 0]
    assert row(second, 0) == ramp(CHUNK, CHUNK).tolist()
    assert row(second, 1) == ramp(500, CHUNK).tolist()


def test_every_slot_with_a_chunk_is_in_the_next_step():
    slots = seated("a", "b", "c")
    slots.feed("a", ramp(0, 50 * CHUNK))
    slots.feed("b", ramp(0, CHUNK))
    slots.feed("c", ramp(0, CHUNK))
    assert run(slots)[0].batch.samples.tolist() == [CHUNK, CHUNK, CHUNK]


def test_a_slot_without_a_row_is_told_what_found_no_room_before():
    slots = seated("a", "b", "c")
    slots.feed("a", ramp(0, 2 * CHUNK))
    slots.feed("b", ramp(0, CHUNK))
    run(slots)
    news = [said(10), said(10), said(10)]
    plan, delivered = run(slots, *news)  # "c" has not had its first row: this is the former occupant's
    assert plan.batch.samples.tolist() == [CHUNK, 0, 0]
    assert [session for session, _, _ in delivered] == ["a", "b"]


def test_a_step_without_audio_is_planned_for_a_recognizer_that_is_behind():
    slots = seated("a")
    slots.feed("a", ramp(0, CHUNK))
    run(slots)
    assert slots.plan() is None
    plan = slots.plan(behind=True)
    assert not plan.batch.samples.any()
    assert slots.deliver(plan, [said(10), None, None]) == [("a", 1, said(10))]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda slots: slots._empty.append(0),
        lambda slots: slots._empty.pop(),
        lambda slots: slots._seats["a"].pieces.append(ramp(0, 1)),
        lambda slots: slots._seats["a"].cuts.append(99_999),
        lambda slots: setattr(slots._seats["a"], "stepped", 99_999),
    ],
)
def test_integrity_notices_false_books(spoil):
    slots = seated("a")
    slots.integrity()
    spoil(slots)
    with pytest.raises(RuntimeError):
        slots.integrity()


# ---------------------------------------------------------------------------------------------------------------------
# anything in any order


class SlotsMachine(RuleBasedStateMachine):
    """Sessions come and go, audio in odd pieces, plans two deep; samples come out once and in order."""

    def __init__(self):
        super().__init__()
        self.slots = Slots(SPEC, backlog_s=1)
        self.number = 0
        self.sent = {}  # session -> samples fed
        self.came = {}  # session -> samples that came out, in order
        self.cuts = {}  # session -> positions no row may reach across
        self.asked = {}  # session -> flush not yet seen in a plan
        self.fresh = set()
        self.out = []  # (plan, sessions seated when it was made)

    def pick(self, data):
        return data.draw(st.sampled_from(sorted(self.sent)))

    @precondition(lambda self: self.slots.free)
    @rule()
    def seat(self):
        session, self.number = f"s{self.number}", self.number + 1
        self.slots.seat(session, self.number, 0, DEFAULT)
        self.sent[session], self.came[session], self.cuts[session] = 0, [], []
        self.fresh.add(session)

    @precondition(lambda self: self.sent)
    @rule(data=st.data())
    def unseat(self, data):
        session = self.pick(data)
        self.slots.unseat(session)
        for book in (self.sent, self.came, self.cuts):
            del book[session]
        self.asked.pop(session, None)
        self.fresh.discard(session)

    @precondition(lambda self: self.sent)
    @rule(data=st.data(), count=st.integers(0, 3 * CHUNK))
    def feed(self, data, count):
        session = self.pick(data)
        count = min(count, self.slots.room(session))
        self.slots.feed(session, ramp(self.sent[session], count))
        self.sent[session] += count

    @precondition(lambda self: self.sent)
    @rule(data=st.data())
    def cut(self, data):
        session = self.pick(data)
        self.cuts[session].append(self.slots.cut(session))
        assert self.cuts[session][-1] == self.sent[session]

    @precondition(lambda self: self.sent)
    @rule(data=st.data())
    def flush(self, data):
        session = self.pick(data)
        if session not in self.asked:
            self.asked[session] = data.draw(st.integers(0, self.sent[session] // 16))
            self.slots.flush(session, self.asked[session])

    @precondition(lambda self: len(self.out) < 2)
    @rule()
    def plan(self):
        waiting = {
            session for session, sent in self.sent.items() if sent - self.slots.planned(session) >= CHUNK
        }
        plan = self.slots.plan()
        if plan is None:
            assert not waiting
            assert all(at_ms * 16 > self.slots.planned(session) for session, at_ms in self.asked.items())
            return
        assert waiting <= {owner.session for owner in plan.owners if owner}  # nobody starves
        for slot, owner in enumerate(plan.owners):
            if owner is None:
                assert plan.batch.samples[slot] == 0
                assert plan.batch.flush_ms[slot] == NO_FLUSH
            else:
                self.check_row(plan, slot, owner.session)
        self.out.append((plan, [owner and owner.session for owner in plan.owners]))

    def check_row(self, plan, slot, session):
        samples = row(plan, slot)
        start = len(self.came[session])
        self.came[session] += samples
        end = len(self.came[session])
        assert samples == ramp(start, end - start).tolist()
        assert not any(start < cut < end for cut in self.cuts[session])
        assert bool(plan.batch.reset[slot]) is (session in self.fresh)
        self.fresh.discard(session)
        if plan.batch.flush_ms[slot] != NO_FLUSH:
            assert self.asked.pop(session) == plan.batch.flush_ms[slot]
            assert plan.batch.flush_ms[slot] * 16 <= end
        if len(samples) < CHUNK:
            assert not samples or end in self.cuts[session]

    @precondition(lambda self: self.out)
    @rule(flushed=st.booleans())
    def deliver(self, flushed):
        plan, owners = self.out.pop(0)
        answer = said(flushed_ms=10**6 if flushed else None)
        delivered = self.slots.deliver(plan, [answer] * SPEC.slots)
        assert {session for session, _, _ in delivered} == {
            session for session in owners if session in self.sent
        }
        if not self.out:
            assert all(self.slots.stepped(session) == self.slots.planned(session) for session in self.sent)

    @invariant()
    def books_balance(self):
        self.slots.integrity()
        assert self.slots.free == SPEC.slots - len(self.sent)
        for session, sent in self.sent.items():
            assert self.slots.planned(session) == len(self.came[session]) <= sent == self.slots.fed(session)


TestSlotsMachine = SlotsMachine.TestCase
TestSlotsMachine.settings = settings(max_examples=max(200, settings().max_examples), stateful_step_count=40)


# ---------------------------------------------------------------------------------------------------------------------
# live sessions first


def company() -> Slots:
    """ "live" and two replays, each with two chunks to be stepped."""
    slots = Slots(replace(SPEC, catch_up=4))
    slots.seat("live", 1, 0, SlotOptions())
    for again in ("first", "second"):
        slots.seat(again, 1, 0, SlotOptions(), strides=bytes([1, 1]))
    for session in ("live", "first", "second"):
        slots.feed(session, ramp(0, 2 * CHUNK))
    return slots


def stepped_slots(slots: Slots, room: Room = Room.LEFT, behind: bool = False) -> list[int] | None:
    """The slots that had audio in the next step."""
    if (plan := slots.plan(behind, replay=room)) is None:
        return None
    slots.deliver(plan, [None] * SPEC.slots)
    assert plan.replay == (0 not in np.flatnonzero(plan.batch.samples) and not behind)
    others = {0, 1, 2} - set(np.flatnonzero(plan.batch.samples).tolist())
    assert plan.batch.hold == (others - {0} if not plan.replay else others)
    return np.flatnonzero(plan.batch.samples).tolist()


def test_a_live_session_goes_before_replays_and_those_take_turns():
    slots = company()
    assert (slots.replays, slots.live) == (2, True)
    assert len(slots.backlogs_ms()) == 1, "that of replays holds up nobody"
    assert [stepped_slots(slots) for _ in range(5)] == [[0], [1], [2], [1], [2]]
    assert stepped_slots(slots) is None
    slots.feed("live", ramp(2 * CHUNK, CHUNK))
    assert stepped_slots(slots) == [0]


def test_replays_wait_where_there_is_no_room_and_where_live_sessions_are_behind():
    slots = company()
    assert stepped_slots(slots, Room.NONE) == [0]
    assert stepped_slots(slots, Room.NONE) is None
    assert stepped_slots(slots, behind=True) == []
    assert stepped_slots(slots) == [1]


def test_a_replay_whose_turn_it_is_goes_before_a_live_session():
    slots = company()
    assert [stepped_slots(slots, Room.FIRST) for _ in range(3)] == [[1], [2], [1]]
    assert stepped_slots(slots, Room.NONE) == [0]


def test_whoever_leaves_is_waited_for_no_more():
    slots = company()
    assert slots.live
    slots.unseat("live")
    slots.unseat("first")
    assert not slots.live
    assert [stepped_slots_of_replay(slots) for _ in range(3)] == [2, 2, None]


def stepped_slots_of_replay(slots: Slots) -> int | None:
    if (plan := slots.plan()) is None:
        return None
    slots.deliver(plan, [None] * SPEC.slots)
    return int(np.flatnonzero(plan.batch.samples)[0])


def test_what_a_recorded_step_had_held_back_is_held_back_again():
    slots = Slots(SPEC)
    slots.seat("a", 1, 0, SlotOptions(), strides=bytes([1, 1 | HELD, 0, 1]))
    slots.feed("a", ramp(0, 3 * CHUNK))
    told = []
    while (plan := slots.plan()) is not None:
        slots.deliver(plan, [None] * SPEC.slots)
        told.append((int(plan.batch.samples[0]) // CHUNK, bool(plan.batch.hold)))
    assert told == [(1, False), (1, True), (0, False), (1, False)], "its decode had come without new audio"
