"""The reference servers' HTTP: JSON in, JSON out, and what is too long, too slow or no JSON touches nothing."""

import json
import socket
import threading
from collections.abc import Iterator

import pytest
import requests

from wire import web
from wire.errors import SettingsError
from wire.web import MAX_BODY_BYTES, Ask, Tell, WebServer


@pytest.fixture
def asked() -> list[Ask]:
    return []


@pytest.fixture
def server(asked: list[Ask]) -> Iterator[WebServer]:
    def answer(ask: Ask) -> Tell:
        asked.append(ask)
        if ask.path == "/bug":
            raise ZeroDivisionError
        return Tell(200, "a,b\n", "text/csv") if ask.path == "/csv" else Tell(200, {"asked": ask.path})

    with WebServer("127.0.0.1", 0, answer) as running:
        yield running


def test_a_get_and_a_post(server, asked):
    assert requests.get(f"{server.url}/x", timeout=5).json() == {"asked": "/x"}
    answer = requests.post(
        f"{server.url}/y", json={"a": 1}, headers={"Authorization": "Bearer  k "}, timeout=5
    )
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "application/json")
    assert asked == [Ask("GET", "/x"), Ask("POST", "/y", {"a": 1}, "k")]


def test_text_of_another_kind(server):
    answer = requests.get(f"{server.url}/csv", timeout=5)
    assert (answer.text, answer.headers["Content-Type"]) == ("a,b\n", "text/csv")


@pytest.mark.parametrize(
    "body,headers,status",
    [
        (b"", {}, 400),
        (b"no json", {}, 400),
        (b"[1]", {}, 400),
        (b"[" * 100_000, {}, 400),
        (b"\xff", {}, 400),
        (b"{}", {"Content-Length": "-5"}, 411),
        (b"{}", {"Content-Length": "many"}, 411),
        (b"{}", {"Content-Length": str(MAX_BODY_BYTES + 1)}, 413),
    ],
)
def test_what_is_no_body_is_refused_unasked(server, asked, body, headers, status):
    request = requests.Request("POST", f"{server.url}/y", data=body).prepare()
    request.headers.update({"Content-Length": str(len(body)), **headers})
    with requests.Session() as session:
        answer = session.send(request, timeout=5)
    assert answer.status_code == status
    assert "error" in answer.json()
    assert asked == []


def test_a_bug_is_told_in_two_words_only(server, caplog):
    answer = requests.get(f"{server.url}/bug", timeout=5)
    assert (answer.status_code, answer.json()) == (500, {"error": "internal error"})
    assert "ZeroDivisionError" in caplog.text
    assert requests.get(f"{server.url}/x", timeout=5).ok


def test_a_client_that_says_nothing_is_let_go(monkeypatch):
    monkeypatch.setattr(web._Request, "timeout", 0.05)
    with (
        WebServer("127.0.0.1", 0, lambda _: Tell(200, {})) as server,
        socket.create_connection(("127.0.0.1", server.server_port)) as client,
    ):
        client.settimeout(5)
        assert client.recv(1) == b""


def test_no_more_at_once_than_there_is_room_for(monkeypatch):
    monkeypatch.setattr(web, "MAX_THREADS", 2)
    inside, most, lock, release = [0], [0], threading.Lock(), threading.Event()

    def answer(_: Ask) -> Tell:
        with lock:
            inside[0] += 1
            most[0] = max(most[0], inside[0])
            full = inside[0] == 2
        if full:
            release.set()
        release.wait(5)
        with lock:
            inside[0] -= 1
        return Tell(200, {})

    with WebServer("127.0.0.1", 0, answer) as server:
        threads = [
            threading.Thread(target=requests.get, args=(server.url,), kwargs={"timeout": 5}) for _ in range(6)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert most[0] == 2


def test_a_taken_port_is_told(server):
    with pytest.raises(SettingsError, match=f"port {server.server_port}"):
        WebServer("127.0.0.1", server.server_port, lambda _: Tell(200, {}))


def test_a_stopped_server_has_freed_its_port():
    server = WebServer("127.0.0.1", 0, lambda _: Tell(200, {})).start()
    port = server.server_port
    server.stop()
    with WebServer("127.0.0.1", port, lambda _: Tell(200, {})) as again:
        assert json.loads(requests.get(again.url, timeout=5).text) == {}
