"""Redis servers that tests and benchmarks hurt: on ports of their own, killed and started again, alone or in company.

`Server` is one process; `sentinels` and `cluster` start several that stand in for each other. All data lies in a folder
of the caller's; what is left of it after a kill is what a restart finds.
"""

import os
import resource
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import redis

from cli.child import Child
from cli.redis_server import START_TIMEOUT_S, RedisServerError, find

HOST = "127.0.0.1"
#: What a client raises while its server is away, or does not know what it is asked for.
AWAY = (redis.RedisError, OSError)
_POLL_S = 0.02
#: What a limit on the size of files does to it is a failed write, as on a full disk, not the signal that would end it.
_DEAF_TO_LIMITS = ("/bin/sh", "-c", 'trap "" XFSZ; exec "$0" "$@"')
#: Sentinel's name for the master, and how long it must be silent to be replaced, in ms.
SERVICE, DOWN_MS = "steno", 1_000


class Server:
    """One `redis-server` on a port; the words that follow are its options (`--appendonly yes`)."""

    def __init__(self, port: int, folder: Path, *options: str) -> None:
        self.port = port
        self._folder = folder / str(port)
        self._options = options
        self._child: Child | None = None

    @property
    def url(self) -> str:
        return f"redis://{HOST}:{self.port}/0"

    def start(self) -> None:
        """Start and wait until it answers. Raises RedisServerError."""
        self._folder.mkdir(parents=True, exist_ok=True)
        words = [*_DEAF_TO_LIMITS, os.fspath(find()), *self._options, "--bind", HOST]
        words += ["--port", str(self.port), "--dir", str(self._folder), "--daemonize", "no"]
        log = self._folder / "redis.log"
        self._child = Child("redis", [sys.executable, "-m", "cli.child", *words], log=log)
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while not self.answers():
            if self._child.exit_code is not None or time.monotonic() > deadline_s:
                self.kill()
                raise RedisServerError(f"no Redis on port {self.port}\n{log.read_text()[-2_000:]}")
            time.sleep(_POLL_S)

    def answers(self) -> bool:
        """Whether it does, and has loaded its data."""
        with self.client() as client:
            try:
                return bool(client.ping())
            except redis.RedisError:
                return False

    def client(self, **options: Any) -> Any:
        """A client of its own, to be closed; redis-py's types know no keys of bytes."""
        return redis.Redis(HOST, self.port, socket_timeout=5.0, **options)

    def kill(self) -> None:
        """At once, as a power cut does; what it has written to its folder stays."""
        if self._child is not None:
            self._child.kill()
        self._child = None

    def fill_disk(self, full: bool) -> None:
        """From now on it can write nothing to its folder, or again; on Linux only.

        It takes no writes then (MISCONF) if it was told to keep what it is told (`--appendonly yes`).
        """
        with self.client() as client:
            pid = client.info("server")["process_id"]
        _, most = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (0 if full else most, most))

    def restart(self, forget: bool = False) -> None:
        """Kill it and start it again, with its data or without. Raises RedisServerError."""
        self.kill()
        if forget:
            shutil.rmtree(self._folder)
        self.start()


@contextmanager
def running(*servers: Server) -> Iterator[None]:
    """The servers, while inside."""
    with ExitStack() as stack:
        for server in servers:
            stack.callback(server.kill)
            server.start()
        yield


@contextmanager
def sentinels(ports: Sequence[int], folder: Path) -> Iterator[tuple[Server, Server, list[Server]]]:
    """A master, its replica and sentinels that watch them, on these ports in that order, while inside."""
    master_port, replica_port, *others = ports
    master = Server(master_port, folder)
    replica = Server(replica_port, folder, "--replicaof", HOST, str(master_port))
    watchers = [_sentinel(port, master_port, folder, len(others)) for port in others]
    with running(master, replica, *watchers):
        _until(lambda: _synced(replica))
        for watcher in watchers:
            _until(lambda of=watcher: _sees_all(of, len(watchers)))
        yield master, replica, watchers


def _sentinel(port: int, master_port: int, folder: Path, count: int) -> Server:
    """Sentinel rewrites its configuration, so it has a file."""
    file = folder / f"sentinel-{port}.conf"
    file.write_text(
        f"sentinel monitor {SERVICE} {HOST} {master_port} {count // 2 + 1}\n"
        f"sentinel down-after-milliseconds {SERVICE} {DOWN_MS}\n"
        f"sentinel failover-timeout {SERVICE} 5000\n"
    )
    return Server(port, folder, str(file), "--sentinel")


def _synced(replica: Server) -> bool:
    with replica.client() as client:
        return bool(client.info("replication")["master_link_status"] == "up")


def _sees_all(sentinel: Server, count: int) -> bool:
    with sentinel.client() as client:
        known = client.sentinel_master(SERVICE)
    return bool(known["num-slaves"] == 1 and known["num-other-sentinels"] == count - 1)


@contextmanager
def cluster(ports: Sequence[int], folder: Path) -> Iterator[list[Server]]:
    """Three masters, then their replicas if there are more ports, that share the slots, while inside."""
    options = (
        "--cluster-enabled",
        "yes",
        "--cluster-node-timeout",
        "2000",
        "--cluster-replica-validity-factor",
        "0",
    )
    servers = [Server(port, folder, *options) for port in ports]
    with running(*servers):
        masters, replicas = servers[:3], servers[3:]
        ids = [_cluster_command(server, "MYID").decode() for server in masters]
        bounds = [0, 5461, 10923, 16384]
        for number, master in enumerate(masters):
            slots = range(bounds[number], bounds[number + 1])
            _cluster_command(master, "ADDSLOTS", *slots)
        for server in servers[1:]:
            _cluster_command(server, "MEET", HOST, masters[0].port)
        for server in servers:
            _until(lambda of=server: _known_nodes(of) == len(servers))
        for replica, master_id in zip(replicas, ids, strict=False):
            _cluster_command(replica, "REPLICATE", master_id)
        for server in servers:
            _until(lambda of=server: b"cluster_state:ok" in _cluster_command(of, "INFO"))
        for replica in replicas:
            _until(lambda of=replica: _synced(of))
        yield servers


def _known_nodes(server: Server) -> int:
    lines = _cluster_command(server, "NODES").splitlines()
    return sum(b"handshake" not in line for line in lines)


def _cluster_command(server: Server, *words: object) -> bytes:
    with server.client() as client:
        client.response_callbacks.clear()
        answer: bytes = client.execute_command("CLUSTER", *words)
        return answer


def _until(condition: Any) -> None:
    """Raises RedisServerError."""
    deadline_s = time.monotonic() + 2 * START_TIMEOUT_S
    while not condition():
        if time.monotonic() > deadline_s:
            raise RedisServerError("the Redis servers did not find each other")
        time.sleep(_POLL_S)
