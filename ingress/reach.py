"""Is Redis there, as far as this node knows, and since when; and is it the one that it was?"""

import asyncio
import logging
from collections.abc import Callable

from wire import metrics
from wire.errors import BusUnavailable
from wire.service import redact

logger = logging.getLogger(__name__)


class Reach:
    """Whoever talks to Redis says what came of it: `reached` or `missed`. `changed` is called when that is news."""

    def __init__(
        self, url: str, patience_s: float, now: Callable[[], float], changed: Callable[[], None]
    ) -> None:
        #: None until Redis was asked for the first time.
        self.ready: bool | None = None
        #: Set when it is there again; whoever waits for that clears it.
        self.came_back = asyncio.Event()
        self._url = redact(url)
        self._patience_s = patience_s
        self._now = now
        self._changed = changed
        self._reached_at = now()
        self._incarnation = ""

    def reached(self) -> None:
        """Redis did what it was asked to."""
        self._reached_at = self._now()
        if not self.ready:
            logger.info("Redis is there", extra={"url": self._url})
            self.ready = True
            self.came_back.set()
            self._changed()

    def missed(self, operation: str, error: BusUnavailable) -> None:
        """Redis could not be reached for the operation, or refused it."""
        metrics.REDIS_ERRORS.labels(operation).inc()
        if self.ready is not False:
            logger.warning(
                "Redis is away, trying again until it answers",
                extra={"url": self._url, "operation": operation, "reason": str(error)},
            )
            self.ready = False
            self._changed()

    @property
    def lost(self) -> bool:
        """It has been away for longer than sessions can wait."""
        return self._now() - self._reached_at > self._patience_s

    def is_another(self, incarnation: str) -> bool:
        """Whether this is not the Redis that answered before: restarted, or another in its place, it may lack the last
        writes of anybody.
        """
        known, self._incarnation = self._incarnation, incarnation
        return bool(known) and known != incarnation
