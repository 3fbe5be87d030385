"""The ingress nodes whose sessions a worker holds: which of them have died?

A node tells Redis every few seconds that it lives (`wire/moves.py`). One that was heard of once, and then not for a
while, is dead; one that was never heard of may be of a release that does not tell.
"""

from collections.abc import Mapping

#: How long a node must be missing, in seconds: a Redis that came back empty hears of it anew before.
MISSING_S = 5.0


class Feeders:
    """Call `heard` now and then with what Redis knows, and a time in seconds that never goes back."""

    def __init__(self) -> None:
        self._alive_at: dict[str, float] = {}

    def heard(self, living: Mapping[str, bool], now: float) -> set[str]:
        """Of these nodes, which are all whose sessions are held, the dead ones."""
        # A node is forgotten with its last session.
        known = {node: at for node, at in self._alive_at.items() if node in living}
        self._alive_at = known | {node: now for node, alive in living.items() if alive}
        return {node for node, at in self._alive_at.items() if now - at >= MISSING_S}
