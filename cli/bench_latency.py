"""What one speaker waits for: Begin, the first partial, the final after the endpoint, the final after ForceEndpoint."""

from collections.abc import Callable
from typing import Any

from cli import bench_clips, bench_load, bench_pools, up
from cli.bench_figures import Record, answers, percentile, quantile_of_buckets
from cli.bench_machine import metric
from cli.bench_worker import endpoint

#: Pure silence detection (protocol 5.1: threshold 1), so that the endpoint decision's moment is known to the client.
SILENCE_MS = 400
SILENCE = {
    "end_of_turn_confidence_threshold": 1,
    "min_turn_silence": SILENCE_MS,
    "max_turn_silence": SILENCE_MS,
}
#: Silence never ends a turn: only ForceEndpoint does.
FORCED = {"end_of_turn_confidence_threshold": 1, "min_turn_silence": 9_000, "max_turn_silence": 10_000}
GOALS = {"endpoint_to_final_ms": 150.0, "begin_ms": 200.0}
MEANINGS = {
    "begin_ms": "from connecting to Begin",
    "first_partial_ms": "from a phrase's first sound to the first message with a word of it",
    "final_ms": f"from a phrase's last sound to its final, {SILENCE_MS} ms of silence included",
    "endpoint_to_final_ms": f"from the endpoint decision (last word's end + {SILENCE_MS} ms) to the final",
    "force_to_final_ms": "from ForceEndpoint to the final",
}
METHOD = (
    "Real stack, one session at a time over a real WebSocket from a process of its own, 50 ms chunks in real time. "
    "Phrases are cut by loudness; times are the wall times when the audio at that place was sent. Silence alone ends "
    "turns (threshold 1), so the decision's moment is the last word's end, as the final tells it, plus the setting. "
    "server_end_of_turn is the worker's own steno_end_of_turn_delay_seconds: from decision to publication. Medians "
    "over all phrases of all repeats; a first session of 4 s is not counted (but by the worker's own metric). "
    "ForceEndpoint is sent 200 ms after a phrase, with silence rules off."
)
#: Of a session that is not counted, which comes first.
WARM_UP_S = 4.0
_BUCKET = "_bucket{le="


def run(repeats: int, seconds: float, tell: Callable[[str], None], pool: str = "english") -> dict[str, Any]:
    """Measure. Raises StackError."""
    bench = bench_pools.of(pool)
    spoken = [phrase for clip in bench_clips.recordings() for phrase in bench_clips.phrases(clip)]
    measured: dict[str, list[float]] = {name: [] for name in MEANINGS}
    late: list[float] = []
    with up.Stack(pools=(pool,)) as stack:
        tell("warm-up")
        url = endpoint(stack.url, speech_model=bench.speech_model, **SILENCE, **bench.soonest)
        talk = bench_clips.talk(spoken, repeats, WARM_UP_S)
        bench_load.generate(bench_load.Load(url, (talk,), stagger_s=0), stack.check)
        for number in range(repeats):
            for force, silence in ((False, SILENCE), (True, FORCED)):
                tell(f"repeat {number + 1} of {repeats}, {'forced' if force else 'silent'} endpoints")
                talk = bench_clips.talk(spoken, number, seconds / (2 if force else 1))
                url = endpoint(stack.url, speech_model=bench.speech_model, **silence, **bench.soonest)
                load = bench_load.Load(url, (talk,), stagger_s=0, force=force)
                (record,) = bench_load.generate(load, stack.check).records
                if record.error:
                    raise up.StackFailed(record.error)
                late += record.late_ms
                collect(measured, record, force)
        server = _server(stack, pool)
    return {
        "settings": {
            "pool": pool,
            "silence": SILENCE,
            **bench.soonest,
            "repeats": repeats,
            "seconds": seconds,
            "chunk_ms": bench_load.CHUNK_MS,
        },
        "method": METHOD,
        "goals": goals(pool),
        "results": {name: summary(values) for name, values in measured.items()}
        | {"server_end_of_turn": server},
        "generator_late_p99_ms": percentile(late, 99),
        "measured": {name: [round(value, 1) for value in values] for name, values in measured.items()},
    }


def goals(pool: str) -> dict[str, float]:
    """By name of the delay; a pool has one for its first words where somebody has set one."""
    first_ms = bench_pools.of(pool).first_ms
    return GOALS if first_ms is None else {"first_partial_ms": first_ms, **GOALS}


def collect(measured: dict[str, list[float]], record: Record, force: bool) -> None:
    """Add what one session showed."""
    if record.begin_ms is not None:
        measured["begin_ms"].append(record.begin_ms)
    if force:
        measured["force_to_final_ms"] += forced(record)
        return
    for answer in answers(record):
        if answer.first_partial_ms is not None:
            measured["first_partial_ms"].append(answer.first_partial_ms)
        if answer.final_ms is not None and answer.after_word_ms is not None:
            measured["final_ms"].append(answer.final_ms)
            measured["endpoint_to_final_ms"].append(answer.after_word_ms - SILENCE_MS)


def forced(record: Record) -> list[float]:
    """From each ForceEndpoint to the next final, if that came before the next order."""
    finals = [turn.at_s for turn in record.turns if turn.final]
    delays = []
    for number, order_s in enumerate(record.forced_s):
        until_s = record.forced_s[number + 1] if number + 1 < len(record.forced_s) else float("inf")
        delays += [(at_s - order_s) * 1000 for at_s in finals if order_s <= at_s < until_s][:1]
    return delays


def summary(values: list[float]) -> dict[str, float | int | None]:
    """Count, median and spread."""
    parts = {f"p{part}": percentile(values, part) for part in (50, 95)} | {"max": max(values, default=None)}
    return {"count": len(values)} | {name: None if v is None else round(v, 1) for name, v in parts.items()}


def _server(stack: up.Stack, pool: str) -> dict[str, float | None]:
    series = metric(stack.probe_ports[pool], "steno_end_of_turn_delay_seconds")
    buckets = sorted(
        (float(key.removeprefix(_BUCKET).strip('"}')), value)
        for key, value in series.items()
        if key.startswith(_BUCKET)
    )
    found = {f"p{part}_ms": quantile_of_buckets(buckets, part) for part in (50, 95)}
    mean = series.get("_sum", 0.0) / series["_count"] if series.get("_count") else None
    return {
        "count": series.get("_count", 0.0),
        **{name: None if value is None else round(value * 1000, 1) for name, value in found.items()},
        "mean_ms": None if mean is None else round(mean * 1000, 1),
    }
