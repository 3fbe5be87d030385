"""Services of one test as processes of their own, in a namespace of their own, and a look into their Redis."""

import http.client
from collections.abc import Callable
from typing import Any

import redis

from cli.child import Child
from tests.foreign import steno
from wire.entries import WorkerLoad, unpack_load
from wire.keys import WORKERS_GROUP, Keys

POOL = "english"
#: Workers that notice a death soon, and tell their load often.
BRISK = {
    "LICENSE_REQUIRED": "false",
    "LEASE_S": "1",
    "REPORT_S": "0.2",
    "THREADS": "1",
    "LOGGING_LEVEL": "WARNING",
    "DRAIN_GRACE_S": "0",
    "OVERLOAD_S": "30",  # a busy machine is not what these are about
}
READY_S = 60.0

WaitUntil = Callable[..., Any]


class Site:
    """Any number of ingress nodes and workers of one test, and a look into their Redis."""

    def __init__(
        self, redis_url: str, keys: Keys, free_port: Callable[[], int], wait_until: WaitUntil
    ) -> None:
        self.redis: Any = redis.Redis.from_url(redis_url)  # its types know no keys of bytes
        self.keys = keys
        self.children: dict[str, Child] = {}
        #: Node -> the port that serves its clients; and where clients of the one called "ingress" connect.
        self.ports: dict[str, int] = {}
        #: By how many seconds the clocks of some machines are ahead; and whose release is a later one.
        self.skews_s: dict[str, float] = {}
        self.later: set[str] = set()
        self.url = ""
        self.redis_url = redis_url
        self._free_port = free_port
        self._wait_until = wait_until

    def up(self, *workers: str, ingress: bool = True, nodes: tuple[str, ...] = (), **env: str) -> None:
        """The ingress, other nodes and these workers, at the same time, until all are ready; `env` on top of what suits
        tests.
        """
        probes = {name: self._launch(name, "worker", POOL, WORKER=name, **env) for name in workers}
        for node in (*(("ingress",) if ingress else ()), *nodes):
            port = self.ports[node] = self._free_port()
            probes[node] = self._launch(node, "ingress", HOST="127.0.0.1", PORT=str(port), **env)
        if ingress:
            self.url = f"ws://localhost:{self.ports['ingress']}"
        for name, probe_port in probes.items():
            child = self.children[name]
            self._wait_until(
                lambda port=probe_port, of=child: is_ready(port) or of.exit_code is not None, READY_S
            )
            assert child.exit_code is None, f"{name} ended with {child.exit_code}"

    def _launch(self, name: str, *command: str, **env: str) -> int:
        """A service that is on its way; the port of its probe."""
        probe_port = self._free_port()
        where = {
            "REDIS_URL": self.redis_url,
            "NAMESPACE": self.keys.namespace,
            "PROBE_PORT": str(probe_port),
        }
        words = [*steno(self.skews_s.get(name, 0.0), name in self.later), *command, "--with-parent"]
        self.children[name] = Child(name, words, {**where, **BRISK, **env})
        return probe_port

    def stop(self) -> None:
        for child in self.children.values():
            child.kill()
        self.redis.close()

    # ---- a look into Redis

    def all_keys(self) -> list[bytes]:
        return list(self.redis.scan_iter(match=self.keys.everything(), count=1000))

    def immortal(self) -> list[bytes]:
        return [key for key in self.all_keys() if self.redis.ttl(key) == -1]

    def holder(self) -> str:
        """The worker that holds the only lease; "" while nobody does."""
        pending = self.redis.xpending_range(self.keys.offers(POOL), WORKERS_GROUP, "-", "+", 10)
        return pending[0]["consumer"].decode() if len(pending) == 1 else ""

    def loads(self) -> list[WorkerLoad]:
        packed = self.redis.hgetall(self.keys.workers(POOL))
        return [unpack_load(load) for load in packed.values()]

    def assert_at_rest(self) -> None:
        """Soon nobody holds anything: no lease, no offer, no slot; and nothing in Redis stays for ever."""
        self._wait_until(lambda: self.redis.xlen(self.keys.offers(POOL)) == 0)
        self._wait_until(lambda: all(load.free == load.slots for load in self.loads()))
        assert self.redis.xpending(self.keys.offers(POOL), WORKERS_GROUP)["pending"] == 0
        assert self.immortal() == []


def is_ready(probe_port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", probe_port, timeout=2)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
