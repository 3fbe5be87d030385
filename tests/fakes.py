"""Partners of the process under test, scripted: they speak the real contract over a real Redis, and have switches."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from wire.entries import AudioFrame, Control, Event, Lease, Order, Publication, SessionEvent
from wire.errors import BusUnavailable
from wire.messages import Turn, dump
from wire.streams import Bus, number_of


async def append(bus: Bus, entries: Sequence[tuple[str, AudioFrame | Control]]) -> None:
    """To the sessions' audio logs, with the numbers that come next in Redis."""
    last: dict[str, int] = {}
    for session, _ in entries:
        key = bus.keys.audio(session)
        known = await bus._redis.exists(key) and await bus._redis.xinfo_stream(key)
        last[session] = number_of(known["last-generated-id"]) if known else 0
    numbered = []
    for session, entry in entries:
        last[session] += 1
        numbered.append((session, last[session], entry))
    await bus.append(numbered)


@dataclass
class Served:
    """One session as its worker sees it."""

    lease: Lease
    cursor: bytes = b"0-0"
    pcm: bytearray = field(default_factory=bytearray)
    controls: list[Control] = field(default_factory=list)
    sequence: int = 0
    turns: int = 0

    @property
    def session(self) -> str:
        return self.lease.session

    @property
    def orders(self) -> list[Order]:
        """The orders received, in their order."""
        return [control.order for control in self.controls]


class ScriptedWorker:
    """A worker without a model: takes every offer, keeps what it hears, says what it is told to.

    By itself it answers Terminate with one final turn whose words are `hears(pcm)`, and DONE. Switches: `takes` (look
    for offers at all), `settles` (answer Terminate). Run `serve` beside the test, read `served`, and `stop` at the end.
    """

    def __init__(
        self,
        bus: Bus,
        pool: str = "english",
        name: str = "scripted",
        hears: Callable[[bytes], str] = lambda pcm: f"{len(pcm) // 2} samples",
    ) -> None:
        self.takes = self.settles = True
        #: It is about to take what comes, whatever `takes` says by now.
        self.taking = False
        self.hears = hears
        self.served: dict[str, Served] = {}
        self._bus = bus
        self._pool = pool
        self._name = name
        self._stopped = False

    def stop(self) -> None:
        """Let `serve` return soon."""
        self._stopped = True

    async def serve(self) -> None:
        """Until stopped, through every outage of Redis."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._through_outages(self._take))
            tasks.create_task(self._through_outages(self._listen))

    async def say(
        self, session: str, event: Event, text: str = "", turn_order: int = -1, final: bool = False
    ) -> None:
        """Publish one event, the next in sequence."""
        await self.repeat(session, self.event(session, event, text, turn_order, final))

    async def repeat(self, session: str, *events: SessionEvent) -> None:
        """Publish events as they are."""
        await self._bus.publish([Publication(self.served[session].lease, events)])

    def event(
        self, session: str, kind: Event, text: str = "", turn_order: int = -1, final: bool = False
    ) -> SessionEvent:
        """The session's next event."""
        served = self.served[session]
        number, served.sequence = served.sequence, served.sequence + 1
        heard_ms = len(served.pcm) // 32
        return SessionEvent(session, served.lease.generation, number, kind, heard_ms, turn_order, final, text)

    async def say_turn(self, session: str, words: str, final: bool = True) -> None:
        """One Turn message; a final one opens the next turn."""
        served = self.served[session]
        turn = Turn(served.turns, False, final, words, 0.5)
        await self.say(session, Event.MESSAGE, dump(turn), served.turns, final)
        served.turns += final

    async def _through_outages(self, step: Callable[[], Awaitable[None]]) -> None:
        while not self._stopped:
            try:
                await step()
            except BusUnavailable:
                await asyncio.sleep(0.02)

    async def _take(self) -> None:
        if not self.takes:
            await asyncio.sleep(0.005)
            return
        self.taking = True
        leases = await self._bus.take(self._pool, self._name, 1000, 20)
        self.taking = False
        for lease in leases:
            self.served[lease.session] = Served(lease)
            await self.say(lease.session, Event.TAKEN)

    async def _listen(self) -> None:
        asked = dict(self.served)
        found = await self._bus.read({name: served.cursor for name, served in asked.items()})
        for name, logged in found.items():
            if self.served[name] is not asked[name]:  # taken anew meanwhile: read from its start
                continue
            self.served[name].cursor = logged.cursor
            for _, entry in logged.entries:
                await self._hear(self.served[name], entry)
        await asyncio.sleep(0.005)

    async def _hear(self, served: Served, entry: AudioFrame | Control) -> None:
        if isinstance(entry, AudioFrame):
            known = len(served.pcm) - 2 * entry.position  # bytes of it that came before
            if known < 0:
                raise AssertionError(f"audio is missing before sample {entry.position}")
            served.pcm += entry.pcm[known:]
            return
        served.controls.append(entry)
        if entry.order is Order.TERMINATE and self.settles:
            await self.say_turn(served.session, self.hears(bytes(served.pcm)))
            await self.say(served.session, Event.DONE)
        if entry.order in (Order.TERMINATE, Order.ABANDON):
            await self._bus.settle(self._pool, self._name, [served.lease])
