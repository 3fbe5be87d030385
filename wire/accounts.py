"""Licence and usage in Redis: the licence's status and trust, usage records until they are counted.

Who calls what:

    licensing   trust -> save_trust, publish_status, every second
    ingress     status every second;  append_usage
    usage       join_usage -> (take_usage | take_over_usage)* -> keep_usage*, settle_usage;  open_usage -> close_out;
                give_back_usage -> leave_usage at the end

Like those of `wire/streams.py`, whose connections are used, the methods raise BusUnavailable and retry nothing.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from wire.entries import (
    LicenseStatus,
    TrustRecord,
    UsageRecord,
    pack_license,
    pack_trust,
    pack_usage,
    unpack_license,
    unpack_trust,
    unpack_usage,
)
from wire.errors import EntryError
from wire.keys import USAGE_GROUP
from wire.refused import refused
from wire.streams import Bus

#: A licence's status lives this long after licensing has last told it; without one nobody is admitted. Long enough
#: for a restart, or a network that stumbles: a service that is away for a moment says nothing about the licence.
STATUS_TTL_S = 60
#: Trust is kept for longer than any trust window may last (`licensing/license.py`).
TRUST_TTL_S = 100 * 24 * 3600
#: Usage records wait this long for a consumer, and at most so many (approximately, the oldest go first): laps are
#: cumulative, so that of a session whose older laps are gone nothing is lost.
USAGE_TTL_S = 90 * 24 * 3600
USAGE_ENTRIES = 1_000_000
#: The last laps of sessions that run are kept this long after the last change.
OPEN_TTL_S = 7 * 24 * 3600

_ENTRY = b"e"
_LONG_AGO_MS = 86_400_000


@dataclass(frozen=True)
class Waiting:
    """Usage records in Redis that nobody has counted, and the age of the oldest in seconds."""

    count: int
    oldest_s: float


#: A usage record and the id of its stream entry.
Entry = tuple[bytes, UsageRecord]


class Accounts:
    """See the module. Uses the connections of `bus`, which its owner closes."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._keys = bus.keys

    # ------------------------------------------------------------------------------------------------------- licence

    async def publish_status(self, status: LicenseStatus) -> None:
        key, packed = self._keys.license_status(), pack_license(status)
        await self._bus.execute(lambda pipe: pipe.set(key, packed, ex=STATUS_TTL_S))

    async def status(self) -> LicenseStatus | None:
        """What licensing told last; None if it has been silent for STATUS_TTL_S. Raises EntryError."""
        [packed] = await self._bus.execute(lambda pipe: pipe.get(self._keys.license_status()))
        return unpack_license(packed) if packed else None

    async def save_trust(self, record: TrustRecord) -> None:
        key, packed = self._keys.license_trust(), pack_trust(record)
        await self._bus.execute(lambda pipe: pipe.set(key, packed, ex=TRUST_TTL_S))

    async def trust(self) -> TrustRecord | None:
        """What licensing saved last, unchecked. Raises EntryError."""
        [packed] = await self._bus.execute(lambda pipe: pipe.get(self._keys.license_trust()))
        return unpack_trust(packed) if packed else None

    # --------------------------------------------------------------------------------------------------------- usage

    async def append_usage(self, records: Iterable[UsageRecord]) -> None:
        """Write laps of any number of sessions in one round trip."""
        key = self._keys.usage()

        def fill(pipe: Any) -> None:
            for record in records:
                pipe.xadd(key, {_ENTRY: pack_usage(record)}, maxlen=USAGE_ENTRIES)
            pipe.expire(key, USAGE_TTL_S)

        await self._bus.execute(fill)

    async def join_usage(self) -> None:
        """Make sure that the consumer group exists."""
        key = self._keys.usage()

        def fill(pipe: Any) -> None:
            pipe.xgroup_create(key, USAGE_GROUP, id="0", mkstream=True)
            pipe.expire(key, USAGE_TTL_S)

        await self._bus.execute(fill, forgive=("BUSYGROUP",))

    async def take_usage(self, consumer: str, count: int) -> list[Entry]:
        """At most `count` records that nobody holds.

        A record that cannot be read, written by another version, stays in Redis for a consumer that can.
        """
        key = self._keys.usage()
        [reply] = await self._bus.execute(
            lambda pipe: pipe.xreadgroup(USAGE_GROUP, consumer, {key: ">"}, count=count), forgive=("NOGROUP",)
        )
        if reply is None:  # Redis came back empty
            await self.join_usage()
        return _readable(entry for _, entries in reply or () for entry in entries)

    async def take_over_usage(self, consumer: str, count: int, idle_ms: int) -> list[Entry]:
        """At most `count` records whose holder has not kept them for `idle_ms`, or has given them back."""
        key = self._keys.usage()
        [reply] = await self._bus.execute(
            lambda pipe: pipe.xautoclaim(key, USAGE_GROUP, consumer, min_idle_time=idle_ms, count=count),
            forgive=("NOGROUP",),
        )
        return _readable(reply[1] if reply else ())

    async def keep_usage(self, consumer: str, entries: Sequence[bytes]) -> None:
        """These records are still being worked on."""
        await self._claim(consumer, entries, 0)

    async def give_back_usage(self, consumer: str, entries: Sequence[bytes]) -> None:
        """Let another consumer take these records over at once."""
        await self._claim(consumer, entries, _LONG_AGO_MS)

    async def _claim(self, consumer: str, entries: Sequence[bytes], idle_ms: int) -> None:
        if entries:
            key = self._keys.usage()
            await self._bus.execute(
                lambda pipe: pipe.xclaim(
                    key, USAGE_GROUP, consumer, 0, list(entries), idle=idle_ms, justid=True
                ),
                forgive=("NOGROUP",),
            )

    async def settle_usage(self, counted: Sequence[Entry], superseded: Sequence[bytes] = ()) -> None:
        """The tracker has counted these records, and others say nothing that a newer one does not say."""
        usage, opened = self._keys.usage(), self._keys.usage_open()
        entries = [entry for entry, _ in counted] + list(superseded)
        if not entries:
            return

        def fill(pipe: Any) -> None:
            for entry, record in counted:
                if record.over:
                    pipe.hdel(opened, record.session)
                else:
                    pipe.hset(opened, record.session, entry.split(b"-")[0] + b" " + pack_usage(record))
            pipe.expire(opened, OPEN_TTL_S)
            pipe.xack(usage, USAGE_GROUP, *entries)
            pipe.xdel(
                usage, *entries
            )  # last: whoever dies before it leaves records that are only counted again

        await self._bus.execute(fill)

    async def waiting_usage(self) -> Waiting:
        """How much the tracker has not counted yet."""
        key = self._keys.usage()

        def fill(pipe: Any) -> None:
            pipe.xlen(key)
            pipe.xrange(key, count=1)
            self._bus.clock(pipe, key)

        length, first, (seconds, _) = await self._bus.execute(fill)
        oldest_s = seconds - int(first[0][0].split(b"-")[0]) / 1000 if first else 0.0
        return Waiting(length, max(0.0, oldest_s))

    async def usage_records(self, count: int = 100_000) -> list[UsageRecord]:
        """The newest lap of every session known to Redis, waiting or running: for operators."""
        usage, opened = self._keys.usage(), self._keys.usage_open()

        def fill(pipe: Any) -> None:
            pipe.hvals(opened)
            pipe.xrange(usage, count=count)

        running, entries = await self._bus.execute(fill)
        newest: dict[str, UsageRecord] = {}
        found = [record for value in running for _, record in _parted(value)]
        for record in (*found, *(record for _, record in _readable(entries))):
            known = newest.get(record.session)
            if known is None or (record.lap, record.over) > (known.lap, known.over):
                newest[record.session] = record
        return list(newest.values())

    async def silent_usage(self, silence_s: float) -> list[UsageRecord]:
        """The last laps of sessions that have told no other for `silence_s`, and had not ended."""
        opened = self._keys.usage_open()

        def fill(pipe: Any) -> None:
            self._bus.clock(pipe, opened)
            pipe.hvals(opened)

        (seconds, micros), values = await self._bus.execute(fill)
        until_ms = seconds * 1000 + micros // 1000 - silence_s * 1000
        return [record for value in values for heard_ms, record in _parted(value) if heard_ms < until_ms]

    async def close_out(self, records: Sequence[UsageRecord]) -> None:
        """End sessions whose ingress fell silent: at their last lap, which is written once more, as over.

        If the ingress speaks again after all, its next lap, being newer, says that the session runs.
        """
        usage, opened = self._keys.usage(), self._keys.usage_open()

        def fill(pipe: Any) -> None:
            for record in records:
                ended = replace(record, ended_ms=record.started_ms + record.session_ms)
                pipe.xadd(usage, {_ENTRY: pack_usage(ended)}, maxlen=USAGE_ENTRIES)
                pipe.hdel(opened, record.session)
            pipe.expire(usage, USAGE_TTL_S)

        await self._bus.execute(fill)

    async def leave_usage(self, consumer: str) -> None:
        """This consumer stops: drop its place in the group, unless it still holds records."""
        key = self._keys.usage()
        [pending] = await self._bus.execute(
            lambda pipe: pipe.xpending_range(
                key, USAGE_GROUP, min="-", max="+", count=1, consumername=consumer
            ),
            forgive=("NOGROUP",),
        )
        if not pending:  # deleting a consumer would delete its pending entries
            await self._bus.execute(
                lambda pipe: pipe.xgroup_delconsumer(key, USAGE_GROUP, consumer),
                forgive=("NOGROUP", "requires the key to exist"),
            )


def _readable(entries: Iterable[tuple[Any, Any]]) -> list[Entry]:
    found: list[Entry] = []
    for entry, fields in entries:
        if entry is None or fields is None:  # trimmed while somebody held it
            continue
        try:
            found.append((entry, unpack_usage(fields[_ENTRY])))
        except (EntryError, KeyError, TypeError) as error:
            refused("usage", error)
    return found


def _parted(value: bytes) -> list[tuple[int, UsageRecord]]:
    """A field of the hash of open sessions: when it was heard of, and its last lap; nothing if unreadable."""
    heard_ms, _, packed = value.partition(b" ")
    try:
        return [(int(heard_ms), unpack_usage(packed))]
    except (EntryError, ValueError):
        return []
