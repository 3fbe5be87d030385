"""What this node has to tell Redis about its sessions: gathered as it comes, written once per tick.

In this order: sessions that Redis has lost (`Ledger`), audio and orders of all sessions in one pipeline, offers
withdrawn, keys let go, places freed. What cannot be written stays, in order, for the next try.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from ingress.keeper import Keeper
from ingress.ledger import Ledger
from wire import metrics
from wire.entries import AudioEntry, AudioFrame, Control, Offer, Order, pack_audio
from wire.errors import BusUnavailable
from wire.streams import Bus, Restoration

#: Most that is written in one round trip, in bytes, roughly.
SLICE_BYTES = 2**20
#: Small frames are joined up to this: 50 ms, what most clients send in one message.
JOINED_BYTES = 1_600

#: Told what became of a session that was to be restored.
Restored = Callable[[bytes | None], None]

#: Pause before the next try when Redis is away.
RETRY_S = 0.25


class Outbox:
    """`append`, `withdraw` and the like return at once; `run` for the node's life, and `flush` once after it."""

    def __init__(
        self, bus: Bus, tick_ms: int, keeper: Keeper | None = None, ledger: Ledger | None = None
    ) -> None:
        #: What waits here, orders included; it is for the caller to bound it.
        self.pending_bytes = 0
        #: When Redis first failed to take what waits, by the clock of the loop; None while it takes it.
        self.stuck_since: float | None = None
        #: What the logs of the sessions should hold.
        self.ledger = ledger or Ledger(2**28, 2**22)
        self._bus = bus
        self._keeper = keeper
        self._restorations = 0
        self._tick_s = tick_ms / 1000
        self._work = asyncio.Event()
        self._pending: deque[_Item] = deque()
        self._last: dict[str, _Item] = {}  # the newest of each session, as long as it is not on its way
        self._withdrawn: deque[tuple[Offer, bytes]] = deque()
        self._forgotten: deque[str] = deque()
        self._freed: deque[tuple[str, str]] = deque()
        self._lost: dict[str, tuple[Offer, bytes, int, Restored]] = {}

    def append(self, session: str, entry: AudioEntry) -> None:
        """To the session's audio log, after everything appended before.

        Small frames of one session that wait together become one entry: a log holds so many entries, not so much
        audio. Raises what packing raises for an entry that no log could hold.
        """
        last = self._last.get(session)
        if last is not None and (joined := _joined(last.entry, entry)) is not None:
            self.pending_bytes += len(joined.pcm) - last.size
            last.entry, last.size = joined, len(joined.pcm)
        else:
            size = len(entry.pcm) if isinstance(entry, AudioFrame) else len(pack_audio(entry))
            self._last[session] = item = _Item(session, entry, size)
            self._pending.append(item)
            self.pending_bytes += size
        self._work.set()

    def mark(self, session: str) -> None:
        """Something happened to the session: if it is one that is kept, that is to be written."""
        if self._keeper is not None and self._keeper.mark(session):
            self._work.set()

    def moved(self, session: str) -> None:
        """The session goes on on another node: what is not written yet is that one's to write."""
        self._drop(session, even_its_end=True)
        self._lost.pop(session, None)
        self.ledger.drop(session)

    def withdraw(self, offer: Offer, offer_id: bytes) -> None:
        """Nobody took the offer: take it back, with the audio appended by then. Append nothing for it after this."""
        self._lost.pop(offer.session, None)
        self._withdrawn.append((offer, offer_id))
        self._work.set()

    def forget(self, session: str) -> None:
        """Let the session's keys go, once everything about it is written.

        While Redis takes nothing, what the session still had to say is dropped but for its end: nobody waits for it.
        """
        if self.stuck_since is not None:
            self._drop(session)
        self._lost.pop(session, None)
        self._forgotten.append(session)
        self._work.set()

    def free(self, holder: str, session: str) -> None:
        """The session has left the place it had among those of its API key."""
        self._freed.append((holder, session))
        self._work.set()

    def restore(self, offer: Offer, offer_id: bytes, generation: int, restored: "Restored") -> None:
        """Write anew what Redis has lost of the session, and offer it anew. `generation`: the newest that was heard of.

        `restored` is called with the new offer's id, or with None if what is lost is not held here any more.
        """
        self._lost[offer.session] = offer, offer_id, generation, restored
        self._work.set()

    def restoring(self, session: str) -> bool:
        """Whether that is still to be done, or under way."""
        return session in self._lost

    async def run(self, missed: Callable[[BusUnavailable], None]) -> None:
        """Write for ever; `missed` is told of each failed try. Idle while there is nothing to write.

        What comes after a pause is written at once, and what comes together in one go.
        """
        now, next_at = asyncio.get_running_loop().time, 0.0
        while True:
            await self._work.wait()
            await asyncio.sleep(max(0.0, next_at - now()))
            next_at = now() + self._tick_s
            try:
                await self.flush()
            except BusUnavailable as error:
                if self.stuck_since is None:
                    self.stuck_since = now()
                missed(error)
                await asyncio.sleep(RETRY_S)
            else:
                self.stuck_since = None

    async def flush(self) -> None:
        """Write everything. Raises BusUnavailable, with what was not written still to do.

        Entries of a failed try may have arrived all the same: with the same numbers, they are not appended again.
        """
        self._work.clear()
        # Only what stands here now: a key that was let go before its session's last entry would come back.
        withdrawn, forgotten = len(self._withdrawn), len(self._forgotten)
        try:
            await self._restore_lost()
            await self._append_pending()
            if self._keeper:
                await self._keeper.write(self._keeper.rest({item.session for item in self._pending}))
            for _ in range(withdrawn):
                await self._bus.withdraw(*self._withdrawn[0])
                self._withdrawn.popleft()
            await self._forget([self._forgotten[number] for number in range(forgotten)])
            for _ in range(forgotten):
                self.ledger.drop(self._forgotten.popleft())
            while self._freed:
                await self._bus.free_place(*self._freed[0])
                self._freed.popleft()
        except BusUnavailable:
            self._work.set()
            raise

    async def _restore_lost(self) -> None:
        """Here, between two appends: nothing of a session may be written while its log is written anew."""
        for session, wanted in list(self._lost.items()):
            offer, offer_id, generation, restored = wanted
            if self._keeper is not None and await self._keeper.has_moved_on(session):
                self._lost.pop(session, None)
                continue
            log = self.ledger.log(session)
            made = None
            if log is not None:
                self._restorations += 1
                moves = self._keeper.moves(session) if self._keeper is not None else 0
                newest = max(generation, log.generation)
                lost = Restoration(
                    offer, offer_id, newest, log.checkpoint, log.entries, self._restorations, moves
                )
                made = await self._bus.restore(lost)
                if log.entries:
                    self.ledger.written(session, log.entries[-1][0])
            self._lost.pop(session, None)  # also what was asked for meanwhile: it is done
            metrics.SESSIONS_RESTORED.labels("restored" if made else "gone").inc()
            restored(made)

    async def _append_pending(self) -> None:
        """What stands here now, in slices: what Redis has taken is not told again when it refuses the rest."""
        metrics.PENDING_BYTES.set(self.pending_bytes)
        metrics.HELD_BYTES.set(self.ledger.bytes)
        self._last.clear()
        left = len(self._pending)
        while left > 0:
            items, size = [self._pending.popleft()], 0
            left -= 1
            while left > 0 and (size := size + items[-1].size) < SLICE_BYTES:
                items.append(self._pending.popleft())
                left -= 1
            number = self.ledger.number
            for item in items:
                item.number = item.number or number(item.session, item.entry, item.size)
            began_s = time.perf_counter()
            try:
                await self._append(items)
            except BaseException:  # cancelled as well: the flush at the node's end goes on from here
                self._pending.extendleft(reversed(items))
                raise
            finally:
                metrics.APPEND_SECONDS.observe(time.perf_counter() - began_s)
            written = self.ledger.written
            for item in items:
                self.pending_bytes -= item.size
                written(item.session, item.number)

    async def _append(self, items: "list[_Item]") -> None:
        entries = [(item.session, item.number, item.entry) for item in items]
        keeper = self._keeper
        if not keeper:  # none, or nobody's session may move
            await self._bus.append(entries)
            return
        keepings = keeper.keepings(entries, {item.session for item in self._pending})
        theirs = {keeping.session for keeping in keepings}
        if others := [entry for entry in entries if entry[0] not in theirs]:
            await self._bus.append(others)
        await keeper.write(keepings)

    async def _forget(self, sessions: list[str]) -> None:
        keeper = self._keeper
        if others := [session for session in sessions if keeper is None or session not in keeper]:
            await self._bus.forget(others)
        for session in sessions:
            if keeper is not None and session not in others:
                await keeper.release(session)

    def _drop(self, session: str, even_its_end: bool = False) -> None:
        kept = [
            item for item in self._pending if item.session != session or (item.is_end and not even_its_end)
        ]
        self.pending_bytes -= sum(item.size for item in self._pending) - sum(item.size for item in kept)
        self._pending = deque(kept)
        self._last.pop(session, None)


@dataclass(slots=True)
class _Item:
    """One entry on its way; `size` in bytes. It has a number from its first try on, and is not changed after that."""

    session: str
    entry: AudioEntry
    size: int
    number: int = 0

    @property
    def is_end(self) -> bool:
        return isinstance(self.entry, Control) and self.entry.order in (Order.ABANDON, Order.TERMINATE)


def _joined(last: AudioEntry, entry: AudioEntry) -> AudioFrame | None:
    """The two as one frame, if they are small frames without a gap between."""
    if not (isinstance(last, AudioFrame) and isinstance(entry, AudioFrame)) or entry.position != last.end:
        return None
    if len(last.pcm) + len(entry.pcm) > JOINED_BYTES:
        return None
    return AudioFrame(last.position, last.pcm + entry.pcm)
