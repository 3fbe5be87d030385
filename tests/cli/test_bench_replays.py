"""`cli.bench_replays`: a small run, with real speech."""

import pytest

from cli import bench_replays


@pytest.mark.slow
@pytest.mark.weights
@pytest.mark.timeout(300)
def test_live_sessions_are_measured_alone_and_beside_replays() -> None:
    told: list[str] = []
    result = bench_replays.run(2, 1, 2, 5.0, told.append)
    assert told[:2] == [f"{kind}; 0 of 2 replays are run" for kind in ("alone", "beside replays")]
    assert result["settings"]["replays"] >= 2
    assert result["settings"]["refused"] > 0, "some always wait for a place"
    for kind in (bench_replays.ALONE, bench_replays.BESIDE):
        assert result["results"][kind]["count"] > 0
        assert 0 < result["results"][kind]["p50"] <= result["results"][kind]["p95"]
