"""«Try it»: a page's WebSocket joined to one of an ingress, message for message.

The page speaks the v3 protocol and knows no key: it is added here. Only parameters that concern recognition go on
(`PASSED`), so that a page can send nobody else's webhook. A slow side slows the other one down: each message is sent on
before the next is read.
"""

import asyncio
import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from urllib.parse import urlencode

from starlette.websockets import WebSocket, WebSocketDisconnect
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidURI

from wire.errors import REASON_SEE_ERROR, Close
from wire.messages import Error, dump

logger = logging.getLogger(__name__)

#: What a page may ask of its session.
PASSED = frozenset(
    {
        "sample_rate",
        "speech_model",
        "format_turns",
        "language_codes",
        "language_detection",
        "keyterms_prompt",
        "prompt",
        "record",
    }
)
OPEN_TIMEOUT_S = 10.0
CLOSE_TIMEOUT_S = 2.0
#: Largest message either way, as an ingress has it.
MAX_MESSAGE_BYTES = 2**20


@dataclass
class Live:
    """Joins at most `most` pages at once to the ingress at `url`, with `api_key`."""

    url: str
    api_key: str = field(repr=False)
    most: int = 4
    open: int = 0

    async def serve(self, page: WebSocket) -> None:
        """One page's session, from accept to close. The page is told why there is none as an ingress would tell it."""
        await page.accept()
        if self.open >= self.most:
            await _refuse(page, Close.TOO_MANY_SESSIONS, f"The console holds {self.most} sessions at once")
            return
        self.open += 1
        try:
            await self._join(page)
        finally:
            self.open -= 1

    async def _join(self, page: WebSocket) -> None:
        try:
            ingress = await connect(
                f"{self.url}/v3/ws?{urlencode(passed(page.query_params.multi_items()))}",
                additional_headers={"Authorization": self.api_key},
                compression=None,
                open_timeout=OPEN_TIMEOUT_S,
                close_timeout=CLOSE_TIMEOUT_S,
                max_size=MAX_MESSAGE_BYTES,
                proxy=None,
                logger=_library_logger(),
            )
        except (OSError, InvalidHandshake, InvalidURI) as error:
            logger.warning("No ingress", extra={"url": self.url, "reason": str(error)})
            await _refuse(page, Close.SERVER_ERROR, f"No ingress answers at {self.url}")
            return
        async with ingress, asyncio.TaskGroup() as tasks:
            sending = tasks.create_task(_send(page, ingress))
            await _receive(page, ingress)
            sending.cancel()


async def _send(page: WebSocket, ingress: ClientConnection) -> None:
    """What the page says, until it is gone: then the ingress hears a close, as from any client."""
    try:
        while True:
            message = await page.receive()
            if message["type"] == "websocket.disconnect":
                break
            said = message.get("bytes")
            await ingress.send(message.get("text", "") if said is None else said)
    except ConnectionClosed:
        return
    await ingress.close()


async def _receive(page: WebSocket, ingress: ClientConnection) -> None:
    """What the ingress says, and its close."""
    try:
        async for message in ingress:
            await page.send_text(message if isinstance(message, str) else message.decode())
        await page.close(ingress.close_code or Close.NORMAL, ingress.close_reason or "")
    except ConnectionClosed as closed:
        code = closed.rcvd.code if closed.rcvd else Close.SERVER_ERROR
        reason = closed.rcvd.reason if closed.rcvd else "The connection to the ingress was lost"
        await _close(page, code, reason)
    except (WebSocketDisconnect, RuntimeError):  # starlette's word for: the page has gone meanwhile
        return


async def _refuse(page: WebSocket, code: Close, text: str) -> None:
    try:
        await page.send_text(dump(Error(int(code), text)))
    except (WebSocketDisconnect, RuntimeError):
        return
    await _close(page, int(code), REASON_SEE_ERROR)


async def _close(page: WebSocket, code: int, reason: str) -> None:
    try:
        await page.close(code, reason)
    except (WebSocketDisconnect, RuntimeError):  # it was faster
        return


def passed(query: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """The parameters that go on to the ingress."""
    return [(name, value) for name, value in query if name in PASSED]


def _library_logger() -> logging.Logger:
    """For websockets: its errors only. At DEBUG it would log the key."""
    library = logging.getLogger(f"{__name__}.websockets")
    library.setLevel(logging.ERROR)
    return library
