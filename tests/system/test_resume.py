"""Clients that lose their connection, and nodes that die under them: the transcript is whole, nothing is told twice."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field

import pytest

from cli import client
from tests.proxy import Proxy
from tests.site import Site
from tests.speech import FOX, LIGHT, SAMPLE_RATE, assert_heard, chunks, clip_pcm, silence, words

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
    def words(self) -> list[str]:
        """What was said. Where turns are cut, and times, hang a little on when audio comes together."""
        return words(" ".join(turn["transcript"] for turn in self.finals))

    def assert_whole(self) -> None:
        """Each message of the session once, in order, to its end."""
        numbers = [message["sequence"] for message in self.messages if "sequence" in message]
        assert numbers == list(range(1, len(numbers) + 1))
        orders = [turn["turn_order"] for turn in self.finals]
        assert orders == list(range(len(orders)))
        starts = [word["start"] for turn in self.finals for word in turn["words"]]
        assert starts == sorted(set(starts))
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


#: In the middle of what is said second, in seconds.
MIDDLE_S = len(clip_pcm(FOX)) / 2 / SAMPLE_RATE + 1.5 + 2.5


def in_the_second_turn(heard: Heard) -> bool:
    """One turn has ended, and words of the next were told."""
    return len(heard.finals) == 1 and heard.messages[-1].get("turn_order", 0) > heard.finals[0]["turn_order"]


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


def test_the_node_is_killed_in_the_middle_of_a_turn_and_another_one_goes_on(site, wait_until_sync):
    """As behind a load balancer: the client knows one address, and whoever lives answers there."""
    site.up("first", "second", nodes=("another",))
    undisturbed = talk(site.url)
    with Proxy(site.ports["ingress"]) as proxy:

        def disturb(heard: Heard, sent_s: float) -> None:
            if sent_s >= MIDDLE_S and not heard.notes and site.children["ingress"].exit_code is None:
                wait_until_sync(lambda: in_the_second_turn(heard))
                site.children["ingress"].kill()
                proxy.target = site.ports["another"]

        heard = talk(f"ws://127.0.0.1:{proxy.port}", disturb)
    assert heard.notes == ["connection lost, resuming ...", "resumed"]
    heard.assert_whole()
    assert heard.words == undisturbed.words
    assert heard.messages[-1]["audio_duration_seconds"] == undisturbed.messages[-1]["audio_duration_seconds"]
    site.assert_at_rest()
