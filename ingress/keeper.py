"""What resumable sessions need on another node, written with their audio: in one go, so that it always fits the log.

A session is `kept` from its beginning and `mark`ed whenever something happened to it; `Outbox` asks for what is to be
written and gets it written. A session that has moved on is dropped, and its node told; nothing more of it is written.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace

from ingress.carried import Who, pack
from ingress.session import Session
from wire.entries import AudioEntry
from wire.moves import Keeping, Moves
from wire.params import SessionParams


@dataclass
class Kept:
    """One session. `who` tells it with the parameters of the moment, `lap` its last lap and when its use began."""

    session: Session
    who: Callable[[SessionParams], Who]
    lap: Callable[[], tuple[int, int]]
    #: How many times it has moved before it came here.
    moves: int = 0
    #: What Redis has of it: messages up to this number, and `who` with these parameters.
    told: int = 0
    params: SessionParams | None = field(default=None, repr=False)
    #: The parameters that are on their way there.
    going: SessionParams | None = field(default=None, repr=False)

    def keeping(
        self, node: str, ttl_s: float, entries: Sequence[tuple[int, AudioEntry]], whole: bool
    ) -> Keeping:
        """What is to be written. Not `whole`: entries that follow stand elsewhere, so the place does not fit yet."""
        session = self.session
        if not whole:
            return Keeping(session.id, self.moves, node, ttl_s, entries=entries)
        self.going = session.params
        who = "" if self.going is self.params else pack(self.who(self.going))
        lap, begun_ms = self.lap()
        place = pack(replace(session.place(), lap=lap, begun_ms=begun_ms))
        told = session.told_after(self.told)
        return Keeping(session.id, self.moves, node, ttl_s, who, place, entries, told)


class Keeper:
    """The resumable sessions of one node. `moved` is told of each that has gone on on another one."""

    def __init__(self, moves: Moves, node: str, ttl_s: float, moved: Callable[[str], None]) -> None:
        self._moves = moves
        self._node = node
        self._ttl_s = ttl_s
        self._moved = moved
        self._kept: dict[str, Kept] = {}
        self._marked: set[str] = set()

    def __len__(self) -> int:
        return len(self._kept)

    def __contains__(self, session: str) -> bool:
        return session in self._kept

    def keep(self, kept: Kept) -> None:
        """From now on."""
        self._kept[kept.session.id] = kept
        self._marked.add(kept.session.id)

    def drop(self, session: str) -> None:
        """Nothing more is written of it."""
        self._kept.pop(session, None)
        self._marked.discard(session)

    def mark(self, session: str) -> bool:
        """Something happened to it. Whether it is one of ours."""
        if session in self._kept:
            self._marked.add(session)
        return session in self._kept

    def keepings(
        self, entries: Sequence[tuple[str, int, AudioEntry]], waiting: Collection[str]
    ) -> list[Keeping]:
        """What to write with these entries, as it is now; of sessions that have others `waiting`, only the entries."""
        grouped: dict[str, list[tuple[int, AudioEntry]]] = {}
        for session, number, entry in entries:
            if session in self._kept:
                grouped.setdefault(session, []).append((number, entry))
        made = []
        for session, own in grouped.items():
            made.append(self._kept[session].keeping(self._node, self._ttl_s, own, session not in waiting))
            if session not in waiting:
                self._marked.discard(session)
        return made

    def rest(self, waiting: Collection[str]) -> list[Keeping]:
        """What to write of marked sessions that have no entries `waiting`."""
        marked = self._marked.difference(waiting)
        self._marked -= marked
        return [self._kept[session].keeping(self._node, self._ttl_s, (), True) for session in marked]

    def moves(self, session: str) -> int:
        """How many times it has moved until it came here; 0 for one that cannot."""
        kept = self._kept.get(session)
        return kept.moves if kept else 0

    async def has_moved_on(self, session: str) -> bool:
        """Whether it has, as far as Redis knows; then its node is told. Raises BusUnavailable."""
        kept = self._kept.get(session)
        found = await self._moves.find(session) if kept else None
        if kept is None or found is None or found.moves <= kept.moves:
            return False
        self.drop(session)
        self._moved(session)
        return True

    async def write(self, keepings: Sequence[Keeping]) -> None:
        """Raises BusUnavailable, with everything to be written once more."""
        if not keepings:
            return
        try:
            moved, forgot = await self._moves.keep(keepings)
        except BaseException:
            self._marked.update(keeping.session for keeping in keepings if keeping.session in self._kept)
            raise
        for keeping in keepings:
            self._written(keeping)
        for session in forgot:
            if (kept := self._kept.get(session)) is not None:
                kept.params, kept.told = None, 0
                self._marked.add(session)
        for session in moved:
            self.drop(session)
            self._moved(session)

    def _written(self, keeping: Keeping) -> None:
        kept = self._kept.get(keeping.session)
        if kept is None:
            return
        if keeping.who:
            kept.params = kept.going
        if keeping.told:
            kept.told = keeping.told[-1][0]

    async def touch(self) -> None:
        """Keep everything alive. Raises BusUnavailable."""
        await self._moves.touch(list(self._kept), self._ttl_s)

    async def release(self, session: str) -> None:
        """The session is over, and everything of it is written. Raises BusUnavailable."""
        if (kept := self._kept.get(session)) is None:
            return
        moved = await self._moves.release({session: kept.moves})
        self.drop(session)
        if moved:
            self._moved(session)
