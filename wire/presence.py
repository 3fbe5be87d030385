"""Being seen: a process that dies loses its connections at once, long before anybody misses it.

Each process listens on a channel of its own, on which nobody ever speaks; Redis tells who asks how many listen there
(`Bus.present`). Who hangs, or whose machine is gone without a word, still seems to be there: leases and expiring keys
are for those. In a cluster each node knows its own listeners only, so nobody is seen there, and nobody says to be.
"""

import asyncio
import contextlib
import logging

from wire.errors import BusUnavailable
from wire.streams import Bus

logger = logging.getLogger(__name__)

#: Pauses before the next try when the connection is lost: the first, and the longest after growing, in seconds.
RETRY_S, LONGEST_RETRY_S = 0.05, 1.0
#: How long `show` waits.
SHOW_S = 2.0


class Presence:
    """One process. `run` it; from the end of `show` on it is seen, if `seen` says so."""

    def __init__(self, bus: Bus, channel: bytes) -> None:
        self._bus = bus
        self._channel = channel
        self._shown = asyncio.Event()

    @property
    def seen(self) -> bool:
        """Whether others would notice at once if this process died."""
        return self._shown.is_set()

    async def show(self) -> None:
        """Wait until it is seen, but not for long: without it all goes on, and a death is noticed later."""
        if not self._bus.is_cluster:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SHOW_S):
                    await self._shown.wait()

    async def run(self) -> None:
        """Be seen, for ever; over a new connection when one is lost."""
        pause_s = RETRY_S
        while not self._bus.is_cluster:
            try:
                await self._bus.stay_present(self._channel, self._shown.set)
            except BusUnavailable as error:
                if "permission" in str(error):  # an ACL file of an earlier release
                    logger.warning(
                        "Its death would be noticed late: renew the ACL file of Redis",
                        extra={"reason": str(error)},
                    )
                    return
                pause_s = RETRY_S if self._shown.is_set() else min(2 * pause_s, LONGEST_RETRY_S)
            self._shown.clear()
            await asyncio.sleep(pause_s)
