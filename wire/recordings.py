"""A recording as a whole: what `steno replay` and the report look at, and its exported form.

Exported, a recording is three things (docs/replay.md): `session.json`, `messages.jsonl` with one item a line in order
of their times, and the audio, of which `messages.jsonl` tells only where each frame lies. Where audio is missing, there
is silence.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, TypeVar

from wire.errors import EntryError
from wire.recorded import (
    FORMAT,
    KINDS,
    RECOVERED,
    Audio,
    Batch,
    Decided,
    Item,
    Published,
    SessionEnd,
    SessionFacts,
    Stepped,
    Taken,
    Told,
    TooNew,
    from_fields,
)

#: What `session.json` says it is.
EXPORT = "steno recording"

_NAMES = {kind: kind.__name__.lower() for kind in KINDS.values()}
_KINDS = {name: kind for kind, name in _NAMES.items()}

I = TypeVar("I", bound=Item)  # noqa: E741 an item


@dataclass(frozen=True)
class Message:
    """A message that the client was told: when, its fields, and where it stands among the items."""

    at_s: float
    fields: Mapping[str, Any]
    item: Told

    @property
    def type(self) -> str:
        return str(self.fields.get("type", ""))

    @property
    def is_turn(self) -> bool:
        return self.type == "Turn"

    @property
    def is_final(self) -> bool:
        return self.is_turn and bool(self.fields.get("end_of_turn"))


@dataclass(frozen=True)
class Recording:
    """One session. `items` in order of their times; `faults`: in words, what could not be read, or was never written.

    `end` is None while the session runs, or where nobody wrote it.
    """

    facts: SessionFacts
    end: SessionEnd | None = None
    items: tuple[Item, ...] = ()
    faults: tuple[str, ...] = ()

    def of(self, kind: type[I]) -> list[I]:
        """The items of one kind."""
        return [item for item in self.items if isinstance(item, kind)]

    @cached_property
    def frames(self) -> tuple[Audio, ...]:
        """The audio in order of its place."""
        return tuple(sorted(self.of(Audio), key=lambda frame: frame.position))

    @cached_property
    def pcm(self) -> bytes:
        """All audio from position 0 on, 16-bit little-endian mono at 16 kHz; silence where some is missing."""
        sound = bytearray()
        for frame in self.frames:
            start = 2 * frame.position
            sound += bytes(max(0, start - len(sound)))
            sound += frame.pcm[max(0, len(sound) - start) :]
        return bytes(sound)

    @cached_property
    def gaps(self) -> tuple[tuple[int, int], ...]:
        """Where audio is missing, from sample to sample."""
        found, reached = [], 0
        for frame in self.frames:
            if frame.position > reached:
                found.append((reached, frame.position))
            reached = max(reached, frame.end)
        return tuple(found)

    @cached_property
    def messages(self) -> tuple[Message, ...]:
        """What the client was told, in order."""
        return tuple(Message(told.at_s, _object(told.text), told) for told in self.of(Told))

    @cached_property
    def finals(self) -> tuple[Message, ...]:
        return tuple(message for message in self.messages if message.is_final)

    @property
    def transcript(self) -> str:
        """The finals' text, a line each."""
        return "\n".join(str(final.fields.get("transcript", "")) for final in self.finals)

    @property
    def takes(self) -> list[Taken]:
        """The workers that held the session, in order; the first says which model it was."""
        return self.of(Taken)

    @property
    def decisions(self) -> list[Decided]:
        return self.of(Decided)

    @cached_property
    def unexplained(self) -> tuple[Told, ...]:
        """A worker's messages that stand here without what the worker writes of them. It does so within a few
        seconds of when they were sent; one that was killed does not.
        """
        known = {(one.generation, one.sequence) for one in self.of(Published)}
        return tuple(
            told
            for told in self.of(Told)
            if told.generation >= 0 and (told.generation, told.sequence) not in known
        )

    @property
    def speech(self) -> list[tuple[int, float]]:
        """(audio time at which a hop ends, in ms; probability that someone speaks), in order of audio time."""
        hops = {
            step.speech_ms + number * step.hop_ms: value / 1000
            for step in self.of(Stepped)
            for number, value in enumerate(step.speech)
        }
        return sorted(hops.items())


