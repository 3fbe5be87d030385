"""Many clients that speak in real time, as cheap as a client can be, in a process of their own.

Each sends a frame of 50 ms when it is due, at a phase of its own, and listens to what comes back. They speak WebSocket
by hand (RFC 6455, clauses 4.1 and 5.2): a client library would need more of this machine than the server does, and its
own work would be what is measured. How late each frame was sent is recorded, so that a result can be refused where the
crowd itself was the limit.

Times of one machine are compared across processes, by its wall clock in ms.
"""

import asyncio
import heapq
import json
import multiprocessing
import random
import time
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any, Protocol, cast

from cli import up
from wire import service
from wire.errors import StackError

FRAME_MS = 50
#: Sessions that begin, each second, while the crowd grows.
GROWTH_PER_S = 100
#: Sessions that come while the others are measured, each second; they leave as soon as they have begun.
NEWCOMERS_PER_S = 5
#: How long a newcomer may wait.
PATIENCE_S = 20.0
#: How exactly frames are due, in seconds; far below what is measured.
GRAIN_S = 0.001
#: 50 ms of 16 kHz audio: noise, since ingress holds all zeros of all sessions only once.
SOUND = random.Random(0).randbytes(32 * FRAME_MS)
#: A masked binary message of it, and one of silence. The masking key is zero, which costs the server the same.
FRAME, SILENCE = (
    b"\x82\xfe" + len(pcm).to_bytes(2, "big") + bytes(4) + pcm for pcm in (SOUND, bytes(len(SOUND)))
)
_TERMINATE = b'{"type":"Terminate"}'
LEAVE = bytes((0x81, 0x80 | len(_TERMINATE))) + bytes(4) + _TERMINATE
REQUEST = (
    b"GET /v3/ws?sample_rate=16000 HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nAuthorization: self-hosted\r\n\r\n"
)


class CrowdFailed(StackError):
    """The crowd did not get in, or its process died."""


@dataclass
class Seen:
    """What the crowd saw in one window, in ms.

    `late`: sending after due; `inbound`: from a frame's sending to the worker's hands, of the few sessions of which
    that is known; `outbound`: from a worker's telling to the client; `added`: both, where both are known; `begins`:
    from connecting to Begin, of those who came meanwhile. `failed`: connections lost, or answers that never came.
    """

    late: list[float] = field(default_factory=list)
    inbound: list[float] = field(default_factory=list)
    outbound: list[float] = field(default_factory=list)
    added: list[float] = field(default_factory=list)
    begins: list[float] = field(default_factory=list)
    failed: int = 0
    cores: float = 0.0


class Crowd:
    """The crowd, from its owner's side."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe

    def grow(self, count: int) -> None:
        """Until so many speak. Raises CrowdFailed."""
        self._ask("grow", count)

    def measure(self, seconds: float) -> Seen:
        """What they see for so long. Raises CrowdFailed."""
        return cast(Seen, self._ask("measure", seconds))

    def _ask(self, order: str, value: float) -> Any:
        try:
            self._pipe.send((order, value))
            answer = self._pipe.recv()
        except (EOFError, OSError):
            raise CrowdFailed("the load generator died") from None
        if isinstance(answer, str):
            raise CrowdFailed(answer)
        return answer


@contextmanager
def running(port: int, greeted: bool = True, frame: bytes = FRAME) -> Iterator[Crowd]:
    """A crowd that speaks to this port, while inside. `greeted`: the server says Begin; else 101 is enough. `frame`:
    what each sends, every 50 ms.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_main, args=(port, greeted, frame, theirs), daemon=True)
    process.start()
    theirs.close()
    try:
        yield Crowd(ours)
    finally:
        ours.close()
        process.join(10)
        process.kill()


def _main(port: int, greeted: bool, frame: bytes, owner: Connection) -> None:
    service.allow_open_files(20_000)
    with asyncio.Runner(loop_factory=service.new_event_loop) as runner:
        runner.run(obey(_Speakers(port, greeted, frame), owner))


class Speaking(Protocol):
    """What a load generator's process does for its owner."""

    async def grow(self, count: int) -> None: ...
    async def measure(self, seconds: float) -> Any: ...
    async def speak(self) -> None: ...


async def obey(speakers: Speaking, owner: Connection) -> None:
    """Speak, and do what the owner orders, until it lets go of the pipe."""
    loop = asyncio.get_running_loop()
    async with asyncio.TaskGroup() as tasks:
        pacing = tasks.create_task(speakers.speak())
        while True:
            try:
                order, value = await loop.run_in_executor(None, owner.recv)
            except EOFError:
                pacing.cancel()
                return
            try:
                if order == "grow":
                    await speakers.grow(int(value))
                owner.send(await speakers.measure(value) if order == "measure" else None)
            except CrowdFailed as error:
                owner.send(str(error))


