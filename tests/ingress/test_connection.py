"""`ingress.connection` over real sockets: the short way and the library's give the same, in whatever pieces."""

import asyncio
import itertools
import json
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from websockets.asyncio.server import ServerConnection, serve

from ingress import connection
from ingress.connection import EARLY, Connection, Message
from tests.nodes import PATIENCE_S, Nodes, careless, only
from wire.entries import Event

MAX_SIZE = 100_000
REQUEST = (
    b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)
TEXT, BINARY, CONTINUED, CLOSE, PING = 0x1, 0x2, 0x0, 0x8, 0x9


def frame(opcode: int, payload: bytes, fin: bool = True, masked: bool = True) -> bytes:
    """A client's frame (RFC 6455, 5.2)."""
    key = os.urandom(4)
    size, mask = len(payload), 0x80 if masked else 0
    if size < 126:
        header = bytes((mask | size,))
    elif size < 2**16:
        header = bytes((mask | 126,)) + size.to_bytes(2, "big")
    else:
        header = bytes((mask | 127,)) + size.to_bytes(8, "big")
    body = key + bytes(byte ^ key[place % 4] for place, byte in enumerate(payload)) if masked else payload
    return bytes((opcode | (0x80 if fin else 0),)) + header + body


def fragments(opcode: int, pieces: Sequence[bytes], between: bytes = b"") -> bytes:
    parts = [
        frame(opcode if number == 0 else CONTINUED, piece, number == len(pieces) - 1)
        for number, piece in enumerate(pieces)
    ]
    return between.join(parts)


@dataclass
class Side:
    """Both ends of one connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    connection: Connection
    heard: list[Message] = field(default_factory=list)

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def closed_with(self) -> int:
        """The code of the server's close frame."""
        while True:
            opcode, payload = await self.receive()
            if opcode == CLOSE:
                return int.from_bytes(payload[:2], "big")

    async def receive(self) -> tuple[int, bytes]:
        first, size = await self.reader.readexactly(2)
        if size == 126:
            size = int.from_bytes(await self.reader.readexactly(2), "big")
        elif size == 127:
            size = int.from_bytes(await self.reader.readexactly(8), "big")
        return first & 0xF, await self.reader.readexactly(size)


@asynccontextmanager
async def connected(listen: bool = True, request: bytes = REQUEST) -> AsyncIterator[Side]:
    there: asyncio.Future[Connection] = asyncio.get_running_loop().create_future()

    async def handle(connection: ServerConnection) -> None:
        there.set_result(cast(Connection, connection))
        await connection.wait_closed()

    async with serve(
        handle,
        "127.0.0.1",
        0,
        create_connection=Connection,
        compression=None,
        ping_interval=None,
        max_size=MAX_SIZE,
        close_timeout=1,
    ) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request)
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101")
        side = Side(reader, writer, await there)
        if listen:
            side.connection.listen(side.heard.append)
        try:
            yield side
        finally:
            writer.transport.abort()


def test_each_kind_of_message_is_heard_in_order(run, wait_until) -> None:
    sent = (
        frame(BINARY, b"one")
        + frame(TEXT, b'"two"')
        + fragments(BINARY, [b"th", b"", b"ree"], between=frame(PING, b"still there?"))
        + frame(BINARY, bytes(70_000))
        + fragments(TEXT, ["fö".encode()[:2], "fö".encode()[2:] + b"ur"])
        + frame(BINARY, b"")
    )

    async def scenario() -> None:
        async with connected() as side:
            side.send(sent)
            await wait_until(lambda: len(side.heard) == 6)
            assert side.heard == [b"one", '"two"', b"three", bytes(70_000), "föur", b""]
            assert await side.receive() == (0xA, b"still there?")

    run(scenario())


MESSAGES = st.lists(
    st.tuples(st.sampled_from([TEXT, BINARY]), st.integers(0, 400), st.integers(1, 3)), min_size=1, max_size=8
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(messages=MESSAGES, cuts=st.lists(st.integers(0, 4_000), max_size=12))
def test_where_the_network_cuts_makes_no_difference(run, wait_until, messages, cuts) -> None:
    whole = [(opcode, os.urandom(size).hex().encode(), pieces) for opcode, size, pieces in messages]
    stream = b"".join(
        fragments(opcode, [data[at::pieces] for at in range(pieces)]) for opcode, data, pieces in whole
    )
    expected: list[Message] = []
    for opcode, data, pieces in whole:
        joined = b"".join(data[at::pieces] for at in range(pieces))
        expected.append(joined.decode() if opcode == TEXT else joined)
    edges = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})

    async def scenario() -> None:
        async with connected() as side:
            for start, end in itertools.pairwise(edges):
                side.connection.data_received(stream[start:end])  # as the loop does, cut exactly here
            assert side.heard == expected

    run(scenario())


