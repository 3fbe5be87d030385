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
from wire.service import Probe, new_event_loop

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
