"""How many live sessions a worker holds with a native transducer: the real stack, judged by the lag of its steps.

The same load as `bench_worker`: real speech, so that streams begin and end as they do; with random weights the words
mean nothing, and so it is not asked when finals came.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cli import bench_clips, bench_load, bench_pools, up
from cli.bench_figures import percentile, quantile_of_buckets
from cli.bench_machine import Usage, metric
from cli.bench_worker import LATE_MS, SILENCE, endpoint
from wire import service
from workers.settings import WorkerSettings

FRAME_MS = 80
_BOUND = re.compile(r'^_bucket.*le="([^"]+)"')
#: Sessions that one ingress, and one generator, has at most: half of what they can, so that neither is the limit.
PER_NODE = 500
#: So many sessions begin in a second, at most.
COMERS_PER_S = 400
#: Of so many talks each session speaks one, at a phase of its own.
TALKS = 64
#: Redis may take so much for each session; the measured need is a fifth.
REDIS_MB_PER_SESSION = 0.5
METHOD = (
    "Real stack (Redis, workers, ingress nodes as processes), one real WebSocket per session, chunks in real time at "
    f"random phases, speech of the recordings with pauses ({TALKS} talks). lag: from the arrival of a step's newest "
    "audio in Redis to what the model told of it, by the workers' metrics; step: time of one step of the worker, by "
    "sessions in it; busy: share of the time in which a worker's steps ran. A level holds when p95 of lag is at most "
    "a chunk of the look-ahead, no session failed, and the generators' own p99 lateness is below 50 ms."
)


@dataclass(frozen=True)
class Asked:
    """What to measure: levels with so many workers, which share a GPU if there is one.

    `send_ms`: audio of one message of a client; `step_ms`: the workers' STEP_MS, 0: as it is.
    """

    model: str
    lookahead: int
    counts: Sequence[int]
    seconds: float
    pool: str = "english"
    workers: int = 1
    send_ms: int = bench_load.CHUNK_MS
    step_ms: int = 0


def run(asked: Asked, tell: Callable[[str], None]) -> dict[str, Any]:
    """Measure each level until one does not hold. Raises StackError."""
    pool, workers, counts, seconds = asked.pool, asked.workers, asked.counts, asked.seconds
    step_ms = asked.step_ms or service.load(WorkerSettings).step_ms
    bench = bench_pools.of(pool)
    clips = bench_clips.recordings(bench.languages)
    spoken = [phrase for clip in clips for phrase in bench_clips.phrases(clip)]
    talks = [bench_clips.talk(spoken, number, seconds) for number in range(min(max(counts), TALKS))]
    chunk_ms, levels = FRAME_MS * (asked.lookahead + 1), []
    for count in counts:
        tell(f"{count} sessions, {workers} workers, {seconds:.0f} s")
        nodes = math.ceil(count / PER_NODE)
        env = _room(count, nodes, workers) | {
            "MODEL": asked.model,
            "LOOKAHEAD": str(asked.lookahead),
            "STEP_MS": str(step_ms),
        }
        megabytes = max(512, int(count * REDIS_MB_PER_SESSION))
        with up.Stack(pools=[pool], env=env, workers=workers, nodes=nodes, redis_mb=megabytes) as stack:
            loads = [
                bench_load.Load(
                    endpoint(url, speech_model=bench.speech_model, **SILENCE),
                    tuple(talks[at % len(talks)] for at in range(node, count, nodes)),
                    stagger_s=max(bench_load.STAGGER_S, count / COMERS_PER_S),
                    seed=count + node,
                    chunk_ms=asked.send_ms,
                )
                for node, url in enumerate(stack.urls)
            ]
            usage = Usage(stack.pids)
            outcome = bench_load.generate_all(loads, stack.check)
            cores = usage.cores()
            cores["generator"] = round(outcome.cpu, 3)
            ports = [port for name, port in stack.probe_ports.items() if name.startswith(pool)]
            figures = worker_figures(ports, usage.passed_s)
        late = [ms for record in outcome.records for ms in record.late_ms]
        errors = [record.error for record in outcome.records if record.error]
        level = judged(count, figures, late, errors, chunk_ms) | {"cores": cores}
        levels.append(level)
        if not level["holds"]:
            break
    held = [level["sessions"] for level in levels if level["holds"]]
    settings = {
        "pool": pool,
        "model": asked.model,
        "lookahead": asked.lookahead,
        "chunk_ms": chunk_ms,
        "seconds": seconds,
        "workers": workers,
        "per_node": PER_NODE,
        "send_ms": asked.send_ms,
        "step_ms": step_ms,
    }
    return {"settings": settings, "method": METHOD, "holds": max(held, default=0), "levels": levels}


def _room(count: int, nodes: int, workers: int) -> dict[str, str]:
    """Variables of the services for so many sessions."""
    per_node = math.ceil(count / nodes)
    return {
        # Sessions that come together are not shared out evenly to the last one.
        "SLOTS": str(math.ceil(1.1 * count / workers) if workers > 1 else count),
        "MAX_SESSIONS": str(per_node),
        "MAX_HELD_BYTES": str(per_node * 2**20),
        "MAX_PENDING_BYTES": str(per_node * 2**20),
    }


def worker_figures(ports: Sequence[int], passed_s: float) -> dict[str, Any]:
    """What workers' metrics say of their steps in all: ms, MB of a session's state, share of `passed_s` in steps."""
    lags, steps = _of_all(ports, "steno_news_lag_seconds"), _of_all(ports, "steno_step_seconds")
    lag = _quantiles(lags)
    groups = sorted(
        {key.split('"')[1] for key in steps if key.startswith("_count{")},
        key=lambda name: int(name.split("-")[0]),
    )
    return {
        "lag_p50_ms": lag[50],
        "lag_p95_ms": lag[95],
        "lag_count": int(lags.get("_count", 0)),
        "steps": {
            name: {
                "count": int(steps[f'_count{{occupancy="{name}"}}']),
                "p50_ms": found[50],
                "p95_ms": found[95],
            }
            for name in groups
            for found in [_quantiles(steps, f'occupancy="{name}"')]
        },
        "state_mb": round(metric(ports[0], "steno_state_bytes").get("", 0.0) / 1e6, 3),
        "busy": round(
            sum(value for key, value in steps.items() if key.startswith("_sum")) / passed_s / len(ports), 3
        ),
    }


def _of_all(ports: Sequence[int], name: str) -> dict[str, float]:
    """A metric's series, added up over the workers."""
    found = Counter[str]()
    for port in ports:
        found.update(metric(port, name))
    return dict(found)


