"""What accepted sessions suffer when twice as many want in as the workers hold, and how soon the others are refused.

The whole stack with real weights. At full load as many sessions speak as there are slots. At twice the load sessions
come at random times, two for each slot on average: slots are hardly ever free, those who find one are served, the
others are refused. Both are measured in the same run, again and again in turn.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

from cli import bench_clips, bench_load, bench_pools, bench_worker, up
from cli.bench_figures import Answer, Record, answers, percentile
from cli.bench_machine import Usage
from cli.bench_worker import SILENCE, endpoint
from wire.errors import Close

#: Levels tried where nobody says how many sessions this machine holds.
LEVELS = (1, 2, 4, 6, 8, 10, 12, 14, 16, 20, 24, 32)
#: A level lasts as long as so many sessions of the doubled load one after another.
LAPS = 3
#: p95 of accepted sessions at twice the load, over that at full load.
GOAL_RATIO = 1.2
#: Measure -> what it is, in ms.
MEANINGS = {
    "first_partial_ms": "from a phrase's first sound to the first message with a word of it",
    "final_ms": "from a phrase's last sound to its final, the silence setting included",
    "begin_ms": "from connecting to Begin",
}
METHOD = (
    "Whole stack with real weights, as many slots as sessions; one WebSocket per session from a generator in a process "
    "of its own, 50 ms chunks in real time, endless talk of recorded phrases. 1x: every slot speaks all the time. 2x: "
    f"sessions a {LAPS}rd as long come at random moments (uniform), as many as make twice the slots busy on average. "
    "The two take turns, in one stack. Latencies are of accepted sessions; refused: from connecting to the refusal "
    f"(3009). ratio: p95 at 2x over p95 at 1x, goal at most {GOAL_RATIO}."
)


def full_load(pool: str, seconds: float, workers: int, tell: Callable[[str], None]) -> int:
    """Sessions that this machine holds, as `steno bench worker` judges. Raises StackError."""
    held = 0
    for count in LEVELS:
        if not bench_worker.run([count], seconds, tell, workers, pool)["holds"]:
            break
        held = count
    if not held:
        raise up.StackFailed(
            "this machine does not hold a single session: nothing can be doubled; see steno bench worker"
        )
    return held


def run(
    sessions: int,
    seconds: float,
    rounds: int,
    tell: Callable[[str], None],
    workers: int = 1,
    pool: str = "english",
) -> dict[str, Any]:
    """Measure around `sessions`, 0: what this machine holds; a level lasts `seconds`. Raises StackError."""
    bench = bench_pools.of(pool)
    count = sessions or full_load(pool, seconds, workers, tell)
    slots = math.ceil(count / workers)
    clips = bench_clips.recordings(bench.languages)
    spoken = [phrase for clip in clips for phrase in bench_clips.phrases(clip)]
    records: dict[str, list[Record]] = {"1x": [], "2x": []}
    cores: dict[str, list[dict[str, float]]] = {"1x": [], "2x": []}
    with up.Stack(pools=[pool], env={"SLOTS": str(slots), "MAX_SESSIONS": "2048"}, workers=workers) as stack:
        url = endpoint(stack.url, speech_model=bench.speech_model, **SILENCE)
        for number in range(rounds):
            for name in records:
                tell(f"round {number + 1} of {rounds}: {name} of {count} sessions, {seconds:.0f} s")
                usage = Usage(stack.pids)
                outcome = bench_load.generate(
                    load(name, url, spoken, slots * workers, seconds, number), stack.check
                )
                cores[name].append(usage.cores() | {"generator": round(outcome.cpu, 3)})
                records[name] += outcome.records
    levels = [level(name, found) | {"cores": mean(cores[name])} for name, found in records.items()]
    return {
        "settings": {
            "pool": pool,
            "sessions": count,
            "workers": workers,
            "slots": slots * workers,
            "seconds": seconds,
            "rounds": rounds,
            "silence": SILENCE,
        },
        "method": METHOD,
        "goals": {"ratio": GOAL_RATIO},
        "levels": levels,
        "ratios": ratios(*levels),
        "holds": holds(*levels),
        "measured": {
            f"{name}, {part}": [round(value, 1) for value in values]
            for name, found in records.items()
            for part, values in every(found).items()
            if part != "late_ms"  # each frame's: too many to keep
        },
    }


def load(
    name: str, url: str, spoken: Sequence[bench_clips.Samples], slots: int, seconds: float, number: int
) -> bench_load.Load:
    """What the generator does: at 1x each slot speaks for so long, at 2x twice as many come meanwhile, `LAPS` times."""
    doubled = name == "2x"
    count, each_s = (2 * slots * LAPS, seconds / LAPS) if doubled else (slots, seconds)
    talks = tuple(bench_clips.talk(spoken, 10_000 * number + place, each_s) for place in range(count))
    return bench_load.Load(url, talks, seconds if doubled else bench_load.STAGGER_S, seed=number)


def every(records: Sequence[Record]) -> dict[str, list[float]]:
    """All latencies of accepted sessions, and of refusals, in ms."""
    accepted = [record for record in records if record.error is None]
    found: list[Answer] = [answer for record in accepted for answer in answers(record)]
    return {
        "first_partial_ms": [
            answer.first_partial_ms for answer in found if answer.first_partial_ms is not None
        ],
        "final_ms": [answer.final_ms for answer in found if answer.final_ms is not None],
        "begin_ms": [record.begin_ms for record in accepted if record.begin_ms is not None],
        "refused_ms": [
            record.failed_ms for record in records if is_refused(record) and record.failed_ms is not None
        ],
        "late_ms": [late for record in records for late in record.late_ms],
    }


def is_refused(record: Record) -> bool:
    """For want of room, before it began."""
    return record.code == Close.TOO_MANY_SESSIONS and record.begin_ms is None


def level(name: str, records: Sequence[Record]) -> dict[str, Any]:
    """One load in numbers."""
    measured = every(records)
    told: dict[str, Any] = {
        "load": name,
        "offered": len(records),
        "accepted": sum(record.error is None for record in records),
        "refused": sum(map(is_refused, records)),
        "errors": sorted({record.error for record in records if record.error and not is_refused(record)}),
    }
    for part in ("first_partial_ms", "final_ms", "begin_ms", "refused_ms"):
        for share in (50, 95):
            told[part.replace("_ms", f"_p{share}_ms")] = _rounded(percentile(measured[part], share))
    told["phrases"] = len(measured["final_ms"])
    told["generator_late_p99_ms"] = _rounded(percentile(measured["late_ms"], 99))
    return told


def ratios(full: dict[str, Any], doubled: dict[str, Any]) -> dict[str, float | None]:
    """How p95 grows, for each latency that clients notice."""
    names = ("first_partial_p95_ms", "final_p95_ms")
    return {
        name: round(doubled[name] / full[name], 3) if full[name] and doubled[name] is not None else None
        for name in names
    }


def holds(full: dict[str, Any], doubled: dict[str, Any]) -> bool:
    """Whether the promise is kept: nobody failed otherwise, somebody was refused, and both latencies stay."""
    kept = [ratio is not None and ratio <= GOAL_RATIO for ratio in ratios(full, doubled).values()]
    return all(kept) and not full["errors"] and not doubled["errors"] and doubled["refused"] > 0


def mean(cores: Sequence[dict[str, float]]) -> dict[str, float]:
    """Of several rounds."""
    return {name: round(sum(one[name] for one in cores) / len(cores), 3) for name in cores[0]}


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 1)
