"""Usage records become batches: which ones, when, and when to give up.

A record is a *lap*: what its session has used from its beginning, so that of several laps of one session the newest
says all. Its order within the session is (lap, over): the record that closes a session out repeats the last lap and
adds that it is over. From this follows what happens to a record that is added:

    newer than what is held of its session     held; the older one, unless it is on its way, is superseded
    not newer than what is held or delivered   superseded
    else                                       held

Superseded entries need not be delivered, and may leave Redis: whoever holds the newer one holds it in Redis, too.

One batch is on its way at a time. It stays the same, key and records, through every failure, until it is delivered;
its key is made of its records, so that the same batch made by another process has the same key. Exactness does not
rest on the key alone: the tracker counts per session and lap, whatever batch brings them.

`now` is seconds of a clock that never goes back (monotonic), so that no clock that is set makes us give up early.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass

from wire.entries import UsageRecord

#: After a batch that failed: the first pause, doubled each time up to the last one, in seconds.
FIRST_RETRY_S = 1.0
LAST_RETRY_S = 30.0

#: How many sessions' last delivered laps are remembered, to drop what Redis delivers again.
REMEMBERED = 20_000

Order = tuple[int, bool]


def order(record: UsageRecord) -> Order:
    """Which of two records of one session is the newer."""
    return record.lap, record.over


@dataclass(frozen=True)
class Rules:
    """When to do what; the meaning of each stands in `usage/settings.py`. Seconds, and numbers of records."""

    flush_s: float = 5.0
    batch_records: int = 500
    held_records: int = 10_000
    give_up_s: float = 1800.0


@dataclass(frozen=True)
class Held:
    """A record, and the entry of the stream that holds it."""

    entry: bytes
    record: UsageRecord


@dataclass(frozen=True)
class Batch:
    """What is delivered together. `key` is its idempotency key."""

    key: str
    held: tuple[Held, ...]


class Batcher:
    """See the module. `add` as records come; `take` when `due`; then `delivered` or `failed`, once each."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        #: The batch that is on its way; it is offered again after a failure.
        self.batch: Batch | None = None
        self._waiting: OrderedDict[str, Held] = OrderedDict()
        self._delivered: OrderedDict[str, Order] = OrderedDict()
        self._oldest_s = 0.0
        self._next_s = 0.0
        self._tries = 0
        self._failing_since_s: float | None = None

    def __len__(self) -> int:
        """How many records are held."""
        return len(self._waiting) + (len(self.batch.held) if self.batch else 0)

    @property
    def room(self) -> int:
        """How many more may be added."""
        return max(0, self.rules.held_records - len(self))

    def entries(self) -> Iterator[bytes]:
        """The entries of all records held: they are still being worked on."""
        if self.batch:
            yield from (held.entry for held in self.batch.held)
        yield from (held.entry for held in self._waiting.values())

    def add(self, entry: bytes, record: UsageRecord, now: float) -> list[bytes]:
        """A record out of Redis. Returns the entries that need not be delivered any more (perhaps this one)."""
        session = record.session
        known = self._waiting.get(session)
        if known is not None and known.entry == entry:
            return []
        if self._is_on_its_way(entry):
            return []
        newest = [order(held.record) for held in self._held(session)]
        if session in self._delivered:
            newest.append(self._delivered[session])
        if newest and order(record) <= max(newest):
            return [entry]
        if not self._waiting:
            self._oldest_s = now
        self._waiting[session] = Held(entry, record)
        return [known.entry] if known is not None else []

    def due(self, now: float) -> bool:
        """Whether to `take` a batch now."""
        if self.batch is not None:
            return now >= self._next_s
        if len(self._waiting) >= self.rules.batch_records:
            return True
        return bool(self._waiting) and now - self._oldest_s >= self.rules.flush_s

    def take(self, now: float) -> Batch | None:
        """The batch to deliver: the one that failed, else the records held longest; None if there is none."""
        if self.batch is None and self._waiting:
            count = min(len(self._waiting), self.rules.batch_records)
            held = tuple(self._waiting.popitem(last=False)[1] for _ in range(count))
            self.batch = Batch(_key(held), held)
            self._oldest_s = now
        return self.batch

    def delivered(self) -> Batch:
        """The tracker has counted the batch on its way. Returns it, for its records to be settled."""
        batch = self._on_its_way()
        for held in batch.held:
            session = held.record.session
            self._delivered.pop(session, None)
            self._delivered[session] = order(held.record)
        while len(self._delivered) > REMEMBERED:
            self._delivered.popitem(last=False)
        self.batch, self._tries, self._failing_since_s = None, 0, None
        return batch

    def failed(self, now: float, jitter: float) -> None:
        """The batch on its way did not arrive, or nobody knows; `jitter`, in [0, 1), spreads the tries of many."""
        self._on_its_way()
        if self._failing_since_s is None:
            self._failing_since_s = now
        pause_s = min(FIRST_RETRY_S * 2 ** min(self._tries, 30), LAST_RETRY_S)
        self._tries += 1
        self._next_s = now + pause_s * (0.5 + 0.5 * jitter)

    def gave_up(self, now: float) -> bool:
        """Whether the tracker has been out of reach for as long as the operator allows."""
        return self._failing_since_s is not None and now - self._failing_since_s >= self.rules.give_up_s

    def _held(self, session: str) -> Iterator[Held]:
        if session in self._waiting:
            yield self._waiting[session]
        if self.batch:
            yield from (held for held in self.batch.held if held.record.session == session)

    def _is_on_its_way(self, entry: bytes) -> bool:
        return self.batch is not None and any(held.entry == entry for held in self.batch.held)

    def _on_its_way(self) -> Batch:
        if self.batch is None:
            raise RuntimeError("no batch is on its way")  # a bug of the caller
        return self.batch


def _key(held: tuple[Held, ...]) -> str:
    names = sorted(f"{each.record.session} {each.record.lap} {each.record.over}" for each in held)
    return hashlib.sha256("\n".join(names).encode()).hexdigest()[:32]
