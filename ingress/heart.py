"""This node lives: told to workers, who let sessions of dead nodes go (`workers/feeders.py`), and heard where they did.

A beat a second, which lasts for a few; and a connection on which nothing is said, whose end is seen at once. A node
that was cut off, or slept, hears that it was taken for dead: its sessions may have been let go, and begin anew at their
last checkpoints.
"""

import asyncio
from collections.abc import Awaitable, Callable

from ingress.reach import Reach
from wire.errors import BusUnavailable
from wire.moves import Moves
from wire.presence import Presence
from wire.streams import Bus

BEAT_S = 1.0
#: How long a beat lasts: a busy machine may miss some.
ALIVE_S = 5.0


class Heart:
    """Of one node. `run` it; `given_up` is called when others may have taken the node for dead, until it does not raise
    BusUnavailable.
    """

    def __init__(
        self, bus: Bus, moves: Moves, instance: str, reach: Reach, given_up: Callable[[], Awaitable[None]]
    ) -> None:
        self._presence = Presence(bus, bus.keys.ingress_present(instance))
        self._moves = moves
        self._instance = instance
        self._reach = reach
        self._given_up = given_up
        self._buried = 0  # how often, as far as something was done about it

    async def run(self) -> None:
        """For ever."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._presence.run())
            await self._presence.show()
            while True:
                await self.beat()
                await asyncio.sleep(BEAT_S)

    async def beat(self) -> None:
        """Once."""
        try:
            buried = await self._moves.beat(self._instance, ALIVE_S, self._presence.seen)
            if buried > self._buried:
                await self._given_up()
            self._buried = buried
        except BusUnavailable as error:
            self._reach.missed("beat", error)
