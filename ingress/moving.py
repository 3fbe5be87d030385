"""Sessions that go on over another connection: on this node, or from one node to another."""

import hmac
from collections.abc import Callable
from dataclasses import replace

from ingress.acting import Acting, Node
from ingress.arrivals import Arrivals, Arrived
from ingress.carried import Who
from ingress.connection import Connection
from ingress.credentials import Grant
from ingress.handshake import Resume
from ingress.roll import Client
from ingress.session import UNTAKEN, Effect, Session
from wire import metrics
from wire.entries import SessionEvent
from wire.errors import (
    BusUnavailable,
    ClientError,
    cannot_resume,
    internal_error,
    resumed_elsewhere,
    shutting_down,
)
from wire.moves import Moves
from wire.recorded import OFFER_RECORDED


class Moving:
    """`find` the session that a client comes back to; `moved_on` when it has come back elsewhere."""

    def __init__(
        self, node: Node, acting: Acting, moves: Moves, ttl_s: float, new_session: Callable[..., Session]
    ) -> None:
        self._settings = node.settings
        self._now = node.now
        self._unix_s = node.unix_s
        self._tasks = node.tasks
        self._reach = node.reach
        self._roll = node.roll
        self._keeper = node.keeper
        self._outbox = node.outbox
        self._dues = node.dues
        self._recorder = node.recorder
        self._acting = acting
        self._moves = moves
        self._new_session = new_session
        self._arrivals = Arrivals(moves, node.settings.instance, ttl_s, self._made_anew, node.now)
        self._back_from: float | None = (
            None  # while this node drains: from when on its own sessions may go on here
        )

    def drain(self, away_s: float) -> None:
        """Sessions of other nodes do not come here any more; those of this one that found no other may come back
        after so many seconds.
        """
        self._back_from = self._now() + away_s

    def hears(self, event: SessionEvent) -> bool:
        """Whether the event's session is on its way to this node, and the event waits for it."""
        return self._arrivals.hears(event)

    async def find(self, connection: Connection, wanted: Resume) -> tuple[Client, list[Effect]]:
        """The session, this node's from now on, and what it has to tell over its new connection. Raises ClientError."""
        adopted: Client | None = None
        try:
            if (client := await self._found(wanted)) is None:
                recorded = await self._recorder.has(wanted.session)
                client = adopted = self._adopt(connection, await self._arrivals.fetch(wanted), recorded)
            return client, client.session.resume(wanted.last_sequence, self._now())
        except ClientError:
            if adopted is not None:  # it claims to have seen what was never told
                self._acting.end(adopted)
            raise
        except BusUnavailable as missed:
            self._reach.missed("resume", missed)
            raise internal_error() from None

    async def _found(self, wanted: Resume) -> Client | None:
        """The session where it is this node's. Raises ClientError."""
        clients = self._roll.clients
        client = clients.get(wanted.session)
        if client is not None and client.session.movable and await self._has_moved_on(client):
            self.moved_on(wanted.session)
        client = clients.get(wanted.session)
        if client is None and wanted.session in self._keeper:  # it has just ended: let that be written
            raise internal_error()
        if self._back_from is not None and (client is None or self._now() < self._back_from):
            raise shutting_down()
        if client is not None and not (
            client.session.may_resume(wanted.token)
            and hmac.compare_digest(client.grant.key, wanted.grant.key)
        ):
            raise cannot_resume()
        return client

    async def _has_moved_on(self, client: Client) -> bool:
        try:
            kept = await self._moves.find(client.session.id)
        except BusUnavailable as error:  # nobody else can have it now
            self._reach.missed("resume", error)
            return False
        return kept is not None and kept.moves > client.moves

    def _made_anew(self, name: str, who: Who, token: str) -> Session:
        """A session that comes from another node, not yet where it was."""
        opened_at = self._now() - max(0.0, self._unix_s() - who.opened_ms / 1000)
        limits = replace(self._settings.limits, max_session_s=who.max_session_s)
        params = who.session_params()
        return self._new_session(name, params, limits, opened_at, who.expires_at, who.api_version, token)

    def _adopt(self, connection: Connection, arrived: Arrived, recorded: bool) -> Client:
        """The session is this node's from now on."""
        session, who, place = arrived.session, arrived.who, arrived.place
        grant = Grant(who.name, who.holder, who.sessions, who.max_session_s, who.key)
        offer = who.offer(session.id, self._settings.instance)
        log = arrived.log
        if recorded:
            offer = replace(offer, params={**offer.params, OFFER_RECORDED: self._recorder.mark})
            session.recorded = True
            self._recorder.go_on(session.id, [entry for _, entry in log.entries], arrived.told)
        client = Client(
            connection, session, session.opened_at, offer, grant, log.offer_id, moves=arrived.moves
        )
        self._outbox.ledger.adopt(session.id, log.generation, log.checkpoint, log.last, log.entries)
        pool, model = offer.pool, session.params.speech_model
        if place.begun_ms:
            self._dues.go_on(session.id, pool, model, place.lap, place.begun_ms)
        elif session.state not in UNTAKEN:
            self._dues.begin(session.id, pool, model)
        self._roll.enter(client, place.sequence)
        self._acting.perform(client, arrived.effects)
        self._acting.arm(client)
        metrics.SESSIONS_MOVED.inc()
        return client

    def moved_on(self, name: str) -> None:
        """The session goes on on another node: this one lets go of it, and changes nothing of it any more."""
        client = self._roll.clients.get(name)
        if client is None:
            return
        client.away = True
        client.session.outcome = "moved"
        self._keeper.drop(name)
        self._outbox.moved(name)
        self._dues.move(name)
        self._acting.let_go(client)
        if client.connection.close_code is None:
            self._tasks.create_task(client.connection.refuse(resumed_elsewhere()))
        client.moved.set()
