"""What a session's messages say about delays.

All delays are what a person who speaks would wait: from the moment when the sound was spoken, which for audio sent
live is `audio_start_s` plus its place in the audio. They include the wait for a chunk to fill and for the network.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any


@dataclass
class Latencies:
    """Feed it with `begun` and `observe`; read the lists (ms, one entry per turn) and `begin_ms`.

    first_partial_ms  from the start of a turn's first word (as its final has it) to the first message of that turn
    final_ms          from the end of a turn's last word to its final, the silence that ends a turn included; turns
                      that the client ended (Terminate) are left out
    """

    audio_start_s: float | None = None
    begin_ms: float | None = None
    terminated: bool = False  # the client has sent Terminate: what follows is no answer to a pause
    first_partial_ms: list[float] = field(default_factory=list)
    final_ms: list[float] = field(default_factory=list)
    _first_seen_s: dict[int, float] = field(default_factory=dict)

    def begun(self, connect_s: float, now_s: float) -> None:
        """Begin came at `now_s` after a connection attempt at `connect_s`."""
        self.begin_ms = (now_s - connect_s) * 1000

    def observe(self, message: Mapping[str, Any], now_s: float) -> None:
        """A server message that came at `now_s`; all but Turns are ignored."""
        if message.get("type") != "Turn" or not message["words"] or self.audio_start_s is None:
            return
        order = message["turn_order"]
        seen_s = self._first_seen_s.setdefault(order, now_s)
        if not message["end_of_turn"]:
            return
        del self._first_seen_s[order]
        first, last = message["words"][0], message["words"][-1]
        self.first_partial_ms.append((seen_s - self.audio_start_s) * 1000 - first["start"])
        if not self.terminated:
            self.final_ms.append((now_s - self.audio_start_s) * 1000 - last["end"])


def summary(values: Sequence[float]) -> str:
    """`412 ms (median of 5; 380 to 610)`, or a dash where nothing was measured."""
    if not values:
        return "-"
    if len(values) == 1:
        return f"{values[0]:.0f} ms"
    return f"{median(values):.0f} ms (median of {len(values)}; {min(values):.0f} to {max(values):.0f})"
