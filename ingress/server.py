"""One ingress node: performs what `Session` asks.

A connection costs one coroutine, which waits for its end; what it says is decided on where it arrives
(`ingress/connection.py`). Everything else is done once for the whole node, by ten loops:

    offer       new sessions to their pools, as many in one round trip as wait
    append      every tick: the audio of all sessions to Redis in one pipeline, then offers withdrawn, keys let go
    deliver     this node's inbox: worker events -> session -> client; a frame is written without a task or a wait
    deadlines   a heap of times at which a session wants to be called
    touch       sessions' keys in Redis kept alive
    pools       which pools are served, as workers report
    dues        what licensing says of the licence, and what sessions have used (`ingress/dues.py`)
    webhooks    what sessions heard, to where their clients want it
    record      what is recorded, to Redis (`ingress/recorder.py`)
    watch       is Redis there? If not for long, sessions end with an Error rather than in silence; keys and
                certificates of the operator, were they changed?

Nothing queues without a bound. Audio that Redis is slow to take stops the reading from all clients, and TCP slows them
down; a client too far ahead of its own speech is closed, and so is one that does not read its messages.

Keep-alive pings are not sent: they would cost a task per connection, and cut off a client that is being slowed down,
whose pongs wait behind its audio. A client that has vanished is found by its silence (protocol 1.6).
"""

import asyncio
import contextlib
import heapq
import hmac
import json
import logging
import math
import secrets
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from http import HTTPStatus
from typing import Any, assert_never

from websockets import http11
from websockets.asyncio.server import Server, ServerConnection
from websockets.asyncio.server import serve as serve_websocket
from websockets.http11 import Request, Response

from ingress.access import Access
from ingress.admission import Admission
from ingress.arrivals import Arrivals, Arrived
from ingress.carried import Who, digest
from ingress.certificates import certificates
from ingress.connection import Connection, Message
from ingress.credentials import Grant
from ingress.dues import Dues
from ingress.handshake import Accept, Load, Reject, Resume, Route, admit, issue, route, show, try_another
from ingress.keeper import Keeper, Kept
from ingress.ledger import Ledger
from ingress.license import LicenseGate, license_failed
from ingress.offers import Offers
from ingress.outbox import RETRY_S, Outbox
from ingress.pools import Pools
from ingress.recorder import Recorder
from ingress.session import (
    UNTAKEN,
    Append,
    CloseWith,
    Dropped,
    Effect,
    Forget,
    MakeOffer,
    Missed,
    Notify,
    Reply,
    Session,
    State,
    Withdraw,
)
from ingress.settings import IngressSettings
from ingress.webhook import Webhook, Webhooks
from wire import metrics, strides
from wire.accounts import Accounts
from wire.archive import Archive
from wire.entries import SAMPLE_RATE, AudioEntry, AudioFrame, Event, Offer, Saved, SessionEvent
from wire.errors import (
    REASON_COME_BACK,
    REASON_SEE_ERROR,
    BusUnavailable,
    ClientError,
    Close,
    EntryError,
    LicenseError,
    SettingsError,
    cannot_resume,
    internal_error,
    resumed_elsewhere,
    shutting_down,
    too_many_sessions,
)
from wire.keys import LICENSE_HOLDER, REPLAY_HOLDER, Keys
from wire.messages import Error, dump
from wire.moves import Moves
from wire.params import SessionParams
from wire.recorded import OFFER_RECORDED, OFFER_REPLAY, SessionFacts
from wire.release import software
from wire.service import Probe, allow_open_files, redact, session_id
from wire.speech_models import POOLS
from wire.streams import TOUCH_S, Bus

logger = logging.getLogger(__name__)

# A request line may hold a hundred key terms and a prompt, in percent-encoded UTF-8; the library's own limit is 8 KiB.
http11.MAX_LINE_LENGTH = 64 * 1024

#: How long a client may take to answer our close frame; then the connection is cut.
CLOSE_TIMEOUT_S = 5.0
#: How exactly deadlines, which are seconds, are met.
DEADLINE_GRAIN_S = 0.05
#: Open files of a node besides its sessions: connections to Redis, the probe, clients on their way in or out.
OTHER_FILES = 256
#: How often licensing is heard and laps are written.
DUES_S = 1.0
#: With what clients close a connection on which nothing answers their pings any more: no end, but a loss.
_UNANSWERED = 1011
#: What the log says when the licence begins, or ceases, to let sessions begin: level and message.
_ADMISSION = {
    True: (logging.INFO, "The license is good: sessions are admitted"),
    False: (
        logging.WARNING,
        "No good license: nobody is admitted. Is `steno licensing` running? LICENSE_REQUIRED=false serves without one",
    ),
}
#: How much longer than it waits for Redis a node is believed to live, in seconds.
ALIVE_S = 5.0
#: How often a node that drains looks for sessions that could go on elsewhere by now.
SEND_AWAY_S = 0.5
#: Looking one up by its label takes longer than all else that an event costs here.
_EVENTS_TOTAL = {event: metrics.EVENTS_TOTAL.labels(event.name.lower()) for event in Event}
#: How often workers' reports are read, and workers told that this node lives.
POOLS_S = 2.0
#: How often Redis is looked for while it is there.
WATCH_S = 1.0


