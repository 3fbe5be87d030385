"""What thousands of sessions of every kind leave in every process of a whole stack: memory, files, tasks, keys.

Two ingress nodes, two workers with real weights, licensing, usage with a tracker, Redis and the clients
(`cli/bench_soak_crowd.py`), each a process. Memory is read all the while: what tells a leak from a cache that fills is
the slope over sessions once the stack is warm, and how well that slope is known.
"""

import contextlib
import multiprocessing
import secrets
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from cli import bench_churn, bench_clips, bench_soak_crowd, redis_server, up
from cli.bench_figures import slope_and_error
from cli.bench_machine import largest, metric
from cli.bench_soak_crowd import Crowd
from cli.child import Child
from licensing.issuer import Issuer, write_key
from licensing.minting import SigningKey, Terms
from usage.tracker import Tracker
from wire.streams import SESSION_TTL_S

WORKERS, NODES = 2, 2
#: The part of the sessions after which the stack is warm.
WARM = 0.3
#: Parts of the rest whose lowest reading counts; each must be longer than the time between two trims (`wire/heap.py`).
FLOORS = 10
SAMPLE_S = 2.0
#: A process whose memory grows by more than this leaks, if so many standard errors make that certain; KiB per thousand.
FLAT_KIB, CERTAIN = 1_024.0, 2.0
#: Sessions that dropped wait so long for their client; laps for the tracker.
RESUME_WINDOW_S, COUNTED_S = 5, 120.0
#: Keys of a session that nobody forgot, such as one that dropped, live so long.
KEYS_GONE_S = 2.0 * SESSION_TTL_S
METHOD = (
    f"Whole stack as processes: {NODES} ingress nodes, {WORKERS} workers with real weights, licensing, usage, a "
    "tracker, Redis; clients in one more. Sessions of "
    f"{bench_soak_crowd.SECONDS[0]} to {bench_soak_crowd.SECONDS[1]} s of real speech, mostly short, and of every kind "
    f"in turn at random: {', '.join(bench_soak_crowd.kinds())}. Memory of each process every {SAMPLE_S:.0f} s; slope: "
    f"least squares over sessions ended, the first {WARM:.0%} left out, of the lowest reading in each of {FLOORS} "
    "equal parts (between two of them free memory is given back, so what is in use is no more than that), in KiB per "
    "thousand, with its standard error. A process grows if its slope less "
    f"{CERTAIN:.0f} standard errors is above {FLAT_KIB:.0f}. before, after: at rest, when all keys of sessions have "
    "expired; files: without Unix sockets, which are connections to Redis, pooled and bounded."
)

Reading = tuple[int, float]  # sessions ended, KiB


def run(
    sessions: int, at_once: int, restarts: int, tell: Callable[[str], None], model: str = ""
) -> dict[str, Any]:
    """Measure; `restarts`: processes that are killed and begun anew meanwhile; `model`: what the workers serve, "" for
    the embedded one. Raises StackError.
    """
    spoken = [phrase for clip in bench_clips.recordings() for phrase in bench_clips.phrases(clip)]
    speech = bench_clips.talk(spoken, 0, 60).audio
    with (
        tempfile.TemporaryDirectory(prefix="steno-bench-") as folder,
        redis_server.EmbeddedRedis() as redis,
        _paid(Path(folder), redis.url, at_once, model) as (stack, pids, tracker),
    ):
        pids["redis"] = redis.child.pid
        tell("warming up")
        _elsewhere(Crowd(tuple(stack.urls), speech, 4 * at_once, at_once, 1), stack.check)
        before = at_rest(stack, pids, redis)
        watch = Watch(stack, pids, _strikes(stack, sessions, restarts))
        started_s = time.monotonic()

        def meanwhile() -> None:
            tell(f"{watch.look()} of {sessions} sessions")

        outcomes = _elsewhere(Crowd(tuple(stack.urls), speech, sessions, at_once), meanwhile)
        seconds = time.monotonic() - started_s
        tell("waiting for keys to expire")
        after = at_rest(stack, pids | watch.pids, redis)
        counted_ms = sum(total.audio_ms for total in tracker.totals())
    memory = [row(name, found, watch.ended) for name, found in watch.readings.items()]
    return {
        "settings": {"sessions": sessions, "at_once": at_once, "restarts": restarts, "model": model},
        "method": METHOD,
        "memory": memory,
        "before": before,
        "after": after,
        "outcomes": outcomes,
        "seconds": round(seconds, 1),
        "usage_counted_s": round(counted_ms / 1000, 1),
        "restarted": watch.restarted,
        "leaks": leaks(before, after) + [f"{one['process']}: memory" for one in memory if one["grows"]],
        "readings": watch.readings,
    }


