"""What processes tell each other through Redis: small frozen values, packed as msgpack lists.

Every entry is one stream field: `[version, kind, ...]`. Unpacking checks version, shape and size, and raises
EntryError: a peer of another version must not crash a process, only be counted and skipped. What a later release says
behind what this one knows is ignored, and what earlier ones did not say has a default; whoever must change what is
there already raises VERSION.

Positions are in samples of the 16 kHz mono audio of the session, from its first sample.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, NoReturn

import msgpack  # type: ignore[import-untyped]

from wire.errors import EntryError

VERSION = 1

#: Rate of the audio in the session's log, whatever the client sends (`ingress/audio.py` converts).
SAMPLE_RATE = 16_000

#: Bytes of the largest entry that is read: one second of audio at 16 kHz, twice over, or a long turn's JSON.
MAX_ENTRY_BYTES = 256 * 1024


class Kind(IntEnum):
    """First number after the version: what the list is."""

    OFFER = 1
    AUDIO = 2
    CONTROL = 3
    EVENT = 4
    CHECKPOINT = 5
    LOAD = 6
    USAGE = 7
    LICENSE = 8
    TRUST = 9
    SAVED = 10


#: Asked for each frame: an Enum is turned into its number, and a number into its Enum, by Python code.
_AUDIO = int(Kind.AUDIO)
_KINDS = {int(kind): kind for kind in Kind}


class Order(IntEnum):
    """What ingress asks of the worker in the midst of the audio; obeyed exactly at `position`."""

    FORCE_ENDPOINT = 1
    CONFIGURE = 2
    TERMINATE = 3  # the audio is over: settle everything, then say DONE
    ABANDON = 4  # the client is gone: drop the session, nobody listens


class Event(IntEnum):
    """What a worker reports about a session."""

    __hash__ = int.__hash__  # Enum's own is Python code

    TAKEN = (
        1  # a worker holds the lease and is ready for audio; `turn_order` is that of the turn it begins with
    )
    MESSAGE = 2  # one server message for the client, ready to send
    DONE = 3  # everything up to TERMINATE was answered
    FAILED = 4  # the worker gave the session up; `text` is what the client may be told
    HEARD = 5  # about once a second, if asked for: `audio_ms` heard, `text` the highest speech probability meanwhile
    MOVED = 6  # from one ingress to another: the session goes on there; `generation` counts its moves


_EVENTS = {int(event): event for event in Event}


@dataclass(frozen=True)
class Offer:
    """A session looking for a worker. `params` is `SessionParams.for_worker()`."""

    session: str
    ingress: str
    pool: str
    params: dict[str, Any]


@dataclass(frozen=True, slots=True)
class AudioFrame:
    """16-bit little-endian mono PCM at 16 kHz, as received in one client message; `position` is its first sample."""

    position: int
    pcm: bytes

    @property
    def end(self) -> int:
        """Position just past the last sample."""
        return self.position + len(self.pcm) // 2


@dataclass(frozen=True)
class Control:
    """An order at a place in the audio. `fields` is the new `SessionParams.for_worker()` for CONFIGURE."""

    order: Order
    position: int
    fields: dict[str, Any] | None = None


@dataclass(frozen=True)
class SessionEvent:
    """A worker's report. (generation, sequence) orders a session's events and fences those of a lost lease.

    `turn_order` and `final` tell ingress what the JSON in `text` is without parsing it; -1 where there is none.
    `audio_ms` is how far the worker had listened.
    """

    session: str
    generation: int
    sequence: int
    event: Event
    audio_ms: int = 0
    turn_order: int = -1
    final: bool = False
    text: str = ""


@dataclass(frozen=True)
class Checkpoint:
    """Where a new lease holder resumes: written with each final turn, and now and then in silence.

    `turn_order` is the order of the next turn, `position` the first sample still needed, `entry_id` the stream id of
    the last audio entry that is not needed any more ("" if all are), `params` the session's parameters by then. The
    `lead` samples before `position` are needed only to understand what follows: their words have been told. `memory`:
    what the model keeps of its past, which is its own business; empty if it keeps none.
    """

    turn_order: int
    position: int
    entry_id: str
    params: dict[str, Any]
    lead: int = 0
    memory: dict[str, Any] = field(default_factory=dict)


AudioEntry = AudioFrame | Control


@dataclass(frozen=True)
class Saved:
    """Tells the session's ingress that a checkpoint was written: `packed`, as it lies in Redis, by that generation."""

    session: str
    generation: int
    packed: bytes


