"""A client as self-hosters write it first (protocol 8.8): plain WebSocket, path `/`, 100 ms chunks, it ends the session
and then listens until the server closes. It never closes first, and takes every key for granted.
"""

import asyncio
import json
import wave
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect

from tests.speech import DATA, FOX, LIGHT, assert_heard

pytestmark = pytest.mark.weights

CHUNK_S = 0.1


@dataclass
class Session:
    """What such a script prints."""

    id: str = ""
    expires_at: int = 0
    seconds: int = -1
    partials: int = 0
    finals: list[str] = field(default_factory=list)
    close_code: int | None = None

    def take(self, frame: str | bytes) -> None:
        """One message. KeyError where a key is missing that such a script counts on."""
        message: dict[str, Any] = json.loads(frame)
        match message["type"]:
            case "Begin":
                self.id, self.expires_at = message["id"], int(message["expires_at"])
            case "Turn" if message["end_of_turn"] and message["words"]:
                self.finals.append(" ".join(word["text"] for word in message["words"]))
            case "Turn":
                self.partials += 1
            case "Termination":
                self.seconds = int(message["session_duration_seconds"])
            case other:
                pytest.fail(f"unexpected message of type {other!r}: {message}")


def wav_chunks(clip: str) -> tuple[int, Iterator[bytes]]:
    """Sample rate and chunks of a 16-bit mono file."""
    with wave.open(str(DATA / clip)) as file:
        assert (file.getsampwidth(), file.getnchannels()) == (2, 1)
        rate = file.getframerate()
        chunks = []
        while chunk := file.readframes(int(rate * CHUNK_S)):
            chunks.append(chunk)
    return rate, iter(chunks)


async def transcribe(endpoint: str, clip: str, pace_s: float, query: str = "") -> Session:
    """One file through one session; `pace_s`: time from chunk to chunk."""
    rate, chunks = wav_chunks(clip)
    session = Session()
    url = f"{endpoint}?sample_rate={rate}&format_turns=true{query}"
    async with connect(url, additional_headers={"Authorization": "self-hosted"}, proxy=None) as socket:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(send(socket, chunks, pace_s))
            async for frame in socket:  # ends with a close of 1000 or 1001; any other raises
                session.take(frame)
        session.close_code = socket.close_code
    return session


async def send(socket: ClientConnection, chunks: Iterator[bytes], pace_s: float) -> None:
    for chunk in chunks:
        await socket.send(chunk)
        await asyncio.sleep(pace_s)
    await socket.send(json.dumps({"type": "Terminate"}))


def assert_complete(session: Session, clip: str) -> None:
    assert session.close_code == 1000
    assert session.id
    assert session.expires_at > 0
    assert session.seconds >= 0
    assert_heard(clip, " ".join(session.finals))


@pytest.mark.parametrize(
    "query", ["", "&speech_model=universal-streaming-english", "&keyterms=%5B%22fox%22%5D"]
)
def test_a_file_faster_than_real_time(url, query):
    session = asyncio.run(transcribe(url, FOX, 0.0, query))
    assert_complete(session, FOX)
    assert session.finals[0][0].isupper()


def test_a_file_in_real_time(url):
    session = asyncio.run(transcribe(url, LIGHT, CHUNK_S))
    assert_complete(session, LIGHT)
    assert session.partials > 3
    assert 7 <= session.seconds <= 10


def test_several_scripts_at_once(url):
    clips = [FOX, LIGHT, "counting.wav"]

    async def all_at_once() -> list[Session]:
        return await asyncio.gather(*(transcribe(url, clip, CHUNK_S / 4) for clip in clips))

    for clip, session in zip(clips, asyncio.run(all_at_once()), strict=True):
        assert_complete(session, clip)