def row(name: str, readings: Sequence[Reading], ended: int) -> dict[str, Any]:
    """How the memory of one process went, over `ended` sessions in all."""
    low = floors([(at, kib) for at, kib in readings if at >= WARM * ended])
    slope, error = (1000 * value for value in slope_and_error(low))
    return {
        "process": name,
        "readings": len(readings),
        "first_mib": round(low[0][1] / 1024, 1) if low else None,
        "last_mib": round(low[-1][1] / 1024, 1) if low else None,
        "slope_kib_per_1000": round(slope, 1),
        "error": round(error, 1),
        "grows": slope - CERTAIN * error > FLAT_KIB,
    }


def floors(readings: Sequence[Reading]) -> list[tuple[float, float]]:
    """The lowest reading in each of `FLOORS` equal parts, where there is one."""
    if not readings:
        return []
    first, width = readings[0][0], (readings[-1][0] - readings[0][0]) / FLOORS or 1.0
    parts: dict[int, tuple[float, float]] = {}
    for at, kib in readings:
        part = min(FLOORS - 1, int((at - first) / width))
        parts[part] = min(parts.get(part, (float(at), kib)), (float(at), kib), key=lambda reading: reading[1])
    return [parts[part] for part in sorted(parts)]


def leaks(before: Mapping[str, Mapping[str, float]], after: Mapping[str, Mapping[str, float]]) -> list[str]:
    """What is left that should not be, as «where: what»."""
    kept = ("files", "tasks", "sessions_open", "slots_used", "session_keys", "endless_keys", "offers")
    return [
        f"{name}: {what}"
        for name, found in after.items()
        for what, count in found.items()
        if what in kept and count > before.get(name, {}).get(what, 0)
    ]


class Watch:
    """Memory of every process over sessions that have ended; `strikes`: at so many the service that is killed."""

    def __init__(self, stack: up.Stack, pids: dict[str, int], strikes: list[tuple[int, str]]) -> None:
        self.pids, self.readings = dict(pids), {name: list[Reading]() for name in pids}
        self.ended, self.restarted = 0, list[str]()
        self._stack, self._strikes = stack, strikes
        self._before = _ended(stack)
        self._lost = 0  # counted by nodes that were killed
        self._next_s = 0.0

    def look(self) -> int:
        """Sessions ended so far. Call it often."""
        self._stack.check()
        if time.monotonic() < self._next_s:
            return self.ended
        self._next_s = time.monotonic() + SAMPLE_S
        self.ended = max(self.ended, _ended(self._stack) + self._lost - self._before)
        for name, pid in self.pids.items():
            self.readings[name].append((self.ended, largest(pid).memory_info().rss / 1024))
        if self._strikes and self.ended >= self._strikes[0][0]:
            self._strike(self._strikes.pop(0)[1])
        return self.ended

    def _strike(self, name: str) -> None:
        before = _ended(self._stack)
        self._stack.restart(name)
        self._lost += max(0, before - _ended(self._stack))
        self.pids[name] = self._stack.pids[name]
        self.restarted.append(name)
        self.readings[name].clear()  # another process


