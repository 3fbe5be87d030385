"""A real console on a port of its own, and requests to it as they go over the wire."""

import asyncio
import http.client
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import pytest
from pydantic import SecretStr

from console.server import serve
from console.settings import ConsoleSettings
from tests.speech import clip_pcm
from wire.messages import Turn, Word, dump
from wire.recorded import (
    Audio,
    Decided,
    Item,
    Published,
    Said,
    SessionEnd,
    SessionFacts,
    Stepped,
    Taken,
    Told,
)
from wire.recordings import Recording
from wire.service import Probe, new_event_loop

HELLO = "hello_world.wav"

TOKEN = "a token of some length"


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    text: str

    @property
    def fields(self) -> Any:
        return json.loads(self.text)


class Console:
    """A console that runs on a thread of its own until `stop`."""

    def __init__(self, settings: ConsoleSettings) -> None:
        self.settings = settings
        self.probe = Probe("127.0.0.1", 0)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._drain: asyncio.Event | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.settings.console_port}"

    def _run(self) -> None:
        async def main() -> None:
            self._drain = asyncio.Event()
            self._loop = asyncio.get_running_loop()
            await serve(self.settings, self._drain, self.probe)

        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            runner.run(main())

    def stop(self) -> None:
        if self._loop and self._drain and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._drain.set)
        self._thread.join(10)
        assert not self._thread.is_alive()

    def ask(self, path: str, method: str = "GET", body: str = "", **headers: str) -> Answer:
        """One request; header names have `_` for `-`. POSTs say that they come from the console's own page."""
        parts = urlsplit(self.url)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        if method == "POST":
            named = {"Origin": self.url, "Content-Type": "application/x-www-form-urlencoded", **named}
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=10)
        try:
            connection.request(method, path, body or None, named)
            answer = connection.getresponse()
            told = {name.lower(): value for name, value in answer.getheaders()}
            return Answer(answer.status, told, answer.read().decode())
        finally:
            connection.close()


@pytest.fixture
def start(redis_url: str, namespace: str, free_port, wait_until_sync) -> Iterator[Callable[..., Console]]:
    """`start(console_token=..., ...)`: a console over the test's own namespace."""
    started: list[Console] = []

    def run(**given: Any) -> Console:
        if "console_token" in given:
            given["console_token"] = SecretStr(given["console_token"])
        settings = ConsoleSettings(
            **{"redis_url": redis_url, "namespace": namespace, "console_port": free_port(), **given}
        )
        console = Console(settings)
        started.append(console)
        wait_until_sync(lambda: console.probe.ready or not console._thread.is_alive())
        assert console.probe.ready
        return console

    yield run
    for console in started:
        console.stop()


@pytest.fixture
def token() -> str:
    return TOKEN


def _turn(order: int, words: list[tuple[str, int, int, bool]], end: bool, text: str = "") -> str:
    told = tuple(Word(start, stop, word, 0.9, settled) for word, start, stop, settled in words)
    return dump(Turn(order, True, end, text or " ".join(word.text for word in told), 0.8, told))


@pytest.fixture
def recording() -> Recording:
    """Two turns of a real clip, taken over in between, with times as of one clock; nobody may believe its texts."""
    pcm = clip_pcm(HELLO) + clip_pcm(HELLO) + bytes(8_000 * 2)
    start, frames = 1_000.0, range(0, len(pcm), 3_200)
    audio: list[Item] = [Audio(start + (at + 3_200) / 32_000, at // 2, pcm[at : at + 3_200]) for at in frames]
    evil = "<img src=x onerror=alert(1)>"
    first = [("Hello", 320, 700, True), ("world.", 720, 1_100, False)]
    settled = [("Hello", 320, 700, True), ("world.", 720, 1_100, True)]
    second = [(evil, 1_500, 1_800, True), ("again.", 1_820, 2_200, True)]
    told: list[Item] = [
        Told(start + 0.9, _turn(0, first[:1], end=False), 1, 1),
        Told(start + 1.25, _turn(0, first, end=False), 1, 2),
        Told(start + 1.6, _turn(0, settled, end=True), 1, 3),
        Told(start + 2.4, _turn(1, second, end=True, text=f"{evil} again."), 2, 1),
        Told(start + 2.6, '{"audio_duration_seconds":2,"session_duration_seconds":2,"type":"Termination"}'),
    ]
    steps: list[Item] = [
        Stepped(start + 0.86, 1, 0.82 + start, 0.83 + start, 0, 800, 3, 32, 32, tuple(range(0, 1000, 40))),
        Stepped(start + 1.55, 1, 1.52 + start, 1.53 + start, 800, 1_500, 1),
    ]
    published: list[Item] = [
        Published(start + 0.89, 1, 1, "MESSAGE", start + 0.86, 800, 0),
        Published(start + 1.58, 1, 3, "MESSAGE", start + 1.55, 1_500, 0, True, 1, 1_200),
    ]
    others: list[Item] = [
        Taken(start, 1, "ada", "moonshine-tiny-en", "ab" * 32, "0.1.0"),
        Taken(start + 1.7, 2, "bob", "moonshine-tiny-en", "ab" * 32, "0.1.0", 1, 1_200),
        Decided(start + 1.5, 1, 0, "confident", 1_140, 1_500, {"confidence": 0.8, "last_word": None}),
        Said(start + 2.5, '{"type":"Terminate"}'),
    ]
    facts = SessionFacts(
        "some-id", start, "english", {"keyterms_prompt": [evil]}, evil, "node", "0.1.0", "asked"
    )
    items = sorted((*audio, *told, *steps, *published, *others), key=lambda item: item.at_s)
    return Recording(facts, SessionEnd(start + 2.7, "ended", 2_300), tuple(items), (f"a fault {evil}",))
