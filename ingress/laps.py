"""What a session has used, told in laps: cumulative records every few seconds and one at the end (`usage/`).

A node that dies loses at most one lap of each session. While Redis is away laps wait in a LapBox, which keeps the
newest of each session only, since it says all that the older ones said.
"""

from collections import OrderedDict, deque
from collections.abc import Iterable

from wire.entries import UsageRecord

#: Time between two laps of a session, in seconds.
LAP_S = 5.0
#: Laps that the node which a session comes from may have told after it was heard of last: its own is newer than all.
UNHEARD_LAPS = 1_000
#: Most sessions whose last lap waits for Redis.
MAX_WAITING = 100_000
#: How long last laps are kept after they were told, in seconds: the tracker counts them sooner, unless it is away.
KEPT_S = 600.0


class LapCounter:
    """One session. `now` is seconds of a clock that never goes back, `started_ms` Unix time; audio in milliseconds."""

    def __init__(
        self, session: str, pool: str, model: str, started_ms: int, now: float, lap_s: float = LAP_S
    ) -> None:
        self._session, self._pool, self._model = session, pool, model
        self.started_ms = started_ms
        self._started_at = now
        self._lap_s = lap_s
        self._next_at = now + lap_s
        self.lap = 0
        self._over = False

    def go_on(self, lap: int, now: float) -> None:
        """Laps up to this one may have been told elsewhere."""
        self.lap, self._next_at = lap, now + self._lap_s

    def next_deadline(self) -> float | None:
        """When the next lap is due; None once the session is over."""
        return None if self._over else self._next_at

    def tick(self, audio_ms: int, now: float) -> UsageRecord | None:
        """The lap that is due, if one is. `audio_ms`: audio received so far."""
        if self._over or now < self._next_at:
            return None
        self._next_at = now + self._lap_s
        return self._record(audio_ms, now)

    def end(self, audio_ms: int, now: float) -> UsageRecord | None:
        """The last lap; None if it was told before."""
        if self._over:
            return None
        self._over = True
        return self._record(audio_ms, now)

    def _record(self, audio_ms: int, now: float) -> UsageRecord:
        self.lap += 1
        session_ms = max(0, round((now - self._started_at) * 1000))
        ended_ms = self.started_ms + session_ms if self._over else -1
        return UsageRecord(
            self._session,
            self.lap,
            audio_ms,
            session_ms,
            self._pool,
            self._model,
            self.started_ms,
            ended_ms,
        )


class LapBox:
    """Laps on their way to Redis. `take` all, write them; `put_back` if that failed."""

    def __init__(self, most: int = MAX_WAITING) -> None:
        self._most = most
        self._laps: OrderedDict[str, UsageRecord] = OrderedDict()
        #: Sessions whose last laps were dropped because too many waited.
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._laps)

    def put(self, record: UsageRecord) -> None:
        """A new lap; it takes the place of an older one of its session."""
        known = self._laps.get(record.session)
        if known is None or known.lap < record.lap:
            self._laps[record.session] = record
        if len(self._laps) > self._most:
            self._laps.popitem(last=False)
            self.dropped += 1

    def take(self) -> list[UsageRecord]:
        """Everything that waits, in the order in which the sessions came."""
        taken = list(self._laps.values())
        self._laps.clear()
        return taken

    def put_back(self, records: Iterable[UsageRecord]) -> None:
        """These were not written after all; what came since then is newer."""
        for record in records:
            self.put(record)


class LastLaps:
    """The last laps of sessions that ended lately, in case Redis loses them before they are counted."""

    def __init__(self, most: int = MAX_WAITING, kept_s: float = KEPT_S) -> None:
        self._kept_s = kept_s
        self._laps: deque[tuple[float, UsageRecord]] = deque(maxlen=most)

    def put(self, record: UsageRecord, now: float) -> None:
        """Only one that says that its session is over is kept."""
        if record.over:
            self._laps.append((now, record))
            self.lately(now)

    def lately(self, now: float) -> list[UsageRecord]:
        """Those that were put not longer than `kept_s` ago."""
        while self._laps and self._laps[0][0] < now - self._kept_s:
            self._laps.popleft()
        return [record for _, record in self._laps]
