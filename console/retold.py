"""A recording told turn by turn: which words were known when, why each turn ended, how long each message took.

*Received by* a wall time is the audio that had come in by then: that is where a message stands in the picture, so that
its distance from its last word is what a person waited, whether the audio came live or faster. Wall times are of
several machines (`wire/recorded.py`); a difference that comes out below zero is taken for none.
"""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any

from wire.delays import Way, Ways
from wire.entries import SAMPLE_RATE
from wire.recorded import (
    Audio,
    Connection,
    Decided,
    Dropped,
    Item,
    Missed,
    Ordered,
    Said,
    Taken,
)
from wire.recordings import Message, Recording

#: The stages of a message's way (`wire/delays.py`), and what each is called here.
PHASES: Mapping[str, str] = {
    "queued": "to the worker",
    "begun": "waiting, for more sound or the step",
    "stepped": "model",
    "published": "publishing",
    "told": "to the client",
}
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
    """One Turn message. `behind_ms`: since the end of its last word arrived; `phases_ms`: how much of it each of PHASES
    took, empty where the worker's side is not known.
    """

    at_s: float
    received_ms: int
    final: bool
    transcript: str
    words: tuple[Word, ...]
    behind_ms: float | None
    phases_ms: tuple[float, ...]
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
    """How much audio had come in by when."""

    def __init__(self, frames: Sequence[Audio]) -> None:
        self._ends = [frame.end for frame in frames]
        self._times = list(accumulate((frame.at_s for frame in frames), max))

    def by(self, at_s: float) -> int:
        """In ms, at this Unix time."""
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
        way = self._ways.of(message, words[-1].end_ms) if words else Way()
        return Row(
            at_s=message.at_s,
            received_ms=self.arrivals.by(message.at_s),
            final=message.is_final,
            transcript=str(message.fields.get("transcript", "")),
            words=words,
            behind_ms=way.total_ms,
            phases_ms=_phases(way),
            generation=message.item.generation,
        )

    @cached_property
    def takeovers(self) -> tuple[Note, ...]:
        """Where another worker went on."""
        return tuple(note for note in self.notes if note.kind == "taken again")

    @cached_property
    def _decisions(self) -> Mapping[int, Decided]:
        """The last of each turn: the one that held, where a turn was heard again."""
        return {one.turn_order: one for one in self.recording.decisions}

    @cached_property
    def _ways(self) -> Ways:
        return Ways(self.recording)

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


def _phases(way: Way) -> tuple[float, ...]:
    if way.published_s is None:
        return ()
    parts = way.parts_ms
    return tuple(max(0.0, parts.get(stage, 0.0)) for stage in PHASES)


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
