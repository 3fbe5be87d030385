"""LiveKit's AssemblyAI plugin, unmodified, against the real stack: what an agent in a room would be told."""

import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from tests.clients import Driver, Heard, Step, do, python_environment, say, wait
from tests.speech import BECKETT, FOX, LIGHT, SAMPLE_RATE, assert_heard, clip_pcm, silence, words

pytestmark = [pytest.mark.weights, pytest.mark.clients, pytest.mark.timeout(90)]

SOURCE = Path(__file__).with_name("livekit")

Talk = Callable[..., Heard]


@pytest.fixture(scope="module")
def driver() -> Driver:
    python = python_environment("livekit", SOURCE / "requirements.txt")
    return Driver(str(python), SOURCE / "session.py")


@pytest.fixture
def talk(driver: Driver, url: str, tmp_path: Path) -> Talk:
    """`talk(*steps, **options)`: one stream of the plugin, from its first frame to the end of its input."""

    def session(*steps: Step, **options: object) -> Heard:
        return driver.session(tmp_path, url, steps, {"model": "universal-streaming-english"} | options)

    return session


def assert_well(heard: Heard) -> None:
    """Nothing failed, nothing was logged as odd, and each final followed interim transcripts that grew into it."""
    assert not [event for event in heard.events if event["event"] in ("complaint", "error", "failed")]
    assert heard.one("session")["id"]
    assert isinstance(heard.one("session")["expires_at"], int)
    interims: list[str] = []
    for event in heard.events:
        if event["event"] == "interim":
            interims.append(event["text"])
        elif event["event"] == "final":
            assert interims, event
            assert interims[-1] == event["text"], event
            lengths = [len(words(text)) for text in interims]
            assert lengths == sorted(lengths), interims
            interims = []
    assert not interims, "a turn without its final"


def test_interim_transcripts_grow_into_the_final(talk):
    heard = talk(say(clip_pcm(LIGHT) + silence(1.5)), wait("final"))
    assert_well(heard)
    assert_heard(LIGHT, heard.transcript())
    assert len(heard.of("interim")) >= 3
    assert {event["language"] for event in heard.of("final")} == {
        "en"
    }  # we name none (protocol 0.3, item 12)
    assert len(heard.of("end_of_speech")) == len(heard.of("final"))


def test_words_have_their_times_and_confidence(talk):
    heard = talk(say(clip_pcm(FOX) + silence(1.5)), wait("final"))
    final = heard.one("final")
    assert " ".join(final["words"]) == final["text"]
    assert 0 <= final["start_s"] < final["end_s"] <= len(clip_pcm(FOX)) / 2 / SAMPLE_RATE
    assert 0.5 < final["confidence"] <= 1


def test_what_was_said_is_offered_before_the_turn_has_ended_for_sure(talk):
    heard = talk(say(clip_pcm(FOX) + silence(1.5)), wait("final"))
    kinds = [event["event"] for event in heard.events]
    assert kinds.index("preflight") < kinds.index("final")
    assert heard.one("preflight")["text"] == heard.one("final")["text"]


def test_the_end_of_input_brings_what_was_said_last(talk):
    heard = talk(say(clip_pcm(FOX)))  # no pause at the end, and nobody waits
    assert_well(heard)
    assert_heard(FOX, heard.transcript())
    assert all(event["text"] for event in heard.of("final"))


def test_formatted_turns_come_once(talk):
    heard = talk(say(clip_pcm(FOX) + silence(1.5)), wait("final"), format_turns=True)
    assert_well(heard)
    final = heard.one("final")
    assert final["text"][0].isupper()
    assert final["text"].endswith(".")


def test_another_sample_rate(talk):
    heard = talk(say(clip_pcm(LIGHT, 24_000) + silence(1.5, 24_000)), wait("final"), sample_rate=24_000)
    assert_well(heard)
    assert_heard(LIGHT, heard.transcript())


def test_update_options_changes_where_turns_end(talk):
    audio, second = clip_pcm(BECKETT), 2 * SAMPLE_RATE
    heard = talk(
        say(audio[:second]),
        wait("interim"),
        do("update", {"end_of_turn_confidence_threshold": 1.0, "max_turn_silence": 10_000}),
        say(audio[second:]),
        end_of_turn_confidence_threshold=0.0,
        min_turn_silence=160,
    )
    assert_well(heard)
    assert_heard(BECKETT, heard.one("final")["text"], 0.35)


def test_force_endpoint_ends_the_turn_in_the_middle_of_speech(talk):
    audio, two_seconds = clip_pcm(LIGHT), 2 * 2 * SAMPLE_RATE
    heard = talk(
        say(audio[:two_seconds]), wait("interim"), do("force"), wait("final"), say(audio[two_seconds:])
    )
    assert_well(heard)
    assert len(heard.of("final")) >= 2
    assert heard.of("final")[0]["end_s"] <= 2.0 + 0.1
    assert_heard(LIGHT, heard.transcript(), 0.25)


def test_flush_ends_no_turn_and_loses_no_sound(talk):
    """The plugin sends the rest of a frame as it is, shorter than 50 ms (protocol 3.1: to be tolerated)."""
    audio, cut = clip_pcm(FOX), 2 * (SAMPLE_RATE + 333)
    heard = talk(say(audio[:cut]), do("flush"), say(audio[cut:] + silence(1.5)), wait("final"))
    assert_well(heard)
    assert_heard(FOX, heard.one("final")["text"])


def test_turns_follow_each_other_in_time(talk):
    heard = talk(say(clip_pcm(FOX) + silence(1.5) + clip_pcm(LIGHT) + silence(1.5)), wait("final", 2))
    assert_well(heard)
    assert_heard([FOX, LIGHT], heard.transcript())
    for before, after in pairwise(heard.of("final")):
        assert before["end_s"] <= after["start_s"]
    first_ends_s = len(clip_pcm(FOX)) / 2 / SAMPLE_RATE
    assert math.isclose(heard.of("final")[0]["end_s"], first_ends_s, abs_tol=0.5)


def test_its_default_model(driver, pro_url, tmp_path):
    """The U3 family: it hears when speech began, and each interim transcript is the whole turn."""
    steps = [say(clip_pcm(LIGHT) + silence(1.5)), wait("final")]
    heard = driver.session(tmp_path, pro_url, steps, {})
    assert not [event for event in heard.events if event["event"] in ("complaint", "error", "failed")]
    assert_heard(LIGHT, heard.transcript())
    kinds = [event["event"] for event in heard.events]
    assert kinds.index("start_of_speech") < kinds.index("interim") < kinds.index("final")
    assert {event["language"] for event in heard.of("final")} == {"en"}  # it asks, and here it is heard


def test_a_bad_parameter_fails_the_stream_with_its_code(talk):
    heard = talk(wait("failed"), vad_threshold=1.5, max_retry=0)
    assert "3006" in heard.one("failed")["text"]
    assert "3006" in heard.one("error")["text"]
    assert not heard.of("final")


def test_a_bad_parameter_is_tried_again_and_harms_nobody(talk, stack, metric):
    """A close that LiveKit did not ask for is tried again, whatever its code (protocol 10: quirks)."""
    name = 'steno_client_errors_total{code="3006"}'
    before = metric(stack, name)
    heard = talk(wait("failed"), vad_threshold=1.5, max_retry=1)
    assert heard.of("failed")
    assert metric(stack, name) - before == 2
