"""What is told to the tracker: that we exist, and one batch at a time.

At-least-once: a batch whose answer was lost is sent again, under the same key, and each record of it is known by its
session and lap, so that the tracker counts it once. An answer that does not name the batch is no answer.
"""

import json
from http import HTTPStatus
from typing import Any

from usage.batch import Batch
from wire import outbound
from wire.entries import UsageRecord
from wire.errors import SettingsError, Unreachable

REGISTER_PATH = "/v1/register"
USAGE_PATH = "/v1/usage"

#: Answers that say that the key is not good: asking again would not help.
_REFUSALS = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)


class Tracker:
    """The tracker, as this stack knows it."""

    def __init__(self, url: str, api_key: str, timeout_s: float, allow_http: bool = False) -> None:
        """Raises SettingsError for an address or a key that cannot be used."""
        if not api_key:
            raise SettingsError(
                "USAGE_TRACKING_API_KEY is not set; the license is billed by usage, which needs it"
            )
        if not api_key.isascii() or not api_key.isprintable() or " " in api_key:
            raise SettingsError("USAGE_TRACKING_API_KEY holds characters that no key has")
        if not url:
            raise SettingsError(
                "USAGE_TRACKER_URL is not set; the license is billed by usage, which needs it"
            )
        try:
            self.url = outbound.check_url(url, allow_http)
        except SettingsError as error:
            raise SettingsError(f"USAGE_TRACKER_URL: {error}") from None
        self._api_key = api_key
        self._timeout_s = timeout_s

    async def register(self, license_id: str) -> None:
        """Say that this stack will report. Raises SettingsError for a key that is refused, Unreachable otherwise."""
        answer = await self._post(REGISTER_PATH, {"license": license_id})
        if answer.status in _REFUSALS:
            raise SettingsError(f"USAGE_TRACKING_API_KEY: {self.url} refuses the key ({answer.status})")
        if answer.status != HTTPStatus.OK or _parsed(answer).get("registered") != license_id:
            raise Unreachable(f"{self.url}{REGISTER_PATH} answered {answer.status}")

    async def deliver(self, license_id: str, batch: Batch) -> None:
        """Have the batch counted. Raises Unreachable unless the tracker says that it was."""
        records = [described(held.record) for held in batch.held]
        answer = await self._post(USAGE_PATH, {"license": license_id, "batch": batch.key, "records": records})
        if answer.status != HTTPStatus.OK:
            raise Unreachable(f"{self.url}{USAGE_PATH} answered {answer.status}")
        if _parsed(answer).get("batch") != batch.key:
            raise Unreachable(f"{self.url}{USAGE_PATH} did not answer about this batch")

    async def _post(self, path: str, body: dict[str, Any]) -> outbound.Answer:
        return await outbound.post(self.url, path, body, self._api_key, self._timeout_s)


def described(record: UsageRecord) -> dict[str, Any]:
    """A record as the tracker is told of it."""
    return {
        "session": record.session,
        "lap": record.lap,
        "audio_ms": record.audio_ms,
        "session_ms": record.session_ms,
        "pool": record.pool,
        "model": record.model,
        "started_ms": record.started_ms,
        "ended_ms": record.ended_ms if record.over else None,
    }


def _parsed(answer: outbound.Answer) -> dict[str, Any]:
    try:
        body = json.loads(answer.body)
    except (ValueError, RecursionError):
        return {}
    return body if isinstance(body, dict) else {}
