"""`wire.clock`: whose time it is."""

from wire.clock import KEPT_S, SharedClock


def test_until_it_is_heard_it_is_the_machines_own():
    assert SharedClock(10.0, 1_000.0).unix_s(12.0) == 1_002.0


def test_it_goes_on_from_what_was_heard_in_the_middle_of_the_round_trip():
    clock = SharedClock(10.0, 1_000.0)
    clock.heard(5_000.0, 11.0, 11.5)
    assert clock.unix_s(21.25) == 5_010.0


def test_a_longer_round_trip_tells_less_until_the_best_one_is_old():
    clock = SharedClock(0.0, 0.0)
    clock.heard(100.0, 0.0, 0.5)
    clock.heard(101.25, 0.5, 1.5)  # 100.25 ahead, where 99.75 was heard before: both may be true
    assert clock.unix_s(1.0) == 100.75
    clock.heard(102.5, 2.0, 2.25)  # better
    assert clock.unix_s(2.0) == 102.375
    late_s = 3.0 + KEPT_S
    clock.heard(200.0, late_s, late_s + 0.5)
    assert clock.unix_s(late_s + 0.25) == 200.0


def test_a_clock_that_was_set_is_believed_at_once():
    clock = SharedClock(0.0, 0.0)
    clock.heard(100.0, 0.0, 0.5)
    clock.heard(7_000.0, 1.0, 2.0)
    assert clock.unix_s(1.5) == 7_000.0
