"""The client's side of a session: connect, send audio at its pace, pass on what the server says.

Shared by `steno transcribe`, `steno mic`, `steno demo` and the benchmarks. It knows nothing of files and terminals:
audio comes as chunks of PCM, messages go to a callback.

A session that is resumable goes on over another connection when its own is lost (docs/resume.md): what the server has
not received is sent again, and what we missed is told again. Meanwhile no more audio is asked for.
"""

import asyncio
import contextlib
import errno
import json
import random
import signal
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import SplitResult, urlencode, urlsplit, urlunsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidURI

from cli.latencies import Latencies
from cli.resuming import WINDOW_S, Forgotten, Sent, pauses
from wire.errors import REASON_ENDED, Close, StackError

DEFAULT_ENDPOINT = "ws://localhost:8080"
#: The server asks for some key and looks at none (protocol 1.3).
DEFAULT_API_KEY = "self-hosted"
OPEN_TIMEOUT_S = 10.0
#: A resumable session's connection is asked this often whether it is there, and given up without an answer, in seconds.
PING_S, PONG_S = 10.0, 20.0
CLOSE_TIMEOUT_S = 2.0
#: After Terminate, a server that says nothing for so long is given up.
ANSWER_TIMEOUT_S = 60.0
_BYTES_PER_SAMPLE = 2
#: How far to send ahead of what the server has been through: it ends a session at five minutes (protocol 3.1).
MAX_AHEAD_S = 240.0
#: What a server gets through at least, in seconds of audio per second (protocol 3.1).
_WALKS = 1.25
_AHEAD_POLL_S = 0.1


class SessionFailed(StackError):
    """The session could not be had or ended badly; the message is for the user."""