@dataclass(frozen=True)
class Lease:
    """The right to serve a session. `checkpoint` is where the last holder stopped; None: from the beginning.

    `generation` is higher than any before, also than those that Redis has forgotten: it leaps when a session is
    restored.
    `takes` counts how many holders the session has had since it was offered, this one included.
    """

    offer_id: bytes
    offer: Offer
    generation: int
    checkpoint: Checkpoint | None
    takes: int = 1

    @property
    def session(self) -> str:
        return self.offer.session


@dataclass(frozen=True)
class Publication:
    """What one step has to tell about one session, written in one transaction."""

    lease: Lease
    events: Sequence[SessionEvent] = ()
    checkpoint: Checkpoint | None = None


#: One for all: `msgpack.packb` makes one with a buffer of 256 KiB for every call.
_PACKER = msgpack.Packer(use_bin_type=True)


def pack_value(value: Any) -> bytes:
    """Plain values as msgpack, for formats that other files define (`wire/recorded.py`)."""
    packed: bytes = _PACKER.pack(value)
    return packed


def list_head(count: int) -> bytes:
    """What a packed list of so many values begins with; each, packed, comes next."""
    packed: bytes = _PACKER.pack_array_header(count)
    return packed


def bytes_head(size: int) -> bytes:
    """What packed bytes begin with, so many of them: they come next, and need not be copied to be packed."""
    return b"\xc6" + size.to_bytes(4, "big")


def unpack_value(data: bytes, most_bytes: int = MAX_ENTRY_BYTES, what: str = "entry") -> Any:
    """Raises EntryError for what is no msgpack, or too long."""
    if len(data) > most_bytes:
        _refuse(f"{what} of {len(data)} bytes is over the limit of {most_bytes}")
    try:
        return msgpack.unpackb(data, use_list=True)
    except (ValueError, msgpack.UnpackException, RecursionError) as error:
        raise EntryError(f"{what} is not msgpack: {error}") from None


def _pack(kind: Kind, *fields: Any) -> bytes:
    return pack_value((VERSION, int(kind), *fields))


def _refuse(reason: str) -> NoReturn:
    raise EntryError(reason)


def _unpack(data: bytes, *kinds: Kind) -> tuple[Kind, list[Any]]:
    value = unpack_value(data)
    if not (isinstance(value, list) and len(value) > 1 and type(value[0]) is type(value[1]) is int):
        _refuse("entry is not a list that begins with version and kind")
    version, kind = value[0], value[1]
    if version != VERSION:
        _refuse(f"entry of version {version}, expected {VERSION}")
    if kind not in kinds:
        _refuse(f"entry of kind {kind}, expected one of {[int(k) for k in kinds]}")
    del value[:2]
    return _KINDS[kind], value


def _checked(fields: list[Any], *types: type | tuple[type, ...]) -> list[Any]:
    if tuple(map(type, fields)) == types:  # what nearly every entry is; else it is found out what is wrong
        for item in fields:
            if type(item) is int and item < -1:
                break
        else:
            return fields
    if len(fields) < len(types):
        _refuse(f"entry has {len(fields)} fields, expected {len(types)}")
    del fields[len(types) :]  # what a later release says beyond them
    for place, (item, kind) in enumerate(zip(fields, types, strict=True)):
        if not isinstance(item, kind) or (isinstance(item, bool) and kind is int):
            _refuse(f"field {place} is {type(item).__name__}")
        if type(item) is int and item < -1:
            _refuse(f"field {place} is negative")
    return fields


