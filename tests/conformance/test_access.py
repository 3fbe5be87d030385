"""Who may connect to a real stack with keys and TLS: the official Python SDK, unmodified, and a bare WebSocket.

The SDK asks for tokens at `https://` and the bare host, so that only a stack with TLS can serve it (protocol 1.4).
"""

import http.client
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from assemblyai.streaming.v3 import StreamingClient, StreamingClientOptions
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from cli.up import Stack
from tests.certificates import Pair, presented
from tests.conformance.test_python_sdk import Heard, assert_whole, parameters
from tests.conversation import PATIENCE_S
from tests.speech import FOX, chunks, clip_pcm

pytestmark = [
    pytest.mark.weights,
    # The SDK asks websockets for things by their former names.
    pytest.mark.filterwarnings("ignore:ConnectionClosed:DeprecationWarning"),
]


class Guarded:
    """A stack with two keys and a certificate."""

    def __init__(self, folder: Path) -> None:
        self.pair = Pair(folder)
        self.keys = folder / "keys"
        self.keys.write_text("# who may connect\nalpha name=first\nbeta name=second sessions=1\n")
        env = {
            "API_KEYS_FILE": str(self.keys),
            "TLS_CERT_FILE": str(self.pair.certificate),
            "TLS_KEY_FILE": str(self.pair.key),
        }
        self.stack = Stack(env=env)

    @property
    def host(self) -> str:
        return f"localhost:{self.stack.port}"

    def connect(self, key: str = "", query: str = "") -> Any:
        """A bare WebSocket."""
        headers = {"Authorization": key} if key else {}
        url = f"wss://{self.host}/v3/ws?sample_rate=16000{query}"
        return connect(url, additional_headers=headers, ssl=self.pair.client(), proxy=None)

    def get(self, target: str, **headers: str) -> tuple[int, Any]:
        """Status and JSON of an HTTPS request."""
        connection = http.client.HTTPSConnection(
            "localhost", self.stack.port, timeout=PATIENCE_S, context=self.pair.client()
        )
        try:
            connection.request("GET", target, headers=headers)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    made = Guarded(tmp_path_factory.mktemp("guarded"))
    with made.stack as running:
        yield made
        running.check()


@pytest.fixture(autouse=True)
def trusting(guarded: Guarded, monkeypatch: pytest.MonkeyPatch) -> None:
    """The SDK trusts what the environment tells it to trust (protocol 1.5)."""
    monkeypatch.setenv("SSL_CERT_FILE", str(guarded.pair.authority))


def first(socket: Any) -> dict[str, Any]:
    message: dict[str, Any] = json.loads(socket.recv(timeout=PATIENCE_S))
    return message


def refused(socket: Any) -> tuple[int, str]:
    """The code and the text of an Error, closed with the same code."""
    with socket:
        message = first(socket)
        assert message["type"] == "Error"
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv(timeout=PATIENCE_S)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == message["error_code"]
        return message["error_code"], message["error"]


def spoken(client: StreamingClient) -> Heard:
    """A whole session over TLS."""
    heard = Heard()
    heard.listen_to(client)
    client.connect(parameters())
    client.stream(chunks(clip_pcm(FOX)))
    client.disconnect(terminate=True)
    return heard


def sdk(guarded: Guarded, **credentials: Any) -> StreamingClient:
    return StreamingClient(
        StreamingClientOptions(api_host=guarded.host, terminate_timeout=PATIENCE_S, **credentials)
    )


def test_the_sdk_with_a_key(guarded: Guarded):
    assert_whole(spoken(sdk(guarded, api_key="alpha")), FOX)


def test_the_sdk_asks_for_a_token_and_connects_with_it(guarded: Guarded):
    token = sdk(guarded, api_key="alpha").create_temporary_token(60, max_session_duration_seconds=600)
    for _ in range(2):  # reusable until it expires
        heard = spoken(sdk(guarded, token=token))
        assert_whole(heard, FOX)
        assert heard.begins[0].expires_at.timestamp() == pytest.approx(time.time() + 600, abs=60)


def test_the_sdk_is_told_why_it_gets_no_token(guarded: Guarded):
    for key, seconds, status in (("alpha", 601, 422), ("gamma", 60, 401)):
        with pytest.raises(httpx.HTTPStatusError) as failed:
            sdk(guarded, api_key=key).create_temporary_token(seconds)
        assert failed.value.response.status_code == status


def test_the_sdk_with_a_wrong_key_hears_the_error(guarded: Guarded):
    client, heard = sdk(guarded, api_key="gamma"), Heard()
    heard.listen_to(client)
    client.connect(parameters())
    heard.wait_for(lambda: heard.errors)
    client.disconnect()
    assert (heard.errors[0].code, str(heard.errors[0])) == (1008, "Unauthorized Connection: Invalid API key")
    assert not heard.begins


def test_a_browser_connects_with_a_token_in_the_query(guarded: Guarded):
    status, answer = guarded.get("/v3/token?expires_in_seconds=60", Authorization="Bearer alpha")
    assert status == 200
    assert set(answer) == {"token", "expires_in_seconds"}
    with guarded.connect(query=f"&token={answer['token']}") as socket:
        assert first(socket)["type"] == "Begin"


def test_a_token_that_has_expired(guarded: Guarded):
    _, answer = guarded.get("/v3/token?expires_in_seconds=1", Authorization="alpha")
    deadline_s = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline_s:
        socket = guarded.connect(query=f"&token={answer['token']}")
        message = first(socket)
        socket.close()
        if message["type"] == "Error":
            assert message["error"] == "Unauthorized Connection: Signature has expired"
            assert message["error_code"] == 1008
            return
    pytest.fail("the token did not expire")


@pytest.mark.parametrize(
    "key,text",
    [
        ("", "Unauthorized Connection: Missing Authorization header"),
        ("self-hosted", "Unauthorized Connection: Invalid API key"),
        ("Bearer alpha", "Unauthorized Connection: Invalid API key"),
    ],
)
def test_who_has_no_key(guarded: Guarded, key: str, text: str):
    assert refused(guarded.connect(key)) == (1008, text)


def test_a_key_with_one_session(guarded: Guarded):
    with guarded.connect("beta") as socket:
        assert first(socket)["type"] == "Begin"
        assert refused(guarded.connect("beta")) == (
            3009,
            "Unauthorized Connection: Too many concurrent sessions",
        )


def test_faults_of_a_token_request_have_the_shape_of_the_cloud(guarded: Guarded):
    status, answer = guarded.get("/v3/token?expires_in_seconds=0")
    assert status == 422
    assert [set(fault) for fault in answer["detail"]] == [
        {"type", "loc", "msg", "input", "ctx"},
        {"type", "loc", "msg", "input"},
    ]


def test_keys_and_certificate_change_while_the_stack_runs(guarded: Guarded, wait_until_sync):
    def gets_in(key: str) -> bool:
        with guarded.connect(key) as socket:
            return bool(first(socket)["type"] == "Begin")

    def certificate_is_new() -> bool:
        with guarded.connect("alpha") as socket:
            return presented(socket.socket) == guarded.pair.serial

    assert not gets_in("gamma")
    with guarded.keys.open("a") as file:
        file.write("gamma\n")
    wait_until_sync(lambda: gets_in("gamma"))
    assert certificate_is_new()
    guarded.pair.issue()
    wait_until_sync(certificate_is_new)
    assert gets_in("alpha")
