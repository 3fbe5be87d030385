"""How many live sessions this machine holds: the whole stack, with a load that rises level by level."""

import math
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import urlencode

from cli import bench_clips, bench_load, bench_pools, up
from cli.bench_figures import Answer, answers, middle, percentile, slope
from cli.bench_machine import Usage
from cli.bench_pools import PoolBench

#: The protocol's "aggressive" preset: what an agent that must answer fast asks for.
SILENCE = {"end_of_turn_confidence_threshold": 0.4, "min_turn_silence": 160, "max_turn_silence": 400}
#: After Terminate clients wait so long for what is left (protocol 0.3, item 13).
GOAL_END_MS = 5_000.0
#: A delay that grows by more than this within a level is a queue that fills.
GROWTH_MS = 500.0
#: The generator is the limit when its own chunks leave later than this.
LATE_MS = 50.0

#: Cores that other programs took, above which the figures tell of them too.
BUSY_CORES = 0.2

METHOD = (
    "Real stack (Redis, worker, ingress as processes), one real WebSocket per session from a generator in a process of "
    "its own; 50 ms chunks in real time at random phases; each session speaks phrases of the recordings in an order of "
    "its own (of several languages, where the pool knows several), 0.6 to 1.5 s apart. final: from sending the last "
    "audio of a phrase (cut by loudness) to the final that covers it, the silence setting included. between partials: "
    "p95 of gaps between messages while phrases are spoken. A level holds when every phrase got its final, p95 of "
    "final, and of gaps that have a goal, is at most the goal, what is left after Terminate comes within 5 s, "
    "the delay grows by less than 0.5 s over the level (least squares), and the generator's own p99 lateness is below "
    "50 ms. Where a level is repeated, its figures are medians."
)


def endpoint(url: str, **parameters: float | str) -> str:
    """The server's address with parameters."""
    return f"{url}/?" + urlencode(
        {
            name: f"{value:g}" if isinstance(value, (int, float)) else value
            for name, value in parameters.items()
        }
    )


def run(
    counts: Sequence[int],
    seconds: float,
    tell: Callable[[str], None],
    workers: int = 1,
    pool: str = "english",
    repeats: int = 1,
) -> dict[str, Any]:
    """Measure each level so often, with so many worker processes of this pool alone. Raises StackError."""
    bench = bench_pools.of(pool)
    clips = bench_clips.recordings(bench.languages)
    spoken = [phrase for clip in clips for phrase in bench_clips.phrases(clip)]
    levels, slots = [], math.ceil(max(counts) / workers)
    for count in counts:
        rounds = []
        for number in range(1, repeats + 1):
            tell(f"{count} sessions, {seconds:.0f} s, {number} of {repeats}")
            # A stack for each: a level that drowned must not weigh on the next.
            with up.Stack(pools=[pool], env={"SLOTS": str(slots)}, workers=workers) as stack:
                rounds.append(_level(stack, bench, spoken, count, seconds))
        levels.append(of_rounds(rounds, bench))
    held = [level["sessions"] for level in levels if level["holds"]]
    return {
        "settings": {
            "pool": pool,
            "speech_model": bench.speech_model,
            "languages": list(bench.languages),
            "silence": SILENCE,
            "workers": workers,
            "slots": slots,
            "seconds": seconds,
            "repeats": repeats,
            "chunk_ms": bench_load.CHUNK_MS,
        },
        "method": METHOD,
        "goals": {
            "sessions": bench.sessions,
            "final_p95_ms": bench.final_p95_ms,
            "gap_p95_ms": bench.gap_p95_ms,
        },
        "holds": max(held, default=0),
        "levels": levels,
    }


def of_rounds(rounds: Sequence[dict[str, Any]], bench: PoolBench) -> dict[str, Any]:
    """One level of several rounds: medians, the most of what must not be, and whether that holds."""
    level = middle(rounds, worst=("unanswered", "end_max_ms"))
    level["errors"] = [error for one in rounds for error in one["errors"]]
    level["falls_short"] = _reasons(level, bench)
    return level | {"holds": not level["falls_short"]}


