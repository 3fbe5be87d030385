"""A recording told turn by turn: which words were known when, why each turn ended, how long each message took.

*Received by* a wall time is the audio that had come in by then: that is where a message stands in the picture, so that
its distance from its last word is what a person waited, whether the audio came live or faster. Wall times are of
several machines (`wire/recorded.py`); a difference that comes out below zero is taken for none.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise
from typing import Any

from wire.entries import SAMPLE_RATE
from wire.recorded import (
    Audio,
    Connection,
    Decided,
    Dropped,
    Item,
    Missed,
    Ordered,
    Published,
    Said,
    Stepped,
    Taken,
)
from wire.recordings import Message, Recording

#: The way of a message, from the audio's arrival to the client.
PHASES = ("to the worker", "waiting", "model", "deciding", "publishing", "to the client")
#: So much is shown before a turn's first word and after its last, in ms.
MARGIN_MS = 300


@dataclass(frozen=True)
class Word:
    """A word as a message told it; `fresh`: the message before had another one, or none, at its place."""

    text: str
    start_ms: int
    end_ms: int
    confidence: float
    settled: bool
    fresh: bool


@dataclass(frozen=True)
class Row:
    """One Turn message. `behind_s`: since the end of its last word arrived; `phases`: seconds of each of PHASES."""

    at_s: float
    received_ms: int
    final: bool
    transcript: str
    words: tuple[Word, ...]
    behind_s: float | None
    phases: tuple[float, ...]
    generation: int


@dataclass(frozen=True)
class Turn:
    """All messages of one turn, from `from_ms` to `to_ms` of the audio, margins included."""

    order: int
    rows: tuple[Row, ...]
    decision: Decided | None
    from_ms: int
    to_ms: int

    @property
    def final(self) -> Row | None:
        return next((row for row in reversed(self.rows) if row.final), None)

    @property
    def text(self) -> str:
        row = self.final or self.rows[-1]
        return row.transcript or " ".join(word.text for word in row.words)


@dataclass(frozen=True)
class Note:
    """Something else that happened: `kind` for the looks, `text` for the reader."""

    at_s: float
    received_ms: int
    kind: str
    text: str


class Arrivals:
    """When which audio came in."""

    def __init__(self, frames: Sequence[Audio]) -> None:
        self._ends = [frame.end for frame in frames]
        self._times = list(accumulate((frame.at_s for frame in frames), max))

    def of(self, ms: int) -> float | None:
        """When the audio at this place was there, in Unix seconds; None if it never came."""
        place = bisect_left(self._ends, ms * SAMPLE_RATE // 1000)
        return self._times[place] if place < len(self._times) else None

    def by(self, at_s: float) -> int:
        """How much audio there was by then, in ms."""
        place = bisect_right(self._times, at_s)
        return self._ends[place - 1] * 1000 // SAMPLE_RATE if place else 0


@dataclass(frozen=True)
class Story:
    """See the module."""

    recording: Recording

    @cached_property
    def arrivals(self) -> Arrivals:
        return Arrivals(self.recording.frames)

    @cached_property
    def length_ms(self) -> int:
        """The audio's length, or where the last word or decision lies beyond it."""
        audio = len(self.recording.pcm) // 2 * 1000 // SAMPLE_RATE
        return (
            max(audio, *(turn.to_ms - MARGIN_MS for turn in self.turns), 1) if self.turns else max(audio, 1)
        )

    @cached_property
    def turns(self) -> tuple[Turn, ...]:
        """In the order of their numbers."""
        told: dict[int, list[Message]] = {}
        for message in self.recording.messages:
            if message.is_turn and isinstance(order := message.fields.get("turn_order"), int):
                told.setdefault(order, []).append(message)
        return tuple(self._turn(order, messages) for order, messages in sorted(told.items()))

    @cached_property
    def notes(self) -> tuple[Note, ...]:
        """What happened beside the turns, in order of time."""
        found = [self._note(item) for item in self.recording.items] + [
            Note(message.at_s, self.arrivals.by(message.at_s), "told", _told(message))
            for message in self.recording.messages
            if not message.is_turn
        ]
        return tuple(sorted((note for note in found if note is not None), key=lambda note: note.at_s))

    def _turn(self, order: int, messages: Sequence[Message]) -> Turn:
        rows: list[Row] = []
        for message in messages:
            rows.append(self._row(message, rows[-1].words if rows else ()))
        decision = self._decisions.get(order)
        places = [place for row in rows for word in row.words for place in (word.start_ms, word.end_ms)]
        places += [decision.end_ms, decision.heard_ms] if decision else []
        places = places or [rows[0].received_ms]
        return Turn(order, tuple(rows), decision, max(0, min(places) - MARGIN_MS), max(places) + MARGIN_MS)

    def _row(self, message: Message, before: Sequence[Word]) -> Row:
        words = _words(message.fields, before)
        came_s = self.arrivals.of(words[-1].end_ms) if words else None
        return Row(
            at_s=message.at_s,
            received_ms=self.arrivals.by(message.at_s),
            final=message.is_final,
            transcript=str(message.fields.get("transcript", "")),
            words=words,
            behind_s=None if came_s is None else message.at_s - came_s,
            phases=self._phases(message),
            generation=message.item.generation,
        )

    def _phases(self, message: Message) -> tuple[float, ...]:
        """Seconds of each phase; empty where the worker's side was not recorded."""
        published = self._published.get((message.item.generation, message.item.sequence))
        if published is None:
            return ()
        steps = self._steps.get(published.generation, [])
        place = bisect_right(steps, published.decided_s, key=lambda step: step.at_s)
        if not place:
            return ()
        step = steps[place - 1]
        came_s = self.arrivals.of(step.to_ms)
        moments = [step.queued_s if came_s is None else came_s, step.queued_s, step.begun_s, step.at_s]
        moments += [published.decided_s, published.at_s, message.at_s]
        return tuple(max(0.0, later - earlier) for earlier, later in pairwise(moments))

    @cached_property
    def takeovers(self) -> tuple[Note, ...]:
        """Where another worker went on."""
        return tuple(note for note in self.notes if note.kind == "taken again")

    @cached_property
    def _decisions(self) -> Mapping[int, Decided]:
        """The last of each turn: the one that held, where a turn was heard again."""
        return {one.turn_order: one for one in self.recording.decisions}

    @cached_property
    def _published(self) -> Mapping[tuple[int, int], Published]:
        return {(one.generation, one.sequence): one for one in self.recording.of(Published)}

    @cached_property
    def _steps(self) -> Mapping[int, list[Stepped]]:
        found: dict[int, list[Stepped]] = {}
        for step in self.recording.of(Stepped):
            found.setdefault(step.generation, []).append(step)
        return found

    def _note(self, item: Item) -> Note | None:
        match item:
            case Taken():
                kind = "taken" if item.generation == 1 else "taken again"
                text = f"{item.worker} holds the session with {item.model or 'a model that is not named'}"
                text += f", software {item.software}" if item.software else ""
                again = f"; generation {item.generation} goes on at {item.from_ms / 1000:.2f} s"
                text += again if item.generation > 1 else ""
            case Said():
                kind, text = "said", f"Client: {item.text[:300]}"
            case Ordered():
                kind, text = (
                    "order",
                    f"Order to the worker: {item.order} at {item.position / SAMPLE_RATE:.2f} s",
                )
            case Dropped():
                kind, text = (
                    "dropped",
                    f"Not passed on ({item.reason}): {item.text[:200] or 'an event without text'}",
                )
            case Connection():
                told = " ".join(str(part) for part in (item.code or "", item.reason) if part)
                kind, text = "connection", f"Connection {item.happened}{f': {told}' if told else ''}"
            case Missed():
                kind, text = "dropped", f"{item.count} items were not recorded: {item.reason}"
            case _:
                return None
        return Note(item.at_s, self.arrivals.by(item.at_s), kind, text)


def _words(fields: Mapping[str, Any], before: Sequence[Word]) -> tuple[Word, ...]:
    told = fields.get("words")
    found: list[Word] = []
    for word in told if isinstance(told, list) else ():
        if not isinstance(word, dict):
            continue
        text, start, end = str(word.get("text", "")), word.get("start"), word.get("end")
        confidence = word.get("confidence", 0.0)
        if not (isinstance(start, int) and isinstance(end, int) and isinstance(confidence, (int, float))):
            continue
        place = len(found)
        fresh = place >= len(before) or before[place].text != text
        found.append(Word(text, start, end, float(confidence), bool(word.get("word_is_final")), fresh))
    return tuple(found)


def _told(message: Message) -> str:
    rest = {name: value for name, value in message.fields.items() if name not in ("type", "configuration")}
    return f"{message.type or 'A message that is no JSON'}: " + ", ".join(f"{k} {v}" for k, v in rest.items())
