"""One ingress node: serves connections, and runs what all its sessions share.

A connection costs one coroutine, which waits for its end; what it says is decided on where it arrives
(`ingress/connection.py`). Everything else is done once for the whole node, by a dozen loops:

    offer       new sessions to their pools, as many in one round trip as wait
    append      every tick: the audio of all sessions to Redis in one pipeline, then offers withdrawn, keys let go
    deliver     this node's inbox: worker events -> session -> client; a frame is written without a task or a wait
    deadlines   a heap of times at which a session wants to be called
    touch       sessions' keys in Redis kept alive
    pools       which pools are served, as workers report
    heart       workers told that this node lives (`ingress/heart.py`)
    dues        what licensing says of the licence, and what sessions have used (`ingress/dues.py`)
    webhooks    what sessions heard, to where their clients want it
    record      what is recorded, to Redis (`ingress/recorder.py`)
    watch       is Redis there? If not for long, sessions end with an Error rather than in silence; keys and
                certificates of the operator, were they changed?
    trim        free memory given back to the system (`wire/heap.py`)

Nothing queues without a bound; a client too far ahead of its own speech is closed, and so is one that does not read its
messages.
"""

import asyncio
import contextlib
import logging
import secrets
import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from ingress.access import Access
from ingress.acting import Acting, Node
from ingress.admission import Admission
from ingress.connection import CLOSE_TIMEOUT_S, Connection
from ingress.credentials import Grant
from ingress.dues import Dues
from ingress.front import Front
from ingress.giveway import ending, may_begin
from ingress.handshake import Accept, Load, Reject, Resume, admit
from ingress.heart import Heart
from ingress.keeper import Keeper
from ingress.ledger import Ledger
from ingress.license import LicenseGate, license_failed
from ingress.moving import Moving
from ingress.offers import Offers
from ingress.outbox import RETRY_S, Outbox
from ingress.places import Places
from ingress.pools import Pools
from ingress.reach import Reach
from ingress.recorder import Recorder
from ingress.roll import Client, Roll
from ingress.session import UNTAKEN, Session, State
from ingress.settings import IngressSettings
from ingress.webhook import Webhooks
from wire import heap, metrics, strides
from wire.accounts import Accounts
from wire.archive import Archive
from wire.entries import Event, Offer, Saved, SessionEvent
from wire.errors import (
    REASON_COME_BACK,
    BusUnavailable,
    ClientError,
    Close,
    EntryError,
    LicenseError,
    internal_error,
    resumed_elsewhere,
    shutting_down,
    too_many_sessions,
)
from wire.keys import Keys
from wire.moves import Moves
from wire.params import SessionParams
from wire.recorded import OFFER_RECORDED, OFFER_REPLAY, SessionFacts
from wire.release import software
from wire.service import Probe, allow_open_files, session_id
from wire.speech_models import POOLS
from wire.streams import TOUCH_S, Bus

