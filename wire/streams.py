"""The only code that talks to Redis: offers and leases, audio logs, events, inboxes, worker loads.

Who calls what, in order:

    ingress   offer -> append*, touch* -> (withdraw | forget);  inbox for the node's life
              take_place -> keep_places* -> free_place, around them for keys with a limit of sessions
    worker    join -> take* -> read*, publish*, renew* -> (settle | give_back);  report every few seconds

One connection pool for commands, one connection of its own for each blocking read: a cancelled blocking read may
otherwise hand a busy connection back to the pool, and its socket timeout must be longer than the block.
Every method raises BusUnavailable when Redis cannot be reached; nothing is retried here but the inbox.
"""

import asyncio
import hashlib
import time
from collections.abc import (
    AsyncIterator,
    Callable,
    Collection,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

from redis.exceptions import (
    ClusterError,
    ConnectionError,
    NoScriptError,
    ReadOnlyError,
    RedisClusterException,
    RedisError,
    ResponseError,
    TimeoutError,
)

from wire import servers
from wire.clock import SharedClock
from wire.entries import (
    AudioEntry,
    AudioFrame,
    Lease,
    Offer,
    Publication,
    Saved,
    SessionEvent,
    WorkerLoad,
    pack_audio,
    pack_checkpoint,
    pack_event,
    pack_load,
    pack_offer,
    pack_saved,
    unpack_audio,
    unpack_checkpoint,
    unpack_load,
    unpack_offer,
    unpack_report,
)
from wire.errors import BusUnavailable, EntryError
from wire.keys import REPLAY_HOLDER, STATE_INGRESS, STATE_OFFER, WORKERS_GROUP, Keys
from wire.line import Line
from wire.refused import refused

#: A session's keys live this long after they were last touched; ingress touches them every TOUCH_S.
SESSION_TTL_S = 60
TOUCH_S = 10
#: A session's place among those of its API key, or of the licence, lasts this long without a touch: its node has died.
PLACE_TTL_S = 30
#: What is left of a session after its end.
FORGOTTEN_TTL_S = 10
#: Offers, inboxes and worker loads live this long without a writer.
POOL_TTL_S = 24 * 3600
INBOX_TTL_S = 60
#: Most entries kept (approximately): audio of one session, events of one session, one node's inbox, waiting offers.
AUDIO_LOG_ENTRIES = 40_000
EVENT_LOG_ENTRIES = 1_000
INBOX_ENTRIES = 50_000
OFFER_ENTRIES = 10_000
#: Most entries of one session per read; a longer backlog takes several reads.
READ_ENTRIES = 128

#: How often a connection on which nothing is said is tried, in seconds.
PULSE_S = 2.0

#: Connections of one process for commands; whoever finds them all busy waits for one, as a thousand offers at once do.
MAX_CONNECTIONS = 16

#: Errors of the library that mean that what was asked was not done, or perhaps not; the others are answers.
_UNREACHABLE = (ConnectionError, TimeoutError, ReadOnlyError, ClusterError, RedisClusterException)

#: The one field of every stream entry.
_ENTRY = b"e"
_FROM_START = b"0-0"
_LUA = Path(__file__).with_name("leases.lua").read_text()
_SHA = hashlib.sha1(_LUA.encode(), usedforsecurity=False).hexdigest()


@dataclass
class Logged:
    """New entries of one session's audio log that could be read; `cursor` is the last id seen."""

    cursor: bytes
    entries: list[tuple[bytes, AudioEntry]] = field(default_factory=list)


@contextmanager
def _reaching_redis() -> Iterator[None]:
    task = asyncio.current_task()
    cancelled = task.cancelling() if task else 0
    missed: Exception | None = None
    try:
        yield
    except (*_UNREACHABLE, ResponseError, OSError) as error:  # also full, loading
        missed = error
    except (RuntimeError, AttributeError) as error:
        if not servers.is_lost(error):
            raise
        missed = error
    if task and task.cancelling() > cancelled:
        # redis-py sends through `wait_for`, which in Python 3.11 forgets a cancellation that meets the end of the
        # send (python/cpython#86296); a task in an endless loop would then never end.
        raise asyncio.CancelledError
    if missed is not None:
        raise BusUnavailable(f"Redis cannot be reached: {missed}") from missed


@dataclass(frozen=True)
class Restoration:
    """What `Bus.restore` writes: the session's offer and its id so far, the newest generation that is known, the packed
    checkpoint (b"" for none) and all entries since. `number`: how many its node has made before, of all sessions, and
    `moves`: how many times this one had moved by then; one that comes after a later one changes nothing.
    """

    offer: Offer
    offer_id: bytes
    generation: int
    checkpoint: bytes
    entries: Sequence[tuple[int, AudioEntry]]
    number: int
    moves: int = 0

    @property
    def stamp(self) -> int:
        """Above that of every earlier one. No time of day: clocks are set, and differ from node to node."""
        return (self.moves << 41) + self.number  # releases before stamped with Unix ms, which is less


def entry_id(number: int) -> str:
    """The stream id of a session's `number`-th entry."""
    return f"{number}-0"


def number_of(entry_id: bytes) -> int:
    """The number of the entry with this id; 0 for the id before the first."""
    return int(entry_id.partition(b"-")[0])


def following(entry_id: str) -> str:
    """The smallest stream id above `entry_id`."""
    milliseconds, sequence = entry_id.split("-")
    return f"{milliseconds}-{int(sequence) + 1}"


class Bus:
    """One process's access to Redis. Use from one event loop; `close` when done."""

    def __init__(self, url: str, keys: Keys, timeout_s: float = 5.0) -> None:
        self.keys = keys
        self._servers = servers.parse(url)
        self._timeout_s = timeout_s
        self._redis = self._connect(timeout_s)
        # A cluster has many servers, and redis-py knows which.
        self._line = None if self._servers.is_cluster else Line(self._redis.connection_pool, timeout_s)
        self._blocking: list[Any] = []
        self._taking: Any = None
        self._time = SharedClock(time.monotonic(), time.time())

    def _connect(self, timeout_s: float) -> Any:
        return servers.connect(self._servers, timeout_s, self._timeout_s, MAX_CONNECTIONS)

    def _connect_blocking(self, block_ms: int) -> Any:
        client = self._connect(block_ms / 1000 + self._timeout_s)
        self._blocking.append(client)
        return client

    async def _ask_owner(self, client: Any, key: bytes, words: Sequence[Any]) -> Any:
        """A command whose keys the library does not find by itself: in a cluster it would ask a node where they are,
        and go on asking the same one when that is dead.
        """
        if not self._servers.is_cluster:
            return await client.execute_command(*words)
        await client.initialize()
        return await client.execute_command(*words, target_nodes=[client.get_node_from_key(key)])

    @property
    def is_cluster(self) -> bool:
        """A script, or a command, may touch one slot only."""
        return self._servers.is_cluster

    async def ping(self) -> None:
        """Raises BusUnavailable."""
        with _reaching_redis():
            await self._redis.ping()

    async def incarnation(self) -> str:
        """Which server answers: another name after a restart or a failover, when it may have forgotten last writes.

        Raises BusUnavailable.
        """
        with _reaching_redis():
            if not self._servers.is_cluster:
                return str((await self._redis.info("server"))["run_id"])
            await self._redis.initialize()
            masters = sorted(self._redis.get_primaries(), key=lambda node: str(node.name))
            found = [await self._redis.info("server", target_nodes=[node]) for node in masters]
            return " ".join(str(server["run_id"]) for server in found)

    async def close(self) -> None:
        if self._line is not None:
            await self._line.close()
        for client in (*self._blocking, self._redis):
            await servers.close(client)

    async def execute(self, fill: Callable[[Any], object], forgive: Sequence[str] = ()) -> list[Any]:
        """Run the commands that `fill` puts into a pipeline, for `wire/accounts.py`; their results in order.

        An error of Redis whose text holds one of `forgive` comes back as None, any other is BusUnavailable.
        """
        pipeline = self._redis.pipeline(transaction=False)
        if self._servers.is_cluster:
            with _reaching_redis():
                await self._redis.initialize()
        fill(pipeline)
        results = await self._execute(pipeline)
        for place, result in enumerate(results):
            if isinstance(result, RedisError):
                if not any(text in str(result) for text in forgive):
                    raise BusUnavailable(f"Redis refused a command: {result}") from result
                results[place] = None
        return results

    def clock(self, pipeline: Any, key: bytes) -> None:
        """Into a pipeline for `execute`: the time of the server that holds `key`, as (seconds, microseconds)."""
        if self._servers.is_cluster:
            pipeline.execute_command("TIME", target_nodes=[self._redis.get_node_from_key(key)])
        else:
            pipeline.time()

    async def _hear_time(self, key: bytes, fill: Callable[[Any], object]) -> list[Any]:
        """What `fill` asks for, and the time of the server that holds `key`."""

        def fill_all(pipe: Any) -> None:
            fill(pipe)
            self.clock(pipe, key)

        asked_s = time.monotonic()
        *results, (seconds, micros) = await self.execute(fill_all)
        self._time.heard(seconds + micros / 1e6, asked_s, time.monotonic())
        return results

    def unix_s(self) -> float:
        """The time that all processes of the stack share (`wire/clock.py`). `join`, `report` and `loads` hear it."""
        return self._time.unix_s(time.monotonic())

    async def _execute(self, pipeline: Any) -> list[Any]:
        """Run a pipeline; errors of single commands come back as values."""
        with _reaching_redis():
            results: list[Any] = await pipeline.execute(raise_on_error=False)
        return _reached(results)

    async def _run(self, commands: Sequence[Sequence[Any]], line: Line | None) -> list[Any]:
        """The same for commands as they are, over the line if there is one."""
        if line is not None:
            with _reaching_redis():
                results = await line.ask(commands)
            return _reached(results)
        pipeline = self._redis.pipeline(transaction=False)
        for words in commands:
            pipeline.execute_command(*words)
        return await self._execute(pipeline)

    async def run_script(
        self,
        calls: Sequence[tuple[Sequence[bytes], Sequence[Any]]],
        lua: str = _LUA,
        *,
        often: bool = False,
    ) -> list[Any]:
        """A script once per call, in one round trip; loads it where the server has lost it. Results in order.

        A call's keys must be of one slot in a cluster. `often`: by a connection of its own, one caller after another
        (`wire/line.py`). Raises BusUnavailable, also where the script fails.
        """
        if not calls:
            return []
        sha = hashlib.sha1(lua.encode(), usedforsecurity=False).hexdigest() if lua is not _LUA else _SHA
        commands = [("EVALSHA", sha, len(keys), *keys, *arguments) for keys, arguments in calls]
        for _ in range(2):
            results = await self._run(commands, self._line if often else None)
            # What ran before a node without the script refused runs twice: each script is written for that.
            if not any(isinstance(result, NoScriptError) for result in results):
                break
            with _reaching_redis():
                await self._redis.script_load(lua)
        for result in results:
            if isinstance(result, RedisError):
                raise BusUnavailable(f"Redis refused a script: {result}") from result
        return results

    # ---------------------------------------------------------------------------------------------- ingress side

    async def offer(self, offer: Offer) -> bytes:
        """Offer a new session to its pool. Returns the offer's entry id, for `withdraw`."""
        (made,) = await self.offer_all([offer])
        if isinstance(made, Exception):
            raise made
        return made

    async def offer_all(self, offers: Sequence[Offer]) -> list[bytes | Exception]:
        """Offer any number of sessions in one round trip: entry ids, or what Redis said of single ones."""
        pipeline = self._redis.pipeline(transaction=False)
        for offer in offers:
            state = self.keys.state(offer.session)
            packed = pack_offer(offer)
            pipeline.hset(state, mapping={STATE_OFFER: packed, STATE_INGRESS: offer.ingress})
            pipeline.expire(state, SESSION_TTL_S)
            pipeline.xadd(self.keys.offers(offer.pool), {_ENTRY: packed}, maxlen=OFFER_ENTRIES)
            pipeline.expire(self.keys.offers(offer.pool), POOL_TTL_S)
        results = await self._execute(pipeline)
        return [_made(results[first : first + 4]) for first in range(0, len(results), 4)]

    async def withdraw(self, offer: Offer, offer_id: bytes) -> None:
        """Nobody took the session, or its client left first. A worker that takes it now finds no state and lets go."""
        offers = self.keys.offers(offer.pool)
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.delete(self.keys.state(offer.session))
        pipeline.xack(offers, WORKERS_GROUP, offer_id)
        pipeline.xdel(offers, offer_id)
        pipeline.delete(self.keys.audio(offer.session), self.keys.events(offer.session))
        await self._execute(pipeline)

    async def append(self, entries: Sequence[tuple[str, int, AudioEntry]]) -> None:
        """Append to the audio logs of any number of sessions, in order, in one round trip.

        Each entry comes with its number in its session, from 1 on. One that is there already is not written again.
        """
        if not self._servers.is_cluster:
            await self.run_script([self._append_call(entries)] if entries else [], often=True)
            return
        sessions: dict[str, list[tuple[str, int, AudioEntry]]] = {}  # a script may touch one slot only
        for entry in entries:
            sessions.setdefault(entry[0], []).append(entry)
        await self.run_script([self._append_call(own) for own in sessions.values()])

    def _append_call(
        self, entries: Sequence[tuple[str, int, AudioEntry]]
    ) -> tuple[Sequence[bytes], Sequence[Any]]:
        arguments: list[Any] = ["append", AUDIO_LOG_ENTRIES, SESSION_TTL_S]
        for _, number, entry in entries:
            # A fresh log must not outlive an ingress that dies young.
            lives = number == 1 or not isinstance(entry, AudioFrame)
            arguments += (pack_audio(entry), f"{number}-0", 1 if lives else 0)
        audio = self.keys.audio
        return [audio(session) for session, _, _ in entries], arguments

    async def touch(self, sessions: Mapping[str, int]) -> list[str]:
        """Keep the sessions' keys alive for SESSION_TTL_S more; call every TOUCH_S.

        Given is each session's newest entry that was appended. Returns the sessions of which Redis has lost something
        that shows: their state, or entries. Nobody can serve them as they are: `restore` them.
        """
        found = await self.run_script(
            [
                (
                    (self.keys.state(session), self.keys.audio(session), self.keys.events(session)),
                    ("touch", SESSION_TTL_S * 1000),
                )
                for session in sessions
            ],
            often=True,
        )
        return [name for (name, number), last in zip(sessions.items(), found, strict=True) if last < number]

    async def restore(self, lost: Restoration) -> bytes:
        """Write a session anew as its ingress knows it, and offer it anew; the new offer's id.

        Whoever holds the session has lost it, and whoever takes it goes on from the checkpoint.
        """
        offer, packed = lost.offer, pack_offer(lost.offer)
        arguments: list[Any] = ["restore", SESSION_TTL_S * 1000, lost.stamp, packed, offer.ingress]
        arguments += (lost.generation, lost.checkpoint)
        for number, entry in lost.entries:
            arguments += (entry_id(number), pack_audio(entry))
        keys = (self.keys.state(offer.session), self.keys.audio(offer.session))
        await self.run_script([(keys, arguments)])
        offers = self.keys.offers(offer.pool)
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.xack(offers, WORKERS_GROUP, lost.offer_id)
        pipeline.xdel(offers, lost.offer_id)
        pipeline.xadd(offers, {_ENTRY: packed}, maxlen=OFFER_ENTRIES)
        pipeline.expire(offers, POOL_TTL_S)
        results = await self._execute(pipeline)
        if isinstance(results[2], RedisError):
            raise BusUnavailable(f"Redis refused an offer: {results[2]}")
        return bytes(results[2])

    async def forget(self, sessions: Sequence[str]) -> None:
        """The sessions are over: let their keys expire soon."""
        pipeline = self._redis.pipeline(transaction=False)
        for session in sessions:
            for key in (self.keys.state(session), self.keys.audio(session), self.keys.events(session)):
                pipeline.expire(key, FORGOTTEN_TTL_S)
        await self._execute(pipeline)

    async def take_place(self, holder: str, session: str, most: int) -> bool:
        """A place for the session among the `most` of an API key (or LICENSE_HOLDER), over all nodes; False: all taken.

        Taking one twice is taking it once. It is free again after PLACE_TTL_S unless it is kept.
        """
        call = ("enter", session, PLACE_TTL_S * 1000, most)
        try:
            (taken,) = await self.run_script([((self.keys.places(holder),), call)])
        except BusUnavailable as error:
            if "WRONGTYPE" in str(error) and error.__cause__ is not None:
                raise error.__cause__ from None  # the fault of this holder's key, not of Redis
            raise
        return bool(taken)

    async def keep_places(
        self, places: Sequence[tuple[str, str]], replays: Sequence[tuple[str, str]] = ()
    ) -> set[str]:
        """Keep the places of these sessions, as (holder, session), for PLACE_TTL_S more; call every TOUCH_S.

        Returns those of `replays` that are to end: a place of theirs has been given to another (`displace`).
        """
        wanted = [("stay", place) for place in places] + [("remain", place) for place in replays]
        kept = await self.run_script(
            [
                ((self.keys.places(holder),), (op, session, PLACE_TTL_S * 1000))
                for op, (holder, session) in wanted
            ]
        )
        return {session for (_, (_, session)), has in zip(wanted, kept, strict=True) if not has}

    async def free_place(self, holder: str, session: str) -> None:
        """The session is over."""
        with _reaching_redis():
            await self._redis.zrem(self.keys.places(holder), session)

    async def displace(self, holder: str) -> bool:
        """A replay gives up its place among the holder's sessions, on whatever node it is; whether there was one."""
        with _reaching_redis():
            for name in await self._redis.zrange(self.keys.places(REPLAY_HOLDER), 0, -1):
                if await self._redis.zscore(self.keys.places(holder), name) is not None:
                    await self._redis.zrem(self.keys.places(REPLAY_HOLDER), name)
                    await self._redis.zrem(self.keys.places(holder), name)
                    return True
        return False

    async def inbox(
        self, instance: str, block_ms: int = 1000, lost: Callable[[BusUnavailable], None] | None = None
    ) -> AsyncIterator[list[SessionEvent | Saved]]:
        """Events for one ingress node, for ever; survives a lost Redis, and tells `lost` of each failed try."""
        key, cursor, pause_s = self.keys.inbox(instance), _FROM_START, 0.05
        client = self._connect_blocking(block_ms)
        while True:
            try:
                with _reaching_redis():
                    words = ("XREAD", "COUNT", 1000, "BLOCK", block_ms, "STREAMS", key, cursor)
                    reply = await self._ask_owner(client, key, words)
                pause_s = 0.05
            except BusUnavailable as error:
                if lost is not None:
                    lost(error)
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, 0.5)
                continue
            for _, entries in reply:
                cursor = entries[-1][0]
                yield [event for _, fields in entries for event in _events(fields)]

    # ----------------------------------------------------------------------------------------------- worker side

    async def join(self, pool: str) -> None:
        """Make sure the pool's consumer group exists."""
        with _reaching_redis():
            try:
                await self._redis.xgroup_create(self.keys.offers(pool), WORKERS_GROUP, id="0", mkstream=True)
            except ResponseError as error:
                if "BUSYGROUP" not in str(error):
                    raise
        offers = self.keys.offers(pool)
        await self._hear_time(offers, lambda pipe: pipe.expire(offers, POOL_TTL_S))

    async def take(self, pool: str, worker: str, count: int, block_ms: int) -> list[Lease]:
        """Wait up to `block_ms` for new offers and take at most `count`."""
        if self._taking is None:
            self._taking = self._connect_blocking(block_ms)
        with _reaching_redis():
            try:
                key, group = self.keys.offers(pool), ("GROUP", WORKERS_GROUP, worker)
                words = ("XREADGROUP", *group, "COUNT", count, "BLOCK", block_ms, "STREAMS", key, ">")
                reply = await self._ask_owner(self._taking, key, words)
            except ResponseError as error:
                if "NOGROUP" not in str(error):
                    raise
                await self.join(pool)
                return []
        return await self._lease(pool, worker, [entry for _, entries in reply for entry in entries])

    async def take_over(
        self, pool: str, worker: str, count: int, lease_ms: int, gone_ms: int | None = None
    ) -> list[Lease]:
        """Take at most `count` sessions whose holder has not renewed for `lease_ms`, or gave them back; with `gone_ms`
        also of one that has not for so long, and whose connection is gone.
        """
        with _reaching_redis():
            try:
                claimed = await self._claim(pool, worker, count, lease_ms)
                if gone_ms is not None and len(claimed) < count:
                    claimed += await self._claim(pool, worker, count - len(claimed), gone_ms, gone=True)
            except ResponseError as error:
                if "NOGROUP" not in str(error):
                    raise
                await self.join(pool)
                return []
        return await self._lease(pool, worker, [entry for entry in claimed if entry[0] is not None])

    async def _claim(self, pool: str, worker: str, count: int, idle_ms: int, gone: bool = False) -> list[Any]:
        """Offers that nobody has renewed for so long; those of holders that are `gone` only."""
        # Not XAUTOCLAIM: to fill one free slot it looks at ten leases only, always the oldest.
        offers = self.keys.offers(pool)
        silent = await self._redis.xpending_range(
            offers, WORKERS_GROUP, min="-", max="+", count=count, idle=idle_ms
        )
        if gone and silent:
            holders = {lease["consumer"].decode() for lease in silent} - {worker}
            vanished = await self._vanished(pool, holders)
            silent = [lease for lease in silent if lease["consumer"].decode() in vanished]
        ids = [lease["message_id"] for lease in silent]
        return list(await self._redis.xclaim(offers, WORKERS_GROUP, worker, idle_ms, ids)) if ids else []

    async def _vanished(self, pool: str, workers: Collection[str]) -> set[str]:
        """Those that others would see (`WorkerLoad.seen`), and do not."""
        packed = await self._redis.hmget(self.keys.workers(pool), list(workers)) if workers else []
        seen = [name for name, load in zip(workers, packed, strict=True) if load and _is_seen(load)]
        there = await self.present([self.keys.worker_present(pool, name) for name in seen])
        return {name for name, is_there in zip(seen, there, strict=True) if not is_there}

    async def _lease(self, pool: str, worker: str, entries: Sequence[tuple[bytes, Any]]) -> list[Lease]:
        readable: list[tuple[bytes, Offer]] = []
        dead: list[bytes] = []
        for offer_id, fields in entries:
            try:
                readable.append((offer_id, unpack_offer(fields[_ENTRY])))
            except (EntryError, KeyError, TypeError) as error:
                refused("offer", error)
                dead.append(offer_id)
        results = await self.run_script(
            [
                ((self.keys.state(offer.session),), ("take", SESSION_TTL_S * 1000, offer_id))
                for offer_id, offer in readable
            ]
        )
        leases: list[Lease] = []
        for (offer_id, offered), result in zip(readable, results, strict=True):
            if result is None:
                dead.append(offer_id)
                continue
            packed, generation, checkpoint, takes = result
            try:
                offer, saved = unpack_offer(packed), unpack_checkpoint(checkpoint) if checkpoint else None
            except EntryError as error:
                refused("checkpoint", error)  # without parameters the worker will end the session
                offer, saved = replace(offered, params={}), None
            leases.append(Lease(offer_id, offer, int(generation), saved, int(takes)))
        await self._own("settle", pool, worker, dead)
        return leases

    async def _own(self, op: str, pool: str, worker: str, offer_ids: Sequence[bytes]) -> list[bool]:
        offers = self.keys.offers(pool)
        calls = [((offers,), (op, WORKERS_GROUP, worker, offer)) for offer in offer_ids]
        return [result == 1 for result in await self.run_script(calls, often=True)]

    async def renew(self, pool: str, worker: str, leases: Sequence[Lease]) -> list[Lease]:
        """Renew leases; returns those that are lost: another worker holds them, or the session is gone."""
        kept = await self._own("renew", pool, worker, [lease.offer_id for lease in leases])
        looks = [("EXISTS", self.keys.state(lease.session)) for lease in leases]
        alive = await self._run([*looks, ("EXPIRE", self.keys.offers(pool), POOL_TTL_S)], self._line)
        return [
            lease for lease, ours, state in zip(leases, kept, alive, strict=False) if not ours or state == 0
        ]

    async def settle(self, pool: str, worker: str, leases: Sequence[Lease]) -> None:
        """The sessions are over: their offers disappear (unless another worker holds them by now)."""
        await self._own("settle", pool, worker, [lease.offer_id for lease in leases])

    async def give_back(self, pool: str, worker: str, leases: Sequence[Lease]) -> None:
        """Let another worker take these sessions over at once."""
        await self._own("give_back", pool, worker, [lease.offer_id for lease in leases])

    async def read(self, cursors: Mapping[str, bytes]) -> dict[str, Logged]:
        """New audio entries after each session's cursor, one round trip for all; sessions without news are left out.

        Entries follow one another without a gap: where one is missing, reading waits until ingress has written it.
        """
        if not cursors:
            return {}
        found: dict[str, Logged] = {}
        for session, entries in await self._read_logs(cursors):
            if (logged := _following_entries(cursors[session], entries)).cursor != cursors[session]:
                found[session] = logged
        return found

    async def _read_logs(self, cursors: Mapping[str, bytes]) -> list[tuple[str, Any]]:
        """In a cluster each session is read by itself: a command may touch one slot only. Still one round trip.

        Entries are as Redis sends them, their fields as one list of names and values: the library would make a dict of
        each, which takes as long as all else of it.
        """
        sessions = {self.keys.audio(session): session for session in cursors}
        if self._line is not None:
            words = ("XREAD", "COUNT", READ_ENTRIES, "STREAMS", *sessions, *cursors.values())
            (reply,) = await self._run([words], self._line)
            if isinstance(reply, RedisError):
                raise BusUnavailable(f"Redis refused to be read: {reply}")
            return [(sessions[key], entries) for key, entries in reply or ()]
        pipeline = self._redis.pipeline(transaction=False)
        for key, session in sessions.items():
            pipeline.xrange(key, min=b"(" + cursors[session], count=READ_ENTRIES)
        logs = zip(sessions.values(), await self._execute(pipeline), strict=True)
        return [
            (session, [(entry, list(chain.from_iterable(fields.items()))) for entry, fields in entries])
            for session, entries in logs
            if isinstance(entries, list)
        ]

    async def publish(self, publications: Sequence[Publication]) -> list[Lease]:
        """Write events, checkpoints and trims, then tell the ingress nodes. Returns leases that are lost.

        A session whose generation has moved on, or whose state is gone, gets nothing written.
        """
        results = await self.run_script([self._publish_call(item) for item in publications], often=True)
        inboxes: dict[str, list[bytes]] = {}
        for publication, result in zip(publications, results, strict=True):
            if isinstance(result, bytes):  # where the session is now: it may have moved to another node
                inbox = inboxes.setdefault(result.decode() or publication.lease.offer.ingress, [])
                inbox.extend(pack_event(event) for event in publication.events)
                if (saved := publication.checkpoint) is not None:
                    lease = publication.lease
                    inbox.append(pack_saved(Saved(lease.session, lease.generation, pack_checkpoint(saved))))
        commands: list[tuple[Any, ...]] = []
        for instance, events in inboxes.items():
            if events:
                key = self.keys.inbox(instance)
                numbered = chain.from_iterable(enumerate(events))
                commands.append(("XADD", key, "MAXLEN", "~", INBOX_ENTRIES, "*", *numbered))
                commands.append(("EXPIRE", key, INBOX_TTL_S))
        for told in await self._run(commands, self._line) if commands else ():
            if isinstance(told, RedisError):  # published again, it is told again
                raise BusUnavailable(f"Redis refused events: {told}")
        return [item.lease for item, result in zip(publications, results, strict=True) if result in (0, -1)]

    def _publish_call(self, publication: Publication) -> tuple[Sequence[bytes], Sequence[Any]]:
        session, saved = publication.lease.session, publication.checkpoint
        keys = (self.keys.events(session), self.keys.state(session), self.keys.audio(session))
        arguments: list[Any] = [
            "publish",
            publication.lease.generation,
            SESSION_TTL_S * 1000,
            EVENT_LOG_ENTRIES,
        ]
        arguments.append(pack_checkpoint(saved) if saved else b"")
        arguments.append(following(saved.entry_id) if saved and saved.entry_id else b"")
        for event in publication.events:
            arguments += (event.sequence, pack_event(event))
        return keys, arguments

    async def report(self, pool: str, worker: str, load: WorkerLoad) -> None:
        """Tell admission and operators how loaded this worker is."""
        key = self.keys.workers(pool)

        def fill(pipe: Any) -> None:
            pipe.hset(key, worker, pack_load(load))
            pipe.expire(key, INBOX_TTL_S)

        await self._hear_time(key, fill)

    async def leave(self, pool: str, worker: str) -> None:
        """This worker stops: drop its load and its (empty) place in the consumer group."""
        with _reaching_redis():
            await self._redis.hdel(self.keys.workers(pool), worker)
            pending = await self._redis.xpending_range(
                self.keys.offers(pool), WORKERS_GROUP, min="-", max="+", count=1, consumername=worker
            )
            if not pending:  # deleting a consumer would delete its pending entries, that is: leases
                await self._redis.xgroup_delconsumer(self.keys.offers(pool), WORKERS_GROUP, worker)

    async def loads(self, pool: str) -> dict[str, WorkerLoad]:
        """Workers of a pool that reported lately."""
        key = self.keys.workers(pool)
        [fields] = await self._hear_time(key, lambda pipe: pipe.hgetall(key))
        now_s, loads = self.unix_s(), {}
        for worker, packed in fields.items():
            try:
                load = unpack_load(packed)
            except EntryError as error:
                refused("load", error)
                continue
            if load.deadline_s >= now_s:
                loads[worker.decode()] = load
        return loads

    async def offered(self, pool: str) -> int:
        """Sessions that workers of the pool hold, and those that wait for one."""
        with _reaching_redis():
            return int(await self._redis.xlen(self.keys.offers(pool)))

    async def waiting(self, pool: str) -> int:
        """Offers that no worker has taken yet: the autoscaling signal."""
        offers = self.keys.offers(pool)
        with _reaching_redis():
            try:
                length = int(await self._redis.xlen(offers))
                pending = await self._redis.xpending(offers, WORKERS_GROUP)
            except ResponseError:
                return 0
        return max(0, length - int(pending["pending"]))

    # ------------------------------------------------------------------------------------------ who is connected

    async def stay_present(self, channel: bytes, shown: Callable[[], None]) -> None:
        """Be seen by `present` for as long as this runs, from the call of `shown` on; for `wire/presence.py`.

        Ends with BusUnavailable when the connection does.
        """
        client = self._connect(self._timeout_s)
        listener = client.pubsub()
        try:
            with _reaching_redis():
                await listener.subscribe(channel)
                await self._answer(listener)
                shown()
                while True:
                    await listener.get_message(timeout=PULSE_S)  # nobody speaks; it ends with the connection
                    await listener.ping()
                    await self._answer(listener)
        finally:
            await listener.aclose()
            await servers.close(client)

    async def _answer(self, listener: Any) -> None:
        if await listener.get_message(timeout=self._timeout_s) is None:
            raise TimeoutError("no answer")

    async def present(self, channels: Sequence[bytes]) -> list[bool]:
        """Whether somebody is present on each of these. Not for a cluster, where nobody is seen."""
        if not channels:
            return []
        with _reaching_redis():
            counts = await self._redis.pubsub_numsub(*channels)
        return [count > 0 for _, count in counts]


