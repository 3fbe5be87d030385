"""Offers new sessions to their pools: one at once, and those that come meanwhile together in the next round trip.

A single client waits for nothing. A crowd costs a round trip for a hundred sessions instead of one for each, on one
connection to Redis: most of what a handshake costs is the system's work for each write.
"""

import asyncio

from wire.entries import Offer
from wire.errors import BusUnavailable
from wire.streams import Bus

#: Most offers in one round trip.
BATCH = 128


class Offers:
    """`make` an offer; `run` for the node's life. What waits when that ends fails, so that nobody waits for ever."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._work = asyncio.Event()
        self._waiting: list[tuple[Offer, asyncio.Future[bytes]]] = []  # bounded by the sessions of the node
        self._stopped = False

    async def make(self, offer: Offer) -> bytes:
        """The offer's entry id. Raises BusUnavailable, and what Redis says of this offer."""
        if self._stopped:
            raise BusUnavailable("this node makes no offers any more")
        made: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._waiting.append((offer, made))
        self._work.set()
        return await made

    async def run(self) -> None:
        """Make offers for ever."""
        try:
            while True:
                await self._work.wait()
                batch, self._waiting = self._waiting[:BATCH], self._waiting[BATCH:]
                if not self._waiting:
                    self._work.clear()
                await self._make(batch)
        finally:
            self._stopped = True
            _settle(self._waiting, BusUnavailable("this node makes no offers any more"))

    async def _make(self, batch: list[tuple[Offer, "asyncio.Future[bytes]"]]) -> None:
        try:
            results = await self._bus.offer_all([offer for offer, _ in batch])
        except asyncio.CancelledError:
            _settle(batch, BusUnavailable("this node stopped meanwhile"))
            raise
        except Exception as error:  # noqa: BLE001 each of those who wait raises it
            _settle(batch, error)
            return
        for (_, made), result in zip(batch, results, strict=True):
            if made.done():  # its client's task was cancelled
                continue
            if isinstance(result, bytes):
                made.set_result(result)
            else:
                made.set_exception(result)


def _settle(batch: list[tuple[Offer, "asyncio.Future[bytes]"]], error: Exception) -> None:
    for _, made in batch:
        if not made.done():
            made.set_exception(error)
