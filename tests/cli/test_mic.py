"""`cli.mic`: what can be tested without a microphone, which is all but the recording itself."""

import asyncio
import sys
import threading

import pytest
from rich.console import Console

from cli import mic
from cli.client import Request
from cli.mic import MicrophoneError, Recording


def test_a_device_that_is_not_there_is_told_in_one_line() -> None:
    """On a machine without PortAudio this tells how to get it, elsewhere which devices there are."""
    with pytest.raises(
        MicrophoneError, match=r"PortAudio library is missing|no microphone|needs one more package"
    ):
        mic.run(Request(), "no such device \N{MICROPHONE}", False, Console(quiet=True), Console(quiet=True))


def test_without_the_package_it_tells_what_to_install(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "sounddevice", None)  # what Python does where it is not installed
    with pytest.raises(MicrophoneError, match="pip install sounddevice"):
        mic.run(Request(), None, False, Console(quiet=True), Console(quiet=True))


def test_chunks_cross_from_the_recording_thread_in_order() -> None:
    async def record() -> list[bytes]:
        recording = Recording(asyncio.get_running_loop())
        sent = [bytes([number]) for number in range(100)]

        def device() -> None:
            for chunk in [*sent, None]:
                recording.put(chunk)

        thread = threading.Thread(target=device)
        thread.start()
        got = [chunk async for chunk in recording.chunks(asyncio.Event())]
        thread.join()
        assert recording.lost == 0
        return got

    assert asyncio.run(record()) == [bytes([number]) for number in range(100)]


def test_what_nobody_fetches_is_bounded() -> None:
    told: list[str] = []

    async def record() -> tuple[int, int]:
        recording = Recording(asyncio.get_running_loop(), told.append)
        for _ in range(mic.WAITING_CHUNKS + 50):
            recording.put(b"x")
        recording.put(None)
        return len([chunk async for chunk in recording.chunks(asyncio.Event())]), recording.lost

    assert asyncio.run(record()) == (mic.WAITING_CHUNKS, 50)
    assert told == ["90 s of speech wait for the server: what is said now is lost"]


def test_what_was_said_before_the_end_is_still_sent() -> None:
    """While a connection was lost, much may wait."""

    async def record() -> list[bytes]:
        recording, stop = Recording(asyncio.get_running_loop()), asyncio.Event()
        for number in range(10):
            recording.put(bytes([number]))
        await asyncio.sleep(0)
        stop.set()
        return [chunk async for chunk in recording.chunks(stop)]

    assert asyncio.run(record()) == [bytes([number]) for number in range(10)]
