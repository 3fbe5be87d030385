"""From results of benchmarks to `CAPACITY.md`: what was measured, and the arithmetic for so many sessions. Pure.

A figure says which command measures it again. What is computed says of what; it holds as far as cost grows in a line
with sessions, which `steno bench ingress` checks (its `line`), and with nodes, which `steno bench nodes` checks.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cli import bench_plan, bench_reach
from cli.bench_plan import PLANNED, table
from wire.entries import SAMPLE_RATE

#: Audio that Redis holds of a session, in s: since the last checkpoint, which comes with each final.
HELD_S = 30
BYTES_PER_S = 2 * SAMPLE_RATE
#: What TCP, TLS, WebSocket frames and stream entries add to audio on the wire.
OVERHEAD = 1.1
#: An ingress keeps pace while half of the frames are added less than this.
PACE_MS = 100
POOLS = ("english", "multilang", "u3pro")
SIZES = (100, 1_000, 10_000)
_HEAD = """# Capacity

Written by `steno bench capacity` from the results in {folder}; change those, not this. Repeat a figure with the command
beside it, on your machine, while it does nothing else.
"""
_PLAN = f"""
## What so many sessions need

Computed from the figures above, with {PLANNED:.0%} of a core planned for use. Ingress and Redis: cores per session at
the largest level that ingress keeps pace with, times sessions. Redis' memory: {HELD_S} s of 16 kHz audio for each
session, which is what it holds since a checkpoint when nobody pauses for that long. Network: 16 kHz PCM and
{OVERHEAD - 1:.0%} for what carries it, once from clients to ingress, once to Redis, once to workers. Workers: machines
like the one measured.
"""


@dataclass(frozen=True)
class Node:
    """What `steno bench ingress` says of one level: cores of ingress and of Redis, for each session."""

    sessions: int
    ingress: float
    redis: float
    kib: float
    added_p99_ms: float


def node(result: Mapping[str, Any] | None) -> Node | None:
    """The largest level that an ingress keeps pace with; None without one."""
    levels = [
        level
        for level in (result or {}).get("levels", ())
        if not level["failed"] and (level["added_p50_ms"] or math.inf) <= PACE_MS
    ]
    if not levels:
        return None
    best = max(levels, key=lambda level: int(level["sessions"]))
    count = best["sessions"]
    cores = best["cores"]
    return Node(
        count, cores["ingress"] / count, cores["redis"] / count, best["session_kib"], best["added_p99_ms"]
    )


def page(results: Mapping[str, Mapping[str, Any]], folder: str, sizes: Sequence[int] = SIZES) -> str:
    """The whole page. `results`: by the name of their benchmark, those that are there."""
    found = node(results.get("ingress"))
    parts = [
        _HEAD.format(folder=folder),
        "\n## Goals\n\n",
        *table(("What", "Goal", "Measured", ""), bench_reach.table(results)),
        "\n## Measured\n\n",
        *table(("What", "Figure", "On", "Command"), _measured(results, found)),
    ]
    if found is not None:
        columns = ("For", *(f"{size:,} sessions" for size in sizes))
        parts += [_PLAN, "\n", *table(columns, _planned(results, found, sizes))]
    else:
        parts.append("\nWithout a result of `steno bench ingress` nothing is computed.\n")
    return "".join([*parts, *bench_plan.section(results, PLANNED)])


def _measured(results: Mapping[str, Mapping[str, Any]], found: Node | None) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    if found is not None:
        on, command = _machine(results["ingress"]), "`steno bench ingress`"
        rows += [
            (
                "Sessions of one ingress, p99 of what it adds at most 20 ms",
                f"{results['ingress']['holds']:,}",
                on,
                command,
            ),
            (
                f"Sessions it keeps pace with (half added below {PACE_MS} ms)",
                f"{found.sessions:,}",
                on,
                command,
            ),
            ("Added to delays there, p99", f"{found.added_p99_ms:.1f} ms", on, command),
            ("Ingress, sessions a core", f"{1 / found.ingress:,.0f}", on, command),
            ("Redis, sessions a core", f"{1 / found.redis:,.0f}", on, command),
            ("Ingress, memory a session", f"{found.kib:.0f} KiB", on, command),
        ]
    if (bus := results.get("bus")) is not None:
        rows += _bus(bus)
    for pool in POOLS:
        if (result := results.get(_worker(pool))) is not None:
            rows.append(
                (
                    f"Live sessions of the {pool} pool",
                    f"{result['holds']}",
                    _machine(result),
                    f"`steno bench worker --pool {pool}`",
                )
            )
    for machine in results.get("transducer", {}).get("machines", ()):
        rows += [_step(machine["gpu"], run) for run in machine["runs"] if any(_held(run))]
    return rows


def _bus(bus: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Of each kind of server: its largest level without a fault of its own, and what a session takes there."""
    rows: list[tuple[str, ...]] = []
    on, command = _machine(bus), "`steno bench bus`"
    for kind, found in bus["kinds"].items():
        levels = [
            level
            for level in bus["levels"]
            if level["servers"] == kind and level["sessions"] <= found["holds"]
        ]
        if not levels:
            continue
        best, name = levels[-1], "One Redis" if kind == "plain" else f"Redis Cluster of {found['masters']}"
        count = f"{best['sessions']:,} sessions"
        rows += [
            (f"{name}, sessions a core (all masters'), at {count}", f"{best['per_core']:,}", on, command),
            (f"{name}, operations a second, at {count}", f"{best['operations']:,}", on, command),
            (
                f"{name}, memory a session with a checkpoint each 3 s",
                f"{best['redis_kib']:.0f} KiB",
                on,
                command,
            ),
            (
                f"{name}, round trip of an append, at {count}, p50 and p99",
                f"{best['append_p50_ms']:.1f} and {best['append_p99_ms']:.1f} ms",
                on,
                command,
            ),
        ]
    return rows


