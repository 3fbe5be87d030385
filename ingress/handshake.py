"""The opening request, decided (protocol 1.1 to 1.3 and 2): which path, who asks, with which parameters.

A refusal is always told over an open WebSocket, as Error and close with the same code: browsers cannot read the
status of a failed upgrade, and the official clients know these codes.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum, auto
from urllib.parse import parse_qsl

from wire.errors import ClientError, Close, unauthorized
from wire.params import SessionParams, parse_query

SESSION_PATHS = frozenset({"/", "/v3/ws"})
HEALTH_PATHS = frozenset({"/v3/ws/health", "/v3/health"})

#: Longest `AssemblyAI-Version` that is echoed in Begin.
_MAX_VERSION = 32


class Route(Enum):
    """What a request's path asks for."""

    SESSION = auto()
    HEALTH = auto()
    UNKNOWN = auto()


@dataclass(frozen=True)
class Load:
    """What this node can take on now. `ready`: it reaches Redis; `draining`: it was told to stop."""

    sessions: int
    max_sessions: int
    ready: bool = True
    draining: bool = False

    @property
    def healthy(self) -> bool:
        """Whether a load balancer should send sessions here. A full node is healthy."""
        return self.ready and not self.draining


@dataclass(frozen=True)
class Accept:
    """The session may begin. `api_version` is what the client asked for, echoed in Begin."""

    params: SessionParams
    api_version: str | None


@dataclass(frozen=True)
class Reject:
    """The session may not begin."""

    error: ClientError


def route(target: str) -> Route:
    """What the request target (path and query) asks for. A trailing slash is forgiven."""
    path = target.partition("?")[0].rstrip("/") or "/"
    if path in SESSION_PATHS:
        return Route.SESSION
    return Route.HEALTH if path in HEALTH_PATHS else Route.UNKNOWN


def admit(target: str, headers: Iterable[tuple[str, str]], load: Load) -> Accept | Reject:
    """Decide on an upgrade request: credentials, then parameters, then room."""
    query = parse_qsl(target.partition("?")[2], keep_blank_values=True)
    named = {name.lower(): value.strip() for name, value in headers}
    try:
        # Presence is all that is asked for: the value is not verified here (protocol 1.3).
        if not (named.get("authorization") or any(value.strip() for name, value in query if name == "token")):
            raise unauthorized("Missing Authorization header")
        params = parse_query(query)
        _make_room(load)
    except ClientError as error:
        return Reject(error)
    return Accept(params, named.get("assemblyai-version", "")[:_MAX_VERSION] or None)


def _make_room(load: Load) -> None:
    if load.draining:
        raise ClientError(Close.SERVER_ERROR, "Session Cancelled: The server is shutting down")
    if not load.ready:
        raise ClientError(Close.SERVER_ERROR, "Session Cancelled: The server is not ready")
    if load.sessions >= load.max_sessions:
        raise ClientError(Close.TOO_MANY_SESSIONS, "Unauthorized Connection: Too many concurrent sessions")
