"""One client session, decided: messages, worker events and time come in, effects go out.

Theory of operation. A session has two partners who do not wait for each other. The client may speak from the first
moment, before any worker has taken the session: its audio goes to the log at once and counts (protocol 0.3, item 5).
The worker is found by an offer; its first event, TAKEN, is answered to the client with Begin. From then on the
worker's messages pass through, fenced:

- by generation: each take of a session has a higher one, and what an earlier holder still says is dropped;
- by sequence: within a generation each event is let through once, and one that comes after a gap is not: what Redis
  has lost on the way is told again by a new holder (`Missed`);
- by turn: a final is sent once per `turn_order`, and no partial of a turn after its final, since a new holder
  recognises the open turn again.

The client of a resumable session may lose its connection and come back with another (`client_lost`, `resume`;
docs/resume.md). Meanwhile everything goes on, but silence is not the client's: who performs the effects says when it
has been away for too long, with `client_gone`. What it missed is told again, also the end. It may come back to another
node: `place` is what this one knows of the session, and `go_on` makes it anew there. What is told follows from the
worker's events alone, so both nodes give the same number to the same message.

The session ends in one way only: one Close, nothing after it. `Terminate` asks for the good end (last turns,
Termination, close 1000); everything else is an Error and a close with the same code, or a client who left.

    NEW --start--> OFFERED --taken--> OPEN --terminate--> TERMINATING --done--> CLOSED
                      \\--terminate--> SEALED --taken--------^            any --refused, failed, gone--> CLOSED

Whoever performs the effects calls `start` once, then the other methods as things happen, each with the present time
in seconds of a clock that never goes back; `tick` at `next_deadline()` or soon after. A method that raises has changed
nothing: ClientError is to be answered with `refuse`, EntryError to be counted, IllegalInput is a bug of the caller.
"""

import hmac
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import Enum, auto
from functools import partial
from typing import Any

from ingress.audio import Converter
from ingress.carried import Place, movable
from ingress.decoding import make_decoder
from ingress.replay import Replay
from ingress.restarts import Restarts
from wire.entries import SAMPLE_RATE, AudioEntry, AudioFrame, Control, Event, Order, SessionEvent
from wire.errors import (
    INTERNAL_ERROR,
    REASON_ENDED,
    REASON_SEE_ERROR,
    ClientError,
    Close,
    EntryError,
    cannot_resume,
    internal_error,
    too_many_sessions,
)
from wire.messages import (
    Begin,
    ClientMessage,
    Error,
    ForceEndpoint,
    Heartbeat,
    KeepAlive,
    Resumed,
    Terminate,
    Termination,
    UpdateConfiguration,
    dump,
    parse_client_message,
)
from wire.params import SELF_TIMED, SessionParams

#: Longest frame in the log, in bytes: one second, whatever the client puts in one message.
MAX_FRAME_BYTES = 32_000

#: Audio counts as worked through at least this much faster than it was spoken (protocol 3.1, throttling).
CATCH_UP = 1.25

#: Audio that one message of PCM or mu-law may hold, in ms (protocol 3.1). Clients round a chunk to whole samples and
#: whole ms, so the bounds give by one.
CHUNK_MS = (50, 1000)
_ROUNDING_MS = 1
#: Audio in shorter messages, one after another, that is let pass, in ms: a start that has still to find its pace, or
#: the rest of a recording before Terminate.
SHORT_GRACE_MS = 1000

#: What a session may order, in bytes of the orders as they lie in the log: at once, and per second after that. Audio is
#: bounded by the time it lasts; orders last no time.
ORDER_BURST, ORDERS_PER_S = 2**20, 4_096
_ORDER_BYTES = 64

#: How often a session that asked for them gets a Heartbeat, in seconds (protocol 4.7).
HEARTBEAT_S = 5.0

#: Finals kept for a session's webhook, in bytes of JSON; beyond it the rest is left out.
MAX_NOTICE_BYTES = 4 * 2**20


# ---------------------------------------------------------------------------------------------------------------------
# states


