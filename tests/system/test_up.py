"""`steno up` as an operator meets it: real processes, real weights, started, stopped and killed."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest
from rich.console import Console

from cli import up
from cli.up import Stack, StackFailed

pytestmark = [pytest.mark.weights, pytest.mark.timeout(120)]

DATA = Path(__file__).parent.parent / "data"
READY_S = 60.0


@pytest.fixture(scope="module", autouse=True)
def weights() -> None:
    up.fetch_weights(Console(stderr=True))


class Up:
    """A running `steno up`, and what it has printed."""

    def __init__(self, output: Path, *words: str) -> None:
        self.output = output
        with output.open("wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "cli.main", "up", *words], stdout=file, stderr=subprocess.STDOUT
            )

    @property
    def text(self) -> str:
        return self.output.read_text()

    @property
    def url(self) -> str:
        found = re.search(r"serving (ws://\S+)", self.text)
        return found[1] if found else ""

    def family(self) -> list[psutil.Process]:
        process = psutil.Process(self.process.pid)
        while True:
            with contextlib.suppress(psutil.NoSuchProcess):  # one that ended while it was looked at
                return [process, *process.children(recursive=True)]


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    return [each for each in processes if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Up]]:
    """`start(*words)`: runs `steno up`. Whatever a test leaves is ended, and makes it fail."""
    started: list[Up] = []

    def run(*words: str) -> Up:
        started.append(Up(tmp_path / f"up-{len(started)}.txt", *words))
        return started[-1]

    yield run
    for each in started:
        left = each.process.poll() is None
        each.process.kill()
        each.process.wait()
        assert not left, f"still running: {each.text}"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_serves_until_it_is_asked_to_stop(number, start, wait_until_sync) -> None:
    stack = start("--port", "0")
    wait_until_sync(lambda: stack.url or stack.process.poll() is not None, within_s=READY_S)
    assert stack.process.poll() is None, stack.text
    ready = [line.split()[1] for line in stack.text.splitlines() if line.startswith("ready")]
    assert sorted(ready) == ["english", "ingress", "licensing", "redis"]

    heard = subprocess.run(
        [sys.executable, "-m", "cli.main", "transcribe", DATA / "hello_world.wav", "--endpoint", stack.url],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert heard.returncode == 0, heard.stderr
    assert re.sub(r"[^a-z\s]", "", heard.stdout.lower()).split() == ["hello", "world"]

    family = stack.family()
    assert len(family) >= 6  # itself, Redis and its keeper, licensing, the worker, the ingress
    stack.process.send_signal(number)
    assert stack.process.wait(30) == 0
    assert stack.text.splitlines()[-1] == "stopped"
    assert not alive(family)


def test_kill_9_leaves_nothing_behind(start, wait_until_sync) -> None:
    stack = start("--port", "0")
    wait_until_sync(lambda: stack.url, within_s=READY_S)
    family = stack.family()
    stack.process.kill()
    stack.process.wait()
    wait_until_sync(lambda: not alive(family), within_s=30)


def test_kill_9_during_the_start_leaves_nothing_behind(start, wait_until_sync) -> None:
    stack = start("--port", "0")
    wait_until_sync(lambda: len(stack.family()) >= 4, within_s=READY_S)
    family = stack.family()
    stack.process.kill()
    stack.process.wait()
    wait_until_sync(lambda: not alive(family), within_s=30)


def test_a_taken_port_is_told_and_nothing_is_left_running(start) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        stack = start("--port", str(port))
        assert stack.process.wait(30) == 1
    assert f"port {port} is in use" in stack.text
    assert "Traceback" not in stack.text


@pytest.mark.parametrize("victim", ["english", "ingress", "redis"])
def test_a_service_that_dies_is_told_and_the_rest_is_stopped(victim, wait_until_sync) -> None:
    with Stack() as stack:
        family = [psutil.Process(pid) for pid in stack.pids.values()]
        family += [child for each in family for child in each.children(recursive=True)]
        os.killpg(stack.pids[victim], signal.SIGKILL)
        with pytest.raises(StackFailed, match=rf"{victim} died \(signal SIGKILL\)"):
            stack.watch()
    assert not alive(family)


def test_a_service_that_cannot_start_is_told_in_its_own_words(tmp_path) -> None:
    stack = Stack(env={"MODEL": str(tmp_path)})
    with pytest.raises(StackFailed, match=r"(?s)english died \(exit code 3\).*config\.json"):
        stack.start()
    assert all(not psutil.pid_exists(pid) for pid in stack.pids.values())


def test_two_stacks_live_side_by_side() -> None:
    with Stack() as first, Stack() as second:
        assert first.url != second.url
        assert not set(first.pids.values()) & set(second.pids.values())
        assert first.probe_ports.keys() == {"licensing", "english", "ingress"}


def test_a_running_redis_can_be_used_instead(redis_url, namespace) -> None:
    with Stack(redis_url=redis_url, env={"NAMESPACE": namespace}) as stack:
        assert stack.pids.keys() == {"licensing", "english", "ingress"}