def _reached(results: list[Any]) -> list[Any]:
    for result in results:
        if isinstance(result, _UNREACHABLE):
            raise BusUnavailable(f"Redis cannot be reached: {result}")
    return results


def _made(results: Sequence[Any]) -> bytes | Exception:
    """What became of one offer: its entry id, or the first error."""
    errors = [result for result in results if isinstance(result, RedisError)]
    return errors[0] if errors else bytes(results[2])


def _is_seen(packed: bytes) -> bool:
    try:
        return unpack_load(packed).seen
    except EntryError:
        return False


def _following_entries(cursor: bytes, entries: Sequence[tuple[bytes, Any]]) -> Logged:
    """Those that come next after the cursor, up to the first gap."""
    logged, number = Logged(cursor), number_of(cursor)
    for entry, fields in entries:
        number += 1
        if number_of(entry) != number:
            break
        logged.cursor = entry
        try:
            logged.entries.append((entry, unpack_audio(fields[fields.index(_ENTRY) + 1])))
        except (EntryError, ValueError) as error:
            refused("audio", error)
    return logged


def _events(fields: Mapping[bytes, bytes]) -> Iterator[SessionEvent | Saved]:
    for packed in fields.values():
        try:
            yield unpack_report(packed)
        except EntryError as error:
            refused("event", error)  # its session times out by itself