async def serve(settings: IngressSettings, drain: asyncio.Event, probe: Probe) -> None:
    """Serve clients until `drain`, then until their sessions have ended.

    Raises SettingsError for a taken port, and for keys or certificates that cannot be read; LicenseError at the end if
    it was a failed licence that ended the sessions.
    """
    needed = settings.max_sessions + OTHER_FILES
    if (allowed := allow_open_files(needed + settings.backlog)) < needed:
        extra = {"allowed": allowed, "needed": needed}
        logger.warning("Too few open files are allowed for MAX_SESSIONS; raise `ulimit -n`", extra=extra)
    bus = Bus(settings.redis_url, Keys(settings.namespace))
    try:
        await Ingress(settings, bus, probe).run(drain)
    finally:
        await bus.close()


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


class Ingress:
    """See the module. `run` once."""

    def __init__(
        self,
        settings: IngressSettings,
        bus: Bus,
        probe: Probe,
        new_session: Callable[..., Session] = Session,
    ) -> None:
        self.settings = settings
        #: Set once clients can connect; `port` is then the one they connect to.
        self.listening = asyncio.Event()
        self.port = settings.port
        self._bus = bus
        self._moves = Moves(bus)
        ttl_s = settings.resume_window_s + 2 * TOUCH_S
        self._keeper = Keeper(self._moves, settings.instance, ttl_s, self._moved_on)
        ledger = Ledger(settings.max_held_bytes, settings.max_session_held_bytes)
        self._outbox = Outbox(bus, settings.tick_ms, self._keeper, ledger)
        self._offers = Offers(bus)
        self._access = Access(settings)
        self._certificates = certificates(settings)
        self._webhooks = Webhooks()
        self._pools = Pools()
        self._recorder = Recorder(Archive(bus, settings.seal_key), settings.policy, settings.instance)
        self._probe = probe
        self._new_session = new_session
        self._now = asyncio.get_running_loop().time
        self._arrivals = Arrivals(self._moves, settings.instance, ttl_s, self._made_anew, self._now)
        self._admission = Admission(self._pools, self._look_for_pools, settings.admission_queue, self._now)
        self._dues = Dues(
            Accounts(bus),
            LicenseGate(settings.license_required, settings.license_grace_s),
            lambda name: self._clients[name].session.received_ms,
            self._now,
        )
        self._failed: LicenseError | None = None
        self._tasks = asyncio.TaskGroup()
        self._clients: dict[str, Client] = {}
        self._held: set[Client] = set()  # not read from, until Redis has taken what waits
        self._uncounted_bytes = 0  # of audio; counting each frame costs a twentieth of all that a frame does
        self._deserted = asyncio.Event()  # no clients
        self._deadlines: list[tuple[float, str]] = []
        # Redis: there, as far as we know? When was it last?
        self._ready: bool | None = None
        self._came_back = asyncio.Event()
        self._reached_at = self._now()
        self._incarnation = ""  # of Redis
        self._draining = False
        self._given_up = False  # nobody is waited for any more
        self._sent_away_until = 0.0

    async def run(self, drain: asyncio.Event) -> None:
        """Serve until `drain`, which a failed licence sets, then until the sessions have ended or their time is up."""
        async with await self._listen() as server, self._tasks as tasks:
            self.port = next(iter(server.sockets)).getsockname()[1]
            self.listening.set()
            logger.info("Listening", extra={"host": self.settings.host, "port": self.port})
            loops = [
                tasks.create_task(loop())
                for loop in (
                    self._offers.run,
                    self._webhooks.run,
                    self._append_all,
                    self._deliver_all,
                    self._meet_deadlines,
                    self._touch,
                    partial(self._pay_dues, drain),
                    self._watch,
                    self._watch_pools,
                    partial(self._recorder.run, partial(self._missed_redis, "record")),
                )
            ]
            await drain.wait()
            await self._drain()
            await self._webhooks.drain(self.settings.webhook_grace_s)
            for loop in loops:
                loop.cancel()
        with contextlib.suppress(BusUnavailable):  # keys expire by themselves
            await self._outbox.flush()
            await self._recorder.flush()
        try:
            await self._dues.flush()
        except BusUnavailable as error:
            logger.error("The last usage of sessions is not written", extra={"reason": str(error)})
        if self._failed is not None:
            raise self._failed

    # ------------------------------------------------------------------------------------------------- the listener

    async def _listen(self) -> Server:
        settings = self.settings
        try:
            return await serve_websocket(
                self._handle,
                settings.host,
                settings.port,
                backlog=settings.backlog,
                open_timeout=settings.open_timeout_s,
                process_request=self._answer_http,
                create_connection=Connection,
                compression=None,
                max_size=settings.max_message_bytes,
                ping_interval=None,
                close_timeout=CLOSE_TIMEOUT_S,
                server_header="steno",
                logger=_library_logger(),
                **self._tls(),
            )
        except OSError as error:
            place = f"{settings.host} port {settings.port}"
            raise SettingsError(f"PORT: cannot listen on {place}: {error.strerror or error}") from None

    def _tls(self) -> dict[str, Any]:
        if self._certificates is None:
            return {}
        return {"ssl": self._certificates.context, "ssl_handshake_timeout": self.settings.open_timeout_s}

    def _answer_http(self, connection: ServerConnection, request: Request) -> Response | None:
        """Health checks, tokens, what is served, and unknown paths; None goes on to a WebSocket.

        Other methods than GET never come here: the library does not parse them and closes the connection.
        """
        match route(request.path):
            case Route.SESSION:
                elsewhere = try_another(request.path, request.headers.raw_items(), self._load())
                code = HTTPStatus.SERVICE_UNAVAILABLE
                return _json(connection, code, {"status": "try another node"}) if elsewhere else None
            case Route.HEALTH:
                return self._health(connection)
            case Route.TOKEN:
                now_s = time.time()
                credentials = self._access.credentials
                return _json(
                    connection, *issue(request.path, request.headers.raw_items(), credentials, now_s)
                )
            case Route.MODELS:
                # Heard with the other pools' loads, at most POOLS_S ago: asking often costs Redis nothing.
                default = self.settings.default_speech_model
                page = self._pools.page(default, self._now()) if self._ready else None
                asked = request.headers.raw_items()
                return _json(connection, *show(asked, self._access.credentials, page))
            case _:
                return connection.respond(HTTPStatus.NOT_FOUND, "Not found\n")

    def _health(self, connection: ServerConnection) -> Response:
        load = self._load()
        if load.healthy:
            status = "ready"
        elif load.draining:
            status = "draining"
        else:
            status = "starting" if not load.ready else "unlicensed"
        code = HTTPStatus.OK if load.healthy else HTTPStatus.SERVICE_UNAVAILABLE
        return _json(connection, code, {"status": status, "sessions": load.sessions})

    def _load(self) -> Load:
        licensed = self._dues.gate.serving
        return Load(
            len(self._clients), self.settings.max_sessions, bool(self._ready), self._draining, licensed
        )

    # ------------------------------------------------------------------------------------------------ one connection

    async def _handle(self, connection: ServerConnection) -> None:
        """A WebSocket is open. Returns when it is closed; never raises, since nobody else would tell the client."""
        if not isinstance(connection, Connection):  # what `_listen` asks for
            raise TypeError(type(connection))
        try:
            await self._admit(connection)
        except Exception:
            logger.exception("Connection failed")
            await self._turn_away(connection, internal_error())

    async def _admit(self, connection: Connection) -> None:
        request = connection.request
        if request is None:  # not before a handshake
            return
        headers, default = request.headers.raw_items(), self.settings.default_speech_model
        match admit(request.path, headers, self._load(), self._check, default):
            case Reject(error):
                await self._turn_away(connection, error)
            case Resume() as wanted:
                await self._resume(connection, wanted)
            case Accept() as accepted:
                params = accepted.params
                refusal = self._dues.refusal(params.pool) or await self._unserved(params)
                if refusal is None and await self._admission.is_full(params.pool):
                    refusal = too_many_sessions()
                if params.replay and not self._has_time_for_replays(params.pool):
                    refusal = refusal or too_many_sessions()
                if refusal or self._draining:  # perhaps only since Redis was asked
                    await self._turn_away(connection, refusal or shutting_down())
                else:
                    await self._serve(self._enrol(connection, accepted))

    def _check(self, presented: str) -> Grant:
        return self._access.credentials.grant(presented, time.time())

    async def _unserved(self, params: SessionParams) -> ClientError | None:
        """Why nobody will take a session with these; Redis is asked before that is said, and while nothing is known."""
        known = self._pools.served(self._now())
        if params.pool in known:
            return None
        await self._admission.look_again()
        return self._pools.refusal(params.pool, params.speech_model, self._now())

    async def _turn_away(self, connection: Connection, error: ClientError) -> None:
        logger.info("Client refused", extra={"code": int(error.code), "reason": error.text})
        metrics.CLIENT_ERRORS.labels(int(error.code)).inc()
        connection.tell(dump(Error(int(error.code), error.text)))
        await self._close(connection, error.code, REASON_SEE_ERROR)

    def _enrol(self, connection: Connection, accepted: Accept) -> Client:
        now, settings, params = self._now(), self.settings, accepted.params
        name, grant = str(uuid.uuid4()), accepted.grant
        limits = settings.limits
        if grant.max_session_s is not None:
            limits = replace(limits, max_session_s=min(grant.max_session_s, limits.max_session_s))
        expires_at = int(time.time() + limits.max_session_s)
        token = secrets.token_urlsafe() if params.resumable else ""
        session = self._new_session(name, params, limits, now, expires_at, accepted.api_version, token)
        told = params.for_worker() | (
            {OFFER_REPLAY: strides.unpack(params.replay_strides)} if params.replay else {}
        )
        offer = Offer(name, settings.instance, params.pool, told)
        client = Client(connection, session, now, offer, grant)
        self._register(client)
        return client

    def _register(self, client: Client, told: int = 0) -> None:
        """The session is this node's; its client has been told so many messages."""
        session, grant = client.session, client.grant
        self._clients[session.id] = client
        self._deserted.clear()
        metrics.SESSIONS_OPEN.inc()
        opened_ms = round(1000 * (time.time() - self._now() + session.opened_at))

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
            self._keeper.keep(Kept(session, who, partial(self._dues.lap, session.id), client.moves, told))

    async def _serve(self, client: Client) -> None:
        session_id.set(client.session.id)  # for the records of this task
        logger.info(
            "Session opened",
            extra={"pool": client.offer.pool, "sample_rate": client.session.params.sample_rate}
            | ({"key": client.grant.name} if client.grant.name else {}),
        )
        try:
            with self._admission.offering(client.offer.pool):
                self._apply(client, client.session.start)
                if await self._take_places(client):
                    await self._record(client)
                    await self._make_offer(client)
        except BaseException:
            self._end(client)
            raise
        await self._attend(client)

    async def _record(self, client: Client) -> None:
        """Begin its recording, if there is to be one; the offer tells the worker, and Begin the client."""
        session, grant, offer = client.session, client.grant, client.offer
        asked, recorded = session.params.record, False
        if why := self._recorder.why(grant.record, asked):
            place = (self.settings.instance, software(), why)
            params = session.params.for_worker()
            recorded = await self._recorder.begin(
                SessionFacts(session.id, time.time(), offer.pool, params, grant.name, *place)
            )
        if recorded:
            client.offer = replace(offer, params={**offer.params, OFFER_RECORDED: self._recorder.mark})
        session.recorded = recorded if recorded or asked is not None else None

    async def _attend(self, client: Client) -> None:
        """Serve the client's present connection, and wait for another if it breaks off. Ends the session unless a newer
        connection has taken it over.
        """
        connection, client.moved = client.connection, asyncio.Event()
        moved = client.moved
        try:
            lost = await self._read(client)
            if lost and client.connection is connection and self._may_wait(client):
                logger.info("Connection lost, the client may resume")
                self._recorder.connection(client.session.id, "lost")
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self.settings.resume_window_s):
                        await moved.wait()
        finally:
            if client.connection is connection and not client.away:
                self._end(client)

    def _may_wait(self, client: Client) -> bool:
        return not self._given_up and client.session.client_lost()

    async def _resume(self, connection: Connection, wanted: Resume) -> None:
        """Go on with a session over a new connection; the older one, here or on another node, can say nothing more."""
        adopted: Client | None = None
        try:
            if (client := await self._found(wanted)) is None:
                client = adopted = self._adopt(connection, await self._arrivals.fetch(wanted))
            effects = client.session.resume(wanted.last_sequence, self._now())
        except ClientError as error:
            if adopted is not None:  # it claims to have seen what was never told
                self._end(adopted)
            await self._turn_away(connection, error)
            return
        except BusUnavailable as missed:
            self._missed_redis("resume", missed)
            await self._turn_away(connection, internal_error())
            return
        session_id.set(client.session.id)
        logger.info("Session resumed", extra={"moves": client.moves})
        older, client.connection = client.connection, connection
        client.moved.set()
        if older is not connection and older.close_code is None:  # as far as we know it is there
            self._tasks.create_task(self._turn_away(older, resumed_elsewhere()))
        self._apply(client, lambda _now: effects)
        await self._attend(client)

    async def _found(self, wanted: Resume) -> Client | None:
        """The session where it is this node's. Raises ClientError."""
        client = self._clients.get(wanted.session)
        if client is not None and client.session.movable and await self._has_moved_on(client):
            self._moved_on(wanted.session)
        client = self._clients.get(wanted.session)
        if client is None and wanted.session in self._keeper:  # it has just ended: let that be written
            raise internal_error()
        if self._draining and (client is None or self._now() < self._sent_away_until):
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
            self._missed_redis("resume", error)
            return False
        return kept is not None and kept.moves > client.moves

    def _made_anew(self, name: str, who: Who, token: str) -> Session:
        """A session that comes from another node, not yet where it was."""
        opened_at = self._now() - max(0.0, time.time() - who.opened_ms / 1000)
        limits = replace(self.settings.limits, max_session_s=who.max_session_s)
        params = who.session_params()
        return self._new_session(name, params, limits, opened_at, who.expires_at, who.api_version, token)

    def _adopt(self, connection: Connection, arrived: Arrived) -> Client:
        """The session is this node's from now on."""
        session, who, place = arrived.session, arrived.who, arrived.place
        grant = Grant(who.name, who.holder, who.sessions, who.max_session_s, who.key)
        offer = who.offer(session.id, self.settings.instance)
        log = arrived.log
        client = Client(
            connection, session, session.opened_at, offer, grant, log.offer_id, moves=arrived.moves
        )
        self._outbox.ledger.adopt(session.id, log.generation, log.checkpoint, log.last, log.entries)
        pool, model = offer.pool, session.params.speech_model
        if place.begun_ms:
            self._dues.go_on(session.id, pool, model, place.lap, place.begun_ms)
        elif session.state not in UNTAKEN:
            self._dues.begin(session.id, pool, model)
        self._register(client, place.sequence)
        self._perform(client, arrived.effects)
        self._arm(client)
        metrics.SESSIONS_MOVED.inc()
        return client

    def _moved_on(self, name: str) -> None:
        """The session goes on on another node: this one lets go of it, and changes nothing of it any more."""
        client = self._clients.get(name)
        if client is None:
            return
        client.away = True
        client.session.outcome = "moved"
        self._keeper.drop(name)
        self._outbox.moved(name)
        self._dues.move(name)
        self._remove(client)
        if client.connection.close_code is None:
            self._tasks.create_task(self._turn_away(client.connection, resumed_elsewhere()))
        client.moved.set()

    def _end(self, client: Client) -> None:
        self._apply(client, client.session.client_gone)
        self._strike_off(client)

    def _holders(self, client: Client) -> dict[str, int]:
        """Among whose sessions this one has a place, over all nodes, and how many there are; only where limited."""
        holders = {client.grant.holder: client.grant.sessions, LICENSE_HOLDER: self._dues.gate.max_sessions}
        if client.session.params.replay:
            holders[REPLAY_HOLDER] = self.settings.replay_sessions
        return {holder: most for holder, most in holders.items() if holder and most}

    async def _take_places(self, client: Client) -> bool:
        """Where places are not limited, Redis is not asked."""
        for holder, most in self._holders(client).items():
            error = internal_error()
            try:
                if await self._bus.take_place(holder, client.session.id, most):
                    continue
                error = too_many_sessions()
                if holder == LICENSE_HOLDER:
                    metrics.LICENSE_REFUSALS.labels(int(error.code)).inc()
            except BusUnavailable as missed:
                self._missed_redis("take_place", missed)
            except Exception:
                logger.exception("Taking a place failed")
            self._apply(client, client.session.refuse, error)
            return False
        return True

    async def _make_offer(self, client: Client) -> None:
        try:
            client.offer_id = await self._offers.make(client.offer)
        except BusUnavailable as error:
            self._missed_redis("offer", error)
            self._apply(client, client.session.refuse, internal_error())
        except Exception:
            logger.exception("Offer failed")
            self._apply(client, client.session.refuse, internal_error())
        if client.session.state is State.CLOSED:  # in the meantime
            self._withdraw(client)

    async def _read(self, client: Client) -> bool:
        """Hear the client until its connection is closed. Returns whether it was lost: neither said that it is over."""
        connection = client.connection
        connection.listen(partial(self._hear, client, connection))
        await connection.wait_closed()
        closed = connection.protocol.close_exc
        if closed.sent is not None and closed.sent.code == Close.COME_BACK:
            return True
        open_still = client.session.state is not State.CLOSED and not client.away
        # Closed by the library itself: too big (1009), no UTF-8 (1007), no WebSocket frames (1002).
        if open_still and closed.sent is not None and not closed.rcvd_then_sent:
            metrics.CLIENT_ERRORS.labels(closed.sent.code).inc()
        said_over = closed.sent is not None and open_still
        return (closed.rcvd is None or closed.rcvd.code == _UNANSWERED) and not said_over

    def _hear(self, client: Client, connection: Connection, message: Message) -> None:
        """One message, from a client that is read no faster than its audio can be carried away.

        What an older connection still has to say, when a newer one took the session over, is dropped: the client was
        told to send it again.
        """
        if client.connection is not connection or client.away:
            return
        if isinstance(message, bytes):
            # Audio moves no deadline to an earlier time: the heap need not hear of it.
            self._apply(client, client.session.client_audio, message, arm=False)
        else:
            self._apply(client, client.session.client_text, message)
        if self._must_wait(client):
            connection.hold()
            self._held.add(client)

    def _release(self) -> None:
        """Read again from those that were held, where there is room again."""
        now = self._now()
        for client in list(self._held):
            client.session.held(now)
            if not self._must_wait(client):
                client.connection.release()
                self._held.discard(client)

    def _must_wait(self, client: Client) -> bool:
        full = self._outbox.pending_bytes > self.settings.max_pending_bytes
        return full and client.session.state is not State.CLOSED

    def _strike_off(self, client: Client) -> None:
        session = client.session
        for holder in self._holders(client):
            self._outbox.free(holder, session.id)
        self._dues.end(session.id)
        if session.state is not State.CLOSED:  # not even an orderly end was possible
            self._keeper.drop(session.id)
        self._remove(client)

    def _remove(self, client: Client) -> None:
        session = client.session
        self._recorder.end(session.id, session.outcome or "crashed", session.received_ms)
        self._held.discard(client)
        self._count_audio()
        del self._clients[session.id]
        if not self._clients:
            self._deserted.set()
        metrics.SESSIONS_OPEN.dec()
        metrics.SESSIONS_TOTAL.labels(session.outcome or "crashed").inc()
        seconds = round(self._now() - client.opened_at, 3)
        logger.info("Session ended", extra={"outcome": session.outcome, "seconds": seconds})

    async def _close(self, connection: Connection, code: Close, reason: str) -> None:
        """Close after everything written so far; cut the connection if the client does not take part."""
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await connection.close(code, reason)
        except TimeoutError:
            connection.transport.abort()

    # ---------------------------------------------------------------------------------------------- deciding, acting

    def _apply(
        self, client: Client, decide: Callable[..., list[Effect]], *arguments: object, arm: bool = True
    ) -> None:
        """Let the session decide and perform what it wants. Never raises: a bug in one session ends that session."""
        now, token = self._now(), session_id.set(client.session.id)
        try:
            try:
                effects = decide(*arguments, now)
            except ClientError as error:
                effects = client.session.refuse(error, now)
            except EntryError as error:
                logger.warning("Event refused", extra={"reason": str(error)})
                effects = [Dropped("illegal")]
            except Exception:
                logger.exception("Session crashed")
                effects = client.session.refuse(internal_error(), now)
            self._perform(client, effects)
            self._recorder.note(client.session.id, arguments[0] if arguments else None, effects)
            if arm:
                self._arm(client)
            self._outbox.mark(client.session.id)
        except Exception:  # not even an orderly end is possible
            logger.exception("Session cut off")
            client.connection.transport.abort()
        finally:
            session_id.reset(token)

    def _perform(self, client: Client, effects: Iterable[Effect]) -> None:
        for effect in effects:
            match effect:
                case Append(entry):
                    self._append(client, entry)
                case Reply(text):
                    self._reply(client, text)
                case CloseWith(code, reason):
                    if code is not Close.NORMAL:
                        metrics.CLIENT_ERRORS.labels(int(code)).inc()
                    self._tasks.create_task(self._close(client.connection, code, reason))
                case Withdraw():
                    self._withdraw(client)
                case Notify(finals):
                    self._notify(client, finals)
                case Forget():
                    self._outbox.forget(client.session.id)
                    self._dues.end(client.session.id)  # one that waits to be resumed uses nothing more
                case Missed():
                    metrics.EVENTS_DROPPED.labels("missed").inc()
                    self._restore(client)
                case Dropped(reason):
                    metrics.EVENTS_DROPPED.labels(reason).inc()
                case MakeOffer():
                    pass  # `_serve` makes it, since it has to wait for Redis
                case _:
                    assert_never(effect)

    def _notify(self, client: Client, finals: Sequence[str]) -> None:
        params = client.session.params
        name, value = params.webhook_auth_header_name, params.webhook_auth_header_value
        self._webhooks.post(
            Webhook(params.webhook_url, name or None, value or None, client.session.id, finals)
        )

    def _append(self, client: Client, entry: AudioEntry) -> None:
        self._outbox.append(client.session.id, entry)
        if isinstance(entry, AudioFrame):
            self._uncounted_bytes += len(entry.pcm)

    def _count_audio(self) -> None:
        metrics.AUDIO_SECONDS.inc(self._uncounted_bytes / 2 / SAMPLE_RATE)
        self._uncounted_bytes = 0

    def _withdraw(self, client: Client) -> None:
        if client.offer_id is not None:  # else it is still on its way, and `_make_offer` sees to it
            self._outbox.withdraw(client.offer, client.offer_id)

    def _reply(self, client: Client, text: str) -> None:
        client.connection.tell(text)
        self._cut_off_if_unread(client)

    def _cut_off_if_unread(self, client: Client) -> None:
        if client.connection.transport.get_write_buffer_size() > self.settings.max_unread_bytes:
            error = ClientError(
                Close.SERVER_ERROR, "Session Cancelled: The client does not read its messages"
            )
            self._apply(client, client.session.refuse, error)

    def _arm(self, client: Client) -> None:
        """Stand in the heap for the session's next deadline. One that moves later is left to be found too early."""
        deadline = client.session.next_deadline()
        if deadline is not None and deadline < client.armed:
            client.armed = deadline
            heapq.heappush(self._deadlines, (deadline, client.session.id))

    # ---------------------------------------------------------------------------------------------------- the loops

    async def _append_all(self) -> None:
        await self._outbox.run(lambda error: self._missed_redis("append", error))

    async def _deliver_all(self) -> None:
        def lost(error: BusUnavailable) -> None:
            self._missed_redis("inbox", error)

        async for events in self._bus.inbox(self.settings.instance, lost=lost):
            for event in events:
                if isinstance(event, Saved):
                    self._save(event)
                else:
                    self._deliver(event)

    def _deliver(self, event: SessionEvent) -> None:
        _EVENTS_TOTAL[event.event].inc()
        client = self._clients.get(event.session)
        if event.event is Event.MOVED:
            if client is not None and event.generation > client.moves:
                self._moved_on(event.session)
            return
        if client is None and self._arrivals.hears(event):
            return
        if client is None:
            metrics.EVENTS_DROPPED.labels("unknown").inc()
            return
        waiting = client.session.state in UNTAKEN
        self._apply(client, client.session.worker_event, event)
        if waiting and client.session.state in (State.OPEN, State.TERMINATING):
            metrics.BEGIN_SECONDS.observe(self._now() - client.opened_at)
            self._dues.begin(event.session, client.offer.pool, client.session.params.speech_model)

    async def _meet_deadlines(self) -> None:
        while True:
            await asyncio.sleep(DEADLINE_GRAIN_S)
            self._release()
            self._count_audio()
            now = self._now()
            while self._deadlines and self._deadlines[0][0] <= now:
                _, name = heapq.heappop(self._deadlines)
                if (client := self._clients.get(name)) is not None:
                    client.armed = math.inf
                    self._apply(client, client.session.tick)

    def _save(self, saved: Saved) -> None:
        try:
            self._outbox.ledger.saved(saved)
        except (
            EntryError
        ) as error:  # of another version; audio since the last one that could be read is held on
            logger.warning("Checkpoint not read", extra={"session": saved.session, "reason": str(error)})

    async def _touch(self) -> None:
        """Keep keys alive, and restore sessions of which Redis has lost something: else they wait for words in vain."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(TOUCH_S):
                    await self._came_back.wait()
            self._came_back.clear()
            offered = {name: client for name, client in self._clients.items() if client.alive}
            offers = {name: client.offer_id for name, client in offered.items()}
            try:
                written = self._outbox.ledger.last_written
                lost = await self._bus.touch({name: written(name) for name in offered})
                await self._keeper.touch()
            except BusUnavailable as error:
                self._missed_redis("touch", error)
                continue
            for name in lost:
                # Not what is being restored already, or was while we asked.
                if offered[name].offer_id == offers[name] and not self._outbox.restoring(name):
                    self._restore(offered[name])
            await self._keep_places(offered)

    def _restore(self, client: Client) -> None:
        """Let the session be written and offered anew, from what this node knows of it."""
        if not client.alive or client.offer_id is None:
            return

        def restored(offer_id: bytes | None) -> None:
            if offer_id is None:
                self._apply(client, client.session.refuse, internal_error())
                return
            client.offer_id = offer_id
            logger.warning("Session restored in Redis", extra={"session": client.session.id})
            if client.session.state is State.CLOSED:  # in the meantime
                self._withdraw(client)

        generation = client.session.newest_generation
        self._outbox.restore(client.offer, client.offer_id, generation, restored)

    async def _keep_places(self, clients: Mapping[str, Client]) -> None:
        held = [(holder, name) for name, client in clients.items() for holder in self._holders(client)]
        try:
            await self._bus.keep_places(held)
        except BusUnavailable as error:
            # Until the next try their keys may have more sessions than they should; none has fewer.
            self._missed_redis("keep_places", error)

    async def _pay_dues(self, drain: asyncio.Event) -> None:
        """Hear of the licence, write laps; when the licence has failed for too long, end all sessions and the node."""
        gate, served = self._dues.gate, True
        while True:
            try:
                await self._dues.beat()
            except BusUnavailable as error:
                self._missed_redis("dues", error)
            if gate.serving is not served:
                served = gate.serving
                logger.log(*_ADMISSION[served])
            self._show_health()
            try:
                gate.check(self._now())
            except LicenseError as error:
                self._failed = error
                self._refuse_all(license_failed())
                drain.set()
                return
            await asyncio.sleep(DUES_S if served else RETRY_S)

    async def _watch(self) -> None:
        while True:
            metrics.TASKS.set(len(asyncio.all_tasks()))
            for client in list(self._clients.values()):
                self._cut_off_if_unread(client)  # pongs pile up as well, and nobody tells of them
            try:
                incarnation = await self._bus.incarnation()
            except BusUnavailable as error:
                self._missed_redis("ping", error)
                self._wait_for_redis()
            else:
                self._met(incarnation)
                self._answered()
            self._refresh()
            await asyncio.sleep(WATCH_S if self._ready else RETRY_S)

    def _wait_for_redis(self) -> None:
        """For a while. What workers do not say meanwhile is nobody's fault."""
        if self._now() - self._reached_at > self.settings.redis_patience_s:
            self._refuse_all(internal_error())
        for client in self._clients.values():
            client.session.excuse(self._now())

    def _met(self, incarnation: str) -> None:
        """A Redis that was restarted, or another in its place, may lack the last writes of anybody, also what workers
        believe to have told. So all sessions go on from what this node knows for certain.
        """
        known, self._incarnation = self._incarnation, incarnation
        if known and known != incarnation:
            logger.warning("Another Redis, or a restarted one", extra={"sessions": len(self._clients)})
            for client in self._clients.values():
                self._restore(client)
            self._dues.tell_again()

    def _answered(self) -> None:
        """Redis answers; but one that is full or read-only answers as well, and takes no audio."""
        if self._outbox.stuck_since is None:
            self._reached_redis()
        else:
            self._wait_for_redis()

    def _refresh(self) -> None:
        """Keys and certificates, were they changed. What goes wrong leaves the old ones and ends nothing."""
        try:
            self._access.refresh()
            if self._certificates is not None:
                self._certificates.refresh()
        except Exception:
            logger.exception("Keys or certificates not reloaded")

    async def _watch_pools(self) -> None:
        while True:
            await self._admission.look_again(0)
            await asyncio.sleep(POOLS_S)

    async def _look_for_pools(self) -> None:
        try:
            # Who is cut off from Redis holds its sessions for so long, and so do their workers.
            await self._moves.beat(self.settings.instance, self.settings.redis_patience_s + ALIVE_S)
            loads = {pool: await self._bus.loads(pool) for pool in POOLS}
            waiting = {pool: await self._bus.waiting(pool) for pool in POOLS}
            offered = {pool: await self._bus.offered(pool) for pool in POOLS}
        except BusUnavailable as error:
            self._missed_redis("loads", error)
        else:
            self._pools.heard(loads, self._now(), waiting, offered)
            self._give_way()

    def _has_time_for_replays(self, pool: str) -> bool:
        return self.settings.replay_sessions > 0 and self._pools.spare(pool) > 0

    def _give_way(self) -> None:
        """Replays are for machines that have nothing else to do: where sessions wait for a worker, they end."""
        for client in list(self._clients.values()):
            if client.session.params.replay and self._pools.spare(client.offer.pool) < 0:
                metrics.REPLAYS_ENDED.inc()
                self._apply(client, client.session.refuse, too_many_sessions())

    # ------------------------------------------------------------------------------------------- Redis comes and goes

    def _reached_redis(self) -> None:
        self._reached_at = self._now()
        if not self._ready:
            logger.info("Redis is there", extra={"url": redact(self.settings.redis_url)})
            self._ready = True
            self._came_back.set()
            self._show_health()

    def _missed_redis(self, operation: str, error: BusUnavailable) -> None:
        metrics.REDIS_ERRORS.labels(operation).inc()
        if self._ready is not False:
            logger.warning(
                "Redis is away, trying again until it answers",
                extra={"url": redact(self.settings.redis_url), "operation": operation, "reason": str(error)},
            )
            self._ready = False
            self._show_health()

    def _show_health(self) -> None:
        self._probe.ready = self._load().healthy

    # ---------------------------------------------------------------------------------------------------- the end

    async def _drain(self) -> None:
        """No new sessions. Those that can go on on other nodes are sent there; the others have their grace time, then
        they are told that the server goes away.
        """
        self._draining = True
        self._show_health()
        logger.info("Draining", extra={"sessions": len(self._clients)})
        if self._clients and self.settings.drain_grace_s:
            await self._let_go()
        if not self._clients:
            return
        self._given_up = True
        self._refuse_all(shutting_down())
        for client in list(self._clients.values()):
            client.moved.set()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await self._deserted.wait()

    async def _let_go(self) -> None:
        """Until nobody is left, or the grace time is over."""
        # Who has found no other node by then, may come back to this one.
        self._sent_away_until = self._now() + self.settings.resume_window_s / 4
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.settings.drain_grace_s):
                while self._clients:
                    self._send_away()
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(SEND_AWAY_S):
                            await self._deserted.wait()

    def _send_away(self) -> None:
        """Ask clients to come back, to another node, once each; their sessions wait as for any client that was lost."""
        for client in list(self._clients.values()):
            session = client.session
            there = not client.sent_away and client.connection.close_code is None
            if there and session.movable and session.state not in (*UNTAKEN, State.CLOSED):
                client.sent_away = True
                self._tasks.create_task(self._close(client.connection, Close.COME_BACK, REASON_COME_BACK))

    def _refuse_all(self, error: ClientError) -> None:
        for client in list(self._clients.values()):
            self._apply(client, client.session.refuse, error)


def _json(connection: ServerConnection, code: HTTPStatus, fields: Mapping[str, Any]) -> Response:
    response = connection.respond(code, json.dumps(fields))
    del response.headers["Content-Type"]
    response.headers["Content-Type"] = "application/json"
    response.headers["Cache-Control"] = "no-store"
    return response


def _library_logger() -> logging.Logger:
    """For websockets: its errors only. At DEBUG it would log messages, and a stranger's TCP connection as an error."""
    library = logging.getLogger(f"{__name__}.websockets")
    library.setLevel(logging.ERROR)
    library.addFilter(_not_a_failed_handshake)
    return library


def _not_a_failed_handshake(record: logging.LogRecord) -> bool:
    return record.msg != "opening handshake failed"