def pack_offer(offer: Offer) -> bytes:
    return _pack(Kind.OFFER, offer.session, offer.ingress, offer.pool, offer.params)


def unpack_offer(data: bytes) -> Offer:
    """Raises EntryError."""
    return Offer(*_checked(_unpack(data, Kind.OFFER)[1], str, str, str, dict))


def pack_audio(entry: AudioEntry) -> bytes:
    if isinstance(entry, AudioFrame):
        return pack_value((VERSION, _AUDIO, entry.position, entry.pcm))
    return _pack(Kind.CONTROL, int(entry.order), entry.position, entry.fields)


#: An audio frame's types, and how it begins.
_FRAME_TYPES, _FRAME_BEGINS = [int, int, int, bytes], [VERSION, int(Kind.AUDIO)]


def unpack_audio(data: bytes) -> AudioEntry:
    """One entry of a session's audio log. Raises EntryError."""
    value = unpack_value(data)
    # What nearly every entry is; of all others it is found out what they are, or what is wrong with them.
    if type(value) is list and list(map(type, value)) == _FRAME_TYPES and value[:2] == _FRAME_BEGINS:
        _, _, position, pcm = value
        if position >= 0 and len(pcm) % 2 == 0:
            return AudioFrame(position, pcm)
    kind, fields = _unpack(data, Kind.AUDIO, Kind.CONTROL)
    if kind is Kind.AUDIO:
        position, pcm = _checked(fields, int, bytes)
        if position < 0 or len(pcm) % 2:
            _refuse("audio frame at a negative position or of an odd number of bytes")
        return AudioFrame(position, pcm)
    order, position, config = _checked(fields, int, int, (dict, type(None)))
    if order not in Order._value2member_map_ or position < 0:
        _refuse(f"order {order} at {position}")
    if (config is not None) != (order == Order.CONFIGURE):
        _refuse(f"order {order} with{'out' if config is None else ''} a configuration")
    return Control(Order(order), position, config)


def pack_event(event: SessionEvent) -> bytes:
    return _pack(
        Kind.EVENT,
        event.session,
        event.generation,
        event.sequence,
        int(event.event),
        event.audio_ms,
        event.turn_order,
        event.final,
        event.text,
    )


def unpack_event(data: bytes) -> SessionEvent:
    """Raises EntryError."""
    return _event(_unpack(data, Kind.EVENT)[1])


def _event(fields: list[Any]) -> SessionEvent:
    session, generation, sequence, number, audio_ms, turn_order, final, text = _checked(
        fields, str, int, int, int, int, int, bool, str
    )
    event = _EVENTS.get(number)
    if event is None:
        _refuse(f"event {number}")
    return SessionEvent(session, generation, sequence, event, audio_ms, turn_order, final, text)


def pack_saved(saved: Saved) -> bytes:
    return _pack(Kind.SAVED, saved.session, saved.generation, saved.packed)


def unpack_report(data: bytes) -> SessionEvent | Saved:
    """What a worker tells an ingress. Raises EntryError."""
    kind, fields = _unpack(data, Kind.EVENT, Kind.SAVED)
    return _event(fields) if kind is Kind.EVENT else Saved(*_checked(fields, str, int, bytes))


def pack_checkpoint(checkpoint: Checkpoint) -> bytes:
    return _pack(
        Kind.CHECKPOINT,
        checkpoint.turn_order,
        checkpoint.position,
        checkpoint.entry_id,
        checkpoint.params,
        checkpoint.lead,
        checkpoint.memory,
    )


def unpack_checkpoint(data: bytes) -> Checkpoint:
    """Raises EntryError. Workers of releases before knew of no lead, and kept no memory."""
    fields = _unpack(data, Kind.CHECKPOINT)[1]
    fields += [0, {}][len(fields) - 4 :] if len(fields) >= 4 else []
    return Checkpoint(*_checked(fields, int, int, str, dict, int, dict))


