"""Recordings in Redis: begun, written, looked at, erased (docs/replay.md).

Who calls what:

    ingress   begin -> write* (finish);  tidy, forget_told every few seconds
    worker    write*, for sessions whose offer says that they are recorded
    replay    listing, load, put, erase;  follow for sessions that run

Like those of `wire/accounts.py`, the methods use the connections of a `Bus`, raise BusUnavailable and retry nothing.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from functools import partial
from pathlib import Path
from typing import Any

from wire.entries import SessionEvent, unpack_event
from wire.errors import EntryError, StackError
from wire.keys import (
    FACTS_BEGIN,
    FACTS_CUT,
    FACTS_END,
    FACTS_KEEP,
    FACTS_MOST,
    FACTS_SEALED,
    FACTS_SIZE,
)
from wire.recorded import (
    PLAIN,
    SEALED,
    Batch,
    SessionEnd,
    SessionFacts,
    TooNew,
    pack_batch,
    pack_end,
    pack_facts,
    portions,
    unpack_batch,
    unpack_end,
    unpack_facts,
)
from wire.recordings import Recording, assemble
from wire.sealing import MAX_KEEP_S, Box, Locked, is_sealed
from wire.streams import Bus

#: The index lives a little longer than any recording.
_INDEX_TTL_S = MAX_KEEP_S + 24 * 3600
#: Whoever has not read its inbox for so long has lost its sessions.
TOLD_AGE_S = 60.0
#: Most batches in one read.
_PAGE = 64

#: Keys of a recording's log and facts.
Place = tuple[bytes, bytes]

_ENTRY = b"e"
_LUA = Path(__file__).with_name("recordings.lua").read_text()


class NoRecording(StackError):
    """There is none of this id; the message says what may have become of it."""


class Written(IntEnum):
    """What became of a batch."""

    GONE = -1  # erased or expired: there is nothing to write to any more
    FULL = 0  # the recording has reached its limit
    YES = 1


@dataclass(frozen=True)
class Listed:
    """One line of the index. `facts` is None where they cannot be read, `fault` then says why.

    `end` is None for a session that runs, or whose node died. `left_s`: how long it is still kept.
    """

    id: str
    started_s: float
    size: int
    left_s: float
    sealed: bool
    cut: bool = False
    facts: SessionFacts | None = None
    end: SessionEnd | None = None
    fault: str = ""


class Archive:
    """See the module. `key` seals what is written and opens what is read; None: what is sealed stays closed."""

    def __init__(self, bus: Bus, key: bytes | None = None) -> None:
        self._bus = bus
        self._keys = bus.keys
        self._key = key

    @property
    def mark(self) -> str:
        """What offers say of sessions that are recorded here: writers with another key keep their hands off."""
        return PLAIN if self._key is None else SEALED

    def box(self, session: str) -> Box:
        return Box(self._key, session)

    # -------------------------------------------------------------------------------------------------------- writing

    async def begin(self, facts: SessionFacts, keep_s: float, most_bytes: int) -> None:
        """A new recording, of at most so many bytes, kept for `keep_s` after its last write."""
        box, key = self.box(facts.id), self._keys.recording_facts(facts.id)
        packed = box.seal(pack_facts(facts))
        fields: dict[bytes, Any] = {FACTS_BEGIN: packed, FACTS_SIZE: len(packed), FACTS_MOST: most_bytes}
        fields |= {FACTS_KEEP: round(1000 * keep_s), FACTS_SEALED: int(box.seals)}

        def fill(pipe: Any) -> None:
            pipe.hset(key, mapping=fields)
            pipe.expire(key, max(1, round(keep_s)))
            pipe.zadd(self._keys.recordings(), {facts.id: facts.started_s})
            pipe.expire(self._keys.recordings(), _INDEX_TTL_S)

        await self._bus.execute(fill)

    async def append(self, batches: Sequence[tuple[str, bytes]]) -> list[Written]:
        """Sealed batches of any number of recordings, as (session, batch), in one round trip."""
        return await self.write([(self.place(session), batch, False) for session, batch in batches])

    async def finish(self, session: str, end: SessionEnd) -> None:
        await self.write([(self.place(session), self.sealed_end(session, end), True)])

    def sealed_end(self, session: str, end: SessionEnd) -> bytes:
        """For `write`."""
        return self.box(session).seal(pack_end(end))

    def place(self, session: str) -> Place:
        """Where it is written to, for `write`: whoever writes often asks once."""
        return self._keys.recording_log(session), self._keys.recording_facts(session)

    async def write(self, parts: Sequence[tuple[Place, bytes, bool]]) -> list[Written]:
        """Sealed parts of any number of recordings, as (place, part, is it the end?), in one round trip."""
        # One call for all; in a cluster one for each recording, since a script may touch one slot only.
        calls: dict[Place | None, list[int]] = {}
        for number, (place, _, _) in enumerate(parts):
            calls.setdefault(place if self._bus.is_cluster else None, []).append(number)
        called = [[parts[number] for number in numbers] for numbers in calls.values()]
        answers = await self._bus.run_script([_call(own) for own in called], _LUA)
        found = {
            number: Written(result)
            for numbers, results in zip(calls.values(), answers, strict=True)
            for number, result in zip(numbers, results, strict=True)
        }
        return [found[number] for number in range(len(parts))]

    async def put(self, recording: Recording, keep_s: float, most_bytes: int) -> None:
        """A whole recording, as it was exported. Raises StackError if there is one of this id, or it is too large."""
        session = recording.facts.id
        if await self.exists(session):
            raise StackError(f"there is a recording {session} already")
        await self.begin(recording.facts, keep_s, most_bytes)
        box, writer = self.box(session), "import"
        for number, items in enumerate(portions(recording.items)):
            packed = box.seal(pack_batch(writer, number, items))
            if await self.append([(session, packed)]) != [Written.YES]:
                await self.erase(session)
                raise StackError(
                    f"the recording is larger than RECORD_SESSION_BYTES allows ({most_bytes} bytes)"
                )
        if recording.end is not None:
            await self.finish(session, recording.end)

    # -------------------------------------------------------------------------------------------------------- reading

    async def exists(self, session: str) -> bool:
        """Whether the session is recorded."""
        [found] = await self._bus.execute(lambda pipe: pipe.exists(self._keys.recording_facts(session)))
        return bool(found)

    async def index(self) -> list[tuple[str, float]]:
        """Every recording's id and when it began, oldest first. Some may have expired."""
        key = self._keys.recordings()
        [found] = await self._bus.execute(lambda pipe: pipe.zrange(key, 0, -1, withscores=True))
        return [(name.decode(), started_s) for name, started_s in found]

    async def listing(self) -> list[Listed]:
        """What there is, oldest first; what has expired is left out."""
        entries = await self.index()

        def fill(pipe: Any) -> None:
            for session, _ in entries:
                pipe.hgetall(self._keys.recording_facts(session))
                pipe.pttl(self._keys.recording_facts(session))

        results = await self._bus.execute(fill) if entries else []
        pairs = zip(entries, results[::2], results[1::2], strict=True)
        return [self._listed(*entry, fields, left / 1000) for entry, fields, left in pairs if fields]

    def _listed(self, session: str, started_s: float, fields: Mapping[bytes, bytes], left_s: float) -> Listed:
        size, sealed = _number(fields.get(FACTS_SIZE)), is_sealed(fields.get(FACTS_BEGIN, b""))
        listed = Listed(session, started_s, size, left_s, sealed, FACTS_CUT in fields)
        box = self.box(session)
        try:
            facts = unpack_facts(box.open(fields[FACTS_BEGIN]))
            end = unpack_end(box.open(fields[FACTS_END])) if FACTS_END in fields else None
        except KeyError:
            return replace(listed, fault="what it is of is missing")
        except EntryError as error:
            return replace(listed, fault=str(error))
        return replace(listed, facts=facts, end=end)

    async def load(self, session: str) -> Recording:
        """Everything of it that can be read; the rest is told among its faults.

        Raises NoRecording; Locked and TooNew where nothing at all can be read.
        """
        key = self._keys.recording_facts(session)

        def fill(pipe: Any) -> None:
            pipe.hgetall(key)
            pipe.pttl(key)
            pipe.zscore(self._keys.recordings(), session)

        fields, left_ms, started_s = await self._bus.execute(fill)
        if not fields:
            raise NoRecording(_why_none(session, known=started_s is not None))
        listed = self._listed(session, started_s or 0.0, fields, left_ms / 1000)
        batches, faults = await self._batches(session, listed)
        if listed.cut:
            faults.append("the recording reached RECORD_SESSION_BYTES: what came later is missing")
        facts = listed.facts or SessionFacts(session, listed.started_s)
        end = replace(listed.end, cut=True) if listed.end and listed.cut else listed.end
        return assemble(facts, end, batches, faults)

    async def _batches(self, session: str, listed: Listed) -> tuple[list[Batch], list[str]]:
        box, batches = self.box(session), list[Batch]()
        failures: list[EntryError] = []
        await self._read(session, lambda packed: _sort(packed, box, batches, failures))
        faults = [] if listed.facts else [f"what it is of cannot be read: {listed.fault}"]
        closed = [failure for failure in failures if isinstance(failure, (Locked, TooNew))]
        if closed and not batches and not listed.facts:
            raise type(closed[0])(f"the recording {session} cannot be read: {closed[0]}")
        if failures:
            total = len(batches) + len(failures)
            faults.append(f"{len(failures)} of {total} parts of the log cannot be read: {failures[0]}")
        return batches, faults

    async def _read(self, session: str, take: Callable[[bytes | None], None]) -> None:
        key, first = self._keys.recording_log(session), "-"
        while True:
            [entries] = await self._bus.execute(partial(_range, key, first))
            for _, fields in entries:
                take(fields.get(_ENTRY))
            if len(entries) < _PAGE:
                return
            first = "(" + entries[-1][0].decode()

    # ----------------------------------------------------------------------------------------- erasing, making room

    async def erase(self, session: str) -> bool:
        """Everything that is known of it, at once; whether there was anything.

        Where the session is over, so are the keys it worked with; one that runs goes on, and is not recorded any more.
        """
        keys = self._keys
        [state] = await self._bus.execute(lambda pipe: pipe.exists(keys.state(session)))
        [end] = await self._bus.execute(lambda pipe: pipe.hexists(keys.recording_facts(session), FACTS_END))
        over = bool(end) or not state
        own = (keys.audio(session), keys.events(session), keys.state(session)) if over else ()

        def fill(pipe: Any) -> None:
            for key in (keys.recording_log(session), keys.recording_facts(session), *own):
                pipe.delete(key)
            pipe.zrem(keys.recordings(), session)

        return any(await self._bus.execute(fill))

    async def tidy(self, most_bytes: int) -> int:
        """Drop from the index what has expired, and erase the oldest until all together are within `most_bytes`.

        Returns the bytes that are left.
        """
        entries = await self.index()

        def fill(pipe: Any) -> None:
            for session, _ in entries:
                pipe.hget(self._keys.recording_facts(session), FACTS_SIZE)

        found = await self._bus.execute(fill) if entries else []
        sizes = {session: _number(size) for (session, _), size in zip(entries, found, strict=True) if size}
        total = sum(sizes.values())
        for session, size in sizes.items():  # oldest first
            if total <= most_bytes:
                break
            await self.erase(session)
            total -= size
        if expired := [session for session, _ in entries if session not in sizes]:
            await self._bus.execute(lambda pipe: pipe.zrem(self._keys.recordings(), *expired))
        return total

    async def forget_told(self, instance: str, age_s: float = TOLD_AGE_S) -> None:
        """Events that passed through a node's inbox, so long ago that it has read them, are gone from there."""
        key = self._keys.inbox(instance)
        [(seconds, micros)] = await self._bus.execute(lambda pipe: self._bus.clock(pipe, key))
        oldest = max(0, round(1000 * (seconds + micros / 1e6 - age_s)))
        await self._bus.execute(lambda pipe: pipe.xtrim(key, minid=oldest, approximate=False))

    # ------------------------------------------------------------------------------------------------ live sessions

    async def follow(
        self, session: str, tell: Callable[[SessionEvent], None], pause: Callable[[], Awaitable[None]]
    ) -> None:
        """Tell the events that a running session's log holds, and those that come, until its keys are gone.

        Reading alone: nobody notices. `pause` is awaited between two looks. Raises NoRecording if nothing runs.
        """
        events, state, cursor = self._keys.events(session), self._keys.state(session), b"0-0"
        found = False
        while True:
            alive, reply = await self._bus.execute(partial(_look, state, events, cursor))
            if not alive and not reply:
                if not found:
                    raise NoRecording(f"no session {session} runs: it has ended, or there never was one")
                return
            found = True
            for entry, fields in reply:
                cursor = entry
                try:
                    tell(unpack_event(fields[_ENTRY]))
                except (EntryError, KeyError):
                    continue  # of another version
            await pause()


def _call(parts: Sequence[tuple[Place, bytes, bool]]) -> tuple[list[bytes], list[Any]]:
    """Keys and arguments of the script."""
    keys = [key for place, _, _ in parts for key in place]
    kinds = "".join(["e" if is_end else "b" for _, _, is_end in parts])
    return keys, [kinds, *[part for _, part, _ in parts]]


def _sort(packed: bytes | None, box: Box, batches: list[Batch], failures: list[EntryError]) -> None:
    try:
        batches.append(unpack_batch(box.open(packed or b"")))
    except EntryError as error:
        failures.append(error)


def _range(key: bytes, first: str, pipe: Any) -> None:
    pipe.xrange(key, min=first, count=_PAGE)


def _look(state: bytes, events: bytes, cursor: bytes, pipe: Any) -> None:
    pipe.exists(state)
    pipe.xrange(events, min=b"(" + cursor, count=100)


def _number(value: bytes | None) -> int:
    return int(value) if value and value.isdigit() else 0


def _why_none(session: str, known: bool) -> str:
    if known:
        return f"the recording {session} has expired (RECORD_KEEP_S)"
    return f"there is no recording {session}: it has expired, was erased, or never was one. See: steno replay list"
