"""`cli.bench_record`: a small run of each mode, and the sums."""

import pytest

from cli import bench_record
from cli.bench_record import modes, rows


@pytest.mark.slow
@pytest.mark.weights
@pytest.mark.timeout(300)
def test_each_mode_is_measured_once_a_round() -> None:
    told: list[str] = []
    result = bench_record.run(2, 1, 2.0, 1, told.append)
    assert told == [f"round 1 of 1: {part}, {mode}" for part in ("ingress", "worker") for mode in modes()]
    assert all(row["cores"] > 0 for row in result["rows"])


def test_the_share_is_over_what_nobody_recorded_takes() -> None:
    found = rows(
        {"ingress": {"off": [0.1, 0.2, 0.3], "recorded": [0.21, 0.21, 0.9]}, "worker": {"off": [0.0]}}
    )
    assert [(row["part"], row["mode"], row["cores"], row["share"]) for row in found] == [
        ("ingress", "off", 0.2, 0.0),
        ("ingress", "recorded", 0.21, 0.05),
        ("worker", "off", 0.0, None),
    ]


def test_nobody_is_recorded_but_where_that_is_measured() -> None:
    assert [(mode, env["RECORD"], "RECORD_KEY" in env) for mode, env in modes().items()] == [
        ("off", "off", False),
        ("recorded", "all", False),
        ("encrypted", "all", True),
    ]
