"""A worker's leases: take offers into free slots, take over from the dead, renew, settle, give back.

A lease is a pending entry of the pool's offers (`wire/streams.py`). It is renewed four times in its life; whoever does
not is presumed dead, and its sessions are taken over. `Pool` holds no model and no audio.
"""

import logging
from collections.abc import Iterable

from wire import metrics
from wire.entries import Lease
from wire.streams import Bus

logger = logging.getLogger(__name__)


class Pool:
    """The leases of one worker. Call `join` first, then `take` and `renew` for ever, `leave` at the end."""

    def __init__(self, bus: Bus, pool: str, worker: str, lease_s: float) -> None:
        self.name = pool
        self.worker = worker
        self.lease_ms = int(lease_s * 1000)
        self.leases: dict[str, Lease] = {}
        self._bus = bus

    @property
    def renew_s(self) -> float:
        """How often to call `renew`."""
        return self.lease_ms / 4000

    async def join(self) -> None:
        """Raises BusUnavailable."""
        await self._bus.join(self.name)

    async def take(self, count: int, block_ms: int) -> list[Lease]:
        """Up to `count` new sessions; waits for one at most `block_ms`. Raises BusUnavailable."""
        return self._keep(await self._bus.take(self.name, self.worker, count, block_ms))

    async def take_over(self, count: int) -> list[Lease]:
        """Up to `count` sessions whose worker is gone or gave them back. Raises BusUnavailable."""
        gone_ms = None if self._bus.is_cluster else self.lease_ms // 2
        leases = await self._bus.take_over(self.name, self.worker, count, self.lease_ms, gone_ms)
        # Our own, if we slept past the lease: the generation has moved on, so the old seat must not go on.
        return self._keep(leases)

    def _keep(self, leases: Iterable[Lease]) -> list[Lease]:
        taken = list(leases)
        self.leases.update((lease.session, lease) for lease in taken)
        metrics.LEASES_TAKEN.inc(len(taken))
        return taken

    async def renew(self) -> list[Lease]:
        """Renew all leases. Returns the lost ones, which are ours no more. Raises BusUnavailable."""
        lost = await self._bus.renew(self.name, self.worker, list(self.leases.values()))
        return [lease for lease in lost if self.drop(lease)]

    def drop(self, lease: Lease) -> bool:
        """This lease is lost; whether it was still held (and not by now replaced by a newer one)."""
        if self.leases.get(lease.session) is not lease:
            return False
        del self.leases[lease.session]
        metrics.LEASES_LOST.inc()
        logger.warning("Lease lost", extra={"session": lease.session, "generation": lease.generation})
        return True

    async def settle(self, leases: Iterable[Lease]) -> None:
        """The sessions are over. Raises BusUnavailable."""
        over = list(leases)
        for lease in over:
            if self.leases.get(lease.session) is lease:
                del self.leases[lease.session]
        await self._bus.settle(self.name, self.worker, over)

    async def spare(self) -> int:
        """How many sessions the pool's other workers could take, as they have told lately. Raises BusUnavailable."""
        loads = await self._bus.loads(self.name)
        return sum(load.free for worker, load in loads.items() if worker != self.worker)

    async def hand_over(self, leases: Iterable[Lease]) -> None:
        """Let other workers take these over at once. Raises BusUnavailable: then in the time of a lease."""
        given = [lease for lease in leases if self.leases.get(lease.session) is lease]
        for lease in given:
            del self.leases[lease.session]
        await self._bus.give_back(self.name, self.worker, given)

    async def leave(self) -> None:
        """Give every session back and disappear from the pool. Raises BusUnavailable."""
        leases = list(self.leases.values())
        self.leases.clear()
        await self._bus.give_back(self.name, self.worker, leases)
        await self._bus.leave(self.name, self.worker)
