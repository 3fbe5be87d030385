"""The whole stack on this machine: Redis, licensing, workers of each pool and the ingress, as processes of their own.

`Stack` is for programs (the demo, the tests, the benchmarks), `run` is the command `steno up`. However the program
that holds a Stack ends, the stack's processes end with it (`cli.child`).
"""

import contextlib
import http.client
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.markup import escape

from cli import dues, models, redis_server
from cli.child import Child, died_of, free_ports
from console.settings import ConsoleSettings, url
from wire import service
from wire.errors import SettingsError, StackError
from workers.entry import POOLS
from workers.settings import DUMMY, WorkerSettings

DEFAULT_PORT = 8080
LOCAL_HOST = "127.0.0.1"
#: Loading and warming up a model on a slow laptop.
READY_TIMEOUT_S = 180.0
#: How long sessions and processes may take to end on a stop.
STOP_GRACE_S = 10.0
_POLL_S = 0.05

#: Told about each service that is ready: its name, what it is, and the seconds it took.
Announce = Callable[[str, str, float], None]


class StackFailed(StackError):
    """The stack cannot start or cannot go on; the message says why and what to do."""


class Stack:
    """Everything that a client needs, running. A context manager: ready when entered, gone when left.

    `port` 0 takes any free one; `env` are variables for the services on top of ours; each pool has so many `workers`.
    Raises StackFailed, redis_server.RedisServerError, or SettingsError when entered. Fetch the weights before
    (`fetch_weights`). Of several ingress `nodes` the first has the `port`, and the others any free one.
    """

    def __init__(  # noqa: PLR0913 each is a choice of whoever runs a stack
        self,
        port: int = 0,
        pools: Sequence[str] = ("english",),
        host: str = LOCAL_HOST,
        redis_url: str | None = None,
        env: Mapping[str, str] | None = None,
        verbose: bool = False,
        announce: Announce | None = None,
        workers: int = 1,
        *,
        console: bool = False,
        nodes: int = 1,
        redis_mb: int = redis_server.MAX_MEMORY_MB,
    ) -> None:
        self.host = host
        self.port = port
        self.pools = tuple(dict.fromkeys(pools))
        #: Service -> the port of its probe (/health, /metrics) on this machine.
        self.probe_ports: dict[str, int] = {}
        self._redis_url = redis_url
        self._env = _defaults(verbose, workers * len(self.pools)) | dict(env or {})
        self._workers = workers
        self._console = console
        self._nodes = nodes
        self._redis_mb = redis_mb
        #: Of each ingress node, once started.
        self.ports: list[int] = []
        #: Where browsers connect, once started with a console.
        self.console_url = ""
        self._verbose = verbose
        self._announce = announce
        self._redis: redis_server.EmbeddedRedis | None = None
        self._services: dict[str, Child] = {}
        self._whats: dict[str, str] = {}
        self._again: dict[str, Callable[[], Child]] = {}
        self._folder: Path | None = None

    @property
    def url(self) -> str:
        """Where clients connect."""
        return self._url(self.port)

    @property
    def urls(self) -> list[str]:
        """The same of each ingress node."""
        return [self._url(port) for port in self.ports]

    def _url(self, port: int) -> str:
        name = "localhost" if self.host in (LOCAL_HOST, "0.0.0.0", "::") else self.host  # noqa: S104 a comparison
        scheme = "wss" if self._env.get("TLS_CERT_FILE", os.environ.get("TLS_CERT_FILE")) else "ws"
        return f"{scheme}://{name}:{port}"

    @property
    def pids(self) -> dict[str, int]:
        """Service -> process id; `redis` is its keeper's (`cli.child`)."""
        redis = {"redis": self._redis.child.pid} if self._redis else {}
        return redis | {name: child.pid for name, child in self._services.items()}

    def start(self) -> None:
        """Start everything and wait until it is ready; on failure, or Ctrl-C, nothing is left running."""
        try:
            self._start()
        except BaseException:
            self.stop()
            raise

    def stop(self, grace_s: float = STOP_GRACE_S) -> None:
        """Let sessions end, then stop all; by force after `grace_s`, or at once on a second Ctrl-C."""
        try:
            for child in reversed(list(self._services.values())):  # the ingress first: it tells its clients
                child.stop(grace_s)
        finally:
            for child in self._services.values():
                if child.exit_code is None:
                    child.kill()
            if self._redis:
                self._redis.stop()
            if self._folder:
                shutil.rmtree(self._folder, ignore_errors=True)

    def check(self) -> None:
        """Raises StackFailed if a process of ours has died."""
        children = list(self._services.values()) + ([self._redis.child] if self._redis else [])
        for child in children:
            if (code := child.exit_code) is not None:
                raise StackFailed(f"{child.name} died ({died_of(code)})\n{child.tail()}".rstrip())

    def restart(self, name: str, patience_s: float = 0.0) -> None:
        """Begin a service anew, once it has ended by itself or by force after so long, and wait until it is ready."""
        self._services[name].wait(patience_s)
        self._services[name].kill()
        started_s = time.monotonic()
        self._services[name] = self._again[name]()
        self._wait([name], started_s)

    def wait_until_ready(self) -> None:
        """Until every service says that it is ready. Raises StackFailed."""
        self._wait(self._services, time.monotonic())

    def watch(self) -> None:
        """Block for as long as all is well. Raises StackFailed when it is not."""
        while True:
            self.check()
            time.sleep(4 * _POLL_S)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _start(self) -> None:
        _check_port(self.host, self.port)
        self.port = self.port or free_port()
        self._folder = Path(tempfile.mkdtemp(prefix="steno-up-"))
        redis_url = self._redis_url or self._start_redis()
        started_s = time.monotonic()
        self._start_dues(redis_url)
        settings = service.load(WorkerSettings)
        for pool in self.pools:
            what = f"{settings.model_of(pool)}, {settings.slots} slots"
            for number in range(1, self._workers + 1):
                name = f"{pool}-{number}" if self._workers > 1 else pool
                self._spawn(name, what, ["worker", pool], {"REDIS_URL": redis_url})
        self.ports = [self.port, *(free_port() for _ in range(1, self._nodes))]
        for number, port in enumerate(self.ports, start=1):
            name = f"ingress-{number}" if number > 1 else "ingress"
            where = {"HOST": self.host, "PORT": str(port), "REDIS_URL": redis_url}
            self._spawn(name, self._url(port), ["ingress"], where)
        if self._console:
            self._start_console(redis_url)
        self._wait(self._services, started_s)

    def _start_redis(self) -> str:
        started_s = time.monotonic()
        self._redis = redis_server.EmbeddedRedis(log=self._log("redis"), memory_mb=self._redis_mb)
        self._redis.start()
        self._tell("redis", f"{self._redis.url}, in memory, for this stack only", started_s)
        return self._redis.url

    def _wait(self, names: Iterable[str], started_s: float) -> None:
        """Until they are ready."""
        waiting = dict.fromkeys(names)
        while waiting:
            self.check()
            for name in [name for name in waiting if is_ready(self.probe_ports[name])]:
                del waiting[name]
                self._tell(name, self._whats[name], started_s)
            if time.monotonic() - started_s > READY_TIMEOUT_S:
                raise StackFailed(f"not ready after {READY_TIMEOUT_S:.0f} s: {', '.join(waiting)}")
            time.sleep(_POLL_S)

    def _start_dues(self, redis_url: str) -> None:
        """Licensing; usage where there is a tracker to tell."""
        env, where = {**os.environ, **self._env}, {"REDIS_URL": redis_url}
        local = dues.local_license_variables(env)
        what = "a local licence: of this machine for itself" if local else env["LICENSE_FILE_PATH"]
        self._spawn("licensing", what, ["licensing"], local | where)
        if tracker := env.get("USAGE_TRACKER_URL"):
            self._spawn("usage", tracker, ["usage"], where)

    def _start_console(self, redis_url: str) -> None:
        """The web console, which knows where the other services' metrics are."""
        settings = service.load(ConsoleSettings)
        port = int(self._env.get("CONSOLE_PORT", settings.console_port)) or free_port()
        self.console_url = url(settings.console_host, port)
        metrics = ",".join(f"http://{LOCAL_HOST}:{port}/metrics" for port in self.probe_ports.values())
        where = {
            "REDIS_URL": redis_url,
            "CONSOLE_PORT": str(port),
            "CONSOLE_INGRESS_URL": self.url,
            "CONSOLE_METRICS_URLS": metrics,
        }
        self._spawn("console", self.console_url, ["console"], where)

    def _spawn(self, name: str, what: str, command: Sequence[str], env: Mapping[str, str]) -> None:
        self._whats[name] = what
        self.probe_ports[name] = free_port()
        variables = {**self._env, **env, "PROBE_HOST": LOCAL_HOST, "PROBE_PORT": str(self.probe_ports[name])}
        words = [sys.executable, "-m", "cli.main", *command, "--with-parent"]
        self._again[name] = partial(Child, name, words, variables, self._log(name))
        self._services[name] = self._again[name]()

    def _tell(self, name: str, what: str, started_s: float) -> None:
        if self._announce:
            self._announce(name, what, time.monotonic() - started_s)

    def _log(self, name: str) -> Path | None:
        """Where a service's output goes; None: to the terminal."""
        return None if self._verbose or self._folder is None else self._folder / f"{name}.log"


