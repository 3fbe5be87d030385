"""The step loop of a worker: read, plan, step, decide, publish.

    read      one XREAD over all sessions; frames go to their slots, orders wait for their place in the audio
    plan      the next chunk of every slot -> one batch
    step      the recognizer, on a thread of its own; meanwhile the last step's events are written and audio is read
    decide    each slot's hypothesis goes to its session's turn tracker
    publish   events, checkpoints and trims, fenced by the lease's generation

Decisions sit between steps, so a flush asked after step n rides in n + 1. A session that fails alone is ended alone;
when the recognizer itself fails, the worker gives every session back and stops, and another worker takes them over.
"""

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from wire import heap, metrics
from wire.archive import Archive
from wire.entries import AudioFrame, Control, Event, Lease, Order, Publication, WorkerLoad
from wire.errors import INTERNAL_ERROR, BusUnavailable
from wire.moves import Moves
from wire.presence import Presence
from wire.recorded import OFFER_REPLAY
from wire.service import session_id
from wire.streams import Bus
from workers.feeders import Feeders
from workers.leftover import Leftover
from workers.overload import Overload, behind_s
from workers.pool import Pool
from workers.recognizer import Hypothesis, Recognizer
from workers.recorder import Recorder
from workers.seat import Seat, refusal
from workers.settings import WorkerSettings
from workers.slots import Plan, Room, Slots
from workers.turns import Effect, Finished, Flush, SpeechStarted, Turn

logger = logging.getLogger(__name__)

#: How long one wait for an offer lasts; a drain is noticed after at most this time.
OFFER_BLOCK_MS = 100
#: How often to look for sessions whose worker is gone, in seconds.
LOOK_S = 0.1
#: How often to look whether ingress nodes live, in seconds.
FEEDERS_S = 0.4
#: Pauses before the next try when Redis is away: the first, and the longest after growing.
RETRY_S, LONGEST_RETRY_S = 0.2, 1.0
#: After so many seconds without news of a log, what comes may have been held up on the way; and, since that comes in
#: pieces, what comes for so long from then on, or from taking a session over on.
HELD_UP_S, AFTER_HOLD_UP_S = 1.0, 5.0
#: Least time between two load reports, in seconds: a crowd that comes at once is told of together.
REPORT_GAP_S = 0.05
#: Steps over which what a step takes is averaged.
PACE_STEPS = 16


