"""The checklist for a server that wants to be taken for the vendor's (protocol 10.1): one line, one test.

What a line means in detail is tested elsewhere (`test_wire.py`, `tests/ingress/`); here the list is seen to be whole.
"""

import http.client
import json
import ssl

import numpy as np
import pytest

from tests.clients import SecureStack
from tests.conversation import AUTHORIZED, BEGIN, Conversation, Message, is_turn
from tests.encoded import packets_of, stream_of
from tests.speech import FOX, LIGHT, SAMPLE_RATE, assert_heard, clip_pcm, pieces, silence

pytestmark = pytest.mark.weights

#: Ours is a US model: what it may say (protocol 0.2, 4.2). The rest is for those who ask for it, or for U3.
UNPROMPTED = {"Begin", "Turn", "Termination"}


def told(conversation: Conversation) -> set[str]:
    return {message["type"] for message in conversation.messages}


# ---------------------------------------------------------------------------------------------------------------------
# paths


@pytest.mark.parametrize("path", ["/", "/v3/ws"])
def test_both_paths_upgrade(url, path):
    with Conversation(url, path) as conversation:
        conversation.end()


@pytest.mark.parametrize("path", ["/v3/ws/health", "/v3/health"])
def test_both_health_paths_answer_200(stack, path):
    connection = http.client.HTTPConnection("127.0.0.1", stack.port, timeout=5)
    connection.request("GET", path)
    assert connection.getresponse().status == 200
    connection.close()


def test_a_token_is_given_and_begins_a_session(stack, url):
    connection = http.client.HTTPConnection("127.0.0.1", stack.port, timeout=5)
    connection.request("GET", "/v3/token?expires_in_seconds=60", headers=AUTHORIZED)
    response = connection.getresponse()
    body = response.read()
    connection.close()
    assert response.status == 200, body
    given = json.loads(body)
    assert given["expires_in_seconds"] == 60
    with Conversation(url, headers={}, token=given["token"]) as conversation:
        conversation.end()


# ---------------------------------------------------------------------------------------------------------------------
# sample rates and encodings


@pytest.mark.parametrize("sample_rate", [8_000, 96_000])
def test_the_lowest_and_the_highest_rate_are_understood(url, sample_rate):
    with Conversation(url, sample_rate=sample_rate) as conversation:
        conversation.say(clip_pcm(FOX, sample_rate))
        assert_heard(FOX, conversation.end().transcript)


def encoded(clip: str, encoding: str) -> list[bytes]:
    """The clip in messages of this encoding: packets for `opus`, else slices cut anywhere (protocol 3.1)."""
    samples = np.frombuffer(clip_pcm(clip), "<i2")
    if encoding == "opus":
        return packets_of(samples, SAMPLE_RATE)
    return list(pieces(stream_of(samples, SAMPLE_RATE, encoding), 1_001))


@pytest.mark.parametrize("encoding", ["pcm_mulaw", "opus", "ogg_opus", "aac"])
def test_every_encoding_is_understood(url, encoding):
    with Conversation(url, encoding=encoding) as conversation:
        conversation.send_all(encoded(FOX, encoding))
        assert_heard(FOX, conversation.end().transcript)


def test_an_encoding_that_we_do_not_have_is_refused_by_name(url):
    with Conversation(url, encoding="flac") as conversation:
        conversation.hear_rest()
    assert conversation.messages == [
        {
            "error_code": 3006,
            "error": "User Input Validation Error: Invalid 'encoding': Value error, 'flac' is not a valid Encoding",
            "type": "Error",
        }
    ]


# ---------------------------------------------------------------------------------------------------------------------
# unknown names


def test_unknown_names_change_nothing(url):
    def heard(update: Message, **query: object) -> list[Message]:
        with Conversation(url, **query) as conversation:  # type: ignore[arg-type]  # a query may name anything
            conversation.order("UpdateConfiguration", **update)
            conversation.say(clip_pcm(FOX))
            return conversation.end().finals

    strange = {"colour": "green", "turns": {"max": [1, None]}, "": 0}
    assert heard(strange, colour="green", formatted_finals="true") == heard({})


# ---------------------------------------------------------------------------------------------------------------------
# messages for those who asked, and SpeechStarted, which is for U3 models only


def test_nothing_is_said_that_nobody_asked_for(url):
    with Conversation(url) as conversation:
        conversation.say(silence(3) + clip_pcm(LIGHT) + silence(6))
        conversation.end()
    assert told(conversation) == UNPROMPTED


