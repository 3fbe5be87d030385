"""A real WebSocket server that speaks the server's side as a test tells it to; espeak-ng, where a test needs it."""

import contextlib
import json
import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.server import Server, ServerConnection, serve


def word(text: str, start: int, end: int, final: bool = True) -> dict[str, Any]:
    return {"text": text, "start": start, "end": end, "confidence": 0.9, "word_is_final": final}


def turn(order: int, words: list[dict[str, Any]], end: bool = False) -> dict[str, Any]:
    return {
        "turn_order": order,
        "turn_is_formatted": True,
        "end_of_turn": end,
        "transcript": " ".join(each["text"] for each in words if each["word_is_final"]),
        "end_of_turn_confidence": 0.5,
        "words": words,
        "utterance": "",
        "type": "Turn",
    }


@dataclass
class Partner:
    """One server. `script(partner, connection)` says what it does once a client has connected."""

    script: Callable[["Partner", ServerConnection], None]
    url: str = ""
    path: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    audio: bytearray = field(default_factory=bytearray)
    texts: list[str] = field(default_factory=list)
    chunk_bytes: list[int] = field(default_factory=list)

    def serve_one(self, connection: ServerConnection) -> None:
        request = connection.request
        assert request
        self.path, self.headers = request.path, dict(request.headers.raw_items())
        with contextlib.suppress(ConnectionClosed):
            self.script(self, connection)

    def send(self, connection: ServerConnection, **fields: Any) -> None:
        connection.send(json.dumps(fields))

    def begin(self, connection: ServerConnection) -> None:
        self.send(connection, id="5f0c", expires_at=1, configuration={}, type="Begin")

    def listen(self, connection: ServerConnection) -> None:
        """Take audio until the client says Terminate."""
        for message in connection:
            if isinstance(message, str):
                self.texts.append(message)
                return
            self.audio += message
            self.chunk_bytes.append(len(message))

    def end(self, connection: ServerConnection) -> None:
        self.send(connection, audio_duration_seconds=1, session_duration_seconds=1, type="Termination")
        connection.close(1000, "Session Ended")


def two_turns(partner: Partner, connection: ServerConnection) -> None:
    """A session as it should be: two turns, the second cut short by Terminate."""
    partner.begin(connection)
    partner.listen(connection)
    hello, world = word("Hello", 100, 300), word("world.", 320, 500)
    connection.send(json.dumps(turn(0, [word("Hell", 100, 200, final=False)])))
    connection.send(json.dumps(turn(0, [hello, word("wor", 320, 400, final=False)])))
    connection.send(json.dumps(turn(0, [hello, world], end=True)))
    connection.send(json.dumps(turn(1, [word("Bye.", 700, 900)], end=True)))
    partner.end(connection)


def refusal(partner: Partner, connection: ServerConnection) -> None:
    """Error, then a close with its code."""
    text = "User Input Validation Error: Invalid 'speech_model': no such [model]"
    partner.send(connection, error_code=3006, error=text, type="Error")
    connection.close(3006, "See Error message for details")


@pytest.fixture
def partner() -> Iterator[Callable[[Callable[..., None]], Partner]]:
    """`partner(script)`: a server on this machine that follows the script with every client."""
    servers: list[tuple[Server, threading.Thread]] = []

    def start(script: Callable[[Partner, ServerConnection], None]) -> Partner:
        made = Partner(script)
        server = serve(made.serve_one, "127.0.0.1", 0, compression=None)
        made.url = f"ws://127.0.0.1:{server.socket.getsockname()[1]}"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        servers.append((server, thread))
        return made

    yield start
    for server, thread in servers:
        server.shutdown()
        thread.join()


class Scripts:
    """What a `partner` may be told to do, and messages to do it with."""

    two_turns = staticmethod(two_turns)
    refusal = staticmethod(refusal)
    word = staticmethod(word)
    turn = staticmethod(turn)


@pytest.fixture
def scripts() -> type[Scripts]:
    return Scripts


@pytest.fixture(scope="session")
def espeak() -> str:
    """Where espeak-ng is. Without it a laptop skips; CI installs it, or fails."""
    in_ci = os.environ.get("CI", "").lower() == "true"
    if in_ci and shutil.which("espeak-ng") is None:
        sudo = [] if os.geteuid() == 0 else ["sudo", "-n"]
        for order in (["apt-get", "update", "-qq"], ["apt-get", "install", "-y", "-qq", "espeak-ng"]):
            subprocess.run([*sudo, *order], check=True, capture_output=True, timeout=300)
    found = shutil.which("espeak-ng")
    if found is None:
        pytest.skip("espeak-ng is not installed (apt install espeak-ng)")
    return found
