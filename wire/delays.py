"""Where the time went between a word and its message: from the times that a recording holds.

    arrived    the frame that holds the word's end reached ingress
    queued     a worker had read it
    begun      the step began that led to the message
    stepped    its result was there, and the message decided
    published  the message was in Redis; no later than told, though Redis may be slow to say so to the worker
    told       it was sent to the client

Worker and ingress have clocks of their own: where they are different machines, what lies between them differs by what
their clocks differ.
"""

from bisect import bisect_left
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any

from wire.entries import SAMPLE_RATE
from wire.recorded import Published, Stepped
from wire.recordings import Message, Recording

#: Two words of one turn are the same if they read alike and begin within so many ms of each other.
SAME_WORD_MS = 300


@dataclass(frozen=True)
class Way:
    """Unix times; None where the recording does not tell."""

    arrived_s: float | None = None
    queued_s: float | None = None
    begun_s: float | None = None
    stepped_s: float | None = None
    published_s: float | None = None
    told_s: float | None = None

    @property
    def total_ms(self) -> float | None:
        """From the word's audio to its message."""
        if self.arrived_s is None or self.told_s is None:
            return None
        return 1000 * (self.told_s - self.arrived_s)

    @property
    def parts_ms(self) -> dict[str, float]:
        """The time before each stage since the stage before it, of those that are known."""
        known = [(field.name.removesuffix("_s"), getattr(self, field.name)) for field in fields(self)]
        told = [(name, at_s) for name, at_s in known if at_s is not None]
        return {name: 1000 * (at_s - before_s) for (_, before_s), (name, at_s) in pairwise(told)}


@dataclass(frozen=True)
class Heard:
    """A word of a final, the message that told it first, and its way there."""

    word: Mapping[str, Any]
    first: Message
    way: Way


class Ways:
    """Looks up ways in one recording."""

    def __init__(self, recording: Recording) -> None:
        self._frames = recording.frames
        self._ends = [frame.end for frame in recording.frames]
        self._steps = sorted(recording.of(Stepped), key=lambda step: step.to_ms)
        self._step_ends = [step.to_ms for step in self._steps]
        self._by_time = {(step.generation, step.at_s): step for step in self._steps}
        self._published = {(one.generation, one.sequence): one for one in recording.of(Published)}

    def of(self, message: Message, end_ms: int) -> Way:
        """From the audio that ends at `end_ms` to this message."""
        place = bisect_left(self._ends, end_ms * SAMPLE_RATE // 1000)
        arrived_s = self._frames[place].at_s if place < len(self._frames) else None
        place = bisect_left(self._step_ends, end_ms)
        queued_s = self._steps[place].queued_s if place < len(self._steps) else None
        published = self._published.get((message.item.generation, message.item.sequence))
        step = published and self._by_time.get((published.generation, published.decided_s))
        return Way(
            arrived_s,
            queued_s,
            step.begun_s if step else None,
            published.decided_s if published else None,
            min(published.at_s, message.at_s) if published else None,
            message.at_s,
        )


def of_finals(recording: Recording) -> list[tuple[Message, Way]]:
    """Each final, and the way from the end of its last word."""
    ways = Ways(recording)
    return [(final, ways.of(final, _end_ms(final))) for final in recording.finals]


def word_by_word(recording: Recording) -> list[Heard]:
    """Each word of the finals, and its way to the message in which it first stood."""
    ways, told = Ways(recording), dict[int, list[Message]]()
    for message in recording.messages:
        if message.is_turn:
            told.setdefault(int(message.fields.get("turn_order", -1)), []).append(message)
    found = []
    for final in recording.finals:
        messages = told[int(final.fields.get("turn_order", -1))]
        for word in _words(final):
            first, as_told = next(
                (message, same) for message in messages for same in _words(message) if _same(same, word)
            )
            found.append(Heard(word, first, ways.of(first, int(as_told.get("end", 0)))))
    return found


def _words(message: Message) -> Iterator[Mapping[str, Any]]:
    return (word for word in message.fields.get("words") or () if isinstance(word, dict))


def _end_ms(message: Message) -> int:
    return max((int(word.get("end", 0)) for word in _words(message)), default=0)


def _same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether they are one word, as it was told then and as it stands in the end."""
    near = abs(int(one.get("start", 0)) - int(other.get("start", 0))) <= SAME_WORD_MS
    return near and plain(str(one.get("text"))) == plain(str(other.get("text")))


def plain(text: str) -> str:
    """A word without its capitals and punctuation, for comparing; one that has nothing else stays as it is."""
    return "".join(letter for letter in text.casefold() if letter.isalnum() or letter == "'") or text
