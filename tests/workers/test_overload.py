"""Too much to do: when it begins, when it ends, and who does not count."""

from workers.overload import Overload, behind_s


def test_the_longer_of_step_and_backlog_counts():
    assert behind_s(0.2, [0, 64, 32]) == 0.2
    assert behind_s(0.2, [900, 1_100, 1_000]) == 1.0


def test_a_client_that_sends_ahead_keeps_nobody_out():
    assert behind_s(0.1, [30_000, 0, 64]) == 0.1


def test_who_serves_nobody_is_behind_by_nothing():
    assert behind_s(5.0, []) == 0.0


def test_it_begins_above_the_limit_and_ends_at_half_of_it():
    overload = Overload(1.0)
    told = [(overload.heard(seconds), overload.there) for seconds in (1.0, 1.1, 0.9, 0.6, 0.5, 0.9, 1.2)]
    assert told == [
        (False, False),
        (True, True),
        (False, True),
        (False, True),
        (True, False),
        (False, False),
        (True, True),
    ]