def _level(
    stack: up.Stack, bench: PoolBench, spoken: Sequence[bench_clips.Samples], count: int, seconds: float
) -> dict[str, Any]:
    talks = tuple(bench_clips.talk(spoken, 1_000 * count + number, seconds) for number in range(count))
    url = endpoint(stack.url, speech_model=bench.speech_model, **SILENCE)
    load = bench_load.Load(url, talks, seed=count)
    usage = Usage(stack.pids)
    outcome = bench_load.generate(load, stack.check)
    cores = usage.cores()
    cores["others"] = round(max(0.0, cores["others"] - outcome.cpu), 3)
    cores["generator"] = round(outcome.cpu, 3)
    found = [answers(record) for record in outcome.records]
    late = [ms for record in outcome.records for ms in record.late_ms]
    errors = [record.error for record in outcome.records if record.error]
    ends = [record.end_ms for record in outcome.records if record.end_ms is not None]
    return judged(count, found, late, errors, ends, bench) | {"cores": cores}


def judged(
    count: int,
    found: Sequence[Sequence[Answer]],
    late_ms: Sequence[float],
    errors: Sequence[str],
    ends_ms: Sequence[float] = (),
    bench: PoolBench = bench_pools.BENCHES["english"],
) -> dict[str, Any]:
    """The figures of one level, and whether it holds. `found`: for each session, what became of its phrases;
    `ends_ms`: from Terminate to the close.
    """
    every = [answer for session in found for answer in session]
    finals = [answer.final_ms for answer in every if answer.final_ms is not None]
    words = [answer.after_word_ms for answer in every if answer.after_word_ms is not None]
    gaps = [gap for answer in every for gap in answer.gaps_ms]
    over = max((a.end_s for a in every), default=0.0) - min((a.end_s for a in every), default=0.0)
    growth = slope([(a.end_s, a.final_ms) for a in every if a.final_ms is not None]) * over
    late = percentile(late_ms, 99)
    level: dict[str, Any] = {
        "sessions": count,
        "phrases": len(every),
        "unanswered": sum(answer.final_ms is None and not answer.early for answer in every),
        "early": sum(answer.early for answer in every),
        "errors": list(errors),
        "final_p50_ms": _rounded(percentile(finals, 50)),
        "final_p95_ms": _rounded(percentile(finals, 95)),
        "final_max_ms": _rounded(max(finals, default=None)),
        "after_word_p50_ms": _rounded(percentile(words, 50)),
        "after_word_p95_ms": _rounded(percentile(words, 95)),
        "gap_p50_ms": _rounded(percentile(gaps, 50)),
        "gap_p95_ms": _rounded(percentile(gaps, 95)),
        "growth_ms": _rounded(growth),
        "end_max_ms": _rounded(max(ends_ms, default=None)),
        "generator_late_p99_ms": _rounded(late),
    }
    level["falls_short"] = _reasons(level, bench)
    level["holds"] = not level["falls_short"]
    return level


def _reasons(level: dict[str, Any], bench: PoolBench) -> list[str]:
    late, final, gap = level["generator_late_p99_ms"], level["final_p95_ms"], level["gap_p95_ms"]
    checks = {
        "sessions failed": bool(level["errors"]),
        "phrases without a final": level["unanswered"] > 0,
        "nothing was measured": final is None or gap is None,
        "finals too late": final is not None and final > bench.final_p95_ms,
        "partials too rare": gap is not None and gap > (bench.gap_p95_ms or math.inf),
        "ends too late": (level["end_max_ms"] or 0.0) > GOAL_END_MS,
        "delay grows": level["growth_ms"] > GROWTH_MS,
        "the generator itself was late": late is not None and late > LATE_MS,
    }
    return [reason for reason, true in checks.items() if true]


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 1)
