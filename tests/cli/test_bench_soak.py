"""`cli.bench_soak`: what counts as growing and as left behind; a small run of the whole stack."""

import random

import pytest

from cli import bench_soak
from cli.bench_soak import FLAT_KIB, leaks, row
from cli.bench_soak_crowd import kinds


def readings(kib_per_1000: float, noise_kib: float, seed: int = 1) -> list[tuple[int, float]]:
    """Of 2,000 sessions, every tenth; the first third fills caches."""
    chance = random.Random(seed)
    return [
        (at, 80_000 + 30 * min(at, 500) + kib_per_1000 * at / 1000 + chance.gauss(0, noise_kib))
        for at in range(0, 2_000, 10)
    ]


def test_a_cache_that_fills_is_no_leak() -> None:
    found = row("ingress", readings(0, 50), 2_000)
    assert abs(found["slope_kib_per_1000"]) < 4 * found["error"]
    assert not found["grows"]


def test_what_grows_for_certain_grows() -> None:
    found = row("ingress", readings(4 * FLAT_KIB, 50), 2_000)
    assert found["slope_kib_per_1000"] == pytest.approx(4 * FLAT_KIB, abs=4 * found["error"])
    assert found["grows"]
    assert found["last_mib"] > found["first_mib"]


def test_what_is_given_back_now_and_then_does_not_grow() -> None:
    saw = [(at, 400_000.0 + 40 * (at % 120)) for at in range(0, 2_000, 7)]
    found = row("worker", saw, 2_000)
    assert found["first_mib"] == pytest.approx(390.6, abs=0.5)
    assert abs(found["slope_kib_per_1000"]) < 200
    assert not found["grows"]


def test_nothing_read_is_no_growth() -> None:
    assert row("worker", [], 2_000)["first_mib"] is None
    assert not row("worker", [(9, 1.0)], 9)["grows"]


def test_what_may_be_chance_is_not_called_growing() -> None:
    assert not row("worker", readings(1.1 * FLAT_KIB, 20_000, seed=2), 2_000)["grows"]


def test_what_is_left_is_named_with_its_place() -> None:
    before = {"ingress": {"files": 9, "tasks": 12, "rss_kib": 1, "threads": 3}, "redis": {"session_keys": 0}}
    assert leaks(before, before) == []
    after = {"ingress": {"files": 10, "tasks": 11, "rss_kib": 9, "threads": 8}, "redis": {"session_keys": 2}}
    assert leaks(before, after) == ["ingress: files", "redis: session_keys"]


@pytest.mark.slow
@pytest.mark.weights
@pytest.mark.timeout(600)
def test_a_small_soak_leaves_nothing_behind_even_with_restarts() -> None:
    result = bench_soak.run(40, 4, 1, lambda _: None)
    assert sum(result["outcomes"].values()) == 40
    assert {outcome.split(": ")[0] for outcome in result["outcomes"]} <= set(kinds())
    assert not [outcome for outcome in result["outcomes"] if "hung" in outcome]
    assert len(result["restarted"]) == 1
    assert [leak for leak in result["leaks"] if not leak.endswith("memory")] == []
    assert result["usage_counted_s"] > 0
