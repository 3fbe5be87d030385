"""`cli.bench_picture`: each picture is a PNG, also where little was measured."""

import pytest

from cli import bench_picture

SIGNATURE = b"\x89PNG\r\n\x1a\n"


def level(sessions: int, value: float | None) -> dict[str, object]:
    return {
        "sessions": sessions,
        "final_p50_ms": value,
        "final_p95_ms": value,
        "gap_p95_ms": value,
        "cores": {"redis": 0.1, "english": 0.5},
    }


@pytest.mark.parametrize(
    "levels", [[level(1, 300.0)], [level(1, 300.0), level(8, 900.0)], [level(1, 300.0), level(2, None)]]
)
def test_sessions(tmp_path, levels) -> None:
    bench_picture.sessions(levels, "title", 1_000, tmp_path / "worker.png")
    assert (tmp_path / "worker.png").read_bytes().startswith(SIGNATURE)


@pytest.mark.parametrize("measured", [{"a": [1.0, 2.0], "b": [3.0], "c": []}, {"a": []}])
def test_delays(tmp_path, measured) -> None:
    bench_picture.delays(measured, {"a": 700.0}, "title", tmp_path / "latency.png")
    assert (tmp_path / "latency.png").read_bytes().startswith(SIGNATURE)


@pytest.mark.parametrize("readings", [{}, {"redis": [], "ingress": [(0, 1_000.0), (10, 1_500.0)]}])
def test_memory(tmp_path, readings) -> None:
    bench_picture.memory(readings, "title", tmp_path / "soak.png")
    assert (tmp_path / "soak.png").read_bytes().startswith(SIGNATURE)


def test_accuracy(tmp_path) -> None:
    clips: list[dict[str, object]] = [
        {"name": "known", "language": "en", "reference": "words", "streamed_wer": 1.0, "whole_wer": 0.0},
        {"name": "other", "language": "zh", "reference": "words", "streamed_wer": 1.0, "whole_wer": 0.0},
        {"name": "unknown", "language": "en", "reference": None, "streamed_wer": None, "whole_wer": None},
    ]
    for chosen in (clips, clips[:1]):
        bench_picture.accuracy(chosen, "title", tmp_path / "accuracy.png")
        assert (tmp_path / "accuracy.png").read_bytes().startswith(SIGNATURE)


@pytest.mark.parametrize(
    "found",
    [
        {"english": {"with": 50.0}},
        {"english": {"without": 15.0, "with": 69.4}, "multilang": {"without": 0.0, "with": 100.0}},
    ],
)
def test_shares(tmp_path, found) -> None:
    bench_picture.shares(found, "title", tmp_path / "keyterms.png")
    assert (tmp_path / "keyterms.png").read_bytes().startswith(SIGNATURE)


def test_bus(tmp_path) -> None:
    levels = [
        {
            "servers": kind,
            "sessions": count,
            "cores": {"redis": 0.1},
            "busiest": 0.1,
            "operations": 5_000,
            **{f"{way}_p99_ms": value for way in ("append", "inbound", "outbound", "ping")},
        }
        for kind in ("plain", "cluster")
        for count, value in ((100, 3.0), (200, None))
    ]
    bench_picture.bus(levels, "title", tmp_path / "bus.png")
    assert (tmp_path / "bus.png").read_bytes().startswith(SIGNATURE)


def test_nodes(tmp_path) -> None:
    levels = [
        {
            "nodes": nodes,
            "sessions": count,
            "fitted": nodes < 2,
            **{part: {"ingress": 0.1, "redis": 0.01} for part in ("cores", "predicted")},
        }
        for nodes in (1, 2)
        for count in (60, 120)
    ]
    bench_picture.nodes(levels, "title", tmp_path / "nodes.png")
    assert (tmp_path / "nodes.png").read_bytes().startswith(SIGNATURE)
