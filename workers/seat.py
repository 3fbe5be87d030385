"""What a worker knows of one session: where it is in the audio, which turn is open, what has been told.

Pure: entries and hypotheses come in, positions, checkpoints and publications come out.
"""

import math
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wire.entries import (
    SAMPLE_RATE,
    AudioEntry,
    AudioFrame,
    Checkpoint,
    Control,
    Event,
    Lease,
    Order,
    Publication,
    SessionEvent,
)
from wire.errors import EntryError
from wire.messages import Silence, SpeechStarted, Turn, dump
from wire.speech_models import MODELS, Family
from workers.recognizer import Hypothesis, Observation, Quiet, SlotOptions
from workers.turns import Effect, State, TurnRules, TurnTracker
from workers.words import Word

#: Entries read but not yet fed; more stay in Redis until there is room.
CROWDED = 256
#: Entries whose arrival is kept: more than are on their way at once.
ARRIVALS = 1_024
#: In silence a checkpoint is written this often, and this far behind what was heard: speech may just be setting in.
REST_EVERY_MS, REST_MARGIN_MS = 10_000, 1_000

#: Who takes over hears so much again of what has been told, from the beginning of a word on: a model may need what was
#: said before (`Rules.context_ms`), and its VAD some sound to have its bearings.
LEAD_MS, LONGEST_LEAD_MS = 4_000, 10_000
#: The same before silence, for the VAD alone.
QUIET_LEAD_MS = 1_000
#: Of the model's own places in silence (`Hypothesis.quiet`) so many are kept: one is behind the margin.
QUIET_PLACES = 4
#: Taking over begins at a whole multiple of this, so that chunks, and the VAD's hops in them, fall as they fell before.
LEAD_GRAIN_MS = 64

#: The U3 family tells a turn's first words after so much speech and the delay that the session wants, and news about
#: every second, or as seldom as this (protocol 2.2, 4.3.2).
EARLY_MS, RARE_MS = 256, 3_000
#: News of what was heard, and of silence, for sessions that asked for them (protocol 4.7, 4.8).
PULSE_MS = 1_000

_FROM_START = b"0-0"