class State(Enum):
    """Where a session stands."""

    __hash__ = object.__hash__  # Enum's own is Python code, and the table below is asked for every event

    NEW = auto()
    OFFERED = auto()  # looking for a worker
    SEALED = auto()  # looking for a worker, and the client has already said Terminate
    OPEN = auto()
    TERMINATING = auto()  # Terminate was passed on; the worker settles what is left
    CLOSED = auto()


class Input(Enum):
    """What may happen to a session."""

    __hash__ = object.__hash__

    START = auto()
    AUDIO = auto()  # or a message about it: ForceEndpoint, UpdateConfiguration, KeepAlive
    TERMINATE = auto()
    GONE = auto()  # the client's connection is lost
    REFUSED = auto()  # an error ends the session: the client's, ours, or time
    TAKEN = auto()
    MESSAGE = auto()
    HEARD = auto()
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
        Input.HEARD: State.OPEN,
        Input.FAILED: State.CLOSED,
        Input.REFUSED: State.CLOSED,
        Input.GONE: State.CLOSED,
    },
    State.TERMINATING: {
        Input.TAKEN: State.TERMINATING,
        Input.MESSAGE: State.TERMINATING,
        Input.HEARD: State.TERMINATING,
        Input.DONE: State.CLOSED,
        Input.FAILED: State.CLOSED,
        Input.REFUSED: State.CLOSED,
        Input.GONE: State.CLOSED,
    },
    State.CLOSED: {},
}

# Tuples: an Enum in a set is hashed by Python code, and these are asked for each frame.
#: States in which the client is not listened to any more.
DEAF = (State.SEALED, State.TERMINATING, State.CLOSED)
#: States in which no worker holds the session.
UNTAKEN = (State.NEW, State.OFFERED, State.SEALED)
#: States that audio leaves as they are.
_HEARING = tuple(state for state, inputs in TRANSITIONS.items() if inputs.get(Input.AUDIO) is state)