#: Most languages that a worker reports, letters of a code, and letters of what a model or a licence is called.
MAX_LANGUAGES, MAX_CODE, MAX_TITLE = 200, 16, 500


@dataclass(frozen=True)
class WorkerLoad:
    """What a worker tells admission and operators every few seconds; `deadline_s` is the stack's Unix time
    (`wire/clock.py`).

    `licence` is the model's, as its authors call it, "" where it is not known; `languages` are the codes of those that
    it writes, empty where it does not tell. `held`: sessions in its slots, -1 where it does not tell. `seen`: others
    see at once when it is gone (`wire/presence.py`). `replays`: those of the held that give way to live sessions.
    """

    slots: int
    free: int
    backlog_ms: int
    deadline_s: int
    model: str
    licence: str = ""
    languages: tuple[str, ...] = ()
    held: int = -1
    seen: bool = False
    replays: int = 0

    @property
    def most(self) -> int:
        """Sessions that it can have: with `free` 0 it takes nothing new for now, whatever its slots."""
        return self.held if self.free <= 0 <= self.held else self.slots


#: What loads of earlier releases do not tell, from the sixth field on.
_UNTOLD: tuple[Any, ...] = ("", [], -1, False, 0)


def pack_load(load: WorkerLoad) -> bytes:
    """What is longer than readers accept is cut: a worker with a strange title must not be invisible."""
    return _pack(
        Kind.LOAD,
        load.slots,
        load.free,
        load.backlog_ms,
        load.deadline_s,
        load.model[:MAX_TITLE],
        load.licence[:MAX_TITLE],
        [code for code in load.languages[:MAX_LANGUAGES] if len(code) <= MAX_CODE],
        load.held,
        load.seen,
        load.replays,
    )


def unpack_load(data: bytes) -> WorkerLoad:
    """Raises EntryError. Workers of earlier releases tell less, those of later ones may tell more."""
    told = _unpack(data, Kind.LOAD)[1]
    told = [*told[:10], *_UNTOLD[len(told) - 5 :]] if len(told) >= 5 else told
    fields = _checked(told, int, int, int, int, str, str, list, int, bool, int)
    *counts, model, licence, codes, held, seen, replays = fields
    if max(len(model), len(licence)) > MAX_TITLE or len(codes) > MAX_LANGUAGES:
        _refuse("a load with a very long name, or with very many languages")
    if not all(isinstance(code, str) and len(code) <= MAX_CODE for code in codes):
        _refuse("a load whose languages are not codes")
    slots, free, backlog_ms, deadline_s = counts
    return WorkerLoad(slots, free, backlog_ms, deadline_s, model, licence, tuple(codes), held, seen, replays)


# ---------------------------------------------------------------------------------------------------------------------
# licensing and usage


class LicenseState(IntEnum):
    """What a licence is worth at the moment (protocol 8.4)."""

    READY = 1  # nothing was validated yet
    CONNECTED = 2  # the last check passed
    TRUST_BASED = 3  # the last check failed, within the trust window
    FAILED = 4  # no right to run


class Billing(IntEnum):
    """How the licence is paid."""

    FLAT = 1  # nothing is tracked
    USAGE = 2  # sessions are reported to the tracker


#: What a usage record may hold: names of so many letters, a session of a hundred days, a time of the year 9999. A
#: tracker that refuses one record refuses its batch, again and again; so what it would refuse is no record.
MAX_NAME = 200
MAX_SESSION_MS = 100 * 86_400_000
LAST_MS = 253_402_300_799_999

#: The pool of a licence that allows every pool.
ANY_POOL = "*"


@dataclass(frozen=True)
class LicenseStatus:
    """What licensing tells the other services every second. Times are Unix milliseconds, -1 for none.

    `max_sessions` 0 means as many as the machines hold; `reason` says why the state is not CONNECTED.
    """

    state: LicenseState
    license: str
    billing: Billing
    pools: tuple[str, ...]
    max_sessions: int
    last_checkin_ms: int
    trust_until_ms: int
    at_ms: int
    reason: str = ""


