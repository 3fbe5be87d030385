"""`cli.bench_capacity`: arithmetic, and that the page committed is the one its results give."""

import json
from pathlib import Path
from typing import Any

import pytest

from cli import bench_capacity
from cli.bench_capacity import Node, node, page

ROOT = Path(__file__).parents[2]
COMMAND = "python -m cli.bench_transducer --model m --lookahead 0"
STEP = f"| Step of m, 80 ms chunks, sessions | 1,960 | Counting frame | `{COMMAND}` |"
ON = "Abacus, 2 cores, 8 GiB | `steno bench ingress`"
SHORT = "Abacus, 2 cores, 8 GiB, a short run | `steno bench bus`"
HELD = f"| Sessions of one ingress, p99 of what it adds at most 20 ms | 500 | {ON} |"
MACHINE = {"processor": "Abacus", "cores": 2, "memory_gib": 8.0}


def level(sessions: int, holds: bool = True) -> dict[str, Any]:
    return {
        "sessions": sessions,
        "served": sessions,
        "holds": holds,
        "failed": 0,
        "per_core": 1_000,
        "of_bare": 0.6,
        "inbound_p50_ms": 2.0,
        "inbound_p99_ms": 14.0,
        "outbound_p50_ms": 1.0,
        "outbound_p99_ms": 11.0,
        "begin_p99_ms": 80.0,
        "cores": {"ingress": sessions / 1_000, "redis": sessions / 4_000},
        "session_kib": 40.0,
        "added_p50_ms": 5.0 if holds else 500.0,
        "added_p99_ms": 12.34,
    }


RESULTS: dict[str, dict[str, Any]] = {
    "ingress": {
        "machine": MACHINE,
        "holds": 500,
        "levels": [level(500), level(700), level(900, holds=False)],
    },
    "worker": {"machine": MACHINE, "holds": 8},
    "bus": {
        "machine": MACHINE,
        "quick": True,
        "kinds": {"plain": {"holds": 250, "masters": 1}, "cluster": {"holds": 0, "masters": 3}},
        "levels": [
            {
                "servers": "plain",
                "sessions": sessions,
                "per_core": 3_000,
                "operations": 8_000,
                "redis_kib": 90.0,
                "append_p50_ms": 1.0,
                "append_p99_ms": 4.0,
            }
            for sessions in (250, 500)
        ],
    },
    "worker-u3pro": {"machine": MACHINE, "holds": 0},
    "transducer": {
        "machines": [
            {
                "gpu": "Counting frame",
                "runs": [
                    {
                        "model": "m",
                        "chunk_ms": 80,
                        "lookahead": 0,
                        "levels": [level(1_960), level(3_000, False)],
                    },
                    {"model": "m", "chunk_ms": 160, "lookahead": 1, "levels": [level(10, False)]},
                ],
            }
        ]
    },
}


def test_the_largest_level_that_it_keeps_pace_with_counts() -> None:
    assert node(RESULTS["ingress"]) == Node(700, 0.001, 0.00025, 40.0, 12.34)
    assert node(None) is None
    assert node({"levels": [level(5, holds=False)]}) is None


@pytest.mark.parametrize(
    "row",
    [
        HELD,
        "| Ingress, sessions a core | 1,000 | Abacus, 2 cores, 8 GiB | `steno bench ingress` |",
        "| Redis, sessions a core | 4,000 | Abacus, 2 cores, 8 GiB | `steno bench ingress` |",
        "| Live sessions of the u3pro pool | 0 | Abacus, 2 cores, 8 GiB | `steno bench worker --pool u3pro` |",
        STEP,
        f"| One Redis, operations a second, at 250 sessions | 8,000 | {SHORT} |",
        "| Sessions a core of ingress, at 500 sessions | at least 1,000 | 1,000 | met |",
        "| Event from worker to socket, p99, at 500 sessions | at most 10.0 ms | 11.0 ms | **missed** |",
        "| For | 100 sessions | 1,000 sessions | 10,000 sessions |",
        "| Ingress, cores | 1 | 2 | 15 |",  # 10,000 / 1,000 / 0.7 = 14.3
        "| Redis, cores (one a server) | 1 | 1 | 4 |",  # 10,000 / 4,000 / 0.7 = 3.6
        "| Redis, audio held | 101 MiB | 1,007 MiB | 9.8 GiB |",  # 32,000 B x 30 s x 1.1 each
        "| Network, each of three ways | 28 Mbit/s | 282 Mbit/s | 2,816 Mbit/s |",
        "| Workers of english, machines as measured | 13 | 125 | 1,250 |",
    ],
)
def test_the_page(row: str) -> None:
    assert row in page(RESULTS, "here").splitlines()


def test_a_step_that_holds_nobody_is_no_row() -> None:
    assert "160 ms chunks" not in page(RESULTS, "here")


def test_a_pool_that_holds_nobody_is_not_planned_with() -> None:
    assert "Workers of u3pro" not in page(RESULTS, "here")


def test_without_an_ingress_nothing_is_computed() -> None:
    told = page({"worker": RESULTS["worker"]}, "here")
    assert "| Live sessions of the english pool | 8 |" in told
    assert "nothing is computed" in told


def test_the_page_committed_is_the_one_its_results_give() -> None:
    results = {path.stem: json.loads(path.read_text()) for path in (ROOT / "docs/bench").glob("*.json")}
    assert (ROOT / "CAPACITY.md").read_text() == page(results, "docs/bench")
    assert bench_capacity.node(results["ingress"]) is not None
