"""The usage service: takes records out of Redis, delivers them in batches, settles what was counted.

Once a second (`wire/ticks.py`), in each process: take new records and those of a process that fell silent, drop what
says nothing new, deliver if it is time, close out sessions whose ingress fell silent. Records are settled after the
tracker has counted them and not before, so that a process may die at any point: another one delivers them again, and
the tracker knows them.

A tracker that is out of reach for `give_up_s` ends the process with GaveUp (exit 75), every record still in Redis; what
it held it gives back, so that its replacement goes on at once.

With a licence whose billing is flat nothing is tracked, registered or sent.
"""

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Callable

from usage.batch import Batcher
from usage.report import Tracker
from usage.settings import UsageSettings
from wire import metrics, ticks
from wire.accounts import Accounts, Waiting
from wire.entries import Billing, LicenseStatus
from wire.errors import BusUnavailable, EntryError, GaveUp, Unreachable
from wire.keys import Keys
from wire.service import Probe
from wire.streams import Bus

logger = logging.getLogger(__name__)

#: How often, at most, it is warned that many records wait.
WARN_EVERY_S = 60.0
#: How many times in `takeover_s` records are kept, and in `silence_s` silent sessions are looked for.
PER_PERIOD = 4


class Usage:
    """One process of the service. `run` once."""

    def __init__(self, settings: UsageSettings, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.settings = settings
        self.batcher = Batcher(settings.rules)
        self._now = monotonic
        self._tracker: Tracker | None = None
        self._license = ""  # the one that was registered, and that what is held belongs to
        self._told = ""
        self._kept_at = self._looked_at = self._warned_at = -1e9
        self._away = False

    async def run(self, drain: asyncio.Event, probe: Probe) -> None:
        """Serve until `drain`. Raises GaveUp, or SettingsError for what the operator must mend."""
        settings = self.settings
        bus = Bus(settings.redis_url, Keys(settings.namespace))
        accounts = Accounts(bus)

        async def call() -> None:
            await self._second(accounts)
            probe.ready = not self._away and bool(self._told)

        try:
            queue = bus.keys.ticks(f"usage-{settings.consumer}")
            await ticks.every_second(settings.redis_url, queue, call, drain, self._missed_redis)
            with contextlib.suppress(BusUnavailable):
                await self._last(accounts)
        finally:
            probe.ready = False
            with contextlib.suppress(BusUnavailable):
                await accounts.give_back_usage(settings.consumer, list(self.batcher.entries()))
                await accounts.leave_usage(settings.consumer)
            await bus.close()

    async def _second(self, accounts: Accounts) -> None:
        try:
            await self.tick(accounts)
        except BusUnavailable as error:
            self._missed_redis(error)
        else:
            self._away = False

    # ------------------------------------------------------------------------------------------------- once a second

    async def tick(self, accounts: Accounts) -> None:
        """Raises BusUnavailable, GaveUp, SettingsError."""
        if not await self._tracks(accounts):
            return
        await self._take(accounts)
        await self._keep(accounts)
        if self.batcher.due(self._now()):
            await self._deliver(accounts)
        if self.batcher.gave_up(self._now()):
            raise GaveUp(
                f"the usage tracker has been out of reach for {self.settings.give_up_s:g} seconds; all records are "
                "in Redis, and the next process goes on with them. Can this machine reach USAGE_TRACKER_URL?"
            )
        await self._close_out(accounts)
        self._show(await accounts.waiting_usage())

    async def _tracks(self, accounts: Accounts) -> bool:
        """Whether the licence in force is billed by usage; registers it if so."""
        try:
            status = await accounts.status()
        except EntryError as error:
            logger.warning("The license's status cannot be read", extra={"reason": str(error)})
            return bool(self._license)
        if status is None:  # licensing is away: what was true a moment ago goes on
            self._tell("Waiting for the licensing service" if not self._license else self._told, ready=False)
            return bool(self._license)
        if status.billing is Billing.FLAT:
            self._tell("Billing is flat: nothing is tracked", ready=True)
            return bool(self._license)  # what was used under the licence before is still owed
        if status.license != self._license and not len(self.batcher):
            await self._register(status)
        return bool(self._license)

    async def _register(self, status: LicenseStatus) -> None:
        settings = self.settings
        key = settings.usage_tracking_api_key.get_secret_value()
        tracker = Tracker(settings.usage_tracker_url, key, settings.report_timeout_s, settings.allow_http)
        try:
            await tracker.register(status.license)
        except Unreachable as error:
            raise GaveUp(f"cannot register with the usage tracker: {error}") from None
        self._tracker, self._license = tracker, status.license
        self._tell("Registered with the usage tracker", ready=True, url=tracker.url, license=status.license)

    def _tell(self, message: str, ready: bool, **fields: str) -> None:
        """Log what this process is about, once."""
        if message != self._told and (ready or not self._told):
            logger.info(message, extra=fields)
        self._told = message if ready else self._told

    async def _take(self, accounts: Accounts) -> None:
        consumer, room = self.settings.consumer, self.batcher.room
        if not room:
            return
        takeover_ms = round(self.settings.takeover_s * 1000)
        old = await accounts.take_over_usage(consumer, min(room, 1000), takeover_ms)
        new = await accounts.take_usage(consumer, max(1, room - len(old)))
        superseded: list[bytes] = []
        for entry, record in (*old, *new):
            superseded += self.batcher.add(entry, record, self._now())
        await accounts.settle_usage((), superseded)

    async def _keep(self, accounts: Accounts) -> None:
        if self._now() - self._kept_at >= self.settings.takeover_s / PER_PERIOD:
            self._kept_at = self._now()
            await accounts.keep_usage(self.settings.consumer, list(self.batcher.entries()))

    async def _deliver(self, accounts: Accounts) -> None:
        batch = self.batcher.take(self._now())
        if batch is None or self._tracker is None:
            return
        try:
            await self._tracker.deliver(self._license, batch)
        except Unreachable as error:
            self.batcher.failed(self._now(), random.random())
            metrics.USAGE_FAILURES.inc()
            told = {"batch": batch.key, "records": len(batch.held), "reason": str(error)}
            logger.warning("The usage tracker did not take a batch", extra=told)
            return
        # If Redis is lost here, the batch is delivered again, by us or by another, and the tracker knows it.
        await accounts.settle_usage([(held.entry, held.record) for held in batch.held])
        self.batcher.delivered()
        metrics.USAGE_REPORTED.inc(len(batch.held))

    async def _close_out(self, accounts: Accounts) -> None:
        if self._now() - self._looked_at < self.settings.silence_s / PER_PERIOD:
            return
        self._looked_at = self._now()
        silent = await accounts.silent_usage(self.settings.silence_s)
        if silent:
            await accounts.close_out(silent)
            metrics.USAGE_ORPHANS.inc(len(silent))
            logger.warning("Sessions closed out: their ingress fell silent", extra={"sessions": len(silent)})

    def _show(self, waiting: Waiting) -> None:
        metrics.USAGE_WAITING.set(waiting.count)
        metrics.USAGE_OLDEST_SECONDS.set(waiting.oldest_s)
        limit = self.settings.warn_waiting
        if waiting.count > limit and self._now() - self._warned_at >= WARN_EVERY_S:
            self._warned_at = self._now()
            logger.warning(
                "%d usage records wait for the tracker (more than %d). Look at its failures in this log; if there are "
                "none, run more usage processes, or give Redis room until it catches up",
                waiting.count,
                limit,
                extra={"waiting": waiting.count, "oldest_s": round(waiting.oldest_s)},
            )

    async def _last(self, accounts: Accounts) -> None:
        """On the way out: one more try with what is held."""
        while self._tracker is not None and len(self.batcher):
            failed_before = self.batcher.batch is not None
            await self._deliver(accounts)
            if failed_before or self.batcher.batch is not None:
                return

    def _missed_redis(self, error: Exception) -> None:
        metrics.REDIS_ERRORS.labels("usage").inc()
        if not self._away:
            self._away = True
            logger.warning("Redis is away, trying again until it answers", extra={"reason": str(error)})