logger = logging.getLogger(__name__)

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
#: How often a node that drains looks for sessions that could go on elsewhere by now.
SEND_AWAY_S = 0.5
#: Looking one up by its label takes longer than all else that an event costs here.
_EVENTS_TOTAL = {event: metrics.EVENTS_TOTAL.labels(event.name.lower()) for event in Event}
#: How often workers' reports are read.
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
        self._probe = probe
        self._new_session = new_session
        self._now = now = asyncio.get_running_loop().time
        self._tasks = asyncio.TaskGroup()
        self._reach = Reach(settings.redis_url, settings.redis_patience_s, now, self._show_health)
        self._access = Access(settings)
        self._pools = Pools()
        self._front = Front(settings, self._access, self._pools, self._load, now)
        self._moves = Moves(bus)
        ttl_s = settings.resume_window_s + 2 * TOUCH_S
        self._keeper = Keeper(self._moves, settings.instance, ttl_s, self._moved_on)
        ledger = Ledger(settings.max_held_bytes, settings.max_session_held_bytes)
        self._outbox = Outbox(bus, settings.tick_ms, self._keeper, ledger)
        self._offers = Offers(bus)
        self._webhooks = Webhooks()
        self._recorder = Recorder(Archive(bus, settings.seal_key), settings.policy, settings.instance)
        gate = LicenseGate(settings.license_required, settings.license_grace_s)
        self._dues = Dues(Accounts(bus), gate, self._heard_ms, now, bus.unix_s)
        self._roll = Roll(self._keeper, self._dues.lap, now, bus.unix_s)
        self._clients = self._roll.clients
        self._places = Places(bus, self._reach, settings.replay_sessions, lambda: gate.max_sessions)
        node = Node(
            settings,
            now,
            bus.unix_s,
            self._tasks,
            self._reach,
            self._roll,
            self._keeper,
            self._outbox,
            self._places,
            self._dues,
            self._recorder,
            self._webhooks,
        )
        self._admission = Admission(self._pools, self._look_for_pools, settings.admission_queue, now)
        self._acting = Acting(node)
        self._moving = Moving(node, self._acting, self._moves, ttl_s, new_session)
        self._heart = Heart(bus, self._moves, settings.instance, self._reach, self._given_up_for_dead)
        self._failed: LicenseError | None = None
        self._draining = False
        self._given_up = False  # nobody is waited for any more

    async def run(self, drain: asyncio.Event) -> None:
        """Serve until `drain`, which a failed licence sets, then until the sessions have ended or their time is up."""
        heap.hold()
        async with await self._front.listen(self._handle) as server, self._tasks as tasks:
            self.port = next(iter(server.sockets)).getsockname()[1]
            self.listening.set()
            logger.info("Listening", extra={"host": self.settings.host, "port": self.port})
            loops = [
                tasks.create_task(loop())
                for loop in (
                    self._offers.run,
                    self._webhooks.run,
                    partial(self._outbox.run, partial(self._reach.missed, "append")),
                    self._deliver_all,
                    self._acting.run,
                    self._touch,
                    partial(self._pay_dues, drain),
                    self._watch,
                    self._watch_pools,
                    self._heart.run,
                    heap.keep_trim,
                    partial(self._recorder.run, partial(self._reach.missed, "record")),
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

    def _load(self) -> Load:
        licensed = self._dues.gate.serving
        ready = bool(self._reach.ready)
        live = len(self._clients) - len(self._roll.replays)
        return Load(live, self.settings.max_sessions, ready, self._draining, licensed)

    def _show_health(self) -> None:
        self._probe.ready = self._load().healthy

    def _heard_ms(self, name: str) -> int:
        return self._clients[name].session.received_ms

    def _moved_on(self, name: str) -> None:
        self._moving.moved_on(name)

    # ------------------------------------------------------------------------------------------------ one connection

    async def _handle(self, connection: Connection) -> None:
        """A WebSocket is open. Returns when it is closed; never raises, since nobody else would tell the client."""
        try:
            await self._admit(connection)
        except Exception:
            logger.exception("Connection failed")
            await connection.refuse(internal_error())

    async def _admit(self, connection: Connection) -> None:
        request = connection.request
        if request is None:  # not before a handshake
            return
        headers, default = request.headers.raw_items(), self.settings.default_speech_model
        asked = admit(request.path, headers, self._load(), self._check, default)
        del request, headers  # this frame lives as long as the session
        match asked:
            case Reject(error):
                await connection.refuse(error)
            case Resume() as wanted:
                await self._resume(connection, wanted)
            case Accept() as accepted:
                params = accepted.params
                refusal = self._dues.refusal(params.pool) or await self._unserved(params)
                if refusal is None and await self._admission.is_full(
                    params.pool, partial(self._yielding, params)
                ):
                    refusal = too_many_sessions()
                if params.replay and not self._has_time_for_replays(params.pool):
                    refusal = refusal or too_many_sessions()
                if refusal or self._draining:  # perhaps only since Redis was asked
                    await connection.refuse(refusal or shutting_down())
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
        self._roll.enter(client)
        return client

    async def _serve(self, client: Client) -> None:
        session_id.set(client.session.id)  # for the records of this task
        logger.info(
            "Session opened",
            extra={"pool": client.offer.pool, "sample_rate": client.session.params.sample_rate}
            | ({"key": client.grant.name} if client.grant.name else {}),
        )
        try:
            with self._admission.offering(client.offer.pool):
                self._acting.apply(client, client.session.start)
                if (refusal := await self._places.take(client)) is not None:
                    self._acting.refuse(client, refusal)
                else:
                    await self._record(client)
                    await self._make_offer(client)
                    if self._roll.replays and not client.session.params.replay:
                        await self._look_for_pools()  # one of them may have to make room at once
        except BaseException:
            self._acting.end(client)
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
                self._acting.end(client)

    def _may_wait(self, client: Client) -> bool:
        return not self._given_up and client.session.client_lost()

    async def _resume(self, connection: Connection, wanted: Resume) -> None:
        """Go on with a session over a new connection; the older one, here or on another node, can say nothing more."""
        try:
            client, effects = await self._moving.find(connection, wanted)
        except ClientError as error:
            await connection.refuse(error)
            return
        session_id.set(client.session.id)
        logger.info("Session resumed", extra={"moves": client.moves})
        older, client.connection = client.connection, connection
        client.moved.set()
        if older is not connection and older.close_code is None:  # as far as we know it is there
            self._tasks.create_task(older.refuse(resumed_elsewhere()))
        self._acting.apply(client, lambda _now: effects)
        await self._attend(client)

    async def _make_offer(self, client: Client) -> None:
        try:
            client.offer_id = await self._offers.make(client.offer)
        except BusUnavailable as error:
            self._reach.missed("offer", error)
            self._acting.refuse(client, internal_error())
        except Exception:
            logger.exception("Offer failed")
            self._acting.refuse(client, internal_error())
        if client.session.state is State.CLOSED:  # in the meantime
            self._acting.withdraw(client)

    async def _read(self, client: Client) -> bool:
        """Hear the client until its connection is closed. Returns whether it was lost: neither said that it is over."""
        connection = client.connection
        connection.listen(partial(self._acting.hear, client, connection))
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

    # ---------------------------------------------------------------------------------------------------- the loops

    async def _deliver_all(self) -> None:
        def lost(error: BusUnavailable) -> None:
            self._reach.missed("inbox", error)

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
        if client is None and self._moving.hears(event):
            return
        if client is None:
            metrics.EVENTS_DROPPED.labels("unknown").inc()
            return
        waiting = client.session.state in UNTAKEN
        self._acting.apply(client, client.session.worker_event, event)
        if waiting and client.session.state in (State.OPEN, State.TERMINATING):
            metrics.BEGIN_SECONDS.observe(self._now() - client.opened_at)
            self._dues.begin(event.session, client.offer.pool, client.session.params.speech_model)

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
                    await self._reach.came_back.wait()
            self._reach.came_back.clear()
            offered = {name: client for name, client in self._clients.items() if client.alive}
            offers = {name: client.offer_id for name, client in offered.items()}
            try:
                written = self._outbox.ledger.last_written
                lost = await self._bus.touch({name: written(name) for name in offered})
                await self._keeper.touch()
            except BusUnavailable as error:
                self._reach.missed("touch", error)
                continue
            for name in lost:
                # Not what is being restored already, or was while we asked.
                if offered[name].offer_id == offers[name] and not self._outbox.restoring(name):
                    self._acting.restore(offered[name])
            for client in await self._places.keep(offered.values()):
                self._end_replay(client)

    async def _pay_dues(self, drain: asyncio.Event) -> None:
        """Hear of the licence, write laps; when the licence has failed for too long, end all sessions and the node."""
        gate, served = self._dues.gate, True
        while True:
            try:
                await self._dues.beat()
            except BusUnavailable as error:
                self._reach.missed("dues", error)
            if gate.serving is not served:
                served = gate.serving
                logger.log(*_ADMISSION[served])
            self._show_health()
            try:
                gate.check(self._now())
            except LicenseError as error:
                self._failed = error
                self._acting.refuse_all(license_failed())
                drain.set()
                return
            await asyncio.sleep(DUES_S if served else RETRY_S)

    async def _watch(self) -> None:
        while True:
            metrics.TASKS.set(len(asyncio.all_tasks()))
            for client in list(self._clients.values()):
                self._acting.cut_off_if_unread(client)  # pongs pile up as well, and nobody tells of them
            try:
                incarnation = await self._bus.incarnation()
            except BusUnavailable as error:
                self._reach.missed("ping", error)
                self._wait_for_redis()
            else:
                self._met(incarnation)
                self._answered()
            self._front.refresh()
            await asyncio.sleep(WATCH_S if self._reach.ready else RETRY_S)

    def _wait_for_redis(self) -> None:
        """For a while. What workers do not say meanwhile is nobody's fault."""
        if self._reach.lost:
            self._acting.refuse_all(internal_error())
        for client in self._clients.values():
            client.session.excuse(self._now())

    def _met(self, incarnation: str) -> bool:
        """Whether it is another one. A Redis that was restarted, or another in its place, may lack the last writes of
        anybody, also what workers believe to have told. So all sessions go on from what this node knows for certain.
        """
        if not self._reach.is_another(incarnation):
            return False
        logger.warning("Another Redis, or a restarted one", extra={"sessions": len(self._clients)})
        for client in self._clients.values():
            self._acting.restore(client)
        self._dues.tell_again()
        return True

    async def _given_up_for_dead(self) -> None:
        """By workers, who let this node's sessions go; unless it was Redis that forgot. Raises BusUnavailable."""
        if self._met(await self._bus.incarnation()):
            return
        logger.warning("This node was taken for dead", extra={"sessions": len(self._clients)})
        for name, client in self._clients.items():
            if not self._outbox.restoring(name):
                self._acting.restore(client)

    def _answered(self) -> None:
        """Redis answers; but one that is full or read-only answers as well, and takes no audio."""
        if self._outbox.stuck_since is None:
            self._reach.reached()
        else:
            self._wait_for_redis()

    async def _watch_pools(self) -> None:
        while True:
            await self._admission.look_again(0)
            await asyncio.sleep(POOLS_S)

    async def _look_for_pools(self) -> None:
        try:
            loads = {pool: await self._bus.loads(pool) for pool in POOLS}
            waiting = {pool: await self._bus.waiting(pool) for pool in POOLS}
            offered = {pool: await self._bus.offered(pool) for pool in POOLS}
        except BusUnavailable as error:
            self._reach.missed("loads", error)
        else:
            self._pools.heard(loads, self._now(), waiting, offered)
            self._give_way()

    def _has_time_for_replays(self, pool: str) -> bool:
        room = may_begin(self._pools.spare(pool), len(self._clients), self.settings.max_sessions)
        return self.settings.replay_sessions > 0 and room

    def _yielding(self, params: SessionParams) -> int:
        """Replays with a slot that the session may have: they give way to who waits. Of this node they are known at
        once, of others when workers have told.
        """
        if params.replay:
            return 0
        ours = sum(one.offer.pool == params.pool for one in self._roll.replays.values())
        return max(ours, self._pools.replays(params.pool))

    def _give_way(self) -> None:
        """Replays are for machines that have nothing else to do: where sessions wait for a worker, they end."""
        open_ones = {
            name: one for name, one in self._roll.replays.items() if one.session.state is not State.CLOSED
        }
        for name in ending([(name, one.offer.pool) for name, one in open_ones.items()], self._pools.spare):
            self._end_replay(open_ones[name])

    def _end_replay(self, client: Client) -> None:
        metrics.REPLAYS_ENDED.inc()
        self._acting.refuse(client, too_many_sessions())

    # ---------------------------------------------------------------------------------------------------- the end

    async def _drain(self) -> None:
        """No new sessions. Those that can go on on other nodes are sent there; the others have their grace time, then
        they are told that the server goes away.
        """
        self._draining = True
        grace = bool(self._clients) and self.settings.drain_grace_s > 0
        # Who has found no other node by then, may come back to this one.
        self._moving.drain(self.settings.resume_window_s / 4 if grace else 0.0)
        self._show_health()
        logger.info("Draining", extra={"sessions": len(self._clients)})
        if grace:
            await self._let_go()
        if not self._clients:
            return
        self._given_up = True
        self._acting.refuse_all(shutting_down())
        for client in list(self._clients.values()):
            client.moved.set()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await self._roll.deserted.wait()

    async def _let_go(self) -> None:
        """Until nobody is left, or the grace time is over."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.settings.drain_grace_s):
                while self._clients:
                    self._send_away()
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(SEND_AWAY_S):
                            await self._roll.deserted.wait()

    def _send_away(self) -> None:
        """Ask clients to come back, to another node, once each; their sessions wait as for any client that was lost."""
        for client in list(self._clients.values()):
            session = client.session
            there = not client.sent_away and client.connection.close_code is None
            if there and session.movable and session.state not in (*UNTAKEN, State.CLOSED):
                client.sent_away = True
                self._tasks.create_task(client.connection.end(Close.COME_BACK, REASON_COME_BACK))
