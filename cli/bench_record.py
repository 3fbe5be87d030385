"""What recording costs ingress, Redis and a worker: the same load recorded and not, by turns, in the same processes.

The ingress is inside this process (`cli/bench_inside.py`), with two classes of clients, recorded and not, which speak
one after the other; the worker is a real one, with real speech, which is said to it recorded and not. A turn of each is
a pair, and only the two of a pair are compared: whatever else the machine does meets both.
"""

import asyncio
import secrets
import statistics
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from itertools import count
from typing import Any

from cli import bench_clips, bench_inside, bench_load, bench_pools, bench_scripted, redis_server, up
from cli.bench_machine import Usage
from cli.bench_worker import SILENCE, endpoint
from wire.errors import StackError
from wire.scribe import FLUSH_S
from wire.service import new_event_loop

POOL = "english"
#: What a turn has left to write is written by then, in seconds, and belongs to it.
SETTLE_S = FLUSH_S + 0.5
#: A second of audio, in bytes.
AUDIO_BYTES = 32_000
#: What Redis may take of this machine, in MiB.
MOST_MB = 4_096
#: What recording may add to the processor time of each.
GOAL_SHARE = 0.05
#: Whom the goal is for.
JUDGED = ("ingress", "worker")
METHOD = (
    "Processor time (ms) for a second of one session's audio, of the same processes with the same load, unrecorded and "
    "recorded by turns; the next pair the other way round. What is written after the audio's end is counted in. "
    "ingress, redis: real ingress and Redis, a worker without a model, clients that send 50 ms of PCM every 50 ms. "
    "worker: the whole stack, real speech of the benchmark's recordings in real time. share: by how much a recorded "
    "turn takes more than the unrecorded one of its pair, median, and the quartiles over all pairs."
)
#: Recorded or not -> ms of each part for a second of audio.
Turn = Callable[[bool], Awaitable[Mapping[str, float]]]
#: Part -> what an unrecorded turn took, and the recorded one beside it.
Pairs = dict[str, list[tuple[float, float]]]


def modes() -> dict[str, dict[str, str]]:
    """Mode -> variables of the services."""
    recorded = {"RECORD": "ask", "RECORD_TOTAL_BYTES": str(4 * 2**30)}
    return {"recorded": recorded, "encrypted": recorded | {"RECORD_KEY": secrets.token_bytes(32).hex()}}


def run(
    crowd: int, sessions: int, seconds: tuple[float, float], rounds: int, tell: Callable[[str], None]
) -> dict[str, Any]:
    """`crowd` sessions on ingress, `sessions` on the worker (0: none), a turn of so many seconds. Raises StackError."""
    if (wanted := _memory_mb(crowd, seconds[0], rounds)) > MOST_MB:
        raise StackError(
            f"Redis would take {wanted} MiB, of {MOST_MB} at most: take a smaller crowd, or fewer seconds or rounds"
        )
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        found = runner.run(_all(crowd, sessions, seconds, rounds, tell))
    told = rows(found)
    return {
        "settings": {"crowd": crowd, "sessions": sessions, "seconds": list(seconds), "rounds": rounds},
        "method": METHOD,
        "goals": {"share": GOAL_SHARE},
        "pairs": found,
        "rows": told,
        "met": all(row["share"] < GOAL_SHARE for row in told if row["part"] in JUDGED),
    }


async def _all(
    crowd: int, sessions: int, seconds: tuple[float, float], rounds: int, tell: Callable[[str], None]
) -> dict[str, Pairs]:
    found: dict[str, Pairs] = {}
    for mode, env in modes().items():
        async with _ingress(env, crowd, seconds[0], _memory_mb(crowd, seconds[0], rounds)) as turn:
            found[mode] = await pairs(turn, rounds, tell, f"ingress, {mode}")
        if sessions:
            async with _worker(env, sessions, seconds[1]) as turn:
                found[mode] |= await pairs(turn, rounds, tell, f"worker, {mode}")
    return found


def _memory_mb(crowd: int, seconds: float, rounds: int) -> int:
    """What the audio of the crowd's recorded turns takes in Redis, and as much for all else."""
    return max(redis_server.MAX_MEMORY_MB, int(2 * crowd * seconds * (rounds + 1) * AUDIO_BYTES / 2**20))


async def pairs(turn: Turn, rounds: int, tell: Callable[[str], None], what: str) -> Pairs:
    """Both turns of each round, after one of each that does not count."""
    for recorded in (False, True):
        await turn(recorded)
    found: Pairs = {}
    for number in range(rounds):
        tell(f"{what}: round {number + 1} of {rounds}")
        took = {recorded: await turn(recorded) for recorded in ((False, True), (True, False))[number % 2]}
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


@asynccontextmanager
async def _ingress(env: Mapping[str, str], size: int, seconds: float, memory_mb: int) -> AsyncIterator[Turn]:
    settings = {name.lower(): value for name, value in env.items()}
    with redis_server.EmbeddedRedis(memory_mb=memory_mb) as redis, bench_scripted.running(redis.url):
        async with bench_inside.running(redis.url, 2 * size + 100, settings) as inside:
            for recorded in (False, True):
                await inside.enter(_named(recorded), size, f"&record={_named(recorded)}")
            usage = Usage({"redis": redis.child.pid})

            async def turn(recorded: bool) -> Mapping[str, float]:
                before_s = usage.seconds()["redis"]
                took_s = await inside.speak(_named(recorded), seconds, SETTLE_S)
                audio_s = size * seconds
                also_s = usage.seconds()["redis"] - before_s
                return {"ingress": 1000 * took_s / audio_s, "redis": 1000 * also_s / audio_s}

            yield turn


@asynccontextmanager
async def _worker(env: Mapping[str, str], sessions: int, seconds: float) -> AsyncIterator[Turn]:
    clips = bench_clips.recordings(bench_pools.of(POOL).languages)
    spoken = [phrase for clip in clips for phrase in bench_clips.phrases(clip)]
    numbers = count()
    with up.Stack(pools=[POOL], env={"SLOTS": str(sessions), **env}) as stack:
        usage = Usage({"worker": stack.pids[POOL]})

        async def turn(recorded: bool) -> Mapping[str, float]:
            # Both turns of a pair say the same.
            first = next(numbers) // 2 * sessions
            talks = tuple(bench_clips.talk(spoken, first + number, seconds) for number in range(sessions))
            load = bench_load.Load(endpoint(stack.url, **SILENCE, record=_named(recorded)), talks)
            before_s = usage.seconds()["worker"]
            bench_load.generate(load, stack.check)
            await asyncio.sleep(SETTLE_S)
            return {"worker": 1000 * (usage.seconds()["worker"] - before_s) / (seconds * sessions)}

        yield turn


def _named(recorded: bool) -> str:
    """As a client asks for it."""
    return "true" if recorded else "false"
