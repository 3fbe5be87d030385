"""Ending a task for certain."""

import asyncio
from typing import Any

#: How long one cancellation has to work before the next.
_PAUSE_S = 0.2


async def end(task: "asyncio.Task[Any]") -> None:
    """Cancel `task` until it has ended. What it returned or raised is left in it.

    Once is not enough for a task that talks to Redis: redis-py sends through `wait_for`, which in Python 3.11 forgets a
    cancellation that meets the end of the send (python/cpython#86296), and a loop then goes on for ever.
    """
    while not task.done():
        task.cancel()
        await asyncio.wait([task], timeout=_PAUSE_S)
