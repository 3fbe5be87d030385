"""What every test may ask for: a Redis of its own, a loop, conditions to wait for, ports, a clock.

Tests are plain functions; asynchronous code runs through `run`, on the loop the services use, in asyncio's debug mode.
Nobody sleeps: `wait_until` waits for a condition, `clock` is turned by hand.

Redis is a real server, started once for the whole run. Without one, tests that need it are skipped on a laptop and
fail where `CI=true`.
"""

import asyncio
import inspect
import os
import sys
import time
import uuid
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import Any

import pytest
import redis
from hypothesis import settings

from cli.child import free_ports
from cli.redis_server import EmbeddedRedis
from wire.errors import StackError
from wire.keys import Keys
from wire.service import new_event_loop
from wire.streams import Bus

IN_CI = os.environ.get("CI", "").lower() == "true"

settings.register_profile("laptop", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.register_profile("night", deadline=None, max_examples=2_000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if IN_CI else "laptop"))

#: How long a test waits for what must happen, in seconds; a slow machine stretches it.
PATIENCE_S = 10.0 * float(os.environ.get("TEST_PATIENCE", "1"))
_POLL_S = 0.005


# ---------------------------------------------------------------------------------------------------------------------
# Redis


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """URL of the run's Redis. Take `namespace` or `keys` as well, so that nothing is left behind."""
    try:
        server = EmbeddedRedis()
        server.start()
    except (StackError, OSError) as error:
        missing = f"no Redis for the tests: {error}"
        if IN_CI:
            pytest.fail(missing)
        pytest.skip(missing)
    try:
        yield server.url
    finally:
        server.stop()


@pytest.fixture
def namespace(redis_url: str) -> Iterator[str]:
    """A Redis namespace for this test alone. Afterwards each key in it must be on its way out."""
    name = f"test-{uuid.uuid4().hex[:12]}"
    yield name
    with redis.Redis.from_url(redis_url) as client:
        left = list(client.scan_iter(match=Keys(name).everything(), count=1000))
        immortal = sorted(key.decode() for key in left if client.ttl(key) == -1)
        if left:
            client.delete(*left)
    assert not immortal, f"keys without an expiry: {immortal}"


@pytest.fixture
def keys(namespace: str) -> Keys:
    return Keys(namespace)


@pytest.fixture
def bus(redis_url: str, keys: Keys, run: "Run") -> Iterator[Bus]:
    """A bus on the test's own namespace; use it inside `run`."""
    opened = Bus(redis_url, keys)
    yield opened
    run(opened.close())


# ---------------------------------------------------------------------------------------------------------------------
# time

Run = Callable[[Coroutine[Any, Any, Any]], Any]


@pytest.fixture
def run() -> Iterator[Run]:
    """Runs a coroutine to its end and returns its result; one loop for all calls of a test, no task left behind."""
    with asyncio.Runner(debug=True, loop_factory=new_event_loop) as runner:
        # Debug mode also logs callbacks that took long, which on a busy machine any may.
        runner.get_loop().slow_callback_duration = float("inf")
        yield runner.run
        left = asyncio.all_tasks(runner.get_loop())
    assert not left, f"tasks left running: {left}"


async def _wait_until(condition: Callable[[], Any], within_s: float = PATIENCE_S) -> Any:
    """Wait until `condition()`, or what it returns once awaited, is true; that value. Fails after `within_s`."""
    deadline = time.monotonic() + within_s
    while True:
        found = condition()
        if inspect.isawaitable(found):
            found = await found
        if found:
            return found
        if time.monotonic() > deadline:
            pytest.fail(f"waited {within_s:g} s in vain for {_source(condition)}")
        await asyncio.sleep(_POLL_S)


def _wait_until_sync(condition: Callable[[], Any], within_s: float = PATIENCE_S) -> Any:
    deadline = time.monotonic() + within_s
    while not (found := condition()):
        if time.monotonic() > deadline:
            pytest.fail(f"waited {within_s:g} s in vain for {_source(condition)}")
        time.sleep(_POLL_S)
    return found


def _source(condition: Callable[[], Any]) -> str:
    try:
        return inspect.getsource(condition).strip()
    except (OSError, TypeError):
        return repr(condition)


@pytest.fixture
def wait_until() -> Callable[..., Awaitable[Any]]:
    """`await wait_until(condition, within_s=10)`: polls a function, which may be asynchronous, until it is true."""
    return _wait_until


@pytest.fixture
def wait_until_sync() -> Callable[..., Any]:
    """The same for tests without a loop, such as those that watch other processes."""
    return _wait_until_sync


class Clock:
    """A clock that moves only when told to. Call it for the time in seconds."""

    def __init__(self, now_s: float = 1_000_000.0) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        return self.now_s

    def advance(self, seconds: float) -> float:
        """Let `seconds` pass; the new time."""
        self.now_s += seconds
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


# ---------------------------------------------------------------------------------------------------------------------
# network


@pytest.fixture
def calls() -> Callable[[Callable[[], Any]], int]:
    """How many functions, of Python and C, one call runs: what a hot path costs, on whatever machine."""

    def count(what: Callable[[], Any]) -> int:
        seen = 0

        def notice(_frame: Any, event: str, _argument: Any) -> None:
            nonlocal seen
            seen += event in ("call", "c_call")

        before = sys.getprofile()
        sys.setprofile(notice)
        try:
            what()
        finally:
            sys.setprofile(before)
        return seen

    return count


@pytest.fixture
def free_port() -> Callable[[], int]:
    """`free_port()`: a TCP port of this machine that nobody listens on."""
    return lambda: free_ports(1)[0]
