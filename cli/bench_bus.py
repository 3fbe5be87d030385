"""What Redis takes: audio written as ingress writes it and read as workers read it, with nothing else around.

Nodes without clients (`cli/bench_feeder.py`) and workers without a model (`cli/bench_scripted.py`), each a process, on
one server or a cluster of three masters. The load grows level by level. On a machine with few cores the nodes and
workers are full before Redis is; so every level says whether it is they who were the limit, and where Redis would be
full follows from its own processor time (`cli/bench_model.py`).
"""

import contextlib
import math
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, cast

from cli import bench_feeder, bench_scripted, redis_fleet
from cli.bench_crowd import FRAME_MS, Crowd
from cli.bench_feeder import Fed
from cli.bench_figures import middle, percentile
from cli.bench_machine import Usage
from cli.bench_model import KEPT, fit, used
from cli.child import free_ports
from cli.redis_fleet import Server

PLAIN, CLUSTER = "plain", "cluster"
KINDS = (PLAIN, CLUSTER)
#: Sessions of one node, and of one worker; more are spread over more processes.
PER_NODE, PER_WORKER = 500, 500
#: Sessions settle before they are measured, in seconds.
WARM_UP_S = 2.0
#: What one round trip of an append may take, with one in a hundred.
GOAL_APPEND_MS = 15.0
#: Nodes that hand a frame over later than this, with one in a hundred, are themselves the limit; so is one that
#: takes this much of a core.
LATE_MS, FULL = 10.0, 0.9
#: Of each worker so many sessions are read as often as it can, to see when frames come.
WATCHED = 2
_PING_S = 0.01
METHOD = (
    "Real Redis over TCP, in memory. Nodes without clients, at most {per_node} sessions each, and workers without a "
    "model, at most {per_worker} each, each a process: ingress's own outbox and append, the worker's own read, "
    "publish, renew and checkpoint. A frame of 50 ms for each session every 50 ms, a partial for each half second, a "
    "checkpoint each 3 s. append: the round trip of one tick's frames; inbound: from a frame's due time to the "
    "worker's hands, of {watched} sessions of each worker; outbound: from the worker's telling to the node; ping: a "
    "round trip of PING beside it. Cores and operations are those of Redis, of all masters together; busiest: of the "
    "one that takes most. Each level's figures are the median of its repeats."
)


def run(
    counts: Sequence[int],
    seconds: float,
    repeats: int,
    tell: Callable[[str], None],
    kinds: Sequence[str] = KINDS,
    per_node: int = PER_NODE,
) -> dict[str, Any]:
    """Measure these levels, in growing order, on each kind of server. Raises StackError."""
    levels: list[dict[str, Any]] = []
    for kind in kinds:
        with _servers(kind) as (servers, url), _Load(servers, url, per_node) as load:
            for count in sorted(set(counts)):
                load.grow(count)
                rounds = []
                for number in range(1, repeats + 1):
                    tell(f"{kind}, {count} sessions, {number} of {repeats}")
                    rounds.append(load.measure(seconds))
                levels.append({"servers": kind} | judged(middle(rounds, worst=("failed",))))
    return {
        "settings": {
            "sessions": sorted(set(counts)),
            "seconds": seconds,
            "repeats": repeats,
            "kinds": list(kinds),
            "per_node": per_node,
        },
        "method": METHOD.format(per_node=per_node, per_worker=PER_WORKER, watched=WATCHED),
        "goals": {"append_p99_ms": GOAL_APPEND_MS},
        "kinds": {kind: summary([one for one in levels if one["servers"] == kind]) for kind in kinds},
        "levels": levels,
    }


