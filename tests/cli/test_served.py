"""`cli.served`: what it prints of what a server says; real ingress nodes and servers that are none."""

import io
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from rich.console import Console

from cli import served, up
from cli.served import NotAnswered

PAGE = {
    "default_speech_model": "universal-streaming-english",
    "age_s": 0.4,
    "pools": [
        {
            "pool": "english",
            "deployed": True,
            "speech_models": ["universal-streaming-english"],
            "models": ["moonshine-tiny-en"],
            "licences": ["MIT"],
            "languages": ["en"],
            "workers": 2,
            "slots": 32,
            "free": 31,
            "waiting": 5,
            "load": 0.031,
            "backlog_ms": 0,
        },
        {
            "pool": "multilang",
            "deployed": True,
            "speech_models": ["universal-streaming-multilingual", "whisper-rt"],
            "models": ["a [model]"],
            "licences": [],
            "languages": [f"l{number}" for number in range(99)],
            "workers": 1,
            "slots": 4,
            "free": 0,
            "waiting": 0,
            "load": 1.0,
            "backlog_ms": 90,
        },
        {
            "pool": "u3pro",
            "deployed": False,
            "speech_models": ["u3-rt-pro"],
            "models": [],
            "licences": [],
            "languages": [],
            "workers": 0,
            "slots": 0,
            "free": 0,
            "waiting": 0,
            "load": None,
            "backlog_ms": 0,
        },
    ],
}


@pytest.fixture
def console() -> Console:
    return Console(file=io.StringIO(), width=160)


def shown(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.fixture
def answering() -> Iterator[Callable[[int, str], str]]:
    """`answering(status, body)`: the address of a server that answers every GET so."""
    servers: list[tuple[HTTPServer, threading.Thread]] = []

    def start(status: int, body: str) -> str:
        class Answer(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(status)
                self.end_headers()
                self.wfile.write(body.encode())

            def log_message(self, *words: object) -> None:
                pass

        server = HTTPServer(("127.0.0.1", 0), Answer)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        servers.append((server, thread))
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server, thread in servers:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_row_for_each_pool(console) -> None:
    served.show(PAGE, "ws://localhost:8080", console)
    lines = shown(console).splitlines()
    english = next(line for line in lines if line.startswith("english"))
    for part in (
        "universal-streaming-english *",
        "moonshine-tiny-en",
        "MIT",
        " en ",
        "31 of 32",
        " 5 ",
        " 2",
    ):
        assert part in english
    multilang = next(line for line in lines if line.startswith("multilang"))
    assert all(part in multilang for part in ("a [model]", " 99 ", "0 of 4"))
    assert "whisper-rt" in shown(console)
    assert "not deployed" in next(line for line in lines if line.startswith("u3pro"))
    assert "0.4 s ago" in lines[-1]


def test_json_is_what_the_server_said(console, answering) -> None:
    served.run(answering(200, json.dumps(PAGE)), "key", True, console)
    assert json.loads(shown(console)) == PAGE


def test_nobody_there(free_port) -> None:
    with pytest.raises(NotAnswered, match=r"nothing answers at ws://localhost:.*steno up"):
        served.ask(f"ws://localhost:{free_port()}", "key")


@pytest.mark.parametrize("url", ["localhost:8080", "ftp://h", "ws://", "", "ws://h:many", "ws://h:99999"])
def test_an_address_that_is_none(url) -> None:
    with pytest.raises(NotAnswered, match="no server's address"):
        served.ask(url, "key")


@pytest.mark.parametrize(
    "status,body,told",
    [
        (404, "Not found\n", "not as a steno server that tells its models (status 404)"),
        (200, "[]", "not as a steno server"),
        (200, "{}", "no reason told"),
        (401, '{"error": "Invalid API key"}', "does not say: Invalid API key (status 401)"),
        (503, '{"error": "The server is not ready"}', "not ready (status 503)"),
    ],
)
def test_what_a_server_says_instead_is_told(status, body, told, answering) -> None:
    with pytest.raises(NotAnswered) as caught:
        served.ask(answering(status, body), "key")
    assert told in str(caught.value)


def test_a_key_that_no_header_can_hold(answering) -> None:
    with pytest.raises(NotAnswered, match="cannot ask"):
        served.ask(answering(200, "{}"), "a\nb")


@pytest.mark.weights
def test_a_real_stack_tells_what_it_serves(console, wait_until_sync) -> None:
    with up.Stack(env={"SLOTS": "3", "API_KEYS": "secret-key-1"}) as stack:
        wait_until_sync(lambda: _told(stack.url))
        served.run(stack.url, "secret-key-1", False, console)
        with pytest.raises(NotAnswered, match="Invalid API key"):
            served.ask(stack.url, "another")
    english = next(line for line in shown(console).splitlines() if line.startswith("english"))
    assert all(part in english for part in ("moonshine-tiny-en", "MIT", " en ", "3 of 3"))
    assert shown(console).count("not deployed") == 2


def _told(url: str) -> bool:
    """A node reads workers' reports every two seconds."""
    try:
        return any(pool["deployed"] for pool in served.ask(url, "secret-key-1")["pools"])
    except NotAnswered:
        return False
