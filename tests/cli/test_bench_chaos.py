"""`cli.bench_chaos`: rows, and a whole run on the real stack."""

import pytest

from cli import bench_chaos
from cli.bench_chaos import Tally, summary
from cli.chaos_stage import Round
from cli.chaos_verdict import Verdict

ROUNDS = [
    Round([Verdict(2, 0, 1, 0, 100.0), Verdict(2, 1, 0, 1, None)], [500.0], 1, 0, 0),
    Round([Verdict(2, 0, 0, 0, 300.4)], [700.0], 0, 2, 1),
]


def test_a_row_sums_up() -> None:
    assert summary("kill", ROUNDS) == {
        "fault": "kill",
        "runs": 3,
        "finals": 6,
        "lost": 1,
        "doubled": 1,
        "changed": 1,
        "disorder": 1,
        "misused": 2,
        "doubly_held": 1,
        "errors": 0,
        "pause_p50_ms": 100,
        "pause_p95_ms": 300,
        "pause_max_ms": 300,
        "moved_p50_ms": 500,
        "moved_p95_ms": 700,
        "moved_max_ms": 700,
    }


def test_a_row_of_nothing_has_no_times() -> None:
    row = summary("kill", [])
    assert (row["runs"], row["pause_p95_ms"], row["moved_p95_ms"]) == (0, None, None)


def test_runs_are_counted_until_there_are_enough_or_somebody_stops_them() -> None:
    said: list[str] = []
    tally = Tally(["kill", "hang"], 4, said.append)
    assert tally.missing("kill") == 4
    tally.add("kill", ROUNDS[0])
    tally.add("kill", ROUNDS[1])
    assert (tally.missing("kill"), tally.missing("hang")) == (1, 4)
    assert said[-1].startswith("kill: 3 of 4 runs; lost 1, doubled 1, changed 1")
    tally.stopped.set()
    assert (tally.missing("kill"), tally.missing("hang")) == (0, 0)
    assert [row["runs"] for row in tally.rows()] == [3, 0]


@pytest.mark.slow
@pytest.mark.weights
@pytest.mark.timeout(300)
def test_a_killed_worker_loses_and_doubles_nothing() -> None:
    result = bench_chaos.run(["kill"], 1, 10, lambda _: None)
    [row] = result["faults"]
    assert row["finals"] >= 1
    assert (row["runs"], row["lost"], row["doubled"], row["misused"]) == (1, 0, 0, 0)
    assert row["moved_p95_ms"] > 0
    assert (result["stopped"], len(result["each_run"]["kill"])) == ("", 1)
    assert not any(result["left"].values())


@pytest.mark.slow
@pytest.mark.weights
@pytest.mark.timeout(300)
def test_a_redis_that_comes_back_empty_loses_doubles_and_changes_nothing() -> None:
    [row] = bench_chaos.run(["redis-empty"], 1, 10, lambda _: None)["faults"]
    assert row["finals"] >= 1
    assert (row["lost"], row["doubled"], row["changed"]) == (0, 0, 0)
