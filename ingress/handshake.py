"""The opening request, decided (protocol 1.1 to 1.4 and 2): which path, who asks, with which parameters.

A refusal of a session is always told over an open WebSocket, as Error and close with the same code: browsers cannot
read the status of a failed upgrade, and the official clients know these codes.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qsl

from ingress.credentials import Credentials, Grant
from ingress.tokens import missing, parse_request
from wire.errors import (
    ClientError,
    Close,
    invalid_parameter,
    shutting_down,
    too_many_sessions,
    unauthorized,
)
from wire.params import SessionParams, parse_query
from wire.speech_models import DEFAULT_MODEL

SESSION_PATHS = frozenset({"/", "/v3/ws"})
HEALTH_PATHS = frozenset({"/v3/ws/health", "/v3/health"})
TOKEN_PATH = "/v3/token"  # noqa: S105 a path
#: Not of the mirrored protocol, hence not below its /v3.
MODELS_PATH = "/v1/models"

#: Sent by a load balancer that asks another node where one answers 503 (compose/nginx); never passed on from clients.
TRY_ANOTHER = "x-steno-try-another"

#: Longest `AssemblyAI-Version` that is echoed in Begin.
_MAX_VERSION = 32
#: Longest `last_sequence`: what a session can number.
_MAX_DIGITS = 15


class Route(Enum):
    """What a request's path asks for."""

    SESSION = auto()
    HEALTH = auto()
    TOKEN = auto()
    MODELS = auto()
    UNKNOWN = auto()


_PAGES = {TOKEN_PATH: Route.TOKEN, MODELS_PATH: Route.MODELS}


@dataclass(frozen=True)
class Load:
    """What this node can take on now.

    `ready`: it reaches Redis; `draining`: it was told to stop; `licensed`: the licence lets sessions begin.
    """

    sessions: int
    max_sessions: int
    ready: bool = True
    draining: bool = False
    licensed: bool = True

    @property
    def healthy(self) -> bool:
        """Whether a load balancer should send sessions here. A full node is healthy."""
        return self.ready and self.licensed and not self.draining


@dataclass(frozen=True)
class Accept:
    """The session may begin, within its grant. `api_version` is what the client asked for, echoed in Begin."""

    params: SessionParams
    api_version: str | None
    grant: Grant


@dataclass(frozen=True)
class Resume:
    """A connection that wants to go on with a session (docs/resume.md); whether it may is still to be seen.

    `last_sequence` is the number of the last message that the client has of the session, 0 for none.
    """

    session: str
    token: str = field(repr=False)
    last_sequence: int
    grant: Grant


@dataclass(frozen=True)
class Reject:
    """The session may not begin."""

    error: ClientError


def route(target: str) -> Route:
    """What the request target (path and query) asks for. A trailing slash is forgiven."""
    path = target.partition("?")[0].rstrip("/") or "/"
    if path in SESSION_PATHS:
        return Route.SESSION
    if path in _PAGES:
        return _PAGES[path]
    return Route.HEALTH if path in HEALTH_PATHS else Route.UNKNOWN


def admit(
    target: str,
    headers: Iterable[tuple[str, str]],
    load: Load,
    check: Callable[[str], Grant],
    default_model: str = DEFAULT_MODEL,
) -> Accept | Resume | Reject:
    """Decide on an upgrade request: credentials, then parameters, then room.

    `check` tells what whoever presents this text may do, or raises ClientError; it is never asked about nothing.
    `default_model` serves who names none (`wire.speech_models.choose` tells what names one). Whoever presents a
    `resume_token` asks for no room: its session has it.
    """
    query = parse_qsl(_clean(target).partition("?")[2], keep_blank_values=True)
    named = _named(headers)
    try:
        tokens = [value.strip() for name, value in query if name == "token"]
        presented = named.get("authorization") or next(filter(None, tokens), "")
        if not presented:
            raise unauthorized("Missing Authorization header")
        grant = check(presented)
        if any(name == "resume_token" for name, _ in query):
            return _resume(dict(query), grant)
        params = parse_query(query, named.get("x-model-version"), default_model)
        _make_room(load)
    except ClientError as error:
        return Reject(error)
    return Accept(params, named.get("assemblyai-version", "")[:_MAX_VERSION] or None, grant)


def try_another(target: str, headers: Iterable[tuple[str, str]], load: Load) -> bool:
    """Whether to send a load balancer on to another node instead of opening a WebSocket and refusing over it.

    A session that is resumed has its place here, even while the node drains.
    """
    full = load.sessions >= load.max_sessions
    return (
        (full or not load.healthy)
        and TRY_ANOTHER in _named(headers)
        and not any(name == "resume_token" for name, _ in parse_qsl(_clean(target).partition("?")[2]))
    )


def issue(
    target: str, headers: Iterable[tuple[str, str]], credentials: Credentials, now_s: float
) -> tuple[HTTPStatus, dict[str, Any]]:
    """Answer a request for a temporary token: status and JSON (protocol 1.4). Here `Bearer KEY` will do as well."""
    wanted, faults = parse_request(dict(parse_qsl(target.partition("?")[2], keep_blank_values=True)))
    presented = _key_in(headers)
    if not presented:
        faults.append(missing("header", "authorization"))
    if wanted is None or faults:
        return HTTPStatus.UNPROCESSABLE_ENTITY, {"detail": faults}
    try:
        token = credentials.mint(presented, wanted, now_s)
    except ClientError as error:
        return HTTPStatus.UNAUTHORIZED, {"error": error.text}
    return HTTPStatus.OK, {"token": token, "expires_in_seconds": wanted.expires_in_seconds}


def show(
    headers: Iterable[tuple[str, str]], credentials: Credentials, page: Mapping[str, Any] | None
) -> tuple[HTTPStatus, Mapping[str, Any]]:
    """Answer who asks for `/v1/models`: status and JSON. `page` None: nothing is known yet.

    It tells an operator's whole capacity, so it takes a key, as `/v3/token` does.
    """
    presented = _key_in(headers)
    try:
        if not presented:
            raise unauthorized("Missing Authorization header")
        credentials.owner(presented)
    except ClientError as error:
        return HTTPStatus.UNAUTHORIZED, {"error": error.text}
    if page is None:
        return HTTPStatus.SERVICE_UNAVAILABLE, {"error": "The server is not ready"}
    return HTTPStatus.OK, page


def _key_in(headers: Iterable[tuple[str, str]]) -> str:
    presented = _named(headers).get("authorization", "")
    scheme, _, rest = presented.partition(" ")
    return rest.strip() if scheme.lower() == "bearer" else presented


def _named(headers: Iterable[tuple[str, str]]) -> dict[str, str]:
    return {name.lower(): _clean(value).strip() for name, value in headers}


def _clean(text: str) -> str:
    """Bytes that are no ASCII come as surrogates, which nothing can be written with; sloppy clients send UTF-8."""
    return text if text.isascii() else text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _resume(query: Mapping[str, str], grant: Grant) -> Resume:
    """Raises ClientError 3006 for a number that is none."""
    last = query.get("last_sequence", "0").strip()
    if not (last.isascii() and last.isdigit() and len(last) <= _MAX_DIGITS):
        raise invalid_parameter("last_sequence", "Input should be a valid integer")
    return Resume(query.get("session_id", ""), query["resume_token"], int(last), grant)


def _make_room(load: Load) -> None:
    if load.draining:
        raise shutting_down()
    if not load.ready:
        raise ClientError(Close.SERVER_ERROR, "Session Cancelled: The server is not ready")
    if load.sessions >= load.max_sessions:
        raise too_many_sessions()
