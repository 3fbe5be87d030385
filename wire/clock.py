"""One time for the processes of a stack, whatever their machines' clocks say: that of their Redis.

What one process writes and another compares with its own time (how long a worker's load counts, when a session began)
would go wrong by as much as two machines' clocks differ. Redis's clock, heard now and then with other commands, is the
same for all; in between, the monotonic clock goes on from it, which nobody sets.
"""

#: A sample is as wrong as half its round trip, at most. The best one is kept for so long; quartz drifts by less than
#: 100 ppm, 6 ms a minute.
KEPT_S = 60.0


class SharedClock:
    """Arguments in seconds: `now_s` of the monotonic clock, `unix_s` of Unix time."""

    def __init__(self, now_s: float, unix_s: float) -> None:
        """Until it is heard, the machine's own time, `unix_s`, is as good as any."""
        self._ahead_s = unix_s - now_s
        self._round_trip_s = float("inf")
        self._heard_at_s = now_s

    def heard(self, unix_s: float, asked_s: float, answered_s: float) -> None:
        """Redis said that it was `unix_s`, at some time between these two.

        A sample with a longer round trip than the one that is kept tells less, unless the two cannot both be true: the
        clock was set, or another server has taken over.
        """
        round_trip_s = answered_s - asked_s
        ahead_s = unix_s - (asked_s + answered_s) / 2
        contradicts = abs(ahead_s - self._ahead_s) > (round_trip_s + self._round_trip_s) / 2 + 0.001
        if round_trip_s <= self._round_trip_s or contradicts or answered_s - self._heard_at_s > KEPT_S:
            self._ahead_s, self._round_trip_s, self._heard_at_s = ahead_s, round_trip_s, answered_s

    def unix_s(self, now_s: float) -> float:
        """What time it is."""
        return now_s + self._ahead_s
