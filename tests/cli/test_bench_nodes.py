"""`cli.bench_nodes`: real nodes side by side, and the model against sizes it has not seen."""

from typing import Any

import pytest

from cli import bench_nodes
from cli.bench_model import Costs
from cli.bench_nodes import checked, judged


def level(nodes: int, sessions: int, more: float = 1.0) -> dict[str, Any]:
    used = 0.9 * nodes
    cores = {
        "ingress": Costs(0.0, 0.1, 0.001).at(used, sessions) * more,
        "redis": 0.02 + 0.0003 * sessions,
    }
    return {"nodes": nodes, "sessions": sessions, "used": used, "cores": cores}


def test_sizes_with_the_most_nodes_are_predicted() -> None:
    found = checked([level(1, 100), level(1, 200), level(2, 200), level(4, 200, 1.25), level(4, 400)])
    assert [one["fitted"] for one in found["levels"]] == [True, True, True, False, False]
    assert found["model"]["ingress"] == {
        "fixed": 0.0,
        "node": pytest.approx(0.1),
        "session": pytest.approx(0.001),
    }
    assert found["model"]["redis"]["session"] == pytest.approx(0.0003)
    assert found["off"] == pytest.approx(0.2)  # 0.56 said, 0.7 measured
    assert not found["holds"]


def test_one_number_of_nodes_predicts_nothing() -> None:
    found = checked([level(1, 100), level(1, 200)])
    assert (found["off"], found["holds"]) == (None, False)


@pytest.mark.parametrize(
    "changed,short",
    [
        ({}, []),
        ({"failed": 1}, ["failed"]),
        ({"told": 0.5}, ["fell behind"]),
        ({"generator_late_p99_ms": 50.0}, ["generator late"]),
        ({"generator_late_p99_ms": None}, ["generator late"]),
    ],
)
def test_what_makes_a_level_doubtful(changed, short) -> None:
    found = judged({"failed": 0, "told": 1.0, "generator_late_p99_ms": 1.0, **changed})
    assert found["falls_short"] == short


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_two_nodes_on_one_redis() -> None:
    told: list[str] = []
    result = bench_nodes.run([1, 2], [2, 4], 1.0, 1, told.append)
    assert told[-1] == "2 nodes, 4 sessions, 1 of 1"
    assert [(one["nodes"], one["sessions"]) for one in result["levels"]] == [(1, 2), (1, 4), (2, 2), (2, 4)]
    for one in result["levels"]:
        assert one["failed"] == 0
        assert one["told"] > 0
        assert one["cores"]["ingress"] > 0
        assert 0 < one["used"] < one["nodes"], "few sessions leave most ticks alone"
