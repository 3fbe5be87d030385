"""How many sessions one ingress holds, what it adds to their delay, and what it takes: beside a bare receive loop.

A real ingress and a real Redis, a worker without a model (`cli/bench_scripted.py`) and the crowd
(`cli/bench_crowd.py`), each a process. The crowd grows level by level. The bare loop (`cli/bench_bare.py`) has the same
crowd in the same run.
"""

import itertools
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cli import bench_bare, bench_crowd, bench_scripted, redis_server, up
from cli.bench_crowd import Crowd, Seen
from cli.bench_figures import percentile
from cli.bench_handshake import Door
from cli.bench_machine import Usage, largest, metric

#: Sessions settle at a level before it is measured.
WARM_UP_S = 2.0
GOALS = {"sessions": 1_000, "of_bare": 0.5, "added_p99_ms": 20.0, "session_kib": 60.0}
#: Goals of `docs/bench` for the level of this many sessions, in ms.
AT, GOALS_AT = 500, {"inbound_p50_ms": 3, "inbound_p99_ms": 15, "outbound_p50_ms": 2, "outbound_p99_ms": 10}
GOAL_BEGIN_MS = 100.0
#: A crowd that is later than this with one frame in a hundred is itself the limit.
LATE_MS = 10.0
#: An ingress that gets through less of the audio than this falls behind.
BEHIND = 0.95
METHOD = (
    "Real ingress, real Redis, a worker without a model and the crowd, each a process. Each session sends 50 ms of PCM "
    "every 50 ms at a phase of its own and is told a partial for each half second. inbound: from sending a frame to "
    f"the worker's hands, of {bench_scripted.WATCHED} sessions that it reads as often as it can (of the others once in "
    "a step of 20 ms); outbound: from the worker's telling to the client; added: both. begin: from connecting to "
    "Begin, of five sessions a second that come meanwhile. A level holds if one of a hundred is added at most the "
    "goal, nobody is lost, and the crowd itself is on time. per core: sessions whose audio went through, divided by "
    "the cores that the ingress took. bare: websockets' own receive loop, the frames forgotten, nothing sent back."
)


def run(
    counts: Sequence[int], seconds: float, tell: Callable[[str], None], every: bool = False
) -> dict[str, Any]:
    """Measure these levels, in growing order, until one does not hold; `every`: all the same. Raises StackError."""
    bare = _bare(counts, seconds, tell)
    levels = _ingress(counts, seconds, tell, every)
    for level in levels:
        level["of_bare"] = round(level["per_core"] / bare[level["sessions"]]["per_core"], 2)
    holding = list(itertools.takewhile(lambda level: level["holds"], levels))
    return {
        "settings": {"sessions": list(counts), "seconds": seconds},
        "method": METHOD,
        "goals": GOALS | {f"{name} at {AT} sessions": goal for name, goal in GOALS_AT.items()},
        "holds": holding[-1]["sessions"] if holding else 0,
        "linear": linear(levels),
        "levels": levels,
        "bare": list(bare.values()),
    }


def linear(levels: Sequence[dict[str, Any]]) -> float | None:
    """How far the processor time of a session strays over the levels of 100 sessions and more: 0.15 is 15 %."""
    costs = [level["cores"]["ingress"] / level["sessions"] for level in levels if level["sessions"] >= 100]
    return round(max(costs) / min(costs) - 1, 3) if len(costs) > 1 else None


def _bare(counts: Sequence[int], seconds: float, tell: Callable[[str], None]) -> dict[int, dict[str, Any]]:
    found = {}
    with bench_bare.running() as (port, pid), bench_crowd.running(port, greeted=False) as crowd:
        for count in counts:
            tell(f"bare receive loop, {count} sessions")
            seen, cores, _ = _level(crowd, count, seconds, {"bare": pid})
            found[count] = {
                "sessions": count,
                "cores": cores,
                "per_core": round(count / max(cores["bare"], 1e-3)),
                "generator_late_p99_ms": _rounded(percentile(seen.late, 99)),
                "failed": seen.failed,
            }
    return found


def _ingress(
    counts: Sequence[int], seconds: float, tell: Callable[[str], None], every: bool
) -> list[dict[str, Any]]:
    levels: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="steno-bench-") as folder, redis_server.EmbeddedRedis() as redis:
        door = Door(redis.url, Path(folder) / "ingress.log", max(counts) + 1_000)
        try:
            with bench_scripted.running(redis.url) as worker, bench_crowd.running(door.port) as crowd:
                door.wait()
                pids = {"ingress": door.child.pid, "redis": redis.child.pid, "worker": worker}
                empty_kib = _resident_kib(door)
                for count in counts:
                    tell(f"ingress, {count} sessions")
                    seen, cores, served = _level(crowd, count, seconds, pids, door)
                    door.check()
                    kib, held = (
                        (_resident_kib(door) - empty_kib) / count,
                        metric(door.probe_port, "steno_held_bytes"),
                    )
                    levels.append(level(count, seen, cores, served, kib, held[""] / 1024 / count))
                    if not (every or levels[-1]["holds"]):
                        break
        finally:
            door.child.stop(up.STOP_GRACE_S)
    return levels


def _level(
    crowd: Crowd, count: int, seconds: float, pids: dict[str, int], door: Door | None = None
) -> tuple[Seen, dict[str, float], float]:
    """What was seen, cores in use, and how many sessions' audio the ingress got through."""
    crowd.grow(count)
    crowd.measure(WARM_UP_S)
    usage, before_s, started_s = Usage(pids), _heard_s(door), time.monotonic()
    seen = crowd.measure(seconds)
    served = (_heard_s(door) - before_s) / (time.monotonic() - started_s)
    return seen, usage.cores() | {"generator": round(seen.cores, 3)}, served


def _heard_s(door: Door | None) -> float:
    return sum(metric(door.probe_port, "steno_audio_seconds_total").values()) if door else 0.0


def level(
    count: int,
    seen: Seen,
    cores: dict[str, float],
    served: float,
    session_kib: float,
    held_kib: float,
) -> dict[str, Any]:
    """One level in numbers. `served`: sessions whose audio the ingress got through; `held_kib`: of a session's memory,
    the audio since its last checkpoint.
    """
    parts: dict[str, Any] = {}
    for name, values in (("added", seen.added), ("inbound", seen.inbound), ("outbound", seen.outbound)):
        for part in (50, 99):
            parts[f"{name}_p{part}_ms"] = _rounded(percentile(values, part))
    late = percentile(seen.late, 99)
    short = [
        name
        for name, failed in (
            ("nothing heard", parts["added_p99_ms"] is None),
            ("added", (parts["added_p99_ms"] or 0) > GOALS["added_p99_ms"]),
            ("failed", seen.failed > 0),
            ("fell behind", served < BEHIND * count),
            ("generator late", late is None or late > LATE_MS),
        )
        if failed
    ]
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
        "generator_late_p99_ms": _rounded(late),
        "failed": seen.failed,
        "falls_short": short,
        "holds": not short,
    }


def _resident_kib(door: Door) -> float:
    return float(largest(door.child.pid).memory_info().rss) / 1024


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 2)
