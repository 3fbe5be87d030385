"""Among whose sessions each has a place, over all nodes: its key's, the licence's, the replays'."""

import logging
from collections.abc import Callable, Iterable

from ingress.reach import Reach
from ingress.roll import Client
from wire import metrics
from wire.errors import BusUnavailable, ClientError, internal_error, too_many_sessions
from wire.keys import LICENSE_HOLDER, REPLAY_HOLDER
from wire.streams import Bus

#: How often a live session tries to take the place of a replay.
TRIES = 3

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

    async def _enter(self, holder: str, client: Client, most: int) -> bool:
        """A live session takes the place of a replay, if there is one among those that have them."""
        name, replay = client.session.id, client.session.params.replay
        for _ in range(TRIES):  # another live session may be quicker than this one
            if await self._bus.take_place(holder, name, most):
                return True
            if replay or not await self._bus.displace(holder):
                break
        return False

    async def take(self, client: Client) -> ClientError | None:
        """All that the session needs; or why it has none. Those that it got are to be freed in any case."""
        for holder, most in self.holders(client).items():
            try:
                if await self._enter(holder, client, most):
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

    async def keep(self, clients: Iterable[Client]) -> list[Client]:
        """For as long as sessions run: places that nobody keeps are free after a while. Returns replays that have lost
        theirs to others.
        """
        present = list(clients)
        stay: list[tuple[str, str]] = []
        remain: list[tuple[str, str]] = []
        for client in present:
            kept = remain if client.session.params.replay else stay
            kept += ((holder, client.session.id) for holder in self.holders(client))
        try:
            lost = await self._bus.keep_places(stay, remain)
        except BusUnavailable as error:
            # Until the next try their keys may have more sessions than they should; none has fewer.
            self._reach.missed("keep_places", error)
            return []
        return [client for client in present if client.session.id in lost]
