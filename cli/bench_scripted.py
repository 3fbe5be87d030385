"""A worker without a model, for benchmarks in which ingress or Redis is what is measured.

It takes every offer of the english pool, reads all audio as a worker does, tells a partial for each half second of it,
and answers Terminate with one final. It runs as a process of its own until its pipe is closed.

The one word of a partial tells times: when its newest audio came into a worker's hands, and when the worker told it,
in ms with a slash between (`cli/bench_crowd.py` reads them). As the pools' models do it reads a session once in a step,
and it steps as several workers would: a part of its sessions at a time, at phases of their own. So for a few sessions
another process reads as often as it can; of the others the first time is 0, unknown.
"""

import asyncio
import contextlib
import itertools
import multiprocessing
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnContext
from typing import Any

from wire.entries import (
    SAMPLE_RATE,
    AudioFrame,
    Checkpoint,
    Event,
    Lease,
    Order,
    Publication,
    SessionEvent,
    WorkerLoad,
)
from wire.keys import Keys
from wire.messages import Turn, Word, dump
from wire.service import new_event_loop
from wire.streams import Bus

POOL, NAME = "english", "scripted"
#: News, and checkpoints as with finals of short turns, so often.
PARTIAL_S, CHECKPOINT_S = 0.5, 3
_STEP_S, _RENEW_S, _LEASE_S = 0.064, 1.0, 60
#: As so many workers.
_PARTS = 8
#: So many sessions are watched, so often; that is how much too late a frame may seem.
WATCHED, WATCH_S = 6, 0.002
#: Frames of a watched session whose times are kept: a second's.
_KEPT = 20
_FRAME_SAMPLES = SAMPLE_RATE // 20