def run(
    port: int,
    pools: Sequence[str],
    host: str,
    redis_url: str | None,
    verbose: bool,
    workers: int,
    console: Console,
    with_console: bool = False,
) -> None:
    """`steno up`: serve until Ctrl-C or SIGTERM. Raises StackError."""
    check_pools(pools)
    with signals_as_ctrl_c():
        try:
            _check_port(host, port)  # before a long download
            fetch_weights(console, with_redis=redis_url is None, pools=pools)
            announce = announcer(console)
            stack = Stack(
                port, pools, host, redis_url, None, verbose, announce, workers, console=with_console
            )
            with stack:
                console.print(f"\n[bold]serving {stack.url}[/]   Ctrl-C stops", highlight=False)
                console.print("[dim]try, in another terminal:  steno transcribe FILE   or   steno mic[/]")
                stack.watch()
        except KeyboardInterrupt:
            console.print("stopped")


def fetch_weights(console: Console, with_redis: bool = True, pools: Sequence[str] = ("english",)) -> None:
    """What a stack needs, fetched where it is missing. Raises WeightsError, RedisServerError, SettingsError."""
    settings = service.load(WorkerSettings)
    wanted = [name for name in map(settings.model_of, pools) if not name.startswith(DUMMY)]
    models.fetch([*dict.fromkeys(wanted), settings.vad], console)
    if with_redis:
        with models.progress_bar("redis-server", console) as progress:
            redis_server.find(progress)


