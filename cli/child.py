"""A child process that never outlives its parent, however the parent ends.

The parent holds the writing end of a pipe that is the child's standard input: the lifeline. The system closes it
when the parent is gone, also by SIGKILL, and the child sees the end of the file. Our own services watch it in a
thread (`exit_with_parent`); a program that knows nothing of it runs under this module (`python -m cli.child ...`).

Children live in sessions of their own, so that Ctrl-C on a terminal reaches the parent only, which then stops them
in order.
"""

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

#: How long an orphan may take to stop in good order.
ORPHAN_GRACE_S = 5.0
#: How much of a log is shown when its child died.
TAIL_LINES = 15
_TAIL_BYTES = 16_384

_HOST = "127.0.0.1"
#: Where ports of children are looked for: below those that the system gives to connections (Linux: from 32,768), one of
#: which might come between the look and the child.
_PORTS = range(20_000, 32_000)
#: Those of late.
_GIVEN = deque[int](maxlen=4_096)


def free_ports(count: int) -> list[int]:
    """Ports of this machine that nobody listens on, nor on those 10,000 above, where the nodes of a cluster talk."""
    found: list[int] = []
    while len(found) < count:
        port = random.choice(_PORTS)
        if port in _GIVEN:  # whoever it was meant for may not have started yet
            continue
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
            for one in (port, port + 10_000):
                stack.enter_context(socket.create_server((_HOST, one)))
            found.append(port)
            _GIVEN.append(port)
    return found


class Child:
    """A running child. Start it by constructing; end it with `stop`."""

    def __init__(
        self, name: str, command: Sequence[str], env: Mapping[str, str] | None = None, log: Path | None = None
    ) -> None:
        """Start `command`; its output goes to the file `log`, or to our own standard error."""
        self.name = name
        self.log = log
        with contextlib.ExitStack() as files:
            output = files.enter_context(log.open("ab")) if log else sys.__stderr__
            self._process = subprocess.Popen(
                list(command),
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                env={**os.environ, **(env or {})},
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs; negative: the signal that ended it."""
        return self._process.poll()

    def terminate(self) -> None:
        """Ask it to stop in good order; returns at once."""
        if self.exit_code is None:
            self._process.terminate()

    def wait(self, timeout_s: float) -> bool:
        """Whether it ended within `timeout_s`."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout_s)
        return self.exit_code is not None

    def kill(self) -> None:
        """End it and whatever it started, at once."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()
        self._let_go()

    def stop(self, grace_s: float) -> None:
        """Ask, wait, and end it by force when the grace is over."""
        self.terminate()
        if not self.wait(grace_s):
            self.kill()
        self._let_go()

    def tail(self) -> str:
        """The last lines it wrote, for telling why it died; empty where they went to the terminal."""
        if self.log is None:
            return ""
        with self.log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
            lines = file.read().decode(errors="replace").splitlines()
        return "\n".join(lines[-TAIL_LINES:])

    def _let_go(self) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()


def died_of(exit_code: int) -> str:
    """An exit code in words."""
    if exit_code >= 0:
        return f"exit code {exit_code}"
    with contextlib.suppress(ValueError):
        return f"signal {signal.Signals(-exit_code).name}"
    return f"signal {-exit_code}"


def exit_with_parent() -> None:
    """For a service started as a `Child`: when the parent is gone, stop as on SIGTERM, by force after a grace."""

    def stop() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(ORPHAN_GRACE_S)
        os._exit(1)

    _on_end_of_input(stop)


def _on_end_of_input(act: Callable[[], None]) -> None:
    """Call `act` in a thread when standard input ends."""
    lifeline = sys.__stdin__.fileno() if sys.__stdin__ else 0

    def watch() -> None:
        while os.read(lifeline, 4096):
            pass
        act()

    threading.Thread(target=watch, name="lifeline", daemon=True).start()


def keep(command: Sequence[str]) -> int:
    """Run a foreign program until it ends, until SIGTERM, or until the parent is gone; its exit code."""
    process = subprocess.Popen(list(command), stdin=subprocess.DEVNULL)

    def stop() -> None:
        process.terminate()
        try:
            process.wait(ORPHAN_GRACE_S)
        except subprocess.TimeoutExpired:
            process.kill()

    signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    _on_end_of_input(stop)
    return process.wait()


if __name__ == "__main__":
    sys.exit(keep(sys.argv[1:]))
