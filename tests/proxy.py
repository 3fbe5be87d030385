"""A TCP proxy whose line can be cut and put back, between a client of ours and what it speaks to."""

import contextlib
import socket
import struct
import threading
from types import TracebackType
from typing import Self

_RESET = struct.pack("ii", 1, 0)


class Proxy:
    """Listens on a port of its own and passes on to `target`, a port of this machine. A context manager.

    While cut, connections are reset, and new ones are closed as soon as they are there.
    """

    def __init__(self, target: int) -> None:
        self.target = target
        #: Connections that were passed on so far.
        self.passed = 0
        self._whole = True
        self._lines: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._threads = [threading.Thread(target=self._accept, daemon=True)]

    @property
    def port(self) -> int:
        port: int = self._listener.getsockname()[1]
        return port

    def cut(self) -> None:
        """Every connection breaks off, without a word, and no other is had."""
        with self._lock:
            self._whole = False
            lines, self._lines = self._lines, set()
        for line in lines:
            _reset(line)

    def restore(self) -> None:
        """New connections are passed on again."""
        with self._lock:
            self._whole = True

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(("127.0.0.1", self.target))
            except OSError:
                _reset(near)
                continue
            with self._lock:
                whole = self._whole
                if whole:
                    self.passed += 1
                    self._lines |= {near, far}
            if not whole:
                _reset(near)
                _reset(far)
                continue
            for source, sink in ((near, far), (far, near)):
                thread = threading.Thread(target=self._pass_on, args=(source, sink), daemon=True)
                self._threads.append(thread)
                thread.start()

    def _pass_on(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:  # reset, from either side: so is the other
            _reset(source)
            _reset(sink)


def _reset(line: socket.socket) -> None:
    with contextlib.suppress(OSError):
        line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        line.shutdown(socket.SHUT_RDWR)  # wakes who reads from it
    line.close()
