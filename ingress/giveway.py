"""Replays give way (docs/replay.md): which of this node's must end, and which may begin.

Replays are for machines that have nothing else to do. A live session is counted without them wherever there is a limit:
of the node (MAX_SESSIONS), of a key or the licence (`ingress/places.py`), of a pool's slots, here.
"""

from collections.abc import Callable, Sequence


def ending(replays: Sequence[tuple[str, str]], spare: Callable[[str], int]) -> list[str]:
    """Of replays as (session, pool), in the order in which they began: the newest, as many as sessions wait for a slot.

    `spare` of a pool: its slots less those who wait for one (`ingress/pools.py`).
    """
    needed = {pool: max(0, -spare(pool)) for _, pool in replays}
    chosen = []
    for session, pool in reversed(replays):
        if needed[pool] > 0:
            needed[pool] -= 1
            chosen.append(session)
    return chosen


def may_begin(spare: int, sessions: int, most: int) -> bool:
    """Whether a replay may: a slot is to spare, and so is a place among the `most` sessions of the node."""
    return spare > 0 and sessions < most
