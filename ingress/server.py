"""One ingress node: performs what `Session` asks; the only file that knows websockets.

A connection costs one coroutine, its own handler, which reads and decides. Everything else is done once for the whole
node, by five loops:

    append      every tick: the audio of all sessions to Redis in one pipeline, then offers withdrawn, keys let go
    deliver     this node's inbox: worker events -> session -> client; a frame is written without a task or a wait
    deadlines   a heap of times at which a session wants to be called
    touch       sessions' keys in Redis kept alive
    watch       is Redis there? If not for long, sessions end with an Error rather than in silence

Nothing queues without a bound. Audio that Redis is slow to take stops the reading from all clients, and TCP slows them
down; a client far ahead of its own speech is slowed down alone; one that does not read its messages is closed.

Keep-alive pings are not sent: they would cost a task per connection, and cut off a client that is being slowed down,
whose pongs wait behind its audio. A client that has vanished is found by its silence (protocol 1.6).
"""

import asyncio
import contextlib
import heapq
import json
import logging
import math
import time
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from http import HTTPStatus
from typing import assert_never

from websockets.asyncio.server import Server, ServerConnection, broadcast
from websockets.asyncio.server import serve as serve_websocket
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from ingress.handshake import Accept, Load, Reject, Route, admit, route
from ingress.outbox import RETRY_S, Outbox
from ingress.session import (
    UNTAKEN,
    Append,
    CloseWith,
    Dropped,
    Effect,
    Forget,
    MakeOffer,
    Reply,
    Session,
    State,
    Withdraw,
)
from ingress.settings import IngressSettings
from wire import metrics
from wire.entries import SAMPLE_RATE, AudioEntry, AudioFrame, Offer, SessionEvent
from wire.errors import (
    REASON_SEE_ERROR,
    BusUnavailable,
    ClientError,
    Close,
    EntryError,
    SettingsError,
    internal_error,
)
from wire.keys import Keys
from wire.messages import Error, dump
from wire.service import Probe, redact, session_id
from wire.streams import TOUCH_S, Bus

logger = logging.getLogger(__name__)

#: How long a client may take to answer our close frame; then the connection is cut.
CLOSE_TIMEOUT_S = 5.0
#: How exactly deadlines, which are seconds, are met.
DEADLINE_GRAIN_S = 0.05
#: How often Redis is looked for while it is there.
WATCH_S = 1.0


async def serve(settings: IngressSettings, drain: asyncio.Event, probe: Probe) -> None:
    """Serve clients until `drain`, then until their sessions have ended. Raises SettingsError for a taken port."""
    bus = Bus(settings.redis_url, Keys(settings.namespace))
    try:
        await Ingress(settings, bus, probe).run(drain)
    finally:
        await bus.close()


