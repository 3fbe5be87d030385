"""A stack that lives on while it is hurt: sessions speak in rounds; whenever all is well again the next blow falls.

Two workers, of which one is the warm spare, behind a Redis that keeps its data and a line that may be stalled. Every
session of a round speaks a talk of its own; what it told is held against undisturbed rounds.
"""

import os
import random
import signal
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from cli import bench_clips, bench_load, chaos_watch, redis_fleet, up
from cli.bench_figures import Record
from cli.bench_machine import metric
from cli.bench_worker import SILENCE, endpoint
from cli.chaos_verdict import Verdict, disorder, finals, unsteady, verdicts
from cli.child import free_ports
from cli.proxy import Proxy
from licensing.issuer import Issuer, write_key
from licensing.minting import SigningKey, Terms
from wire.keys import Keys

POOL, WORKERS = "english", 2
#: What happens to the worker -> the signal that does it.
SIGNALS = {"kill": signal.SIGKILL, "hang": signal.SIGSTOP, "drain": signal.SIGTERM}
#: What happens to Redis: killed and started again with its data, or without; out of reach; memory or disk full.
REDIS_FAULTS = ("redis-restart", "redis-empty", "redis-away", "redis-full", "redis-disk")
FAULTS = ("nothing", *SIGNALS, "ingress", *REDIS_FAULTS)
#: From the moment that all is well to the next blow, at random; none falls so near to the end of the talk.
CALM_S, MARGIN_S = (0.5, 3.0), 2.0
#: A hung worker wakes up so long after its sessions have moved: what it says then must count for nothing.
WAKE_AFTER_S = 0.5
#: Redis is out of reach, or full, for so long.
AWAY_S = 3.0
POLL_S = 0.05
#: How long sessions may take to move, or what they leave behind to be gone.
PATIENCE_S = 20.0
#: A drained worker's time to hand its sessions over; then it gives them back.
GRACE_S = 10.0
#: A session whose workers die again and again is given up as their killer; here it is we.
TAKES = 1_000
#: Undisturbed rounds: so many, and more while each still tells something new, as a busy machine may.
CALM_ROUNDS, MOST_CALM_ROUNDS = 2, 5
#: Session keys are gone so long after their end.
GONE_S = 90.0


@dataclass
class Round:
    """What one round gave. `moved_ms`: from each blow to a worker until another one held its sessions.

    `disorder`: finals that were misnumbered, or overlapped; `misused`: sessions whose usage was not exactly what they
    sent; `doubly_held`: sessions that two workers held at once; `errors`: how sessions ended that should not have.
    """

    verdicts: list[Verdict] = field(default_factory=list)
    moved_ms: list[float] = field(default_factory=list)
    disorder: int = 0
    misused: int = 0
    doubly_held: int = 0
    errors: list[str] = field(default_factory=list)


