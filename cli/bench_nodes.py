"""Several ingress nodes on one Redis: does the processor time add up as the model of `CAPACITY.md` says?

Real ingress nodes, each with a crowd of its own, on one Redis, with one worker without a model. The model
(`cli/bench_model.py`) is fitted to all sizes but those with the most nodes, and those are predicted: what is planned
beyond this machine is planned the same way.
"""

import contextlib
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from cli import bench_crowd, bench_scripted, redis_server, up
from cli.bench_figures import middle, percentile
from cli.bench_handshake import Door
from cli.bench_ingress import LATE_MS, WARM_UP_S
from cli.bench_machine import Usage, metric
from cli.bench_model import KEPT, TICK_MS, Costs, fit, off

#: How far the sizes that were left out may lie from what the model says of them.
GOAL_OFF = 0.15
METHOD = (
    "Real ingress nodes on one real Redis, a crowd for each node, one worker without a model, each a process; the "
    "sessions are spread evenly. Each session sends 50 ms of PCM every 50 ms and is told a partial for each half "
    "second. Cores: of all nodes together, and of Redis. Model: cores = node x nodes + session x sessions for ingress, "
    "and so much more once for Redis; a node counts as far as its ticks were used (used: all nodes together); least "
    "squares over the sizes with fewer nodes than the most; the others are predicted. Each size's figures are the "
    "median of its repeats."
)


def run(
    nodes: Sequence[int], sessions: Sequence[int], seconds: float, repeats: int, tell: Callable[[str], None]
) -> dict[str, Any]:
    """Measure each number of nodes with each number of sessions, in all. Raises StackError."""
    levels: list[dict[str, Any]] = []
    for count in sorted(set(nodes)):
        levels += _levels(count, sorted(set(sessions)), seconds, repeats, tell)
    return {
        "settings": {
            "nodes": sorted(set(nodes)),
            "sessions": sorted(set(sessions)),
            "seconds": seconds,
            "repeats": repeats,
        },
        "method": METHOD,
        "goals": {"off": GOAL_OFF},
        **checked(levels),
    }


def checked(levels: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The model, and each level beside what it says of it; `off`: how far the predicted ones lie from it at most."""
    most = max(level["nodes"] for level in levels)
    known = [level for level in levels if level["nodes"] < most] or list(levels)
    models = {
        name: fit(
            [(level["nodes"], level["used"], level["sessions"], level["cores"][name]) for level in known],
            name == "redis",
        )
        for name in ("ingress", "redis")
    }
    told = [_beside(level, models, fitted=level in known) for level in levels]
    left = [level["off"][name] for level in told for name in models if not level["fitted"]]
    return {
        "model": {
            name: {"fixed": costs.fixed, "node": costs.node, "session": costs.session}
            for name, costs in models.items()
        },
        "off": max(map(abs, left), default=None),
        "holds": bool(left) and max(map(abs, left)) <= GOAL_OFF,
        "levels": told,
    }


def _beside(level: dict[str, Any], models: dict[str, Costs], fitted: bool) -> dict[str, Any]:
    predicted = {name: round(costs.at(level["used"], level["sessions"]), 4) for name, costs in models.items()}
    wrong = {name: off(value, level["cores"][name]) for name, value in predicted.items()}
    return level | {"fitted": fitted, "predicted": predicted, "off": wrong}


def _levels(
    nodes: int, sessions: Sequence[int], seconds: float, repeats: int, tell: Callable[[str], None]
) -> list[dict[str, Any]]:
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="steno-bench-")))
        redis = stack.enter_context(redis_server.EmbeddedRedis())
        doors = []
        for number in range(nodes):
            door = Door(redis.url, folder / f"ingress-{number}.log", max(sessions) + 1_000)
            stack.callback(door.child.stop, up.STOP_GRACE_S)
            doors.append(door)
        worker = stack.enter_context(bench_scripted.running(redis.url))
        for door in doors:
            door.wait()
        crowds = [stack.enter_context(bench_crowd.running(door.port)) for door in doors]
        pids = {f"ingress {number}": door.child.pid for number, door in enumerate(doors)}
        pids |= {"redis": redis.child.pid, "worker": worker}
        pool = stack.enter_context(ThreadPoolExecutor(nodes))
        found = []
        for count in sessions:
            shares = [(count + number) // nodes for number in range(nodes)]
            list(pool.map(lambda pair: pair[0].grow(pair[1]), zip(crowds, shares, strict=True)))
            list(pool.map(lambda crowd: crowd.measure(WARM_UP_S), crowds))
            rounds = []
            for number in range(1, repeats + 1):
                tell(f"{nodes} nodes, {count} sessions, {number} of {repeats}")
                usage, before_s, started_s = Usage(pids), redis.processor_s(), time.monotonic()
                writes = _writes(doors)
                seen = list(pool.map(lambda crowd: crowd.measure(seconds), crowds))
                # Redis takes little here, and counts more finely than the system does.
                took_s = time.monotonic() - started_s
                cores = usage.cores() | {"redis": (redis.processor_s() - before_s) / took_s}
                used = (_writes(doors) - writes) / took_s * TICK_MS / 1000
                rounds.append(figures(nodes, count, seen, cores, used, seconds))
                for door in doors:
                    door.check()
            found.append(judged(middle(rounds, worst=("failed",))))
    return found


def _writes(doors: Sequence[Door]) -> float:
    return sum(metric(door.probe_port, "steno_append_seconds_count")[""] for door in doors)


def figures(
    nodes: int,
    count: int,
    seen: Sequence[bench_crowd.Seen],
    cores: dict[str, float],
    used: float,
    seconds: float,
) -> dict[str, Any]:
    """One round in numbers. `used`: as many nodes' ticks as were used by all nodes together."""
    ingress = [value for name, value in cores.items() if name.startswith("ingress")]
    generators = sum(one.cores for one in seen)
    added = [ms for one in seen for ms in one.added]
    late = [ms for one in seen for ms in one.late]
    return {
        "nodes": nodes,
        "sessions": count,
        "used": round(used, 3),
        "added_p50_ms": _rounded(percentile(added, 50)),
        "added_p99_ms": _rounded(percentile(added, 99)),
        "told": round(sum(len(one.outbound) for one in seen) * bench_scripted.PARTIAL_S / seconds / count, 3),
        "failed": sum(one.failed for one in seen),
        "generator_late_p99_ms": _rounded(percentile(late, 99)),
        "cores": {
            "ingress": round(sum(ingress), 4),
            "redis": round(cores["redis"], 4),
            "worker": cores["worker"],
            "generators": round(generators, 3),
            "others": round(max(0.0, cores["others"] - generators), 3),
        },
    }


def judged(level: dict[str, Any]) -> dict[str, Any]:
    """A level with the reasons for which its figures should not be believed."""
    late = level["generator_late_p99_ms"]
    checks = {
        "failed": level["failed"] > 0,
        "fell behind": level["told"] < KEPT,
        "generator late": late is None or late > LATE_MS,
    }
    short = [reason for reason, true in checks.items() if true]
    return level | {"falls_short": short, "holds": not short}


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 2)
