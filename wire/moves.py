"""Sessions that may go on on another ingress node: where they are, kept in Redis, and moved from node to node.

Who calls what:

    the node of a session   keep, each tick in which something happened -> touch* -> release
    another one             find -> move -> told, events -> tell_moved;  then it is the session's node
    every node              beat, every second;  workers ask with `living`, and `bury` whom they take for dead

Each move is counted. What a node writes of a session is compared with that count (`leases.lua`), so that a node which
was cut off, or slept, can write nothing once the session has moved on. Like those of `wire/streams.py`, whose
connections are used, the methods raise BusUnavailable and retry nothing.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from wire.entries import AudioEntry, Event, SessionEvent, pack_audio, pack_event, unpack_audio, unpack_event
from wire.errors import EntryError
from wire.keys import RESUME_MOVES, RESUME_PLACE, RESUME_WHO, STATE_CHECKPOINT, STATE_GENERATION, STATE_HELD
from wire.refused import refused
from wire.streams import (
    AUDIO_LOG_ENTRIES,
    FORGOTTEN_TTL_S,
    INBOX_ENTRIES,
    INBOX_TTL_S,
    Bus,
    entry_id,
    following,
    number_of,
)

#: Most messages kept that a session was told (approximately): some minutes of news.
TOLD_ENTRIES = 1_000

#: How long a node that was taken for dead may hear of it: longer than any waits for Redis.
BURIED_TTL_S = 600

_ENTRY = b"e"


@dataclass(frozen=True)
class Keeping:
    """What a node has done for one session since it last told. `who` and `place` are JSON, "" for no news of them;
    `told` are messages by their numbers; `ttl_s`: how long to keep all without a sign of the node.
    """

    session: str
    moves: int
    node: str
    ttl_s: float
    who: str = field(default="", repr=False)
    place: str = ""
    entries: Sequence[tuple[int, AudioEntry]] = ()
    told: Sequence[tuple[int, str]] = ()


@dataclass(frozen=True)
class Kept:
    """A session as its node left it; `moves` is how many times it has moved."""

    moves: int
    who: str = field(repr=False)
    place: str


@dataclass(frozen=True)
class Log:
    """A session's audio log: its checkpoint (b"" for none), written by a generation of at most this, the offer under
    which it is held, the number of its newest entry, and its entries.
    """

    generation: int
    checkpoint: bytes
    offer_id: bytes
    last: int
    entries: Sequence[tuple[int, AudioEntry]]


class Moves:
    """See the module. Uses the connections of `bus`, which its owner closes."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._keys = bus.keys

    # ------------------------------------------------------------------------------------------- the session's node

    async def keep(self, keepings: Sequence[Keeping]) -> tuple[list[str], list[str]]:
        """Write them in one round trip. Returns the sessions that have moved on, of which nothing was written, and
        those of which Redis has lost `who`.
        """
        results = await self._bus.run_script([self._keep_call(keeping) for keeping in keepings])
        named = [(keeping.session, result) for keeping, result in zip(keepings, results, strict=True)]
        return [name for name, result in named if result == 0], [
            name for name, result in named if result == 2
        ]

    def _keep_call(self, keeping: Keeping) -> tuple[Sequence[bytes], Sequence[Any]]:
        session = keeping.session
        keys = (self._keys.resume(session), self._keys.audio(session), self._keys.told(session))
        arguments: list[Any] = [
            "keep",
            keeping.moves,
            _ms(keeping.ttl_s),
            keeping.node,
            keeping.who,
            keeping.place,
        ]
        arguments += (AUDIO_LOG_ENTRIES, TOLD_ENTRIES, len(keeping.entries))
        for number, entry in keeping.entries:
            arguments += (entry_id(number), pack_audio(entry))
        for number, text in keeping.told:
            arguments += (number, text)
        return keys, arguments

    async def touch(self, sessions: Collection[str], ttl_s: float) -> None:
        """Keep everything of these sessions alive for so long."""

        def fill(pipe: Any) -> None:
            for session in sessions:
                for key in self._all_keys(session):
                    pipe.pexpire(key, _ms(ttl_s))

        if sessions:
            await self._bus.execute(fill)

    async def release(self, sessions: Mapping[str, int]) -> list[str]:
        """These sessions, with the moves of each, are over: their keys expire soon, but for what was told, which their
        clients may still ask for. Returns those that have moved on.
        """
        calls = []
        for session, moves in sessions.items():
            resume, _, *others = self._all_keys(session)
            calls.append(((resume, *others), ("release", moves, _ms(FORGOTTEN_TTL_S))))
        results = await self._bus.run_script(calls)
        return [session for session, result in zip(sessions, results, strict=True) if result == 0]

    def _all_keys(self, session: str) -> list[bytes]:
        keys = self._keys
        return [build(session) for build in (keys.resume, keys.told, keys.state, keys.audio, keys.events)]

    # --------------------------------------------------------------------------------------------------- another node

    async def find(self, session: str) -> Kept | None:
        """The session, if it can move."""
        key, fields = self._keys.resume(session), (RESUME_MOVES, RESUME_WHO, RESUME_PLACE)
        [[moves, who, place]] = await self._bus.execute(lambda pipe: pipe.hmget(key, *fields))
        if moves is None or not who or not place:
            return None
        return Kept(int(moves), who.decode(), place.decode())

    async def move(self, session: str, moves: int, node: str, ttl_s: float) -> tuple[str, str] | None:
        """The session goes on on `node`, unless it has moved since `moves`. Returns its place, which nobody else can
        change any more, and the node before; None if it has moved, or ended.
        """
        keys = (self._keys.resume(session), self._keys.state(session))
        [result] = await self._bus.run_script([(keys, ("move", moves, _ms(ttl_s), node))])
        if not result:
            return None
        place, before = result
        return place.decode(), before.decode()

    async def log(self, session: str) -> Log:
        """What the session's worker needs, as it lies in Redis: for the node that has just got the session."""
        state, audio = self._keys.state(session), self._keys.audio(session)

        def fill(pipe: Any) -> None:
            pipe.hmget(state, STATE_CHECKPOINT, STATE_GENERATION, STATE_HELD)
            pipe.xinfo_stream(audio)
            pipe.xrange(audio)

        [checkpoint, generation, held], known, entries = await self._bus.execute(
            fill, forgive=("no such key",)
        )
        last = number_of(known["last-generated-id"]) if known else 0
        numbered = [(number_of(entry), unpack_audio(fields[_ENTRY])) for entry, fields in entries]
        return Log(int(generation or 0), checkpoint or b"", held or b"0-0", last, numbered)

    async def told(self, session: str, after: int) -> list[tuple[int, str]]:
        """The messages kept with numbers above `after`."""
        key = self._keys.told(session)
        [entries] = await self._bus.execute(lambda pipe: pipe.xrange(key, min=f"{after + 1}-0"))
        return [(int(entry.split(b"-")[0]), fields[_ENTRY].decode()) for entry, fields in entries]

    async def events(self, session: str, generation: int, sequence: int) -> list[SessionEvent]:
        """The worker's events after this one, (-1, -1) for all, whoever has heard of them."""
        key = self._keys.events(session)
        first = following(f"{generation}-{sequence}") if sequence >= 0 else f"{max(0, generation)}-0"
        [entries] = await self._bus.execute(lambda pipe: pipe.xrange(key, min=first))
        return [event for _, fields in entries for event in _readable(fields)]

    async def tell_moved(self, node: str, session: str, moves: int) -> None:
        """Tell the node before, if it lives: the session has moved for the `moves`th time."""
        key = self._keys.inbox(node)
        packed = pack_event(SessionEvent(session, moves, 0, Event.MOVED))

        def fill(pipe: Any) -> None:
            pipe.xadd(key, {_ENTRY: packed}, maxlen=INBOX_ENTRIES)
            pipe.expire(key, INBOX_TTL_S)

        await self._bus.execute(fill)

    # --------------------------------------------------------------------------------------------------- who is alive

    async def beat(self, node: str, ttl_s: float, seen: bool = False) -> int:
        """This node lives; without another word in so long it has died, and at once if it is `seen` no more
        (`wire/presence.py`). How often it was taken for dead lately.
        """
        key = self._keys.alive(node)

        def fill(
            pipe: Any,
        ) -> None:  # no string: who may write strings may forge the licence's status (`wire/acl.py`)
            pipe.hset(key, "alive", 1)
            pipe.hset(key, "seen", int(seen))
            pipe.pexpire(key, _ms(ttl_s))
            pipe.hget(self._keys.buried(node), "times")

        *_, times = await self._bus.execute(fill)
        return int(times or 0)

    async def living(self, nodes: Sequence[str]) -> list[bool]:
        """Whether each of these nodes has told lately that it lives, and is seen if it would be."""

        def fill(pipe: Any) -> None:
            for node in nodes:
                pipe.hmget(self._keys.alive(node), "alive", "seen")

        told = await self._bus.execute(fill) if nodes else []
        seen = [node for node, (_, is_seen) in zip(nodes, told, strict=True) if is_seen == b"1"]
        there = await self._bus.present([self._keys.ingress_present(node) for node in seen])
        gone = {node for node, is_there in zip(seen, there, strict=True) if not is_there}
        return [alive is not None and node not in gone for node, (alive, _) in zip(nodes, told, strict=True)]

    async def bury(self, nodes: Collection[str]) -> None:
        """Sessions of these are let go: who lives after all hears of it with its next beat. Counted, since a beat that
        was held up on the way may come in between.
        """

        def fill(pipe: Any) -> None:
            for node in nodes:
                pipe.hincrby(self._keys.buried(node), "times", 1)
                pipe.pexpire(self._keys.buried(node), _ms(BURIED_TTL_S))

        if nodes:
            await self._bus.execute(fill)

    async def resumable(self, sessions: Sequence[str]) -> list[bool]:
        """Whether each of these sessions can move to another node."""
        return await self._exist([self._keys.resume(session) for session in sessions])

    async def _exist(self, keys: Sequence[bytes]) -> list[bool]:
        def fill(pipe: Any) -> None:
            for key in keys:
                pipe.exists(key)

        return [bool(found) for found in await self._bus.execute(fill)] if keys else []


def _ms(seconds: float) -> int:
    return max(1, round(1000 * seconds))


def _readable(fields: Mapping[bytes, bytes]) -> list[SessionEvent]:
    try:
        return [unpack_event(fields[_ENTRY])]
    except (EntryError, KeyError) as error:
        refused("event", error)  # its session times out by itself
        return []
