"""How many sessions one ingress holds, what it adds to their delay, and what it takes: beside a bare receive loop.

A real ingress and a real Redis, a worker without a model (`cli/bench_scripted.py`) and the crowd
(`cli/bench_crowd.py`), each a process. The crowd grows level by level. The bare loop (`cli/bench_bare.py`) has the same
crowd in the same run.
"""

import dataclasses
import itertools
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cli import bench_bare, bench_crowd, bench_scripted, bench_tuned, redis_server, up
from cli.bench_crowd import Crowd, Seen
from cli.bench_figures import middle, percentile
from cli.bench_handshake import Door
from cli.bench_machine import Usage, largest, metric
from cli.bench_model import KEPT, line

#: Sessions settle at a level before it is measured.
WARM_UP_S = 2.0
GOALS = {"sessions": 1_000, "of_bare": 0.5, "added_p99_ms": 20.0, "idle_kib": 60.0, "bend": 0.15}
#: Goals of `docs/bench` for the level of this many sessions, in ms.
AT, GOALS_AT = 500, {"inbound_p50_ms": 3, "inbound_p99_ms": 15, "outbound_p50_ms": 2, "outbound_p99_ms": 10}
GOAL_BEGIN_MS = 100.0
#: A crowd that is later than this with one frame in a hundred is itself the limit.
LATE_MS = 10.0
METHOD = (
    "Real ingress, real Redis, a worker without a model and the crowd, each a process. Each session sends 50 ms of "
    "PCM every 50 ms at a phase of its own and is told a partial for each half second. inbound: from sending a frame "
    f"to the worker's hands, of {bench_scripted.WATCHED} sessions that are looked at every "
    f"{1000 * bench_scripted.WATCH_S:.0f} ms, so it seems half of that older than it is (the others are read once in a "
    "step of 64 ms, an eighth of them at a time); outbound: from the worker's telling to the "
    "client; added: both. begin: from connecting to Begin, of five sessions a second that come meanwhile. A level "
    "holds if one of a hundred is added at most the goal, nobody is lost, and the crowd itself is on time. per core: "
    "sessions whose audio went through, divided by the cores that the ingress took. bare: websockets' own receive "
    "loop, the frames forgotten, nothing sent back. Each level's figures are the median of its repeats. idle: memory "
    "of sessions that send silence, of an ingress of their own. line: least squares through the ingress's cores over "
    "sessions, of the levels from 100 that keep up; bend: how far the slope of its lower or upper half is from the "
    "whole's."
)
#: What settings are compared by, in this order.
COMPARED = (
    "per_core",
    "added_p50_ms",
    "added_p99_ms",
    "inbound_p99_ms",
    "outbound_p99_ms",
    "begin_p99_ms",
    "session_kib",
)


def run(
    counts: Sequence[int], seconds: float, tell: Callable[[str], None], every: bool = False, repeats: int = 1
) -> dict[str, Any]:
    """Measure these levels, in growing order, until one does not hold; `every`: all the same. Raises StackError."""
    bare = _bare(counts, seconds, repeats, tell)
    levels = _ingress(counts, seconds, tell, every, repeats)
    idle = _idle(min(AT, max(counts)), tell)
    for level in levels:
        level["of_bare"] = round(level["per_core"] / bare[level["sessions"]]["per_core"], 2)
    holding = list(itertools.takewhile(lambda level: level["holds"], levels))
    return {
        "settings": {"sessions": list(counts), "seconds": seconds, "repeats": repeats},
        "method": METHOD,
        "goals": GOALS | {f"{name} at {AT} sessions": goal for name, goal in GOALS_AT.items()},
        "holds": holding[-1]["sessions"] if holding else 0,
        "line": None if (found := line(levels)) is None else dataclasses.asdict(found),
        "levels": levels,
        "idle": idle,
        "bare": list(bare.values()),
    }


def compare(
    settings: Sequence[str], count: int, seconds: float, rounds: int, tell: Callable[[str], None]
) -> dict[str, Any]:
    """One level with each of these settings (`cli/bench_tuned.py`), which take turns. Raises StackError."""
    found: dict[str, list[dict[str, Any]]] = {one: [] for one in settings}
    for number in range(rounds):
        # Another one begins each round, so that none always comes after the same.
        first = number % len(settings)
        for one in (*settings[first:], *settings[:first]):
            tell(f"round {number + 1} of {rounds}: {one}")
            found[one] += _ingress([count], seconds, _quietly, every=True, settings=one)
    return {
        "settings": {"compared": list(settings), "sessions": count, "seconds": seconds, "rounds": rounds},
        "method": METHOD
        + " Settings take turns, each round beginning with another; a fresh ingress each time.",
        "goals": GOALS,
        "measured": {one: [level["cores"]["ingress"] for level in levels] for one, levels in found.items()},
        "compared": {one: middle(levels, worst=("failed",)) for one, levels in found.items()},
    }


def _quietly(_: str) -> None:
    """Who compares has told already."""


def _bare(
    counts: Sequence[int], seconds: float, repeats: int, tell: Callable[[str], None]
) -> dict[int, dict[str, Any]]:
    found = {}
    with bench_bare.running() as (port, pid), bench_crowd.running(port, greeted=False) as crowd:
        for count in counts:
            tell(f"bare receive loop, {count} sessions")
            _settle(crowd, count)
            rounds = [_bare_level(crowd, count, seconds, pid) for _ in range(repeats)]
            found[count] = middle(rounds, worst=("failed",))
    return found


