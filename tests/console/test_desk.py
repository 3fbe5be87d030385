"""`console.desk`: a real Redis and real pages of metrics, seen through one desk."""

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from console import desk as module
from console.desk import Desk, fetch
from wire.accounts import Accounts
from wire.archive import Archive, NoRecording
from wire.entries import (
    Billing,
    Event,
    LicenseState,
    LicenseStatus,
    Offer,
    Publication,
    SessionEvent,
    WorkerLoad,
)
from wire.keys import Keys
from wire.recordings import Recording
from wire.sealing import Locked
from wire.streams import Bus

STATUS = LicenseStatus(LicenseState.CONNECTED, "id", Billing.USAGE, ("*",), 3, 1, 2, 3)
PAGE = 'steno_begin_seconds_bucket{le="0.1"} 1.0\nsteno_begin_seconds_bucket{le="+Inf"} 1.0\n'


@pytest.fixture
def metrics() -> Iterator[Callable[[int, str], str]]:
    """`metrics(status, page)`: the address of a server that answers so."""
    servers: list[HTTPServer] = []

    def serve(status: int, page: str) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(status)
                self.end_headers()
                self.wfile.write(page.encode())

            def log_message(self, *_: object) -> None: ...

        server = HTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}/metrics"

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


def test_an_empty_redis_is_an_empty_overview(run, bus: Bus):
    told = run(Desk(bus).overview())
    assert told["redis"] == {"up": True}
    assert [pool["slots"] for pool in told["pools"]] == [0, 0, 0]
    assert told["sessions"] == []
    assert told["license"]["state"] == "Silent"
    assert told["usage"] == {"waiting": 0, "oldest_s": 0}
    assert told["metrics"] == {"urls": 0, "missed": [], "delays": []}


def test_what_there_is_is_told(run, bus: Bus, metrics, free_port):
    async def scenario() -> None:
        now_s = 2_000_000_000
        await bus.report("english", "w", WorkerLoad(4, 3, 20, now_s, "m"))
        await bus.join("english")
        await bus.offer(Offer("a", "node", "english", {"speech_model": "m"}))
        await Accounts(bus).publish_status(STATUS)
        gone = f"http://127.0.0.1:{free_port()}/metrics"
        told = await Desk(bus, [metrics(200, PAGE), metrics(500, PAGE), gone]).overview()
        assert told["pools"][0]["used"] == 1
        assert told["pools"][0]["waiting"] == 1
        assert [one["session"] for one in told["sessions"]] == ["a"]
        assert told["license"]["state"] == "Connected"
        assert told["metrics"]["urls"] == 3
        assert len(told["metrics"]["missed"]) == 2
        assert [row["name"] for row in told["metrics"]["delays"]] == ["begin_seconds"]

    run(scenario())


def test_however_many_ask_redis_is_asked_once(run, bus: Bus, monkeypatch):
    async def scenario() -> None:
        desk = Desk(bus)
        first = await desk.overview()
        assert await desk.overview() is first
        monkeypatch.setattr(module, "FRESH_S", 0)
        assert await desk.overview() is not first

    run(scenario())


def test_a_redis_that_is_away_is_part_of_the_answer(run, keys: Keys, free_port):
    async def scenario() -> None:
        bus = Bus(f"redis://localhost:{free_port()}", keys, timeout_s=1)
        told = await Desk(bus).overview()
        assert told["redis"]["up"] is False
        assert "cannot be reached" in told["redis"]["reason"]
        await bus.close()

    run(scenario())


def test_a_session_is_told_piece_by_piece(run, bus: Bus):
    async def scenario() -> None:
        desk = Desk(bus)
        assert await desk.session("a", "") is None
        await bus.join("english")
        await bus.offer(Offer("a", "node", "english", {"speech_model": "m"}))
        [lease] = await bus.take("english", "w", 1, 1000)
        await bus.publish([Publication(lease, [SessionEvent("a", 1, 1, Event.MESSAGE, 5, 0, False, "{}")])])
        told = await desk.session("a", "")
        assert told is not None
        assert told["facts"]["generation"] == 1
        assert [event["text"] for event in told["events"]] == ["{}"]
        again = await desk.session("a", told["after"])
        assert again is not None
        assert again["events"] == []

    run(scenario())


def test_recordings_are_listed_and_told(run, bus: Bus, recording: Recording):
    async def scenario() -> None:
        desk = Desk(bus)
        assert await desk.recordings() == {"count": 0, "bytes": 0, "recordings": []}
        await Archive(bus).put(recording, 60, 10**7)
        told = await desk.recordings()
        assert told["count"] == 1
        [row] = told["recordings"]
        assert (row["session"], row["pool"], row["outcome"], row["audio_ms"]) == (
            "some-id",
            "english",
            "ended",
            2300,
        )
        assert row["bytes"] == told["bytes"] > 30_000
        assert 0 < row["left_s"] <= 60
        page, more_soon = await desk.report("some-id")
        assert not more_soon
        assert page.startswith("<!doctype html>")
        assert "data:audio/flac" in page
        with pytest.raises(NoRecording):
            await desk.report("another")

    run(scenario())


def test_what_is_sealed_is_listed_and_told_with_the_key_alone(run, bus: Bus, recording: Recording):
    async def scenario() -> None:
        key = bytes(32)
        await Archive(bus, key).put(recording, 60, 10**7)
        [row] = (await Desk(bus).recordings())["recordings"]
        assert row["sealed"]
        assert "RECORD_KEY" in row["fault"]
        with pytest.raises(Locked, match="RECORD_KEY"):
            await Desk(bus).report("some-id")
        assert "Hello world." in (await Desk(bus, record_key=key).report("some-id"))[0]

    run(scenario())


@pytest.mark.parametrize("url", ["http://127.0.0.1:0/metrics", "http://[broken/metrics"])
def test_an_address_that_is_none_is_no_page(url):
    assert fetch(url) == ""
