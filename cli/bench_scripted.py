"""A worker without a model, for benchmarks in which ingress or Redis is what is measured.

It takes every offer of the english pool, reads all audio as a worker does, tells a partial for each half second of it,
and answers Terminate with one final. It runs as a process of its own until its pipe is closed.

The one word of a partial tells times: when its newest audio came into the worker's hands, and when the worker told it,
in ms with a slash between (`cli/bench_crowd.py` reads them). A worker reads once in a step, so for a few sessions
another loop reads as often as it can; of the others the first time is 0, unknown.
"""

import asyncio
import itertools
import multiprocessing
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection

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
_STEP_S, _RENEW_S, _LEASE_S = 0.02, 1.0, 60
#: So many sessions are watched, so often; that is how much too late a frame may seem.
WATCHED, WATCH_S = 6, 0.002
#: Frames of a watched session whose times are kept: a second's.
_KEPT = 20


@dataclass
class _Served:
    lease: Lease
    cursor: bytes = b"0-0"
    samples: int = 0
    told: int = 0
    saved: int = 0
    sequence: int = 0
    #: Of a watched session: where its newest frames end -> when they came, in ms.
    came_ms: dict[int, float] | None = None

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
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    arguments = (redis_url, namespace, role or Role(), theirs)
    process = context.Process(target=_main, args=arguments, daemon=True)
    process.start()
    theirs.close()
    try:
        ours.recv()
        yield process.pid or 0
    finally:
        ours.close()
        process.join(10)


def _main(redis_url: str, namespace: str, role: Role, owner: Connection) -> None:
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(_serve(redis_url, namespace, role, owner))


async def _serve(redis_url: str, namespace: str, role: Role, owner: Connection) -> None:
    bus = Bus(redis_url, Keys(namespace))
    served: dict[str, _Served] = {}
    gone = asyncio.Event()
    asyncio.get_running_loop().add_reader(owner.fileno(), gone.set)
    await bus.join(POOL)
    owner.send("ready")
    async with asyncio.TaskGroup() as tasks:
        loops = [tasks.create_task(_take(bus, served, role)), tasks.create_task(_step(bus, served, role))]
        loops.append(tasks.create_task(_renew(bus, served, role)))
        if role.watched:
            loops.append(tasks.create_task(_watch(bus, served, role.watched)))
        await gone.wait()
        for loop in loops:
            loop.cancel()
    await bus.close()


async def _take(bus: Bus, served: dict[str, _Served], role: Role) -> None:
    while True:
        if (free := role.most - len(served)) < 1:
            await asyncio.sleep(_STEP_S)
            continue
        leases = await bus.take(POOL, role.name, min(free, 1000), 500)
        served.update((lease.session, _Served(lease)) for lease in leases)
        await bus.publish(
            [Publication(lease, (served[lease.session].event(Event.TAKEN),)) for lease in leases]
        )


async def _renew(bus: Bus, served: dict[str, _Served], role: Role) -> None:
    while True:
        await bus.renew(POOL, role.name, [one.lease for one in served.values()])
        load = WorkerLoad(role.most, role.most - len(served), 0, int(time.time()) + _LEASE_S, role.name)
        await bus.report(POOL, role.name, load)
        await asyncio.sleep(_RENEW_S)


async def _watch(bus: Bus, served: dict[str, _Served], watched: int) -> None:
    """When the frames of the first few sessions come."""
    cursors: dict[str, bytes] = {}
    while True:
        for name in [name for name in cursors if name not in served]:
            del cursors[name]
        for name, one in itertools.islice(served.items(), watched):
            if one.came_ms is None and len(cursors) < watched:
                one.came_ms, cursors[name] = {}, one.cursor
        for name, logged in (await bus.read(cursors)).items():
            cursors[name], now_ms = logged.cursor, time.time() * 1000
            came_ms = served[name].came_ms if name in served else None
            if came_ms is None:
                continue
            ends = [entry.end for _, entry in logged.entries if isinstance(entry, AudioFrame)]
            came_ms.update(dict.fromkeys(ends, now_ms))
            while len(came_ms) > _KEPT:
                del came_ms[next(iter(came_ms))]
        await asyncio.sleep(WATCH_S)


async def _step(bus: Bus, served: dict[str, _Served], role: Role) -> None:
    while True:
        started_s = time.monotonic()
        outbox: list[Publication] = []
        over: list[Lease] = []
        heard: list[_Served] = []
        read = await bus.read({name: one.cursor for name, one in served.items()})
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
            times = f"{(one.came_ms or {}).get(one.samples, 0):.2f}/{told_ms:.2f}"
            saved = one.checkpoint() if one.samples >= one.saved + CHECKPOINT_S * SAMPLE_RATE else None
            outbox.append(Publication(one.lease, (one.turn(False, times),), saved))
        await bus.publish(outbox)
        await bus.settle(POOL, role.name, over)
        for lease in over:
            served.pop(lease.session, None)
        await asyncio.sleep(max(0.0, started_s + _STEP_S - time.monotonic()))
