"""The client's protocol: frozen messages, parsed and bounded once at the border (protocol 3 and 4).

Server messages dump to one line of JSON with `type` last, as live frames have it. No message but `Error` has a
key named `error`; optional fields without a value are left out, never null (protocol 0.3, items 7 and 12).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wire.errors import ClientError, Close

# --------------------------------------------------------------------------------------------------------------
# client -> server


@dataclass(frozen=True)
class Terminate:
    """End the session: flush, last turns, Termination, close 1000."""


@dataclass(frozen=True)
class ForceEndpoint:
    """End the open turn at the current audio position."""


@dataclass(frozen=True)
class KeepAlive:
    """Resets the inactivity timer; no reply."""


@dataclass(frozen=True)
class UpdateConfiguration:
    """Settings to change mid-session. `fields` is raw: `SessionParams.updated` validates it."""

    fields: Mapping[str, Any]


ClientMessage = Terminate | ForceEndpoint | KeepAlive | UpdateConfiguration


def parse_client_message(text: str) -> ClientMessage:
    """Parse one text frame. Key order and white space are free (protocol 3.2).

    Raises ClientError 3006 with the documented text for what is not JSON, not an object, or of unknown type
    (protocol 3.3).
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ClientError(
            Close.INVALID_INPUT, f"User Input Validation Error: Invalid JSON: {error}"
        ) from None
    if "\\u" in text and not encodable(value):
        fault = "a surrogate without its other half"
        raise ClientError(Close.INVALID_INPUT, f"User Input Validation Error: Invalid JSON: {fault}")
    if not isinstance(value, dict):
        raise ClientError(Close.INVALID_INPUT, "Invalid Message: expected a JSON object")
    match value.get("type"):
        case "Terminate":
            return Terminate()
        case "ForceEndpoint":
            return ForceEndpoint()
        case "KeepAlive":
            return KeepAlive()
        case "UpdateConfiguration":
            return UpdateConfiguration({name: item for name, item in value.items() if name != "type"})
        case other:
            raise ClientError(Close.INVALID_INPUT, f"Invalid Message Type: {_quoted(other)}")


def encodable(value: Any) -> bool:
    """Whether what came out of JSON can be written as UTF-8: escapes may hold half a character."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _quoted(value: Any) -> str:
    """The client's own word, safe to send back: short, and free of the lone surrogates that JSON lets through."""
    text = str(value) if value is None or isinstance(value, (str, bool, int, float)) else type(value).__name__
    return text[:100].encode(errors="replace").decode()


# --------------------------------------------------------------------------------------------------------------
# server -> client


@dataclass(frozen=True)
class Begin:
    """First message of a session. `expires_at` in Unix seconds; `configuration` has the eight keys of protocol 4.1."""

    id: str
    expires_at: int
    configuration: Mapping[str, Any]


@dataclass(frozen=True)
class Word:
    """One word. `start` and `end` in ms of audio time, `start < end`; `confidence` 0 to 1."""

    start: int
    end: int
    text: str
    confidence: float
    word_is_final: bool


@dataclass(frozen=True)
class Turn:
    """State of one turn (protocol 4.3). Exactly one message per `turn_order` has `end_of_turn`."""

    turn_order: int
    turn_is_formatted: bool
    end_of_turn: bool
    transcript: str
    end_of_turn_confidence: float
    words: tuple[Word, ...] = ()
    utterance: str = ""
    language_code: str | None = None
    language_confidence: float | None = None


@dataclass(frozen=True)
class SpeechStarted:
    """Onset of speech, only for models of the U3 family (protocol 4.2). `timestamp` in ms of audio time."""

    timestamp: int
    confidence: float


@dataclass(frozen=True)
class Termination:
    """Last message of a session that ended well (protocol 4.4)."""

    audio_duration_seconds: int
    session_duration_seconds: int


@dataclass(frozen=True)
class Heartbeat:
    """Proof of life every 5 s, only for sessions with `session_heartbeat` (protocol 4.7).

    `total_duration_ms` is wall time since the session began; `realtime_factor` audio time over wall time of the
    processing since the last one; `max_speech_probability` the highest of the interval.
    """

    total_audio_received_ms: int
    total_duration_ms: int
    realtime_factor: float
    max_speech_probability: float


@dataclass(frozen=True)
class Silence:
    """Audio without words, about once a second, only for U3 sessions with `acknowledge_silence` (protocol 4.8)."""

    start_ms: int
    end_ms: int


@dataclass(frozen=True)
class Error:
    """Why the session ends; a close with the same code follows at once (protocol 4.5)."""

    error_code: int
    error: str


@dataclass(frozen=True)
class Resumed:
    """First message of a connection that goes on with a session (docs/resume.md).

    `messages_received`: the client's messages that were taken, audio or not, over all connections: the next one is to
    be sent again. `audio_bytes_received` are the bytes of audio among them, as the client sent them.
    """

    id: str
    expires_at: int
    messages_received: int
    audio_bytes_received: int


ServerMessage = Begin | Turn | SpeechStarted | Termination | Heartbeat | Silence | Error | Resumed

_encoder = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def _word(word: Word) -> dict[str, Any]:
    return {
        "start": word.start,
        "end": word.end,
        "text": word.text,
        "confidence": round(word.confidence, 6),
        "word_is_final": word.word_is_final,
    }


def _turn(turn: Turn) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "turn_order": turn.turn_order,
        "turn_is_formatted": turn.turn_is_formatted,
        "end_of_turn": turn.end_of_turn,
        "transcript": turn.transcript,
        "end_of_turn_confidence": round(turn.end_of_turn_confidence, 6),
        "words": [_word(word) for word in turn.words],
        "utterance": turn.utterance,
    }
    if turn.language_code is not None:
        fields["language_code"] = turn.language_code
    if turn.language_confidence is not None:
        fields["language_confidence"] = round(turn.language_confidence, 6)
    return fields


def dump(message: ServerMessage) -> str:
    """One JSON text frame. Raises ValueError for a number JSON cannot carry (NaN, infinity)."""
    fields = _turn(message) if isinstance(message, Turn) else dict(vars(message))
    return _encoder.encode({**fields, "type": type(message).__name__})


def numbered(text: str, sequence: int) -> str:
    """The dumped message with its number within a resumable session (docs/resume.md)."""
    return f'{{"sequence":{sequence},{text[1:]}'
