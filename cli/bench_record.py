"""What recording costs ingress and a worker: the same load with nobody recorded, with everybody, and encrypted.

Ingress has a crowd without a model behind it (`cli/bench_crowd.py`); the worker is a real one, with real speech. The
modes take turns, so that whatever else the machine does meets all of them.
"""

import secrets
import statistics
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from cli import bench_clips, bench_crowd, bench_load, bench_pools, bench_scripted, redis_server, up
from cli.bench_machine import Usage
from cli.bench_worker import SILENCE, endpoint

POOL = "english"
#: Sessions settle before they are measured, in seconds.
WARM_UP_S = 2.0
#: What recording may add to the processor time of each.
GOAL_SHARE = 0.05
METHOD = (
    "Processor time per live session, in cores, median over the rounds; in each round every mode runs once. ingress: "
    "real ingress and Redis, a worker without a model, a crowd that sends 50 ms of PCM every 50 ms. worker: the whole "
    "stack, real speech of the benchmark's recordings in real time. share: by how much a mode takes more than `off`."
)


def modes() -> dict[str, dict[str, str]]:
    """Mode -> variables of the services."""
    recorded = {"RECORD": "all", "RECORD_TOTAL_BYTES": str(4 * 2**30)}
    key = secrets.token_bytes(32).hex()
    return {"off": {"RECORD": "off"}, "recorded": recorded, "encrypted": recorded | {"RECORD_KEY": key}}


def run(
    crowd: int, sessions: int, seconds: float, rounds: int, tell: Callable[[str], None]
) -> dict[str, Any]:
    """`crowd` sessions on ingress, `sessions` on the worker. Raises StackError."""
    clips = bench_clips.recordings(bench_pools.of(POOL).languages)
    spoken = [phrase for clip in clips for phrase in bench_clips.phrases(clip)]
    talks = tuple(bench_clips.talk(spoken, number, seconds) for number in range(sessions))
    parts: dict[str, Callable[[Mapping[str, str]], float]] = {
        "ingress": partial(_ingress, count=crowd, seconds=seconds),
        "worker": partial(_worker, talks=talks),
    }
    found: dict[str, dict[str, list[float]]] = {part: {mode: [] for mode in modes()} for part in parts}
    for number in range(1, rounds + 1):
        for part, measure in parts.items():
            for mode, env in modes().items():
                tell(f"round {number} of {rounds}: {part}, {mode}")
                found[part][mode].append(measure(env))
    return {
        "settings": {"crowd": crowd, "sessions": sessions, "seconds": seconds, "rounds": rounds},
        "method": METHOD,
        "goals": {"share": GOAL_SHARE},
        "cores": found,
        "rows": rows(found),
    }


def rows(found: Mapping[str, Mapping[str, Sequence[float]]]) -> list[dict[str, Any]]:
    """Part and mode with the median of its cores per session, and its share over `off`."""
    told = []
    for part, values in found.items():
        usual = statistics.median(values["off"])
        for mode, cores in values.items():
            middle = statistics.median(cores)
            share = round(middle / usual - 1, 4) if usual else None
            told.append({"part": part, "mode": mode, "cores": round(middle, 6), "share": share})
    return told


def _ingress(env: Mapping[str, str], count: int, seconds: float) -> float:
    """Cores of ingress per session."""
    with redis_server.EmbeddedRedis() as redis:
        more = {"MAX_SESSIONS": str(count + 100), **env}
        stack = up.Stack(pools=(), redis_url=redis.url, env=more)
        with bench_scripted.running(redis.url), stack, bench_crowd.running(stack.port) as crowd:
            crowd.grow(count)
            crowd.measure(WARM_UP_S)
            usage = Usage({"ingress": stack.pids["ingress"]})
            crowd.measure(seconds)
            return usage.cores()["ingress"] / count


def _worker(env: Mapping[str, str], talks: Sequence[bench_clips.Talk]) -> float:
    """Cores of the worker per session."""
    with up.Stack(pools=[POOL], env={"SLOTS": str(len(talks)), **env}) as stack:
        usage = Usage({POOL: stack.pids[POOL]})
        bench_load.generate(bench_load.Load(endpoint(stack.url, **SILENCE), tuple(talks)), stack.check)
        return usage.cores()[POOL] / len(talks)
