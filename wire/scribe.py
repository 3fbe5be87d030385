"""Writes recordings beside what it must not disturb: notes are taken as things happen, and made into items later.

    open -> note* -> close, for each session that is recorded;  run for the process's life, flush once after it

Each session has a tape, which takes notes in its own way. Every two seconds what is on it is made into items, packed
and sealed, a few sessions at a time, so that nobody waits long for it; and what several sessions have to write goes to
Redis in one command, since a command costs more than what it carries.

What Redis is slow to take waits, bounded, and is dropped beyond that, which the recording tells. A recording that was
erased, or has reached its limit, is not written any more.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from wire import metrics
from wire.archive import Archive, Place, Written
from wire.errors import BusUnavailable
from wire.recorded import Item, Missed, SessionEnd, Sound, pack_batch, portions
from wire.sealing import Box

logger = logging.getLogger(__name__)

#: How often a session's notes are packed and written, in seconds.
FLUSH_S = 2.0
#: Sessions that are packed at once.
GROUP = 16
#: Most that waits to be written, of all sessions of a process, and that is written in one round trip, in bytes.
MAX_WAITING_BYTES, SLICE_BYTES = 32 * 2**20, 2**20


class Tape(Protocol):
    """What a process notes of one session: how it does is its own affair."""

    def take(self, failed: Callable[[Exception], None]) -> list[Item | Sound]:
        """What was noted since the last time. Never raises: `failed` is told why a note cannot be made an item."""
        ...


T = TypeVar("T", bound=Tape)


class Items:
    """A tape for whoever notes items."""

    def __init__(self) -> None:
        self._noted: list[Item | Sound] = []

    def note(self, item: Item | Sound) -> None:
        self._noted.append(item)

    def take(self, _: Callable[[Exception], None]) -> list[Item | Sound]:
        found, self._noted = self._noted, []
        return found


@dataclass(eq=False)
class _Reel:
    """What one writer adds to one recording. `number` is that of its next batch.

    `gone`: there is no recording any more; `closed`: nothing more comes.
    """

    session: str
    writer: str
    place: Place
    box: Box
    tape: Tape
    number: int = 0
    missed: int = 0
    gone: bool = False
    closed: bool = False
    end: SessionEnd | None = None


@dataclass(frozen=True)
class _Part:
    """A sealed batch, or the end, on its way."""

    reel: _Reel
    sealed: bytes
    is_end: bool = False


class Scribe(Generic[T]):
    """See the module. `tape` makes a new one; `now_s`: Unix time."""

    def __init__(
        self,
        archive: Archive,
        tape: Callable[[], T],
        now_s: Callable[[], float] = time.time,
        most_bytes: int = MAX_WAITING_BYTES,
    ) -> None:
        self.now_s = now_s
        #: Those of sessions that are recorded; nothing is written of others.
        self.tapes: dict[str, T] = {}
        self._archive = archive
        self._tape = tape
        self._most_bytes = most_bytes
        self._reels: dict[str, _Reel] = {}
        self._waiting: deque[_Part] = deque()
        self._bytes = 0  # of what waits
        self._work = asyncio.Event()

    def open(self, session: str, writer: str) -> None:
        """Take notes of this session; a writer's name is used once for a session."""
        if (older := self._reels.get(session)) is not None:
            self._pack(older)
        self.tapes[session] = tape = self._tape()
        place, box = self._archive.place(session), self._archive.box(session)
        self._reels[session] = _Reel(session, writer, place, box, tape)

    def close(self, session: str, end: SessionEnd | None = None) -> None:
        """Nothing more comes of it from here; `end`: how the session ended, where that is ours to say."""
        if (reel := self._reels.get(session)) is not None and not reel.closed:
            reel.closed, reel.end = True, end
            self.tapes.pop(session, None)

    # ---- writing

    async def run(self, missed: Callable[[BusUnavailable], None]) -> None:
        """Write for ever; `missed` is told of each failed try."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._packing())
            tasks.create_task(self._writing(missed))

    async def flush(self) -> None:
        """Write everything. Raises BusUnavailable, with what was not written still to do."""
        for reel in list(self._reels.values()):
            self._pack(reel)
        await self._write()

    async def _packing(self) -> None:
        """All in turn, whether or not Redis takes it: else notes would pile up."""
        while True:
            reels = list(self._reels.values())
            groups = [reels[first : first + GROUP] for first in range(0, len(reels), GROUP)] or [[]]
            for group in groups:
                await asyncio.sleep(FLUSH_S / len(groups))
                for reel in group:
                    self._pack(reel)
                if self._waiting:
                    self._work.set()

    async def _writing(self, missed: Callable[[BusUnavailable], None]) -> None:
        while True:
            await self._work.wait()
            self._work.clear()
            try:
                await self._write()
            except BusUnavailable as error:
                missed(error)
                await asyncio.sleep(FLUSH_S)
                self._work.set()

    def _pack(self, reel: _Reel) -> None:
        for portion in portions(self._items(reel)):
            if self._bytes >= self._most_bytes:
                lost = sum(len(item.pieces) if isinstance(item, Sound) else 1 for item in portion)
                reel.missed += lost
                metrics.RECORDING_MISSED.inc(lost)
                continue
            self._send(_Part(reel, reel.box.seal(pack_batch(reel.writer, reel.number, portion))))
            reel.number += 1
        if reel.closed and self._reels.get(reel.session) is reel:
            del self._reels[reel.session]
            if reel.end is not None and not reel.gone:
                self._send(_Part(reel, self._archive.sealed_end(reel.session, reel.end), is_end=True))

    def _items(self, reel: _Reel) -> list[Item | Sound]:
        def failed(error: Exception) -> None:
            logger.error("Not recorded", exc_info=error, extra={"session": reel.session})

        items = reel.tape.take(failed)
        if reel.missed and self._bytes < self._most_bytes:
            items.append(Missed(self.now_s(), reel.missed, "Redis was too slow to take them"))
            reel.missed = 0
        return items

    def _send(self, part: _Part) -> None:
        self._waiting.append(part)
        self._bytes += len(part.sealed)

    async def _write(self) -> None:
        while self._waiting:
            parts, size = list[_Part](), 0
            for part in self._waiting:
                if parts and size + len(part.sealed) > SLICE_BYTES:
                    break
                parts.append(part)
                size += len(part.sealed)
            results = await self._archive.write(
                [(part.reel.place, part.sealed, part.is_end) for part in parts]
            )
            self._bytes -= size
            for part, result in zip(parts, results, strict=True):
                self._waiting.popleft()
                if result is not Written.YES:
                    size -= len(part.sealed)
                    self._refused(part.reel, result)
            metrics.RECORDED_BYTES.inc(size)

    def _refused(self, reel: _Reel, result: Written) -> None:
        reel.gone |= result is Written.GONE
        if self.tapes.get(reel.session) is reel.tape:
            del self.tapes[reel.session]
            logger.info("Not recorded any more: erased, or full", extra={"session": reel.session})