def _bare_level(crowd: Crowd, count: int, seconds: float, pid: int) -> dict[str, Any]:
    seen, cores, _ = _seen(crowd, seconds, {"bare": pid})
    return {
        "sessions": count,
        "cores": cores,
        "per_core": round(count / max(cores["bare"], 1e-3)),
        "generator_late_p99_ms": _rounded(percentile(seen.late, 99)),
        "failed": seen.failed,
    }


def _ingress(
    counts: Sequence[int],
    seconds: float,
    tell: Callable[[str], None],
    every: bool,
    repeats: int = 1,
    settings: str = bench_tuned.AS_IS,
) -> list[dict[str, Any]]:
    levels: list[dict[str, Any]] = []
    with _stage(max(counts), settings) as (door, pids), bench_crowd.running(door.port) as crowd:
        empty_kib = _resident_kib(door)
        for count in counts:
            tell(f"ingress, {count} sessions")
            _settle(crowd, count)
            rounds = []
            for _ in range(repeats):
                seen, cores, served = _seen(crowd, seconds, pids, door)
                door.check()
                kib = (_resident_kib(door) - empty_kib) / count
                held = metric(door.probe_port, "steno_held_bytes")[""] / 1024 / count
                rounds.append(figures(count, seen, cores, served, kib, held))
            levels.append(judged(middle(rounds, worst=("failed",))))
            if not (every or levels[-1]["holds"]):
                break
    return levels


def _idle(count: int, tell: Callable[[str], None]) -> dict[str, Any]:
    """Memory of a session that is there and says nothing: its client sends silence."""
    tell(f"ingress, {count} silent sessions")
    with _stage(count) as (door, _), bench_crowd.running(door.port, frame=bench_crowd.SILENCE) as crowd:
        empty_kib = _resident_kib(door)
        _settle(crowd, count)
        return {"sessions": count, "session_kib": round((_resident_kib(door) - empty_kib) / count, 1)}


@contextmanager
def _stage(most: int, settings: str = bench_tuned.AS_IS) -> Iterator[tuple[Door, dict[str, int]]]:
    """A fresh ingress that is ready, a Redis and a worker; their process ids by name."""
    with tempfile.TemporaryDirectory(prefix="steno-bench-") as folder, redis_server.EmbeddedRedis() as redis:
        log, how = Path(folder) / "ingress.log", bench_tuned.started_with(settings)
        door = Door(redis.url, log, most + 1_000, more=how.env, module=how.module)
        try:
            with bench_scripted.running(redis.url) as worker:
                door.wait()
                yield door, {"ingress": door.child.pid, "redis": redis.child.pid, "worker": worker}
        finally:
            door.child.stop(up.STOP_GRACE_S)


def _settle(crowd: Crowd, count: int) -> None:
    crowd.grow(count)
    crowd.measure(WARM_UP_S)


def _seen(
    crowd: Crowd, seconds: float, pids: dict[str, int], door: Door | None = None
) -> tuple[Seen, dict[str, float], float]:
    """What was seen, cores in use, and how many sessions' audio the ingress got through."""
    usage, before_s, started_s = Usage(pids), _heard_s(door), time.monotonic()
    seen = crowd.measure(seconds)
    served = (_heard_s(door) - before_s) / (time.monotonic() - started_s)
    return seen, usage.cores() | {"generator": round(seen.cores, 3)}, served


def _heard_s(door: Door | None) -> float:
    return sum(metric(door.probe_port, "steno_audio_seconds_total").values()) if door else 0.0


def figures(
    count: int,
    seen: Seen,
    cores: dict[str, float],
    served: float,
    session_kib: float,
    held_kib: float,
) -> dict[str, Any]:
    """One round in numbers. `served`: sessions whose audio the ingress got through; `held_kib`: of a session's memory,
    the audio since its last checkpoint.
    """
    parts: dict[str, Any] = {}
    for name, values in (("added", seen.added), ("inbound", seen.inbound), ("outbound", seen.outbound)):
        for part in (50, 99):
            parts[f"{name}_p{part}_ms"] = _rounded(percentile(values, part))
    return {
        "sessions": count,
        "partials": len(seen.outbound),
        **parts,
        "begin_p99_ms": _rounded(percentile(seen.begins, 99)),
        "session_kib": round(session_kib, 1),
        "held_kib": round(held_kib, 1),
        "cores": cores,
        "served": round(served, 1),
        "per_core": round(served / max(cores["ingress"], 1e-3)),
        "generator_late_p99_ms": _rounded(percentile(seen.late, 99)),
        "failed": seen.failed,
    }


def judged(level: dict[str, Any]) -> dict[str, Any]:
    """A level with the reasons for which it does not hold."""
    late, added = level["generator_late_p99_ms"], level["added_p99_ms"]
    checks = {
        "nothing heard": added is None,
        "added": (added or 0) > GOALS["added_p99_ms"],
        "failed": level["failed"] > 0,
        "fell behind": level["served"] < KEPT * level["sessions"],
        "generator late": late is None or late > LATE_MS,
    }
    short = [name for name, failed in checks.items() if failed]
    return level | {"falls_short": short, "holds": not short}


def _resident_kib(door: Door) -> float:
    return float(largest(door.child.pid).memory_info().rss) / 1024


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 2)