class Stage:
    """See the module. A context manager; all but `play` may raise StackError."""

    def __init__(self, number: int, seconds: float, sessions: int) -> None:
        spoken = [phrase for clip in bench_clips.recordings() for phrase in bench_clips.phrases(clip)]
        self.talks = tuple(bench_clips.talk(spoken, 100 * number + n, seconds) for n in range(sessions))
        self._longest_s = max(len(talk.audio) for talk in self.talks) / 32_000
        self._dice = random.Random(number)
        self._keys = Keys()
        self._rooms = ExitStack()
        #: Of each session, what undisturbed ones with its talk told.
        self._calm: list[list[Record]] = []
        self._twice: set[str] = set()

    def __enter__(self) -> Self:
        with ExitStack() as rooms:
            folder = Path(rooms.enter_context(tempfile.TemporaryDirectory(prefix="steno-chaos-")))
            port = free_ports(1)[0]
            self.redis = redis_fleet.Server(port, folder, "--appendonly", "yes", "--save", "")
            rooms.enter_context(redis_fleet.running(self.redis))
            self.line = rooms.enter_context(Proxy(self.redis.port))
            env = {**_licensed(folder), "DRAIN_GRACE_S": str(GRACE_S), "MAX_TAKES": str(TAKES)}
            self.stack = rooms.enter_context(up.Stack(workers=WORKERS, redis_url=self.line.url, env=env))
            self._client = rooms.enter_context(self.redis.client())
            self._rooms = rooms.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._rooms.close()

    def settle(self, tell: Callable[[str], None]) -> tuple[int, int]:
        """Undisturbed rounds. How many finals a round has, and how many of them not all rounds told alike."""
        rounds: list[list[Record]] = []
        while len(rounds) < CALM_ROUNDS or (len(rounds) < MOST_CALM_ROUNDS and self._told_news()):
            tell(f"undisturbed, round {len(rounds) + 1}")
            rounds.append(self._speak(False, self.stack.check))
            self._calm = [list(session) for session in zip(*rounds, strict=True)]
        counts = [(len(finals(session[-1])), unsteady(session)) for session in self._calm]
        return sum(count for count, _ in counts), sum(count for _, count in counts)

    def _told_news(self) -> bool:
        """Whether the last undisturbed round told something that none before it had."""
        return any(
            verdict.changed for *before, last in self._calm for verdict in verdicts(before, last, [0.0])
        )

    # ------------------------------------------------------------------------------------------------ one round

    def play(self, fault: str, most: int, stopped: Callable[[], bool]) -> Round:
        """A round with up to `most` blows, none once `stopped`. Raises StackFailed when a service ends by itself."""
        found, blows_s, next_s, end_s = Round(), list[float](), 0.0, 0.0

        def meanwhile() -> None:
            nonlocal next_s, end_s
            self._watch(found)
            now_s = time.monotonic()
            if not end_s:
                if self._held_all() == len(self.talks):
                    end_s, next_s = now_s + self._longest_s - MARGIN_S, now_s + self._dice.uniform(*CALM_S)
                return
            if next_s <= now_s < end_s and len(blows_s) < most and not stopped():
                blows_s.append(time.monotonic())
                self._strike(fault, found, end_s)
                next_s = time.monotonic() + self._dice.uniform(*CALM_S)

        records = self._speak(fault == "ingress", meanwhile)
        for calm, record in zip(self._calm, records, strict=True):
            mine = verdicts(calm, record, blows_s)
            found.verdicts = (
                [a + b for a, b in zip(found.verdicts, mine, strict=True)] if found.verdicts else mine
            )
            found.disorder += disorder(record)
            found.errors += [record.error] if record.error else []
        found.misused = self._misused(records)
        return found

    def _speak(self, resume: bool, meanwhile: Callable[[], None]) -> list[Record]:
        load = bench_load.Load(endpoint(self.stack.url, **SILENCE), self.talks, resume=resume)
        return bench_load.generate(load, meanwhile, POLL_S, to_the_end=True).records

    def _watch(self, found: Round) -> None:
        """Two looks in a row: an offer that was made twice is held twice for a moment, until it is settled."""
        try:
            twice = set(chaos_watch.doubly_held(chaos_watch.holders(self._client, self._keys, POOL)))
        except redis_fleet.AWAY:
            return
        found.doubly_held += len(twice & self._twice)
        self._twice = twice

    def _misused(self, records: list[Record]) -> int:
        wanted = {
            record.session: len(talk.audio) // 32 for record, talk in zip(records, self.talks, strict=True)
        }
        deadline_s = time.monotonic() + PATIENCE_S
        while True:
            used = chaos_watch.used_ms(self._client, self._keys)
            wrong = sum(used.get(session) != audio_ms for session, audio_ms in wanted.items())
            if not wrong or time.monotonic() > deadline_s:
                return wrong
            time.sleep(POLL_S)

    def leftovers(self) -> dict[str, int]:
        """What is left of the sessions once they are over: leases, keys, keys without an expiry."""
        deadline_s = time.monotonic() + GONE_S
        while True:
            keys = chaos_watch.left(self._client, self._keys)
            found = {"leases": chaos_watch.leases(self._client, self._keys, POOL), **keys}
            if not any(found.values()) or time.monotonic() > deadline_s:
                return found
            time.sleep(1.0)

    # -------------------------------------------------------------------------------------------------- one blow

    def _strike(self, fault: str, found: Round, end_s: float) -> None:
        """And everything that makes the stack whole again."""
        if fault in SIGNALS:
            self._hurt_worker(fault, found, end_s)
        elif fault == "ingress":
            os.kill(self.stack.pids["ingress"], signal.SIGKILL)
            self.stack.restart("ingress")
        elif fault in REDIS_FAULTS:
            self._hurt_redis(fault)
        self._until(lambda: self._held_all() == len(self.talks) or time.monotonic() > end_s)

    def _hurt_worker(self, fault: str, found: Round, end_s: float) -> None:
        victim = self._dice.choice([name for name in self._workers() if self._held(name)])
        others = [name for name in self._workers() if name != victim]
        struck_s = time.monotonic()
        os.kill(self.stack.pids[victim], SIGNALS[fault])
        self._until(lambda: sum(map(self._held, others)) == len(self.talks) or time.monotonic() > end_s)
        if time.monotonic() <= end_s:
            found.moved_ms.append((time.monotonic() - struck_s) * 1000)
        if fault == "hang":
            time.sleep(WAKE_AFTER_S)
            os.kill(self.stack.pids[victim], signal.SIGCONT)
            self._until(lambda: not self._held(victim))
        else:
            self.stack.restart(victim, GRACE_S)

    def _hurt_redis(self, fault: str) -> None:
        match fault:
            case "redis-restart" | "redis-empty":
                self.redis.restart(forget=fault == "redis-empty")
            case "redis-away":
                self.line.stall()
                time.sleep(AWAY_S)
                self.line.resume()
            case "redis-full":
                self._client.config_set("maxmemory", "1")
                time.sleep(AWAY_S)
                self._client.config_set("maxmemory", "0")
            case "redis-disk":
                self.redis.fill_disk(True)
                time.sleep(AWAY_S)
                self.redis.fill_disk(False)
        self.stack.wait_until_ready()

    def _workers(self) -> list[str]:
        return [f"{POOL}-{number}" for number in range(1, WORKERS + 1)]

    def _held(self, name: str) -> int:
        return int(sum(metric(self.stack.probe_ports[name], "steno_slots_used").values()))

    def _held_all(self) -> int:
        return sum(map(self._held, self._workers()))

    def _until(self, condition: Callable[[], bool]) -> None:
        """Raises StackFailed."""
        deadline_s = time.monotonic() + PATIENCE_S
        while not condition():
            if time.monotonic() > deadline_s:
                raise up.StackFailed("sessions did not move, or a worker that woke up keeps what it lost")
            time.sleep(POLL_S)


def _licensed(folder: Path) -> dict[str, str]:
    """A licence that is paid by usage, so that usage is told."""
    key = SigningKey.generate()
    token = Issuer(folder / "issuer.sqlite3", key).mint(Terms("Chaos", 1, billing="usage")).token
    (folder / "license.jwt").write_text(token)
    write_key(key, folder / "private.pem", folder / "keys.json")
    return {"LICENSE_FILE_PATH": str(folder / "license.jwt"), "LICENSE_KEYS_PATH": str(folder / "keys.json")}
