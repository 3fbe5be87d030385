"""What a worker knows of one session: where it is in the audio, which turn is open, what has been told.

Pure: entries and hypotheses come in, positions, checkpoints and publications come out.
"""

from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wire.entries import (
    SAMPLE_RATE,
    AudioEntry,
    AudioFrame,
    Checkpoint,
    Event,
    Lease,
    Order,
    Publication,
    SessionEvent,
)
from wire.errors import EntryError
from wire.messages import SpeechStarted, Turn, dump
from workers.recognizer import SlotOptions
from workers.turns import Effect, State, TurnRules, TurnTracker

#: Entries read but not yet fed; more stay in Redis until there is room.
CROWDED = 256
#: In silence a checkpoint is written this often, and this far behind what was heard: speech may just be setting in.
REST_EVERY_MS, REST_MARGIN_MS = 10_000, 1_000

_FROM_START = b"0-0"


class Seat:
    """One leased session. The engine feeds it in the log's order and performs what its tracker decides."""

    def __init__(self, lease: Lease) -> None:
        saved = lease.checkpoint or Checkpoint(0, 0, "", lease.offer.params)
        self.lease = lease
        self.session = lease.session
        self.params: Mapping[str, Any] = saved.params
        self.cursor = saved.entry_id.encode() or _FROM_START
        self.position = saved.position  # next sample to feed
        self.tracker = TurnTracker(TurnRules.of(saved.params), saved.turn_order, self.ms(saved.position))
        self.flush_asked_s = 0.0
        self._queue: deque[tuple[bytes, AudioEntry]] = deque()
        # What was consumed and is still needed: (position reached, entry, parameters by then).
        self._marks: deque[tuple[int, bytes, Mapping[str, Any]]] = deque()
        # The last entry that is not needed any more, and the parameters by then.
        self._done: tuple[str, Mapping[str, Any]] = (saved.entry_id, saved.params)
        self._saved_ms = self.origin_ms
        self._sequence = 0

    @staticmethod
    def ms(position: int) -> int:
        """Audio time of a position in samples."""
        return position * 1000 // SAMPLE_RATE

    @property
    def origin_ms(self) -> int:
        return self.ms(self.position)

    @property
    def options(self) -> SlotOptions:
        """What the model itself has to know."""
        return SlotOptions(vad_threshold=float(self.params["vad_threshold"]))

    @property
    def crowded(self) -> bool:
        """Enough entries wait here; reading on must wait."""
        return len(self._queue) >= CROWDED

    def receive(self, cursor: bytes, entries: Iterable[tuple[bytes, AudioEntry]]) -> None:
        """New entries of the session's log, up to `cursor`."""
        self._queue.extend(entries)
        self.cursor = cursor

    def next(self) -> AudioEntry | None:
        """The first entry not yet consumed."""
        return self._queue[0][1] if self._queue else None

    def samples(self, frame: AudioFrame) -> NDArray[np.int16]:
        """The frame's samples from the present position on. Raises EntryError if audio before it is missing."""
        if frame.position > self.position:
            raise EntryError(f"audio is missing from sample {self.position} to {frame.position}")
        samples: NDArray[np.int16] = np.frombuffer(frame.pcm, "<i2")
        return samples[self.position - frame.position :]

    def consumed(self, entry: AudioEntry) -> None:
        """`next()` has been fed or obeyed."""
        entry_id, _ = self._queue.popleft()
        if isinstance(entry, AudioFrame):
            self.position = max(self.position, entry.end)
        elif entry.order is Order.CONFIGURE:
            self.params = entry.fields or {}
        elif entry.order is Order.TERMINATE:
            return  # needed to the end: whoever takes over after the last final has still to say DONE
        self._marks.append((self.position, entry_id, self.params))

    def configure(self) -> list[Effect]:
        """The consumed configuration counts from here on."""
        return self.tracker.configure(TurnRules.of(self.params))

    def report(self, event: Event, text: str = "") -> Publication:
        """A publication without a message."""
        return Publication(self.lease, (self._event(event, text=text),))

    def publication(self, turn: Turn) -> Publication:
        """A turn for the client; a final carries the checkpoint from which another worker would go on."""
        event = self._event(Event.MESSAGE, turn.turn_order, turn.end_of_turn, dump(turn))
        if not turn.end_of_turn:
            return Publication(self.lease, (event,))
        return Publication(self.lease, (event,), self.checkpoint(turn.turn_order + 1, self.tracker.cut_ms))

    def message(self, started: SpeechStarted) -> Publication:
        """The onset of speech, for pools that tell it."""
        return Publication(self.lease, (self._event(Event.MESSAGE, self.tracker.order, text=dump(started)),))

    def rest(self, heard_ms: int) -> Publication | None:
        """A checkpoint in silence, now and then, so that the log of a quiet session does not grow for ever."""
        at_ms = heard_ms - REST_MARGIN_MS
        if self.tracker.state is not State.LISTENING or at_ms - self._saved_ms < REST_EVERY_MS:
            return None
        return Publication(self.lease, (), self.checkpoint(self.tracker.order, at_ms))

    def checkpoint(self, turn_order: int, at_ms: int) -> Checkpoint:
        """Everything before `at_ms` is done with."""
        self._saved_ms, position = at_ms, at_ms * SAMPLE_RATE // 1000
        while self._marks and self._marks[0][0] <= position:
            _, entry_id, params = self._marks.popleft()
            self._done = (entry_id.decode(), params)
        return Checkpoint(turn_order, position, self._done[0], dict(self._done[1]))

    def _event(self, event: Event, turn_order: int = -1, final: bool = False, text: str = "") -> SessionEvent:
        number, self._sequence = self._sequence, self._sequence + 1
        at_ms, generation = self.ms(self.position), self.lease.generation
        return SessionEvent(self.session, generation, number, event, at_ms, turn_order, final, text)


def refusal(lease: Lease, text: str) -> Publication:
    """What is told of a session that cannot even be seated."""
    return Publication(lease, (SessionEvent(lease.session, lease.generation, 0, Event.FAILED, text=text),))
