"""Webhooks: what a session heard, POSTed once to where its client wants it, when the session has ended (protocol 2.4).

    async with asyncio.TaskGroup() as tasks:
        webhooks = Webhooks()
        tasks.create_task(webhooks.run())
        webhooks.post(Webhook(...))     # returns at once
        await webhooks.drain(grace_s)   # before `run` is cancelled

Nothing a receiver does reaches a session or another receiver: deliveries wait in a bounded store, each attempt has a
timeout, one host gets a few connections at a time, redirects are not followed, and of an answer no more is read than
its head. Where the URL's name leads is resolved here and every address is checked (`wire/webhook_url.py`); the
connection goes to one of those, so that no second look at DNS can lead elsewhere, and TLS is verified against the name.

At least once: an answer that gets lost makes us send again.
"""

import asyncio
import json
import logging
import random
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from ipaddress import ip_address
from socket import SOCK_STREAM
from urllib.parse import urlsplit

import h11

from wire import metrics
from wire.webhook_url import is_refused

logger = logging.getLogger(__name__)

#: Addresses of one name that are tried in one attempt, and how long each may take to connect.
_ADDRESSES_TRIED = 3
_CONNECT_TIMEOUT_S = 3.0

#: From a host and a port to IP addresses as text. Raises OSError.
Resolve = Callable[[str, int], Awaitable[list[str]]]


