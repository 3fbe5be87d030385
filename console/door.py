"""Who may look: decided from a request's headers alone.

Without a token the console listens on this machine only, and everybody on it may look. Then what matters is that a
stranger's page, open in the same browser, may not: a name that it lets point here (DNS rebinding) shows in `Host`.
With a token, it is given once and becomes a cookie, which is no token: it ends by itself, and with the token.
"""

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

#: A token that chance could find is none.
MIN_TOKEN_CHARS = 16
#: A cookie is good for so long, in seconds.
COOKIE_S = 12 * 3600
COOKIE = "steno_console"

_OWN_NAMES = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class Door:
    """`token` None: whoever speaks to this machine by its own name may look. Times are Unix seconds."""

    token: str | None = field(default=None, repr=False)

    def opens(self, presented: str) -> bool:
        """Whether this is the token; how long it takes tells nothing."""
        return self.token is not None and hmac.compare_digest(_digest(presented), _digest(self.token))

    def cookie(self, now_s: float) -> str:
        """What to give to somebody who knew the token."""
        until = str(int(now_s) + COOKIE_S)
        return f"{until}.{self._mac(until)}"

    def lets_in(self, headers: Mapping[str, str], cookie: str, now_s: float) -> bool:
        """Whether a request may see anything. `headers` have small letters."""
        if self.token is None:
            return _host(headers.get("host", "")) in _OWN_NAMES
        scheme, _, presented = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and self.opens(presented.strip()):
            return True
        until, _, mac = cookie.partition(".")
        if not (until.isascii() and until.isdigit() and len(until) < 12):
            return False
        return hmac.compare_digest(mac.encode(), self._mac(until).encode()) and now_s < int(until)

    def _mac(self, text: str) -> str:
        return hmac.digest((self.token or "").encode(), f"cookie {text}".encode(), "sha256").hex()


def same_origin(headers: Mapping[str, str]) -> bool:
    """Whether a request that does something comes from a page of ours. Browsers always say where from."""
    origin = headers.get("origin", "")
    return bool(origin) and urlsplit(origin).netloc.lower() == headers.get("host", "").lower()


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode(errors="replace")).digest()


def _host(netloc: str) -> str:
    """The name in a Host header, without its port."""
    try:
        return urlsplit(f"//{netloc}").hostname or ""
    except ValueError:
        return ""
