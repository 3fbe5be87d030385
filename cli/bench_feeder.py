"""Ingress nodes without clients: what they write to Redis, and what they hear, by ingress's own code.

Each is a process. Its sessions have a frame of 50 ms every 50 ms, at a phase of their own, and it goes the way that
ingress sends it: through `Outbox` (numbered, held in the ledger, joined, written each tick) to `Bus.append`. Sessions
are offered, taken by workers, touched, and what workers tell is read from the node's inbox. Left out is what a client
costs: sockets, parsing, the session itself; and `keep`, which resumable sessions add.
"""

import asyncio
import heapq
import json
import multiprocessing
import random
import time
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection

from cli.bench_crowd import FRAME_MS, GRAIN_S, GROWTH_PER_S, PATIENCE_S, Crowd, CrowdFailed, obey
from cli.bench_scripted import POOL
from ingress.outbox import Outbox
from ingress.settings import IngressSettings
from wire import service
from wire.entries import SAMPLE_RATE, AudioEntry, AudioFrame, Event, Offer, Saved, SessionEvent
from wire.errors import BusUnavailable
from wire.keys import Keys
from wire.params import SessionParams
from wire.streams import TOUCH_S, Bus

_FRAME_SAMPLES = SAMPLE_RATE * FRAME_MS // 1000
_PCM = bytes(2 * _FRAME_SAMPLES)
_TICK_MS: int = IngressSettings.model_fields["tick_ms"].default
#: So many sessions are offered at once while they grow.
_TOGETHER = 10


@dataclass
class Fed:
    """What one node saw in one window, in ms.

    `late`: a frame handed to the outbox after it was due; `appends`: each round trip of `append`; `inbound`: from a
    frame's due time to the worker's hands, of watched sessions; `outbound`: from the worker's telling to this node;
    `frames`, `told`: how many frames were written and partials came; `cores` this process took; `failed`: tries that
    Redis did not answer.
    """

    late: list[float] = field(default_factory=list)
    appends: list[float] = field(default_factory=list)
    inbound: list[float] = field(default_factory=list)
    outbound: list[float] = field(default_factory=list)
    frames: int = 0
    told: int = 0
    failed: int = 0
    cores: float = 0.0


@contextmanager
def running(redis_url: str, name: str, namespace: str = "steno") -> Iterator[tuple[Crowd, int]]:
    """A node, while inside: how to order it about, and its process id. Its `measure` returns `Fed`."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_main, args=(redis_url, name, namespace, theirs), daemon=True)
    process.start()
    theirs.close()
    try:
        yield Crowd(ours), process.pid or 0
    finally:
        ours.close()
        process.join(10)
        process.kill()


def _main(redis_url: str, name: str, namespace: str, owner: Connection) -> None:
    with asyncio.Runner(loop_factory=service.new_event_loop) as runner:
        runner.run(_run(redis_url, name, namespace, owner))


async def _run(redis_url: str, name: str, namespace: str, owner: Connection) -> None:
    bus = _TimedBus(redis_url, Keys(namespace))
    await obey(_Node(bus, name), owner)
    await bus.close()


class _TimedBus(Bus):
    """The bus, with each append's time taken."""

    fed = Fed()

    async def append(self, entries: Sequence[tuple[str, int, AudioEntry]]) -> None:
        started_s = time.monotonic()
        await super().append(entries)
        self.fed.appends.append((time.monotonic() - started_s) * 1000)
        self.fed.frames += len(entries)


class _Node:
    def __init__(self, bus: _TimedBus, name: str) -> None:
        self._bus, self._name = bus, name
        self._outbox = Outbox(bus, _TICK_MS)
        self._sessions: list[str] = []
        self._sent_ms: dict[str, array[float]] = {}
        self._taken: dict[str, asyncio.Future[None]] = {}
        self._due: list[tuple[float, int]] = []
        self._phases = random.Random(name)

    async def grow(self, count: int) -> None:
        """Raises CrowdFailed."""
        loop = asyncio.get_running_loop()
        while len(self._sessions) < count:
            first, last = len(self._sessions), min(count, len(self._sessions) + _TOGETHER)
            names = [f"{self._name}-{number}" for number in range(first, last)]
            self._taken.update((name, loop.create_future()) for name in names)
            params = SessionParams().for_worker()
            made = await self._bus.offer_all([Offer(name, self._name, POOL, params) for name in names])
            if errors := [one for one in made if isinstance(one, Exception)]:
                raise CrowdFailed(f"Redis refused an offer: {errors[0]}")
            self._sessions += names
            await asyncio.sleep(_TOGETHER / GROWTH_PER_S)
        try:
            async with asyncio.timeout(PATIENCE_S):
                await asyncio.gather(*self._taken.values())
        except TimeoutError:
            raise CrowdFailed(f"no worker took a session, of {count} of one node") from None
        for number in range(len(self._due), count):
            self._sent_ms[self._sessions[number]] = array("d")
            heapq.heappush(self._due, (time.time() + self._phases.uniform(0, FRAME_MS / 1000), number))

    async def measure(self, seconds: float) -> Fed:
        """What happens from now on, for so long."""
        self._bus.fed = fed = Fed()
        started_s, cpu_s = time.monotonic(), time.process_time()
        await asyncio.sleep(seconds)
        fed.cores = (time.process_time() - cpu_s) / (time.monotonic() - started_s)
        self._bus.fed = Fed()
        return fed

    async def speak(self) -> None:
        """Append, hear and touch, for ever."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._outbox.run(self._missed))
            tasks.create_task(self._hear())
            tasks.create_task(self._touch())
            await self._pace()

    def _missed(self, _: BusUnavailable) -> None:
        self._bus.fed.failed += 1

    async def _pace(self) -> None:
        due = self._due
        while True:
            await asyncio.sleep(GRAIN_S)
            now = time.time()
            while due and due[0][0] <= now:
                due_s, number = due[0]
                heapq.heapreplace(due, (due_s + FRAME_MS / 1000, number))
                name = self._sessions[number]
                sent = self._sent_ms[name]
                self._outbox.append(name, AudioFrame(len(sent) * _FRAME_SAMPLES, _PCM))
                sent.append(due_s * 1000)
                self._bus.fed.late.append((now - due_s) * 1000)
                now = time.time()

    async def _hear(self) -> None:
        async for events in self._bus.inbox(self._name, lost=self._missed):
            now_ms = time.time() * 1000
            for event in events:
                if isinstance(event, Saved):
                    self._outbox.ledger.saved(event)
                elif event.event is Event.TAKEN:
                    self._taken[event.session].set_result(None)
                elif event.event is Event.MESSAGE:
                    self._told(event, now_ms)

    def _told(self, event: SessionEvent, now_ms: float) -> None:
        word, fed = json.loads(event.text)["words"][0], self._bus.fed
        came_ms, told_ms = map(float, word["text"].split("/"))
        fed.told += 1
        fed.outbound.append(now_ms - told_ms)
        if came_ms:
            sent = self._sent_ms[event.session]
            fed.inbound.append(came_ms - sent[min(len(sent), -(-word["end"] // FRAME_MS)) - 1])

    async def _touch(self) -> None:
        while True:
            await asyncio.sleep(TOUCH_S)
            await self._bus.touch({name: self._outbox.ledger.last_written(name) for name in self._sessions})