def test_speech_started_and_silence_come_on_the_u3_models(pro_url):
    query = {"speech_model": "universal-3-6-pro", "acknowledge_silence": "true", "session_heartbeat": "true"}
    with Conversation(pro_url, **query) as conversation:  # type: ignore[arg-type]
        conversation.say(silence(3) + clip_pcm(LIGHT) + silence(2))
        started = conversation.hear_until(lambda message: message["type"] == "SpeechStarted")
        conversation.order("Terminate")
        conversation.hear_rest()
    assert list(started) == ["timestamp", "confidence", "type"]
    assert (type(started["timestamp"]), type(started["confidence"])) == (int, float)
    silences = [message for message in conversation.messages if message["type"] == "Silence"]
    assert len(silences) >= 2
    assert all(type(one["start_ms"]) is type(one["end_ms"]) is int for one in silences)
    assert_heard(LIGHT, conversation.transcript)


# ---------------------------------------------------------------------------------------------------------------------
# shapes


def test_numbers_types_and_keys_are_as_clients_parse_them(url):
    with Conversation(url) as conversation:
        conversation.say(clip_pcm(LIGHT))
        conversation.end()  # holds all messages against their shapes
    for frame in conversation.frames:
        message = json.loads(frame)
        assert isinstance(message["type"], str)
        assert '"error"' not in str(frame)
        for word in message.get("words", []):
            assert (type(word["start"]), type(word["end"])) == (int, int)
    durations = conversation.messages[-1]
    assert type(durations["audio_duration_seconds"]) is type(durations["session_duration_seconds"]) is int


def test_begin_has_the_session_and_eight_settings(url):
    with Conversation(url) as conversation:
        begin = conversation.end().messages[0]
    assert {name: type(value) for name, value in begin.items()} == BEGIN
    settings = {
        "model",
        "mode",
        "api_version",
        "speaker_labels",
        "redact_pii",
        "filter_profanity",
        "domain",
        "voice_focus",
    }
    assert begin["configuration"].keys() == settings


# ---------------------------------------------------------------------------------------------------------------------
# no empty final after Terminate


def test_no_empty_final_follows_terminate(url):
    with Conversation(url) as conversation:
        conversation.say(clip_pcm(FOX) + silence(2))
        conversation.hear_until(lambda message: is_turn(message) and message["end_of_turn"])
        heard = len(conversation.messages)
        conversation.end()
    assert [message["type"] for message in conversation.messages[heard:]] == ["Termination"]


# ---------------------------------------------------------------------------------------------------------------------
# short last chunks, early audio, pings, clients that close right after Termination


def test_hasty_and_untidy_clients_are_served(url):
    audio = clip_pcm(FOX)
    with Conversation(url) as conversation:
        conversation.say(audio[:-6_402])  # before Begin was read
        assert conversation.socket.ping().wait(5)
        conversation.send_all([audio[-6_402:-2], audio[-2:]])  # the last one is one sample
        conversation.order("Terminate")
        conversation.hear_until(lambda message: message["type"] == "Termination")
        conversation.socket.close()
    assert_heard(FOX, conversation.transcript)
    with Conversation(url) as another:
        another.end()


# ---------------------------------------------------------------------------------------------------------------------
# close codes; those of a full, ill or ending server (3005, 3008, 3009) are in tests/ingress/


def test_the_good_end_is_1000(url):
    with Conversation(url) as conversation:
        conversation.end()
    assert conversation.messages[-1]["type"] == "Termination"
    assert conversation.close == (1000, "Session Ended")


@pytest.mark.parametrize(
    "code, headers, query, message",
    [
        (1008, {}, {}, ""),
        (3006, AUTHORIZED, {"vad_threshold": 2}, ""),
        (3006, AUTHORIZED, {}, '{"type": "Nonsense"}'),
        (3006, AUTHORIZED, {}, "not JSON"),
    ],
)
def test_every_other_end_is_an_error_and_a_close_with_its_code(url, code, headers, query, message):
    with Conversation(url, headers=headers, **query) as conversation:
        if message:
            conversation.socket.send(message)
        conversation.hear_rest()
    last = conversation.messages[-1]
    assert (last["type"], last["error_code"]) == ("Error", code)
    assert conversation.close == (code, "See Error message for details")
    assert "Termination" not in told(conversation)


# ---------------------------------------------------------------------------------------------------------------------
# TLS


def test_sessions_are_served_behind_tls(secure: SecureStack, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(secure.ca_file))
    with Conversation(secure.url) as conversation:
        conversation.say(clip_pcm(FOX))
        assert_heard(FOX, conversation.end().transcript)


def test_health_is_answered_behind_tls(secure: SecureStack):
    trusted = ssl.create_default_context(cafile=secure.ca_file)
    connection = http.client.HTTPSConnection("localhost", secure.stack.port, timeout=5, context=trusted)
    connection.request("GET", "/v3/ws/health")
    assert connection.getresponse().status == 200
    connection.close()
