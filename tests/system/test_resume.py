"""Clients that lose their connection, and nodes that die under them: the transcript is whole, nothing is told twice."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pytest

from cli import client
from licensing.minting import Terms
from tests.desk import Desk
from tests.proxy import Proxy
from tests.site import BRISK, POOL, READY_S, Site
from tests.speech import FOX, LIGHT, SAMPLE_RATE, assert_heard, chunks, clip_pcm, error_rate, silence
from tests.vendors import Vendor
from wire.archive import Archive
from wire.recordings import Recording
from wire.streams import Bus

pytestmark = [pytest.mark.weights, pytest.mark.timeout(180)]

TALK = clip_pcm(FOX) + silence(1.5) + clip_pcm(LIGHT)


@pytest.fixture
def site(redis_url, keys, free_port, wait_until_sync) -> Iterator[Site]:
    running = Site(redis_url, keys, free_port, wait_until_sync)
    yield running
    running.stop()


@pytest.fixture
def desk(tmp_path, redis_url, keys, free_port, wait_until_sync) -> Iterator[Desk]:
    processes = Desk(tmp_path, redis_url, keys, free_port, wait_until_sync)
    yield processes
    for child in processes.children.values():
        child.kill()
    processes.redis.close()


@dataclass
class Heard:
    """What a client of ours heard of one session, over all its connections."""

    messages: list[dict] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def finals(self) -> list[dict]:
        return [message for message in self.messages if message.get("end_of_turn")]

    @property
    def transcript(self) -> str:
        return " ".join(turn["transcript"] for turn in self.finals)

    def assert_says(self, undisturbed: "Heard") -> None:
        """The same audio was heard, and the same words, but for one or two: where turns are cut, and what a model hears
        at the cut, hangs a little on when audio comes together. Without a stretch of it many would be missing.
        """
        ends = [heard.messages[-1]["audio_duration_seconds"] for heard in (self, undisturbed)]
        assert ends[0] == ends[1]
        assert error_rate(undisturbed.transcript, self.transcript) <= 0.15

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


async def recorded(site: Site) -> list[Recording]:
    """All recordings, in the order in which they began."""
    bus = Bus(site.redis_url, site.keys)
    try:
        archive = Archive(bus)
        return [await archive.load(name) for name, _ in await archive.index()]
    finally:
        await bus.close()


def all_ended(recordings: list[Recording]) -> list[Recording]:
    """They, once all of them have been written to the end, by the worker as well."""
    whole = all(recording.end and not recording.unexplained for recording in recordings)
    return recordings if whole else []


#: In the middle of what is said second, in seconds.
MIDDLE_S = len(clip_pcm(FOX)) / 2 / SAMPLE_RATE + 1.5 + 2.5


def in_the_second_turn(heard: Heard) -> bool:
    """One turn has ended, and words of the next were told."""
    return len(heard.finals) == 1 and heard.messages[-1].get("turn_order", 0) > heard.finals[0]["turn_order"]


def test_the_network_is_pulled_and_put_back_and_the_transcript_is_whole(site, wait_until_sync):
    site.up("first")
    undisturbed = talk(site.url)
    undisturbed.assert_whole()
    assert_heard([FOX, LIGHT], undisturbed.transcript)
    with Proxy(site.ports["ingress"]) as proxy:
        cuts = [1.0, 3.0, 5.0]

        def disturb(heard: Heard, sent_s: float) -> None:
            if cuts and sent_s >= cuts[0]:
                cuts.pop(0)
                wait_until_sync(lambda: heard.messages)  # one that was never told its token cannot come back
                before = proxy.passed
                proxy.cut()
                wait_until_sync(lambda: len(heard.notes) % 2 == 1)  # it has noticed
                proxy.restore()
                wait_until_sync(lambda: proxy.passed > before)

        heard = talk(f"ws://127.0.0.1:{proxy.port}", disturb)
    assert heard.notes == ["connection lost, resuming ...", "resumed"] * 3
    heard.assert_whole()
    heard.assert_says(undisturbed)
    site.assert_at_rest()


def test_the_node_is_killed_in_the_middle_of_a_turn_and_another_one_goes_on(site, wait_until_sync):
    """As behind a load balancer: the client knows one address, and whoever lives answers there. The clocks of the two
    nodes' machines do not agree.
    """
    site.skews_s["another"] = 3_600.0
    began_s = time.monotonic()
    site.up("first", "second", nodes=("another",), RECORD="all")

    def halt(heard: Heard, sent_s: float) -> None:
        if MIDDLE_S <= sent_s < MIDDLE_S + 0.1:
            wait_until_sync(lambda: in_the_second_turn(heard))

    undisturbed = talk(site.url, halt)
    wait_until_sync(lambda: all_ended(asyncio.run(recorded(site))))  # node and worker have written all
    with Proxy(site.ports["ingress"]) as proxy:

        def disturb(heard: Heard, sent_s: float) -> None:
            halt(heard, sent_s)
            if sent_s >= MIDDLE_S and not heard.notes and site.children["ingress"].exit_code is None:
                site.children["ingress"].kill()
                proxy.target = site.ports["another"]

        heard = talk(f"ws://127.0.0.1:{proxy.port}", disturb)
    assert heard.notes == ["connection lost, resuming ...", "resumed"]
    heard.assert_whole()
    heard.assert_says(undisturbed)
    end = heard.messages[-1]
    assert end["session_duration_seconds"] <= time.monotonic() - began_s
    site.assert_at_rest()
    recordings = wait_until_sync(lambda: all_ended(asyncio.run(recorded(site))))
    for recording, told in zip(recordings, (undisturbed, heard), strict=True):
        assert (recording.pcm, recording.gaps, recording.faults) == (TALK, (), ())
        assert [final.fields["transcript"] for final in recording.finals] == [
            final["transcript"] for final in told.finals
        ]


# ---------------------------------------------------------------------------------------------------------------------
# every process replaced by a new one, while sessions go on


class Rollout:
    """A whole stack behind one address. Each step replaces one process by one of a later release, as an update does."""

    def __init__(self, desk: Desk, tracker: str, wait_until: Callable[..., Any]) -> None:
        self.desk = desk
        self.wait_until = wait_until
        self.tracker = {"USAGE_TRACKER_URL": tracker}
        self.proxy = Proxy(0)
        #: How many steps are done.
        self.done = 0
        for name in ("licensing-0", "usage-0", "worker-0", "worker-1", "ingress-0"):
            self.launch(name)
        desk.later = {"worker-2", "worker-3", "licensing-1", "usage-1", "ingress-1", "ingress-2"}
        self.steps = [
            ("worker-0", "worker-2"),
            ("ingress-0", "ingress-1"),
            ("licensing-0", "licensing-1"),
            ("worker-1", "worker-3"),
            ("usage-0", "usage-1"),
            ("ingress-1", "ingress-2"),
        ]

    def launch(self, name: str) -> None:
        service = name.split("-", maxsplit=1)[0]
        port = self.desk.free_port()
        env: dict[str, Any] = {
            **BRISK,
            "LICENSE_REQUIRED": "true",
            "DRAIN_GRACE_S": "60",
            "WORKER": name,
            "PORT": str(port),
        }
        env |= self.tracker if service == "usage" else {"HOST": "127.0.0.1"}
        words = [service, POOL] if service == "worker" else [service]
        self.desk.start(name, *words, **{**env, "FLUSH_S": "0.1"})
        if service == "ingress":
            self.proxy.target = port

    def roll(self) -> None:
        """All steps, each as soon as the sessions have come so far."""
        for old, new in self.steps:
            self.launch(new)
            child = self.desk.children[old]
            child.terminate()
            self.wait_until(lambda child=child: child.exit_code is not None, READY_S)
            assert child.exit_code == 0, child.tail()
            self.done += 1

    def hold(self, _heard: Heard, sent_s: float) -> None:
        """A session gets no further than a part of its talk for each step, so that it is in its midst at every one."""
        part_s = len(TALK) / 2 / SAMPLE_RATE / (len(self.steps) + 1)
        self.wait_until(lambda: sent_s < (self.done + 1) * part_s, 2 * READY_S)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_every_service_is_replaced_and_no_session_notices(desk, wait_until_sync):
    desk.license(Terms("Acme", 1, billing="usage"))
    with Vendor(desk.tracker.respond) as vendor:
        rollout = Rollout(desk, vendor.url, wait_until_sync)
        with rollout.proxy, ThreadPoolExecutor(4) as pool:
            url = f"ws://127.0.0.1:{rollout.proxy.port}"
            undisturbed = talk(url)
            talks = [pool.submit(talk, url, rollout.hold) for _ in range(3)]
            rollout.roll()
            for each in talks:
                heard = each.result()
                heard.assert_whole()
                heard.assert_says(undisturbed)
                assert len(heard.notes) == 2 * 2  # both changes of the node, and nothing else
        total_ms = 4 * round(len(TALK) * 1000 / 2 / SAMPLE_RATE)
        wait_until_sync(lambda: desk.counted() == total_ms, READY_S)
        [total] = desk.tracker.totals()
        assert (total.sessions, total.over) == (4, 4)
