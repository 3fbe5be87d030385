"""What was written by another version, or is damaged: skipped, counted each time, and each reason logged once."""

import logging

from wire import metrics

logger = logging.getLogger(__name__)

#: Most reasons that one process logs.
MOST_REASONS = 100

_told: set[str] = set()


def refused(what: str, error: Exception) -> None:
    """`what` could not be read, for this reason, and is skipped."""
    metrics.ENTRIES_REFUSED.inc()
    reason = f"{type(error).__name__}: {error}"
    if reason not in _told and len(_told) < MOST_REASONS:
        _told.add(reason)
        logger.warning("Entry refused", extra={"entry": what, "reason": reason})
