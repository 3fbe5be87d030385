"""How many live sessions a worker holds with a native transducer: the real stack, judged by the lag of its steps.

The same load as `bench_worker`: real speech, so that streams begin and end as they do; with random weights the words
mean nothing, and so it is not asked when finals came.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cli import bench_clips, bench_load, bench_pools, up
from cli.bench_figures import percentile, quantile_of_buckets
from cli.bench_machine import Usage, metric
from cli.bench_worker import LATE_MS, SILENCE, endpoint

FRAME_MS = 80
METHOD = (
    "Real stack (Redis, worker, ingress as processes), one real WebSocket per session, 50 ms chunks in real time at "
    "random phases, speech of the recordings with pauses. lag: from the arrival of a step's newest audio in Redis to "
    "what the model told of it, by the worker's metrics; step: time of one step of the model, by sessions in it. A "
    "level holds when p95 of lag is at most a chunk of the look-ahead, no session failed, and the generator's own p99 "
    "lateness is below 50 ms."
)


def run(
    model: str,
    lookahead: int,
    counts: Sequence[int],
    seconds: float,
    tell: Callable[[str], None],
    pool: str = "english",
) -> dict[str, Any]:
    """Measure each level with one worker, until one does not hold. Raises StackError."""
    bench = bench_pools.of(pool)
    clips = bench_clips.recordings(bench.languages)
    spoken = [phrase for clip in clips for phrase in bench_clips.phrases(clip)]
    env = {"MODEL": model, "LOOKAHEAD": str(lookahead), "SLOTS": str(max(counts))}
    chunk_ms, levels = FRAME_MS * (lookahead + 1), []
    for count in counts:
        tell(f"{count} sessions, {seconds:.0f} s")
        talks = tuple(bench_clips.talk(spoken, 1_000 * count + n, seconds) for n in range(count))
        with up.Stack(pools=[pool], env=env) as stack:
            url = endpoint(stack.url, speech_model=bench.speech_model, **SILENCE)
            usage = Usage(stack.pids)
            outcome = bench_load.generate(bench_load.Load(url, talks, seed=count), stack.check)
            cores = usage.cores()
            figures = worker_figures(stack.probe_ports[pool])
        late = [ms for record in outcome.records for ms in record.late_ms]
        errors = [record.error for record in outcome.records if record.error]
        level = judged(count, figures, late, errors, chunk_ms) | {"cores": cores}
        levels.append(level)
        if not level["holds"]:
            break
    held = [level["sessions"] for level in levels if level["holds"]]
    settings = {
        "pool": pool,
        "model": model,
        "lookahead": lookahead,
        "chunk_ms": chunk_ms,
        "seconds": seconds,
    }
    return {"settings": settings, "method": METHOD, "holds": max(held, default=0), "levels": levels}


def worker_figures(port: int) -> dict[str, Any]:
    """What a worker's metrics say of its steps: ms, and MB of a session's state."""
    lag = _quantiles(metric(port, "steno_news_lag_seconds"), "{")
    steps = metric(port, "steno_step_seconds")
    groups = sorted(
        {key.split('"')[1] for key in steps if key.startswith("_count{")},
        key=lambda name: int(name.split("-")[0]),
    )
    return {
        "lag_p50_ms": lag[50],
        "lag_p95_ms": lag[95],
        "lag_count": int(metric(port, "steno_news_lag_seconds").get("_count", 0)),
        "steps": {
            name: {
                "count": int(steps[f'_count{{occupancy="{name}"}}']),
                "p50_ms": found[50],
                "p95_ms": found[95],
            }
            for name in groups
            for found in [_quantiles(steps, f'{{occupancy="{name}",')]
        },
        "state_mb": round(metric(port, "steno_state_bytes").get("", 0.0) / 1e6, 3),
    }


def _quantiles(series: Mapping[str, float], begin: str) -> dict[int, float | None]:
    prefix = f'_bucket{begin}le="'
    buckets = sorted(
        (float(key.removeprefix(prefix).removesuffix('"}')), count)
        for key, count in series.items()
        if key.startswith(prefix)
    )
    found = {part: quantile_of_buckets(buckets, part) for part in (50, 95)}
    return {part: None if value is None else round(value * 1000, 1) for part, value in found.items()}


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