def at_rest(
    stack: up.Stack, pids: Mapping[str, int], redis: redis_server.EmbeddedRedis
) -> dict[str, dict[str, float]]:
    """Every process, and Redis's keys, when nobody is served and what was used is counted. Raises StackFailed."""
    nodes = [name for name in pids if name.startswith("ingress")]
    for name in nodes:
        port = stack.probe_ports[name]
        bench_churn.until(
            lambda port=port: bench_churn.value(port, "steno_sessions_open") == 0,  # type: ignore[misc]
            30 + RESUME_WINDOW_S,
            f"sessions that do not end on {name}",
        )
    usage = stack.probe_ports["usage"]
    bench_churn.until(
        lambda: bench_churn.value(usage, "steno_usage_waiting") == 0, COUNTED_S, "usage not counted"
    )
    bench_churn.until_no_keys(redis, KEYS_GONE_S)
    time.sleep(1.5)  # the gauge of tasks is set once a second
    found = {name: _process(pid) for name, pid in pids.items()}
    for name in nodes:
        port = stack.probe_ports[name]
        found[name]["tasks"] = bench_churn.value(port, "steno_tasks")
        found[name]["sessions_open"] = bench_churn.value(port, "steno_sessions_open")
    for name in pids:
        if name.startswith("english"):
            found[name]["slots_used"] = sum(metric(stack.probe_ports[name], "steno_slots_used").values())
    keys = {"endless_keys": len(redis.endless_keys()), "session_keys": redis.count_keys("*session*")}
    found["redis"] |= keys | {"keys": redis.count_keys("*"), "offers": redis.stream_length("*offers:*")}
    return found


def _process(pid: int) -> dict[str, float]:
    process = largest(pid)
    with process.oneshot():
        unix = len(process.net_connections("unix"))
        return {
            "rss_kib": process.memory_info().rss // 1024,
            "files": process.num_fds() - unix,
            "unix_sockets": unix,
            "threads": process.num_threads(),
        }


def _ended(stack: up.Stack) -> int:
    nodes = [port for name, port in stack.probe_ports.items() if name.startswith("ingress")]
    return round(sum(sum(metric(port, "steno_sessions_total").values()) for port in nodes))


def _strikes(stack: up.Stack, sessions: int, restarts: int) -> list[tuple[int, str]]:
    names = [name for name in stack.pids if name.startswith(("english", "ingress"))]
    return [
        (round(sessions * number / (restarts + 1)), names[number % len(names)])
        for number in range(1, restarts + 1)
    ]


@contextlib.contextmanager
def _paid(
    folder: Path, redis_url: str, at_once: int, model: str
) -> Iterator[tuple[up.Stack, dict[str, int], Tracker]]:
    """A stack billed by usage, the processes of all its services, and what its tracker counts."""
    key, api_key, port = SigningKey.generate(), secrets.token_hex(16), up.free_port()
    write_key(key, folder / "private.pem", folder / "keys.json")
    issuer = Issuer(folder / "issuer.sqlite3", key)
    (folder / "license.jwt").write_text(issuer.mint(Terms("soak", 1, billing="usage")).token)
    book = {"TRACKER_BOOK": str(folder / "tracker.sqlite3"), "TRACKER_API_KEYS": api_key}
    words = [sys.executable, "-m", "cli.main", "tracker", "--with-parent"]
    tracker = Child(
        "tracker",
        words,
        book | {"TRACKER_PORT": str(port), "LOGGING_LEVEL": "WARNING"},
        folder / "tracker.log",
    )
    env = {
        "LICENSE_FILE_PATH": str(folder / "license.jwt"),
        "LICENSE_KEYS_PATH": str(folder / "keys.json"),
        "USAGE_TRACKER_URL": f"http://{up.LOCAL_HOST}:{port}",
        "USAGE_TRACKING_API_KEY": api_key,
        "SLOTS": str(2 * at_once),
        "RESUME_WINDOW_S": str(RESUME_WINDOW_S),
        "OVERLOAD_S": "60",  # what happens when there is too much to do is another benchmark's question
    } | ({"MODEL": model} if model else {})
    try:
        bench_churn.until(lambda: up.is_ready(port), up.READY_TIMEOUT_S, "a tracker that is not ready")
        with up.Stack(redis_url=redis_url, env=env, workers=WORKERS, nodes=NODES) as stack:
            yield stack, stack.pids | {"tracker": tracker.pid}, Tracker(folder / "tracker.sqlite3", [api_key])
    finally:
        tracker.stop(up.STOP_GRACE_S)


def _elsewhere(crowd: Crowd, meanwhile: Callable[[], object]) -> dict[str, int]:
    """How the crowd's sessions ended; it runs in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        future = pool.submit(bench_soak_crowd.run, crowd)
        while True:
            meanwhile()
            with contextlib.suppress(TimeoutError):
                return future.result(0.5)
