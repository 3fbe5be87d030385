"""What a recording holds, item by item, and how it lies in Redis (docs/replay.md).

A recording is a log of *batches*. Each is written by one writer, the session's ingress or the holder of its lease,
every two seconds, and holds *items*: small frozen values that say what happened, and when. Writers number their
batches, so that a reader sees where some are missing. Beside the log stand the facts of the session and its end.

Wall times are Unix seconds (`_s`) of the writer's own clock: clocks of two machines may differ, and what is compared
over machines differs with them. Audio times are ms of the session's audio (`_ms`), positions samples at 16 kHz.

A batch is packed as `[FORMAT, writer, number, [[kind, ...], ...]]`. Later formats of the same number may add kinds, and
fields at the end of a kind: a reader passes over what it does not know. Any other change is a new FORMAT.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from functools import cache
from operator import attrgetter
from typing import Any, TypeVar, get_type_hints

from wire.entries import bytes_head, list_head, pack_value, unpack_value
from wire.errors import EntryError

FORMAT = 1

#: Most bytes of audio and text that writers put into one batch, more or less; the largest that is read.
BATCH_BYTES, MAX_BATCH_BYTES = 128 * 1024, 2**20

#: What a frame takes in a batch beside its samples, more or less.
FRAME_BYTES = 24

#: Keys of `Offer.params` beside the session's parameters. The first: the worker is to record what it does; plainly, or
#: encrypted. The second: the session is a replay, and how far the recorded steps went (`wire/strides.py`).
OFFER_RECORDED, OFFER_REPLAY = "recorded", "replay"

#: How the names of writers begin who tell what may have been written before: of a session that came from another node,
#: what Redis still had of it by then. Their items were not heard, or told, at the time they bear, but before it.
RECOVERED = "recovered by "
PLAIN, SEALED = "plain", "sealed"


class TooNew(EntryError):
    """Written by a later release, in a format that this one does not know."""


# ---------------------------------------------------------------------------------------------------------------------
# the client's side, written by ingress


@dataclass(frozen=True)
class Audio:
    """A frame of the session's audio log as it was appended: 16-bit mono at 16 kHz from `position`; when it came."""

    at_s: float
    position: int
    pcm: bytes = field(repr=False)

    @property
    def end(self) -> int:
        """Position just past the last sample."""
        return self.position + len(self.pcm) // 2


@dataclass(frozen=True)
class Said:
    """A text message of the client, as it came."""

    at_s: float
    text: str


@dataclass(frozen=True)
class Ordered:
    """What ingress made of it for the worker: the name of a `wire.entries.Order`, at a place in the audio.

    `params` are the session's parameters from there on, where they changed.
    """

    at_s: float
    order: str
    position: int
    params: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Told:
    """A message sent to the client; (generation, sequence) is the worker's event that it passes on, -1 where ingress
    speaks for itself.
    """

    at_s: float
    text: str
    generation: int = -1
    sequence: int = -1


@dataclass(frozen=True)
class Dropped:
    """A worker's event that was not passed on, and why: closed, generation, duplicate, turn, illegal."""

    at_s: float
    reason: str
    generation: int
    sequence: int
    text: str = ""


@dataclass(frozen=True)
class Connection:
    """What became of the client's connection: lost, resumed, gone, closed (by us, with a code and a reason)."""

    at_s: float
    happened: str
    code: int = 0
    reason: str = ""


# ---------------------------------------------------------------------------------------------------------------------
# the worker's side, written by the holder of the lease


@dataclass(frozen=True)
class Taken:
    """A worker holds the session from here on. `digest` is the SHA-256 of the weights of `model`, "" if not known.

    `turn_order` and `from_ms` are the open turn and where it begins; `lead_ms` before it are heard again.
    """

    at_s: float
    generation: int
    worker: str
    model: str
    digest: str
    software: str
    turn_order: int = 0
    from_ms: int = 0
    lead_ms: int = 0


@dataclass(frozen=True)
class Stepped:
    """One step in which the session took part; `at_s` is when its results were there, `begun_s` when it began.

    The step took in the audio from `from_ms` to `to_ms`, the last of which had been read at `queued_s`. `sessions` took
    part in it. `speech`: probabilities that someone speaks, in thousandths, one for each hop of `hop_ms`; the first
    hop ends at `speech_ms`. `held`: what was due for this session had to wait, in favour of others.
    """

    at_s: float
    generation: int
    queued_s: float
    begun_s: float
    from_ms: int
    to_ms: int
    sessions: int
    speech_ms: int = 0
    hop_ms: int = 0
    speech: tuple[int, ...] = ()
    held: bool = False


