"""One node's licence and usage, performed: the status heard and laps written, once a second.

`LicenseGate` and `LapCounter` decide; the server calls `beat` beside its other loops, and `begin` and `end` as sessions
come and go. While Redis is away everything waits, bounded, and nobody is ended for it.
"""

import logging
from collections.abc import Callable

from ingress.laps import LAP_S, UNHEARD_LAPS, LapBox, LapCounter, LastLaps
from ingress.license import LicenseGate
from wire import metrics
from wire.accounts import Accounts
from wire.entries import UsageRecord
from wire.errors import ClientError, EntryError

logger = logging.getLogger(__name__)


class Dues:
    """See the module. `heard_ms(session)` is how much audio of the session has been received so far, `now` the clock
    of the loop, `unix_s` the nodes' common time.
    """

    def __init__(
        self,
        accounts: Accounts,
        gate: LicenseGate,
        heard_ms: Callable[[str], int],
        now: Callable[[], float],
        unix_s: Callable[[], float],
        lap_s: float = LAP_S,
    ) -> None:
        self.gate = gate
        self._accounts = accounts
        self._heard_ms = heard_ms
        self._now = now
        self._unix_s = unix_s
        self._lap_s = lap_s
        self._laps: dict[str, LapCounter] = {}
        self._box = LapBox()
        self._ended = LastLaps()

    # ------------------------------------------------------------------------------------------------------ sessions

    def refusal(self, pool: str) -> ClientError | None:
        """Why a session in `pool` may not begin; None if it may, once it has its place (`gate.max_sessions`)."""
        refusal = self.gate.refusal(pool)
        if refusal is not None:
            metrics.LICENSE_REFUSALS.labels(int(refusal.code)).inc()
        return refusal

    def begin(self, session: str, pool: str, model: str) -> None:
        """A worker has taken the session for the first time: what nobody serves is not used. `end` ends it."""
        if session in self._laps:
            return
        started_ms = round(self._unix_s() * 1000)
        self._laps[session] = LapCounter(session, pool, model, started_ms, self._now(), self._lap_s)

    def go_on(self, session: str, pool: str, model: str, lap: int, begun_ms: int) -> None:
        """The session comes from another node, which has told this lap of it, or, unheard, some more."""
        begun_s = max(0.0, self._unix_s() - begun_ms / 1000)
        laps = LapCounter(session, pool, model, begun_ms, self._now() - begun_s, self._lap_s)
        laps.go_on(lap + UNHEARD_LAPS, self._now())
        self._laps[session] = laps

    def lap(self, session: str) -> tuple[int, int]:
        """The session's last lap, and when its use began in Unix ms; zeros for one that is not used (any more)."""
        laps = self._laps.get(session)
        return (laps.lap, laps.started_ms) if laps else (0, 0)

    def move(self, session: str) -> None:
        """The session goes on on another node, which tells its laps from now on."""
        self._laps.pop(session, None)

    def end(self, session: str) -> None:
        """The session is over, however it ended: its last lap is told with the next beat."""
        laps = self._laps.pop(session, None)
        if laps is not None:
            self._tell(laps.end(self._heard_ms(session), self._now()))

    def _tell(self, record: UsageRecord | None) -> None:
        if record is not None and self.gate.tracks_usage:
            self._box.put(record)
            self._ended.put(record, self._now())

    def tell_again(self) -> None:
        """Redis may have lost what was written lately: of sessions that are over nobody would say it once more."""
        for record in self._ended.lately(self._now()):
            self._box.put(record)

    # ------------------------------------------------------------------------------------------------- once a second

    async def beat(self) -> None:
        """Hear the status, write what waits. Raises BusUnavailable, with nothing forgotten."""
        try:
            status = await self._accounts.status()
        except EntryError as error:
            logger.warning("The license's status cannot be read", extra={"reason": str(error)})
            status = None
        self.gate.heard(status, self._now())
        now = self._now()
        for session, laps in self._laps.items():
            if (laps.next_deadline() or now) <= now:
                self._tell(laps.tick(self._heard_ms(session), now))
        await self.flush()

    async def flush(self) -> None:
        """Write the laps that wait; also the last thing that a node does."""
        records = self._box.take()
        try:
            if records:
                await self._accounts.append_usage(records)
        except BaseException:  # also when cancelled: one that is written twice counts once
            self._box.put_back(records)
            raise