class ServerError(SessionFailed):
    """The server sent an Error message."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"the server refused: {text} (code {code})")
        self.code = code
        self.text = text


@dataclass(frozen=True)
class Request:
    """Where to connect and what to ask for. `sample_rate` is that of the chunks, in Hz; `language` a code: fr.

    `prompt` says what the speech is about, `keyterms` are words that may come up in it.
    """

    endpoint: str = DEFAULT_ENDPOINT
    api_key: str = DEFAULT_API_KEY
    sample_rate: int = 16_000
    speech_model: str | None = None
    format_turns: bool = True
    language: str | None = None
    language_detection: bool = False
    prompt: str | None = None
    keyterms: tuple[str, ...] = ()
    #: Whether to go on after a lost connection, where the server can.
    resume: bool = False

    def url(self) -> str:
        """The endpoint with the parameters in its query. Raises SessionFailed if it is no WebSocket address."""
        parts = urlsplit(self.endpoint)
        if parts.scheme not in ("ws", "wss") or not parts.hostname or not _has_port(parts):
            raise SessionFailed(
                f"{self.endpoint!r} is no WebSocket address; it should look like {DEFAULT_ENDPOINT}"
            )
        query = {"sample_rate": str(self.sample_rate), "format_turns": str(self.format_turns).lower()}
        if self.speech_model:
            query["speech_model"] = self.speech_model
        if self.language and self.speech_model:
            query["language_codes"] = json.dumps([self.language])
        elif self.language:
            query["language"] = self.language  # it chooses the model as well (protocol 7.3)
        if self.language_detection:
            query["language_detection"] = "true"
        if self.prompt:
            query["prompt"] = self.prompt
        if self.keyterms:
            query["keyterms_prompt"] = json.dumps(
                self.keyterms, ensure_ascii=False
            )  # never repeated (protocol 2.3)
        if self.resume:
            query["resumable"] = "true"
        return _asking(parts, query)

    def url_of(self, session: "Session") -> str:
        """Where the session goes on."""
        query = {
            "session_id": session.id,
            "resume_token": session.resume_token,
            "last_sequence": str(session.sequence),
        }
        return _asking(urlsplit(self.endpoint), query)


@dataclass(frozen=True)
class Received:
    """One server message: its text as it came, its fields, and the seconds since the first sample was spoken."""

    text: str
    fields: dict[str, Any]
    at_s: float


@dataclass
class Session:
    """What is known of a session, growing while it runs.

    `audio_s`: audio sent, in seconds; `heard_s`: where the last word lies that came back; `terminate_s`: when the
    client said Terminate.
    """

    connect_s: float
    audio_s: float = 0.0
    heard_s: float = 0.0
    terminate_s: float = 0.0
    latencies: Latencies = field(default_factory=Latencies)
    id: str = ""
    #: Empty where the session cannot be resumed.
    resume_token: str = field(default="", repr=False)
    #: How long the server waits for us, in seconds.
    window_s: float = WINDOW_S
    #: Number of the newest message of a resumable session.
    sequence: int = 0

    def begun(self, begin: dict[str, Any]) -> None:
        """What Begin tells of resuming; servers that know nothing of it tell nothing."""
        configuration = begin.get("configuration")
        told = configuration if isinstance(configuration, dict) else {}
        self.id, self.resume_token = str(begin.get("id", "")), str(told.get("resume_token", ""))
        window_s = told.get("resume_window_s")
        self.window_s = float(window_s) if isinstance(window_s, (int, float)) else WINDOW_S

    def ahead_s(self, now_s: float) -> float:
        """Audio sent that the server may not have been through yet, in seconds."""
        return self.audio_s - max(self.heard_s, _WALKS * (now_s - self.connect_s))


Listener = Callable[[Received], None]


async def paced(chunks: Iterable[bytes], sample_rate: int) -> AsyncIterator[bytes]:
    """Chunks as a microphone gives them: each when its last sample has been spoken."""
    start_s, samples = time.monotonic(), 0
    for chunk in chunks:
        samples += len(chunk) // _BYTES_PER_SAMPLE
        await asyncio.sleep(max(0.0, start_s + samples / sample_rate - time.monotonic()))
        yield chunk


async def unpaced(chunks: Iterable[bytes]) -> AsyncIterator[bytes]:
    """Chunks as fast as the server takes them (`converse` sees to it that they do not run too far ahead)."""
    for chunk in chunks:
        yield chunk
        await asyncio.sleep(0)  # a fast link never makes `send` wait, and messages must be read meanwhile


async def until(stop: asyncio.Event, audio: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    """The same audio, over once `stop` is set."""
    async for chunk in audio:
        if stop.is_set():
            return
        yield chunk


@contextlib.contextmanager
def stop_on_interrupt() -> Iterator[asyncio.Event]:
    """An event that the first Ctrl-C sets, so that a session can end in good order; the second Ctrl-C is as ever."""
    stop, loop = asyncio.Event(), asyncio.get_running_loop()

    def interrupted() -> None:
        loop.remove_signal_handler(signal.SIGINT)
        stop.set()

    loop.add_signal_handler(signal.SIGINT, interrupted)
    try:
        yield stop
    finally:
        loop.remove_signal_handler(signal.SIGINT)


async def converse(
    request: Request,
    audio: AsyncIterable[bytes | str],
    listener: Listener,
    notify: Callable[[str], None] = lambda _: None,
) -> Session:
    """One session from connecting to the server's close; `listener` is called with each message.

    `audio` may hold messages of JSON between its chunks, such as ForceEndpoint; they are sent as they are. Ends
    with Terminate once `audio` is over. `notify` is told when the connection is lost, and when it is there again.
    Raises SessionFailed (ServerError where the server told a reason), and whatever `audio` or `listener` raises.
    """
    url = request.url()
    session = Session(connect_s=time.monotonic())
    try:
        connection = await _connect(request, url)
    except (OSError, InvalidHandshake, InvalidURI) as error:
        raise SessionFailed(_why_not_connected(request.endpoint, error)) from None
    link = _Link(connection, kept=request.resume)
    try:
        async with asyncio.TaskGroup() as tasks:
            sender = tasks.create_task(_send(link, request, audio, session))
            carrier = tasks.create_task(link.run())
            while await _receive(link, listener, session):
                notify("connection lost, resuming ...")
                await _resume(link, request, listener, session)
                notify("resumed")
            sender.cancel()
            carrier.cancel()
    except BaseExceptionGroup as failures:
        raise _first(failures) from None
    finally:
        await link.connection.close()
    return session


class _Link:
    """The way to the server: the present connection, and what was sent over it and those before. `run` it."""

    def __init__(self, connection: ClientConnection, kept: bool) -> None:
        self.connection = connection
        self._sent = Sent() if kept else Sent(0)
        self._work, self._idle = asyncio.Event(), asyncio.Event()

    async def send(self, message: bytes | str) -> None:
        """Returns once everything was handed over to a connection; while there is none, it waits for one."""
        self._sent.add(message)
        self._idle.clear()
        self._work.set()
        await self._idle.wait()

    def restore(self, connection: ClientConnection, received: int) -> None:
        """Go on over this one, whose server has the first `received` messages. Raises Forgotten."""
        self._sent.rewind(received)
        self.connection = connection
        self._work.set()

    async def run(self) -> None:
        """Hand over what is to be sent, for ever."""
        while True:
            await self._work.wait()
            self._work.clear()
            if await self._hand_over():
                self._idle.set()

    async def _hand_over(self) -> bool:
        """Whether all is handed over. What a lost connection means, who receives finds out: another one, or the end."""
        while (message := self._sent.next()) is not None:
            connection = self.connection
            try:
                await connection.send(message)
            except ConnectionClosed:
                return False  # `restore`, even if it came meanwhile, begins anew
            if connection is self.connection:
                self._sent.handed_over()
        return True


async def _connect(request: Request, url: str, timeout_s: float = OPEN_TIMEOUT_S) -> ClientConnection:
    pings: dict[str, Any] = {"ping_interval": PING_S, "ping_timeout": PONG_S} if request.resume else {}
    return await connect(
        url,
        additional_headers={"Authorization": request.api_key},
        compression=None,  # audio does not shrink, and the server declines it anyway
        open_timeout=timeout_s,
        close_timeout=CLOSE_TIMEOUT_S,
        proxy=None if _on_this_machine(url) else True,
        **pings,
    )


async def _resume(link: _Link, request: Request, listener: Listener, session: Session) -> None:
    """Connect again, with growing pauses, for as long as the server waits. Raises SessionFailed."""
    until_s = time.monotonic() + session.window_s
    for pause_s in pauses():
        await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))  # many may have been cut off at once
        left_s = until_s - time.monotonic()
        if left_s <= 0:
            break
        with contextlib.suppress(OSError, InvalidHandshake, ConnectionClosed):
            connection = await _connect(request, request.url_of(session), min(OPEN_TIMEOUT_S, left_s))
            if await _resumed(link, connection, listener, session):
                return
    raise SessionFailed(
        f"the connection to the server was lost, and not to be had again in {session.window_s:g} s"
    )


async def _resumed(link: _Link, connection: ClientConnection, listener: Listener, session: Session) -> bool:
    """Whether the session goes on over this connection; False: try again. Raises SessionFailed where it never will."""
    goes_on = False
    try:
        text = await asyncio.wait_for(connection.recv(decode=True), OPEN_TIMEOUT_S)
        fields = _parsed(text)
        if fields["type"] == "Resumed":
            link.restore(connection, int(fields["messages_received"]))
            goes_on = True
            _hear(text, fields, listener, session)
        elif fields.get("error_code") in (Close.UNAUTHORIZED, Close.INVALID_INPUT):
            reason = fields.get("error", "")
            raise SessionFailed(f"the connection was lost, and the session does not go on: {reason}")
        return goes_on
    except Forgotten:
        raise SessionFailed(
            "the connection was lost for too long: what the server needs again is not kept any more"
        ) from None
    finally:
        if not goes_on:
            await connection.close()


async def _send(link: _Link, request: Request, audio: AsyncIterable[bytes | str], session: Session) -> None:
    """Send all audio, then Terminate. Whoever receives tells when the session is over, and cancels this."""
    async for chunk in audio:
        if isinstance(chunk, str):
            await link.send(chunk)
            continue
        while session.ahead_s(time.monotonic()) > MAX_AHEAD_S:  # noqa: ASYNC110 time alone may end it
            await asyncio.sleep(_AHEAD_POLL_S)
        duration_s = len(chunk) / _BYTES_PER_SAMPLE / request.sample_rate
        if session.latencies.audio_start_s is None:
            session.latencies.audio_start_s = time.monotonic() - duration_s
        await link.send(chunk)
        session.audio_s += duration_s
    session.latencies.terminated, session.terminate_s = True, time.monotonic()
    await link.send('{"type": "Terminate"}')


async def _receive(link: _Link, listener: Listener, session: Session) -> bool:
    """Pass on messages until the connection is closed. Returns whether the session can go on over another one; False:
    it ended as it should. Raises SessionFailed for every other end.
    """
    failure: SessionFailed | None = None
    try:
        while True:
            text = await _next_message(link.connection, session)
            fields = _parsed(text)
            if fields["type"] == "Error":
                failure = ServerError(fields.get("error_code", 0), str(fields.get("error", "")))
            _hear(text, fields, listener, session)
    except ConnectionClosed as closed:
        if failure:
            raise failure from None
        code = closed.rcvd.code if closed.rcvd else None
        if session.resume_token and code in (None, Close.COME_BACK):
            return True
        if code != Close.NORMAL:
            raise SessionFailed(_why_closed(closed)) from None
        return False


def _hear(text: str, fields: dict[str, Any], listener: Listener, session: Session) -> None:
    """A message of the server: what it says of the session, then the listener."""
    now_s = time.monotonic()
    if fields["type"] == "Begin":
        session.latencies.begun(session.connect_s, now_s)
        session.begun(fields)
    session.latencies.observe(fields, now_s)
    if isinstance(number := fields.get("sequence"), int):
        session.sequence = number
    if fields.get("words"):
        session.heard_s = max(session.heard_s, fields["words"][-1]["end"] / 1000)
    listener(Received(text, fields, now_s - (session.latencies.audio_start_s or now_s)))


async def _next_message(connection: ClientConnection, session: Session) -> str:
    """The next message; while audio is being sent there is no limit to how long the server may have nothing to say."""
    while True:
        try:
            return await asyncio.wait_for(connection.recv(decode=True), ANSWER_TIMEOUT_S)
        except TimeoutError:
            if session.latencies.terminated:
                raise SessionFailed(f"the server has said nothing for {ANSWER_TIMEOUT_S:.0f} s") from None


def _parsed(text: str) -> dict[str, Any]:
    try:
        fields = json.loads(text)
    except ValueError as error:
        raise SessionFailed(f"the server sent something that is not JSON: {error}") from None
    if not isinstance(fields, dict) or not isinstance(fields.get("type"), str):
        raise SessionFailed("the server sent a message without a type: is it a steno server?")
    return fields


def _first(failures: BaseExceptionGroup) -> BaseException:
    """One end of a session has failed, and the other with it: what failed first."""
    failure: BaseException = failures
    while isinstance(failure, BaseExceptionGroup):
        failure = failure.exceptions[0]
    return failure


def _asking(parts: SplitResult, query: dict[str, str]) -> str:
    return urlunsplit(parts._replace(query="&".join(filter(None, (parts.query, urlencode(query))))))


def _has_port(parts: SplitResult) -> bool:
    """Whether the address's port is one, or left out."""
    try:
        return parts.port is None or parts.port > 0
    except ValueError:
        return False


def _on_this_machine(url: str) -> bool:
    """Proxies are for the world outside; asking one for our own machine fails in confusing ways."""
    host = urlsplit(url).hostname or ""
    return host in ("localhost", "::1") or host.startswith("127.")


def _why_not_connected(endpoint: str, error: Exception) -> str:
    if isinstance(error, InvalidHandshake):
        return f"{endpoint} answers, but not as a steno server: {error}"
    if isinstance(error, TimeoutError):
        return f"{endpoint} did not answer in {OPEN_TIMEOUT_S:.0f} s"
    if isinstance(error, ConnectionRefusedError) or f"[Errno {errno.ECONNREFUSED}]" in str(error):
        return f"nothing answers at {endpoint}. Start a server with: steno up"
    return f"cannot connect to {endpoint}: {error}"


def _why_closed(closed: ConnectionClosed) -> str:
    if closed.rcvd is None:
        return "the connection to the server was lost"
    reason = f": {closed.rcvd.reason}" if closed.rcvd.reason and closed.rcvd.reason != REASON_ENDED else ""
    return f"the server closed the session with code {closed.rcvd.code}{reason}"
