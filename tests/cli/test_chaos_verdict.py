"""`cli.chaos_verdict`: blow by blow, what is lost, doubled, changed; and how long it took."""

import pytest

from cli.bench_figures import Heard, Record
from cli.chaos_verdict import Verdict, disorder, unsteady, verdicts

#: Chunks of a second, sent at seconds 101, 102, ...
CHUNK_MS = 1_000


def record(*finals: tuple[int, str, float], late_ms: float = 0.0) -> Record:
    """Finals as (order, text, when), each of words from 200 to 800 ms of the second of its order."""
    sent_s = [101.0 + number for number in range(10)]
    turns = [
        Heard(at_s, True, order, 1_000 * order + 200, 1_000 * order + 700, 1_000 * order + 800, text)
        for order, text, at_s in finals
    ]
    partial = Heard(101.0, False, 0, 0, 500, 1_000, "partial")
    return Record((), CHUNK_MS, sent_s=sent_s, late_ms=[late_ms] * 10, turns=[partial, *turns])


CALM = record((0, "one", 101.5), (1, "two", 102.5), (2, "three", 103.5))


def test_nothing_happened() -> None:
    assert verdicts([CALM], CALM, [100.0]) == [Verdict(3, 0, 0, 0, 0.0)]


def test_each_final_is_its_blow_s_that_fell_last_before_it_was_due() -> None:
    hurt = record((0, "one", 101.5), (2, "free", 104.0))
    first, second, third = verdicts([CALM], hurt, [102.0, 103.0, 200.0])
    assert first == Verdict(2, lost=1, pause_ms=0.0)  # «one» came before any blow
    assert (second.finals, second.changed, second.words, second.pause_ms) == (1, 1, ("free",), 500.0)
    assert third == Verdict()


def test_what_is_told_again_is_doubled_under_its_number_or_another() -> None:
    for again in ((1, "two", 103.0), (1, "too", 103.0)):
        assert verdicts([CALM], record(*told(CALM), again), [0.0])[0].doubled == 1
    once_more = record(*told(CALM), (1, "two", 104.0))
    once_more.turns[-1] = Heard(104.0, True, 3, 1_200, 1_700, 1_800, "two")
    assert verdicts([CALM], once_more, [0.0])[0].doubled == 1


def test_what_a_client_could_not_send_counts_from_when_it_was_spoken() -> None:
    hurt = record(*((order, text, at_s + 1) for order, text, at_s in told(CALM)), late_ms=1_000)
    hurt.sent_s = [at_s + 1 for at_s in hurt.sent_s]
    assert verdicts([CALM], hurt, [0.0])[0].pause_ms == pytest.approx(1_000)


def test_whatever_undisturbed_sessions_told_there_is_right() -> None:
    other = record((0, "one", 101.5), (1, "too", 102.5), (2, "three", 103.5))
    assert unsteady([CALM]) == 0
    assert unsteady([other, CALM]) == 1
    assert verdicts([other, CALM], other, [0.0])[0].changed == 0
    joined = record((0, "one", 101.5), (1, "two three", 103.5))
    joined.turns[-1] = Heard(103.5, True, 1, 1_200, 2_700, 2_800, "two three")
    assert verdicts([joined, CALM], joined, [0.0])[0] == Verdict(3, pause_ms=0.0)
    assert verdicts([CALM], joined, [0.0])[0].changed == 1


def test_a_session_that_ended_early_has_lost_the_rest() -> None:
    assert verdicts([CALM], Record((), CHUNK_MS), [0.0, 1.0])[0].lost == 3
    assert verdicts([CALM], CALM, []) == []


def test_numbers_and_times_go_on() -> None:
    assert disorder(CALM) == 0
    assert disorder(record((0, "one", 1.0), (2, "three", 3.0))) == 1
    assert disorder(record((1, "two", 1.0), (0, "one", 2.0))) == 3


def test_of_two_sessions_the_longer_pause_counts() -> None:
    both = Verdict(1, 1, 0, 0, 5.0, ()) + Verdict(2, 0, 1, 1, None, ("x",))
    assert both == Verdict(3, 1, 1, 1, 5.0, ("x",))


def told(of: Record) -> list[tuple[int, str, float]]:
    return [(turn.order, turn.text, turn.at_s) for turn in of.turns if turn.final]
