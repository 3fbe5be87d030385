"""Who is being served now, for operators: reads what offers, states and event logs say, and changes nothing.

Like those of `wire/accounts.py`, the methods use the connections of a Bus, raise BusUnavailable and retry nothing. What
cannot be read, written by another version, is left out.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wire.entries import Offer, SessionEvent, unpack_event, unpack_offer
from wire.errors import EntryError
from wire.keys import STATE_GENERATION, STATE_OFFER, WORKERS_GROUP
from wire.streams import Bus, following

#: Most sessions of a pool that are named, the newest; most events of one look into a session's log.
MOST_SESSIONS = 200
MOST_EVENTS = 200

_ENTRY = b"e"


@dataclass(frozen=True)
class Present:
    """An open session. `offered_ms` is Unix time; `worker` "" while it waits; `takes`: how often it was taken."""

    offer: Offer
    offered_ms: int
    worker: str = ""
    takes: int = 0


class Census:
    """See the module."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._keys = bus.keys

    async def sessions(self, pool: str) -> list[Present]:
        """The pool's open sessions, newest first, at most MOST_SESSIONS."""
        key = self._keys.offers(pool)
        [entries] = await self._bus.execute(lambda pipe: pipe.xrevrange(key, count=MOST_SESSIONS))
        if not entries:
            return []
        oldest = entries[-1][0]
        [pending] = await self._bus.execute(
            lambda pipe: pipe.xpending_range(key, WORKERS_GROUP, min=oldest, max="+", count=MOST_SESSIONS),
            forgive=("NOGROUP",),
        )
        leases = {lease["message_id"]: lease for lease in pending or ()}
        return [
            present
            for entry_id, fields in entries
            for present in _present(entry_id, fields, leases.get(entry_id))
        ]

    async def session(self, session: str) -> tuple[Offer, int] | None:
        """What an open session was offered as, and its generation: how often it was taken. None: there is none."""
        key = self._keys.state(session)
        [(packed, generation)] = await self._bus.execute(
            lambda pipe: pipe.hmget(key, STATE_OFFER, STATE_GENERATION)
        )
        if not packed:
            return None
        try:
            return unpack_offer(packed), int(generation or 0)
        except EntryError:
            return None

    async def events(self, session: str, after: str) -> tuple[str, list[SessionEvent]]:
        """A session's events behind the entry `after` ("" for the begin), at most MOST_EVENTS; the last entry's id."""
        key = self._keys.events(session)
        begin = following(after) if after else "-"
        [entries] = await self._bus.execute(lambda pipe: pipe.xrange(key, min=begin, count=MOST_EVENTS))
        cursor = entries[-1][0].decode() if entries else after
        return cursor, [event for _, fields in entries for event in _event(fields)]


def _present(entry_id: bytes, fields: Mapping[bytes, bytes], lease: Any) -> list[Present]:
    try:
        offer = unpack_offer(fields[_ENTRY])
    except (EntryError, KeyError):
        return []
    offered_ms = int(entry_id.split(b"-")[0])
    if lease is None:
        return [Present(offer, offered_ms)]
    return [Present(offer, offered_ms, lease["consumer"].decode(errors="replace"), lease["times_delivered"])]


def _event(fields: Mapping[bytes, bytes]) -> list[SessionEvent]:
    try:
        return [unpack_event(packed) for packed in fields.values()]
    except EntryError:
        return []
