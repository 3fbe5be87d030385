"""How long a service takes from its start to ready, and `steno --help` to its last line.

The time is from the call that starts the process; everything a user waits for is in it: the interpreter, imports,
settings, Redis, the first answer of the probe. What a process waits for that is not its own start is there before:
Redis, and for usage a licence that licensing has told of.
"""

import contextlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from cli import dues, redis_server, up
from cli.bench_figures import spread
from cli.child import Child, died_of

HELP = "--help"
#: What is started, and what it may take, in ms.
GOALS = {"ingress": 1_500.0, "licensing": 1_500.0, "usage": 1_500.0, HELP: 400.0}
READY_TIMEOUT_S = 60.0
_POLL_S = 0.002
METHOD = (
    "From the call that starts the process to the first answer of its probe that says ready, asked every 2 ms (for "
    "--help: to its end). One after the other, nothing else running; what is started takes turns. The first round only "
    "warms the system's file cache and is not counted. Redis runs already, empty each time; for usage licensing has "
    "told of a licence. Median of the rounds, with the least and the most."
)


def run(rounds: int, tell: Callable[[str], None]) -> dict[str, Any]:
    """Measure so many rounds. Raises StackError."""
    found: dict[str, list[float]] = {name: [] for name in GOALS}
    for number in range(rounds + 1):
        for name, times in found.items():
            tell(f"round {number} of {rounds}: {name}" if number else f"warm-up: {name}")
            took_ms = _help_ms() if name == HELP else _service_ms(name)
            if number:
                times.append(took_ms)
    return {
        "settings": {"rounds": rounds},
        "method": METHOD,
        "goals": GOALS,
        "measured": {name: [round(value, 1) for value in times] for name, times in found.items()},
        "results": {name: summary(name, times) for name, times in found.items()},
    }


def summary(name: str, times_ms: list[float]) -> dict[str, Any]:
    """One thing that was started, in numbers."""
    middle = round(median(times_ms), 1)
    return {"median_ms": middle, "spread_ms": spread(times_ms), "holds": middle <= GOALS[name]}


def _help_ms() -> float:
    started_s = time.monotonic()
    command = [sys.executable, "-m", "cli.main", HELP]
    subprocess.run(command, check=True, capture_output=True, stdin=subprocess.DEVNULL)
    return (time.monotonic() - started_s) * 1000


def _service_ms(name: str) -> float:
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="steno-bench-")))
        redis = stack.enter_context(redis_server.EmbeddedRedis())
        if name == "usage":
            stack.enter_context(ready("licensing", redis.url, folder))
        return stack.enter_context(ready(name, redis.url, folder))


@contextlib.contextmanager
def ready(name: str, redis_url: str, folder: Path, options: Sequence[str] = ()) -> Iterator[float]:
    """A service, ready while inside; the ms it took. `options` are the interpreter's; its log is NAME.log in `folder`.

    Raises StackFailed.
    """
    port = up.free_port()
    env = {
        "REDIS_URL": redis_url,
        "HOST": up.LOCAL_HOST,
        "PORT": str(up.free_port()),
        "PROBE_HOST": up.LOCAL_HOST,
        "PROBE_PORT": str(port),
        "LICENSE_REQUIRED": "false",
        **dues.local_license_variables({}),
    }
    command = [sys.executable, *options, "-m", "cli.main", name, "--with-parent"]
    started_s = time.monotonic()
    child = Child(name, command, env, folder / f"{name}.log")
    try:
        while not up.is_ready(port):
            if (code := child.exit_code) is not None:
                raise up.StackFailed(f"{name} died ({died_of(code)})\n{child.tail()}")
            if time.monotonic() - started_s > READY_TIMEOUT_S:
                raise up.StackFailed(f"{name} is not ready after {READY_TIMEOUT_S:.0f} s\n{child.tail()}")
            time.sleep(_POLL_S)
        yield (time.monotonic() - started_s) * 1000
    finally:
        child.stop(up.STOP_GRACE_S)
