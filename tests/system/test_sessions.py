"""What is promised to sessions when processes come, go, crash and hang: real ones, on a real Redis, over real speech.

Each test runs a stack of its own in a namespace of its own; afterwards every key in it must have an expiry
(`namespace`), and, where the sessions ended, no lease and no slot may be held.
"""

import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterator

import pytest
import redis

from cli.child import Child
from cli.redis_server import EmbeddedRedis
from cli.up import Stack
from tests import digits
from tests.conversation import Conversation, is_final, is_turn
from tests.digits import needed
from tests.site import BRISK, POOL, READY_S, Site, is_ready
from tests.speech import BECKETT, FOX, LIGHT, SAMPLE_RATE, assert_heard, chunks, clip_pcm, pcm, silence
from wire.entries import AudioFrame, pack_audio

pytestmark = [pytest.mark.weights, pytest.mark.timeout(120)]


@pytest.fixture
def site(redis_url, keys, free_port, wait_until_sync) -> Iterator[Site]:
    running = Site(redis_url, keys, free_port, wait_until_sync)
    yield running
    running.stop()


def whole_session(url: str, clip: str) -> None:
    with Conversation(url) as conversation:
        conversation.say(clip_pcm(clip))
        assert_heard(clip, conversation.end().transcript)


# ---------------------------------------------------------------------------------------------------------------------
# all is well


def test_six_sessions_at_once_each_get_their_own_words(site):
    site.up("first")
    clips = [FOX, LIGHT, BECKETT, "counting.wav", "before_us.wav", "best_of_times.wav"]
    with contextlib.ExitStack() as stack:
        sessions = [stack.enter_context(Conversation(site.url)) for _ in clips]
        streams = [chunks(clip_pcm(clip)) for clip in clips]
        speaking = list(zip(sessions, streams, strict=True))
        while speaking:  # a chunk of each in turn
            for session, stream in list(speaking):
                if (chunk := next(stream, None)) is None:
                    speaking.remove((session, stream))
                else:
                    session.socket.send(chunk)
        for clip, session in zip(clips, sessions, strict=True):
            assert_heard(clip, session.end().transcript, 0.35 if clip == BECKETT else 0.2)
    site.assert_at_rest()


def test_more_sessions_than_slots_wait_their_turn(site):
    site.up("first", SLOTS="1", ADMISSION_TIMEOUT_S="30", ADMISSION_QUEUE="1")
    with Conversation(site.url) as first, Conversation(site.url) as second:
        first.say(clip_pcm(FOX))
        first.hear_until(is_turn)
        second.say(clip_pcm(LIGHT))
        assert_heard(FOX, first.end().transcript)
        assert_heard(LIGHT, second.end().transcript)
    site.assert_at_rest()


def test_clients_that_leave_in_every_way_free_their_slots(site, wait_until_sync):
    site.up("first")
    with (
        Conversation(site.url) as leaving,
        Conversation(site.url) as vanishing,
        Conversation(site.url) as failing,
    ):
        for session in (leaving, vanishing, failing):
            session.say(clip_pcm(FOX))
            session.hear_until(is_turn)
        wait_until_sync(lambda: [load.slots - load.free for load in site.loads()] == [3])
        leaving.socket.close(1001)
        vanishing.socket.socket.close()
        failing.socket.send("{broken")
        assert failing.hear_rest().close == (3006, "See Error message for details")
    site.assert_at_rest()


# ---------------------------------------------------------------------------------------------------------------------
# workers


def test_without_a_worker_the_client_is_told_in_time(site, wait_until_sync):
    site.up(ADMISSION_TIMEOUT_S="0.5")
    with Conversation(site.url) as conversation:
        conversation.say(clip_pcm(FOX))
        conversation.hear_rest()
        took_s = time.monotonic() - conversation.asked_s
    error = "Unauthorized Connection: Too many concurrent sessions"
    assert conversation.messages == [{"error_code": 3009, "error": error, "type": "Error"}]
    assert conversation.close == (3009, "See Error message for details")
    assert 0.5 <= took_s < 5
    wait_until_sync(lambda: site.redis.xlen(site.keys.offers(POOL)) == 0)
    assert site.immortal() == []


