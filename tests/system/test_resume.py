"""Clients that lose their connection, and nodes that die under them: the transcript is whole, nothing is told twice."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field

import pytest

from cli import client
from tests.proxy import Proxy
from tests.site import Site
from tests.speech import FOX, LIGHT, SAMPLE_RATE, assert_heard, chunks, clip_pcm, silence

pytestmark = [pytest.mark.weights, pytest.mark.timeout(180)]

TALK = clip_pcm(FOX) + silence(1.5) + clip_pcm(LIGHT)


@pytest.fixture
def site(redis_url, keys, free_port, wait_until_sync) -> Iterator[Site]:
    running = Site(redis_url, keys, free_port, wait_until_sync)
    yield running
    running.stop()


@dataclass
class Heard:
    """What a client of ours heard of one session, over all its connections."""

    messages: list[dict] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def finals(self) -> list[dict]:
        return [message for message in self.messages if message.get("end_of_turn")]

    @property
    def words(self) -> list[tuple[int, str, int, int]]:
        """Each word with the order of its turn, and its times."""
        return [
            (turn["turn_order"], word["text"], word["start"], word["end"])
            for turn in self.finals
            for word in turn["words"]
        ]

    def assert_whole(self) -> None:
        """Each message of the session once, in order, to its end."""
        numbers = [message["sequence"] for message in self.messages if "sequence" in message]
        assert numbers == list(range(1, len(numbers) + 1))
        orders = [turn["turn_order"] for turn in self.finals]
        assert orders == list(range(len(orders)))
        assert self.messages[-1]["type"] == "Termination"


def talk(url: str, when=lambda *_: None, audio: bytes = TALK, **asked) -> Heard:
    """A resumable session of ours; `when` is called before each chunk, and may do things to the world."""
    heard = Heard()

    async def speech() -> AsyncIterator[bytes]:
        sent_s = 0.0
        for chunk in chunks(audio, 100):
            await asyncio.to_thread(when, heard, sent_s)
            yield chunk
            sent_s += len(chunk) / 2 / SAMPLE_RATE

    def listen(received: client.Received) -> None:
        heard.messages.append(json.loads(received.text))

    request = client.Request(url, resume=True, **asked)
    session = asyncio.run(client.converse(request, speech(), listen, heard.notes.append))
    assert session.audio_s == pytest.approx(len(audio) / 2 / SAMPLE_RATE)
    return heard


class Once:
    """Does something once, at the first moment that suits."""

    def __init__(self, suits, act) -> None:
        self.suits, self.act, self.done = suits, act, False

    def __call__(self, heard: Heard, sent_s: float) -> None:
        if not self.done and self.suits(heard, sent_s):
            self.done = True
            self.act()


def test_the_network_is_pulled_and_put_back_and_the_transcript_is_whole(site, wait_until_sync):
    site.up("first")
    undisturbed = talk(site.url)
    undisturbed.assert_whole()
    assert_heard([FOX, LIGHT], " ".join(turn["transcript"] for turn in undisturbed.finals))
    with Proxy(site.ports["ingress"]) as proxy:
        cuts = [1.0, 3.0, 5.0]

        def disturb(heard: Heard, sent_s: float) -> None:
            if cuts and sent_s >= cuts[0]:
                cuts.pop(0)
                before = proxy.passed
                proxy.cut()
                wait_until_sync(lambda: len(heard.notes) % 2 == 1)  # it has noticed
                proxy.restore()
                wait_until_sync(lambda: proxy.passed > before)

        heard = talk(f"ws://127.0.0.1:{proxy.port}", disturb)
    assert heard.notes == ["connection lost, resuming ...", "resumed"] * 3
    heard.assert_whole()
    assert heard.words == undisturbed.words
    assert heard.messages[-1]["audio_duration_seconds"] == undisturbed.messages[-1]["audio_duration_seconds"]
    site.assert_at_rest()
