"""A whole stack that is hurt on purpose, and what must hold afterwards, whatever was done to it.

`Theatre`: two ingress nodes, two workers with real weights, licensing, usage and its tracker, as processes; a Redis
that may be killed; and between it and each process a line (`cli/proxy.py`) that may be cut, stalled or slowed down.
Each service is a user of its own in Redis (`wire/acl.py`), who is refused nothing; the clocks of their machines differ,
and half of them are of a later release.
`Theatre.play` and `holds` ask it: every final once and in order, with the words of an undisturbed session, times that
go on, usage exact, no lease and no slot held, nothing left in Redis once it has expired.
"""

import itertools
import secrets
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, Self

from cli import chaos_watch, redis_fleet, up
from cli.child import free_ports
from cli.proxy import Proxy
from licensing.minting import Terms
from tests.conftest import _wait_until_sync as wait_until
from tests.conversation import Conversation, is_final
from tests.desk import API_KEY, READY_S, Desk, answers
from tests.speech import chunks
from wire import acl
from wire.entries import WorkerLoad, unpack_load
from wire.keys import WORKERS_GROUP, Keys

INGRESS, WORKERS = ("north", "south"), ("first", "second")
POOL = "english"
CHUNK_S = 0.1
#: By how many seconds the clocks of some machines are ahead; they are of the later release, too.
SKEWS_S = {"south": 3_600.0, "second": -600.0}
#: Turns that end soon after the words.
SOON: dict[str, Any] = {"max_turn_silence": 500}
#: Session keys are gone so long after their end, and a busy machine's patience.
GONE_S = 40.0
BRISK = {
    "LEASE_S": "1",
    "REPORT_S": "0.2",
    "THREADS": "1",
    "DRAIN_GRACE_S": "0",
    "LOGGING_LEVEL": "WARNING",
    "OVERLOAD_S": "30",
}


