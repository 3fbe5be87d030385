"""`cli.bench_latency`: which final answers which order, and a short run of the real stack."""

import pytest

from cli import bench_latency
from cli.bench_figures import Heard, Record


def turn(at_s: float, final: bool = True) -> Heard:
    return Heard(at_s, final, 0, 0, 100, 200, "")


def test_each_order_is_answered_by_the_next_final() -> None:
    record = Record((), 50, forced_s=[10.0, 20.0, 30.0])
    record.turns = [turn(5.0), turn(10.05, final=False), turn(10.1), turn(10.9), turn(30.25)]
    assert bench_latency.forced(record) == pytest.approx([100, 250])


def test_a_summary_of_nothing_and_of_something() -> None:
    assert bench_latency.summary([]) == {"count": 0, "p50": None, "p95": None, "max": None}
    assert bench_latency.summary([1.0, 2.0, 9.04]) == {"count": 3, "p50": 2.0, "p95": 9.0, "max": 9.0}


@pytest.mark.weights
def test_the_real_stack_is_measured() -> None:
    result = bench_latency.run(1, 3, lambda _: None)
    found = result["results"]
    assert found["begin_ms"]["count"] == 2
    assert found["first_partial_ms"]["p50"] > 0
    assert found["final_ms"]["p50"] > 0
    assert found["force_to_final_ms"]["p50"] > 0
    assert found["server_end_of_turn"]["count"] >= 1
