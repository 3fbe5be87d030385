"""`cli.up`: what is decided before and around the processes; the processes themselves are tests/system/test_up.py."""

import io
import signal
import socket

import pytest
from rich.console import Console

from cli import up
from cli.up import Stack, StackFailed
from wire.errors import SettingsError


@pytest.fixture
def taken_port():
    """A port that another program listens on."""
    with socket.socket() as other:
        other.bind((up.LOCAL_HOST, 0))
        other.listen()
        yield other.getsockname()[1]


def test_a_taken_port_is_named_with_a_way_out(taken_port) -> None:
    with pytest.raises(StackFailed, match=rf"port {taken_port} is in use.*--port {taken_port + 1}"):
        Stack(taken_port).start()


def test_a_taken_port_is_told_before_anything_is_started(taken_port) -> None:
    stack = Stack(taken_port)
    with pytest.raises(StackFailed):
        stack.start()
    assert stack.pids == {}


def test_a_free_port_is_none_that_a_connection_may_get_before_it_is_used() -> None:
    assert 1023 < up.free_port() < 32_768


@pytest.mark.parametrize("port", [-1, 65_536])
def test_what_is_no_port_is_told(port) -> None:
    with pytest.raises(SettingsError, match="0 to 65535"):
        up._check_port(up.LOCAL_HOST, port)


def test_an_address_that_is_not_ours_is_told() -> None:
    with pytest.raises(StackFailed, match=r"cannot listen on 192\.0\.2\.1 port 0"):
        up._check_port("192.0.2.1", 0)


@pytest.mark.parametrize(
    "host,url",
    [("127.0.0.1", "ws://localhost:9"), ("0.0.0.0", "ws://localhost:9"), ("10.0.0.5", "ws://10.0.0.5:9")],
)
def test_the_url_is_one_that_clients_can_use(host, url) -> None:
    assert Stack(9, host=host).url == url


def test_the_url_says_when_it_is_tls(monkeypatch) -> None:
    assert Stack(9, env={"TLS_CERT_FILE": "c.pem", "TLS_KEY_FILE": "k.pem"}).url == "wss://localhost:9"
    monkeypatch.setenv("TLS_CERT_FILE", "c.pem")
    assert Stack(9).url == "wss://localhost:9"


@pytest.mark.parametrize("pools", [["klingon"], ["english", "klingon"], []])
def test_unknown_pools_are_told_with_the_known_ones(pools) -> None:
    with pytest.raises(SettingsError, match=r"there are: .*english"):
        up.check_pools(pools)


def test_the_desk_s_defaults_give_way_to_the_operator_s(monkeypatch) -> None:
    for name in ("LOGGING_LEVEL", "DRAIN_GRACE_S", "THREADS"):
        monkeypatch.delenv(name, raising=False)
    assert up._defaults(verbose=False, workers=1).keys() == {"LOGGING_LEVEL", "DRAIN_GRACE_S", "THREADS"}
    monkeypatch.setenv("THREADS", "7")
    assert "THREADS" not in up._defaults(verbose=False, workers=1)


def test_sigterm_is_as_ctrl_c_and_only_meanwhile() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), up.signals_as_ctrl_c():
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_port_without_a_probe_is_not_ready(free_port) -> None:
    assert not up.is_ready(free_port())


def test_ready_lines_are_one_each() -> None:
    console = Console(file=io.StringIO(), width=100)
    announce = up.announcer(console)
    announce("english", "a model [of] words", 2.34)
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue().split() == ["ready", "english", "2.3", "s", "a", "model", "[of]", "words"]