@pytest.mark.parametrize(
    "bad,code",
    [
        (frame(BINARY, b"no mask", masked=False), 1002),
        (frame(BINARY, bytes(MAX_SIZE + 1)), 1009),
        (fragments(BINARY, [bytes(MAX_SIZE), b"x"]), 1009),
        (frame(TEXT, b"\xff"), 1007),
        (fragments(TEXT, [b"a", b"\xff"]), 1007),
        (frame(0x3, b"an opcode nobody knows"), 1002),
        (frame(CONTINUED, b"of nothing"), 1002),
        (b"\xc2" + frame(BINARY, b"an extension")[1:], 1002),
        (frame(BINARY, b"a", fin=False) + frame(BINARY, b"b"), 1002),
    ],
    ids=[
        *("unmasked", "too big", "too big in fragments", "no UTF-8", "no UTF-8 in fragments"),
        *("unknown opcode", "continues nothing", "unknown extension", "not continued"),
    ],
)
def test_what_breaks_the_rules_is_closed_by_the_library(run, bad, code) -> None:
    async def scenario() -> list[Message]:
        async with connected() as side:
            side.send(frame(BINARY, b"before") + bad + frame(BINARY, b"after"))
            assert await side.closed_with() == code
            return side.heard

    assert run(scenario()) == [b"before"]


def test_a_close_is_answered(run) -> None:
    async def scenario() -> None:
        async with connected() as side:
            side.send(frame(BINARY, b"last") + frame(CLOSE, (1000).to_bytes(2, "big")))
            assert await side.closed_with() == 1000
            side.writer.close()
            await side.connection.wait_closed()
            assert side.heard == [b"last"]
            side.connection.tell("too late")  # nothing happens

    run(scenario())


def test_messages_wait_for_a_listener_and_then_the_client_does(run, wait_until) -> None:
    count = EARLY + 4

    async def scenario() -> None:
        async with connected(listen=False) as side:
            for number in range(count):
                side.send(frame(BINARY, bytes((number,))))
            await wait_until(lambda: not side.connection.transport.is_reading())
            side.connection.listen(side.heard.append)
            assert side.connection.transport.is_reading()
            side.send(frame(BINARY, b"more"))
            await wait_until(lambda: len(side.heard) == count + 1)
            assert side.heard == [*(bytes((number,)) for number in range(count)), b"more"]

    run(scenario())


def test_a_client_on_hold_is_not_read(run, wait_until) -> None:
    async def scenario() -> None:
        async with connected() as side:
            side.connection.hold()
            side.connection.hold()  # once more changes nothing
            assert not side.connection.transport.is_reading()
            side.send(frame(BINARY, b"held"))
            side.connection.release()
            await wait_until(lambda: side.heard == [b"held"])

    run(scenario())


@pytest.mark.parametrize("size", [0, 125, 126, 65_535, 65_536])
def test_what_it_tells_arrives(run, size) -> None:
    async def scenario() -> None:
        async with connected() as side:
            side.connection.tell("x" * size)
            assert await side.receive() == (TEXT, b"x" * size)

    run(scenario())


def test_a_frame_costs_few_calls(run, calls) -> None:
    whole = frame(BINARY, bytes(1_600))

    async def scenario() -> int:
        async with connected() as side:
            return calls(lambda: side.connection.data_received(whole))

    # Measured: 8. A queue, a task or a parser on the way would cost dozens.
    assert run(scenario()) <= 9


@pytest.mark.parametrize("cut", range(1, 12))
def test_a_frame_cut_in_its_header_is_one_frame(run, wait_until, cut: int) -> None:
    whole = frame(BINARY, b"x" * 1_600)

    async def scenario() -> None:
        async with connected() as side:
            for piece in (whole[:cut], whole[cut:], whole):
                side.connection.data_received(piece)
            await wait_until(lambda: len(side.heard) == 2)
            assert side.heard == [b"x" * 1_600] * 2

    run(scenario())


def test_frames_sent_with_the_handshake_are_not_lost(run, wait_until) -> None:
    async def scenario() -> None:
        async with connected(listen=False, request=REQUEST + frame(BINARY, b"eager")) as side:
            side.connection.listen(side.heard.append)
            side.send(frame(BINARY, b"then"))
            await wait_until(lambda: side.heard == [b"eager", b"then"])

    run(scenario())


# ---------------------------------------------------------------------------------------------------------------------
# the end, on a real node


def test_a_client_that_never_answers_our_close_is_cut_off(run, nodes: Nodes, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(connection, "CLOSE_TIMEOUT_S", 0.2)

    async def scenario() -> None:
        async with nodes(max_session_s=0.3) as node, careless(node) as reader:
            received = await asyncio.wait_for(reader.read(), PATIENCE_S)  # to the end: the server cut it
            assert b"Maximum session duration exceeded" in received
            await nodes.wait_until(lambda: not node.ingress._clients)

    run(scenario())


def test_a_client_that_never_reads_again_is_cut_off(run, nodes: Nodes, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(connection, "CLOSE_TIMEOUT_S", 0.2)

    async def scenario() -> None:
        async with nodes(max_unread_bytes=2**16) as node, careless(node):
            await nodes.wait_until(lambda: node.worker.served)
            while node.ingress._clients:
                await node.worker.say(
                    only(node.worker).session, Event.MESSAGE, json.dumps({"type": "Turn", "x": "x" * 100_000})
                )

    run(scenario())
