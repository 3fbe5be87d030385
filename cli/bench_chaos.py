"""What a client notices when its worker, or Redis, dies, hangs or goes away: finals lost, doubled, changed; the pause.

One session at a time on a stack with a spare worker. Each run speaks the same talk in real time; at a random moment
something happens to the worker that holds the session; what the client was told is held against an undisturbed run.
"""

import os
import random
import signal
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cli import bench_clips, bench_load, redis_fleet, up
from cli.bench_figures import Heard, Record, percentile
from cli.bench_machine import metric
from cli.bench_worker import SILENCE, endpoint
from cli.proxy import Proxy

#: What happens to the worker -> the signal that does it.
SIGNALS = {"kill": signal.SIGKILL, "hang": signal.SIGSTOP, "drain": signal.SIGTERM}
#: What happens to Redis: killed and started again with its data, or without; out of reach; full.
REDIS_FAULTS = ("redis-restart", "redis-empty", "redis-away", "redis-full")
FAULTS = (*SIGNALS, *REDIS_FAULTS)
GOAL_PAUSE_MS = 2_000.0
#: The fault comes after this much of the session, and before its end by as much.
MARGIN_S = 1.0
#: A hung worker wakes up so long after the session: what it says then must count for nothing.
WAKE_AFTER_S = 0.5
#: Redis is out of reach, or full, for so long.
AWAY_S = 3.0
POLL_S = 0.05

METHOD = (
    "Real stack, two workers of the english pool, one session at a time over a real WebSocket from a process of its "
    "own, 50 ms chunks in real time, always the same talk. kill: SIGKILL; hang: SIGSTOP, and SIGCONT after the "
    "session; drain: SIGTERM; each at a random moment, to the worker that holds the session. redis-restart: Redis "
    "killed and started again with its data (appendonly, every second); redis-empty: without; redis-away: nothing "
    f"passes between it and the services for {AWAY_S:.0f} s; redis-full: for so long it takes no writes (maxmemory, "
    "noeviction). Finals are compared, by their order in the session, with an undisturbed run of the same talk: lost, "
    "told more than once, with other words. pause: how much later after its last word the most delayed final came "
    "than in the undisturbed run."
)


@dataclass(frozen=True)
class Compared:
    """A disturbed session held against an undisturbed one. `pause_ms`: None if no final is in both."""

    finals: int
    lost: int
    doubled: int
    changed: int
    pause_ms: float | None


def run(faults: Sequence[str], runs: int, seconds: float, tell: Callable[[str], None]) -> dict[str, Any]:
    """So many runs of each fault. Raises StackError."""
    spoken = [phrase for clip in bench_clips.recordings() for phrase in bench_clips.phrases(clip)]
    talk, moments = bench_clips.talk(spoken, 0, seconds), random.Random(0)
    found: dict[str, list[Compared]] = {fault: [] for fault in faults}
    with ExitStack() as rooms:
        folder = Path(rooms.enter_context(tempfile.TemporaryDirectory(prefix="steno-chaos-")))
        redis = redis_fleet.Server(redis_fleet.free_ports(1)[0], folder, "--appendonly", "yes", "--save", "")
        rooms.enter_context(redis_fleet.running(redis))
        line = rooms.enter_context(Proxy(redis.port))
        stack = rooms.enter_context(up.Stack(workers=2, redis_url=line.url))
        tell("undisturbed")
        calm = _speak(stack, talk, stack.check)
        for fault in faults:
            for number in range(1, runs + 1):
                tell(f"{fault}, run {number} of {runs}")
                after_s = moments.uniform(MARGIN_S, len(talk.audio) / 32_000 - MARGIN_S)
                if fault in SIGNALS:
                    record = _disturbed(stack, talk, SIGNALS[fault], after_s)
                else:
                    record = _forgetting(stack, talk, Trouble(fault, redis, line), after_s)
                found[fault].append(compared(calm, record))
    return {
        "settings": {"runs": runs, "seconds": seconds, "silence": SILENCE},
        "method": METHOD,
        "goals": {"pause_p95_ms": GOAL_PAUSE_MS, "lost": 0, "doubled": 0, "changed": 0},
        "faults": [summary(fault, results) for fault, results in found.items()],
    }


