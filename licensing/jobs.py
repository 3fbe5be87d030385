"""The licensing service: reads the file, checks in, and tells everybody every second what the licence is worth.

Replicas share one state in Redis: each second one of them (`wire/ticks.py`) takes it up, asks the issuer if it is time,
writes it back and publishes the status; all of them watch that status for their logs, metrics and `/v1/status`.

The check-in runs beside the seconds, since it may take longer than a status lives. A licence file that changes is read
again, by each replica; what is worse than the licence in use never takes its place:

    cannot be used (unreadable, forged, foreign, expired)    not taken
    the same licence, issued earlier                         not taken
    the same licence, renewed                                taken at once, trust and all
    another one, offline, or while ours is worth nothing     taken at once
    another one, online                                      taken once its own first check-in has passed
"""

import asyncio
import contextlib
import logging
import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from licensing.checkin import check_in
from licensing.license import MAX_TOKEN_CHARS, KeySet, License, Verdict, iso_time, parse_keys, read_license
from licensing.settings import LicensingSettings
from licensing.trust import Ratchet, TrustWindow, seal, unseal
from wire import metrics, ticks
from wire.accounts import Accounts
from wire.entries import LicenseState, LicenseStatus
from wire.errors import BusUnavailable, EntryError, LicenseError, SettingsError, Unreachable
from wire.keys import Keys
from wire.service import Probe
from wire.streams import Bus
from wire.tasks import end

logger = logging.getLogger(__name__)

#: The states as `/v1/status` writes them (protocol 8.4).
NAMES = {
    LicenseState.READY: "Ready",
    LicenseState.CONNECTED: "Connected",
    LicenseState.TRUST_BASED: "TrustBased",
    LicenseState.FAILED: "Failed",
}
_LEVELS = {LicenseState.TRUST_BASED: logging.WARNING, LicenseState.FAILED: logging.CRITICAL}

#: How often each replica looks at the status that was published, and at the file.
WATCH_S = 0.25
#: Shortest pause between two questions of one process, whatever its clock does.
SHORTEST_PAUSE_S = 60.0
#: A difference between our clock and the issuer's that the operator should hear of.
SKEW_S = 300.0


