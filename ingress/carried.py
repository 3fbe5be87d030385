"""What a resumable session takes along to another node, as JSON: who it is, which hardly changes, and its place.

The token's hash is carried, never the token; of the API key, what `Grant.key` holds. Sessions of which nothing else may
reach Redis, or whose decoders hold more than can be made anew, do not move (`movable`).
"""

import hashlib
import hmac
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, TypeVar

from wire.entries import Offer
from wire.errors import ClientError, EntryError
from wire.params import SessionParams

#: Of both texts: a node reads what nodes of its own version have written, and newer ones if they only tell more.
VERSION = 1
#: Encodings whose decoders begin anew anywhere: the others hold the beginning of a stream, or half a frame.
_ANYWHERE = frozenset({"pcm_s16le", "pcm_mulaw", "opus"})


def movable(params: SessionParams) -> bool:
    """Whether a session with these may go on on another node. What a webhook is told, and its secrets, stay on one; and
    replays, which have places of their own.
    """
    stays = params.webhook_url or params.replay
    return params.resumable and params.encoding in _ANYWHERE and not stays


def digest(token: str) -> str:
    """What is kept of a resume token."""
    return hashlib.sha256(token.encode()).hexdigest()


@dataclass(frozen=True)
class Who:
    """`params` as JSON has them; `opened_ms` and `expires_at` are Unix time, in ms and seconds."""

    params: Mapping[str, Any]
    api_version: str | None
    opened_ms: int
    expires_at: int
    max_session_s: float
    token: str = field(repr=False)
    key: str = field(repr=False)
    name: str
    holder: str | None
    sessions: int | None

    def admits(self, token: str, key: str) -> bool:
        """Whether who presents this token, with this key, may go on with it. How long that takes tells nothing."""
        same_token = hmac.compare_digest(self.token.encode(), digest(token).encode())
        return hmac.compare_digest(self.key.encode(), key.encode()) and same_token

    def session_params(self) -> SessionParams:
        """Raises EntryError."""
        try:
            return SessionParams.model_validate(self.params)
        except (ValueError, ClientError) as error:
            raise EntryError(f"parameters of a session that moved: {error}") from None

    def offer(self, session: str, node: str) -> Offer:
        params = self.session_params()
        return Offer(session, node, params.pool, params.for_worker())


@dataclass(frozen=True)
class Place:
    """How far a session has come on its node, all at the same moment.

    Messages and bytes are those taken from the client, `received` the samples in them at the decoder's rate; `position`
    (16 kHz) is where its audio ends in the log, `entry` the number of the log's newest. A decoder that begins anew has
    to be given the messages after `from_messages` again: it stood at `from_bytes`, had received `from_received` samples
    and would have handed out `from_position` (`restarts.py`). `sequence` is the number of the newest message told;
    (`generation`, `event`) the worker's event after which that was. `lap`: of its usage.
    """

    state: str
    outcome: str
    messages: int
    audio_bytes: int
    received: int
    position: int
    from_messages: int
    from_bytes: int
    from_received: int
    from_position: int
    sequence: int
    generation: int
    event: int
    last_final: int
    heard_ms: int
    close_code: int = 0
    close_reason: str = ""
    lap: int = 0
    begun_ms: int = 0
    entry: int = 0

    @property
    def given_up(self) -> bool:
        """The session has ended because its client was gone: there is nothing to tell it."""
        return self.outcome == "gone"


def pack(carried: Who | Place) -> str:
    return json.dumps({"v": VERSION, **asdict(carried)}, ensure_ascii=False, separators=(",", ":"))


def unpack_who(text: str) -> Who:
    """Raises EntryError."""
    return _unpack(Who, text)


def unpack_place(text: str) -> Place:
    """Raises EntryError."""
    return _unpack(Place, text)


T = TypeVar("T", Who, Place)


def _unpack(kind: type[T], text: str) -> T:
    try:
        told = json.loads(text)
        if not isinstance(told, dict) or told.get("v") != VERSION:
            raise EntryError(
                f"a session carried by version {told.get('v') if isinstance(told, dict) else '?'}"
            )
        known = {each.name: told[each.name] for each in fields(kind) if each.name in told}
        if kind is Place and not all(isinstance(value, (int, str)) for value in known.values()):
            raise EntryError("a place that is none")
        return kind(**known)
    except (ValueError, TypeError) as error:
        raise EntryError(f"a session that cannot be read: {error}") from None
