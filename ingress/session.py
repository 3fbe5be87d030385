"""One client session, decided: messages, worker events and time come in, effects go out.

Theory of operation. A session has two partners who do not wait for each other. The client may speak from the first
moment, before any worker has taken the session: its audio goes to the log at once and counts (protocol 0.3, item 5).
The worker is found by an offer; its first event, TAKEN, is answered to the client with Begin. From then on the
worker's messages pass through, fenced:

- by generation: each take of a session has a higher one, and what an earlier holder still says is dropped;
- by sequence: within a generation each event is let through once;
- by turn: a final is sent once per `turn_order`, and no partial of a turn after its final, since a new holder
  recognises the open turn again.

The session ends in one way only: one Close, nothing after it. `Terminate` asks for the good end (last turns,
Termination, close 1000); everything else is an Error and a close with the same code, or a client who left.

    NEW --start--> OFFERED --taken--> OPEN --terminate--> TERMINATING --done--> CLOSED
                      \\--terminate--> SEALED --taken--------^            any --refused, failed, gone--> CLOSED

Whoever performs the effects calls `start` once, then the other methods as things happen, each with the present time
in seconds of a clock that never goes back; `tick` at `next_deadline()` or soon after. A method that raises has changed
nothing: ClientError is to be answered with `refuse`, EntryError to be counted, IllegalInput is a bug of the caller.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto

from ingress.audio import Converter
from wire.entries import AudioEntry, AudioFrame, Control, Event, Order, SessionEvent
from wire.errors import (
    INTERNAL_ERROR,
    REASON_ENDED,
    REASON_SEE_ERROR,
    ClientError,
    Close,
    EntryError,
    internal_error,
)
from wire.messages import (
    Begin,
    Error,
    ForceEndpoint,
    KeepAlive,
    Terminate,
    Termination,
    UpdateConfiguration,
    dump,
    parse_client_message,
)
from wire.params import SessionParams

#: Longest frame in the log, in bytes: one second, whatever the client puts in one message.
MAX_FRAME_BYTES = 32_000

#: A healthy worker gets through audio at least this much faster than it was spoken (protocol 3.1, throttling).
CATCH_UP = 1.25


# ---------------------------------------------------------------------------------------------------------------------
# states


class State(Enum):
    """Where a session stands."""

    NEW = auto()
    OFFERED = auto()  # looking for a worker
    SEALED = auto()  # looking for a worker, and the client has already said Terminate
    OPEN = auto()
    TERMINATING = auto()  # Terminate was passed on; the worker settles what is left
    CLOSED = auto()


class Input(Enum):
    """What may happen to a session."""

    START = auto()
    AUDIO = auto()  # or a message about it: ForceEndpoint, UpdateConfiguration, KeepAlive
    TERMINATE = auto()
    GONE = auto()  # the client's connection is lost
    REFUSED = auto()  # an error ends the session: the client's, ours, or time
    TAKEN = auto()
    MESSAGE = auto()
    DONE = auto()
    FAILED = auto()


#: Every legal input in every state, and the state that follows.
TRANSITIONS: dict[State, dict[Input, State]] = {
    State.NEW: {Input.START: State.OFFERED},
    State.OFFERED: {
        Input.AUDIO: State.OFFERED,
        Input.TERMINATE: State.SEALED,
        Input.TAKEN: State.OPEN,
        Input.FAILED: State.CLOSED,
        Input.REFUSED: State.CLOSED,
        Input.GONE: State.CLOSED,
    },
    State.SEALED: {
        Input.TAKEN: State.TERMINATING,
        Input.FAILED: State.CLOSED,
        Input.REFUSED: State.CLOSED,
        Input.GONE: State.CLOSED,
    },
    State.OPEN: {
        Input.AUDIO: State.OPEN,
        Input.TERMINATE: State.TERMINATING,
        Input.TAKEN: State.OPEN,  # by a new holder
        Input.MESSAGE: State.OPEN,
        Input.FAILED: State.CLOSED,
        Input.REFUSED: State.CLOSED,
        Input.GONE: State.CLOSED,
    },
    State.TERMINATING: {
        Input.TAKEN: State.TERMINATING,
        Input.MESSAGE: State.TERMINATING,
        Input.DONE: State.CLOSED,
        Input.FAILED: State.CLOSED,
        Input.REFUSED: State.CLOSED,
        Input.GONE: State.CLOSED,
    },
    State.CLOSED: {},
}

#: States in which the client is not listened to any more.
DEAF = frozenset({State.SEALED, State.TERMINATING, State.CLOSED})
#: States in which no worker holds the session.
UNTAKEN = frozenset({State.NEW, State.OFFERED, State.SEALED})

_INPUT_OF_EVENT = {
    Event.TAKEN: Input.TAKEN,
    Event.MESSAGE: Input.MESSAGE,
    Event.DONE: Input.DONE,
    Event.FAILED: Input.FAILED,
}


class IllegalInput(Exception):
    """The caller did what the state does not allow: a bug on our side."""


# ---------------------------------------------------------------------------------------------------------------------
# effects


@dataclass(frozen=True)
class MakeOffer:
    """Look for a worker of `params.pool`."""

    params: SessionParams


@dataclass(frozen=True)
class Withdraw:
    """Take the offer back, with everything logged for the session: no worker holds it."""


@dataclass(frozen=True)
class Append:
    """Add to the session's audio log, after everything appended before."""

    entry: AudioEntry


