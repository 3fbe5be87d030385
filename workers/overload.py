"""Whether a worker has more to do than it can: then it takes nothing new, free slots or not.

What it is behind by is measured, in seconds: how long a step takes on average, since nobody is answered sooner, or the
audio that its sessions have waiting, whichever is more. Of the sessions the median counts: a client that sends its
audio faster than it was spoken is behind by its own doing, and keeps nobody out. Replays are not counted: they come as
fast as they are taken, and give way.

It begins above a limit and ends at half of it, so that a worker at its limit does not let one in, suffer, and shut the
door again every second.
"""

from collections.abc import Collection
from statistics import median


def behind_s(step_s: float, backlogs_ms: Collection[int]) -> float:
    """What a worker is behind by: its average step, and the backlog of each live session."""
    return max(step_s, median(backlogs_ms) / 1000) if backlogs_ms else 0.0


class Overload:
    """Told again and again what the worker is behind by; `there` tells whether that is too much."""

    def __init__(self, limit_s: float) -> None:
        self.there = False
        self._limit_s = limit_s

    def heard(self, behind_s: float) -> bool:
        """Whether anything has changed."""
        before = self.there
        self.there = behind_s > (self._limit_s / 2 if before else self._limit_s)
        return self.there is not before
