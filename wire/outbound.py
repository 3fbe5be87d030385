"""The only code that opens a connection to somewhere outside the stack: one POST of JSON, bounded in every way.

Licensing and usage are the only services that call it, to the issuer and to the tracker. What they may send is listed
here, field by field (`ALLOWED`), and anything else is refused before a connection is made: that no audio, no transcript
and nothing about a person leaves the operator's machines is then a property of this page.
"""

import asyncio
import json
import logging
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

import httpx

from wire.errors import SettingsError, Unreachable

#: Path -> the fields of its body; a field that holds a list names the fields of its items.
ALLOWED: dict[str, dict[str, tuple[str, ...] | None]] = {
    "/v1/checkin": {"license": None, "nonce": None},
    "/v1/register": {"license": None},
    "/v1/usage": {
        "license": None,
        "batch": None,
        "records": (
            "session",
            "lap",
            "audio_ms",
            "session_ms",
            "pool",
            "model",
            "started_ms",
            "ended_ms",
        ),
    },
}

# Their lines would tell each request, and at DEBUG its headers: the key is in one of them.
for _library in ("httpx", "httpcore"):
    logging.getLogger(_library).setLevel(logging.WARNING)

#: Longest answer that is read.
MAX_ANSWER_BYTES = 64 * 1024


@dataclass(frozen=True)
class Answer:
    """What the server said: `status` is HTTP's, `body` is whole and at most MAX_ANSWER_BYTES long."""

    status: int
    body: bytes


def check_url(url: str, allow_http: bool = False) -> str:
    """`url`, without a slash at its end. Raises SettingsError unless it is https, or http to this machine.

    `allow_http` lets plain http go further, for a network that is encrypted by other means.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    if parts.scheme not in ("http", "https") or not host or parts.username or parts.query or parts.fragment:
        raise SettingsError(f"{url!r} is not the address of a server: write https://HOST[:PORT]")
    if parts.scheme == "http" and not allow_http and not _is_this_machine(host):
        raise SettingsError(f"{url!r} is not encrypted: write https://, or set ALLOW_HTTP=true")
    return url.rstrip("/")


def _is_this_machine(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def check_body(path: str, body: Mapping[str, Any]) -> None:
    """Raises ValueError (a bug of ours) for a field that must not leave."""
    fields = ALLOWED[path]
    if set(body) != set(fields):
        raise ValueError(f"{path} must carry {sorted(fields)}, not {sorted(body)}")
    for name, inner in fields.items():
        if inner is None:
            values: list[Any] = [body[name]]
        else:
            if any(set(item) != set(inner) for item in body[name]):
                raise ValueError(f"an item of {name!r} of {path} must carry {sorted(inner)}")
            values = [value for item in body[name] for value in item.values()]
        if not all(value is None or isinstance(value, (str, int)) for value in values):
            raise ValueError(f"{name!r} of {path} must hold nothing but texts and whole numbers")


async def post(
    url: str, path: str, body: Mapping[str, Any], api_key: str = "", timeout_s: float = 10.0
) -> Answer:
    """POST `body` as JSON to `url` + `path` and read the answer, all within `timeout_s`. Raises Unreachable.

    Redirects are not followed: trust in one address is no trust in another. Proxies (HTTPS_PROXY) and certificates
    (SSL_CERT_FILE) are taken from the environment, as operators expect.
    """
    check_body(path, body)
    headers = {"Content-Type": "application/json", "Accept-Encoding": "identity", "User-Agent": "steno"}
    if api_key:
        headers["Authorization"] = f"Bearer {api_key}"
    content = json.dumps(body, separators=(",", ":"))
    try:
        async with (
            asyncio.timeout(timeout_s),
            httpx.AsyncClient(verify=_trusted(), timeout=timeout_s) as client,
            client.stream("POST", url + path, content=content, headers=headers) as response,
        ):
            return Answer(response.status_code, await _read(response))
    except (httpx.HTTPError, OSError, ValueError) as error:  # a TimeoutError is an OSError
        # The library's texts name addresses and reasons; the key is in a header and never in them.
        raise Unreachable(f"no answer from {url}{path}: {_reason(error)}") from None


@cache
def _trusted() -> ssl.SSLContext:
    """Whose certificates are believed. Made once: reading them takes tens of milliseconds."""
    return httpx.create_ssl_context()


async def _read(response: httpx.Response) -> bytes:
    body = bytearray()
    async for piece in response.aiter_raw():
        body += piece
        if len(body) > MAX_ANSWER_BYTES:
            raise ValueError(f"an answer of more than {MAX_ANSWER_BYTES} bytes")
    return bytes(body)


def _reason(error: Exception) -> str:
    if isinstance(error, (TimeoutError, httpx.TimeoutException)):
        return "timed out"
    if isinstance(error, (httpx.NetworkError, httpx.RemoteProtocolError)):
        return f"cannot connect, or the connection broke ({error})"[:300]
    return str(error)[:300] or type(error).__name__
