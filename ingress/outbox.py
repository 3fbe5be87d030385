"""What this node has to tell Redis about its sessions: gathered as it comes, written once per tick.

In this order: audio and orders of all sessions in one pipeline, offers withdrawn, keys let go. What cannot be written
stays, in order, for the next try.
"""

import asyncio
from collections import deque
from collections.abc import Callable

from wire import metrics
from wire.entries import AudioEntry, AudioFrame, Offer
from wire.errors import BusUnavailable
from wire.streams import Bus

#: Pause before the next try when Redis is away.
RETRY_S = 0.25


class Outbox:
    """`append`, `withdraw` and `forget` return at once; `run` for the node's life, and `flush` once after it."""

    def __init__(self, bus: Bus, tick_ms: int) -> None:
        #: Audio waiting here; it is for the caller to bound it.
        self.pending_bytes = 0
        self._bus = bus
        self._tick_s = tick_ms / 1000
        self._work = asyncio.Event()
        self._pending: deque[tuple[str, AudioEntry]] = deque()
        self._withdrawn: deque[tuple[Offer, bytes]] = deque()
        self._forgotten: deque[str] = deque()

    def append(self, session: str, entry: AudioEntry) -> None:
        """To the session's audio log, after everything appended before."""
        self._pending.append((session, entry))
        if isinstance(entry, AudioFrame):
            self.pending_bytes += len(entry.pcm)
        self._work.set()

    def withdraw(self, offer: Offer, offer_id: bytes) -> None:
        """Nobody took the offer: take it back, with the audio appended by then. Append nothing for it after this."""
        self._withdrawn.append((offer, offer_id))
        self._work.set()

    def forget(self, session: str) -> None:
        """Let the session's keys go, once everything about it is written."""
        self._forgotten.append(session)
        self._work.set()

    async def run(self, missed: Callable[[BusUnavailable], None]) -> None:
        """Write for ever; `missed` is told of each failed try. Idle while there is nothing to write."""
        while True:
            await self._work.wait()
            await asyncio.sleep(self._tick_s)
            try:
                await self.flush()
            except BusUnavailable as error:
                missed(error)
                await asyncio.sleep(RETRY_S)

    async def flush(self) -> None:
        """Write everything. Raises BusUnavailable, with what was not written still to do.

        Entries of a failed try may have arrived all the same and be appended again: their positions tell the reader.
        """
        self._work.clear()
        try:
            await self._append_pending()
            while self._withdrawn:
                await self._bus.withdraw(*self._withdrawn[0])
                self._withdrawn.popleft()
            while self._forgotten:
                await self._bus.forget(self._forgotten[0])
                self._forgotten.popleft()
        except BusUnavailable:
            self._work.set()
            raise

    async def _append_pending(self) -> None:
        entries, size = list(self._pending), self.pending_bytes
        metrics.PENDING_BYTES.set(size)
        if entries:
            with metrics.APPEND_SECONDS.time():
                await self._bus.append(entries)
        for _ in entries:
            self._pending.popleft()
        self.pending_bytes -= size
