"""What a client keeps so that it can go on with its session over another connection (docs/resume.md).

No server says what it has received until it is asked, so what was sent lately is kept: more than can be on its way
between the two, be it in the system's buffers or in the server's.
"""

from collections import deque
from collections.abc import Iterator

#: Most that is kept of what was sent, in bytes: 8 minutes of 16 kHz, and more than systems buffer of one connection.
SENT_BYTES = 16 * 2**20
#: Pauses between tries to connect again, in seconds: at once, then growing, then as long as the last.
PAUSES_S = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0)
#: How long a server waits for its client where it does not say.
WINDOW_S = 60.0


class Forgotten(Exception):
    """The server wants again what is not kept any more."""


class Sent:
    """All messages of a session in order, the newest kept. `add` each; `next` gives those that are still to be sent."""

    def __init__(self, most_bytes: int = SENT_BYTES) -> None:
        #: Messages added so far.
        self.count = 0
        self._most_bytes = most_bytes
        self._kept: deque[bytes | str] = deque()
        self._bytes = 0
        self._sent = 0  # messages handed over to the present connection, and to those before it

    def add(self, message: bytes | str) -> None:
        """A message is to be sent. Those that were handed over long ago are let go."""
        self._kept.append(message)
        self._bytes += len(message)
        self.count += 1
        while self._bytes > self._most_bytes and self.count - len(self._kept) < self._sent:
            self._bytes -= len(self._kept.popleft())

    def next(self) -> bytes | str | None:
        """The first message that was not handed over; None: all were."""
        return self._kept[self._sent - self.count] if self._sent < self.count else None

    def handed_over(self) -> None:
        """`next()` was given to the connection."""
        self._sent += 1

    def rewind(self, received: int) -> None:
        """Another connection: the server has the first `received` messages. Raises Forgotten."""
        if not self.count - len(self._kept) <= received <= self.count:
            raise Forgotten
        self._sent = received


def pauses() -> Iterator[float]:
    """Before each try, for ever, in seconds."""
    yield from PAUSES_S
    while True:
        yield PAUSES_S[-1]
