"""The official JS SDK, unmodified, under Node against the real stack. It speaks only `wss://` (protocol 1.5)."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.clients import Driver, Heard, SecureStack, Step, do, node_environment, say, wait
from tests.speech import BECKETT, FOX, LIGHT, SAMPLE_RATE, assert_heard, clip_pcm, silence

pytestmark = [pytest.mark.weights, pytest.mark.clients, pytest.mark.timeout(90)]

SOURCE = Path(__file__).with_name("js")
CLOSE = do("close", 5_000)  # the SDK's own default

Talk = Callable[..., Heard]


@pytest.fixture(scope="module")
def driver() -> Driver:
    folder = node_environment("js", SOURCE)
    script = folder / "session.mjs"  # beside node_modules, where its imports are looked for
    script.write_bytes((SOURCE / "session.mjs").read_bytes())
    return Driver("node", script)


@pytest.fixture
def talk(driver: Driver, secure: SecureStack, tmp_path: Path) -> Talk:
    """`talk(*steps, **options)`: one session of the SDK from connecting to the end."""

    def session(*steps: Step, **options: object) -> Heard:
        wanted = {"speechModel": "universal-streaming-english"} | options
        env = {"NODE_EXTRA_CA_CERTS": str(secure.ca_file)}
        return driver.session(tmp_path, secure.url, steps, wanted, env)

    return session


def finals(heard: Heard) -> list[dict[str, Any]]:
    return [event["turn"] for event in heard.of("turn") if event["turn"]["end_of_turn"]]


def assert_well(heard: Heard) -> None:
    """Connected at the first attempt, ended with Termination and not by the client's patience, no error on the way."""
    assert heard.events[0]["event"] == "open", heard.events[0]
    assert {event["event"] for event in heard.events} <= {"open", "turn", "final", "closed"}
    assert heard.one("closed")["took_ms"] < CLOSE[1] - 500
    orders = [turn["turn_order"] for turn in finals(heard)]
    assert orders == list(range(len(orders)))


def test_the_sdk_is_the_one_we_promise(driver):
    installed = driver.script.parent / "node_modules" / "assemblyai" / "package.json"
    assert json.loads(installed.read_text())["version"] == "4.41.5"


def test_a_session_from_begin_to_termination(talk):
    heard = talk(say(clip_pcm(LIGHT) + silence(1.5)), wait("final"), CLOSE)
    assert_well(heard)
    begin = heard.one("open")
    assert begin["configuration"]["model"] == "universal-streaming-english"
    assert isinstance(begin["expires_at"], int)
    partials = [event["turn"] for event in heard.of("turn") if not event["turn"]["end_of_turn"]]
    assert partials
    assert all(word["word_is_final"] for turn in finals(heard) for word in turn["words"])
    assert_heard(LIGHT, heard.transcript())


def test_close_brings_what_was_said_last(talk):
    heard = talk(say(clip_pcm(FOX)), wait("turn"), CLOSE)  # no pause at the end, so that no turn has ended
    assert_well(heard)
    assert_heard(FOX, heard.transcript())


@pytest.mark.parametrize("format_turns", [True, False])
def test_turns_are_formatted_as_asked(talk, format_turns):
    heard = talk(say(clip_pcm(FOX) + silence(1.5)), wait("final"), CLOSE, formatTurns=format_turns)
    assert_well(heard)
    assert {turn["turn_is_formatted"] for turn in finals(heard)} == {format_turns}
    assert heard.transcript()[0].isupper() == format_turns
    assert heard.transcript().endswith(".") == format_turns


def test_update_configuration_changes_where_turns_end(talk):
    heard = talk(
        do("update", {"end_of_turn_confidence_threshold": 1.0, "max_turn_silence": 10_000}),
        do("keep_alive"),
        say(clip_pcm(BECKETT)),
        do("force"),
        wait("final"),
        CLOSE,
        endOfTurnConfidenceThreshold=0.01,
        minTurnSilence=160,
    )
    assert_well(heard)
    assert len(finals(heard)) == 1
    assert_heard(BECKETT, heard.transcript(), 0.35)


def test_force_endpoint_ends_the_turn_in_the_middle_of_speech(talk):
    audio, two_seconds = clip_pcm(LIGHT), 2 * 2 * SAMPLE_RATE
    heard = talk(
        say(audio[:two_seconds]),
        wait("turn"),
        do("force"),
        wait("final"),
        say(audio[two_seconds:] + silence(1.5)),
        wait("final", 2),
        CLOSE,
    )
    assert_well(heard)
    assert all(word["start"] < 2_000 for word in finals(heard)[0]["words"])
    assert_heard(LIGHT, heard.transcript(), 0.25)


def test_a_bad_parameter_is_told_after_three_connections(talk, secure, metric):
    """The SDK takes 3006 for something that may pass, so it connects three times before it gives up (protocol 1.5)."""
    name = 'steno_client_errors_total{code="3006"}'
    before = metric(secure.stack, name)
    heard = talk(CLOSE, vadThreshold=1.5)
    assert [event["event"] for event in heard.events] == ["retry", "retry", "rejected"]
    rejected = heard.one("rejected")
    assert rejected["code"] == 3006
    assert rejected["text"] == (
        "User Input Validation Error: Invalid 'vad_threshold': Input should be less than or equal to 1"
    )
    assert metric(secure.stack, name) - before == 3


def test_a_bad_update_reaches_the_error_listener_and_then_the_close_listener(talk):
    heard = talk(do("update", {"vad_threshold": 7}), wait("close"))
    assert [event["event"] for event in heard.events] == ["open", "error", "close"]
    assert heard.one("error")["code"] == heard.one("close")["code"] == 3006
    assert "Invalid 'vad_threshold'" in heard.one("error")["text"]


def test_a_token_in_the_query_is_enough(talk):
    heard = talk(say(clip_pcm(FOX) + silence(1.5)), wait("final"), CLOSE, token="temporary")
    assert_well(heard)
    assert_heard(FOX, heard.transcript())


def test_a_token_that_the_sdk_asked_for_is_served(talk):
    heard = talk(say(clip_pcm(FOX) + silence(1.5)), wait("final"), CLOSE, token="ask")
    assert_well(heard)
    assert_heard(FOX, heard.transcript())


def test_two_channels_that_the_sdk_mixes_are_one_session(talk):
    """The SDK mixes, in chunks of 50 to 200 ms, and finds each word's channel again by the times we give it."""
    audio = clip_pcm(LIGHT) + silence(1.5)
    heard = talk(
        say(audio, "caller"),
        say(bytes(len(audio)), "agent"),
        wait("final"),
        CLOSE,
        channels=[{"name": "caller"}, {"name": "agent"}],
    )
    assert_well(heard)
    assert_heard(LIGHT, heard.transcript())
    assert {word["channel"] for turn in finals(heard) for word in turn["words"]} == {"caller"}
