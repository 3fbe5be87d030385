"""`cli.bench_bus`: a small load on a real Redis, and on a real cluster; what makes a level fall short."""

from typing import Any

import pytest

from cli import bench_bus
from cli.bench_bus import CLUSTER, PLAIN, figures, judged, summary
from cli.bench_feeder import Fed
from cli.bench_model import Costs


def measured(kind: str, counts: list[int]) -> dict[str, Any]:
    told: list[str] = []
    result = bench_bus.run(counts, 1.0, 1, told.append, [kind], per_node=2)
    assert told == [f"{kind}, {count} sessions, 1 of 1" for count in counts]
    for found, count in zip(result["levels"], counts, strict=True):
        assert (found["servers"], found["sessions"], found["failed"]) == (kind, count, 0)
        assert found["nodes"] == -(-count // 2)
        assert found["operations"] > 0
        assert found["redis_kib"] > 0
        assert 0 < found["append_p50_ms"] <= found["append_p99_ms"]
        assert 0 < found["busiest"] <= found["cores"]["redis"]
        assert found["ping_p50_ms"] > 0
    return result


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_one_server_takes_what_two_nodes_write() -> None:
    assert measured(PLAIN, [2, 4])["kinds"][PLAIN]["masters"] == 1


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_cluster_does_too() -> None:
    assert measured(CLUSTER, [3])["kinds"][CLUSTER]["masters"] == 3


def level(**changed: Any) -> dict[str, Any]:
    fine = {
        "servers": PLAIN,
        "sessions": 100,
        "nodes": 1,
        "masters": 1,
        "append_p99_ms": 5.0,
        "outbound_p99_ms": 5.0,
        "generator_late_p99_ms": 1.0,
        "written": 1.0,
        "told": 1.0,
        "failed": 0,
        "busiest": 0.1,
        "redis_kib": 90.0,
        "cores": {"redis": 0.1, "largest node": 0.3, "largest worker": 0.2},
    }
    return {**fine, **changed}


@pytest.mark.parametrize(
    "changed,short",
    [
        ({}, []),
        ({"outbound_p99_ms": None}, ["nothing heard"]),
        ({"append_p99_ms": 16.0}, ["append"]),
        ({"failed": 2}, ["failed"]),
        ({"written": 0.9}, ["fell behind"]),
        ({"told": 0.9}, ["fell behind"]),
        ({"busiest": 0.95}, ["Redis full"]),
        ({"generator_late_p99_ms": 11.0}, ["generator late"]),
        ({"cores": {"redis": 0.1, "largest node": 0.95, "largest worker": 0.2}}, ["generator full"]),
    ],
)
def test_why_a_level_falls_short(changed, short) -> None:
    found = judged(level(**changed))
    assert (found["falls_short"], found["holds"]) == (short, not short)


def test_what_kept_up_gives_the_costs() -> None:
    def cores(redis: float) -> dict[str, float]:
        return {"redis": redis, "largest node": 0.1, "largest worker": 0.1}

    known = Costs(0.03, 0.02, 0.0005)
    levels = [
        level(cores=cores(known.cores(1, 100))),
        level(sessions=200, cores=cores(known.cores(1, 200))),
        level(sessions=200, nodes=2, cores=cores(known.cores(2, 200)), busiest=0.17, append_p99_ms=30.0),
        level(sessions=400, nodes=2, cores=cores(3.0), written=0.5),
    ]
    found = summary([judged(one) for one in levels])
    assert found["holds"] == 200
    costs = {"fixed": pytest.approx(0.03), "node": pytest.approx(0.02), "session": pytest.approx(0.0005)}
    assert found["costs"] == costs
    assert "costs" not in summary([judged(level(failed=1))])


def test_a_round_in_numbers() -> None:
    seen = [
        Fed(late=[1.0], appends=[2.0], inbound=[3.0], outbound=[4.0], frames=20, told=2),
        Fed(late=[1.5], appends=[2.5], outbound=[5.0], frames=20, told=1, failed=1),
    ]
    found = figures(2, seen, [0.5], 1.0)
    assert (found["append_p99_ms"], found["inbound_p50_ms"], found["ping_p50_ms"]) == (2.5, 3.0, 0.5)
    assert (found["written"], found["told"], found["failed"]) == (1.0, 0.75, 1)
