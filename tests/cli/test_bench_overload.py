"""`cli.bench_overload`: the sums, and a small run."""

from typing import Any

import numpy as np
import pytest

from cli import bench_overload
from cli.bench_figures import Heard, Record
from cli.bench_overload import LAPS, holds, is_refused, level, load, ratios


def spoke(final_ms: float, first_ms: float = 300.0) -> Record:
    """One phrase of a second, whose messages came so long after its begin and its end."""
    sent = [number * 0.05 for number in range(60)]
    record = Record(((500, 1_500),), 50, sent_s=sent, late_ms=[1.0] * 60, begin_ms=20.0)
    starts, ends = record.sent_at(501), record.sent_at(1_500)
    record.turns = [
        Heard(starts + first_ms / 1000, False, 0, 520, 520, 800, "a"),
        Heard(ends + final_ms / 1000, True, 0, 520, 1_300, 1_480, "a b"),
    ]
    return record


REFUSED = Record((), 50, error="the server refused", failed_ms=12.0, code=3009)
BROKEN = Record((), 50, error="broken", failed_ms=900.0, code=3005)


def test_a_level_tells_accepted_and_refused_apart() -> None:
    found = level("2x", [spoke(400), spoke(600), REFUSED, REFUSED, BROKEN])
    assert (found["offered"], found["accepted"], found["refused"], found["errors"]) == (5, 2, 2, ["broken"])
    assert (found["final_p50_ms"], found["final_p95_ms"]) == (400.0, 600.0)
    assert (found["first_partial_p95_ms"], found["refused_p50_ms"], found["refused_p95_ms"]) == (
        300.0,
        12.0,
        12.0,
    )


def test_who_is_ended_later_was_not_refused() -> None:
    assert is_refused(REFUSED)
    assert not is_refused(BROKEN)
    assert not is_refused(Record((), 50, error="full", failed_ms=9_000.0, code=3009, begin_ms=20.0))


@pytest.mark.parametrize(
    "doubled, kept",
    [
        ([spoke(480), REFUSED], True),
        ([spoke(481), REFUSED], False),
        ([spoke(400, 361), REFUSED], False),
        ([spoke(400)], False),  # nobody was refused: it was not twice the load
        ([spoke(400), REFUSED, BROKEN], False),
        ([REFUSED], False),
    ],
)
def test_the_promise_is_kept_if_both_latencies_stay(doubled: list[Record], kept: bool) -> None:
    levels: list[dict[str, Any]] = [level("1x", [spoke(400)]), level("2x", doubled)]
    assert holds(*levels) is kept
    assert ratios(*levels).keys() == {"first_partial_p95_ms", "final_p95_ms"}


def test_twice_the_load_is_twice_the_speech() -> None:
    spoken = [np.ones(16_000, "<i2")]
    full, doubled = (load(name, "ws://x", spoken, 4, 12.0, 0) for name in ("1x", "2x"))
    assert (len(full.talks), len(doubled.talks)) == (4, 2 * 4 * LAPS)
    assert doubled.stagger_s == 12.0
    assert len(full.talks[0].audio) > 2 * len(doubled.talks[0].audio)


@pytest.mark.slow
@pytest.mark.weights
@pytest.mark.timeout(300)
def test_a_small_run_serves_some_and_refuses_the_others_sooner_than_they_would_have_waited() -> None:
    result = bench_overload.run(2, 9.0, 1, lambda _: None)
    full, doubled = result["levels"]
    assert (full["refused"], full["accepted"]) == (0, 2)
    assert doubled["offered"] == 4 * LAPS
    assert doubled["accepted"] + doubled["refused"] == doubled["offered"]
    assert doubled["refused"] > 0
