"""Who may connect: API keys, and what a client presents held against them (protocol 1.2 to 1.4).

Without keys the door is open: whatever is not empty is accepted, and only a token of ours is looked at more closely.
With keys, only those and the tokens minted with them get in.

Keys are kept as SHA-256 digests, and every presented text is compared with all of them: how long that takes tells
nothing about which one it nearly was. A key that nobody could guess is the operator's part.

    API_KEYS        KEY,KEY,...
    API_KEYS_FILE   one a line: KEY [name=NAME] [sessions=N] [record=yes|no]   # a comment
"""

import hashlib
import hmac
import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from ingress.tokens import Claims, TokenRequest, is_token, mint, read
from wire.errors import StackError, unauthorized

#: Most keys, since each client is compared with all; longest key, longest name.
MAX_KEYS = 10_000
MAX_KEY = 512
MAX_NAME = 64


class KeysError(StackError):
    """Keys that cannot be read. The message names the place and never shows what stands there."""


@dataclass(frozen=True)
class Key:
    """One API key. `place` is where it was read; `name`: for logs; `sessions`: most at once, over all nodes;
    `record`: whether its sessions are recorded (`ingress/consent.py`), None where it says nothing.
    """

    place: str
    name: str
    digest: bytes = field(repr=False)
    sessions: int | None = None
    record: bool | None = None

    @property
    def holder(self) -> str:
        """How Redis knows the key: nodes agree on it without sharing a secret."""
        return self.digest.hex()[:32]


@dataclass(frozen=True)
class Grant:
    """What a client may do. `holder` and `sessions` are None where the number of sessions is not limited.

    `key` tells whose sessions are whose: the same for all that was presented of one API key; empty with the door open.
    `record` is what the key's line says.
    """

    name: str = ""
    holder: str | None = None
    sessions: int | None = None
    max_session_s: float | None = None
    key: str = field(default="", repr=False)
    record: bool | None = None


def parse_list(text: str) -> list[Key]:
    """The keys of `API_KEYS`. Raises KeysError."""
    parts = [part.strip() for part in text.split(",")]
    return [_key([part], f"key {number}") for number, part in enumerate(parts, start=1) if part]


def parse_file(text: str) -> list[Key]:
    """The keys of `API_KEYS_FILE`. Raises KeysError."""
    keys = []
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.split()
        comment = next((place for place, word in enumerate(words) if word.startswith("#")), len(words))
        if comment:
            keys.append(_key(words[:comment], f"line {number}"))
    return keys


def collect(*sources: Iterable[Key]) -> tuple[Key, ...]:
    """All keys together. Raises KeysError if there are none, too many, or one twice."""
    keys = tuple(key for source in sources for key in source)
    if not keys:
        raise KeysError("there is no key in it; nobody could connect")
    if len(keys) > MAX_KEYS:
        raise KeysError(f"there are {len(keys)} keys; at most {MAX_KEYS} are possible")
    seen: dict[bytes, Key] = {}
    for key in keys:
        if (first := seen.setdefault(key.digest, key)) is not key:
            raise KeysError(f"{key.place} is the same key as {first.place}")
    return keys


def _key(words: list[str], place: str) -> Key:
    text, *options = words
    if not re.fullmatch("[!-~]+", text) or len(text) > MAX_KEY:
        raise KeysError(f"{place}: a key is at most {MAX_KEY} printable ASCII characters without spaces")
    name, sessions, record = place, None, None
    for option in options:
        what, _, value = option.partition("=")
        if what == "name" and 0 < len(value) <= MAX_NAME and value.isprintable():
            name = value
        elif what == "sessions" and re.fullmatch("[1-9][0-9]{0,8}", value):
            sessions = int(value)
        elif what == "record" and value in ("yes", "no"):
            record = value == "yes"
        else:  # not shown: it may be half of a key
            allowed = "name=NAME, sessions=N and record=yes|no"
            raise KeysError(f"{place}: after the key there may be {allowed}, and nothing else")
    return Key(place, name, _digest(text), sessions, record)


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("ascii")).digest()


class Credentials:
    """Decides on what clients present. `keys` None: the door is open.

    `sessions` is for keys that do not say how many they may have at once. `secret` signs tokens; nodes that are to
    accept each other's share it.
    """

    def __init__(self, keys: tuple[Key, ...] | None, secret: bytes, sessions: int | None = None) -> None:
        self._keys = keys
        self._secret = secret
        self._sessions = sessions
        self._marked = {self._mark(key): key for key in keys or ()}

    def grant(self, presented: str, now_s: float) -> Grant:
        """What whoever presents this key or token may do. Raises ClientError 1008."""
        if is_token(presented):
            return self._grant_of_token(read(presented, self._secret, now_s))
        if self._keys is None:
            return Grant()
        return self._grant_of_key(self._find(presented))

    def mint(self, presented: str, wanted: TokenRequest, now_s: float) -> str:
        """A token for whoever presents this key. A token mints none. Raises ClientError 1008."""
        key = self.owner(presented)
        mark = "" if key is None else self._mark(key)
        expires_at_s = int(now_s) + wanted.expires_in_seconds
        claims = Claims(mark, expires_at_s, wanted.max_session_duration_seconds)
        return mint(claims, self._secret, now_s)

    def owner(self, presented: str) -> Key | None:
        """The key that this is, or None where the door is open. A token is no key. Raises ClientError 1008."""
        if is_token(presented):
            raise unauthorized("Invalid API key")
        return None if self._keys is None else self._find(presented)

    def _find(self, presented: str) -> Key:
        found = None
        if presented.isascii():  # as all keys are
            digest = _digest(presented)
            for key in self._keys or ():
                if hmac.compare_digest(key.digest, digest):
                    found = key  # and on, to the last one
        if found is None:
            raise unauthorized("Invalid API key")
        return found

    def _grant_of_key(self, key: Key, max_session_s: float | None = None) -> Grant:
        sessions = key.sessions or self._sessions
        holder = key.holder if sessions else None
        return Grant(key.name, holder, sessions, max_session_s, key.holder, key.record)

    def _grant_of_token(self, claims: Claims) -> Grant:
        if self._keys is None:
            return Grant("", None, None, claims.max_session_s)
        key = self._marked.get(claims.key)
        if key is None:  # the key was taken away meanwhile, or the door was open when this was minted
            raise unauthorized("Invalid API key")
        return self._grant_of_key(key, claims.max_session_s)

    def _mark(self, key: Key) -> str:
        """How a token names its key: whoever holds the token, a browser say, cannot test guesses against it."""
        return hmac.digest(self._secret, key.digest, "sha256").hex()[:32]
