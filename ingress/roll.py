"""The sessions of this node, with their connections: who is on the roll."""

import asyncio
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from ingress.carried import Who, digest
from ingress.connection import Connection
from ingress.credentials import Grant
from ingress.keeper import Keeper, Kept
from ingress.session import Session, State
from wire import metrics
from wire.entries import Offer
from wire.params import SessionParams

logger = logging.getLogger(__name__)


@dataclass(eq=False)
class Client:
    """A session and its connection, the newest where a resumable session has had several."""

    connection: Connection
    session: Session
    opened_at: float
    offer: Offer
    grant: Grant
    offer_id: bytes | None = None
    #: Set when a newer connection took the session over, or none may any more.
    moved: asyncio.Event = field(default_factory=asyncio.Event)
    #: How many times the session has moved from node to node, and whether it has gone on from this one.
    moves: int = 0
    away: bool = False
    #: It was asked to come back, to another node.
    sent_away: bool = False
    #: The earliest time for which this client stands in the heap of deadlines.
    armed: float = math.inf

    @property
    def alive(self) -> bool:
        """Redis knows the session, and it has not ended."""
        return self.offer_id is not None and self.session.state is not State.CLOSED


class Roll:
    """`enter` and `leave`. `lap(session)` tells of one that may move what it has used, as `Dues.lap` does."""

    def __init__(
        self,
        keeper: Keeper,
        lap: Callable[[str], tuple[int, int]],
        now: Callable[[], float],
        unix_s: Callable[[], float],
    ) -> None:
        self.clients: dict[str, Client] = {}
        #: Those of them that are replays, in the order in which they began.
        self.replays: dict[str, Client] = {}
        #: Set while nobody is here, once somebody has been.
        self.deserted = asyncio.Event()
        self._keeper = keeper
        self._lap = lap
        self._now = now
        self._unix_s = unix_s

    def enter(self, client: Client, told: int = 0) -> None:
        """The session is this node's; its client has been told so many messages."""
        session, grant = client.session, client.grant
        self.clients[session.id] = client
        if session.params.replay:
            self.replays[session.id] = client
        self.deserted.clear()
        metrics.SESSIONS_OPEN.inc()
        opened_ms = round(1000 * (self._unix_s() - self._now() + session.opened_at))

        def who(params: SessionParams) -> Who:
            return Who(
                {**params.for_worker(), "resumable": True},
                session.api_version,
                opened_ms,
                session.expires_at,
                session.max_session_s,
                digest(session.resume_token),
                grant.key,
                grant.name,
                grant.holder,
                grant.sessions,
            )

        if session.movable and session.state is not State.CLOSED:
            self._keeper.keep(Kept(session, who, partial(self._lap, session.id), client.moves, told))

    def leave(self, client: Client) -> None:
        """The session has ended, or goes on elsewhere."""
        session = client.session
        del self.clients[session.id]
        self.replays.pop(session.id, None)
        if not self.clients:
            self.deserted.set()
        metrics.SESSIONS_OPEN.dec()
        metrics.SESSIONS_TOTAL.labels(session.outcome or "crashed").inc()
        seconds = round(self._now() - client.opened_at, 3)
        logger.info("Session ended", extra={"outcome": session.outcome, "seconds": seconds})
