"""Among whose sessions each has a place, over all nodes: its key's, the licence's, the replays'."""

import logging
from collections.abc import Callable, Iterable

from ingress.reach import Reach
from ingress.roll import Client
from wire import metrics
from wire.errors import BusUnavailable, ClientError, internal_error, too_many_sessions
from wire.keys import LICENSE_HOLDER, REPLAY_HOLDER
from wire.streams import Bus

logger = logging.getLogger(__name__)


class Places:
    """Where places are not limited, Redis is not asked. `licensed` tells how many sessions the licence allows."""

    def __init__(self, bus: Bus, reach: Reach, replays: int, licensed: Callable[[], int]) -> None:
        self._bus = bus
        self._reach = reach
        self._replays = replays
        self._licensed = licensed

    def holders(self, client: Client) -> dict[str, int]:
        """Among whose sessions this one has a place, and how many there are; only where limited."""
        holders = {client.grant.holder: client.grant.sessions, LICENSE_HOLDER: self._licensed()}
        if client.session.params.replay:
            holders[REPLAY_HOLDER] = self._replays
        return {holder: most for holder, most in holders.items() if holder and most}

    async def take(self, client: Client) -> ClientError | None:
        """All that the session needs; or why it has none. Those that it got are to be freed in any case."""
        for holder, most in self.holders(client).items():
            try:
                if await self._bus.take_place(holder, client.session.id, most):
                    continue
            except BusUnavailable as missed:
                self._reach.missed("take_place", missed)
                return internal_error()
            except Exception:
                logger.exception("Taking a place failed")
                return internal_error()
            error = too_many_sessions()
            if holder == LICENSE_HOLDER:
                metrics.LICENSE_REFUSALS.labels(int(error.code)).inc()
            return error
        return None

    async def keep(self, clients: Iterable[Client]) -> None:
        """For as long as sessions run: places that nobody keeps are free after a while."""
        held = [(holder, client.session.id) for client in clients for holder in self.holders(client)]
        try:
            await self._bus.keep_places(held)
        except BusUnavailable as error:
            # Until the next try their keys may have more sessions than they should; none has fewer.
            self._reach.missed("keep_places", error)
