"""A TCP proxy for tests and benchmarks, in threads of its own: what lies between two processes, to be made worse.

`cut` ends all connections and refuses new ones, as a dead host's neighbour does; `stall` lets bytes lie, as a network
does that has fallen apart: nobody is told. `resume` ends both. `delay_s` and `bytes_per_s` make it slow.
"""

import contextlib
import socket
import threading
import time
from types import TracebackType
from typing import Self

HOST = "127.0.0.1"
_CHUNK = 65_536


class Proxy:
    """Listens on a free port, on behalf of `port`. A context manager."""

    def __init__(self, port: int) -> None:
        #: How long bytes are under way, each direction, in seconds; how many pass a second (0: as many as come).
        self.delay_s, self.bytes_per_s = 0.0, 0
        self._target = port
        self._listener = socket.create_server((HOST, 0), backlog=128)
        self._flows = threading.Event()
        self._flows.set()
        self._cut = self._closed = False
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()

    @property
    def port(self) -> int:
        port: int = self._listener.getsockname()[1]
        return port

    @property
    def url(self) -> str:
        return f"redis://{HOST}:{self.port}/0"

    def cut(self) -> None:
        self._cut = True
        self._hang_up()

    def stall(self) -> None:
        self._flows.clear()

    def resume(self) -> None:
        self._cut = False
        self._flows.set()

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, name="proxy", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed = True
        self._flows.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._hang_up()

    def _accept(self) -> None:
        while not self._closed:
            try:
                near, _ = self._listener.accept()
                if self._cut:
                    near.close()
                    continue
                far = socket.create_connection((HOST, self._target), timeout=10)
            except OSError:
                if not self._closed:
                    with contextlib.suppress(OSError, UnboundLocalError):
                        near.close()
                continue
            far.settimeout(None)
            with self._lock:
                self._open |= {near, far}
            for one, other in ((near, far), (far, near)):
                threading.Thread(target=self._pump, args=(one, other), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(_CHUNK):
                self._hold_up(len(data))
                target.sendall(data)
        with self._lock:
            self._open -= {source, target}
        for end in (source, target):
            _close(end)

    def _hold_up(self, count: int) -> None:
        if self.delay_s:
            time.sleep(self.delay_s)
        if self.bytes_per_s:
            time.sleep(count / self.bytes_per_s)
        self._flows.wait()

    def _hang_up(self) -> None:
        with self._lock:
            ends, self._open = self._open, set()
        for end in ends:
            _close(end)


def _close(end: socket.socket) -> None:
    with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)  # wakes who reads from it
    end.close()
