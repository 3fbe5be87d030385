"""What a worker records of the sessions whose offer says so: its steps, its decisions, when its events were written.

The engine tells of everything; for sessions that are not recorded nothing is done.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from wire.archive import Archive
from wire.entries import Lease, Publication
from wire.errors import BusUnavailable
from wire.recorded import OFFER_RECORDED, Decided, Item, Published, Stepped, Taken
from wire.release import software
from wire.scribe import Items, Scribe
from workers.recognizer import Hypothesis, Spec
from workers.seat import Seat
from workers.turns import Flush

logger = logging.getLogger(__name__)

#: Reads of audio that wait for their step: more than the backlog that a slot holds.
READS = 4096


@dataclass
class _Track:
    """One seat. `reads`: (position reached, when it was read) of audio that no step has told of yet."""

    generation: int
    position: int
    decided_s: float
    reads: deque[tuple[int, float]] = field(default_factory=lambda: deque(maxlen=READS))


class Recorder:
    """See the module. `spec` is the recognizer's; `digest`: SHA-256 of its weights, "" if not known."""

    def __init__(self, archive: Archive, worker: str, spec: Spec, digest: str = "") -> None:
        self._mark = archive.mark
        self._worker = worker
        self._spec = spec
        self._digest = digest
        self._took_s, self._sessions = 0.0, 0
        self._scribe = Scribe(archive, Items)
        self._tracks: dict[str, _Track] = {}

    # Called by the engine as things happen; `now_s` in what follows is Unix time, as everywhere in recordings.

    def seated(self, seat: Seat) -> None:
        """The session is this worker's. A recording that is encrypted is left alone without the key."""
        lease, told = seat.lease, seat.lease.offer.params.get(OFFER_RECORDED)
        if not told:
            return
        if told != self._mark:
            extra = {"session": seat.session}
            logger.warning("Steps are not recorded: RECORD_KEY differs from the ingress's", extra=extra)
            return
        now_s, begin_ms = self._scribe.now_s(), seat.tracker.cut_ms
        self._scribe.open(seat.session, f"{self._worker} {lease.generation}")
        self._tracks[seat.session] = _Track(lease.generation, seat.position, now_s)
        place = (seat.tracker.order, begin_ms, begin_ms - seat.origin_ms)
        what = (self._worker, self._spec.model, self._digest, software())
        self._note(seat.session, Taken(now_s, lease.generation, *what, *place))

    def read(self, seat: Seat) -> None:
        """New audio of the session has been read, and waits for its step."""
        if (track := self._tracks.get(seat.session)) is None:
            return
        if seat.position > (track.reads[-1][0] if track.reads else track.position):
            track.reads.append((seat.position, self._scribe.now_s()))

    def step(self, took_s: float, sessions: int) -> None:
        """A step is over, in which so many sessions took part; what it brought them comes next."""
        self._took_s, self._sessions = took_s, sessions

    def stepped(self, seat: Seat, stepped: int, hypothesis: Hypothesis) -> None:
        """A step's results are there: all audio before the position `stepped` has been through."""
        if (track := self._tracks.get(seat.session)) is None:
            return
        while track.reads and track.reads[0][0] < stepped:
            track.reads.popleft()
        now_s, begin = self._scribe.now_s(), track.position
        begun_s = now_s - self._took_s
        queued_s = track.reads[0][1] if track.reads else begun_s
        track.position, track.decided_s = stepped, now_s
        times = (now_s, track.generation, queued_s, begun_s)
        heard = (seat.ms(begin), seat.ms(stepped), self._sessions)
        step = Stepped(*times, *heard, *self._speech(hypothesis), held=hypothesis.held)
        self._note(seat.session, step)

    def decided(self, seat: Seat, flush: Flush) -> None:
        """A turn is to end."""
        why = flush.why
        if why is None or (track := self._tracks.get(seat.session)) is None:
            return
        place = (track.generation, seat.tracker.order, why.rule, why.at_ms, why.now_ms)
        self._note(seat.session, Decided(self._scribe.now_s(), *place, dict(why.numbers)))

    def published(self, publications: Iterable[Publication], lost: Sequence[Lease]) -> None:
        """These are in Redis, save those of lost leases."""
        now_s = self._scribe.now_s()
        for publication in publications:
            lease = publication.lease
            track = self._tracks.get(lease.session)
            if track is None or track.generation != lease.generation or lease in lost:
                continue
            for event in publication.events:
                saved = publication.checkpoint
                begin = (saved.turn_order, Seat.ms(saved.position)) if saved else (-1, -1)
                place = (event.generation, event.sequence, event.event.name, track.decided_s)
                told = (event.audio_ms, event.turn_order, event.final)
                self._note(lease.session, Published(now_s, *place, *told, *begin))

    def left(self, lease: Lease) -> None:
        """The session is this worker's no more."""
        track = self._tracks.get(lease.session)
        if track is not None and track.generation == lease.generation:
            del self._tracks[lease.session]
            self._scribe.close(lease.session)

    # ---- writing

    async def run(self, missed: Callable[[BusUnavailable], None]) -> None:
        """Write for ever."""
        await self._scribe.run(missed)

    async def flush(self) -> None:
        """Raises BusUnavailable."""
        await self._scribe.flush()

    def _note(self, session: str, item: Item) -> None:
        if (tape := self._scribe.tapes.get(session)) is not None:
            tape.note(item)

    def _speech(self, hypothesis: Hypothesis) -> tuple[int, int, tuple[int, ...]]:
        """Where the first hop ends, how long one is, and what each was, as `Stepped` has them."""
        hops = hypothesis.observations
        if not hops:
            return 0, 0, ()
        thousandths = tuple(round(1000 * min(max(hop.speech, 0.0), 1.0)) for hop in hops)
        return hops[0].at_ms, self._spec.hop_ms, thousandths