def assemble(
    facts: SessionFacts, end: SessionEnd | None, batches: Iterable[Batch], faults: Sequence[str] = ()
) -> Recording:
    """A recording of what could be read. What the batches' numbers tell to be missing is added to `faults`."""
    # One that was written again, because Redis was slow to say that it has it, counts once.
    found = list({(batch.writer, batch.number): batch for batch in batches}.values())
    told = list(faults)
    told += _missing(found)
    unknown, broken = sum(batch.unknown for batch in found), sum(batch.broken for batch in found)
    if unknown:
        told.append(f"{unknown} items were written by a later release, and are passed over")
    if broken:
        told.append(f"{broken} items cannot be read")
    items = [item for batch in found if not batch.writer.startswith(RECOVERED) for item in batch.items]
    for batch in found:
        if batch.writer.startswith(RECOVERED):
            items += _news(batch.items, items)
    recording = Recording(facts, end, tuple(sorted(items, key=lambda item: item.at_s)), tuple(told))
    return replace(recording, faults=(*told, *_untold(recording))) if end else recording


def _untold(recording: Recording) -> Iterator[str]:
    """Of workers that have written of the session, which have not written of all."""
    behind = {told.generation for told in recording.unexplained}
    for take in recording.takes:
        if take.generation in behind:
            yield f"what {take.worker} did last is not written: it has not come to it yet, or died first"


def _news(recovered: Iterable[Item], items: Iterable[Item]) -> list[Item]:
    """Those of them that were not written before: a frame by its place, all else by what it says."""
    known = {_substance(item) for item in items}
    return [item for item in recovered if _substance(item) not in known]


def _substance(item: Item) -> tuple[Any, ...]:
    match item:
        case Audio(position=position):
            return Audio, position
        case Told(text=text):
            return Told, text
        case _:
            return type(item), repr(replace(item, at_s=0.0))


def _missing(batches: Iterable[Batch]) -> list[str]:
    seen: dict[str, set[int]] = {}
    for batch in batches:
        seen.setdefault(batch.writer, set()).add(batch.number)
    faults = []
    for writer, numbers in seen.items():
        if lost := max(numbers) + 1 - len(numbers):
            faults.append(f"{lost} of {max(numbers) + 1} parts written by {writer} are missing")
    return faults


def _object(text: str) -> Mapping[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


# ---------------------------------------------------------------------------------------------------------------------
# the exported form


def session_fields(recording: Recording) -> dict[str, Any]:
    """What `session.json` holds."""
    return {
        "what": EXPORT,
        "format": FORMAT,
        "facts": asdict(recording.facts),
        "end": asdict(recording.end) if recording.end else None,
        "faults": list(recording.faults),
    }


def message_fields(recording: Recording) -> list[dict[str, Any]]:
    """The lines of `messages.jsonl`: each item with the name of its kind; of audio, its place and length in samples."""
    return [_line(item) for item in recording.items]


def _line(item: Item) -> dict[str, Any]:
    told = {"kind": _NAMES[type(item)], **asdict(item)}
    if isinstance(item, Audio):
        told["samples"] = len(told.pop("pcm")) // 2
    return told


def from_exported(session: Mapping[str, Any], lines: Iterable[Mapping[str, Any]], pcm: bytes) -> Recording:
    """The recording of these three. Raises EntryError for a `session` that is none, TooNew for one of a later release.

    Lines that cannot be read are left out, and told among the faults.
    """
    if session.get("what") != EXPORT or not isinstance(session.get("facts"), dict):
        raise EntryError("this session.json was not written by `steno replay export`")
    if not isinstance(number := session.get("format"), int) or number > FORMAT:
        raise TooNew(f"exported in format {number} by a later release; this one reads up to format {FORMAT}")
    facts = from_fields(SessionFacts, session["facts"])
    end = from_fields(SessionEnd, session["end"]) if session.get("end") else None
    items, bad = [], 0
    for line in lines:
        try:
            items.append(_item(line, pcm))
        except EntryError:
            bad += 1
    faults = [str(fault) for fault in session.get("faults") or ()]
    faults += [f"{bad} lines of messages.jsonl cannot be read"] if bad else []
    return Recording(facts, end, tuple(sorted(items, key=lambda item: item.at_s)), tuple(faults))


def _item(line: Mapping[str, Any], pcm: bytes) -> Item:
    kind = _KINDS.get(str(line.get("kind")))
    if kind is None:
        raise EntryError("a line of a kind that is not known")
    if kind is not Audio:
        return from_fields(kind, line)
    place, samples = line.get("position"), line.get("samples")
    if type(place) is not int or type(samples) is not int or min(place, samples) < 0:
        raise EntryError("a frame without a place")
    if 2 * (place + samples) > len(pcm):
        raise EntryError("a frame that lies outside the audio")
    return from_fields(Audio, {**line, "pcm": pcm[2 * place : 2 * (place + samples)]})
