"""Asks Redis and the services on behalf of everybody who looks: at most once a second, however many they are."""

import asyncio
import http.client
import logging
import time
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from console import measured, overview, report
from console.sound import flac
from wire.accounts import Accounts
from wire.archive import Archive
from wire.census import Census
from wire.errors import BusUnavailable, EntryError
from wire.scribe import FLUSH_S
from wire.speech_models import POOLS
from wire.streams import Bus

logger = logging.getLogger(__name__)

#: What was found is good for so long; services are asked for their metrics less often.
FRESH_S = 1.0
METRICS_S = 5.0
#: By then a worker has written what it did before a session's end, in seconds: in the next round, or the one after.
WRITTEN_S = 2 * FLUSH_S + 1.0
#: One service's metrics: longest wait, and largest page.
METRICS_TIMEOUT_S = 2.0
MAX_PAGE_BYTES = 2**22


class Desk:
    """One console's view. Use from one event loop; `bus` is closed by its owner."""

    def __init__(self, bus: Bus, metrics_urls: Sequence[str] = (), record_key: bytes | None = None) -> None:
        self._bus = bus
        self._archive = Archive(bus, record_key)
        self._drawing = asyncio.Lock()
        self._accounts = Accounts(bus)
        self._census = Census(bus)
        self._urls = tuple(metrics_urls)
        self._readings = measured.Readings()
        self._missed: list[str] = []
        self._read_at = float("-inf")
        self._asking = asyncio.Lock()
        self._found: dict[str, Any] = {}
        self._found_at = float("-inf")

    async def overview(self) -> dict[str, Any]:
        """The whole stack, at most FRESH_S old. A Redis out of reach is part of the answer, not an error."""
        async with self._asking:
            if time.monotonic() - self._found_at >= FRESH_S:
                self._found = await self._look()
                self._found_at = time.monotonic()
            return self._found

    async def session(self, name: str, after: str) -> dict[str, Any] | None:
        """An open session's facts and its events behind `after`; None where there is none. Raises BusUnavailable."""
        found = await self._census.session(name)
        if found is None:
            return None
        cursor, told = await self._census.events(name, after)
        return {"facts": overview.session(*found), "events": overview.events(told), "after": cursor}

    async def recordings(self) -> dict[str, Any]:
        """What there is to look at. Raises BusUnavailable."""
        return overview.recordings(await self._archive.listing())

    async def report(self, session: str) -> tuple[str, bool]:
        """A recording's page, and whether there will be more to show in a second: its session is just over, and the
        worker still writes. One is made at a time: an hour of sound takes seconds and some hundred MB.

        Raises NoRecording; Locked and TooNew for one that cannot be read; BusUnavailable.
        """
        async with self._drawing:
            recording = await self._archive.load(session)
            page = await asyncio.to_thread(lambda: report.render(recording, flac(recording.pcm)))
        end = recording.end
        just_over = end is not None and abs(time.time() - end.ended_s) < WRITTEN_S
        return page, just_over and bool(recording.unexplained)

    async def _look(self) -> dict[str, Any]:
        try:
            told = await self._ask_redis()
        except BusUnavailable as error:
            told = {"redis": {"up": False, "reason": str(error)}}
        await self._read_metrics()
        metrics = {
            "urls": len(self._urls),
            "missed": list(self._missed),
            "delays": self._readings.delays(),
        }
        return {"at_ms": round(time.time() * 1000), **told, "metrics": metrics}

    async def _ask_redis(self) -> dict[str, Any]:
        pools, sessions = [], []
        for name in POOLS:
            pools.append(overview.pool(name, await self._bus.loads(name), await self._bus.waiting(name)))
            sessions += await self._census.sessions(name)
        try:
            status = await self._accounts.status()
        except EntryError:  # of another version
            status = None
        return {
            "redis": {"up": True},
            "pools": pools,
            "sessions": overview.live(sessions),
            "license": overview.license_state(status),
            "usage": overview.usage(await self._accounts.waiting_usage()),
        }

    async def _read_metrics(self) -> None:
        if not self._urls or time.monotonic() - self._read_at < METRICS_S:
            return
        self._read_at = time.monotonic()
        answers = await asyncio.gather(*(asyncio.to_thread(fetch, url) for url in self._urls))
        self._missed = [
            urlsplit(url).netloc for url, page in zip(self._urls, answers, strict=True) if not page
        ]
        self._readings.add(measured.parse(filter(None, answers)), time.monotonic())


def fetch(url: str) -> str:
    """A page of metrics; empty if it cannot be had."""
    try:
        parts = urlsplit(url)
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        connection = kind(parts.hostname or "", parts.port, timeout=METRICS_TIMEOUT_S)
        try:
            connection.request("GET", parts.path or "/metrics")
            answer = connection.getresponse()
            page = answer.read(MAX_PAGE_BYTES).decode(errors="replace")
            return page if answer.status == http.client.OK else ""
        finally:
            connection.close()
    except (OSError, http.client.HTTPException, ValueError) as error:
        logger.debug("No metrics", extra={"url": url, "reason": str(error)})
        return ""
