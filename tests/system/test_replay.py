"""A recorded session, run again on the same model, tells the same finals: word by word, ms by ms, at any speed."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cli import client
from cli.up import Stack
from tests.speech import BECKETT, FOX, SAMPLE_RATE, chunks, clip_pcm

pytestmark = [pytest.mark.weights, pytest.mark.timeout(240)]

ROOT = Path(__file__).parents[2]
KEY = "5a" * 32
CHUNK_MS = 100


def spoken(url: str, pcm: bytes) -> str:
    """The id of a recorded session that spoke in real time: a machine that has time for it tells the same again."""
    begun: list[str] = []

    async def audio() -> AsyncIterator[bytes | str]:
        number = 0
        async for chunk in client.paced(chunks(pcm, CHUNK_MS), SAMPLE_RATE):
            yield chunk
            number += 1
            if number == 30:
                yield '{"type": "ForceEndpoint"}'

    def hear(received: client.Received) -> None:
        if received.fields["type"] == "Begin":
            begun.append(received.fields["id"])

    asyncio.run(client.converse(client.Request(f"{url}/?record=true"), audio(), hear))
    return begun[0]


def steno(stack: Stack, *words: str) -> subprocess.CompletedProcess[str]:
    assert stack._redis is not None
    where = {"REDIS_URL": stack._redis.url, "RECORD_KEY": KEY, "STENO_ENDPOINT": stack.url}
    command = [sys.executable, "-m", "cli.main", "replay", *words]
    return subprocess.run(
        command, env=os.environ | where, cwd=ROOT, capture_output=True, text=True, check=False
    )


def test_the_same_model_tells_the_same_finals_again(wait_until_sync):
    with Stack(env={"RECORD": "ask", "RECORD_KEY": KEY}) as stack:
        name = spoken(stack.url, clip_pcm(FOX))
        wait_until_sync(lambda: "over       ended" in steno(stack, "show", name).stdout, 60)
        for speed in ("fast", "real"):
            ran = steno(stack, "run", name, "--speed", speed, "--check", "--no-record")
            assert ran.returncode == 0, ran.stdout + ran.stderr
            assert "the finals are identical" in ran.stderr
        assert steno(stack, "rm", name).stdout == f"erased {name}\n"


@pytest.mark.slow
def test_a_longer_session_with_many_pauses_tells_the_same_finals_again(wait_until_sync):
    with Stack(env={"RECORD": "ask", "RECORD_KEY": KEY}) as stack:
        name = spoken(stack.url, clip_pcm(BECKETT))
        wait_until_sync(lambda: "over       ended" in steno(stack, "show", name).stdout, 60)
        for _ in range(2):
            ran = steno(stack, "run", name, "--speed", "fast", "--check")
            assert ran.returncode == 0, ran.stdout + ran.stderr
