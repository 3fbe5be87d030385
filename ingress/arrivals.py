"""Sessions that come from another node, because their client did: fetched from Redis and made anew.

From the move on the worker's events come to this node, before the session is there: they wait, and follow those that
the node before may not have heard.
"""

import logging
import re
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from ingress.carried import Place, Who, unpack_place, unpack_who
from ingress.handshake import Resume
from ingress.session import CloseWith, Effect, Reply, Session
from wire.entries import SessionEvent
from wire.errors import ClientError, EntryError, cannot_resume, internal_error
from wire.moves import Log, Moves
from wire.streams import EVENT_LOG_ENTRIES

logger = logging.getLogger(__name__)

#: What a session's id looks like; others are not asked for in Redis.
_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@dataclass(frozen=True)
class Arrived:
    """A session as it is now, for the `moves`th time on another node; `effects` are still to be performed: what it has
    to tell its client is told by its `resume`. `told`: the messages that are known, those of the node before as well.
    """

    session: Session
    who: Who
    place: Place
    moves: int
    effects: list[Effect]
    log: Log
    told: list[str]


#: Makes the session: its id, who it is, its resume token.
Make = Callable[[str, Who, str], Session]


class Arrivals:
    """`fetch` a session that a client wants to go on with; `hears` every event of a session that is on its way."""

    def __init__(self, moves: Moves, node: str, ttl_s: float, make: Make, now: Callable[[], float]) -> None:
        self._moves = moves
        self._node = node
        self._ttl_s = ttl_s
        self._make = make
        self._now = now
        self._waiting: dict[str, deque[SessionEvent]] = {}

    def hears(self, event: SessionEvent) -> bool:
        """Whether the event's session is on its way, and the event waits for it."""
        if event.session in self._waiting:
            self._waiting[event.session].append(event)
        return event.session in self._waiting

    async def fetch(self, wanted: Resume) -> Arrived:
        """The session; it is this node's from now on, and its events must find it as soon as this returns.

        Raises ClientError: 1008 for one that cannot be resumed, 3005 for one that may be in a moment; BusUnavailable.
        """
        name = wanted.session
        who, moves = await self._admit(wanted)
        if name in self._waiting:
            raise internal_error()
        self._waiting[name] = deque(maxlen=EVENT_LOG_ENTRIES)
        try:
            moved = await self._moves.move(name, moves, self._node, self._ttl_s)
            if moved is None:  # another node was faster
                raise internal_error()
            text, before = moved
            if before != self._node:
                await self._moves.tell_moved(before, name, moves + 1)
            place, told = unpack_place(text), await self._moves.told(name, 0)
            log = await self._moves.log(name)
            events = await self._moves.events(name, place.generation, place.event)
            session = self._make(name, who, wanted.token)
            session.go_on(place, told, self._now())
            heard = _heard(session, [*events, *self._waiting[name]], self._now())
        except EntryError as error:
            raise _unreadable(name, error) from None
        finally:
            del self._waiting[name]
        effects: list[Effect] = [effect for effect in heard if not isinstance(effect, (Reply, CloseWith))]
        texts = [text for _, text in told] + [effect.text for effect in heard if isinstance(effect, Reply)]
        return Arrived(session, who, place, moves + 1, effects, log, texts)

    async def _admit(self, wanted: Resume) -> tuple[Who, int]:
        """Who the session is, and how many times it has moved. Changes nothing. Raises ClientError, BusUnavailable."""
        kept = await self._moves.find(wanted.session) if _ID.fullmatch(wanted.session) else None
        if kept is None:
            raise cannot_resume()
        try:
            who, place = unpack_who(kept.who), unpack_place(kept.place)
            who.session_params()
        except EntryError as error:
            raise _unreadable(wanted.session, error) from None
        if not who.admits(wanted.token, wanted.grant.key) or place.given_up:
            raise cannot_resume()
        if wanted.last_sequence < place.sequence:
            missed = await self._moves.told(wanted.session, wanted.last_sequence)
            if not missed or missed[0][0] != wanted.last_sequence + 1:  # not kept any more
                raise cannot_resume()
        return who, kept.moves


def _heard(session: Session, events: list[SessionEvent], now: float) -> list[Effect]:
    effects: list[Effect] = []
    for event in events:
        try:
            effects += session.worker_event(event, now)
        except EntryError as error:
            logger.warning("Event refused", extra={"session": session.id, "reason": str(error)})
    return effects


def _unreadable(session: str, error: EntryError) -> ClientError:
    logger.error("A session that moved cannot be read", extra={"session": session, "reason": str(error)})
    return cannot_resume()