@dataclass(eq=False)
class Client:
    """A connection and its session."""

    connection: ServerConnection
    session: Session
    opened_at: float
    offer: Offer
    offer_id: bytes | None = None
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
        self._outbox = Outbox(bus, settings.tick_ms)
        self._probe = probe
        self._new_session = new_session
        self._now = asyncio.get_running_loop().time
        self._tasks = asyncio.TaskGroup()
        self._clients: dict[str, Client] = {}
        self._deserted = asyncio.Event()  # no clients
        self._deadlines: list[tuple[float, str]] = []
        # Redis: there, as far as we know? When was it last?
        self._ready: bool | None = None
        self._came_back = asyncio.Event()
        self._reached_at = self._now()
        self._draining = False

    async def run(self, drain: asyncio.Event) -> None:
        """Serve until `drain`, then until the sessions have ended or their time is up."""
        async with await self._listen() as server, self._tasks as tasks:
            self.port = next(iter(server.sockets)).getsockname()[1]
            self.listening.set()
            logger.info("Listening", extra={"host": self.settings.host, "port": self.port})
            loops = [
                tasks.create_task(loop())
                for loop in (
                    self._append_all,
                    self._deliver_all,
                    self._meet_deadlines,
                    self._touch,
                    self._watch,
                )
            ]
            await drain.wait()
            await self._drain()
            for loop in loops:
                loop.cancel()
        with contextlib.suppress(BusUnavailable):  # keys expire by themselves
            await self._outbox.flush()

    # ------------------------------------------------------------------------------------------------- the listener

    async def _listen(self) -> Server:
        settings = self.settings
        try:
            return await serve_websocket(
                self._handle,
                settings.host,
                settings.port,
                process_request=self._answer_http,
                compression=None,
                max_size=settings.max_message_bytes,
                ping_interval=None,
                close_timeout=CLOSE_TIMEOUT_S,
                server_header="steno",
                logger=_library_logger(),
            )
        except OSError as error:
            place = f"{settings.host} port {settings.port}"
            raise SettingsError(f"PORT: cannot listen on {place}: {error.strerror or error}") from None

    def _answer_http(self, connection: ServerConnection, request: Request) -> Response | None:
        """Health checks and unknown paths; None goes on to a WebSocket."""
        match route(request.path):
            case Route.SESSION:
                return None
            case Route.HEALTH:
                return self._health(connection)
            case _:
                return connection.respond(HTTPStatus.NOT_FOUND, "Not found\n")

    def _health(self, connection: ServerConnection) -> Response:
        load = self._load()
        status = "ready" if load.healthy else "draining" if load.draining else "starting"
        code = HTTPStatus.OK if load.healthy else HTTPStatus.SERVICE_UNAVAILABLE
        response = connection.respond(code, json.dumps({"status": status, "sessions": load.sessions}))
        del response.headers["Content-Type"]
        response.headers["Content-Type"] = "application/json"
        return response

    def _load(self) -> Load:
        return Load(len(self._clients), self.settings.max_sessions, bool(self._ready), self._draining)

    # ------------------------------------------------------------------------------------------------ one connection

    async def _handle(self, connection: ServerConnection) -> None:
        """A WebSocket is open. Returns when it is closed."""
        request = connection.request
        if request is None:  # not before a handshake
            return
        match admit(request.path, request.headers.raw_items(), self._load()):
            case Reject(error):
                await self._turn_away(connection, error)
            case Accept() as accepted:
                await self._serve(self._enrol(connection, accepted))

    async def _turn_away(self, connection: ServerConnection, error: ClientError) -> None:
        logger.info("Client refused", extra={"code": int(error.code), "reason": error.text})
        metrics.CLIENT_ERRORS.labels(int(error.code)).inc()
        broadcast([connection], dump(Error(int(error.code), error.text)))
        await self._close(connection, error.code, REASON_SEE_ERROR)

    def _enrol(self, connection: ServerConnection, accepted: Accept) -> Client:
        now, settings, params = self._now(), self.settings, accepted.params
        name = str(uuid.uuid4())
        expires_at = int(time.time() + settings.max_session_s)
        session = self._new_session(name, params, settings.limits, now, expires_at, accepted.api_version)
        client = Client(
            connection, session, now, Offer(name, settings.instance, params.pool, params.model_dump())
        )
        self._clients[name] = client
        self._deserted.clear()
        metrics.SESSIONS_OPEN.inc()
        return client

    async def _serve(self, client: Client) -> None:
        session_id.set(client.session.id)  # for the records of this task
        logger.info(
            "Session opened",
            extra={"pool": client.offer.pool, "sample_rate": client.session.params.sample_rate},
        )
        try:
            self._apply(client, client.session.start)
            await self._make_offer(client)
            await self._read(client)
        finally:
            self._apply(client, client.session.client_gone)
            self._strike_off(client)

    async def _make_offer(self, client: Client) -> None:
        try:
            client.offer_id = await self._bus.offer(client.offer)
        except BusUnavailable as error:
            self._missed_redis("offer", error)
            self._apply(client, client.session.refuse, internal_error())
        except Exception:
            logger.exception("Offer failed")
            self._apply(client, client.session.refuse, internal_error())
        if client.session.state is State.CLOSED:  # in the meantime
            self._withdraw(client)

    async def _read(self, client: Client) -> None:
        """Pass messages on until the connection is closed, no faster than they can be carried away."""
        while True:
            try:
                message = await client.connection.recv()
            except ConnectionClosed as closed:
                if closed.sent is not None and closed.sent.code == Close.TOO_BIG:
                    metrics.CLIENT_ERRORS.labels(int(Close.TOO_BIG)).inc()
                return
            decide = client.session.client_text if isinstance(message, str) else client.session.client_audio
            self._apply(client, decide, message)
            while self._must_wait(client):  # noqa: ASYNC110 time alone may end it
                await asyncio.sleep(self.settings.tick_ms / 1000)

    def _must_wait(self, client: Client) -> bool:
        full = self._outbox.pending_bytes > self.settings.max_pending_bytes
        return (full and client.session.state is not State.CLOSED) or client.session.congested(self._now())

    def _strike_off(self, client: Client) -> None:
        session = client.session
        del self._clients[session.id]
        if not self._clients:
            self._deserted.set()
        metrics.SESSIONS_OPEN.dec()
        metrics.SESSIONS_TOTAL.labels(session.outcome or "crashed").inc()
        seconds = round(self._now() - client.opened_at, 3)
        logger.info("Session ended", extra={"outcome": session.outcome, "seconds": seconds})

    async def _close(self, connection: ServerConnection, code: Close, reason: str) -> None:
        """Close after everything written so far; cut the connection if the client does not take part."""
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await connection.close(code, reason)
        except TimeoutError:
            connection.transport.abort()

    # ---------------------------------------------------------------------------------------------- deciding, acting

    def _apply(self, client: Client, decide: Callable[..., list[Effect]], *arguments: object) -> None:
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
            self._arm(client)
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
                case Forget():
                    self._outbox.forget(client.session.id)
                case Dropped(reason):
                    metrics.EVENTS_DROPPED.labels(reason).inc()
                case MakeOffer():
                    pass  # `_serve` makes it, since it has to wait for Redis
                case _:
                    assert_never(effect)

    def _append(self, client: Client, entry: AudioEntry) -> None:
        self._outbox.append(client.session.id, entry)
        if isinstance(entry, AudioFrame):
            metrics.AUDIO_SECONDS.inc(len(entry.pcm) / 2 / SAMPLE_RATE)

    def _withdraw(self, client: Client) -> None:
        if client.offer_id is not None:  # else it is still on its way, and `_make_offer` sees to it
            self._outbox.withdraw(client.offer, client.offer_id)

    def _reply(self, client: Client, text: str) -> None:
        broadcast([client.connection], text)
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
                self._deliver(event)

    def _deliver(self, event: SessionEvent) -> None:
        metrics.EVENTS_TOTAL.labels(event.event.name.lower()).inc()
        client = self._clients.get(event.session)
        if client is None:
            metrics.EVENTS_DROPPED.labels("unknown").inc()
            return
        waiting = client.session.state in UNTAKEN
        self._apply(client, client.session.worker_event, event)
        if waiting and client.session.state in (State.OPEN, State.TERMINATING):
            metrics.BEGIN_SECONDS.observe(self._now() - client.opened_at)

    async def _meet_deadlines(self) -> None:
        while True:
            await asyncio.sleep(DEADLINE_GRAIN_S)
            now = self._now()
            while self._deadlines and self._deadlines[0][0] <= now:
                _, name = heapq.heappop(self._deadlines)
                if (client := self._clients.get(name)) is not None:
                    client.armed = math.inf
                    self._apply(client, client.session.tick)

    async def _touch(self) -> None:
        """Keep keys alive, and end sessions whose keys Redis has lost: they would wait for words in vain."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(TOUCH_S):
                    await self._came_back.wait()
            self._came_back.clear()
            offered = {name: client for name, client in self._clients.items() if client.alive}
            try:
                lost = await self._bus.touch(list(offered))
            except BusUnavailable as error:
                self._missed_redis("touch", error)
                continue
            for name in lost:
                self._apply(offered[name], offered[name].session.refuse, internal_error())

    async def _watch(self) -> None:
        while True:
            try:
                await self._bus.ping()
            except BusUnavailable as error:
                self._missed_redis("ping", error)
                if self._now() - self._reached_at > self.settings.redis_patience_s:
                    self._refuse_all(internal_error())
            else:
                self._reached_redis()
            await asyncio.sleep(WATCH_S if self._ready else RETRY_S)

    # ------------------------------------------------------------------------------------------- Redis comes and goes

    def _reached_redis(self) -> None:
        self._reached_at = self._now()
        if not self._ready:
            logger.info("Redis is there", extra={"url": redact(self.settings.redis_url)})
            self._ready = True
            self._came_back.set()
            self._probe.ready = not self._draining

    def _missed_redis(self, operation: str, error: BusUnavailable) -> None:
        metrics.REDIS_ERRORS.labels(operation).inc()
        if self._ready is not False:
            logger.warning(
                "Redis is away, trying again until it answers",
                extra={"url": redact(self.settings.redis_url), "operation": operation, "reason": str(error)},
            )
            self._ready = self._probe.ready = False

    # ---------------------------------------------------------------------------------------------------- the end

    async def _drain(self) -> None:
        """No new sessions; the open ones have their grace time, then they are told that the server goes away."""
        self._draining, self._probe.ready = True, False
        logger.info("Draining", extra={"sessions": len(self._clients)})
        if not self._clients:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.settings.drain_grace_s):
                await self._deserted.wait()
        self._refuse_all(ClientError(Close.SERVER_ERROR, "Session Cancelled: The server is shutting down"))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await self._deserted.wait()

    def _refuse_all(self, error: ClientError) -> None:
        for client in list(self._clients.values()):
            self._apply(client, client.session.refuse, error)


def _library_logger() -> logging.Logger:
    """For websockets: its errors only. At DEBUG it would log messages, and a stranger's TCP connection as an error."""
    library = logging.getLogger(f"{__name__}.websockets")
    library.setLevel(logging.ERROR)
    library.addFilter(_not_a_failed_handshake)
    return library


def _not_a_failed_handshake(record: logging.LogRecord) -> bool:
    return record.msg != "opening handshake failed"