@dataclass(frozen=True)
class Reply:
    """Send a text frame to the client."""

    text: str


@dataclass(frozen=True)
class CloseWith:
    """Close the connection, after every Reply so far."""

    code: Close
    reason: str


@dataclass(frozen=True)
class Forget:
    """The session's keys are not needed any more, once everything is appended."""


@dataclass(frozen=True)
class Dropped:
    """A worker's event was not passed on: `reason` is one of closed, generation, duplicate, turn."""

    reason: str


Effect = MakeOffer | Withdraw | Append | Reply | CloseWith | Forget | Dropped


# ---------------------------------------------------------------------------------------------------------------------
# the session


@dataclass(frozen=True)
class Limits:
    """How long things may take, in seconds; their meaning stands in `ingress/settings.py`."""

    admission_timeout_s: float = 5.0
    termination_timeout_s: float = 10.0
    idle_timeout_s: float = 60.0
    max_session_s: float = 10_800.0
    max_ahead_s: float = 300.0


class Session:
    """See the module. `now` is the time of connection, `expires_at` what Begin tells, in Unix seconds."""

    def __init__(
        self,
        id: str,  # noqa: A002 the wire's word for it
        params: SessionParams,
        limits: Limits,
        now: float,
        expires_at: int,
        api_version: str | None = None,
    ) -> None:
        self.id = id
        self.params = params
        self.state = State.NEW
        #: How the session ended, for the record: "ended", "gone", or the code of the error it ended with.
        self.outcome = ""
        self._limits = limits
        self._expires_at = expires_at
        self._api_version = api_version
        self._audio = Converter(params.sample_rate)
        self._opened_at = self._heard_at = now
        self._settled_by = now  # only read while TERMINATING
        self._worker_heard_s = 0.0
        self._generation = self._sequence = -1
        self._last_final = -1

    # -- the client's side

    def start(self, now: float) -> list[Effect]:  # noqa: ARG002 every input carries its time
        """The client was accepted."""
        self._enter(Input.START)
        return [MakeOffer(self.params)]

    def client_audio(self, data: bytes, now: float) -> list[Effect]:
        """A binary message."""
        if self.state in DEAF:
            return []
        self._enter(Input.AUDIO)
        self._heard_at = now
        return list(self._frames(self._audio.convert(data)))

    def client_text(self, text: str, now: float) -> list[Effect]:
        """A text message. Raises ClientError for what protocol 3.2 does not know."""
        if self.state in DEAF:
            return []
        message = parse_client_message(text)
        params = self.params
        if isinstance(message, UpdateConfiguration):
            params = params.updated(message.fields)
        self._enter(Input.TERMINATE if isinstance(message, Terminate) else Input.AUDIO)
        self._heard_at = now
        match message:
            case KeepAlive():
                return []
            case ForceEndpoint():
                return self._cut(Order.FORCE_ENDPOINT)
            case Terminate():
                self._expect_end(now)
                return self._cut(Order.TERMINATE)
            case UpdateConfiguration():
                return self._configure(params)

    def client_gone(self, now: float) -> list[Effect]:  # noqa: ARG002 every input carries its time
        """The connection is lost, from whichever side it was closed."""
        if self.state is State.CLOSED:
            return []
        release = self._release()
        self._enter(Input.GONE, "gone")
        return [*release, Forget()]

    # -- the worker's side

    def worker_event(self, event: SessionEvent, now: float) -> list[Effect]:
        """A report of the worker. Raises EntryError for what no worker may say in this state."""
        if reason := self._fence(event):
            return [Dropped(reason)]
        was, happened = self.state, _INPUT_OF_EVENT[event.event]
        if happened is Input.DONE and was is State.OPEN:
            happened = Input.FAILED  # it stopped although nobody asked it to
        if happened not in TRANSITIONS[was]:
            raise EntryError(f"{event.event.name} in state {was.name}")
        self._enter(happened)
        self._generation, self._sequence = event.generation, event.sequence
        self._worker_heard_s = max(self._worker_heard_s, event.audio_ms / 1000)
        self._expect_end(now)
        match happened:
            case Input.TAKEN:
                return [self._begin()] if was in UNTAKEN else []
            case Input.MESSAGE:
                return self._pass_on(event)
            case Input.DONE:
                return self._ended(now)
            case _:
                return self._failed(event.text or INTERNAL_ERROR)

    # -- time, and ends that others decide

    def next_deadline(self) -> float | None:
        """When `tick` has something to do; may be called after every input, since inputs move it."""
        return min((deadline for deadline, _ in self._deadlines()), default=None)

    def tick(self, now: float) -> list[Effect]:
        """End the session if a deadline has passed; else nothing."""
        due = [(deadline, error) for deadline, error in self._deadlines() if deadline <= now]
        return self.refuse(min(due, key=lambda pair: pair[0])[1], now) if due else []

    def ahead_s(self, now: float) -> float:
        """Audio received that the worker cannot have got through yet, at least so far as we know, in seconds."""
        walked = max(self._worker_heard_s, CATCH_UP * (now - self._opened_at))
        return max(0.0, self._audio.received_s - walked)

    def congested(self, now: float) -> bool:
        """Whether to read no more from the client for now: it sends far faster than it speaks."""
        return self.state is not State.CLOSED and self.ahead_s(now) > self._limits.max_ahead_s

    def refuse(self, error: ClientError, now: float) -> list[Effect]:  # noqa: ARG002 every input carries its time
        """End the session with an error, whatever it is doing. A closed session stays as it is."""
        if self.state is State.CLOSED:
            return []
        release = self._release()
        self._enter(Input.REFUSED, str(int(error.code)))
        return [*release, *_farewell(error), Forget()]

    # -- inside

    def _enter(self, happened: Input, outcome: str = "") -> None:
        """Follow the table. Raises IllegalInput, with nothing changed."""
        following = TRANSITIONS[self.state].get(happened)
        if following is None:
            raise IllegalInput(f"{happened.name} in state {self.state.name}")
        self.state = following
        self.outcome = self.outcome or outcome

    def _deadlines(self) -> Iterator[tuple[float, ClientError]]:
        limits = self._limits
        if self.state in (State.OFFERED, State.SEALED):
            yield self._opened_at + limits.admission_timeout_s, nobody_took_it()
        elif self.state is State.OPEN:
            yield self._heard_at + limits.idle_timeout_s, _inactive(limits.idle_timeout_s)
            yield self._opened_at + limits.max_session_s, _expired()
        elif self.state is State.TERMINATING:
            yield self._settled_by, internal_error()

    def _expect_end(self, now: float) -> None:
        """A worker that settles is given time for the audio it has not heard, and the same grace after each event."""
        self._settled_by = now + self.ahead_s(now) + self._limits.termination_timeout_s

    def _frames(self, pcm: bytes) -> Iterator[Append]:
        start = self._audio.position - len(pcm) // 2
        for offset in range(0, len(pcm), MAX_FRAME_BYTES):
            yield Append(AudioFrame(start + offset // 2, pcm[offset : offset + MAX_FRAME_BYTES]))

    def _cut(self, order: Order) -> list[Effect]:
        """An order about all audio received so far: nothing of it may stay behind in the resampler."""
        tail = list(self._frames(self._audio.flush()))
        return [*tail, Append(Control(order, self._audio.position))]

    def _configure(self, params: SessionParams) -> list[Effect]:
        if params == self.params:
            return []
        self.params = params
        return [Append(Control(Order.CONFIGURE, self._audio.position, params.model_dump()))]

    def _fence(self, event: SessionEvent) -> str:
        if self.state is State.CLOSED:
            return "closed"
        if event.generation < self._generation:
            return "generation"
        if event.generation == self._generation and event.sequence <= self._sequence:
            return "duplicate"
        return ""

    def _pass_on(self, event: SessionEvent) -> list[Effect]:
        if 0 <= event.turn_order <= self._last_final:
            return [Dropped("turn")]
        if event.final:
            self._last_final = event.turn_order
        return [Reply(event.text)]

    def _begin(self) -> Reply:
        configuration = {
            "model": self.params.speech_model,
            "mode": None,
            "api_version": self._api_version,
            "speaker_labels": False,
            "redact_pii": False,
            "filter_profanity": False,
            "domain": None,
            "voice_focus": None,
        }
        return Reply(dump(Begin(self.id, self._expires_at, configuration)))

    def _ended(self, now: float) -> list[Effect]:
        self.outcome = "ended"
        last = Termination(round(self._audio.received_s), round(now - self._opened_at))
        return [Reply(dump(last)), CloseWith(Close.NORMAL, REASON_ENDED), Forget()]

    def _failed(self, text: str) -> list[Effect]:
        error = ClientError(Close.SERVER_ERROR, text)
        self.outcome = str(int(error.code))
        return [*_farewell(error), Forget()]

    def _release(self) -> list[Effect]:
        """Let the worker go, or stop looking for one."""
        if self.state in UNTAKEN:
            return [Withdraw()]
        return [Append(Control(Order.ABANDON, self._audio.position))]


def _farewell(error: ClientError) -> list[Effect]:
    return [Reply(dump(Error(int(error.code), error.text))), CloseWith(error.code, REASON_SEE_ERROR)]


def nobody_took_it() -> ClientError:
    """No worker took the session in time: to the client it is the same as a full node (protocol 6.1)."""
    return ClientError(Close.TOO_MANY_SESSIONS, "Unauthorized Connection: Too many concurrent sessions")


def _inactive(seconds: float) -> ClientError:
    text = f"Session terminated due to inactivity: No messages received for {seconds:g} seconds"
    return ClientError(Close.INVALID_INPUT, text)


def _expired() -> ClientError:
    return ClientError(Close.SESSION_EXPIRED, "Session Expired: Maximum session duration exceeded")
