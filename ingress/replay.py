"""What a resumable session has told its client, kept to be told again (docs/resume.md).

Messages are numbered from 1. The newest are kept, up to a number of bytes; what a client has missed of older ones is
not passed over in silence: it cannot resume.
"""

from collections import deque
from collections.abc import Iterable

from wire.errors import cannot_resume
from wire.messages import numbered

#: Most that is kept of one session, in bytes of JSON: minutes of news, or hours of finals.
KEPT_BYTES = 2**20


class Replay:
    """`number` every message as it is sent; `since` gives what a client has missed."""

    def __init__(self, most_bytes: int = KEPT_BYTES) -> None:
        #: The number of the newest message; 0 before the first.
        self.sequence = 0
        self._most_bytes = most_bytes
        self._texts: deque[str] = deque()
        self._bytes = 0

    def number(self, text: str) -> str:
        """The message as it is to be sent."""
        self.sequence += 1
        text = numbered(text, self.sequence)
        self._texts.append(text)
        self._bytes += len(text.encode())
        while self._bytes > self._most_bytes:
            self._bytes -= len(self._texts.popleft().encode())
        return text

    def go_on(self, sequence: int, told: Iterable[tuple[int, str]]) -> None:
        """As if messages up to this number had been sent, these being the newest of them, in order."""
        self.sequence = sequence
        numbered_texts = [(number, text) for number, text in told if number <= sequence]
        first = sequence - len(numbered_texts) + 1
        whole = [number for number, _ in numbered_texts] == list(range(first, sequence + 1))
        self._texts = deque(text for _, text in numbered_texts if whole)
        self._bytes = sum(len(text.encode()) for text in self._texts)

    def after(self, sequence: int) -> list[tuple[int, str]]:
        """The messages kept whose numbers are higher, with their numbers."""
        first = self.sequence - len(self._texts) + 1
        return [(number, text) for number, text in enumerate(self._texts, first) if number > sequence]

    def since(self, sequence: int) -> list[str]:
        """The messages after this one, oldest first. Raises ClientError 1008: not kept any more, or never sent."""
        missed = self.sequence - sequence
        if not 0 <= missed <= len(self._texts):
            raise cannot_resume()
        return list(self._texts)[len(self._texts) - missed :]
