"""What must hold of a stack whatever was done to it, looked up in its Redis from outside."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from wire.entries import unpack_offer, unpack_usage
from wire.keys import WORKERS_GROUP, Keys

#: Most leases that are looked at.
_MOST = 1_000
#: What Redis says of a key without an expiry.
_NEVER = -1


def holders(client: Any, keys: Keys, pool: str) -> dict[str, list[str]]:
    """Session -> the workers that hold it, by the leases as Redis knows them: one each. Raises redis.RedisError."""
    offers = keys.offers(pool)
    pipeline = client.pipeline(transaction=True)
    pipeline.xpending_range(offers, WORKERS_GROUP, "-", "+", _MOST)
    pipeline.xrange(offers, count=_MOST)
    pending, entries = pipeline.execute()
    sessions = {entry: unpack_offer(fields[b"e"]).session for entry, fields in entries}
    found: dict[str, list[str]] = {}
    for lease in pending:
        if (session := sessions.get(lease["message_id"])) is not None:
            found.setdefault(session, []).append(lease["consumer"].decode())
    return found


def doubly_held(held: Mapping[str, list[str]]) -> list[str]:
    """Sessions with more than one lease."""
    return [session for session, workers in held.items() if len(workers) > 1]


def leases(client: Any, keys: Keys, pool: str) -> int:
    """How many offers there are, held or not. Raises redis.RedisError."""
    return int(client.xlen(keys.offers(pool)))


def used_ms(client: Any, keys: Keys) -> dict[str, int]:
    """Session that is over -> the audio that its newest lap tells, in ms. Raises redis.RedisError."""
    laps = [unpack_usage(fields[b"e"]) for _, fields in client.xrange(keys.usage())]
    newest = {record.session: record for record in sorted(laps, key=lambda record: record.lap)}
    return {session: record.audio_ms for session, record in newest.items() if record.over}


def left(client: Any, keys: Keys) -> Counter[str]:
    """Keys that should be gone once all sessions are long over: `session`s', and those that `never` expire."""
    found = Counter(session=0, never=0)
    for build in (keys.state, keys.audio, keys.events, keys.resume, keys.told):
        found["session"] += len(list(client.scan_iter(match=build("*"), count=1_000)))
    for key in client.scan_iter(match=keys.everything(), count=1_000):
        found["never"] += client.ttl(key) == _NEVER
    return found
