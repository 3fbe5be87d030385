"""Whether a pool has room for one more session. Decided before the session is offered, so that a refusal (3009)
comes within half a second, and no worker is given more than it can hold.

What is known of a pool is some seconds old. While it has plenty of room that will do; near its end, and before anybody
is refused, Redis is asked, at most ten times a second for all who come. What this node offers meanwhile it counts
itself. Of two nodes that take the last slot at the same moment, one's client waits for the next slot, for
`ADMISSION_TIMEOUT_S` at most.
"""

import asyncio
import math
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

from ingress.pools import Pools

#: News of this age are new, in seconds.
FRESH_S = 0.1
#: So often a full pool is looked at, FRESH_S apart, before somebody is refused: a session that has just ended is in its
#: slot for a step yet, and a client that speaks again at once should not hear of that.
LOOKS = 5
#: With less than this share of its slots to spare, a pool is near its end.
NEAR = 0.25


class Admission:
    """`look` asks Redis and tells `pools` what it heard. So many sessions of a pool may `queue` for a slot."""

    def __init__(
        self, pools: Pools, look: Callable[[], Awaitable[None]], queue: int, now: Callable[[], float]
    ) -> None:
        self._pools = pools
        self._look = look
        self._queue = queue
        self._now = now
        self._looking = asyncio.Lock()
        self._looked_at = -math.inf
        self._under_way: Counter[str] = Counter()  # one entry for each pool, as have the next two
        self._since: Counter[str] = Counter()  # offered since what is known of the pools was read
        self._during: Counter[str] = Counter()  # offered since the look that goes on began

    async def is_full(self, pool: str, yielding: Callable[[], int] = lambda: 0) -> bool:
        """Whether there is no room, nor will be in a moment. `yielding`: how many of those inside would make some.

        Whoever is let in is offered at once, inside `offering`.
        """
        room = self._room(pool)
        if room is None or room > NEAR * self._pools.slots(pool):
            return False
        for look in range(LOOKS):
            if look:
                await asyncio.sleep(FRESH_S)
            await self.look_again()
            room = self._room(pool)
            if room is None or room + yielding() + self._queue > 0:
                return False
        return True

    @contextmanager
    def offering(self, pool: str) -> Iterator[None]:
        """While a session is on its way to the pool's offers."""
        self._under_way[pool] += 1
        try:
            yield
        finally:
            self._under_way[pool] -= 1
            self._since[pool] += 1
            self._during[pool] += 1

    async def look_again(self, fresh_s: float = FRESH_S) -> None:
        """Ask Redis, unless somebody has within `fresh_s`; many who come at once ask together."""
        asked_at = self._now()
        async with self._looking:
            if self._looked_at > asked_at - fresh_s:
                return
            self._looked_at = self._now()
            self._during.clear()
            before = self._pools.heard_at
            await self._look()
            if self._pools.heard_at != before:
                self._since = self._during.copy()

    def _room(self, pool: str) -> int | None:
        room = self._pools.room(pool)
        return None if room is None else room - self._under_way[pool] - self._since[pool]