class Seat:
    """One leased session. The engine feeds it in the log's order and performs what its tracker decides."""

    def __init__(self, lease: Lease) -> None:
        saved = lease.checkpoint or Checkpoint(0, 0, "", lease.offer.params)
        self.lease = lease
        self.session = lease.session
        self.params: Mapping[str, Any] = saved.params
        self.cursor = saved.entry_id.encode() or _FROM_START
        self.position = saved.position - saved.lead  # next sample to feed
        #: Until the words before this have been heard again: audio time of the open turn's begin, else None.
        self.leading_ms = self.ms(saved.position) if saved.lead else None
        self.tracker = TurnTracker(TurnRules.of(saved.params), saved.turn_order, self.ms(saved.position))
        self.flush_asked_s = 0.0
        self.news_s = 0.0  # when its log had something new last
        self.held_up_s = -math.inf  # when it was noticed last that something had been held up on its way here
        self._queue: deque[tuple[bytes, AudioEntry]] = deque()
        # What was consumed and is still needed: (position reached, entry, parameters by then).
        self._marks: deque[tuple[int, bytes, Mapping[str, Any]]] = deque()
        # The last entry that is not needed any more, and the parameters by then.
        self._done: tuple[str, Mapping[str, Any]] = (saved.entry_id, saved.params)
        self._arrivals: deque[tuple[int, float]] = deque(maxlen=ARRIVALS)  # position reached, when
        # Of entries not consumed: the number of a read's last, and since when.
        self._reads: deque[tuple[int, float]] = deque()
        self._lead_fed = False
        self._early: list[Word] = []  # of the open turn, settled before the lead was
        self._saved_ms = self.ms(saved.position)
        self._memory = saved.memory or None
        # Where words begin that a lead may begin with.
        self._origin_ms = self.origin_ms
        self._begins: deque[int] = deque([self.origin_ms])
        self._sequence = 0
        self._shown_order = saved.turn_order - 1  # of the newest turn that was shown before it was over
        self._speech, self._pulse_ms = 0.0, self.origin_ms
        self._quiet_ms: int | None = None
        self._quiet: deque[Quiet] = deque(maxlen=QUIET_PLACES)

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
        params = self.params
        codes = tuple(params.get("language_codes", ()))
        options = SlotOptions(
            vad_threshold=float(params["vad_threshold"]),
            language=codes[0] if len(codes) == 1 else None,
            languages=codes if len(codes) > 1 else (),
            keyterms=tuple(params.get("keyterms_prompt", ())),
            memory=self._memory,
            mode=str(params.get("mode") or ""),
        )
        if not self._is_u3:
            return options
        return replace(
            options,
            prompt=str(params.get("prompt", "")),
            agent_context=str(params.get("agent_context", "")),
            previous_turns=int(params.get("previous_context_n_turns", 0)),
            first_ms=int(params.get("interruption_delay", 0)) + EARLY_MS,
            partial_ms=0 if params.get("continuous_partials", True) else RARE_MS,
        )

    @property
    def _is_u3(self) -> bool:
        model = MODELS.get(self.params.get("speech_model", ""))
        return model is not None and model.family is Family.U3

    @property
    def tells_partials(self) -> bool:
        """Whether the client wants to see turns before they end."""
        return bool(self.params.get("include_partial_turns", True))

    @property
    def abandoned(self) -> bool:
        """Whether the client has gone, as far as the log is known here."""
        return any(isinstance(entry, Control) and entry.order is Order.ABANDON for _, entry in self._queue)

    @property
    def crowded(self) -> bool:
        """Enough entries wait here; reading on must wait."""
        return len(self._queue) >= CROWDED

    def receive(self, cursor: bytes, entries: Iterable[tuple[bytes, AudioEntry]], since_s: float) -> None:
        """New entries of the session's log, up to `cursor`, which were not there at `since_s`."""
        self._queue.extend(entries)
        self._reads.append((_number(cursor), since_s))
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
            self._arrivals.append((self.position, self._since_s(_number(entry_id))))
        elif entry.order is Order.CONFIGURE:
            self.params = entry.fields or {}
        elif entry.order is Order.TERMINATE:
            return  # needed to the end: whoever takes over after the last final has still to say DONE
        self._marks.append((self.position, entry_id, self.params))

    def arrived_s(self, position: int) -> float | None:
        """When the audio before `position` was not yet in Redis: the worker had looked in vain, a step before it came.

        In seconds, by the clock of `receive`. None: it is not known. Ask in order.
        """
        while len(self._arrivals) > 1 and self._arrivals[0][0] < position:
            self._arrivals.popleft()
        return self._arrivals[0][1] if self._arrivals else None

    def _since_s(self, number: int) -> float:
        while self._reads[0][0] < number:
            self._reads.popleft()
        return self._reads[0][1]

    def configure(self) -> list[Effect]:
        """The consumed configuration counts from here on."""
        return self.tracker.configure(TurnRules.of(self.params))

    def lead_heard_to(self) -> int | None:
        """Once, when all of the lead has been fed: the time up to which its words are to be settled, and forgotten."""
        if self.leading_ms is None or self._lead_fed or self.ms(self.position) < self.leading_ms:
            return None
        self._lead_fed = True
        return self.leading_ms

    def heard(self, hypothesis: Hypothesis) -> Hypothesis:
        """What of the hypothesis is new: while the lead is heard again, nothing that was said before its end."""
        begin_ms, flushed_ms = self.leading_ms, hypothesis.flushed_ms
        if hypothesis.quiet is not None:
            self._quiet.append(hypothesis.quiet)
        if flushed_ms is not None and flushed_ms != begin_ms:
            self._memory = hypothesis.memory
        if begin_ms is None:
            return hypothesis
        hops = tuple(hop for hop in hypothesis.observations if hop.at_ms > begin_ms)
        self._early += [word for word in hypothesis.settled if word.start_ms >= begin_ms]
        if flushed_ms is None or flushed_ms < begin_ms:
            return Hypothesis(hops)
        self.leading_ms = None
        # A later one was asked by the tracker, and took ours along.
        answer = flushed_ms if flushed_ms > begin_ms else None
        return replace(hypothesis, observations=hops, settled=tuple(self._early), flushed_ms=answer)

    def report(self, event: Event, text: str = "") -> Publication:
        """A publication without a message."""
        order = self.tracker.order if event is Event.TAKEN else -1
        return Publication(self.lease, (self._event(event, order, text=text),))

    def publication(self, turn: Turn) -> Publication:
        """A turn for the client; a final carries the checkpoint from which another worker would go on."""
        event = self._event(Event.MESSAGE, turn.turn_order, turn.end_of_turn, dump(turn))
        if not turn.end_of_turn:
            return Publication(self.lease, (event,))
        end_ms = self.tracker.cut_ms
        self._begins.extend(word.start for word in turn.words)
        while len(self._begins) > 1 and self._begins[1] <= end_ms - LEAD_MS:
            self._begins.popleft()
        from_ms = max(self._begins[0], end_ms - LONGEST_LEAD_MS)
        return Publication(self.lease, (event,), self.checkpoint(turn.turn_order + 1, end_ms, from_ms))

    def is_first_partial(self, turn: Turn) -> bool:
        """Whether nothing was shown of this turn; told once."""
        first, self._shown_order = turn.turn_order > self._shown_order, turn.turn_order
        return first

    def message(self, started: SpeechStarted) -> Publication:
        """The onset of speech, for pools that tell it."""
        return Publication(self.lease, (self._event(Event.MESSAGE, self.tracker.order, text=dump(started)),))

    def pulses(self, observations: Iterable[Observation]) -> list[Publication]:
        """What a session that asked for it is told, about once a second of audio: how loud speech was; silence."""
        told: list[Publication] = []
        for hop in observations:
            self._speech = max(self._speech, hop.speech)
            if hop.at_ms - self._pulse_ms >= PULSE_MS:
                if self.params.get("session_heartbeat"):
                    told.append(self.report(Event.HEARD, f"{min(max(self._speech, 0.0), 1.0):.4f}"))
                self._speech, self._pulse_ms = 0.0, hop.at_ms
            told += self._silence(hop.at_ms)
        return told

    def _silence(self, at_ms: int) -> list[Publication]:
        wanted = self.params.get("acknowledge_silence") and self._is_u3
        if not wanted or self.tracker.state is not State.LISTENING:
            self._quiet_ms = None
            return []
        start_ms = self._quiet_ms if self._quiet_ms is not None else at_ms
        if at_ms - start_ms < PULSE_MS:
            self._quiet_ms = start_ms
            return []
        self._quiet_ms = at_ms
        return [Publication(self.lease, (self._event(Event.MESSAGE, text=dump(Silence(start_ms, at_ms))),))]

    def rest(self, heard_ms: int) -> Publication | None:
        """A checkpoint in silence, now and then, so that the log of a quiet session does not grow for ever."""
        at_ms = heard_ms - REST_MARGIN_MS
        if self.tracker.state is not State.LISTENING or at_ms - self._saved_ms < REST_EVERY_MS:
            return None
        order = self.tracker.order
        places = [place for place in self._quiet if self._saved_ms < place.at_ms <= at_ms]
        if not places:
            return Publication(self.lease, (), self.checkpoint(order, at_ms, at_ms - QUIET_LEAD_MS))
        place = places[-1]
        saved = self.checkpoint(order, place.at_ms, place.from_ms)
        return Publication(self.lease, (), replace(saved, memory=place.memory))

    def checkpoint(self, turn_order: int, at_ms: int, from_ms: int) -> Checkpoint:
        """Everything before `at_ms` has been told; what comes after `from_ms` will be heard again, or a little more."""
        self._saved_ms, position = at_ms, at_ms * SAMPLE_RATE // 1000
        from_ms = max(self._origin_ms, min(from_ms, at_ms) // LEAD_GRAIN_MS * LEAD_GRAIN_MS)
        self._origin_ms = from_ms  # what lies before is gone, and no later checkpoint may ask for it
        first = min(position, from_ms * SAMPLE_RATE // 1000)
        while self._marks and self._marks[0][0] <= first:
            _, entry_id, params = self._marks.popleft()
            self._done = (entry_id.decode(), params)
        lead = position - first
        return Checkpoint(turn_order, position, self._done[0], dict(self._done[1]), lead, self._memory or {})

    def _event(self, event: Event, turn_order: int = -1, final: bool = False, text: str = "") -> SessionEvent:
        number, self._sequence = self._sequence, self._sequence + 1
        at_ms, generation = self.ms(self.position), self.lease.generation
        return SessionEvent(self.session, generation, number, event, at_ms, turn_order, final, text)


def refusal(lease: Lease, text: str) -> Publication:
    """What is told of a session that cannot even be seated."""
    return Publication(lease, (SessionEvent(lease.session, lease.generation, 0, Event.FAILED, text=text),))


def _number(entry_id: bytes) -> int:
    return int(entry_id.partition(b"-")[0])
