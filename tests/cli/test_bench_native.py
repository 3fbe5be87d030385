"""`cli.bench_native`: what makes a level hold, and a short run of the real stack."""

from typing import Any

import pytest

from cli import bench_native
from tests import digits
from tests.digits import needed


def figures(lag_ms: float | None) -> dict[str, Any]:
    return {"lag_p50_ms": lag_ms, "lag_p95_ms": lag_ms, "lag_count": 9, "steps": {}, "state_mb": 7.3}


@pytest.mark.parametrize(
    "lag_ms, late_ms, errors, reasons",
    [
        (79.0, 1.0, [], []),
        (81.0, 1.0, [], ["steps too late"]),
        (None, 1.0, [], ["nothing was measured"]),
        (10.0, 60.0, [], ["the generator itself was late"]),
        (10.0, 1.0, ["refused"], ["sessions failed"]),
    ],
)
def test_a_level_holds_while_steps_are_in_time(
    lag_ms: float | None, late_ms: float, errors: list[str], reasons: list[str]
) -> None:
    level = bench_native.judged(2, figures(lag_ms), [late_ms] * 9, errors, 80)
    assert level["falls_short"] == reasons
    assert level["holds"] == (not reasons)


@needed
@pytest.mark.weights
@pytest.mark.timeout(180)
@pytest.mark.parametrize("workers", [1, 2])
def test_the_real_stack_is_measured(workers: int) -> None:
    asked = bench_native.Asked(digits.FOLDER, 3, [2], 3, workers=workers, send_ms=100)
    result = bench_native.run(asked, lambda _: None)
    (level,) = result["levels"]
    assert level["errors"] == []
    assert level["lag_count"] > 0
    assert level["lag_p95_ms"] > 0
    assert sum(one["count"] for one in level["steps"].values()) > 10
    assert all(0 < one["p50_ms"] <= one["p95_ms"] for one in level["steps"].values())
    assert 0 < level["busy"] < 1
    assert 0.1 < level["state_mb"] < 1  # the digits model's, in float32
    assert result["settings"]["chunk_ms"] == 320