def _quantiles(series: Mapping[str, float], label: str = "") -> dict[int, float | None]:
    """Of the histogram's series with this label, in ms."""
    found = [(_BOUND.search(key), count) for key, count in series.items() if label in key]
    buckets = sorted((float(bound[1]), count) for bound, count in found if bound)
    quantiles = {part: quantile_of_buckets(buckets, part) for part in (50, 95)}
    return {part: None if value is None else round(value * 1000, 1) for part, value in quantiles.items()}


def judged(
    count: int,
    figures: Mapping[str, Any],
    late_ms: Sequence[float],
    errors: Sequence[str],
    chunk_ms: float,
) -> dict[str, Any]:
    """The figures of one level, and whether it holds."""
    late, lag = percentile(late_ms, 99), figures["lag_p95_ms"]
    checks = {
        "sessions failed": bool(errors),
        "nothing was measured": lag is None,
        "steps too late": lag is not None and lag > chunk_ms,
        "the generator itself was late": late is not None and late > LATE_MS,
    }
    reasons = [reason for reason, true in checks.items() if true]
    rounded = None if late is None else round(late, 1)
    told = {"sessions": count, **figures, "errors": list(errors), "generator_late_p99_ms": rounded}
    return told | {"falls_short": reasons, "holds": not reasons}