@dataclass(frozen=True)
class Trouble:
    """One of REDIS_FAULTS: `begin`, and after AWAY_S, where there is something to mend, `end`."""

    fault: str
    redis: redis_fleet.Server
    line: Proxy

    def begin(self) -> None:
        match self.fault:
            case "redis-restart" | "redis-empty":
                self.redis.restart(forget=self.fault == "redis-empty")
            case "redis-away":
                self.line.stall()
            case "redis-full":
                self._limit("1")

    def end(self) -> None:
        self.line.resume()
        self._limit("0")

    def _limit(self, most_bytes: str) -> None:
        with self.redis.client() as client:
            client.config_set("maxmemory", most_bytes)


def compared(calm: Record, disturbed: Record) -> Compared:
    """Final by final; those of a session that ended in an error are lost."""
    wanted = {turn.order: turn for turn in calm.turns if turn.final}
    told: dict[int, list[Heard]] = {}
    for turn in disturbed.turns:
        if turn.final:
            told.setdefault(turn.order, []).append(turn)
    common = [(wanted[order], told[order][0]) for order in sorted(wanted.keys() & told.keys())]
    pauses = [_delay_ms(disturbed, other) - _delay_ms(calm, one) for one, other in common]
    return Compared(
        len(wanted),
        len(wanted.keys() - told.keys()),
        sum(len(turns) - 1 for turns in told.values()) + len(told.keys() - wanted.keys()),
        sum(one.text != other.text for one, other in common),
        max(pauses, default=None),
    )


def summary(fault: str, results: Sequence[Compared]) -> dict[str, Any]:
    """A row of the table."""
    pauses = [result.pause_ms for result in results if result.pause_ms is not None]
    row: dict[str, Any] = {"fault": fault, "runs": len(results)}
    for part in ("finals", "lost", "doubled", "changed"):
        row[part] = sum(getattr(result, part) for result in results)
    for name, value in (
        ("p50", percentile(pauses, 50)),
        ("p95", percentile(pauses, 95)),
        ("max", max(pauses, default=None)),
    ):
        row[f"pause_{name}_ms"] = None if value is None else round(value)
    return row


def _delay_ms(record: Record, final: Heard) -> float:
    return (final.at_s - record.sent_at(final.last_end_ms)) * 1000


def _speak(stack: up.Stack, talk: bench_clips.Talk, meanwhile: Callable[[], None]) -> Record:
    load = bench_load.Load(endpoint(stack.url, **SILENCE), (talk,), stagger_s=0)
    (record,) = bench_load.generate(load, meanwhile, POLL_S).records
    return record


def _disturbed(stack: up.Stack, talk: bench_clips.Talk, what: signal.Signals, after_s: float) -> Record:
    victim, held_s = "", 0.0

    def meanwhile() -> None:
        nonlocal victim, held_s
        if victim:
            return
        held_s = held_s or (time.monotonic() if _holder(stack) else 0.0)
        if held_s and time.monotonic() >= held_s + after_s and (victim := _holder(stack)):
            os.kill(stack.pids[victim], what)

    record = _speak(stack, talk, meanwhile)
    if victim and what is signal.SIGSTOP:
        time.sleep(WAKE_AFTER_S)
        os.kill(stack.pids[victim], signal.SIGCONT)
        _until_free(stack, victim)
    elif victim:
        stack.restart(victim)
    return record


def _forgetting(stack: up.Stack, talk: bench_clips.Talk, trouble: Trouble, after_s: float) -> Record:
    held_s = begun_s = 0.0
    ended = False

    def meanwhile() -> None:
        nonlocal held_s, begun_s, ended
        stack.check()
        now_s = time.monotonic()
        held_s = held_s or (now_s if _holder(stack) else 0.0)
        if held_s and not begun_s and now_s >= held_s + after_s:
            begun_s = now_s
            trouble.begin()
        elif begun_s and not ended and now_s >= begun_s + AWAY_S:
            ended = True
            trouble.end()

    try:
        return _speak(stack, talk, meanwhile)
    finally:
        trouble.end()
        stack.wait_until_ready()


def _holder(stack: up.Stack) -> str:
    """The worker that holds a session, "" if none does."""
    names = (f"{pool}-{number}" for pool in stack.pools for number in (1, 2))
    return next((name for name in names if _held(stack, name)), "")


def _held(stack: up.Stack, name: str) -> float:
    return sum(metric(stack.probe_ports[name], "steno_slots_used").values())


def _until_free(stack: up.Stack, name: str) -> None:
    """Raises StackFailed if it goes on with what it lost."""
    deadline_s = time.monotonic() + 10
    while _held(stack, name):
        stack.check()
        if time.monotonic() > deadline_s:
            raise up.StackFailed(f"{name} woke up and keeps a session that it lost")
        time.sleep(POLL_S)
