"""What recording costs ingress, Redis and a worker: the same load recorded and not, by turns, in the same processes.

Ingress has two crowds without a model behind it (`cli/bench_crowd.py`), one recorded and one not, which speak one after
the other; the worker is a real one, with real speech, which is said to it recorded and not. A turn of each is a pair,
and only the two of a pair are compared: whatever else the machine does meets both.
"""

import secrets
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import count
from typing import Any

from cli import bench_clips, bench_crowd, bench_load, bench_pools, bench_scripted, redis_server, up
from cli.bench_machine import Usage
from cli.bench_worker import SILENCE, endpoint
from wire.scribe import FLUSH_S

POOL = "english"
#: Sessions settle before they are measured, in seconds.
WARM_UP_S = 1.0
#: What a turn has left to write is written by then, and belongs to it.
SETTLE_S = FLUSH_S + 0.5
#: What recording may add to the processor time of each.
GOAL_SHARE = 0.05
#: Whom the goal is for.
JUDGED = ("ingress", "worker")
METHOD = (
    "Processor time (ms) for a second of one session's audio, of the same processes with the same load, unrecorded and "
    "recorded by turns; the next pair the other way round. What is written after the audio's end is counted in. "
    "ingress, redis: real ingress and Redis, a worker without a model, a crowd that sends 50 ms of PCM every 50 ms. "
    "worker: the whole stack, real speech of the benchmark's recordings in real time. share: by how much a recorded turn "
    "takes more than the unrecorded one of its pair, median, and the quartiles over all pairs."
)
#: Recorded or not -> ms of each part for a second of audio.
Turn = Callable[[bool], Mapping[str, float]]
#: Part -> what an unrecorded turn took, and the recorded one beside it.
Pairs = dict[str, list[tuple[float, float]]]


def modes() -> dict[str, dict[str, str]]:
    """Mode -> variables of the services."""
    recorded = {"RECORD": "ask", "RECORD_TOTAL_BYTES": str(4 * 2**30)}
    return {"recorded": recorded, "encrypted": recorded | {"RECORD_KEY": secrets.token_bytes(32).hex()}}


def run(
    crowd: int, sessions: int, seconds: tuple[float, float], rounds: int, tell: Callable[[str], None]
) -> dict[str, Any]:
    """`crowd` sessions on ingress, `sessions` on the worker, for so many seconds a turn. Raises StackError."""
    found: dict[str, Pairs] = {}
    for mode, env in modes().items():
        with _ingress(env, crowd, seconds[0]) as turn:
            found[mode] = pairs(turn, rounds, lambda told, mode=mode: tell(f"ingress, {mode}: {told}"))
        with _worker(env, sessions, seconds[1]) as turn:
            found[mode] |= pairs(turn, rounds, lambda told, mode=mode: tell(f"worker, {mode}: {told}"))
    told = rows(found)
    return {
        "settings": {"crowd": crowd, "sessions": sessions, "seconds": list(seconds), "rounds": rounds},
        "method": METHOD,
        "goals": {"share": GOAL_SHARE},
        "pairs": found,
        "rows": told,
        "met": all(row["share"] < GOAL_SHARE for row in told if row["part"] in JUDGED),
    }


def pairs(turn: Turn, rounds: int, tell: Callable[[str], None]) -> Pairs:
    """Both turns of each round, after one of each that does not count."""
    for recorded in (False, True):
        turn(recorded)
    found: Pairs = {}
    for number in range(rounds):
        tell(f"round {number + 1} of {rounds}")
        took = {recorded: turn(recorded) for recorded in ((False, True), (True, False))[number % 2]}
        for part in took[False]:
            found.setdefault(part, []).append((took[False][part], took[True][part]))
    return found


def rows(found: Mapping[str, Pairs]) -> list[dict[str, Any]]:
    """Part and mode with medians, and the share that recording adds: median, and quartiles over the pairs."""
    told = []
    for mode, parts in found.items():
        for part, values in parts.items():
            shares = sorted(on / max(off, 1e-9) - 1 for off, on in values)
            low, middle, high = statistics.quantiles(shares, n=4) if len(shares) > 1 else shares * 3
            usual = {"off_ms": 0, "on_ms": 1}
            medians = {name: statistics.median(pair[at] for pair in values) for name, at in usual.items()}
            row = {**medians, "share": middle, "low": low, "high": high}
            told.append({"part": part, "mode": mode} | {name: round(value, 4) for name, value in row.items()})
    return sorted(told, key=lambda row: str(row["part"]))


@contextmanager
def _ingress(env: Mapping[str, str], size: int, seconds: float) -> Iterator[Turn]:
    with ExitStack() as stack:
        redis = stack.enter_context(redis_server.EmbeddedRedis())
        more = {"MAX_SESSIONS": str(2 * size + 100), **env}
        services = up.Stack(pools=(), redis_url=redis.url, env=more)
        stack.enter_context(bench_scripted.running(redis.url))
        stack.enter_context(services)
        crowds = {}
        for recorded in (False, True):
            asks = f"&record={str(recorded).lower()}"
            crowds[recorded] = stack.enter_context(
                bench_crowd.running(services.port, asks=asks, silent=True)
            )
            crowds[recorded].grow(size)
        time.sleep(WARM_UP_S)
        pids = {"ingress": services.pids["ingress"], "redis": redis.child.pid}

        def turn(recorded: bool) -> Mapping[str, float]:
            usage = Usage(pids)
            frames = crowds[recorded].talk(seconds)
            time.sleep(SETTLE_S)
            return _a_second(usage, frames * bench_crowd.FRAME_MS / 1000, pids)

        yield turn


@contextmanager
def _worker(env: Mapping[str, str], sessions: int, seconds: float) -> Iterator[Turn]:
    clips = bench_clips.recordings(bench_pools.of(POOL).languages)
    spoken = [phrase for clip in clips for phrase in bench_clips.phrases(clip)]
    numbers = count()
    with up.Stack(pools=[POOL], env={"SLOTS": str(sessions), **env}) as stack:
        pids = {"worker": stack.pids[POOL]}

        def turn(recorded: bool) -> Mapping[str, float]:
            # Both turns of a pair say the same.
            first = next(numbers) // 2 * sessions
            talks = tuple(bench_clips.talk(spoken, first + number, seconds) for number in range(sessions))
            url = endpoint(stack.url, **SILENCE, record=str(recorded).lower())
            usage = Usage(pids)
            bench_load.generate(bench_load.Load(url, talks), stack.check)
            time.sleep(SETTLE_S)
            return _a_second(usage, seconds * sessions, pids)

        yield turn


def _a_second(usage: Usage, audio_s: float, parts: Mapping[str, int]) -> dict[str, float]:
    """ms of processor for a second of audio."""
    took = usage.seconds()
    return {part: 1000 * took[part] / audio_s for part in parts}
