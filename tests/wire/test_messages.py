"""The client's protocol: what is parsed and refused, what is dumped, and that the vendor's own models read it."""

import json
import math
from typing import Any

import pytest
from assemblyai.streaming.v3 import models as official
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from wire.errors import ClientError, Close
from wire.messages import (
    Begin,
    Error,
    ForceEndpoint,
    KeepAlive,
    ServerMessage,
    SpeechStarted,
    Terminate,
    Termination,
    Turn,
    UpdateConfiguration,
    Word,
    dump,
    parse_client_message,
)

# ---------------------------------------------------------------------------------------------------------------------
# client -> server


@pytest.mark.parametrize(
    "text,message",
    [
        ('{"type": "Terminate"}', Terminate()),
        ('{"type":"Terminate"}', Terminate()),
        ('\n{ "type" : "ForceEndpoint" }\t', ForceEndpoint()),
        ('{"type":"KeepAlive","sent_at":12}', KeepAlive()),
        (
            '{"max_turn_silence":800,"type":"UpdateConfiguration"}',
            UpdateConfiguration({"max_turn_silence": 800}),
        ),
        ('{"type":"UpdateConfiguration"}', UpdateConfiguration({})),
    ],
)
def test_parse(text: str, message: Any):
    assert parse_client_message(text) == message


@pytest.mark.parametrize(
    "sent,message",
    [
        (official.TerminateSession(), Terminate()),
        (official.ForceEndpoint(), ForceEndpoint()),
        (official.KeepAlive(), KeepAlive()),
    ],
)
def test_the_official_client_is_understood(sent: Any, message: Any):
    assert parse_client_message(sent.model_dump_json()) == message


@pytest.mark.parametrize(
    "text,answer",
    [
        ("", "User Input Validation Error: Invalid JSON: Expecting value: line 1 column 1 (char 0)"),
        ("hello", "User Input Validation Error: Invalid JSON: Expecting value: line 1 column 1 (char 0)"),
        (
            '{"type":"Terminate"',
            "User Input Validation Error: Invalid JSON: Expecting ',' delimiter: line 1 column 20 (char 19)",
        ),
        ('{"type":"Hello"}', "Invalid Message Type: Hello"),
        ('{"type":"terminate"}', "Invalid Message Type: terminate"),
        ('{"type":"Turn"}', "Invalid Message Type: Turn"),
        ("{}", "Invalid Message Type: None"),
        ('{"type":7}', "Invalid Message Type: 7"),
        ('{"type":["Terminate"]}', "Invalid Message Type: list"),
        ("[]", "Invalid Message: expected a JSON object"),
        ('"Terminate"', "Invalid Message: expected a JSON object"),
        ("null", "Invalid Message: expected a JSON object"),
    ],
)
def test_refusals(text: str, answer: str):
    with pytest.raises(ClientError) as caught:
        parse_client_message(text)
    assert (caught.value.code, caught.value.text) == (Close.INVALID_INPUT, answer)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("[" * 100_000, id="too deep"),
        pytest.param('{"type":' + "[" * 990 + "]" * 990 + "}", id="deep"),
        pytest.param('{"type":' + "9" * 5_000 + "}", id="too many digits"),
        pytest.param('{"type":"' + "x" * 100_000 + '"}', id="too long"),
    ],
)
def test_monsters_are_refused_like_anything_else(text: str):
    with pytest.raises(ClientError) as caught:
        parse_client_message(text)
    assert len(caught.value.text) < 300


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None)),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)


@given(
    st.one_of(
        st.text(), json_values.map(json.dumps), json_values.map(lambda value: json.dumps({"type": value}))
    )
)
def test_any_text_is_a_message_or_a_refusal_that_can_be_sent(text: str):
    try:
        parse_client_message(text)
    except ClientError as error:
        assert error.code is Close.INVALID_INPUT
        assert len(dump(Error(error.code, error.text)).encode()) < 2_000


# ---------------------------------------------------------------------------------------------------------------------
# server -> client

CONFIGURATION = {
    "model": "universal-streaming-english",
    "mode": None,
    "api_version": "2025-05-12",
    "speaker_labels": False,
    "redact_pii": False,
    "filter_profanity": False,
    "domain": None,
    "voice_focus": None,
}