def announcer(console: Console) -> Announce:
    """One line per service that is ready."""

    def announce(name: str, what: str, seconds: float) -> None:
        console.print(
            f"[green]ready[/]  {name:<10} {seconds:5.1f} s   [dim]{escape(what)}[/]", highlight=False
        )

    return announce


def check_pools(pools: Sequence[str]) -> None:
    """Raises SettingsError for a pool that nobody serves."""
    known = sorted(POOLS)
    unknown = [pool for pool in pools if pool not in known]
    if unknown or not pools:
        raise SettingsError(
            f"no such pool: {', '.join(unknown) or '(none given)'}; there are: {', '.join(known)}"
        )


@contextlib.contextmanager
def signals_as_ctrl_c() -> Iterator[None]:
    """SIGTERM, and the terminal's end, stop us as Ctrl-C does."""
    numbers = (signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, signal.default_int_handler) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def _check_port(host: str, port: int) -> None:
    """Raises StackFailed if the port (0: any) cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen()
        except PermissionError:
            raise StackFailed(
                f"port {port} needs more rights; choose one above 1023: --port {DEFAULT_PORT}"
            ) from None
        except OverflowError:
            raise SettingsError(f"port {port}: a port is a number from 0 to 65535") from None
        except OSError as error:
            raise StackFailed(_why_no_port(host, port, error)) from None


def _why_no_port(host: str, port: int, error: OSError) -> str:
    if "in use" in str(error):
        return f"port {port} is in use by another program; choose another, for example: steno up --port {port + 1}"
    return f"cannot listen on {host} port {port}: {os.strerror(error.errno) if error.errno else error}"


def free_port() -> int:
    """A port of this machine that nobody listens on, for a service that is about to start."""
    return free_ports(1)[0]


def _defaults(verbose: bool, workers: int) -> dict[str, str]:
    """What suits a desk better than the services' own defaults, unless the operator has set it."""
    level = "INFO" if verbose else "WARNING"
    wanted = {
        "LOGGING_LEVEL": level,
        "DRAIN_GRACE_S": "0",  # everything ends, so there is nobody to hand over to, and nothing to wait for
        # Threads of one model wait for each other many times a step: where one core is busy with something else, as on
        # a desk, a model on all cores was measured 20 times slower than on half of them. `workers` share these.
        "THREADS": str(max(1, (os.cpu_count() or 1) // max(1, 2 * workers))),
    }
    return {name: value for name, value in wanted.items() if name not in os.environ}


def is_ready(port: int) -> bool:
    """Whether the probe on this port answers that its service is ready."""
    connection = http.client.HTTPConnection(LOCAL_HOST, port, timeout=2)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
