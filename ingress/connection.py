"""One client's WebSocket: the library's connection, with a short way for what nearly every message is.

Audio comes as whole, masked, unfragmented binary frames. Those are unmasked here and handed on at once: no parser
between, no queue, no task that wakes up. Every other frame goes to the library, which knows all of RFC 6455. It is
given whole frames only, so that its parser and ours agree on where the next one begins; from a connection whose bytes
we do not understand it gets everything. Measured: DECISIONS.md, "The way of a frame through ingress".
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from websockets.asyncio.server import ServerConnection
from websockets.datastructures import Headers
from websockets.frames import DATA_OPCODES, Frame, Opcode
from websockets.http11 import Request
from websockets.protocol import OPEN, Event

from wire import metrics
from wire.errors import REASON_SEE_ERROR, ClientError, Close
from wire.messages import Error, dump

try:
    from websockets.speedups import apply_mask
except ImportError:  # a platform for which the library has no wheel
    from websockets.utils import apply_mask

logger = logging.getLogger(__name__)

Message = str | bytes

#: How long a client may take to answer our close frame; then the connection is cut.
CLOSE_TIMEOUT_S = 5.0

#: RFC 6455, 5.2: FIN and the opcode of a binary frame, no extension.
_WHOLE_BINARY = 0x82
_WHOLE_TEXT = 0x81
_MASKED = 0x80
_KEY = 4
#: A whole, masked binary frame of 126 bytes to 64 KiB: how it begins, and how many bytes stand before its payload.
_USUAL, _USUAL_HEADER = b"\x82\xfe", 8
#: In place of a request that nobody asks for any more: the library looks whether there was one.
_FORGOTTEN = Request("", Headers())
#: Messages kept of a client that nobody listens to yet.
EARLY = 16


class Connection(ServerConnection):
    """`listen` once; until then messages wait. `hold` and `release` stop and resume the reading."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._hear: Callable[[Message], None] | None = None
        self._early: list[Message] = []
        self._held = False
        #: Whether we know where frames begin: not during the handshake, and whether that is over.
        self._framing = self._greeted = False
        self._rest = bytearray()  # of a frame that is not there as a whole
        self._wanted = 2  # bytes of it
        self._parts: bytearray | None = None  # of a message in fragments
        self._text = False

    def listen(self, hear: Callable[[Message], None]) -> None:
        """Call `hear` with each message, in order, those that have come already first. It must not raise.

        The handshake is forgotten: nobody asks for its headers any more, and they are a sixth of a session's memory.
        """
        self._hear = hear
        self.request, self.response = _FORGOTTEN, None
        for message in self._early:
            hear(message)
        if len(self._early) > EARLY:
            self.release()
        self._early.clear()

    def tell(self, text: str) -> None:
        """Send a text message; nobody waits. On a connection that is closing, or closed, nothing happens."""
        if self.protocol.state is OPEN:
            payload = text.encode()
            self.transport.write(_header(len(payload)) + payload)

    def hold(self) -> None:
        """Read no more for now: TCP slows the client down. What has been read already is still heard."""
        if not self._held:
            self._held = True
            self.transport.pause_reading()

    def release(self) -> None:
        """Read on."""
        if self._held:
            self._held = False
            self.transport.resume_reading()

    async def refuse(self, error: ClientError) -> None:
        """Tell the error, and close."""
        logger.info("Client refused", extra={"code": int(error.code), "reason": error.text})
        metrics.CLIENT_ERRORS.labels(int(error.code)).inc()
        self.tell(dump(Error(int(error.code), error.text)))
        await self.end(error.code, REASON_SEE_ERROR)

    async def end(self, code: Close, reason: str) -> None:
        """Close after everything written so far; cut the connection if the client does not take part."""
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await self.close(code, reason)
        except TimeoutError:
            self.transport.abort()

    # -- what asyncio and the library call

    def data_received(self, data: bytes) -> None:
        size = len(data) - _USUAL_HEADER
        if (
            size > 0
            and self._framing
            and not self._rest
            and data[:2] == _USUAL
            and (data[2] << 8 | data[3]) == size <= (self.protocol.max_size or size)
            and self._parts is None
            and self.protocol.state is OPEN
        ):  # one whole frame of audio, as nearly always; what follows is for all else
            self._take(apply_mask(data[_USUAL_HEADER:], data[4:_USUAL_HEADER]))
            return
        if not self._framing:
            super().data_received(data)
            if not self._greeted and self.request is not None:
                self._greeted = True
                # A client that sends frames with its handshake, or that one's last line in two, is the library's alone.
                self._framing = data.endswith(b"\r\n\r\n") and not self._early
            return
        if self._rest:
            self._rest += data
            if len(self._rest) < self._wanted:
                return
            data = bytes(self._rest)
            self._rest.clear()
        start = 0
        while (sizes := _size(data, start)) is not None:
            if sizes[1] > (self.protocol.max_size or sizes[1]) or not data[start + 1] & _MASKED:
                break
            payload, end = start + sizes[0], start + sizes[0] + sizes[1]
            if end > len(data):
                self._wanted = end - start
                self._rest += data[start:]
                return
            if data[start] == _WHOLE_BINARY and self._parts is None and self.protocol.state is OPEN:
                self._take(apply_mask(data[payload:end], data[payload - _KEY : payload]))
            else:
                super().data_received(data[start:end])
            start = end
        else:
            self._wanted = 2
            self._rest += data[start:]
            return
        self._framing = False  # breaks the rules, or our limits: the library says which, and closes
        super().data_received(data[start:])

    def process_event(self, event: Event) -> None:
        """What the library parsed: fragments are joined here."""
        if isinstance(event, Request) or not isinstance(event, Frame) or event.opcode not in DATA_OPCODES:
            super().process_event(event)
            return
        if event.opcode is not Opcode.CONT:
            self._text = event.opcode is Opcode.TEXT
            self._parts = bytearray()
        if self._parts is not None:
            self._parts += event.data
            if event.fin:
                whole, self._parts = bytes(self._parts), None
                self._take_parsed(whole)

    def _take_parsed(self, whole: bytes) -> None:
        if not self._text:
            self._take(whole)
            return
        try:
            text = whole.decode()
        except UnicodeDecodeError as error:  # RFC 6455, 8.1
            self.protocol.fail(1007, f"{error.reason} at position {error.start}")
            self.send_data()
        else:
            self._take(text)

    def _take(self, message: Message) -> None:
        if (hear := self._hear) is not None:
            hear(message)
            return
        self._early.append(message)
        if len(self._early) > EARLY:
            self.hold()


def _header(size: int) -> bytes:
    """Of a text frame from a server."""
    if size < 126:
        return bytes((_WHOLE_TEXT, size))
    if size < 2**16:
        return bytes((_WHOLE_TEXT, 126)) + size.to_bytes(2, "big")
    return bytes((_WHOLE_TEXT, 127)) + size.to_bytes(8, "big")


def _size(data: bytes, start: int) -> tuple[int, int] | None:
    """Of the masked frame that begins here: bytes of its header, and of its payload. None if too little is there."""
    left = len(data) - start
    if left < 2:
        return None
    short = data[start + 1] & 0x7F
    if short < 126:
        return 2 + _KEY, short
    wide = 2 if short == 126 else 8
    if left < 2 + wide:
        return None
    return 2 + wide + _KEY, int.from_bytes(data[start + 2 : start + 2 + wide], "big")
