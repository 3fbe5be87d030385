"""`cli.bench_chaos`: what is lost, doubled, changed; and one fault of each kind on the real stack."""

import pytest

from cli import bench_chaos
from cli.bench_chaos import Compared, compared, summary
from cli.bench_figures import Heard, Record


def record(*finals: tuple[int, str, float]) -> Record:
    """Finals as (order, text, when) of words that end at 1,000 ms, whose audio was sent at second 10."""
    turns = [Heard(at_s, True, order, 0, 500, 1_000, text) for order, text, at_s in finals]
    partial = Heard(9.0, False, 0, 0, 500, 1_000, "partial")
    return Record((), 50, sent_s=[10.0] * 40, turns=[partial, *turns])


CALM = record((0, "one", 10.1), (1, "two", 10.2))


def test_nothing_happened() -> None:
    assert compared(CALM, CALM) == Compared(2, 0, 0, 0, 0.0)


def test_what_is_lost_doubled_and_changed_is_counted() -> None:
    assert compared(CALM, record((0, "one", 10.1))).lost == 1
    assert compared(CALM, record((0, "one", 10.1), (1, "two", 10.2), (1, "two", 10.3))).doubled == 1
    assert compared(CALM, record((0, "one", 10.1), (1, "two", 10.2), (2, "two", 10.3))).doubled == 1
    assert compared(CALM, record((0, "one", 10.1), (1, "too", 10.2))).changed == 1
    assert compared(CALM, record()) == Compared(2, 2, 0, 0, None)


def test_the_pause_is_that_of_the_most_delayed_final() -> None:
    assert compared(CALM, record((0, "one", 10.2), (1, "two", 11.7))).pause_ms == pytest.approx(1_500)


def test_a_row_sums_up() -> None:
    row = summary(
        "kill", [Compared(2, 0, 1, 0, 100.0), Compared(2, 1, 0, 1, None), Compared(2, 0, 0, 0, 300.4)]
    )
    assert row == {
        "fault": "kill",
        "runs": 3,
        "finals": 6,
        "lost": 1,
        "doubled": 1,
        "changed": 1,
        "pause_p50_ms": 100,
        "pause_p95_ms": 300,
        "pause_max_ms": 300,
    }


@pytest.mark.weights
@pytest.mark.timeout(180)
def test_a_killed_worker_loses_and_doubles_nothing() -> None:
    [row] = bench_chaos.run(["kill"], 1, 4, lambda _: None)["faults"]
    assert row["finals"] >= 1
    assert (row["lost"], row["doubled"]) == (0, 0)


@pytest.mark.slow
@pytest.mark.weights
@pytest.mark.timeout(180)
def test_a_redis_that_comes_back_empty_loses_doubles_and_changes_nothing() -> None:
    [row] = bench_chaos.run(["redis-empty"], 1, 6, lambda _: None)["faults"]
    assert row["finals"] >= 1
    assert (row["lost"], row["doubled"], row["changed"]) == (0, 0, 0)
