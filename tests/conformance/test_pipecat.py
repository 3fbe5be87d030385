"""pipecat's AssemblyAI service, unmodified, in a pipeline behind pipecat's own VAD, against the real stack."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.clients import Driver, Heard, Step, do, python_environment, say, wait
from tests.speech import FOX, LIGHT, assert_heard, clip_pcm, silence

pytestmark = [pytest.mark.weights, pytest.mark.clients, pytest.mark.timeout(90)]

SOURCE = Path(__file__).with_name("pipecat")
ENGLISH = "universal-streaming-english"

Talk = Callable[..., Heard]


@pytest.fixture(scope="module")
def driver() -> Driver:
    python = python_environment("pipecat", SOURCE / "requirements.txt")
    return Driver(str(python), SOURCE / "session.py")


@pytest.fixture
def talk(driver: Driver, url: str, tmp_path: Path) -> Talk:
    """`talk(*steps, model=..., **settings)`: one pipeline from its start to its EndFrame; `options` of the service."""

    def session(*steps: Step, model: str = ENGLISH, options: dict | None = None, **settings: object) -> Heard:
        return driver.session(
            tmp_path, url, steps, {"settings": {"model": model} | settings} | (options or {})
        )

    return session


def assert_well(heard: Heard) -> None:
    """The pipeline ended, nothing was logged as odd (a Termination in vain would be), each final ended a turn."""
    assert not [event for event in heard.events if event["event"] in ("complaint", "error")]
    assert heard.events[-1]["event"] == "ended"
    assert [event["text"] for event in heard.of("end_of_turn")] == [
        event["text"] for event in heard.of("final")
    ]


# ---------------------------------------------------------------------------------------------------------------------
# pipecat decides where turns end: the mode it starts in


def test_pipecats_endpoint_brings_the_final(talk):
    """`finalized` means: this is the answer to ForceEndpoint, which pipecat sent when its VAD heard the end."""
    heard = talk(
        say(clip_pcm(FOX) + silence(0.6)), wait("final")
    )  # less silence than we would end the turn at
    assert_well(heard)
    final = heard.one("final")
    assert final["finalized"]
    assert final["language"] == "en"
    assert_heard(FOX, final["text"])
    assert final["text"][0].isupper()  # pipecat asks for formatted turns
    kinds = [event["event"] for event in heard.events]
    assert kinds.index("vad_stopped") < kinds.index("final")


def test_interim_transcripts_come_before_the_final(talk):
    heard = talk(say(clip_pcm(FOX)), wait("interim"), say(silence(0.6)), wait("final"))
    assert_well(heard)
    kinds = [event["event"] for event in heard.events]
    assert kinds.index("interim") < kinds.index("final")
    final = heard.one("final")["text"].rstrip(".")
    assert all(final.startswith(event["text"].rstrip(".")) for event in heard.of("interim"))


def test_each_endpoint_has_its_final(talk):
    """Spoken one after another, as in a dialogue."""
    clips = [FOX, "hello_world.wav", LIGHT]
    steps: list[Step] = []
    for number, clip in enumerate(clips):
        steps += [say(clip_pcm(clip) + silence(0.6)), wait("final", number + 1)]
    heard = talk(*steps)
    assert_well(heard)
    assert_heard(clips, heard.transcript())


def test_the_end_of_the_pipeline_brings_what_was_said_last(talk):
    heard = talk(say(clip_pcm(FOX)), wait("interim"))  # no pause at the end
    assert_well(heard)
    assert_heard(FOX, heard.transcript())


def test_plain_turns(talk):
    heard = talk(say(clip_pcm(FOX) + silence(0.6)), wait("final"), format_turns=False)
    assert_well(heard)
    assert heard.transcript().islower()


def test_new_settings_are_a_new_session(talk):
    """pipecat ends the session and begins another one with what else it was told (protocol 10)."""
    heard = talk(
        say(clip_pcm(FOX) + silence(0.6)),
        wait("final"),
        do("settle", {"vad_threshold": 0.5}),
        wait("connected", 2),
        say(clip_pcm(LIGHT) + silence(0.6)),
        wait("final", 2),
    )
    assert_well(heard)
    assert_heard([FOX, LIGHT], heard.transcript(), 0.25)


# ---------------------------------------------------------------------------------------------------------------------
# we decide where turns end: what pipecat offers for models that tell SpeechStarted


def test_our_turns_become_pipecats_turns(driver, pro_url, tmp_path):
    """SpeechStarted begins the user's turn, the final ends it; its default model, whose name it sends."""
    steps = [
        say(clip_pcm(FOX) + silence(1.5)),
        wait("turn_stopped"),
        say(clip_pcm(LIGHT) + silence(1.5)),
        wait("final", 2),
    ]
    heard = driver.session(tmp_path, pro_url, steps, {"vad_force_turn_endpoint": False})
    assert_well(heard)
    assert_heard([FOX, LIGHT], heard.transcript())
    kinds = [
        event["event"]
        for event in heard.events
        if event["event"] in ("turn_started", "final", "turn_stopped")
    ]
    assert kinds.count("turn_started") == kinds.count("turn_stopped") == kinds.count("final") >= 2
    assert kinds[0] == "turn_started"
    first = [event["event"] for event in heard.events if event["event"] in ("turn_started", "interim")]
    assert first[0] == "turn_started"


def test_pipecats_turns_with_its_default_model(driver, pro_url, tmp_path):
    """It sends both silences as 100 ms, and ForceEndpoint at the end of each turn."""
    steps = [
        say(clip_pcm(FOX) + silence(0.6)),
        wait("final"),
        do("settle", {"agent_context": "What is the fox?"}),
    ]
    heard = driver.session(
        tmp_path, pro_url, [*steps, say(clip_pcm(LIGHT) + silence(0.6)), wait("final", 2)], {}
    )
    assert_well(heard)
    assert_heard([FOX, LIGHT], heard.transcript())


def test_pipecat_itself_refuses_our_turns_for_models_without_speech_started(talk):
    """So this mode cannot be had with a model of the US family, whatever a server does (protocol 4.2, 10)."""
    with pytest.raises(AssertionError, match=r"requires a U3 Pro model for SpeechStarted support"):
        talk(options={"vad_force_turn_endpoint": False})


def test_a_model_that_is_not_served_is_an_error_frame_and_the_pipeline_still_ends(talk):
    """The name is one that pipecat takes for a U3 model, so that it connects in this mode, and connects again."""
    heard = talk(
        wait("connected", 2),
        model="universal-3-6-pro-nowhere",
        options={"vad_force_turn_endpoint": False},
    )
    assert "Unknown message type: Error" in heard.of("error")[0]["text"]
    assert not heard.of("final")
    assert heard.events[-1]["event"] == "ended"
    assert any("3006" in event["text"] for event in heard.of("complaint"))