@dataclass(frozen=True, slots=True)
class Webhook:
    """One delivery. URL and header have been checked; what may be secret stays out of its repr."""

    url: str = field(repr=False)
    header_name: str | None
    header_value: str | None = field(repr=False)
    session: str
    #: Final Turn messages, as JSON.
    messages: Sequence[str] = field(repr=False)

    @property
    def receiver(self) -> str:
        """Scheme, host and port: all of the URL that may be logged. Paths of hooks are often secrets."""
        parts = urlsplit(self.url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
        return f"{parts.scheme}://{host}:{port}"

    def body(self) -> bytes:
        """`{"session_id": ..., "messages": [...]}` (protocol 2.4)."""
        return (
            f'{{"session_id": {json.dumps(self.session)}, "messages": [{", ".join(self.messages)}]}}'.encode()
        )


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much webhooks may hold, and how long they may try."""

    #: Deliveries that wait or are under way, and their bodies; what would go beyond is dropped.
    max_pending: int = 1000
    max_pending_bytes: int = 64 * 2**20
    #: Attempts at the same time, in all and to one host.
    concurrency: int = 16
    concurrency_of_a_host: int = 4
    attempts: int = 5
    attempt_timeout_s: float = 10.0
    #: Pause before the second attempt; it doubles, and each is cut by up to a half at random.
    backoff_s: float = 1.0
    max_backoff_s: float = 30.0
    #: Longest head of an answer.
    max_answer_bytes: int = 16 * 1024

    def pause_s(self, failures: int, chance: float) -> float:
        """Pause after so many failed attempts; `chance` in 0..1 spreads those that failed together."""
        return min(self.max_backoff_s, self.backoff_s * 2.0 ** (failures - 1)) * (1 - chance / 2)


class _Refused(Exception):
    """Trying again would not help."""


class _Failed(Exception):
    """Trying again may help."""


@dataclass(frozen=True, slots=True, eq=False)
class _Delivery:
    webhook: Webhook
    body: bytes


class Webhooks:
    """`run` for the node's life; `post` from anywhere on its loop; `drain` once, before `run` is cancelled."""

    def __init__(
        self,
        bounds: Bounds | None = None,
        *,
        resolve: Resolve | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """`tls` verifies receivers; by default with the authorities this machine trusts."""
        self._bounds = bounds or Bounds()
        self._resolve = resolve or _resolve
        self._tls = tls or ssl.create_default_context()
        self._posted: asyncio.Queue[_Delivery] = asyncio.Queue()  # bounded by `post`
        self._open: set[_Delivery] = set()
        self._open_bytes = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._slots = asyncio.Semaphore(self._bounds.concurrency)
        self._hosts: dict[str, tuple[asyncio.Semaphore, int]] = {}

    @property
    def pending(self) -> int:
        """Deliveries that wait or are under way."""
        return len(self._open)

    def post(self, webhook: Webhook) -> None:
        """Take a delivery over. Dropped, with a warning, if too much is pending."""
        delivery = _Delivery(webhook, webhook.body())
        size = self._open_bytes + len(delivery.body)
        if self.pending >= self._bounds.max_pending or size > self._bounds.max_pending_bytes:
            _tell(webhook, "dropped", "too many are pending")
            return
        self._open.add(delivery)
        self._open_bytes = size
        self._idle.clear()
        metrics.WEBHOOKS_PENDING.set(self.pending)
        self._posted.put_nowait(delivery)

    async def run(self) -> None:
        """Deliver for ever. What is pending when this is cancelled is dropped, each with a warning."""
        try:
            async with asyncio.TaskGroup() as tasks:
                while True:
                    tasks.create_task(self._deliver(await self._posted.get()))
        finally:
            for delivery in list(self._open):
                self._close(delivery, "dropped", "this node stops")

    async def drain(self, grace_s: float) -> None:
        """Wait until nothing is pending, for `grace_s` seconds at most."""
        with suppress(TimeoutError):
            async with asyncio.timeout(grace_s):
                await self._idle.wait()

    async def _deliver(self, delivery: _Delivery) -> None:
        try:
            outcome, why = await self._try_often(delivery)
        except Exception:
            # A bug of ours in one delivery must not end the others, nor the sessions beside them.
            logger.exception("Webhook crashed", extra={"session": delivery.webhook.session})
            outcome, why = "failed", "internal error"
        self._close(delivery, outcome, why)

    async def _try_often(self, delivery: _Delivery) -> tuple[str, str]:
        """Outcome, and the reason for it."""
        why = ""
        for failures in range(self._bounds.attempts):
            if failures:
                await asyncio.sleep(self._bounds.pause_s(failures, random.random()))
            try:
                async with (
                    self._turn_of(delivery.webhook.receiver),
                    asyncio.timeout(self._bounds.attempt_timeout_s),
                ):
                    return "delivered", await self._attempt(delivery)
            except _Refused as error:
                return "refused", str(error)
            except TimeoutError:
                why = "no answer in time"
            except _Failed as error:
                why = str(error)
        return "failed", why

    @asynccontextmanager
    async def _turn_of(self, receiver: str) -> AsyncIterator[None]:
        """Wait for a turn: first among those of the same host, so that a slow one keeps no one else waiting."""
        new = asyncio.Semaphore(self._bounds.concurrency_of_a_host), 0
        semaphore, users = self._hosts.get(receiver, new)
        self._hosts[receiver] = semaphore, users + 1
        try:
            async with semaphore, self._slots:
                yield
        finally:
            semaphore, users = self._hosts.pop(receiver)
            if users > 1:
                self._hosts[receiver] = semaphore, users - 1

    async def _attempt(self, delivery: _Delivery) -> str:
        """One POST. Returns what was answered, raises _Refused or _Failed."""
        try:
            reader, writer = await self._connect(delivery.webhook)
            try:
                status = await _exchange(reader, writer, _request(delivery), self._bounds.max_answer_bytes)
            finally:
                writer.transport.abort()  # the rest of the answer is nothing to us
        except ssl.SSLCertVerificationError as error:
            raise _Refused(f"its certificate is not valid: {error.verify_message}") from None
        except h11.RemoteProtocolError:
            raise _Failed("no answer, or not one of HTTP") from None
        except OSError as error:
            raise _Failed(error.strerror or "no connection") from None
        if 200 <= status < 300:
            return f"status {status}"
        if status >= 500 or status in (408, 425, 429):
            raise _Failed(f"status {status}")
        redirect = ", and redirects are not followed" if 300 <= status < 400 else ""
        raise _Refused(f"status {status}{redirect}")

    async def _connect(self, webhook: Webhook) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """To one of the addresses that were checked, never to a name. Raises _Refused, OSError."""
        parts = urlsplit(webhook.url)
        secure = parts.scheme == "https"
        host, port = parts.hostname or "", parts.port or (443 if secure else 80)
        addresses = await self._resolve(host, port)
        if any(is_refused(ip_address(address)) for address in addresses):
            raise _Refused("it leads to a link-local, metadata or multicast address")
        failure = OSError("its name leads nowhere")
        for address in addresses[:_ADDRESSES_TRIED]:
            try:
                async with asyncio.timeout(_CONNECT_TIMEOUT_S):
                    return await asyncio.open_connection(
                        address,
                        port,
                        ssl=self._tls if secure else None,
                        server_hostname=host if secure else None,
                    )
            except ssl.SSLCertVerificationError:
                raise
            except OSError as error:  # TimeoutError is one
                failure = error
        raise failure

    def _close(self, delivery: _Delivery, outcome: str, why: str) -> None:
        self._open.remove(delivery)
        self._open_bytes -= len(delivery.body)
        metrics.WEBHOOKS_PENDING.set(self.pending)
        if not self._open:
            self._idle.set()
        _tell(delivery.webhook, outcome, why)


def _tell(webhook: Webhook, outcome: str, why: str) -> None:
    metrics.WEBHOOKS_TOTAL.labels(outcome=outcome).inc()
    level = logging.INFO if outcome == "delivered" else logging.WARNING
    what = {"session": webhook.session, "receiver": webhook.receiver, "reason": why}
    logger.log(level, "Webhook %s", outcome, extra=what)


async def _resolve(host: str, port: int) -> list[str]:
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=SOCK_STREAM)
    return list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found))


def _request(delivery: _Delivery) -> list[h11.Event]:
    webhook, body = delivery.webhook, delivery.body
    parts = urlsplit(webhook.url)
    headers = [
        ("Host", parts.netloc),
        ("User-Agent", "steno"),
        ("Content-Type", "application/json"),
        ("Content-Length", str(len(body))),
        ("Connection", "close"),
    ]
    if webhook.header_name:
        headers.append((webhook.header_name, webhook.header_value or ""))
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return [
        h11.Request(method="POST", target=target, headers=headers),
        h11.Data(data=body),
        h11.EndOfMessage(),
    ]


async def _exchange(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: list[h11.Event], max_bytes: int
) -> int:
    """Send a request; the status of the answer. Raises OSError, h11.RemoteProtocolError."""
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=max_bytes)
    for event in request:
        writer.write(connection.send(event) or b"")
    await writer.drain()
    received = 0
    while received <= max_bytes:  # interim answers may come in any number
        answer = connection.next_event()
        if isinstance(answer, h11.Response):
            return answer.status_code
        if answer is h11.NEED_DATA:
            piece = await reader.read(4096)
            received += len(piece)
            connection.receive_data(piece)
        elif not isinstance(answer, h11.InformationalResponse):
            break
    raise h11.RemoteProtocolError("not an answer")
