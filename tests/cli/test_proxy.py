"""The proxy passes everything on, until it is told not to."""

import socket
import threading
from collections.abc import Iterator

import pytest

from cli.proxy import Proxy


@pytest.fixture
def echo_port() -> Iterator[int]:
    """A server that sends back what it gets, for one connection at a time."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    near, _ = listener.accept()
                except OSError:
                    return
                with near:
                    while data := near.recv(1000):
                        near.sendall(data)

        threading.Thread(target=serve, daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


def dial(proxy: Proxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.port), timeout=5)


def said_back(connection: socket.socket, text: bytes) -> bytes:
    connection.sendall(text)
    return connection.recv(1000)


def test_what_is_said_arrives_and_comes_back(echo_port: int) -> None:
    with Proxy(echo_port) as proxy, dial(proxy) as connection:
        proxy.delay_s, proxy.bytes_per_s = 0.001, 1_000_000
        assert said_back(connection, b"hello") == b"hello"


def test_a_cut_ends_connections_and_refuses_new_ones_until_it_is_mended(echo_port: int) -> None:
    with Proxy(echo_port) as proxy:
        with dial(proxy) as connection:
            assert said_back(connection, b"a") == b"a"
            proxy.cut()
            assert connection.recv(10) == b""
        with dial(proxy) as connection:
            assert connection.recv(10) == b""
        proxy.resume()
        with dial(proxy) as connection:
            assert said_back(connection, b"b") == b"b"


def test_what_is_said_into_a_stalled_line_arrives_once_it_flows(echo_port: int) -> None:
    with Proxy(echo_port) as proxy, dial(proxy) as connection:
        assert said_back(connection, b"a") == b"a"
        proxy.stall()
        connection.sendall(b"b")
        connection.settimeout(0.05)
        with pytest.raises(TimeoutError):
            connection.recv(10)
        proxy.resume()
        connection.settimeout(5)
        assert connection.recv(10) == b"b"


def test_nobody_behind_it_is_a_closed_connection(free_port) -> None:
    with Proxy(free_port()) as proxy, dial(proxy) as connection:
        assert connection.recv(10) == b""
