"""`console.live`: a page's WebSocket through a real console to a real server that plays the ingress."""

import contextlib
import json
import threading
from collections.abc import Callable, Iterator

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect
from websockets.sync.server import ServerConnection, serve

from console.live import passed

Script = Callable[[ServerConnection], None]


class Ingress:
    """Plays `script` with every client, and keeps what each asked with."""

    def __init__(self, script: Script) -> None:
        self.asked: list[tuple[str, str]] = []
        self.closes: list[int | None] = []

        def handle(connection: ServerConnection) -> None:
            assert connection.request
            self.asked.append((connection.request.path, connection.request.headers.get("Authorization", "")))
            with contextlib.suppress(ConnectionClosed):
                script(connection)
            self.closes.append(connection.close_code)

        self._server = serve(handle, "127.0.0.1", 0, compression=None)
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()
        self.url = f"ws://127.0.0.1:{self._server.socket.getsockname()[1]}"

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()


@pytest.fixture
def ingress() -> Iterator[Callable[[Script], Ingress]]:
    started: list[Ingress] = []

    def begin(script: Script) -> Ingress:
        started.append(Ingress(script))
        return started[-1]

    yield begin
    for each in started:
        each.stop()


def page(console, query: str = "sample_rate=16000", **headers: str) -> ClientConnection:
    url = console.url.replace("http", "ws")
    return connect(f"{url}/live?{query}", origin=console.url, additional_headers=headers, proxy=None)


def echo(connection: ServerConnection) -> None:
    connection.send('{"type":"Begin"}')
    for message in connection:
        if message == '{"type":"Terminate"}':
            connection.close(1000, "Session Ended")
            return
        connection.send(json.dumps({"heard": len(message), "text": isinstance(message, str)}))


def test_messages_go_both_ways_and_the_close_comes_through(start, ingress):
    node = ingress(echo)
    console = start(console_ingress_url=node.url, console_api_key="the key")
    with page(console, "sample_rate=16000&webhook_url=http://x&token=t&speech_model=m") as talk:
        assert talk.recv() == '{"type":"Begin"}'
        talk.send(b"1234")
        assert json.loads(talk.recv()) == {"heard": 4, "text": False}
        talk.send("five!")
        assert json.loads(talk.recv()) == {"heard": 5, "text": True}
        talk.send('{"type":"Terminate"}')
        with pytest.raises(ConnectionClosed):
            talk.recv()
    assert (talk.close_code, talk.close_reason) == (1000, "Session Ended")
    assert node.asked == [("/v3/ws?sample_rate=16000&speech_model=m", "the key")]


def test_an_error_of_the_ingress_reaches_the_page_with_its_code(start, ingress):
    def refuse(connection: ServerConnection) -> None:
        connection.send('{"error_code":3006,"error":"no","type":"Error"}')
        connection.close(3006, "See Error message for details")

    with page(start(console_ingress_url=ingress(refuse).url)) as talk:
        assert json.loads(talk.recv())["error_code"] == 3006
        with pytest.raises(ConnectionClosed):
            talk.recv()
    assert talk.close_code == 3006


def test_a_page_that_leaves_leaves_the_ingress_too(start, ingress, wait_until_sync):
    node = ingress(echo)
    console = start(console_ingress_url=node.url)
    with page(console) as talk:
        talk.recv()
        assert console.ask("/api/live").fields["open"] == 1
    wait_until_sync(lambda: node.closes)
    wait_until_sync(lambda: console.ask("/api/live").fields["open"] == 0)


def test_an_ingress_that_is_away_is_told_as_an_error(start, free_port):
    with page(start(console_ingress_url=f"ws://127.0.0.1:{free_port()}")) as talk:
        told = json.loads(talk.recv())
        assert (told["type"], told["error_code"]) == ("Error", 3005)
        assert "No ingress answers" in told["error"]


def test_no_more_sessions_than_are_allowed(start, ingress):
    console = start(console_ingress_url=ingress(echo).url, console_live_sessions=1)
    with page(console) as talk:
        talk.recv()
        with page(console) as other:
            assert json.loads(other.recv())["error_code"] == 3009
        talk.send("still there")
        assert json.loads(talk.recv())["heard"] == 11


def test_a_stranger_s_page_gets_no_session(start, ingress, token):
    node = ingress(echo)
    console = start(console_ingress_url=node.url)
    url = console.url.replace("http", "ws") + "/live"
    for origin in ("http://evil.example", None):
        with pytest.raises(InvalidStatus) as refused:
            connect(url, origin=origin, proxy=None)  # type: ignore[arg-type]
        assert refused.value.response.status_code == 403
    locked = start(console_ingress_url=node.url, console_token=token)
    with pytest.raises(InvalidStatus) as refused:
        page(locked)
    assert refused.value.response.status_code == 401
    with page(locked, Authorization=f"Bearer {token}") as talk:
        assert talk.recv() == '{"type":"Begin"}'
    assert len(node.asked) == 1


def test_only_what_concerns_recognition_goes_on():
    asked = [
        ("speech_model", "m"),
        ("webhook_url", "x"),
        ("token", "t"),
        ("resume_token", "r"),
        ("keyterms_prompt", "[]"),
    ]
    assert passed(asked) == [("speech_model", "m"), ("keyterms_prompt", "[]")]