@dataclass(frozen=True)
class Decided:
    """An end of turn. `rule`: confident, punctuated, silent, long; forced and terminated by the client.

    The turn ends at `end_ms`, which was seen when audio up to `heard_ms` had been heard. `numbers`: what the rules
    looked at (docs/replay.md lists them): numbers, texts and None.
    """

    at_s: float
    generation: int
    turn_order: int
    rule: str
    end_ms: int
    heard_ms: int
    numbers: Mapping[str, Any]


@dataclass(frozen=True)
class Published:
    """A worker's event, in Redis at `at_s`, made at `decided_s`; `event` is the name of a `wire.entries.Event`.

    What it told stands in the `Told` (or `Dropped`) of the same (generation, sequence). A checkpoint that came with it:
    the order of the next turn, and where in the audio it begins; -1 without one.
    """

    at_s: float
    generation: int
    sequence: int
    event: str
    decided_s: float
    audio_ms: int
    turn_order: int = -1
    final: bool = False
    next_turn: int = -1
    next_ms: int = -1


# ---------------------------------------------------------------------------------------------------------------------
# either


@dataclass(frozen=True)
class Missed:
    """Items that the writer had to drop: how many, and why."""

    at_s: float
    count: int
    reason: str


Item = Audio | Said | Ordered | Told | Dropped | Connection | Taken | Stepped | Decided | Published | Missed

#: Number of a kind in a batch. Numbers are never used again; `_SOUND` is a `Sound`, which comes out as its frames.
KINDS: Mapping[int, type[Item]] = {
    1: Audio,
    2: Said,
    3: Ordered,
    4: Told,
    5: Dropped,
    6: Connection,
    7: Taken,
    8: Stepped,
    9: Decided,
    10: Published,
    11: Missed,
}
_NUMBERS = {kind: number for number, kind in KINDS.items()}
_SOUND = 12


@dataclass(frozen=True, slots=True)
class Sound:
    """Frames that follow one another: a node has many of them, and little time for each. `size` in bytes."""

    position: int
    times_s: Sequence[float]
    pieces: Sequence[bytes]
    size: int


@dataclass(frozen=True)
class SessionFacts:
    """What is known when a session begins. `params`: `SessionParams.for_worker()`, with every default resolved.

    `why` it is recorded: all, key, asked, sampled; `key`: the name of its API key, "" without one.
    """

    id: str
    started_s: float
    pool: str = ""
    params: Mapping[str, Any] = field(default_factory=dict)
    key: str = ""
    ingress: str = ""
    software: str = ""
    why: str = ""
    api_version: str = ""


@dataclass(frozen=True)
class SessionEnd:
    """How it ended: "ended", "gone", or the code of the error. `cut`: the recording had reached its size by then."""

    ended_s: float
    outcome: str
    audio_ms: int
    cut: bool = False


@dataclass(frozen=True)
class Batch:
    """Unpacked; `unknown` items were of kinds that this release does not know, `broken` ones could not be read."""

    writer: str
    number: int
    items: tuple[Item, ...]
    unknown: int = 0
    broken: int = 0


# ---------------------------------------------------------------------------------------------------------------------
# packing


def pack_batch(writer: str, number: int, items: Sequence[Item | Sound]) -> bytes:
    """[FORMAT, writer, number, items], each item a list that begins with its kind's number."""
    parts = [list_head(4), *map(pack_value, (FORMAT, writer, number)), list_head(len(items))]
    for item in items:
        if isinstance(item, Sound):
            about = (_SOUND, item.position, item.times_s, list(map(len, item.pieces)))
            # What frames hold is copied once, to its place in the batch.
            parts += [list_head(5), *map(pack_value, about), bytes_head(item.size), *item.pieces]
        else:
            parts.append(pack_value([_NUMBERS[type(item)], *_values(item)]))
    return b"".join(parts)


I = TypeVar("I", bound=Item | Sound)  # noqa: E741 an item


def portions(items: Sequence[I]) -> list[list[I]]:
    """Items in their order, cut into batches of no more than about BATCH_BYTES."""
    found: list[list[I]] = []
    size = BATCH_BYTES
    for item in items:
        if size >= BATCH_BYTES:
            found.append([])
            size = 0
        found[-1].append(item)
        size += weight(item)
    return found


def weight(item: Item | Sound) -> int:
    """About how many bytes the item takes in a batch."""
    if isinstance(item, Sound):
        return item.size + FRAME_BYTES * len(item.pieces)
    if isinstance(item, Audio):
        return FRAME_BYTES + len(item.pcm)
    return 100 + len(getattr(item, "text", ""))


