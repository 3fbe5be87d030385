"""Memory that is free goes back to the system now and then.

The C library keeps what was freed for the next request, in pieces between what is still in use. A node that has served
ten thousand clients over TLS (256 KiB of buffers for each while it is connected), or a model that has met batches of
every size, holds on to what its busiest moments took, and grows with each that is a little busier: which looks like a
leak, and costs like one (DECISIONS.md, «What grew and was no leak»).
"""

import asyncio
import ctypes
from typing import Any

#: How often, in seconds. It takes some milliseconds, on a thread of its own.
TRIM_S = 30.0


def _trimmer() -> Any:
    """glibc's malloc_trim; None where there is none (musl, macOS)."""
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError):
        return None


_TRIM = _trimmer()


def trim() -> bool:
    """Give back what is free; whether there was anything, False also where that cannot be done."""
    return bool(_TRIM(0)) if _TRIM is not None else False


async def keep_trim(every_s: float = TRIM_S) -> None:
    """Do so for ever."""
    while True:
        await asyncio.sleep(every_s)
        await asyncio.to_thread(trim)