class Licensing:
    """One replica. `run` once; `page` is for `/v1/status`.

    Raises SettingsError or LicenseError when constructed: without a licence that is valid there is nothing to serve.
    """

    def __init__(
        self,
        settings: LicensingSettings,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.settings = settings
        self._wall, self._monotonic = wall, monotonic
        self._ratchet = Ratchet()
        self._keys = read_keys(settings)
        self._stamp = _stamp(settings.license_file_path)
        self.window = TrustWindow(read_file(settings, self._keys, self._now()))
        #: A licence that waits for its first check-in.
        self.candidate: TrustWindow | None = None
        self._status: LicenseStatus | None = None
        self._told: LicenseState | None = None
        self._asked_at = -SHORTEST_PAUSE_S
        self._asking = asyncio.Lock()
        self._tasks = asyncio.TaskGroup()
        self._away = False

    async def run(self, drain: asyncio.Event, probe: Probe) -> None:
        """Serve until `drain`."""
        settings = self.settings
        bus = Bus(settings.redis_url, Keys(settings.namespace))
        accounts = Accounts(bus)
        license = self.window.license
        told = {"license": license.id, "customer": license.customer, "expires": iso_time(license.expires_s)}
        logger.info("License read", extra=told)
        try:
            async with self._tasks as tasks:
                watching = tasks.create_task(self._watch(accounts, probe))
                queue = bus.keys.ticks("licensing")
                try:
                    await ticks.every_second(
                        settings.redis_url, queue, lambda: self.tick(accounts), drain, self._missed_redis
                    )
                finally:
                    await end(watching)
        finally:
            probe.ready = False
            await bus.close()

    def page(self) -> dict[str, Any]:
        """`GET /v1/status` (protocol 8.4)."""
        status = self._status or self._own_status()
        times = [
            iso_time(at / 1000) if at >= 0 else None for at in (status.last_checkin_ms, status.trust_until_ms)
        ]
        return {
            "state": NAMES[status.state],
            "last_successful_checkin": times[0],
            "trust_expiration": times[1],
        }

    # ------------------------------------------------------------------------------------------------- once a second

    async def tick(self, accounts: Accounts) -> None:
        """Take the shared state up, ask the issuer if it is time, publish. In one replica at a time."""
        try:
            await self._adopt(accounts)
            if not self._asking.locked() and (window := self._due()) is not None:
                window.asking(self._now(), 3 * self.settings.checkin_timeout_s)
                await self._publish(accounts)
                self._tasks.create_task(self._check_in(window, accounts))
            else:
                await self._publish(accounts)
        except BusUnavailable as error:
            self._missed_redis(error)
        else:
            self._away = False

    async def _adopt(self, accounts: Accounts) -> None:
        """Go on from what another replica, or an earlier process, has come to."""
        try:
            record = await accounts.trust()
        except EntryError as error:
            logger.warning("What was kept about the license cannot be read", extra={"reason": str(error)})
            return
        if record is None:
            return
        state = unseal(self.window.license, self._keys, record)
        if state is None:
            return  # of another licence, or tampered with: it counts for nothing, and is written over
        if state.serial > self.window.state.serial:
            self.window.state = state
            self._ratchet.set(state.mark_s)
        elif state.serial == self.window.state.serial:
            self._ratchet.advance(state.mark_s)

    def _due(self) -> TrustWindow | None:
        """The licence whose issuer should be asked now."""
        now = self._now()
        for window in filter(None, (self.candidate, self.window)):
            next_s = window.next_checkin()
            pause_s = min(SHORTEST_PAUSE_S, window.license.checkin_s / 2) if not window.state.missed else 0.0
            if next_s is not None and next_s <= now and self._monotonic() - self._asked_at >= pause_s:
                return window
        return None

    async def _check_in(self, window: TrustWindow, accounts: Accounts) -> None:
        async with self._asking:
            self._asked_at = self._monotonic()
            try:
                verdict = await check_in(
                    window.license, self._keys, self.settings.checkin_timeout_s, self.settings.allow_http
                )
            except Unreachable as error:
                metrics.LICENSE_CHECKINS.labels("unreachable").inc()
                logger.warning(
                    "Check-in failed", extra={"reason": str(error), "tries": window.state.tries + 1}
                )
                window.unreachable(self._now(), random.random())
            else:
                self._heard(window, verdict)
            with contextlib.suppress(BusUnavailable):  # the next second tries again
                await self._publish(accounts)

    def _heard(self, window: TrustWindow, verdict: Verdict) -> None:
        metrics.LICENSE_CHECKINS.labels("passed" if verdict.passed else "refused").inc()
        skew_s = self._wall() - verdict.issued_s
        if abs(skew_s) > SKEW_S:
            logger.warning("This machine's clock differs from the issuer's", extra={"seconds": round(skew_s)})
        window.checked(verdict, self._now(), random.random())
        if verdict.passed:
            self._ratchet.set(verdict.issued_s)
        if window is self.candidate:
            self.candidate = None
            if verdict.passed:
                self._use(window)
            else:
                told = {"license": window.license.id, "reason": verdict.reason}
                logger.error("The issuer refused the new license; the old one stays in use", extra=told)

    async def _publish(self, accounts: Accounts) -> None:
        status = self._own_status()
        await accounts.save_trust(seal(self.window.license, self.window.state))
        await accounts.publish_status(status)
        self._note(status)

    def _own_status(self) -> LicenseStatus:
        license, now = self.window.license, self._now()
        standing = self.window.status(now)
        return LicenseStatus(
            state=standing.state,
            license=license.id,
            billing=license.billing,
            pools=license.pools,
            max_sessions=license.max_sessions,
            last_checkin_ms=_ms(standing.last_success_s),
            trust_until_ms=_ms(standing.trust_until_s),
            at_ms=round(now * 1000),
            reason=standing.reason,
        )

    # ----------------------------------------------------------------------------------------------- in each replica

    async def _watch(self, accounts: Accounts, probe: Probe) -> None:
        while True:
            try:
                status = await accounts.status()
            except (BusUnavailable, EntryError):
                status = None
            self._note(status or self._own_status())
            probe.ready = status is not None
            self._reread()
            await asyncio.sleep(WATCH_S)

    def _note(self, status: LicenseStatus) -> None:
        """Log and count a change of state; keep the gauges."""
        self._status = status
        metrics.LICENSE_TRUST_SECONDS.set(
            (status.trust_until_ms - status.at_ms) / 1000 if status.trust_until_ms >= 0 else 0
        )
        if status.state is self._told:
            return
        before, self._told = self._told, status.state
        for state, name in NAMES.items():
            metrics.LICENSE_STATE.labels(name).set(state is status.state)
        metrics.LICENSE_CHANGES.labels(NAMES[status.state]).inc()
        told = {
            "state": NAMES[status.state],
            "before": NAMES[before] if before else "",
            "license": status.license,
            "reason": status.reason,
        }
        logger.log(_LEVELS.get(status.state, logging.INFO), "License state", extra=told)

    def _missed_redis(self, error: Exception) -> None:
        metrics.REDIS_ERRORS.labels("licensing").inc()
        if not self._away:
            self._away = True
            logger.warning("Redis is away, trying again until it answers", extra={"reason": str(error)})

    def _now(self) -> float:
        return self._ratchet.time(self._wall(), self._monotonic())

    # ------------------------------------------------------------------------------------------------------ the file

    def _reread(self) -> None:
        """Look at the file if it has changed."""
        stamp = _stamp(self.settings.license_file_path)
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            found = read_file(self.settings, self._keys, self._now())
        except LicenseError as error:
            logger.error("The license file has changed and is not used", extra={"reason": str(error)})
            return
        ours = self.window.license
        if found.digest == ours.digest:
            return
        if found.id == ours.id and found.issued_s < ours.issued_s:
            logger.error("The license file holds an earlier issue of the license and is not used")
        elif found.id == ours.id:
            self._use(TrustWindow(found, self.window.state))
        elif found.checkin_url is None or self._own_status().state in (
            LicenseState.FAILED,
            LicenseState.READY,
        ):
            self._use(TrustWindow(found))
        else:
            self.candidate = TrustWindow(found)
            logger.info("A new license waits for its first check-in", extra={"license": found.id})

    def _use(self, window: TrustWindow) -> None:
        self.window, self.candidate = window, None
        license = window.license
        told = {"license": license.id, "customer": license.customer, "expires": iso_time(license.expires_s)}
        logger.info("A new license is in use", extra=told)


def read_keys(settings: LicensingSettings) -> KeySet:
    """The keys that licences are verified with. Raises SettingsError or LicenseError."""
    if bool(settings.license_keys) == bool(settings.license_keys_path):
        raise SettingsError(
            "one of LICENSE_KEYS_PATH and LICENSE_KEYS must say which keys licenses are verified with"
        )
    if settings.license_keys_path is None:
        return parse_keys(settings.license_keys)
    try:
        return parse_keys(settings.license_keys_path.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(
            f"LICENSE_KEYS_PATH: {settings.license_keys_path} cannot be read: {error}"
        ) from None


def read_file(settings: LicensingSettings, keys: KeySet, now_s: float) -> License:
    """The licence in the file. Raises LicenseError."""
    path = settings.license_file_path
    try:
        with path.open(encoding="ascii") as file:
            text = file.read(MAX_TOKEN_CHARS + 1)
    except OSError as error:
        raise LicenseError(
            f"there is no license: {path} cannot be read ({error.strerror}); put the license there, or name its "
            "place in LICENSE_FILE_PATH"
        ) from None
    except UnicodeDecodeError:
        raise LicenseError(f"the license is unreadable: {path} is not text") from None
    try:
        return read_license(text, keys, settings.license_issuer, now_s)
    except LicenseError as error:
        raise LicenseError(f"{path}: {error}") from None


def _stamp(path: Path) -> tuple[int, ...]:
    """What changes when the file does."""
    try:
        found = os.stat(path)  # noqa: PTH116 the same with a shorter name
    except OSError:
        return ()
    return found.st_mtime_ns, found.st_size, found.st_ino


def _ms(unix_s: float | None) -> int:
    return -1 if unix_s is None else round(unix_s * 1000)