class Theatre(Desk):
    """See the module. A context manager."""

    def __init__(self, folder: Path, *redis_options: str) -> None:
        users = folder / "users.acl"
        self.passwords = {service: secrets.token_hex(16) for service in acl.COMMANDS}
        ours = "user default on nopass ~* &* +@all"
        users.write_text(acl.render(self.passwords, Keys("chaos")).replace("user default off", ours))
        port = free_ports(1)[0]
        self.server = redis_fleet.Server(port, folder, *redis_options, "--aclfile", str(users))
        super().__init__(folder, self.server.url, Keys("chaos"), up.free_port, wait_until)
        self.skews_s, self.later = SKEWS_S, set(SKEWS_S)
        self.lines = {name: Proxy(self.server.port) for name in (*INGRESS, *WORKERS)}
        self.urls: dict[str, str] = {}
        self.sent_ms = 0
        self._twice: set[str] = set()
        self._rooms = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as rooms:
            rooms.callback(self.redis.close)
            rooms.enter_context(redis_fleet.running(self.server))
            for line in self.lines.values():
                rooms.enter_context(line)
            rooms.callback(self._end)
            self._open()
            self._rooms = rooms.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._rooms.close()

    def _end(self) -> None:
        for child in self.children.values():
            child.kill()

    def _open(self) -> None:
        self.license(Terms("Chaos", 1, billing="usage"))
        port = self.free_port()
        self.vendor("tracker", port)
        self.start("licensing", "licensing", REDIS_URL=self._url("licensing", self.server.url))
        tracked = {"USAGE_TRACKER_URL": f"http://127.0.0.1:{port}", "USAGE_TRACKING_API_KEY": API_KEY}
        tracked["SILENCE_S"] = "15"
        where = {"REDIS_URL": self._url("usage", self.server.url)}
        self.start("usage", "usage", ready=False, **tracked, **where)
        for name in WORKERS:
            where = {"WORKER": name, "REDIS_URL": self._url("worker", self.lines[name].url)}
            self.start(name, "worker", POOL, ready=False, **where, **BRISK)
        for name in INGRESS:
            self.start_ingress(name)
        self.until_ready()

    def start_ingress(self, name: str) -> None:
        """A node of this name, in place of the last one."""
        port = self.free_port()
        self.urls[name] = f"ws://localhost:{port}"
        where = {
            "HOST": "127.0.0.1",
            "PORT": str(port),
            "REDIS_URL": self._url("ingress", self.lines[name].url),
        }
        self.start(name, "ingress", ready=False, **where, **BRISK)

    def _url(self, service: str, url: str) -> str:
        """As that service's user."""
        return url.replace("://", f"://{service}:{self.passwords[service]}@")

    def refused(self) -> list[object]:
        """What Redis has refused to the services' users."""
        return list(self.redis.acl_log())

    def is_ready(self, name: str) -> bool:
        """What its health check says."""
        return answers(self.probes[name])

    def until_ready(self) -> None:
        for name in (*WORKERS, *INGRESS, "usage"):
            wait_until(partial(self.is_ready, name), within_s=2 * READY_S)

    # ------------------------------------------------------------------------------------------------- the play

    def play(self, clips: dict[str, bytes], act: Callable[[], None]) -> dict[str, Conversation]:
        """A session at each of these nodes, spoken in real time; `act` in the middle, when finals have come.

        Who spoke too fast would be heard in larger pieces, and now and then otherwise.
        """
        streams = {node: list(chunks(clip)) for node, clip in clips.items()}
        longest = max(map(len, streams.values()))
        with ExitStack() as stack:
            found = {node: stack.enter_context(Conversation(self.urls[node], **SOON)) for node in clips}
            begun_s = time.monotonic()
            for number in range(longest):
                if number == longest // 2:
                    for conversation in found.values():
                        conversation.hear_until(is_final)
                    act()
                wait_until(partial(_is_time, begun_s + number * CHUNK_S))
                self._watch()
                for node, conversation in found.items():
                    conversation.send_all(streams[node][number : number + 1])
            for conversation in found.values():
                conversation.order("Terminate")
                assert_in_order(conversation.hear_rest())
        self.sent_ms += sum(len(clip) // 32 for clip in clips.values())
        return found

    # ------------------------------------------------------------------------------------------ what must hold

    def holds(self, undisturbed: dict[str, Conversation], found: dict[str, Conversation]) -> None:
        """The finals are those of the undisturbed ones, usage is exact, and nobody holds anything any more."""
        for node, conversation in found.items():
            assert told(conversation) == told(undisturbed[node]), f"{node}: {conversation.transcript}"
        wait_until(lambda: self.counted() >= self.sent_ms, within_s=READY_S)
        assert self.counted() == self.sent_ms, self.tracker.totals()
        wait_until(lambda: self.redis.xlen(self.keys.offers(POOL)) == 0, within_s=READY_S)
        assert self.redis.xpending(self.keys.offers(POOL), WORKERS_GROUP)["pending"] == 0
        wait_until(self._idle, within_s=READY_S)
        assert self.refused() == []
        immortal = [key for key in self._all_keys() if self.redis.ttl(key) == -1]
        assert immortal == []

    def all_over(self) -> bool:
        """Whether usage knows of every session that it has ended."""
        return all(total.over == total.sessions for total in self.tracker.totals())

    def leaves_nothing(self) -> None:
        """Once everything has expired, no key of any session is left."""
        wait_until(lambda: not [key for key in self._all_keys() if b":session:" in key], within_s=GONE_S)

    def _watch(self) -> None:
        """No session is held by two: not at two looks in a row, for an offer that was made twice is settled at once."""
        try:
            twice = set(chaos_watch.doubly_held(self.sessions()))
        except redis_fleet.AWAY:
            return
        assert not twice & self._twice
        self._twice = twice

    def _idle(self) -> bool:
        packed = self.redis.hgetall(self.keys.workers(POOL))
        loads: list[WorkerLoad] = [unpack_load(load) for load in packed.values()]
        return len(loads) == len(WORKERS) and all(load.free == load.slots for load in loads)

    def _all_keys(self) -> list[bytes]:
        return list(self.redis.scan_iter(match=self.keys.everything(), count=1000))

    def sessions(self) -> dict[str, list[str]]:
        """Sessions -> the workers that hold them."""
        return chaos_watch.holders(self.redis, self.keys, POOL)

    def holders(self) -> set[str]:
        """The workers that hold leases."""
        return set(itertools.chain.from_iterable(self.sessions().values()))


def _is_time(at_s: float) -> bool:
    return time.monotonic() >= at_s


def told(conversation: Conversation) -> list[tuple[int, str]]:
    """The finals. Partials of a turn that is recognised again may say something else than they did."""
    return [(final["turn_order"], final["transcript"]) for final in conversation.finals]


def assert_in_order(conversation: Conversation) -> None:
    """One Begin, finals 0, 1, 2 and so on, once each, no word before the one before it has ended, one Termination."""
    kinds = [message["type"] for message in conversation.messages]
    last = conversation.messages[-1]
    assert (kinds[0], kinds[-1], kinds.count("Begin")) == ("Begin", "Termination", 1), last
    assert conversation.close == (1000, "Session Ended"), conversation.messages[-1]
    assert [final["turn_order"] for final in conversation.finals] == list(range(len(conversation.finals)))
    words = [word for final in conversation.finals for word in final["words"]]
    assert all(before["end"] <= after["start"] for before, after in itertools.pairwise(words))