class _Times:
    """When the newest frames of watched sessions came, in ms, by where they end; shared by two processes."""

    def __init__(self, context: SpawnContext, sessions: int) -> None:
        self._cells: Any = context.RawArray("d", 2 * _KEPT * sessions)

    def put(self, session: int, end: int, came_ms: float) -> None:
        cell = self._cell(session, end)
        self._cells[cell : cell + 2] = end, came_ms

    def get(self, session: int, end: int) -> float:
        """0 where that is not known."""
        cell = self._cell(session, end)
        known, came_ms = self._cells[cell : cell + 2]
        return float(came_ms) if known == end else 0.0

    def _cell(self, session: int, end: int) -> int:
        return 2 * (session * _KEPT + end // _FRAME_SAMPLES % _KEPT)


@dataclass
class _Served:
    lease: Lease
    cursor: bytes = b"0-0"
    samples: int = 0
    told: int = 0
    saved: int = 0
    sequence: int = 0
    #: Its number among those that are watched.
    watched: int | None = None
    #: Which part of the sessions it belongs to.
    part: int = 0

    def event(self, kind: Event, final: bool = False, text: str = "") -> SessionEvent:
        number, self.sequence = self.sequence, self.sequence + 1
        heard_ms, order = self.samples * 1000 // SAMPLE_RATE, 0 if text else -1
        return SessionEvent(
            self.lease.session, self.lease.generation, number, kind, heard_ms, order, final, text
        )

    def checkpoint(self) -> Checkpoint:
        """All audio so far is done with: the log stays short."""
        self.saved = self.samples
        return Checkpoint(0, self.samples, self.cursor.decode(), self.lease.offer.params)

    def turn(self, final: bool, times: str = "words") -> SessionEvent:
        end_ms = max(1, self.samples * 1000 // SAMPLE_RATE)
        word = Word(0, end_ms, times, 0.9, final)
        text = dump(Turn(0, False, final, "words" if final else "", 0.5, (word,)))
        return self.event(Event.MESSAGE, final, text)


@dataclass(frozen=True)
class Role:
    """One worker among several: its name, how many sessions it takes, and how many of them it watches."""

    name: str = NAME
    most: int = 100_000
    watched: int = WATCHED


@contextmanager
def running(redis_url: str, namespace: str = "steno", role: Role | None = None) -> Iterator[int]:
    """The worker, while inside; its process id."""
    context, role = multiprocessing.get_context("spawn"), role or Role()
    ours, theirs = context.Pipe()
    watching, watched = context.Pipe(duplex=False)
    times = _Times(context, role.watched)
    both = (
        context.Process(target=_main, args=(redis_url, namespace, role, theirs, watched, times), daemon=True),
        context.Process(target=_main_watch, args=(redis_url, namespace, watching, times), daemon=True),
    )
    processes = both if role.watched else both[:1]
    for process in processes:
        process.start()
    for end in (theirs, watched, watching):
        end.close()
    try:
        ours.recv()
        yield processes[0].pid or 0
    finally:
        ours.close()
        for process in processes:
            process.join(10)


def _main(
    redis_url: str, namespace: str, role: Role, owner: Connection, watcher: Connection, times: _Times
) -> None:
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(_serve(redis_url, namespace, role, owner, watcher, times))


def _main_watch(redis_url: str, namespace: str, worker: Connection, times: _Times) -> None:
    """Until the worker is gone, which says what to watch."""
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(_watch(redis_url, namespace, worker, times))


async def _serve(
    redis_url: str, namespace: str, role: Role, owner: Connection, watcher: Connection, times: _Times
) -> None:
    bus = Bus(redis_url, Keys(namespace))
    served: dict[str, _Served] = {}
    gone = asyncio.Event()
    asyncio.get_running_loop().add_reader(owner.fileno(), gone.set)
    await bus.join(POOL)
    owner.send("ready")
    async with asyncio.TaskGroup() as tasks:
        loops = [
            tasks.create_task(_take(bus, served, role, watcher)),
            tasks.create_task(_step(bus, served, role, watcher, times)),
            tasks.create_task(_renew(bus, served, role)),
        ]
        await gone.wait()
        for loop in loops:
            loop.cancel()
    await bus.close()


async def _take(bus: Bus, served: dict[str, _Served], role: Role, watcher: Connection) -> None:
    parts = itertools.cycle(range(_PARTS))
    while True:
        if (free := role.most - len(served)) < 1:
            await asyncio.sleep(_STEP_S)
            continue
        leases = await bus.take(POOL, role.name, min(free, 1000), 500)
        for lease in leases:
            served[lease.session] = _Served(lease, part=next(parts))
        known = {one.watched for one in served.values()}
        unwatched = [number for number in range(role.watched) if number not in known]
        for number, lease in zip(unwatched, leases, strict=False):
            served[lease.session].watched = number
            watcher.send((number, lease.session))
        await bus.publish(
            [Publication(lease, (served[lease.session].event(Event.TAKEN),)) for lease in leases]
        )


async def _renew(bus: Bus, served: dict[str, _Served], role: Role) -> None:
    while True:
        await bus.renew(POOL, role.name, [one.lease for one in served.values()])
        load = WorkerLoad(role.most, role.most - len(served), 0, int(time.time()) + _LEASE_S, role.name)
        await bus.report(POOL, role.name, load)
        await asyncio.sleep(_RENEW_S)


async def _watch(redis_url: str, namespace: str, worker: Connection, times: _Times) -> None:
    """When frames come of the sessions that the worker names."""
    bus = Bus(redis_url, Keys(namespace))
    names: dict[int, str] = {}
    cursors: dict[str, bytes] = {}
    with contextlib.suppress(EOFError):
        while True:
            while worker.poll():
                number, name = worker.recv()
                cursors.pop(names.pop(number, ""), None)
                if name:
                    names[number], cursors[name] = name, b"0-0"
            numbers = {name: number for number, name in names.items()}
            for name, logged in (await bus.read(cursors)).items():
                cursors[name], now_ms = logged.cursor, time.time() * 1000
                for _, entry in logged.entries:
                    if isinstance(entry, AudioFrame):
                        times.put(numbers[name], entry.end, now_ms)
            await asyncio.sleep(WATCH_S)
    await bus.close()


async def _step(bus: Bus, served: dict[str, _Served], role: Role, watcher: Connection, times: _Times) -> None:
    for part in itertools.cycle(range(_PARTS)):
        started_s = time.monotonic()
        outbox: list[Publication] = []
        over: list[Lease] = []
        heard: list[_Served] = []
        read = await bus.read({name: one.cursor for name, one in served.items() if one.part == part})
        for session, logged in read.items():
            one = served[session]
            one.cursor = logged.cursor
            orders = [entry.order for _, entry in logged.entries if not isinstance(entry, AudioFrame)]
            ends = [entry.end for _, entry in logged.entries if isinstance(entry, AudioFrame)]
            one.samples = max([one.samples, *ends])
            if Order.TERMINATE in orders:
                outbox.append(Publication(one.lease, (one.turn(True), one.event(Event.DONE))))
            if Order.TERMINATE in orders or Order.ABANDON in orders:
                over.append(one.lease)
            elif one.samples - one.told >= PARTIAL_S * SAMPLE_RATE:
                one.told = one.samples
                heard.append(one)
        told_ms = time.time() * 1000
        for one in heard:
            came_ms = 0.0 if one.watched is None else times.get(one.watched, one.samples)
            said = f"{came_ms:.2f}/{told_ms:.2f}"
            saved = one.checkpoint() if one.samples >= one.saved + CHECKPOINT_S * SAMPLE_RATE else None
            outbox.append(Publication(one.lease, (one.turn(False, said),), saved))
        await bus.publish(outbox)
        await bus.settle(POOL, role.name, over)
        for lease in over:
            gone = served.pop(lease.session, None)
            if gone is not None and gone.watched is not None:
                watcher.send((gone.watched, ""))
        await asyncio.sleep(max(0.0, started_s + _STEP_S / _PARTS - time.monotonic()))
