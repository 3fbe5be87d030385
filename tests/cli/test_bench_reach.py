"""`cli.bench_reach`: each goal is met, missed, or not measured, and never anything else."""

from typing import Any

import pytest

from cli.bench_reach import MET, rows, table

COSTS = {"fixed": 0.0, "node": 0.1, "session": 0.001}


def ingress(idle_kib: float = 58.0, **changed: Any) -> dict[str, Any]:
    at = {
        "sessions": 500,
        "served": 500,
        "failed": 0,
        "cores": {"ingress": 0.5},
        "per_core": 1_001,
        "of_bare": 0.5,
        "inbound_p50_ms": 3.0,
        "inbound_p99_ms": 15.0,
        "outbound_p50_ms": 2.0,
        "outbound_p99_ms": 10.0,
        "begin_p99_ms": 100.0,
        **changed,
    }
    others = [
        {"sessions": size, "served": size, "failed": 0, "cores": {"ingress": size / 1_000}}
        for size in (100, 250, 750, 1_000)
    ]
    levels = sorted([at, *others], key=lambda level: level["sessions"])
    return {"holds": 1_000, "levels": levels, "idle": {"sessions": 500, "session_kib": idle_kib}}


def verdicts(**results: Any) -> dict[str, bool | None]:
    return {what: met for what, _, _, met in rows(results)}


def test_without_results_nothing_is_met_and_nothing_missed() -> None:
    assert set(verdicts().values()) == {None}
    assert {row[3] for row in table({})} == {"not measured"}


def test_what_just_reaches_its_goals_meets_them() -> None:
    found = verdicts(ingress=ingress())
    assert sum(met is True for met in found.values()) == 10
    assert False not in found.values()


@pytest.mark.parametrize(
    "changed",
    [
        {"per_core": 999},
        {"of_bare": 0.49},
        {"idle_kib": 60.0},  # KiB: 61 KB
        {"inbound_p50_ms": 3.1},
        {"inbound_p99_ms": 15.1},
        {"outbound_p50_ms": 2.1},
        {"outbound_p99_ms": 10.1},
        {"begin_p99_ms": 101.0},
    ],
)
def test_one_that_is_missed_is_told(changed: dict[str, float]) -> None:
    found = verdicts(ingress=ingress(**changed))
    assert [met for met in found.values() if met is False] == [False]


def test_a_line_counts_when_it_is_long_and_straight() -> None:
    (what,) = (name for name in verdicts() if "a line" in name)
    assert verdicts(ingress=ingress(cores={"ingress": 0.9}))[what] is False
    short = ingress()
    short["levels"] = short["levels"][:4]
    assert verdicts(ingress=short)[what] is False


def test_the_others() -> None:
    started = {name: {"median_ms": 1_500.0} for name in ("ingress", "licensing", "usage", "--help")}
    found = verdicts(
        startup={"results": started},
        nodes={"off": 0.16, "holds": False, "model": {"ingress": COSTS, "redis": COSTS}},
        worker={"holds": 8},
        latency={"results": {"first_partial_ms": {"p50": 590.0}, "endpoint_to_final_ms": {"p50": 151.0}}},
        accuracy={"difference_points": -0.65},
    )
    assert [met for met in found.values() if met is not None] == [
        False,  # nodes
        True,
        True,
        True,
        False,  # --help
        True,
        True,
        False,  # final
        True,
    ]
    assert set(MET) >= set(found.values())
