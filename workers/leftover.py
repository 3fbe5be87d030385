"""When a worker's replays may have a step: what live sessions leave, and a little in any case.

While live sessions are seated, a replay's step is followed by as long without one, so that what a live session waits
for is seldom more than half of such a step. A worker that live sessions keep busy gives replays a step all the same,
after nine times its length and a second at least: a replay is slow then, and never stands still for ever.
"""

from workers.slots import Room

#: Pause after a replay's step, in its lengths: before the next where there is time, and where there is none.
PAUSE, LONGEST_PAUSE = 1.0, 9.0
#: The least of the latter, in seconds.
LEAST_S = 1.0


class Leftover:
    """Times in seconds of a clock that never goes back."""

    def __init__(self) -> None:
        self._over_s, self._took_s = 0.0, 0.0  # of the last step of a replay

    def took(self, began_s: float, now_s: float) -> None:
        """A replay has had a step."""
        self._over_s, self._took_s = now_s, now_s - began_s

    def room(self, live: bool, now_s: float) -> Room:
        """For a replay's step, beside `live` sessions."""
        since_s = now_s - self._over_s
        if not live or since_s < PAUSE * self._took_s:
            return Room.NONE if live else Room.LEFT
        return Room.FIRST if since_s >= max(LEAST_S, LONGEST_PAUSE * self._took_s) else Room.LEFT
