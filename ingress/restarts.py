"""Where a session's decoder and converter may begin anew on another node, so that they go on as these would have.

A converter of rates, and Opus, remember a little of what came before. One that begins anew some messages earlier, and
whose first output is thrown away, hands out the same from then on. So the client is asked for these messages again.
"""

from collections import deque
from dataclasses import dataclass

from ingress.audio import Converter
from wire.entries import SAMPLE_RATE

#: How much a fresh decoder must hear before it can be believed, in seconds: Opus converges in 80 ms (RFC 7845, 4.6), a
#: converter's filter is shorter.
WARM_UP_S = 0.25
#: Most places remembered: packets of 2.5 ms for as long as that.
_MOST = 128


@dataclass(frozen=True)
class Point:
    """Behind `messages` of the client, `audio_bytes` of them audio: samples received, at the decoder's rate, and the
    position (16 kHz) at which a converter that begins here hands out its first sample.
    """

    messages: int
    audio_bytes: int
    received: int
    position: int


class Restarts:
    """`took` after each message of one session; `newest` tells from where its audio can be made anew."""

    def __init__(self, remembers: bool) -> None:
        """`remembers`: whether what comes out depends on more than the message that goes in."""
        self._warm_up_s = WARM_UP_S if remembers else 0.0
        self._points: deque[Point] = deque([Point(0, 0, 0, 0)], _MOST)

    def took(self, messages: int, audio_bytes: int, audio: Converter) -> None:
        """This many of the client's messages are behind us."""
        if audio.within_a_sample:
            return  # whoever began here would take its second half for a first
        received_here, position_here = audio.began
        walked = (audio.received - received_here) * SAMPLE_RATE / audio.rate
        self._points.append(Point(messages, audio_bytes, audio.received, position_here + round(walked)))
        warm = audio.received - self._warm_up_s * audio.rate
        while len(self._points) > 1 and self._points[1].received <= warm:
            self._points.popleft()

    def newest(self, received: int, rate: int) -> Point:
        """The newest point that lies far enough behind; the oldest one known if none does."""
        warm = received - self._warm_up_s * rate
        return next((point for point in reversed(self._points) if point.received <= warm), self._points[0])
