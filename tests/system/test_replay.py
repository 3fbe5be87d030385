"""A recorded session, run again on the same model, tells the same finals: word by word, ms by ms, at any speed."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlencode

import numpy as np
import pytest

from cli import bench_clips, client
from cli.bench_replays import Replays, recorded
from cli.up import Stack
from tests.encoded import stream_of
from tests.speech import BECKETT, FOX, LIGHT, SAMPLE_RATE, clip_pcm, pcm, pieces, silence
from tests.spoken import clip
from wire.speech_models import DEFAULT_MODEL

pytestmark = [pytest.mark.weights, pytest.mark.timeout(240)]

ROOT = Path(__file__).parents[2]
KEY = "5a" * 32
CHUNK_MS = 100

ASKED = {"RECORD": "ask", "RECORD_KEY": KEY}
FORCE: Mapping[int, Mapping[str, object]] = {30: {"type": "ForceEndpoint"}}
MULTILINGUAL, PRO = "universal-streaming-multilingual", "universal-3-5-pro"


def spoken(
    url: str,
    sound: bytes,
    orders: Mapping[int, Mapping[str, object]] = FORCE,
    model: str = DEFAULT_MODEL,
    rate: int = SAMPLE_RATE,
    byte_rate: int = 2 * SAMPLE_RATE,
    **query: str,
) -> str:
    """The id of a recorded session that spoke in real time, so many bytes a second.

    After so many chunks the client gives `orders`.
    """
    begun: list[str] = []

    async def audio() -> AsyncIterator[bytes | str]:
        number = 0
        async for chunk in client.paced(pieces(sound, byte_rate * CHUNK_MS // 1000), byte_rate // 2):
            yield chunk
            number += 1
            if number in orders:
                yield json.dumps(orders[number])

    def hear(received: client.Received) -> None:
        if received.fields["type"] == "Begin":
            begun.append(received.fields["id"])

    asked = urlencode({"record": "true", **query})
    request = client.Request(f"{url}/?{asked}", sample_rate=rate, speech_model=model)
    asyncio.run(client.converse(request, audio(), hear))
    return begun[0]


def steno(stack: Stack, *words: str) -> subprocess.CompletedProcess[str]:
    assert stack._redis is not None
    where = {"REDIS_URL": stack._redis.url, "RECORD_KEY": KEY, "STENO_ENDPOINT": stack.url}
    command = [sys.executable, "-m", "cli.main", "replay", *words]
    return subprocess.run(
        command, env=os.environ | where, cwd=ROOT, capture_output=True, text=True, check=False
    )


def test_the_same_model_tells_the_same_finals_again(wait_until_sync):
    with Stack(env=ASKED) as stack:
        name = spoken(stack.url, clip_pcm(FOX))
        wait_until_sync(lambda: "over       ended" in steno(stack, "show", name).stdout, 60)
        for speed in ("fast", "real"):
            ran = steno(stack, "run", name, "--speed", speed, "--check", "--no-record")
            assert ran.returncode == 0, ran.stdout + ran.stderr
            assert "the finals are identical" in ran.stderr
        assert steno(stack, "rm", name).stdout == f"erased {name}\n"


@pytest.mark.slow
def test_no_live_session_is_refused_beside_replays_that_come_and_go():
    """Slots for both, and more replays than places for them."""
    live = 8

    async def speak(url: str) -> None:
        for _ in range(live):
            chunks = pieces(clip_pcm(FOX)[: 2 * SAMPLE_RATE], 2 * SAMPLE_RATE * CHUNK_MS // 1000)
            await client.converse(client.Request(url), client.paced(chunks, SAMPLE_RATE), lambda _: None)

    async def together(url: str) -> None:
        await asyncio.gather(speak(url), speak(url))

    with Stack(env={"RECORD": "ask", "REPLAY_SESSIONS": "2", "SLOTS": "4"}) as stack:
        assert stack._redis is not None
        talk = bench_clips.Talk(clip_pcm(FOX), ())
        again = Replays(recorded(stack.url, stack._redis.url, talk), stack.url, at_once=2)
        with again.running():
            asyncio.run(together(stack.url))  # raises where one is refused
        assert again.done > 0


@pytest.mark.slow
def test_a_longer_session_with_many_pauses_tells_the_same_finals_again(wait_until_sync):
    with Stack(env=ASKED) as stack:
        name = spoken(stack.url, clip_pcm(BECKETT))
        wait_until_sync(lambda: "over       ended" in steno(stack, "show", name).stdout, 60)
        for _ in range(2):
            ran = steno(stack, "run", name, "--speed", "fast", "--check")
            assert ran.returncode == 0, ran.stdout + ran.stderr


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_sessions_of_other_pools_that_shared_their_steps_tell_the_same_again(wait_until_sync):
    """Languages and context change, and two sessions share the multilang pool's steps."""
    context = {
        "type": "UpdateConfiguration",
        "agent_context": "What is the light?",
        "keyterms_prompt": ["season"],
    }
    with Stack(pools=("multilang", "u3pro"), env=ASKED) as stack, ThreadPoolExecutor(3) as threads:
        told = [
            threads.submit(spoken, stack.url, languages(), {}, MULTILINGUAL, language_detection="true"),
            threads.submit(spoken, stack.url, languages(), {}, MULTILINGUAL),
            threads.submit(spoken, stack.url, clip_pcm(LIGHT), {40: context}, PRO, prompt="A novel."),
        ]
        assert_the_same_again(stack, [one.result() for one in told], wait_until_sync)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_multilang_session_whose_settings_changed_tells_the_same_again(wait_until_sync):
    settings = {"type": "UpdateConfiguration", "max_turn_silence": 700, "min_turn_silence": 200}
    with Stack(pools=("multilang",), env=ASKED) as stack:
        name = spoken(stack.url, languages(), {**FORCE, 60: settings}, MULTILINGUAL)
        assert_the_same_again(stack, [name], wait_until_sync)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("encoding,rate", [("pcm_mulaw", 8_000), ("ogg_opus", 48_000), ("aac", 24_000)])
def test_an_encoded_session_whose_settings_changed_tells_the_same_again(encoding, rate, wait_until_sync):
    """What was decoded is what was recorded."""
    settings = {"type": "UpdateConfiguration", "keyterms_prompt": ["fox"], "max_turn_silence": 900}
    samples = np.frombuffer(clip_pcm(FOX, rate), "<i2")
    with Stack(env=ASKED) as stack:
        sound = stream_of(samples, rate, encoding)
        name = spoken(
            stack.url,
            sound,
            {**FORCE, 10: settings},
            rate=rate,
            byte_rate=len(sound) * rate // len(samples),
            encoding=encoding,
            keyterms_prompt='["dog"]',
        )
        assert_the_same_again(stack, [name], wait_until_sync)


def languages() -> bytes:
    """French, Spanish and Italian in a row."""
    clips = (("fr", "pangrama"), ("es", "conteo"), ("it", "pangrama"))
    return b"".join(pcm(clip(*one)[0]) + silence(1.5) for one in clips)


def assert_the_same_again(stack: Stack, names: list[str], wait_until_sync) -> None:
    for name in names:
        wait_until_sync(lambda name=name: "over       ended" in steno(stack, "show", name).stdout, 60)
        for speed in ("fast", "real"):
            ran = steno(stack, "run", name, "--speed", speed, "--check")
            assert ran.returncode == 0, ran.stdout + ran.stderr