def test_audio_sent_before_there_is_a_worker_counts(site):
    site.up(ADMISSION_TIMEOUT_S="100")
    with Conversation(site.url) as conversation:
        conversation.say(clip_pcm(FOX))
        site.up("first", ingress=False)
        assert_heard(FOX, conversation.end().transcript)
    assert conversation.finals[0]["words"][0]["start"] < 300


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM])
def test_a_session_survives_its_worker(site, wait_until_sync, how):
    site.up("first", "second")
    half = 2 * (len(clip_pcm(LIGHT)) // 4)
    with Conversation(site.url) as conversation:
        conversation.say(clip_pcm(FOX) + silence(1.5))
        conversation.hear_until(is_final)
        conversation.say(clip_pcm(LIGHT)[:half])
        conversation.hear_until(is_turn)
        holder = wait_until_sync(site.holder)
        other = {"first": "second", "second": "first"}[holder]
        os.kill(site.children[holder].pid, how)
        conversation.say(clip_pcm(LIGHT)[half:])
        wait_until_sync(lambda: site.holder() == other)
        conversation.order("Terminate")
        if how is signal.SIGSTOP:  # it slept past its lease: what it says now must not count
            os.kill(site.children[holder].pid, signal.SIGCONT)
        conversation.hear_rest()
    assert conversation.close == (1000, "Session Ended")
    orders = [turn["turn_order"] for turn in conversation.finals]
    assert orders == list(range(len(orders)))  # each once, in order
    assert_heard([FOX, LIGHT], conversation.transcript)
    times = [word["start"] for turn in conversation.finals for word in turn["words"]]
    assert times == sorted(set(times))
    if how is signal.SIGSTOP:
        wait_until_sync(lambda: all(load.free == load.slots for load in site.loads()))
        whole_session(site.url, FOX)


@needed
def test_a_native_transducer_goes_on_with_the_same_words(site, wait_until_sync):
    """Its worker is killed in the middle of a turn; the next one hears that turn anew."""
    said = digits.strings(2)
    audio, half = pcm(said[1].audio), 2 * (len(said[1].audio) // 2)
    site.up("first", "second", MODEL=digits.FOLDER, LOOKAHEAD="0")
    with Conversation(site.url, max_turn_silence=1_200) as conversation:
        conversation.say(pcm(said[0].audio) + silence(2))
        conversation.hear_until(is_final)
        conversation.say(audio[:half])
        conversation.hear_until(is_turn)
        holder = wait_until_sync(site.holder)
        os.kill(site.children[holder].pid, signal.SIGKILL)
        conversation.say(audio[half:])
        conversation.order("Terminate")
        conversation.hear_rest()
    with Conversation(site.url, max_turn_silence=1_200) as undisturbed:
        undisturbed.say(pcm(said[0].audio) + silence(2) + audio)
        undisturbed.end()
    assert [turn["words"] for turn in conversation.finals] == [turn["words"] for turn in undisturbed.finals]


def test_a_crash_in_one_session_ends_that_session_and_harms_no_other(site):
    site.up("first")
    half = 2 * (len(clip_pcm(LIGHT)) // 4)
    with Conversation(site.url) as doomed, Conversation(site.url) as other:
        begin = doomed.hear_until(lambda message: message["type"] == "Begin")
        other.say(clip_pcm(LIGHT)[:half])
        doomed.say(clip_pcm(FOX))
        doomed.hear_until(is_turn)
        gap = AudioFrame(position=1_000 * SAMPLE_RATE, pcm=bytes(64))  # audio that follows nothing
        log = site.keys.audio(begin["id"])
        last = site.redis.xinfo_stream(log)["last-generated-id"]  # entries are numbered
        site.redis.xadd(log, {b"e": pack_audio(gap)}, id=f"{int(last.split(b'-')[0]) + 1}-0")
        doomed.hear_rest()
        other.say(clip_pcm(LIGHT)[half:])
        assert_heard(LIGHT, other.end().transcript)
    assert doomed.close == (3005, "See Error message for details")
    told = {"error_code": 3005, "error": "Session Cancelled: An error occurred", "type": "Error"}
    assert doomed.messages[-1] == told
    site.assert_at_rest()


def test_a_forced_end_at_any_place_leaves_the_worker_alive(site):
    """Cuts that fall between the hops of the model, and right behind each other."""
    site.up("first")
    with Conversation(site.url) as conversation:
        for chunk in chunks(clip_pcm(LIGHT), 330):
            conversation.socket.send(chunk)
            conversation.order("ForceEndpoint")
            conversation.order("ForceEndpoint")
        conversation.end()
    assert site.children["first"].exit_code is None
    whole_session(site.url, FOX)
    site.assert_at_rest()


# ---------------------------------------------------------------------------------------------------------------------
# ingress


def test_kill_9_of_ingress_leaves_nothing_that_stays(site, wait_until_sync):
    site.up("first")
    with contextlib.suppress(OSError), Conversation(site.url) as conversation:
        conversation.say(clip_pcm(LIGHT)[: 2 * 3 * SAMPLE_RATE])
        conversation.hear_until(is_turn)
        site.children["ingress"].kill()
    assert any(b"session" in key for key in site.all_keys())
    assert site.immortal() == []
    for key in site.all_keys():  # as time would
        if b"session" in key:
            site.redis.delete(key)
    site.assert_at_rest()
    site.up()
    whole_session(site.url, FOX)


def test_ingress_waits_for_redis_and_then_serves(site, wait_until_sync, tmp_path):
    """Redis is absent at start: a clear message, no crash; ready as soon as it comes."""
    with contextlib.closing(_Later()) as later:
        log = tmp_path / "ingress.log"
        port, probe_port = site._free_port(), site._free_port()
        env = {
            "REDIS_URL": later.server.url,
            "HOST": "127.0.0.1",
            "PORT": str(port),
            "PROBE_PORT": str(probe_port),
        }
        words = [sys.executable, "-m", "cli.main", "ingress", "--with-parent"]
        ingress = site.children["waiting"] = Child("ingress", words, BRISK | env, log)
        wait_until_sync(lambda: log.exists() and "Redis is away" in log.read_text(), READY_S)
        assert ingress.exit_code is None
        assert not is_ready(probe_port)
        later.server.start()
        wait_until_sync(lambda: is_ready(probe_port), READY_S)


class _Later:
    """A Redis that is not there yet."""

    def __init__(self) -> None:
        self.server = EmbeddedRedis()

    def close(self) -> None:
        self.server.stop()


# ---------------------------------------------------------------------------------------------------------------------
# the end of everything


def test_a_stack_that_stops_leaves_no_lease_and_no_key_that_stays(redis_url, keys):
    with Stack(redis_url=redis_url, env={"NAMESPACE": keys.namespace, "REPORT_S": "0.2"}) as stack:
        for clip in (FOX, LIGHT):
            whole_session(stack.url, clip)
        with Conversation(stack.url) as interrupted:
            interrupted.say(clip_pcm(FOX))
            interrupted.hear_until(is_turn)
            stack.stop()
            interrupted.hear_rest()
    assert interrupted.close is not None
    assert interrupted.close[0] == 3005
    with redis.Redis.from_url(redis_url) as client:
        left = list(client.scan_iter(match=keys.everything(), count=1000))
        assert [key for key in left if client.ttl(key) == -1] == []
        assert client.xlen(keys.offers(POOL)) == 0


def test_a_worker_without_weights_says_what_to_run(tmp_path):
    env = {"STENO_CACHE": str(tmp_path), "HOME": str(tmp_path), "REDIS_URL": "redis://127.0.0.1:1/0"}
    worker = Child("worker", [sys.executable, "-m", "cli.main", "worker", POOL], env, tmp_path / "log")
    try:
        assert worker.wait(READY_S)
    finally:
        worker.kill()
    assert worker.exit_code not in (0, None)
    assert "steno models fetch" in (tmp_path / "log").read_text()
