"""The ingress nodes whose sessions a worker holds: which of them have died?

A node tells Redis every second that it lives, and is connected to it (`wire/moves.py`). One that was heard of once, and
then not for a while, is dead; one that was never heard of may be of a release that does not tell. After a time in which
Redis did not answer all begins anew: nodes were away as well, and come back one by one.
"""

from collections.abc import Mapping

#: How long a node must be missing, in seconds, about as long as a lease.
MISSING_S = 1.5
#: Longer between two answers: Redis was away, or we were; and for how much longer nodes may then be missing.
GAP_S, BACK_S = 1.0, 3.5


class Feeders:
    """Call `heard` now and then with what Redis knows, and a time in seconds that never goes back."""

    def __init__(self) -> None:
        self._alive_at: dict[str, float] = {}
        self._heard_at = 0.0

    def heard(self, living: Mapping[str, bool], now: float) -> set[str]:
        """Of these nodes, which are all whose sessions are held, the dead ones."""
        gap, self._heard_at = now - self._heard_at > GAP_S, now
        # A node is forgotten with its last session.
        known = {node: now + BACK_S if gap else at for node, at in self._alive_at.items() if node in living}
        self._alive_at = known | {node: now for node, alive in living.items() if alive}
        return {node for node, at in self._alive_at.items() if now - at >= MISSING_S}