def _step(gpu: str, run: Mapping[str, Any]) -> tuple[str, ...]:
    name = f"Step of {run['model']}, {run['chunk_ms']} ms chunks, sessions"
    command = f"`python -m cli.bench_transducer --model {run['model']} --lookahead {run['lookahead']}`"
    return name, f"{max(_held(run)):,}", gpu, command


def _held(run: Mapping[str, Any]) -> list[int]:
    return [int(level["sessions"]) for level in run["levels"] if level["holds"]]


def _planned(
    results: Mapping[str, Mapping[str, Any]], found: Node, sizes: Sequence[int]
) -> list[tuple[str, ...]]:
    def row(name: str, need: Any) -> tuple[str, ...]:
        return (name, *(need(size) for size in sizes))

    rows = [
        row("Ingress, cores", lambda size: f"{_whole(size * found.ingress / PLANNED)}"),
        row("Ingress, memory of sessions", lambda size: _bytes(size * found.kib * 1024)),
        row("Redis, cores (one a server)", lambda size: f"{_whole(size * found.redis / PLANNED)}"),
        row("Redis, audio held", lambda size: _bytes(size * HELD_S * BYTES_PER_S * OVERHEAD)),
        row(
            "Network, each of three ways",
            lambda size: f"{size * BYTES_PER_S * OVERHEAD * 8 / 1e6:,.0f} Mbit/s",
        ),
    ]
    for pool in POOLS:
        if held := results.get(_worker(pool), {}).get("holds"):
            name = f"Workers of {pool}, machines as measured"
            rows.append(row(name, lambda size, held=held: f"{_whole(size / held):,}"))
    return rows


def _worker(pool: str) -> str:
    return "worker" if pool == "english" else f"worker-{pool}"


def _machine(result: Mapping[str, Any]) -> str:
    machine = result["machine"]
    short = ", a short run" if result.get("quick") else ""
    return f"{machine['processor']}, {machine['cores']} cores, {machine['memory_gib']:g} GiB{short}"


def _whole(value: float) -> int:
    return max(1, math.ceil(value))


def _bytes(count: float) -> str:
    return f"{count / 2**30:,.1f} GiB" if count >= 2**30 else f"{count / 2**20:,.0f} MiB"
