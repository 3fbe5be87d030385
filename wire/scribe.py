"""Writes recordings beside what it must not disturb: items are kept as they come, packed, sealed and written later.

    open -> keep* -> close, for each session that is recorded;  run for the process's life, flush once after it

What Redis is slow to take waits, bounded, and is dropped beyond that, which the recording tells. A recording that was
erased, or has reached its limit, is not written any more.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from wire import metrics
from wire.archive import Archive, Written
from wire.errors import BusUnavailable
from wire.recorded import FRAME_BYTES, Item, Missed, SessionEnd, Sound, pack_batch, portions, weight
from wire.sealing import Box

logger = logging.getLogger(__name__)

#: How often items are written, in seconds: a round trip for each session is most of what recording costs.
FLUSH_S = 1.0
#: Most that waits to be written, of all sessions of a process, and that is written in one round trip, in bytes.
MAX_WAITING_BYTES, SLICE_BYTES = 32 * 2**20, 2**20


@dataclass(eq=False)
class _Reel:
    """What one writer adds to one recording. `number` is that of its next batch.

    `full`: nothing more fits in; `gone`: there is no recording any more; `closed`: nothing more comes.
    """

    session: str
    writer: str
    box: Box
    items: list[Item | Sound] = field(default_factory=list)
    sound: Sound | None = None  # the last of the items, if it is one
    number: int = 0
    missed: int = 0
    full: bool = False
    gone: bool = False
    closed: bool = False
    end: SessionEnd | None = None


class Scribe:
    """See the module. `now_s`: Unix time."""

    def __init__(
        self,
        archive: Archive,
        now_s: Callable[[], float] = time.time,
        most_bytes: int = MAX_WAITING_BYTES,
    ) -> None:
        self.now_s = now_s
        self._archive = archive
        self._most_bytes = most_bytes
        self._reels: dict[str, _Reel] = {}
        self._waiting: deque[tuple[_Reel, bytes]] = deque()
        self._bytes = 0

    def open(self, session: str, writer: str) -> None:
        """Keep what comes of this session; a writer's name is used once for a session."""
        if (older := self._reels.get(session)) is not None:
            self._pack(older)
        self._reels[session] = _Reel(session, writer, self._archive.box(session))

    def writes(self, session: str) -> bool:
        """Whether what is kept of this session has somewhere to go."""
        reel = self._reels.get(session)
        return reel is not None and not (reel.full or reel.gone or reel.closed)

    def keep(self, session: str, item: Item) -> None:
        """Costs next to nothing; for a session that is not recorded, nothing."""
        if not self.writes(session):
            return
        reel, size = self._reels[session], weight(item)
        if self._bytes + size > self._most_bytes:
            reel.missed += 1
            metrics.RECORDING_MISSED.inc()
            return
        self._bytes += size
        reel.items.append(item)
        reel.sound = None

    def keep_audio(self, session: str, at_s: float, position: int, pcm: bytes) -> None:
        """The same for a frame, cheaper: frames are most of what there is."""
        reel = self._reels.get(session)
        if reel is None or reel.full or reel.gone or reel.closed:
            return
        size = FRAME_BYTES + len(pcm)
        if self._bytes + size > self._most_bytes:
            reel.missed += 1
            metrics.RECORDING_MISSED.inc()
            return
        self._bytes += size
        if reel.sound is None or not reel.sound.add(at_s, position, pcm):
            reel.sound = Sound(position, position)
            reel.sound.add(at_s, position, pcm)
            reel.items.append(reel.sound)

    def close(self, session: str, end: SessionEnd | None = None) -> None:
        """Nothing more comes of it from here; `end`: how the session ended, where that is ours to say."""
        if (reel := self._reels.get(session)) is not None and not reel.closed:
            reel.closed, reel.end = True, end

    async def run(self, missed: Callable[[BusUnavailable], None]) -> None:
        """Write for ever; `missed` is told of each failed try."""
        while True:
            await asyncio.sleep(FLUSH_S)
            try:
                await self.flush()
            except BusUnavailable as error:
                missed(error)

    async def flush(self) -> None:
        """Write what is kept. Raises BusUnavailable, with what was not written still to do."""
        closed = [(name, reel) for name, reel in self._reels.items() if reel.closed]
        for reel in self._reels.values():
            self._pack(reel)
        while self._waiting:
            await self._write_slice()
        for name, reel in closed:
            if reel.end is not None and not reel.gone:
                await self._archive.finish(name, reel.end)
            if self._reels.get(name) is reel:
                del self._reels[name]

    def _pack(self, reel: _Reel) -> None:
        if reel.missed and self._bytes < self._most_bytes:
            lost = Missed(self.now_s(), reel.missed, "Redis was too slow to take them")
            reel.items.append(lost)
            self._bytes += weight(lost)
            reel.missed = 0
        for portion in portions(reel.items):
            packed = reel.box.seal(pack_batch(reel.writer, reel.number, portion))
            reel.number += 1
            self._waiting.append((reel, packed))
            self._bytes += len(packed) - sum(map(weight, portion))
        reel.items.clear()
        reel.sound = None

    async def _write_slice(self) -> None:
        batch, size = list[tuple[_Reel, bytes]](), 0
        for reel, packed in self._waiting:
            if batch and size + len(packed) > SLICE_BYTES:
                break
            batch.append((reel, packed))
            size += len(packed)
        results = await self._archive.append([(reel.session, packed) for reel, packed in batch])
        for (reel, packed), result in zip(batch, results, strict=True):
            self._waiting.popleft()
            self._bytes -= len(packed)
            if result is Written.YES:
                metrics.RECORDED_BYTES.inc(len(packed))
            else:
                reel.full, reel.gone = True, result is Written.GONE
                logger.info("Not recorded any more: erased, or full", extra={"session": reel.session})
