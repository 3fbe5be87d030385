"""Every error of the stack, by whose fault it is, and the codes a client sees (protocol 6.1).

    StackError
        ClientError     the client's fault, or a refusal it must be told: answered with Error and a close
        EntryError      a peer process wrote something unreadable: count, skip
        LeaseLost       this worker no longer holds the session
        SettingsError   the operator's settings do not make sense: exit 2
        WeightsError    weights are missing or unusable: exit with what to run
        LicenseError    there is no licence to run on: exit 4 with how to mend it
        Unreachable     a server outside (issuer, tracker) gave no usable answer: retry
        GaveUp          a server outside was away for too long: exit 75, to be started again
        BusUnavailable  Redis cannot be reached: retry

Anything else is a bug: logged with its traceback, and the client is told only "internal error".
"""

from enum import IntEnum


class Close(IntEnum):
    """WebSocket close codes; an `Error` frame carries the same number as `error_code`."""

    NORMAL = 1000
    UNAUTHORIZED = 1008
    TOO_BIG = 1009
    #: Ours, and only for resumable sessions (docs/resume.md): connect again. Registered as "Service Restart".
    COME_BACK = 1012
    SERVER_ERROR = 3005
    INVALID_INPUT = 3006
    INPUT_DURATION = 3007
    SESSION_EXPIRED = 3008
    TOO_MANY_SESSIONS = 3009


#: The close reason of a session that ended well, and of one that ended with an Error frame (protocol 4.4, 4.5).
REASON_ENDED = "Session Ended"
REASON_SEE_ERROR = "See Error message for details"

#: The close reason of a connection whose session goes on over another one, to another node (docs/resume.md).
REASON_COME_BACK = "Service Restart: resume the session"

#: What a client is told when the fault is ours. Never more: details go to the log.
INTERNAL_ERROR = "Session Cancelled: An error occurred"


class StackError(Exception):
    """Base of every error the stack raises on purpose."""


class ClientError(StackError):
    """The client must be told. `text` goes on the wire as it is."""

    def __init__(self, code: Close, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


class EntryError(StackError):
    """A Redis entry that cannot be read: wrong version, shape or size."""


class LeaseLost(StackError):
    """Another worker holds the session now; whatever was computed for it must be dropped."""


class SettingsError(StackError):
    """Settings that contradict each other or cannot be read."""


class WeightsError(StackError):
    """Model weights are missing, incomplete or of another architecture."""


class LicenseError(StackError):
    """There is no licence to run on: unreadable, forged, foreign, expired, refused. The message says which."""


class Unreachable(StackError):
    """A server outside the stack gave no answer that can be used; the caller retries."""


class GaveUp(StackError):
    """A server outside the stack was away for longer than the operator allows; nothing is lost by starting again."""


class BusUnavailable(StackError):
    """Redis cannot be reached or refuses commands; the caller retries."""


def unauthorized(reason: str) -> ClientError:
    """A refusal of credentials (protocol 1.3)."""
    return ClientError(Close.UNAUTHORIZED, f"Unauthorized Connection: {reason}")


def invalid_parameter(name: str, message: str) -> ClientError:
    """A known parameter with a value that does not validate (protocol 2, general rules)."""
    return ClientError(Close.INVALID_INPUT, f"User Input Validation Error: Invalid '{name}': {message}")


def too_many_sessions() -> ClientError:
    """A refusal for want of room: of the node, of the workers, or among the sessions of one key (protocol 1.6)."""
    return ClientError(Close.TOO_MANY_SESSIONS, "Unauthorized Connection: Too many concurrent sessions")


def cannot_resume() -> ClientError:
    """A refusal to resume (docs/resume.md). One text for all reasons: who guesses ids learns nothing."""
    return unauthorized("Session cannot be resumed")


def resumed_elsewhere() -> ClientError:
    """What the older of two connections of one session is told (docs/resume.md)."""
    return ClientError(Close.INVALID_INPUT, "Session Cancelled: The session goes on over a newer connection")


def shutting_down() -> ClientError:
    """This node takes no more sessions, or gives up those that are left."""
    return ClientError(Close.SERVER_ERROR, "Session Cancelled: The server is shutting down")


def internal_error() -> ClientError:
    """What a client is told when we failed it."""
    return ClientError(Close.SERVER_ERROR, INTERNAL_ERROR)
