"""`cli.bench_ingress`: a few sessions through a real ingress and Redis, and what makes a level fall short."""

import pytest

from cli import bench_ingress
from cli.bench_crowd import Seen
from cli.bench_ingress import figures, judged

CORES = {"ingress": 0.5, "redis": 0.1}


@pytest.mark.timeout(180)
def test_a_few_sessions_are_measured_beside_the_bare_loop() -> None:
    told: list[str] = []
    result = bench_ingress.run([2, 4], 1.0, told.append, every=True, repeats=2)
    levels = [f"{what}, {count} sessions" for what in ("bare receive loop", "ingress") for count in (2, 4)]
    assert told == [*levels, "ingress, 4 silent sessions"]
    assert result["idle"]["session_kib"] > 0
    assert [bare["sessions"] for bare in result["bare"]] == [2, 4]
    for found, count in zip(result["levels"], (2, 4), strict=True):
        assert found["sessions"] == count
        assert found["partials"] >= count
        assert found["failed"] == 0
        assert 0 < found["inbound_p50_ms"] <= found["inbound_p99_ms"]
        assert 0 < found["outbound_p50_ms"] <= found["outbound_p99_ms"]
        assert found["begin_p99_ms"] > 0
        assert found["held_kib"] > 0
        assert set(found["cores"]) == {"ingress", "redis", "worker", "others", "generator"}
        assert found["served"] == pytest.approx(count, rel=0.5)
        assert {"inbound_p99_ms", "cores worker"} & set(found["spread"])


def seen(**changed: object) -> Seen:
    fine = {
        "late": [0.1],
        "inbound": [2.0, 4.0],
        "outbound": [1.0, 3.0],
        "added": [3.0, 7.0],
        "begins": [5.0],
    }
    return Seen(**{**fine, **changed})  # type: ignore[arg-type]  # lists and an int, by name


def test_a_level_in_numbers() -> None:
    found = judged(figures(100, seen(), CORES, 99.0, 33.333, 21.26))
    assert (found["added_p50_ms"], found["added_p99_ms"]) == (3.0, 7.0)
    assert (found["per_core"], found["session_kib"], found["holds"]) == (198, 33.3, True)
    assert found["held_kib"] == 21.3


@pytest.mark.parametrize(
    "changed,served,short",
    [
        ({"added": []}, 100.0, "nothing heard"),
        ({"added": [1.0, 21.0]}, 100.0, "added"),
        ({"failed": 1}, 100.0, "failed"),
        ({"late": [50.0]}, 100.0, "generator late"),
        ({}, 90.0, "fell behind"),
    ],
)
def test_why_a_level_falls_short(changed, served, short) -> None:
    found = judged(figures(100, seen(**changed), CORES, served, 30.0, 10.0))
    assert found["falls_short"] == [short]
    assert not found["holds"]


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_settings_take_turns() -> None:
    told: list[str] = []
    result = bench_ingress.compare(["as-is", "gc=off+loop=asyncio"], 2, 1.0, 2, told.append)
    assert told == [
        "round 1 of 2: as-is",
        "round 1 of 2: gc=off+loop=asyncio",
        "round 2 of 2: gc=off+loop=asyncio",
        "round 2 of 2: as-is",
    ]
    assert [len(cores) for cores in result["measured"].values()] == [2, 2]
    assert all(found["partials"] > 0 for found in result["compared"].values())
