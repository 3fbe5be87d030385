"""Temporary tokens: minted for whoever holds a key, presented by clients that should not see it (protocol 1.4).

A token is a JWT with a header that never varies, so that one of ours is told from any other text without parsing what
a stranger wrote, and so that the algorithm is never the client's choice. It may be used again, also by several clients
at once, until it expires; then it starts no session any more. Time is given: PyJWT's own look at the clock is off.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jwt
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from wire.errors import unauthorized
from wire.params import Integer

_ALGORITHM = "HS256"
_ISSUER = "steno"
_AUDIENCE = "steno/v3/ws"
_HEADERS = {"typ": "steno+jwt"}
#: What every token of ours begins with.
_PREFIX = jwt.encode({}, bytes(32), _ALGORITHM, _HEADERS).partition(".")[0] + "."
#: RFC 7518, 3.2: a key of HS256 is at least as long as its hash.
MIN_SECRET_BYTES = 32


class TokenRequest(BaseModel):
    """What `GET /v3/token` may ask for, in seconds."""

    model_config = ConfigDict(frozen=True)

    expires_in_seconds: Integer = Field(ge=1, le=600)
    max_session_duration_seconds: Integer = Field(10_800, ge=60, le=10_800)


def parse_request(query: Mapping[str, str]) -> tuple[TokenRequest | None, list[dict[str, Any]]]:
    """The request, and what is wrong with it in the shape that clients know: type, loc, msg, input, ctx."""
    try:
        return TokenRequest.model_validate(query), []
    except ValidationError as error:
        faults = error.errors(include_url=False)
        return None, [_fault(dict(fault)) for fault in faults]


def missing(where: str, name: str) -> dict[str, Any]:
    """The fault of something that is not there."""
    return {"type": "missing", "loc": [where, name], "msg": "Field required", "input": None}


def _fault(fault: dict[str, Any]) -> dict[str, Any]:
    name = str(fault["loc"][0])
    return missing("query", name) if fault["type"] == "missing" else fault | {"loc": ["query", name]}


@dataclass(frozen=True)
class Claims:
    """What a token says. `key`: the mark of the key it was minted with, empty where none are configured."""

    key: str
    expires_at_s: int
    max_session_s: int


def is_token(text: str) -> bool:
    """Whether this claims to be a token of ours, be it valid or not."""
    return text.startswith(_PREFIX)


def mint(claims: Claims, secret: bytes, now_s: float) -> str:
    """The token. `secret` has at least MIN_SECRET_BYTES."""
    payload = {
        "iss": _ISSUER,
        "aud": _AUDIENCE,
        "iat": int(now_s),
        "exp": claims.expires_at_s,
        "key": claims.key,
        "max_session": claims.max_session_s,
    }
    return jwt.encode(payload, secret, _ALGORITHM, _HEADERS)


def read(text: str, secret: bytes, now_s: float) -> Claims:
    """What the token says. Raises ClientError 1008: forged, or expired."""
    try:
        payload = jwt.decode(
            text,
            secret,
            algorithms=[_ALGORITHM],
            audience=_AUDIENCE,
            issuer=_ISSUER,
            options={
                "require": ["iss", "aud", "exp", "key", "max_session"],
                "verify_exp": False,
                "verify_iat": False,
                "verify_nbf": False,
            },
        )
        claims = Claims(str(payload["key"]), int(payload["exp"]), int(payload["max_session"]))
    # ValueError: text that is no UTF-8, or another program signs something else with the same secret
    except (jwt.InvalidTokenError, ValueError, TypeError):
        raise unauthorized("Invalid API key") from None
    if now_s >= claims.expires_at_s:
        raise unauthorized("Signature has expired")
    return claims