def summary(levels: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What one kind of server holds, as measured, and what its processor costs, as fitted to levels that kept up."""
    holding = [level["sessions"] for level in levels if level["holds"]]
    kept = [level for level in levels if not level["failed"] and "fell behind" not in level["falls_short"]]
    found: dict[str, Any] = {"holds": max(holding, default=0), "masters": levels[0]["masters"]}
    if kept:
        costs = fit(
            [
                (one["nodes"], used(one["nodes"], one["sessions"]), one["sessions"], one["cores"]["redis"])
                for one in kept
            ]
        )
        found |= {
            "costs": {"fixed": costs.fixed, "node": costs.node, "session": costs.session},
            # How unevenly the masters are loaded: 1 is evenly.
            "uneven": round(
                max(level["busiest"] * level["masters"] / level["cores"]["redis"] for level in kept), 3
            ),
            "session_kib": kept[-1]["redis_kib"],
        }
    return found


def judged(level: dict[str, Any]) -> dict[str, Any]:
    """A level with the reasons for which it does not hold, the generators' own among them."""
    late, append = level["generator_late_p99_ms"], level["append_p99_ms"]
    checks = {
        "nothing heard": level["outbound_p99_ms"] is None or append is None,
        "append": (append or 0) > GOAL_APPEND_MS,
        "failed": level["failed"] > 0,
        "fell behind": min(level["written"], level["told"]) < KEPT,
        "Redis full": level["busiest"] > FULL,
        "generator late": late is None or late > LATE_MS,
        "generator full": max(level["cores"]["largest node"], level["cores"]["largest worker"]) > FULL,
    }
    short = [reason for reason, true in checks.items() if true]
    return level | {"falls_short": short, "holds": not short}


@contextlib.contextmanager
def _servers(kind: str) -> Iterator[tuple[list[Server], str]]:
    """Redis of this kind, which writes nothing to disk, while inside; and its REDIS_URL."""
    with tempfile.TemporaryDirectory(prefix="steno-bench-") as folder, contextlib.ExitStack() as stack:
        if kind == CLUSTER:
            ports = free_ports(3)
            servers = stack.enter_context(redis_fleet.cluster(ports, Path(folder)))
            url = "redis+cluster://" + ",".join(f"{redis_fleet.HOST}:{port}" for port in ports)
        else:
            (port,) = free_ports(1)
            servers = [Server(port, Path(folder))]
            stack.enter_context(redis_fleet.running(*servers))
            url = servers[0].url
        for server in servers:
            with server.client() as client:
                client.config_set("save", "")
        yield servers, url


class _Load(contextlib.ExitStack):
    """Nodes and workers on these servers, as many as the level needs. A context manager."""

    def __init__(self, servers: Sequence[Server], url: str, per_node: int) -> None:
        super().__init__()
        self._servers, self._url, self._per_node = servers, url, per_node
        self._empty_bytes = sum(_info(server)["used_memory"] for server in servers)
        self._count = 0
        self._nodes: list[tuple[Crowd, int]] = []
        self._workers: list[int] = []

    def grow(self, count: int) -> None:
        """Until so many sessions speak. Raises CrowdFailed."""
        self._count = count
        while len(self._workers) < math.ceil(count / PER_WORKER):
            role = bench_scripted.Role(f"scripted-{len(self._workers) + 1}", PER_WORKER, WATCHED)
            self._workers.append(self.enter_context(bench_scripted.running(self._url, role=role)))
        while len(self._nodes) < math.ceil(count / self._per_node):
            name = f"node-{len(self._nodes) + 1}"
            self._nodes.append(self.enter_context(bench_feeder.running(self._url, name)))
        shares = [
            (count + number) // len(self._nodes) for number in range(len(self._nodes))
        ]  # as even as can be; nobody leaves, so a node that has more keeps them
        self._together(lambda node, share: node.grow(share), shares)
        self._together(lambda node, _: node.measure(WARM_UP_S), shares)

    def measure(self, seconds: float) -> dict[str, Any]:
        """One round's figures. Raises CrowdFailed."""
        usage = Usage({f"worker {number}": pid for number, pid in enumerate(self._workers)})
        before, started_s = self._counted(), time.monotonic()
        with _Pings(self._servers) as pings:
            seen = cast(
                "list[Fed]", self._together(lambda node, _: node.measure(seconds), [0] * len(self._nodes))
            )
        cores, passed_s = usage.cores(), time.monotonic() - started_s
        commands, redis = zip(
            *(
                (now[0] - then[0], now[1] - then[1])
                for now, then in zip(self._counted(), before, strict=True)
            ),
            strict=True,
        )
        workers = [cores[name] for name in cores if name.startswith("worker")]
        nodes = [one.cores for one in seen]
        memory = sum(_info(server)["used_memory"] for server in self._servers) - self._empty_bytes
        return {
            **figures(self._count, seen, pings.found_ms, seconds),
            "masters": len(self._servers),
            "nodes": len(self._nodes),
            "workers": len(self._workers),
            "operations": round(sum(commands) / passed_s),
            "redis_kib": round(memory / 1024 / self._count, 1),
            "busiest": round(max(redis) / passed_s, 4),
            "per_core": round(self._count * passed_s / max(sum(redis), 1e-3)),
            "cores": {
                "redis": round(sum(redis) / passed_s, 4),
                "nodes": round(sum(nodes), 3),
                "workers": round(sum(workers), 3),
                "largest node": round(max(nodes), 3),
                "largest worker": round(max(workers), 3),
                "others": round(max(0.0, cores["others"] - sum(nodes) - sum(redis) / passed_s), 3),
            },
        }

    def _together(self, order: Callable[[Crowd, int], Any], values: Sequence[int]) -> list[Any]:
        with ThreadPoolExecutor(len(self._nodes)) as pool:
            return list(
                pool.map(lambda pair: order(pair[0][0], pair[1]), zip(self._nodes, values, strict=True))
            )

    def _counted(self) -> list[tuple[int, float]]:
        """Of each server: commands so far, those of scripts too, and processor time, in s, as it counts it itself."""
        told = [_info(server) for server in self._servers]
        return [
            (int(one["total_commands_processed"]), one["used_cpu_sys"] + one["used_cpu_user"]) for one in told
        ]


def figures(count: int, seen: Sequence[Fed], pings_ms: Sequence[float], seconds: float) -> dict[str, Any]:
    """Delays of one round, and which shares of the frames were written and of the partials told."""
    found: dict[str, Any] = {"sessions": count}
    ways = {
        name: [ms for one in seen for ms in getattr(one, name)] for name in ("appends", "inbound", "outbound")
    }
    for name, values in {"append": ways.pop("appends"), **ways, "ping": pings_ms}.items():
        for part in (50, 99):
            found[f"{name}_p{part}_ms"] = _rounded(percentile(values, part))
    late = [ms for one in seen for ms in one.late]
    return found | {
        "generator_late_p99_ms": _rounded(percentile(late, 99)),
        "written": round(sum(one.frames for one in seen) * FRAME_MS / 1000 / seconds / count, 3),
        "told": round(sum(one.told for one in seen) * bench_scripted.PARTIAL_S / seconds / count, 3),
        "failed": sum(one.failed for one in seen),
    }


@dataclass
class _Pings:
    """PING beside the load, to each server in turn, from a thread of its own; a context manager."""

    servers: Sequence[Server]
    found_ms: list[float] = field(default_factory=list)
    _over: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._ask, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if self._thread is not None:
            self._thread.join()

    def _ask(self) -> None:
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(server.client()) for server in self.servers]
            while True:
                for client in clients:
                    started_s = time.monotonic()
                    client.ping()
                    self.found_ms.append((time.monotonic() - started_s) * 1000)
                if self._over.wait(_PING_S):
                    return


def _info(server: Server) -> dict[str, Any]:
    with server.client() as client:
        return dict(client.info())


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 2)