def unpack_batch(data: bytes) -> Batch:
    """Raises TooNew, or EntryError for what is no batch; single items that cannot be read are counted."""
    writer, number, packed, *_ = _opened(data, str, int, list)
    items: list[Item] = []
    unknown = broken = 0
    for one in packed:
        if isinstance(one, list) and one[:1] == [_SOUND]:
            frames = _frames(one[1:])
            items += frames
            broken += not frames
            continue
        kind = KINDS.get(one[0]) if isinstance(one, list) and one and isinstance(one[0], int) else None
        if kind is None:
            unknown += 1
            continue
        try:
            items.append(_made(kind, one[1:]))
        except EntryError:
            broken += 1
    return Batch(writer, number, tuple(items), unknown, broken)


def _frames(fields: list[Any]) -> list[Audio]:
    """Those of a `Sound`; none where they cannot be read."""
    if [type(one) for one in fields[:4]] != [int, list, list, bytes]:
        return []
    position, times_s, sizes, pcm = fields[:4]
    whole = all(type(size) is int and size >= 0 and size % 2 == 0 for size in sizes)
    if not whole or sum(sizes) != len(pcm) or [type(at_s) for at_s in times_s] != [float] * len(sizes):
        return []
    frames, start = [], 0
    for at_s, size in zip(times_s, sizes, strict=True):
        frames.append(Audio(at_s, position + start // 2, pcm[start : start + size]))
        start += size
    return frames


def pack_facts(facts: SessionFacts) -> bytes:
    return pack_value([FORMAT, _values(facts)])


def unpack_facts(data: bytes) -> SessionFacts:
    """Raises TooNew, EntryError."""
    return _made(SessionFacts, _opened(data, list)[0])


def pack_end(end: SessionEnd) -> bytes:
    return pack_value([FORMAT, _values(end)])


def unpack_end(data: bytes) -> SessionEnd:
    """Raises TooNew, EntryError."""
    return _made(SessionEnd, _opened(data, list)[0])


def _opened(data: bytes, *types: type) -> list[Any]:
    value = unpack_value(data, MAX_BATCH_BYTES, "part of a recording")
    if not isinstance(value, list) or not value or type(value[0]) is not int:
        raise EntryError("part of a recording is not a list that begins with its format")
    if value[0] > FORMAT:
        raise TooNew(f"written in format {value[0]} by a later release; this one reads up to format {FORMAT}")
    if value[0] != FORMAT or len(value) - 1 < len(types):
        raise EntryError(f"part of a recording of format {value[0]} with {len(value) - 1} fields")
    for item, kind in zip(value[1:], types, strict=False):
        if type(item) is not kind:
            raise EntryError(f"part of a recording with a {type(item).__name__} for a {kind.__name__}")
    return value[1:]


# ---------------------------------------------------------------------------------------------------------------------
# values and fields

T = TypeVar("T")


def _values(value: Any) -> tuple[Any, ...]:
    return _fields_of(type(value))(value)  # type: ignore[arg-type]  # a class is hashable


@cache
def _fields_of(kind: type) -> Callable[[Any], tuple[Any, ...]]:
    """Reads all fields of a kind at once; each has several."""
    return attrgetter(*(one.name for one in fields(kind)))


def _made(kind: type[T], values: list[Any]) -> T:
    names = [one.name for one in fields(kind)]  # type: ignore[arg-type]  # all kinds are dataclasses
    return from_fields(kind, dict(zip(names, values, strict=False)))


def from_fields(kind: type[T], given: Mapping[str, Any]) -> T:
    """One of the dataclasses above from its fields; others are passed over. Raises EntryError for a wrong or missing
    one.
    """
    hints, found = _hints(kind), {}  # type: ignore[arg-type]  # a class is hashable
    for one in fields(kind):  # type: ignore[arg-type]  # all kinds are dataclasses
        if one.name in given:
            found[one.name] = _checked(kind, one.name, given[one.name], hints[one.name])
        elif one.default is MISSING and one.default_factory is MISSING:
            raise EntryError(f"{kind.__name__} without {one.name}")
    return kind(**found)


@cache
def _hints(kind: type) -> Mapping[str, Any]:
    return get_type_hints(kind)


def _checked(kind: type, name: str, value: Any, hint: Any) -> Any:
    if hint is float and type(value) in (int, float):
        return float(value)
    if hint == tuple[int, ...] and isinstance(value, list) and all(type(item) is int for item in value):
        return tuple(value)
    if hint == Mapping[str, Any] | None and value is None:
        return None
    wanted: Any = dict if hint in (Mapping[str, Any], Mapping[str, Any] | None) else hint
    if type(value) is not wanted:
        raise EntryError(f"{kind.__name__} with {name} of type {type(value).__name__}")
    return value