class _Speakers:
    """All sessions of this process."""

    def __init__(self, port: int, greeted: bool, frame: bytes) -> None:
        self.seen = Seen()
        self.greeted = greeted
        self.frame = frame
        self._port = port
        self._due: list[tuple[float, int]] = []
        self._all: list[_Speaker] = []
        self._phases = random.Random(0)

    async def grow(self, count: int) -> None:
        """Raises CrowdFailed."""
        async with asyncio.TaskGroup() as tasks:
            coming: list[asyncio.Task[_Speaker | None]] = []
            while len(self._all) + len(coming) < count:
                coming.append(tasks.create_task(self._enter()))
                await asyncio.sleep(1 / GROWTH_PER_S)
        for entered in coming:
            if (speaker := entered.result()) is None:
                raise CrowdFailed(f"a session did not begin, of {count} that were to speak at once")
            heapq.heappush(
                self._due, (time.time() + self._phases.uniform(0, FRAME_MS / 1000), len(self._all))
            )
            self._all.append(speaker)

    async def measure(self, seconds: float) -> Seen:
        """What is seen from now on, for so long; newcomers come meanwhile, and go."""
        self.seen = seen = Seen(failed=sum(speaker.lost for speaker in self._all))
        started_s, cpu_s = time.monotonic(), time.process_time()
        async with asyncio.TaskGroup() as tasks:
            while time.monotonic() - started_s < seconds:
                tasks.create_task(self._visit(seen))
                await asyncio.sleep(1 / NEWCOMERS_PER_S)
            seen.cores = (time.process_time() - cpu_s) / (time.monotonic() - started_s)
            self.seen = Seen()
        seen.failed += sum(speaker.lost for speaker in self._all)
        return seen

    async def speak(self) -> None:
        """Send what is due, for ever."""
        due = self._due
        while True:
            await asyncio.sleep(GRAIN_S)
            now = time.time()
            while due and due[0][0] <= now:
                due_s, number = due[0]
                heapq.heapreplace(due, (due_s + FRAME_MS / 1000, number))
                self._all[number].speak(now)
                self.seen.late.append((now - due_s) * 1000)
                now = time.time()

    async def _visit(self, seen: Seen) -> None:
        started_s = time.monotonic()
        if (visitor := await self._enter()) is None:
            seen.failed += 1
            return
        seen.begins.append((time.monotonic() - started_s) * 1000)
        visitor.leave()

    async def _enter(self) -> "_Speaker | None":
        speaker = _Speaker(self)
        try:
            async with asyncio.timeout(PATIENCE_S):
                await asyncio.get_running_loop().create_connection(lambda: speaker, up.LOCAL_HOST, self._port)
                await speaker.begun
        except (OSError, TimeoutError):
            return None
        return speaker


class _Speaker(asyncio.Protocol):
    """One client."""

    def __init__(self, crowd: _Speakers) -> None:
        self.begun: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        #: The connection broke off although nobody left.
        self.lost = False
        self._crowd = crowd
        self._sent_ms = array("d")
        self._received = b""
        self._upgraded = self._left = False
        self._transport: asyncio.Transport

    def speak(self, now_s: float) -> None:
        """Send the next frame."""
        self._sent_ms.append(now_s * 1000)
        self._transport.write(self._crowd.frame)

    def leave(self) -> None:
        self._left = True
        self._transport.write(LEAVE if self._crowd.greeted else b"\x88\x80\0\0\0\0")

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.write(REQUEST)

    def connection_lost(self, error: Exception | None) -> None:
        self.lost = not self._left
        if not self.begun.done():
            self.begun.set_exception(error or ConnectionError("closed"))

    def data_received(self, data: bytes) -> None:
        now_ms = time.time() * 1000
        received = self._received + data
        if not self._upgraded:
            head, end, received = received.partition(b"\r\n\r\n")
            if not end:
                self._received = head
                return
            self._upgraded = True
            if not self._crowd.greeted:
                self.begun.set_result(None)
        while (message := _first(received)) is not None:
            size, payload = message
            received = received[size:]
            self._hear(payload, now_ms)
        self._received = received

    def _hear(self, payload: bytes, now_ms: float) -> None:
        if b'"Begin"' in payload and not self.begun.done():
            self.begun.set_result(None)
        elif b'"Turn"' in payload and not self._left:
            word = json.loads(payload)["words"][0]
            came_ms, told_ms = map(float, word["text"].split("/"))
            seen, back_ms = self._crowd.seen, now_ms - told_ms
            seen.outbound.append(back_ms)
            if came_ms:
                frame = min(len(self._sent_ms), -(-word["end"] // FRAME_MS)) - 1
                seen.inbound.append(came_ms - self._sent_ms[frame])
                seen.added.append(seen.inbound[-1] + back_ms)


def _first(received: bytes) -> tuple[int, bytes] | None:
    """The first whole frame: its size, header included, and its payload; None if it is not all there."""
    if len(received) < 2:
        return None
    start, size = 2, received[1] & 0x7F
    if size == 126:
        start, size = 4, int.from_bytes(received[2:4], "big")
    elif size == 127:
        start, size = 10, int.from_bytes(received[2:10], "big")
    return (start + size, received[start : start + size]) if len(received) >= start + size else None