class Engine:
    """One worker's sessions and its recognizer, whose weights have this `digest`. `run` until drained."""

    def __init__(
        self,
        settings: WorkerSettings,
        bus: Bus,
        pool: Pool,
        recognizer: Recognizer,
        thread: ThreadPoolExecutor,
        digest: str = "",
    ) -> None:
        self._settings = settings
        self._bus = bus
        self._moves = Moves(bus)
        self._presence = Presence(bus, bus.keys.worker_present(pool.name, pool.worker))
        self._feeders = Feeders()
        self._pool = pool
        self._recognizer = recognizer
        self._slots = Slots(recognizer.spec)
        self._leftover = Leftover()
        self._seats: dict[str, Seat] = {}
        self._outbox: list[Publication] = []
        self._over: list[Lease] = []  # settled once their last events are written
        self._recorder = Recorder(Archive(bus, settings.seal_key), settings.worker, recognizer.spec, digest)
        self._thread = thread  # the one that computes
        self._publishing = asyncio.Lock()  # a session's events must be written in their order
        self._leaves = False  # takes nothing new, and hands over what it can
        self._stopping = False
        self._hurried = False  # do not wait for the next period
        self._read_at_s = time.time()  # when the audio logs were last read
        self._step_s = 0.0  # what a step takes, on average of late
        self._overload = Overload(settings.overload_s)
        self._news = asyncio.Event()  # for admission: somebody has come or gone
        self._away = 0  # failed tries since Redis was there last

    async def run(self, drain: asyncio.Event, joined: Callable[[], None]) -> None:
        """Serve until `drain`, then hand sessions over to those who have room. Without any, let them end for the grace
        time and give the rest back.

        `joined` is called at the first contact with Redis.
        """
        try:
            async with asyncio.TaskGroup() as tasks:
                endless = [tasks.create_task(self._presence.run())]
                await self._joining()
                joined()
                tasks.create_task(self._taking(drain))
                tasks.create_task(self._stepping())
                endless += [tasks.create_task(self._renewing()), tasks.create_task(self._reporting())]
                endless.append(tasks.create_task(self._watching_feeders()))
                endless.append(tasks.create_task(self._recorder.run(self._missed_recorder)))
                endless.append(tasks.create_task(heap.keep_trim()))
                await self._draining(drain)
                for task in endless:  # they may sleep for long
                    task.cancel()
        finally:
            await self._leaving()

    # ------------------------------------------------------------------------------------------- leases come and go

    async def _joining(self) -> None:
        while True:
            try:
                await self._pool.join()
                await self._presence.show()
                return await self._report()  # before we are called ready: ingress goes by it
            except BusUnavailable as error:
                logger.warning("Waiting for Redis", extra={"reason": str(error)})
                await asyncio.sleep(1.0)

    async def _leaving(self) -> None:
        try:
            await self._pool.leave()
            await self._recorder.flush()
        except BusUnavailable as error:
            logger.warning("Leases run out by themselves", extra={"reason": str(error)})

    async def _draining(self, drain: asyncio.Event) -> None:
        await drain.wait()
        self._leaves = True
        deadline, look_again = time.monotonic() + self._settings.drain_grace_s, 0.0
        while self._seats and time.monotonic() < deadline:
            if time.monotonic() >= look_again:
                look_again = time.monotonic() + await self._hand_over()
            await asyncio.sleep(0.05)
        self._stopping = True

    async def _hand_over(self) -> float:
        """Sessions to workers that have room for them; when to look again, in seconds."""
        try:
            await self._report()  # so that nobody who leaves as well hands over to us
            spare = await self._pool.spare()
            seats = list(self._seats.values())[:spare]
            await self._publish()  # what was decided is not to be decided again
            for seat in seats:
                self._unseat(seat.session)
            await self._pool.hand_over(seat.lease for seat in seats)
        except BusUnavailable as error:
            self._redis_away("hand_over", error)
            return RETRY_S
        if not seats:
            return RETRY_S
        logger.info("Sessions handed over", extra={"sessions": len(seats), "left": len(self._seats)})
        return 2 * self._settings.report_s  # until they have told what room is left

    async def _taking(self, drain: asyncio.Event) -> None:
        """Fill free slots, first with sessions whose worker is gone; with nobody else while there is too much to do."""
        look_again = 0.0
        while not drain.is_set() and not self._stopping:
            if not self._slots.free:
                await asyncio.sleep(0.05)
                continue
            try:
                leases: list[Lease] = []
                if time.monotonic() >= look_again:
                    leases = await self._pool.take_over(self._slots.free)
                    look_again = time.monotonic() + LOOK_S
                if not leases and self._overload.there:
                    await asyncio.sleep(0.05)
                    continue
                # One at a time: offers that come together are shared among the pool's workers.
                leases = leases or await self._pool.take(1, OFFER_BLOCK_MS)
            except BusUnavailable as error:
                await asyncio.sleep(self._redis_away("take", error))
                # Whoever was cut off with us has the time of a lease to say that it is still there.
                look_again = time.monotonic() + self._pool.lease_ms / 1000
                continue
            for lease in leases:
                self._seat(lease)
            await self._publish()  # Begin must not wait for a step

    def _seat(self, lease: Lease) -> None:
        self._unseat(lease.session)  # an older generation of ours
        try:
            seat = Seat(lease)
            options = seat.options
        except (KeyError, TypeError, ValueError) as error:
            logger.error(
                "Session given up: unusable parameters",
                extra={"session": lease.session, "reason": str(error)},
            )
            self._outbox.append(refusal(lease, INTERNAL_ERROR))
            self._over.append(lease)
            return
        if lease.takes > self._settings.max_takes:
            logger.error("Session given up: too many takes", extra={"session": lease.session})
            self._fail(seat)
            return
        self._seats[lease.session] = seat
        seat.news_s = time.monotonic()
        again, strides = lease.takes > 1, lease.offer.params.get(OFFER_REPLAY)
        if again:
            seat.held_up_s = seat.news_s
        if again and strides is not None:
            strides = b""  # they began elsewhere
        self._slots.seat(lease.session, lease.generation, seat.origin_ms, options, again, strides)
        self._recorder.seated(seat)
        self._tell(seat, Event.TAKEN)
        self._count_seats()
        logger.info("Session taken", extra={"session": lease.session, "generation": lease.generation})

    def _unseat(self, session: str) -> None:
        if self._seats.pop(session, None) is not None:
            self._slots.unseat(session)
            self._count_seats()

    def _count_seats(self) -> None:
        metrics.SLOTS_USED.labels(self._pool.name).set(len(self._seats))
        self._news.set()

    def _lost(self, leases: Iterable[Lease]) -> None:
        for lease in leases:
            self._pool.drop(lease)
            self._recorder.left(lease)
            seat = self._seats.get(lease.session)
            if seat is not None and seat.lease is lease:
                self._unseat(lease.session)

    async def _renewing(self) -> None:
        while True:
            await asyncio.sleep(self._pool.renew_s)
            try:
                self._lost(await self._pool.renew())
            except BusUnavailable as error:
                self._redis_away("renew", error)
            else:
                self._redis_back()

    async def _watching_feeders(self) -> None:
        while True:
            await asyncio.sleep(FEEDERS_S)
            try:
                await self._let_orphans_go()
            except BusUnavailable as error:
                self._redis_away("feeders", error)

    async def _let_orphans_go(self) -> None:
        """Sessions whose ingress has died, unless another may go on with them: it has time until their keys expire."""
        nodes = list({seat.lease.offer.ingress for seat in self._seats.values()})
        living = await self._moves.living(nodes)
        dead = self._feeders.heard(dict(zip(nodes, living, strict=True)), time.monotonic())
        orphans = [seat for seat in self._seats.values() if seat.lease.offer.ingress in dead]
        resumable = await self._moves.resumable([seat.session for seat in orphans])
        lost = [seat for seat, may_resume in zip(orphans, resumable, strict=True) if not may_resume]
        # First: a node that lives after all hears of it, and takes its sessions back.
        await self._moves.bury({seat.lease.offer.ingress for seat in lost})
        for seat in lost:
            if self._seats.get(seat.session) is seat:
                told = {"session": seat.session, "node": seat.lease.offer.ingress}
                logger.warning("Session let go: its ingress has died", extra=told)
                self._end(seat)

    async def _reporting(self) -> None:
        labels = self._pool.name
        metrics.SLOTS.labels(labels).set(self._recognizer.spec.slots)
        metrics.STATE_BYTES.set(self._recognizer.spec.state_bytes)
        while True:
            self._news.clear()
            try:
                await self._report()
                metrics.OFFERS_WAITING.labels(labels).set(await self._bus.waiting(self._pool.name))
            except BusUnavailable as error:
                self._redis_away("report", error)
            await asyncio.sleep(REPORT_GAP_S)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._settings.report_s):
                    await self._news.wait()

    async def _report(self) -> None:
        backlog_ms = max(self._slots.backlogs_ms(), default=0)
        metrics.BACKLOG_SECONDS.set(backlog_ms / 1000)
        deadline_s = int(self._bus.unix_s() + 3 * self._settings.report_s) + 1
        spec, held = self._recognizer.spec, len(self._seats)
        told = (spec.model, spec.licence, spec.languages, held, self._presence.seen, self._slots.replays)
        free = 0 if self._leaves or self._overload.there else self._slots.free
        slots = held if self._leaves else spec.slots  # who leaves has none for others
        load = WorkerLoad(slots, free, backlog_ms, deadline_s, *told)
        await self._bus.report(self._pool.name, self._pool.worker, load)

    # ----------------------------------------------------------------------------------------------------- the loop

    async def _stepping(self) -> None:
        """Read, plan, step, decide, publish: once per period, at once while a session waits for its words."""
        period_s = self._settings.step_ms / 1000
        while not self._stopping:
            started, self._hurried = time.monotonic(), False
            await self._read()
            room = self._leftover.room(self._slots.live, started)
            if (plan := self._slots.plan(self._recognizer.behind, self._pace(), room)) is not None:
                begun = time.monotonic()
                step = asyncio.get_running_loop().run_in_executor(
                    self._thread, self._recognizer.step, plan.batch
                )
                await self._publish()  # what reading decided
                results = await step
                took_s = time.monotonic() - begun  # not since `started`: reading may have waited for Redis
                self._observe(plan, took_s)
                self._recorder.step(took_s, int((plan.batch.samples > 0).sum()))
                self._hurried |= self._slots.catching_up
                if plan.replay:
                    self._leftover.took(begun, time.monotonic())
                self._decide(plan, results)
            self._hurried |= self._slots.replaying and self._may_replay()
            self._weigh(self._step_s if plan is not None else 0.0)
            await self._publish()
            if not self._hurried:
                await asyncio.sleep(max(0.0, started + period_s - time.monotonic()))

        await self._let_abandoned_go()

    async def _let_abandoned_go(self) -> None:
        """Before the rest is given back: sessions whose client has gone meanwhile need no other worker."""
        await self._read()
        for seat in list(self._seats.values()):
            if seat.abandoned:
                self._end(seat)
        await self._publish()

    def _may_replay(self) -> bool:
        return self._leftover.room(self._slots.live, time.monotonic()) is not Room.NONE

    async def _read(self) -> None:
        asked = {name: seat for name, seat in self._seats.items() if not seat.crowded}
        since_s, self._read_at_s = self._read_at_s, time.time()
        try:
            found = await self._bus.read({name: seat.cursor for name, seat in asked.items()})
        except BusUnavailable as error:
            await asyncio.sleep(self._redis_away("read", error))
            return
        for name, logged in found.items():
            # Not one that was seated anew meanwhile: it has a place of its own in the log.
            if self._seats.get(name) is (seat := asked[name]):
                self._notice_hold_up(seat)
                seat.receive(logged.cursor, logged.entries, since_s)
        for seat in list(self._seats.values()):
            if seat.next() is not None:
                self._guarded(seat, partial(self._feed, seat))
                self._recorder.read(seat)

    def _notice_hold_up(self, seat: Seat) -> None:
        """After an outage of Redis, or of its ingress, a session is heard as it would have been without one."""
        now_s = time.monotonic()
        if now_s - seat.news_s > HELD_UP_S:
            seat.held_up_s = now_s
        if now_s - seat.held_up_s < AFTER_HOLD_UP_S:
            self._slots.steady(seat.session)
        seat.news_s = now_s

    def _feed(self, seat: Seat) -> None:
        """Audio goes on to the slot; an order waits until all audio before it has been stepped."""
        while (entry := seat.next()) is not None:
            if isinstance(entry, AudioFrame):
                samples = seat.samples(entry)
                if len(samples) > self._slots.room(seat.session):
                    return
                self._slots.feed(seat.session, samples)
                seat.consumed(entry)
                if (end_ms := seat.lead_heard_to()) is not None:
                    self._slots.flush(seat.session, end_ms)
            elif self._slots.cut(seat.session) > self._slots.stepped(seat.session):
                self._hurried = True
                return
            else:
                seat.consumed(entry)
                if self._obey(seat, entry):
                    return

    def _obey(self, seat: Seat, control: Control) -> bool:
        """Whether the session is over."""
        at_ms = seat.ms(control.position)
        match control.order:
            case Order.FORCE_ENDPOINT:
                self._perform(seat, seat.tracker.force_endpoint(at_ms))
            case Order.CONFIGURE:
                effects = seat.configure()
                self._slots.configure(seat.session, seat.options)
                self._perform(seat, effects)
            case Order.TERMINATE:
                self._slots.finish(seat.session)
                self._perform(seat, seat.tracker.finish(at_ms))
            case Order.ABANDON:
                self._end(seat)
        return self._seats.get(seat.session) is not seat

    def _decide(self, plan: Plan, results: list[Hypothesis | None]) -> None:
        for session, generation, hypothesis in self._slots.deliver(plan, results):
            seat = self._seats.get(session)
            if seat is not None and seat.lease.generation == generation:
                self._guarded(seat, partial(self._hear, seat, hypothesis))

    def _hear(self, seat: Seat, hypothesis: Hypothesis) -> None:
        if hypothesis.failed:
            self._fail(seat)
            return
        if hypothesis.tail is not None and (arrived_s := seat.arrived_s(self._slots.stepped(seat.session))):
            metrics.NEWS_LAG_SECONDS.observe(max(0.0, time.time() - arrived_s))
        self._recorder.stepped(seat, self._slots.stepped(seat.session), hypothesis)
        hypothesis = seat.heard(hypothesis)
        self._perform(seat, seat.tracker.advance(hypothesis))
        self._outbox += seat.pulses(hypothesis.observations)
        if hypothesis.observations and (rest := seat.rest(hypothesis.observations[-1].at_ms)):
            self._outbox.append(rest)

    def _perform(self, seat: Seat, effects: Iterable[Effect]) -> None:
        for effect in effects:
            match effect:
                case Flush(at_ms):
                    self._recorder.decided(seat, effect)
                    seat.flush_asked_s = time.monotonic()
                    self._hurried = True
                    self._slots.flush(seat.session, at_ms)
                case Turn():
                    self._publish_turn(seat, effect)
                case SpeechStarted():
                    self._outbox.append(seat.message(effect))
                case Finished():
                    self._tell(seat, Event.DONE)
                    self._end(seat)

    def _publish_turn(self, seat: Seat, turn: Turn) -> None:
        if turn.end_of_turn:
            metrics.FINALS_TOTAL.inc()
            metrics.END_OF_TURN_DELAY_SECONDS.observe(time.monotonic() - seat.flush_asked_s)
        else:
            if not seat.tells_partials:
                return
            metrics.PARTIALS_TOTAL.inc()
            if turn.words and seat.is_first_partial(turn):
                heard_ms = seat.ms(self._slots.stepped(seat.session))
                metrics.FIRST_PARTIAL_SECONDS.observe((heard_ms - turn.words[0].start) / 1000)
        self._outbox.append(seat.publication(turn))

    def _guarded(self, seat: Seat, act: Callable[[], None]) -> None:
        """A bug that shows in one session ends that session, not its neighbours."""
        token = session_id.set(seat.session)
        try:
            act()
        except Exception:
            logger.exception("Session failed")
            self._fail(seat)
        finally:
            session_id.reset(token)

    def _fail(self, seat: Seat) -> None:
        self._tell(seat, Event.FAILED, INTERNAL_ERROR)
        self._end(seat)

    def _tell(self, seat: Seat, event: Event, text: str = "") -> None:
        self._outbox.append(seat.report(event, text))

    def _end(self, seat: Seat) -> None:
        self._over.append(seat.lease)
        if self._seats.get(seat.session) is seat:
            self._unseat(seat.session)

    async def _publish(self) -> None:
        """Write what was decided; what cannot be written now stays, in order, for the next time."""
        async with self._publishing:
            outbox, self._outbox = self._outbox, []
            over, self._over = self._over, []
            if not outbox and not over:
                return
            try:
                lost = await self._bus.publish(outbox)
                self._recorder.published(outbox, lost)
                self._lost(lost)
                await self._pool.settle(over)
                for lease in over:
                    self._recorder.left(lease)
            except BusUnavailable as error:
                self._outbox, self._over = outbox + self._outbox, over + self._over
                await asyncio.sleep(self._redis_away("publish", error))

    # -------------------------------------------------------------------------------------------------- observations

    def _pace(self) -> int:
        """Chunks a step for those who catch up: so many that they do so at twice the speed of speech at least."""
        spec = self._recognizer.spec
        chunks = math.ceil(2 * self._step_s * spec.sample_rate / spec.chunk_samples)
        return min(max(1, chunks), spec.catch_up)

    def _weigh(self, step_s: float) -> None:
        """Is there too much to do?"""
        behind = behind_s(step_s, self._slots.backlogs_ms())
        if not self._overload.heard(behind):
            return
        metrics.OVERLOADED.labels(self._pool.name).set(self._overload.there)
        self._news.set()
        what = "Too much to do: no new sessions" if self._overload.there else "New sessions are taken again"
        logger.warning(what, extra={"behind_s": round(behind, 2), "sessions": len(self._seats)})

    def _observe(self, plan: Plan, seconds: float) -> None:
        self._step_s += (seconds - self._step_s) / PACE_STEPS
        active = int((plan.batch.samples > 0).sum())
        metrics.STEP_SECONDS.labels(metrics.occupancy(active)).observe(seconds)

    def _redis_away(self, operation: str, error: BusUnavailable) -> float:
        """How long to wait before the next try, in seconds. Sessions are kept: while we cannot reach Redis nobody may
        know better than we whether they are ours, and what we publish too late is fenced.
        """
        metrics.REDIS_ERRORS.labels(operation).inc()
        if not self._away:
            told = {"operation": operation, "reason": str(error), "sessions": len(self._seats)}
            logger.warning("Redis is away, trying again until it answers", extra=told)
        self._away += 1
        return min(RETRY_S * 1.5 ** min(self._away - 1, 10), LONGEST_RETRY_S)

    def _missed_recorder(self, error: BusUnavailable) -> None:
        self._redis_away("record", error)

    def _redis_back(self) -> None:
        if self._away:
            logger.warning("Redis is there again", extra={"sessions": len(self._seats)})
            self._away = 0