@dataclass(frozen=True)
class UsageRecord:
    """What a session has used from its beginning until one of its laps: cumulative, so that the newest lap says all.

    `ended_ms` is -1 while the session runs; times are Unix milliseconds. Never audio, text, an address or a key.
    """

    session: str
    lap: int
    audio_ms: int
    session_ms: int
    pool: str
    model: str
    started_ms: int
    ended_ms: int = -1

    @property
    def over(self) -> bool:
        return self.ended_ms >= 0


@dataclass(frozen=True)
class TrustRecord:
    """What licensing keeps in Redis over a restart: the issuer's own signed answers, and where its clock was.

    `seal` is a MAC over the rest (`licensing/trust.py`); `serial` grows with each check-in that was tried.
    """

    license: str
    serial: int
    passed: str
    refused: str
    missed: bool
    tries: int
    next_ms: int
    mark_ms: int
    seal: bytes


def pack_usage(record: UsageRecord) -> bytes:
    return _pack(
        Kind.USAGE,
        record.session,
        record.lap,
        record.audio_ms,
        record.session_ms,
        record.pool,
        record.model,
        record.started_ms,
        record.ended_ms,
    )


def unpack_usage(data: bytes) -> UsageRecord:
    """Raises EntryError."""
    fields = _checked(_unpack(data, Kind.USAGE)[1], str, int, int, int, str, str, int, int)
    if min(fields[1:4]) < 0 or fields[6] < 0:
        _refuse("a usage record that is less than nothing")
    if max(fields[2:4]) > MAX_SESSION_MS or max(fields[1], *fields[6:]) > LAST_MS:
        _refuse("a usage record that is more than can be")
    if not all(0 < len(fields[place]) <= MAX_NAME for place in (0, 4, 5)):
        _refuse("a usage record without a name, or with a very long one")
    return UsageRecord(*fields)


def pack_license(status: LicenseStatus) -> bytes:
    return _pack(
        Kind.LICENSE,
        int(status.state),
        status.license,
        int(status.billing),
        list(status.pools),
        status.max_sessions,
        status.last_checkin_ms,
        status.trust_until_ms,
        status.at_ms,
        status.reason,
    )


def unpack_license(data: bytes) -> LicenseStatus:
    """Raises EntryError."""
    fields = _checked(_unpack(data, Kind.LICENSE)[1], int, str, int, list, int, int, int, int, str)
    state, name, billing, pools, *rest = fields
    if state not in LicenseState._value2member_map_ or billing not in Billing._value2member_map_:
        _refuse(f"license state {state}, billing {billing}")
    if not all(isinstance(pool, str) for pool in pools) or rest[0] < 0:
        _refuse("a license whose pools are not names, or whose sessions are less than none")
    return LicenseStatus(LicenseState(state), name, Billing(billing), tuple(pools), *rest)


def _trust_fields(record: TrustRecord) -> tuple[Any, ...]:
    return (
        record.license,
        record.serial,
        record.passed,
        record.refused,
        record.missed,
        record.tries,
        record.next_ms,
        record.mark_ms,
    )


def pack_trust_unsealed(record: TrustRecord) -> bytes:
    """What the seal is made over."""
    return _pack(Kind.TRUST, *_trust_fields(record))


def pack_trust(record: TrustRecord) -> bytes:
    return _pack(Kind.TRUST, *_trust_fields(record), record.seal)


def unpack_trust(data: bytes) -> TrustRecord:
    """Raises EntryError."""
    types = (str, int, str, str, bool, int, int, int, bytes)
    return TrustRecord(*_checked(_unpack(data, Kind.TRUST)[1], *types))


def pack_job(job: dict[str, Any]) -> bytes:
    """A scheduled job, as arq describes it (`wire/ticks.py`); jobs of ours carry no arguments."""
    return pack_value(job)


def unpack_job(data: bytes) -> dict[str, Any]:
    """Raises EntryError."""
    job = unpack_value(data, what="job")
    if not isinstance(job, dict):
        _refuse("job is not a map")
    return job