_INPUT_OF_EVENT = {
    Event.TAKEN: Input.TAKEN,
    Event.MESSAGE: Input.MESSAGE,
    Event.HEARD: Input.HEARD,
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
class Notify:
    """Post the session's finals, JSON texts in order, to its webhook (protocol 2.4)."""

    finals: tuple[str, ...]


@dataclass(frozen=True)
class Forget:
    """The session's keys are not needed any more, once everything is appended."""


@dataclass(frozen=True)
class Dropped:
    """A worker's event was not passed on: `reason` is one of closed, generation, duplicate, turn."""

    reason: str


@dataclass(frozen=True)
class Missed:
    """Something that a worker told before this event has been lost: let the session be taken anew, from the last
    checkpoint that has come here. Nothing more is heard from this generation.
    """


Effect = MakeOffer | Withdraw | Append | Reply | CloseWith | Notify | Forget | Dropped | Missed


# ---------------------------------------------------------------------------------------------------------------------
# the session


@dataclass(frozen=True)
class Limits:
    """How long things may take, in seconds; their meaning stands in `ingress/settings.py`."""

    admission_timeout_s: float = 5.0
    termination_timeout_s: float = 10.0
    idle_timeout_s: float = 60.0
    max_session_s: float = 10_800.0
    max_buffer_s: float = 300.0
    resume_window_s: float = 60.0


@dataclass
class _Pulse:
    """Since the last Heartbeat: when that was, what was heard by then, the loudest speech meanwhile."""

    at: float
    heard_s: float
    speech: float = 0.0


class Session:
    """See the module. `now` is the time of connection, `expires_at` what Begin tells, in Unix seconds.

    `resume_token` is told in Begin; only a session with one, that nobody can guess, is resumable.
    """

    def __init__(
        self,
        id: str,  # noqa: A002 the wire's word for it
        params: SessionParams,
        limits: Limits,
        now: float,
        expires_at: int,
        api_version: str | None = None,
        resume_token: str = "",
    ) -> None:
        self.id = id
        self.params = params
        self.state = State.NEW
        #: How the session ended, for the record: "ended", "gone", or the code of the error it ended with.
        self.outcome = ""
        #: When it began, by the clock of `now`; what Begin tells of it; how long it may last; its token, "" for none.
        self.opened_at = now
        self.expires_at = expires_at
        self.api_version = api_version
        self.max_session_s = limits.max_session_s
        self.resume_token = resume_token
        #: Whether it is recorded, for Begin; None: nobody asked.
        self.recorded: bool | None = None
        self._limits = limits
        self._decoder = make_decoder(params.encoding, params.sample_rate)
        self._audio = Converter(self._decoder.sample_rate)
        # 0: a stream that tells its own rate comes in whatever pieces its packets have.
        width = 1 if params.encoding == "pcm_mulaw" else 2
        self._bytes_per_ms = 0.0 if params.encoding in SELF_TIMED else width * params.sample_rate / 1000
        self._heard_at = now
        self._settled_by = now  # only read while TERMINATING
        self._worker_heard_s = 0.0
        self._generation = self._sequence = -1
        self._deaf_to = -1  # generations up to this one have lost events on the way
        self._last_final = -1
        self._ordered, self._ordered_at = 0.0, now  # bytes of orders, less what time has allowed since
        # Up to so many samples received, the client cannot be too far ahead: what it sends brings it no further.
        self._near_until = -1.0
        self._short_ms = 0.0  # audio in a row of messages that are too short
        self._pulse: _Pulse | None = None
        self._finals: list[str] = []
        self._finals_bytes = 0
        self._replay = Replay() if resume_token else None
        self._lost = False  # the client's connection; it may come back
        self._close: CloseWith | None = None
        self._messages, self._audio_bytes = 0, 0  # taken from the client
        resampled = self._decoder.sample_rate != SAMPLE_RATE or params.encoding == "opus"
        self._restarts = Restarts(resampled) if resume_token and movable(params) else None
        # Until so many messages are taken the client repeats itself, for our decoder's sake, up to this position.
        self._again: tuple[int, int] | None = None
        self._received_before = 0

    # -- the client's side

    def start(self, now: float) -> list[Effect]:  # noqa: ARG002 every input carries its time
        """The client was accepted."""
        self._enter(Input.START)
        return [MakeOffer(self.params)]

    @property
    def received_ms(self) -> int:
        """Audio that the client has sent so far."""
        return round(1000 * max(self._audio.received, self._received_before) / self._audio.rate)

    def client_audio(self, data: bytes, now: float) -> list[Effect]:
        """A binary message. Raises ClientError: 3007 for what holds too little or too much, or comes too fast; 3006 for
        what cannot be decoded, after which the session can only be refused.
        """
        if self.state in DEAF:
            return []
        short_ms = self._checked_duration(data)
        if self._audio.received > self._near_until:
            self._check_ahead(now)
        pcm = self._decoder.decode(data)
        if self.state not in _HEARING:
            self._enter(Input.AUDIO)
        self._heard_at, self._short_ms = now, short_ms
        self._messages += 1
        self._audio_bytes += len(data)
        return self._taken(self._frames(self._audio.convert(pcm)))

    def client_text(self, text: str, now: float) -> list[Effect]:
        """A text message. Raises ClientError for what protocol 3.2 does not know."""
        if self.state in DEAF:
            return []
        message = parse_client_message(text)
        params = self.params
        if isinstance(message, UpdateConfiguration):
            params = params.updated(message.fields)
        ordered = self._checked_order(message, params, now)
        rest = self._decoder.finish() if isinstance(message, Terminate) else b""
        self._enter(Input.TERMINATE if isinstance(message, Terminate) else Input.AUDIO)
        self._heard_at = self._ordered_at = now
        self._ordered = ordered
        self._messages += 1
        match message:
            case KeepAlive():
                return self._taken([])
            case ForceEndpoint():
                return self._taken(self._cut(Order.FORCE_ENDPOINT))
            case Terminate():
                last = self._frames(self._audio.convert(rest))
                self._expect_end(now)
                return self._taken([*last, *self._cut(Order.TERMINATE)])
            case UpdateConfiguration():
                return self._taken(self._configure(params, now))

    def held(self, now: float) -> None:
        """The client is kept waiting by us: that it says nothing meanwhile is not its silence."""
        self._heard_at = max(self._heard_at, now)

    @property
    def newest_generation(self) -> int:
        """The highest that was heard of; 0 for none."""
        return max(self._generation, self._deaf_to, 0)

    def excuse(self, now: float) -> None:
        """No worker can be heard at present: that it does not settle is not its silence."""
        if self.state is State.TERMINATING:
            self._expect_end(now)

    def client_gone(self, now: float) -> list[Effect]:  # noqa: ARG002 every input carries its time
        """The connection is lost, from whichever side it was closed."""
        if self.state is State.CLOSED:
            return []
        release = self._release()
        self._enter(Input.GONE, "gone")
        return [*release, *self._over()]

    def client_lost(self) -> bool:
        """The connection broke off without a word. Returns whether to wait for the client: it can `resume`.

        One that was never told its token cannot.
        """
        self._lost = self._replay is not None and self._replay.sequence > 0
        return self._lost

    def may_resume(self, token: str) -> bool:
        """Whether this is the session's token; how long that takes tells nothing about it."""
        return bool(self.resume_token) and hmac.compare_digest(self.resume_token.encode(), token.encode())

    def resume(self, last_sequence: int, now: float) -> list[Effect]:
        """The client is back, and has everything up to `last_sequence`; these effects are for its new connection.

        Raises ClientError 1008 where what it missed is not kept any more.
        """
        if self._replay is None:
            raise cannot_resume()
        missed = self._replay.since(last_sequence)
        self._lost, self._heard_at = False, max(self._heard_at, now)
        place = Resumed(self.id, self.expires_at, self._messages, self._audio_bytes)
        end = [self._close] if self._close else []
        return [Reply(dump(place)), *map(Reply, missed), *end]

    # -- from node to node

    @property
    def movable(self) -> bool:
        """Whether the session can go on on another node."""
        return self._restarts is not None

    def told_after(self, sequence: int) -> list[tuple[int, str]]:
        """What the client was told after this number, as far as it is kept, with numbers."""
        return self._replay.after(sequence) if self._replay else []

    def place(self) -> Place:
        """Where the session stands. Only for one that is movable."""
        if self._restarts is None:
            raise IllegalInput("a session that stays")
        messages, position = (self._messages, self._audio.position) if self._again is None else self._again
        audio_bytes, received = self._audio_bytes, self._audio.received
        point = self._restarts.newest(received, self._audio.rate)
        begin = (point.messages, point.audio_bytes, point.received, point.position)
        if self.state in DEAF:  # nothing is to be decoded any more
            begin = (messages, audio_bytes, received, position)
        close = self._close or CloseWith(Close.NORMAL, "")
        return Place(
            self.state.name,
            self.outcome,
            messages,
            audio_bytes,
            max(received, self._received_before),
            position,
            *begin,
            self._replay.sequence if self._replay else 0,
            self._generation,
            self._sequence,
            self._last_final,
            round(1000 * self._worker_heard_s),
            int(close.code) if self._close else 0,
            close.reason,
        )

    def go_on(self, place: Place, told: Iterable[tuple[int, str]], now: float) -> None:
        """Right after it was made: the session stands where another node left it, its client not there yet.

        Raises EntryError for a place that is none, after which the session is not to be used.
        """
        try:
            self.state = State[place.state]
            close = CloseWith(Close(place.close_code), place.close_reason) if place.close_code else None
        except (KeyError, ValueError):
            raise EntryError(f"a place of another version: {place.state} {place.close_code}") from None
        self.outcome, self._close = place.outcome, close
        self._audio.go_on(place.from_received, place.from_position)
        self._near_until = -1.0
        self._messages, self._audio_bytes = place.from_messages, place.from_bytes
        self._received_before = place.received
        if self._restarts is not None:
            self._restarts.took(place.from_messages, place.from_bytes, self._audio)
        if place.messages > place.from_messages:
            self._again = (place.messages, place.position)
        else:
            self._audio.position = place.position
        self._generation, self._sequence = place.generation, place.event
        self._last_final, self._worker_heard_s = place.last_final, place.heard_ms / 1000
        if self._replay is not None:
            self._replay.go_on(place.sequence, told)
        self._lost, self._heard_at = True, now
        if self.params.session_heartbeat and self.state is State.OPEN:
            self._pulse = _Pulse(now, self._worker_heard_s)
        self._expect_end(now)

    def _taken(self, effects: list[Effect]) -> list[Effect]:
        """A message of the client is behind us, with these effects, which it had before if it was sent again."""
        if self._restarts is not None:
            self._restarts.took(self._messages, self._audio_bytes, self._audio)
        if self._again is None:
            return effects
        messages, position = self._again
        if self._messages >= messages:
            self._audio.position, self._again = position, None
        return []

    # -- the worker's side

    def worker_event(self, event: SessionEvent, now: float) -> list[Effect]:
        """A report of the worker. Raises EntryError for what no worker may say in this state."""
        if reason := self._fence(event):
            return [Dropped(reason)]
        if event.event not in _INPUT_OF_EVENT:
            raise EntryError(f"{event.event.name} is not for a session to hear")
        if self._missed_before(event):
            self._deaf_to = event.generation
            return [Missed()]
        was, happened = self.state, _INPUT_OF_EVENT[event.event]
        if happened is Input.DONE and was is State.OPEN:
            happened = Input.FAILED  # it stopped although nobody asked it to
        if happened not in TRANSITIONS[was]:
            raise EntryError(f"{event.event.name} in state {was.name}")
        speech = _probability(event.text) if happened is Input.HEARD else 0.0
        self._enter(happened)
        self._generation, self._sequence = event.generation, event.sequence
        self._worker_heard_s = max(self._worker_heard_s, event.audio_ms / 1000)
        self._expect_end(now)
        match happened:
            case Input.TAKEN:
                return [self._begin(now)] if was in UNTAKEN else []
            case Input.MESSAGE:
                return self._pass_on(event)
            case Input.HEARD:
                return self._feel(speech)
            case Input.DONE:
                return self._ended(now)
            case _:
                return self._failed(event.text or INTERNAL_ERROR)

    # -- time, and ends that others decide

    def next_deadline(self) -> float | None:
        """When `tick` has something to do; may be called after every input, since inputs move it."""
        deadlines = [deadline for deadline, _ in self._deadlines()]
        if self._pulse is not None and self.state is State.OPEN:
            deadlines.append(self._pulse.at + HEARTBEAT_S)
        return min(deadlines, default=None)

    def tick(self, now: float) -> list[Effect]:
        """End the session if a deadline has passed; send a Heartbeat if one is due; else nothing."""
        due = [(deadline, error) for deadline, error in self._deadlines() if deadline <= now]
        if due:
            return self.refuse(min(due, key=lambda pair: pair[0])[1](), now)
        if self._pulse is not None and self.state is State.OPEN and self._pulse.at + HEARTBEAT_S <= now:
            return [self._beat(self._pulse, now)]
        return []

    def ahead_s(self, now: float) -> float:
        """Audio received that the worker cannot have got through yet, at least so far as we know, in seconds."""
        walked = max(self._worker_heard_s, CATCH_UP * (now - self.opened_at))
        return max(0.0, self._audio.received_s - walked)

    def refuse(self, error: ClientError, now: float) -> list[Effect]:  # noqa: ARG002 every input carries its time
        """End the session with an error, whatever it is doing. A closed session stays as it is."""
        if self.state is State.CLOSED:
            return []
        release = self._release()
        self._enter(Input.REFUSED, str(int(error.code)))
        return [*release, *self._farewell(error), *self._over()]

    # -- inside

    def _tell(self, text: str) -> Reply:
        return Reply(self._replay.number(text) if self._replay else text)

    def _hang_up(self, code: Close, reason: str) -> CloseWith:
        self._close = CloseWith(code, reason)
        return self._close

    def _farewell(self, error: ClientError) -> list[Effect]:
        return [
            self._tell(dump(Error(int(error.code), error.text))),
            self._hang_up(error.code, REASON_SEE_ERROR),
        ]

    def _enter(self, happened: Input, outcome: str = "") -> None:
        """Follow the table. Raises IllegalInput, with nothing changed."""
        following = TRANSITIONS[self.state].get(happened)
        if following is None:
            raise IllegalInput(f"{happened.name} in state {self.state.name}")
        self.state = following
        self.outcome = self.outcome or outcome

    def _deadlines(self) -> Iterator[tuple[float, Callable[[], ClientError]]]:
        """With what makes the error: they are looked at after every event, and hardly ever met."""
        limits = self._limits
        if self.state in (State.OFFERED, State.SEALED):
            yield self.opened_at + limits.admission_timeout_s, too_many_sessions
        elif self.state is State.OPEN:
            patience_s = min(self.params.inactivity_timeout or limits.idle_timeout_s, limits.idle_timeout_s)
            if not self._lost:
                yield self._heard_at + patience_s, partial(_inactive, patience_s)
            yield self.opened_at + limits.max_session_s, _expired
        elif self.state is State.TERMINATING:
            yield self._settled_by, internal_error

    def _checked_order(self, message: ClientMessage, params: SessionParams, now: float) -> float:
        """What has been ordered up to this message. Raises ClientError 3006 when that is too much."""
        size = _ORDER_BYTES
        if isinstance(message, UpdateConfiguration) and params != self.params:
            size += sum(len(str(value)) for value in params.for_worker().values())
        ordered = max(0.0, self._ordered - ORDERS_PER_S * (now - self._ordered_at)) + size
        if ordered > ORDER_BURST and not isinstance(message, Terminate):
            raise ClientError(Close.INVALID_INPUT, "User Input Validation Error: Too many messages")
        return ordered

    def _check_ahead(self, now: float) -> None:
        """Raises ClientError 3007 (protocol 3.1)."""
        room_s = self._limits.max_buffer_s - self.ahead_s(now)
        if room_s < 0:
            text = "Audio transmission rate exceeded: too much audio buffered"
            raise ClientError(Close.INPUT_DURATION, text)
        self._near_until = self._audio.received + room_s * self._audio.rate

    def _checked_duration(self, data: bytes) -> float:
        """The audio in short messages up to this one, in ms. Raises ClientError 3007 (protocol 3.1)."""
        if not self._bytes_per_ms or not data:
            return self._short_ms
        took_ms = len(data) / self._bytes_per_ms
        shortest, longest = CHUNK_MS
        short_ms = self._short_ms + took_ms if took_ms < shortest - _ROUNDING_MS else 0.0
        if took_ms > longest + _ROUNDING_MS or short_ms >= SHORT_GRACE_MS:
            violation = (
                f"Input Duration Violation: {took_ms:.1f} ms. Expected between {shortest} and {longest} ms"
            )
            raise ClientError(Close.INPUT_DURATION, f"Input Duration Error: {violation}")
        return short_ms

    def _expect_end(self, now: float) -> None:
        """A worker that settles is given time for the audio it has not heard, and the same grace after each event."""
        self._settled_by = now + self.ahead_s(now) + self._limits.termination_timeout_s

    def _frames(self, pcm: bytes) -> list[Effect]:
        start = self._audio.position - len(pcm) // 2
        if 0 < len(pcm) <= MAX_FRAME_BYTES:
            return [Append(AudioFrame(start, pcm))]
        return [
            Append(AudioFrame(start + offset // 2, pcm[offset : offset + MAX_FRAME_BYTES]))
            for offset in range(0, len(pcm), MAX_FRAME_BYTES)
        ]

    def _cut(self, order: Order) -> list[Effect]:
        """An order about all audio received so far: nothing of it may stay behind in decoder and resampler."""
        held = self._audio.convert(self._decoder.flush())
        tail = [*self._frames(held), *self._frames(self._audio.flush())]
        return [*tail, Append(Control(order, self._audio.position))]

    def _configure(self, params: SessionParams, now: float) -> list[Effect]:
        if params == self.params:
            return []
        self.params = params
        if not params.session_heartbeat:
            self._pulse = None
        elif self._pulse is None and self.state is State.OPEN:
            self._pulse = _Pulse(now, self._worker_heard_s)
        return [Append(Control(Order.CONFIGURE, self._audio.position, params.for_worker()))]

    def _fence(self, event: SessionEvent) -> str:
        if self.state is State.CLOSED:
            return "closed"
        if event.generation < self._generation or event.generation <= self._deaf_to:
            return "generation"
        if event.generation == self._generation and event.sequence <= self._sequence:
            return "duplicate"
        return ""

    def _missed_before(self, event: SessionEvent) -> bool:
        """Each holder numbers its events from 0, and begins no later than with the turn after the last one told."""
        if event.event is Event.TAKEN and event.turn_order > self._last_final + 1:
            return True
        following = self._sequence + 1 if event.generation == self._generation else 0
        return event.sequence > following

    def _pass_on(self, event: SessionEvent) -> list[Effect]:
        if 0 <= event.turn_order <= self._last_final:
            return [Dropped("turn")]
        if event.final:
            self._last_final = event.turn_order
            self._remember(event.text)
        return [self._tell(event.text)]

    def _feel(self, speech: float) -> list[Effect]:
        """What the worker heard, for the next Heartbeat."""
        if self._pulse is not None:
            self._pulse.speech = max(self._pulse.speech, speech)
        return []

    def _beat(self, pulse: "_Pulse", now: float) -> Reply:
        walked_s, took_s = self._worker_heard_s - pulse.heard_s, now - pulse.at
        beat = Heartbeat(
            self.received_ms,
            round(1000 * (now - self.opened_at)),
            round(walked_s / took_s, 3),
            pulse.speech,
        )
        self._pulse = _Pulse(now, self._worker_heard_s)
        return Reply(
            dump(beat)
        )  # without a number: nobody wants an old one, and another node would have told another

    def _remember(self, final: str) -> None:
        if self.params.webhook_url and self._finals_bytes + len(final.encode()) <= MAX_NOTICE_BYTES:
            self._finals.append(final)
            self._finals_bytes += len(final.encode())

    def _over(self) -> list[Effect]:
        """What is left to do for a session that has ended: only one that had begun has a webhook to tell."""
        if not self.params.webhook_url or self._generation < 0:
            return [Forget()]
        return [Notify(tuple(self._finals)), Forget()]

    def _begin(self, now: float) -> Reply:
        if self.params.session_heartbeat:
            self._pulse = _Pulse(now, 0.0)
        configuration: dict[str, Any] = {
            "model": self.params.speech_model,
            "mode": self.params.effective_mode,
            "api_version": self.api_version,
            "speaker_labels": False,
            "redact_pii": False,
            "filter_profanity": self.params.filter_profanity,
            "domain": None,
            "voice_focus": None,
        }
        if self.recorded is not None:
            configuration["recorded"] = self.recorded
        if self.resume_token:
            configuration["resume_token"] = self.resume_token
            configuration["resume_window_s"] = self._limits.resume_window_s
        return self._tell(dump(Begin(self.id, self.expires_at, configuration)))

    def _ended(self, now: float) -> list[Effect]:
        self.outcome = "ended"
        last = Termination(round(self._audio.received_s), round(now - self.opened_at))
        return [self._tell(dump(last)), self._hang_up(Close.NORMAL, REASON_ENDED), *self._over()]

    def _failed(self, text: str) -> list[Effect]:
        error = ClientError(Close.SERVER_ERROR, text)
        self.outcome = str(int(error.code))
        return [*self._farewell(error), *self._over()]

    def _release(self) -> list[Effect]:
        """Let the worker go, or stop looking for one."""
        if self.state in UNTAKEN:
            return [Withdraw()]
        return [Append(Control(Order.ABANDON, self._audio.position))]


def _probability(text: str) -> float:
    """Raises EntryError for what is none."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise EntryError(f"a speech probability of {text[:20]!r}")
    return value


def _inactive(seconds: float) -> ClientError:
    text = f"Session terminated due to inactivity: No messages received for {seconds:g} seconds"
    return ClientError(Close.INVALID_INPUT, text)


def _expired() -> ClientError:
    return ClientError(Close.SESSION_EXPIRED, "Session Expired: Maximum session duration exceeded")