@pytest.mark.parametrize(
    "message,text",
    [
        (
            Begin("5f0c", 1_795_356_000, {"model": "m", "mode": None}),
            '{"id":"5f0c","expires_at":1795356000,"configuration":{"model":"m","mode":null},"type":"Begin"}',
        ),
        (
            Turn(0, True, False, "", 0.004, (Word(640, 720, "Plea", 0.71, False),)),
            (
                '{"turn_order":0,"turn_is_formatted":true,"end_of_turn":false,"transcript":"",'
                '"end_of_turn_confidence":0.004,"words":[{"start":640,"end":720,"text":"Plea","confidence":0.71,'
                '"word_is_final":false}],"utterance":"","type":"Turn"}'
            ),
        ),
        (
            Turn(3, True, True, "Olé.", 0.8, (), "Olé.", "es", 0.875),
            (
                '{"turn_order":3,"turn_is_formatted":true,"end_of_turn":true,"transcript":"Olé.",'
                '"end_of_turn_confidence":0.8,"words":[],"utterance":"Olé.","language_code":"es",'
                '"language_confidence":0.875,"type":"Turn"}'
            ),
        ),
        (SpeechStarted(512, 0.91), '{"timestamp":512,"confidence":0.91,"type":"SpeechStarted"}'),
        (
            Termination(4, 5),
            '{"audio_duration_seconds":4,"session_duration_seconds":5,"type":"Termination"}',
        ),
        (
            Error(Close.INVALID_INPUT, "Invalid Message Type: x"),
            '{"error_code":3006,"error":"Invalid Message Type: x","type":"Error"}',
        ),
    ],
)
def test_dump(message: ServerMessage, text: str):
    assert dump(message) == text


def test_confidences_do_not_run_on():
    text = dump(Turn(0, False, False, "", 1 / 3, (Word(0, 1, "a", 2 / 3, False),), "", "en", 1 / 3))
    assert text.count("0.333333,") == 2
    assert '"confidence":0.666667,' in text


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_what_json_cannot_say_is_not_said(number: float):
    with pytest.raises(ValueError, match="not JSON compliant"):
        dump(Turn(0, False, False, "", number))
    with pytest.raises(ValueError, match="not JSON compliant"):
        dump(SpeechStarted(0, number))


milliseconds = st.integers(0, 10_800_000)
probabilities = st.floats(0, 1)
texts = st.text(max_size=30)
words = st.builds(Word, milliseconds, milliseconds, texts, probabilities, st.booleans())
turns = st.builds(
    Turn,
    st.integers(0, 10_000),
    st.booleans(),
    st.booleans(),
    texts,
    probabilities,
    st.lists(words, max_size=5).map(tuple),
    texts,
    st.none() | st.sampled_from(["en", "de"]),
    st.none() | probabilities,
)
server_messages = st.one_of(
    st.builds(Begin, st.uuids().map(str), st.integers(1_700_000_000, 2_000_000_000), st.just(CONFIGURATION)),
    turns,
    st.builds(SpeechStarted, milliseconds, probabilities),
    st.builds(Termination, st.integers(0, 10_800), st.integers(0, 10_800)),
    st.builds(Error, st.sampled_from(Close), texts),
)


@given(server_messages)
def test_dumped_messages_keep_the_rules_that_clients_depend_on(message: ServerMessage):
    text = dump(message)
    assert "\n" not in text
    fields = json.loads(text)
    assert list(fields)[-1] == "type"
    assert ("error" in fields) == isinstance(message, Error)
    assert not [name for name, value in fields.items() if value is None]
    if isinstance(message, Turn):
        assert list(fields)[:7] == [
            "turn_order",
            "turn_is_formatted",
            "end_of_turn",
            "transcript",
            "end_of_turn_confidence",
            "words",
            "utterance",
        ]
        for word in fields["words"]:
            assert list(word) == ["start", "end", "text", "confidence", "word_is_final"]


@given(server_messages)
def test_the_official_models_read_what_we_dump(message: ServerMessage):
    read: Any = TypeAdapter(official.EventMessage).validate_json(dump(message))
    expected = {
        Begin: official.BeginEvent,
        Turn: official.TurnEvent,
        SpeechStarted: official.SpeechStartedEvent,
        Termination: official.TerminationEvent,
        Error: official.ErrorEvent,
    }
    assert type(read) is expected[type(message)]
    match message:
        case Turn():
            assert (read.turn_order, read.end_of_turn, read.transcript) == (
                message.turn_order,
                message.end_of_turn,
                message.transcript,
            )
            assert [(w.text, w.start, w.end, w.word_is_final) for w in read.words] == [
                (w.text, w.start, w.end, w.word_is_final) for w in message.words
            ]
            assert read.language_code == message.language_code
        case Begin():
            assert (read.id, int(read.expires_at.timestamp())) == (message.id, message.expires_at)
            assert read.configuration.model == message.configuration["model"]
        case SpeechStarted():
            assert read.timestamp == message.timestamp
        case Termination():
            assert read.audio_duration_seconds == message.audio_duration_seconds
        case Error():
            assert (read.error_code, read.error) == (message.error_code, message.error)
