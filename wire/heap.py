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


#: What `hold` keeps: a few times what a node packs or reads at once.
HELD_BYTES = 8 * 2**20
#: Of glibc's malloc.h.
_TRIM_THRESHOLD = -1


def _of_glibc(name: str) -> Any:
    """A function of glibc; None where there is none (musl, macOS)."""
    try:
        return getattr(ctypes.CDLL(None), name)
    except (AttributeError, OSError):
        return None


_TRIM, _SET = _of_glibc("malloc_trim"), _of_glibc("mallopt")


def trim() -> bool:
    """Give back what is free; whether there was anything, False also where that cannot be done."""
    return bool(_TRIM(0)) if _TRIM is not None else False


def hold(size: int = HELD_BYTES) -> bool:
    """Give nothing back of less than `size` that is free at the heap's end, but in `trim`; False where that cannot be
    said. Each page that was given back costs a fault when it is taken again, and that is what a service does all the
    time whose work comes in beats.
    """
    return bool(_SET(_TRIM_THRESHOLD, size)) if _SET is not None else False


async def keep_trim(every_s: float = TRIM_S) -> None:
    """Do so for ever."""
    while True:
        await asyncio.sleep(every_s)
        await asyncio.to_thread(trim)
