"""The wire, held against the protocol by a client made of a bare WebSocket: one line of the contract, one test."""

import base64
import http.client
import json
import re
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from numpy.typing import NDArray
from websockets.exceptions import InvalidStatus

from cli.bench_names import OTHERS
from cli.up import Stack
from tests.conversation import AUTHORIZED, Conversation, Message, is_final, is_turn
from tests.speech import (
    BECKETT,
    FOX,
    LIGHT,
    SAMPLE_RATE,
    assert_heard,
    clip_pcm,
    pcm,
    pieces,
    samples,
    silence,
)

pytestmark = pytest.mark.weights

#: A sentence with two names that need key terms.
RARE = "kubernetes.wav"
SEE_ERROR = "See Error message for details"
INVALID = "User Input Validation Error: Invalid"


def refused(conversation: Conversation, code: int) -> str:
    """The server says Error and closes with the same code; the error's text."""
    with conversation:
        conversation.hear_rest()
    error = conversation.messages[-1]
    assert error == {"error_code": code, "error": error.get("error"), "type": "Error"}
    assert conversation.close == (code, SEE_ERROR)
    return str(error["error"])


def refused_at_once(conversation: Conversation, code: int) -> str:
    """The same, and without Begin."""
    text = refused(conversation, code)
    assert [message["type"] for message in conversation.messages] == ["Error"]
    return text


def transcribed(url: str, audio: bytes, **query: object) -> Conversation:
    """A whole session over this audio."""
    with Conversation(url, **query) as conversation:  # type: ignore[arg-type]  # a query may name anything
        conversation.say(audio)
        return conversation.end()


# ---------------------------------------------------------------------------------------------------------------------
# connecting


@pytest.mark.parametrize("path", ["/", "/v3/ws", ""])
def test_sessions_are_served_on_both_paths(url, path):
    with Conversation(url, path) as conversation:
        conversation.say(clip_pcm(FOX))
        assert_heard(FOX, conversation.end().transcript)


@pytest.mark.parametrize("path", ["/v3/ws/health", "/v3/health"])
def test_health_is_answered_on_the_clients_port(stack: Stack, path):
    connection = http.client.HTTPConnection("127.0.0.1", stack.port, timeout=5)
    connection.request("GET", path)
    response = connection.getresponse()
    assert response.status == 200
    assert json.loads(response.read())["status"] == "ready"
    connection.close()


def test_another_path_is_not_upgraded(url):
    with pytest.raises(InvalidStatus) as rejection:
        Conversation(url, "/v2/realtime/ws")
    assert rejection.value.response.status_code == 404


@pytest.mark.parametrize("headers", [{}, {"Authorization": ""}, {"Authorization": "  "}])
def test_without_credentials_the_upgrade_succeeds_and_an_error_follows(url, headers):
    text = refused_at_once(Conversation(url, headers=headers), 1008)
    assert text == "Unauthorized Connection: Missing Authorization header"


def test_an_empty_token_is_no_credential(url):
    assert "Missing Authorization header" in refused_at_once(Conversation(url, headers={}, token=""), 1008)


def test_a_token_in_the_query_is_enough(url):
    with Conversation(url, headers={}, token="temporary") as conversation:
        conversation.end()


def test_any_authorization_is_accepted_and_no_other_header_is_asked_for(url):
    with Conversation(url, headers={"authorization": "harness"}) as conversation:
        conversation.end()


def test_begin_comes_within_200_ms_of_connecting(url):
    took_s = []
    for _ in range(5):
        with Conversation(url) as conversation:
            begin = conversation.hear()
            took_s.append(time.monotonic() - conversation.asked_s)
            assert begin is not None
            assert begin["type"] == "Begin"
            conversation.end()
    assert sorted(took_s)[2] < 0.2, f"median of {took_s}"


def test_begin_tells_the_session_and_its_configuration(url):
    now_s = time.time()
    with Conversation(url, headers=AUTHORIZED | {"AssemblyAI-Version": "2025-05-12"}) as conversation:
        begin = conversation.end().messages[0]
    assert str(uuid.UUID(begin["id"])) == begin["id"]
    assert now_s < begin["expires_at"] <= now_s + 10_801
    assert begin["configuration"] == {
        "model": "universal-streaming-english",
        "mode": None,
        "api_version": "2025-05-12",
        "speaker_labels": False,
        "redact_pii": False,
        "filter_profanity": False,
        "domain": None,
        "voice_focus": None,
    }


def test_each_session_has_an_id_of_its_own(url):
    with Conversation(url) as one, Conversation(url) as other:
        assert one.end().messages[0]["id"] != other.end().messages[0]["id"]


def test_compression_is_declined(url):
    with Conversation(url) as conversation:  # the library offers permessage-deflate
        assert conversation.socket.response is not None
        assert "Sec-WebSocket-Extensions" not in conversation.socket.response.headers
        conversation.end()


def test_pings_are_answered(url):
    with Conversation(url) as conversation:
        assert conversation.socket.ping().wait(5)
        conversation.end()


# ---------------------------------------------------------------------------------------------------------------------
# parameters


@pytest.mark.parametrize(
    "name, value, text",
    [
        ("sample_rate", "4000", "Value error, sample_rate must be at least 8,000 Hz"),
        ("sample_rate", "96001", "Value error, sample_rate must be at most 96,000 Hz"),
        ("sample_rate", "16000.0", "Input should be a valid integer, unable to parse string as an integer"),
        ("sample_rate", "fast", "Input should be a valid integer, unable to parse string as an integer"),
        ("sample_rate", "", "Input should be a valid integer, unable to parse string as an integer"),
        ("encoding", "flac", "Value error, 'flac' is not a valid Encoding"),
        ("format_turns", "maybe", "Input should be a valid boolean, unable to interpret input"),
        ("end_of_turn_confidence_threshold", "1.5", "Input should be less than or equal to 1"),
        ("end_of_turn_confidence_threshold", "nan", "Input should be a finite number"),
        ("vad_threshold", "-0.1", "Input should be greater than or equal to 0"),
        (
            "min_turn_silence",
            "160.0",
            "Input should be a valid integer, unable to parse string as an integer",
        ),
        ("max_turn_silence", "long", "Input should be a valid integer, unable to parse string as an integer"),
    ],
)
def test_a_bad_parameter_is_refused_with_the_documented_text(url, name, value, text):
    query = {"sample_rate": "16000"} | {name: value}
    assert refused_at_once(Conversation(url, **query), 3006) == f"{INVALID} '{name}': {text}"


def test_an_unknown_model_is_refused_by_name(url):
    text = refused_at_once(Conversation(url, speech_model="universal-9"), 3006)
    assert text.startswith(f"{INVALID} 'speech_model': ")
    assert "universal-9" in text


def test_unknown_parameters_are_ignored(url):
    query = {"formatted_finals": "true", "word_finalization_max_wait_time": "100", "error": "x", "": "y"}
    with Conversation(url, **query) as conversation:  # type: ignore[arg-type]  # a query may name anything
        conversation.say(clip_pcm(FOX))
        assert_heard(FOX, conversation.end().transcript)


@pytest.mark.parametrize("written", ["true", "True", "TRUE"])
def test_format_turns_marks_every_message_as_formatted(url, written):
    conversation = transcribed(url, clip_pcm(FOX), format_turns=written)
    assert {turn["turn_is_formatted"] for turn in conversation.turns} == {True}
    assert conversation.transcript[0].isupper()
    assert conversation.transcript.endswith(".")


@pytest.mark.parametrize("query", [{"format_turns": "false"}, {"format_turns": "False"}, {}])
def test_without_format_turns_text_is_plain(url, query):
    conversation = transcribed(url, clip_pcm(FOX), **query)
    assert {turn["turn_is_formatted"] for turn in conversation.turns} == {False}
    assert re.fullmatch(r"[a-z' ]+", conversation.transcript)


def test_silence_settings_decide_where_turns_end(url):
    patient = transcribed(url, clip_pcm(BECKETT), end_of_turn_confidence_threshold=1, max_turn_silence=10_000)
    hasty = transcribed(url, clip_pcm(BECKETT), end_of_turn_confidence_threshold=0, min_turn_silence=160)
    assert len(patient.finals) == 1
    assert len(hasty.finals) >= 5
    assert_heard(BECKETT, patient.transcript, 0.35)


def test_the_former_name_of_min_turn_silence_still_works(url):
    old = {"min_end_of_turn_silence_when_confident": 160, "end_of_turn_confidence_threshold": 0}
    assert len(transcribed(url, clip_pcm(BECKETT), **old).finals) >= 5


# ---------------------------------------------------------------------------------------------------------------------
# audio


@pytest.mark.parametrize("sample_rate", [8_000, 11_025, 22_050, 44_100, 48_000, 96_000])
def test_every_sample_rate_gives_the_right_words(url, sample_rate):
    with Conversation(url, sample_rate=sample_rate) as conversation:
        conversation.say(clip_pcm(LIGHT, sample_rate))
        assert_heard(LIGHT, conversation.end().transcript)
    assert conversation.messages[-1]["audio_duration_seconds"] == round(len(samples(LIGHT)) / SAMPLE_RATE)


def test_audio_sent_before_begin_counts(url):
    with Conversation(url) as conversation:
        conversation.say(clip_pcm(FOX))  # nothing has been read yet
        assert_heard(FOX, conversation.end().transcript)


@pytest.mark.parametrize("size", [1_601, 3_199, 31_999])
def test_messages_may_end_in_the_middle_of_a_sample(url, size):
    with Conversation(url) as conversation:
        conversation.send_all(pieces(clip_pcm(FOX), size))
        assert_heard(FOX, conversation.end().transcript)


def test_one_odd_byte_at_the_end_and_empty_messages_do_no_harm(url):
    with Conversation(url) as conversation:
        conversation.send_all([b"", *pieces(clip_pcm(FOX), 16_000), b"", b"\x01"])
        assert_heard(FOX, conversation.end().transcript)


def test_a_message_in_fragments_is_one_message(url):
    with Conversation(url) as conversation:
        for second in pieces(clip_pcm(FOX), 32_000):
            conversation.socket.send(pieces(second, 640))  # an iterable: continuation frames
        assert_heard(FOX, conversation.end().transcript)


@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100])
def test_a_message_of_more_than_a_second_is_refused_at_once(url, rate):
    with Conversation(url, sample_rate=rate) as conversation:
        conversation.hear()
        conversation.socket.send(silence(1.2, rate)[: 2 * int(1.2 * rate)])
        text = refused(conversation, 3007)
    expected = "Input Duration Violation: 1200.0 ms. Expected between 50 and 1000 ms"
    assert text == f"Input Duration Error: {expected}"


def test_messages_of_20_ms_have_a_second_of_grace(url):
    conversation = Conversation(url)
    conversation.send_all(pieces(silence(0.98), 640))
    conversation.order("KeepAlive")
    conversation.hear_until(lambda message: message["type"] == "Begin")
    conversation.socket.send(silence(0.02))
    text = refused(conversation, 3007)
    assert text == "Input Duration Error: Input Duration Violation: 20.0 ms. Expected between 50 and 1000 ms"


def test_the_last_message_before_terminate_may_be_short(url):
    with Conversation(url) as conversation:
        conversation.send_all([*pieces(clip_pcm(FOX), 3_200), bytes(64)])
        assert_heard(FOX, conversation.end().transcript)


def test_how_audio_is_cut_into_messages_changes_no_word(url):
    def heard(chunk_ms: int) -> list[tuple[int, str, list[Message]]]:
        with Conversation(url) as conversation:
            conversation.say(clip_pcm(LIGHT), chunk_ms)
            finals = conversation.end().finals
        return [(turn["turn_order"], turn["transcript"], turn["words"]) for turn in finals]

    assert heard(50) == heard(200) == heard(990)


SECONDS = 5 * SAMPLE_RATE
TIME_S = np.arange(SECONDS) / SAMPLE_RATE
RANDOM = np.random.default_rng(20251123)
NO_SPEECH = {
    "silence": np.zeros(SECONDS),
    "dc": np.full(SECONDS, 0.5),
    "full-scale dc": np.full(SECONDS, 1.0),
    "dither": RANDOM.normal(0, 1e-4, SECONDS),
    "noise": RANDOM.normal(0, 0.02, SECONDS),
    "loud noise": RANDOM.normal(0, 0.3, SECONDS),
    "noise on dc": RANDOM.normal(0, 0.05, SECONDS) - 0.5,
    "hum": 0.2 * np.sin(2 * np.pi * 50 * TIME_S),
    "clipping": np.sign(np.sin(2 * np.pi * 220 * TIME_S)),
    "clicks": (np.arange(SECONDS) % 8_000 == 4_000) * 1.0,
}


@pytest.mark.parametrize("sound", list(NO_SPEECH))
def test_where_nobody_speaks_there_is_no_turn(url, sound):
    conversation = transcribed(url, pcm(NO_SPEECH[sound]))
    assert [message["type"] for message in conversation.messages] == ["Begin", "Termination"]


@pytest.mark.parametrize("gain", [30.0, 0.05])
def test_speech_that_is_clipped_or_quiet_is_still_understood(url, gain):
    assert_heard(LIGHT, transcribed(url, pcm(gain * samples(LIGHT))).transcript, 0.25)


def test_speech_on_dc_is_still_understood(url):
    shifted: NDArray[np.float32] = 0.5 * samples(LIGHT) + np.float32(0.1)
    assert_heard(LIGHT, transcribed(url, pcm(shifted)).transcript, 0.25)


def test_speech_after_a_long_silence_is_placed_in_time(url):
    conversation = transcribed(url, silence(4) + clip_pcm(FOX))
    assert_heard(FOX, conversation.transcript)
    assert 3_800 <= conversation.finals[0]["words"][0]["start"] <= 4_200  # spoken at 4040


# ---------------------------------------------------------------------------------------------------------------------
# turns


def test_partials_come_before_the_final_and_grow(url):
    conversation = transcribed(url, clip_pcm(LIGHT))
    first = [turn for turn in conversation.turns if turn["turn_order"] == 0]
    assert len(first) >= 3
    assert [turn["end_of_turn"] for turn in first] == [False] * (len(first) - 1) + [True]
    assert first[0]["transcript"] == ""
    lengths = [len(turn["transcript"]) for turn in first]
    assert lengths == sorted(lengths)


def test_a_final_comes_after_the_pause_without_terminate(url):
    with Conversation(url) as conversation:
        conversation.say(clip_pcm(FOX) + silence(1.5))
        conversation.hear_until(is_final)
        assert_heard(FOX, conversation.transcript)
        conversation.end()
    assert len(conversation.finals) == 1  # no empty one at the end


def test_several_turns_come_in_order(url):
    conversation = transcribed(url, clip_pcm(FOX) + silence(1.5) + clip_pcm(LIGHT) + silence(1.5))
    assert len(conversation.finals) >= 2
    assert_heard([FOX, LIGHT], conversation.transcript)


def test_utterances_hold_the_words_of_the_turn(url):
    conversation = transcribed(url, clip_pcm(FOX) + silence(1.5))
    told = [turn["utterance"] for turn in conversation.turns if turn["utterance"]]
    assert told == [conversation.transcript]


def test_long_speech_without_a_pause_is_cut_and_nothing_is_lost(url):
    clips = ["best_of_times.wav", LIGHT, "before_us.wav"]  # together longer than any window
    joined = b"".join(clip_pcm(clip) for clip in clips)
    conversation = transcribed(url, joined, end_of_turn_confidence_threshold=1, max_turn_silence=10_000)
    assert_heard(clips, conversation.transcript, 0.12)


# ---------------------------------------------------------------------------------------------------------------------
# messages of the client


def test_terminate_brings_the_last_turn_then_termination_then_close_within_5_s(url):
    with Conversation(url) as conversation:
        conversation.say(clip_pcm(LIGHT)[: -2 * SAMPLE_RATE // 2])  # cut off in the middle of speech
        conversation.hear_until(is_turn)
        asked_s = time.monotonic()
        conversation.end()
    assert time.monotonic() - asked_s < 5
    assert [message["type"] for message in conversation.messages[-2:]] == ["Turn", "Termination"]
    assert conversation.messages[-2]["end_of_turn"]


def test_terminate_at_once_ends_well(url):
    with Conversation(url) as conversation:
        conversation.end()
    assert conversation.messages[1:] == [
        {"audio_duration_seconds": 0, "session_duration_seconds": 0, "type": "Termination"}
    ]


def test_what_follows_terminate_is_not_listened_to(url):
    with Conversation(url) as conversation:
        conversation.say(clip_pcm(FOX))
        conversation.order("Terminate")
        conversation.send_all([clip_pcm(LIGHT)[:64_000], "not even JSON", '{"type": "ForceEndpoint"}'])
        conversation.hear_rest()
    assert conversation.close == (1000, "Session Ended")
    assert_heard(FOX, conversation.transcript)


def test_force_endpoint_brings_the_final_soon(url):
    with Conversation(url) as conversation:
        conversation.say(clip_pcm(LIGHT)[: 2 * 2 * SAMPLE_RATE])  # two seconds: in the middle of a sentence
        conversation.hear_until(is_turn)
        asked_s = time.monotonic()
        conversation.order("ForceEndpoint")
        conversation.hear_until(is_final)
        assert time.monotonic() - asked_s < 1
        conversation.say(clip_pcm(LIGHT)[2 * 2 * SAMPLE_RATE :])
        conversation.end()
    cut_ms = 2_000
    assert all(word["start"] < cut_ms for word in conversation.finals[0]["words"])
    assert conversation.finals[1]["words"][0]["start"] >= cut_ms - 50
    assert_heard(LIGHT, conversation.transcript, 0.25)


def test_force_endpoint_where_nobody_spoke_brings_nothing(url):
    with Conversation(url) as conversation:
        conversation.order("ForceEndpoint")
        conversation.say(silence(1))
        conversation.order("ForceEndpoint")
        conversation.say(clip_pcm(FOX) + silence(1.5))
        conversation.hear_until(is_final)
        conversation.order("ForceEndpoint")
        conversation.end()
    assert len(conversation.finals) == 1
    assert_heard(FOX, conversation.transcript)


def test_keep_alive_is_not_answered(url):
    with Conversation(url) as conversation:
        conversation.order("KeepAlive")
        conversation.say(clip_pcm(FOX))
        conversation.order("KeepAlive")
        assert_heard(FOX, conversation.end().transcript)


def test_update_configuration_changes_where_turns_end(url):
    with Conversation(url, end_of_turn_confidence_threshold=0, min_turn_silence=160) as conversation:
        conversation.order("UpdateConfiguration", end_of_turn_confidence_threshold=1, max_turn_silence=10_000)
        conversation.say(clip_pcm(BECKETT))
        assert len(conversation.end().finals) == 1


def test_update_configuration_changes_formatting_from_the_next_turn(url):
    with Conversation(url) as conversation:
        conversation.say(clip_pcm(FOX) + silence(1.5))
        conversation.hear_until(is_final)
        conversation.order("UpdateConfiguration", format_turns=True)
        conversation.say(clip_pcm(FOX))
        conversation.end()
    plain, formatted = conversation.finals
    assert (plain["turn_is_formatted"], formatted["turn_is_formatted"]) == (False, True)


def test_a_hundred_key_terms_are_taken_and_those_that_are_said_are_found(url):
    """In this voice, without them, neither name is understood."""
    terms = [*OTHERS[:98], "Kubernetes", "Proxmox"]
    without = transcribed(url, clip_pcm(RARE)).transcript.lower()
    found = transcribed(url, clip_pcm(RARE), keyterms_prompt=json.dumps(terms), format_turns="true")
    assert "kubernetes" not in without
    assert "proxmox" not in without
    assert found.finals[-1]["transcript"].endswith("Kubernetes on the Proxmox cluster.")


def test_key_terms_may_change_while_a_session_goes_on(url):
    with Conversation(url) as conversation:
        conversation.say(clip_pcm(RARE) + silence(1.5))
        conversation.hear_until(is_final)
        conversation.order("UpdateConfiguration", keyterms_prompt=["Kubernetes", "Proxmox"])
        conversation.say(clip_pcm(RARE))
        conversation.end()
    before, after = (" ".join(turn["transcript"].split()) for turn in conversation.finals)
    assert "kubernetes" not in before
    assert "kubernetes on the proxmox cluster" in after


def test_update_configuration_ignores_what_it_does_not_know(url):
    with Conversation(url) as conversation:
        conversation.order(
            "UpdateConfiguration", prompt="", keyterms_prompt=[], nonsense={"a": 1}, format_turns=None
        )
        conversation.say(clip_pcm(FOX))
        assert_heard(FOX, conversation.end().transcript)


@pytest.mark.parametrize(
    "message, text",
    [
        (
            "{broken",
            f"{INVALID} JSON: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)",
        ),
        ("", f"{INVALID} JSON: Expecting value: line 1 column 1 (char 0)"),
        ("[]", "Invalid Message: expected a JSON object"),
        ('"Terminate"', "Invalid Message: expected a JSON object"),
        ('{"type": "Nonsense"}', "Invalid Message Type: Nonsense"),
        ('{"type": "terminate"}', "Invalid Message Type: terminate"),
        ("{}", "Invalid Message Type: None"),
        ('{"type": ["Terminate"]}', "Invalid Message Type: list"),
        (json.dumps({"type": "\ud800"}), f"{INVALID} JSON: a surrogate without its other half"),
        (
            '{"type": "UpdateConfiguration", "vad_threshold": 7}',
            f"{INVALID} 'vad_threshold': Input should be less than or equal to 1",
        ),
        (
            '{"type": "UpdateConfiguration", "max_turn_silence": "soon"}',
            f"{INVALID} 'max_turn_silence': Input should be a valid integer, unable to parse string as an integer",
        ),
    ],
)
def test_a_bad_message_ends_the_session_with_the_documented_text(url, message, text):
    conversation = Conversation(url)
    conversation.socket.send(message)
    assert refused(conversation, 3006) == text


def test_text_where_audio_belongs_ends_the_session(url):
    conversation = Conversation(url)
    conversation.socket.send(base64.b64encode(clip_pcm(FOX)[:3_200]).decode())
    assert refused(conversation, 3006).startswith(f"{INVALID} JSON: ")


def test_audio_in_json_ends_the_session(url):
    conversation = Conversation(url)
    conversation.socket.send(json.dumps({"audio_data": base64.b64encode(clip_pcm(FOX)[:3_200]).decode()}))
    assert refused(conversation, 3006) == "Invalid Message Type: None"


def test_a_control_message_in_a_binary_frame_is_audio(url):
    with Conversation(url) as conversation:
        conversation.socket.send(b'{"type":"Terminate"}')  # ten samples
        conversation.say(clip_pcm(FOX))
        assert_heard(FOX, conversation.end().transcript)


@pytest.mark.parametrize("message", [bytes(131_073), " " * 131_073], ids=["audio", "text"])
def test_an_oversized_message_is_closed_with_1009(url, message):
    with Conversation(url) as conversation:
        conversation.socket.send(message)
        conversation.hear_rest()
    assert conversation.close is not None
    assert conversation.close[0] == 1009


def test_the_largest_message_is_served(url):
    with Conversation(url, sample_rate=96_000) as conversation:
        conversation.send_all(pieces(clip_pcm(LIGHT, 96_000), 131_072))
        assert_heard(LIGHT, conversation.end().transcript)


# ---------------------------------------------------------------------------------------------------------------------
# several clients


def test_a_client_that_vanishes_or_misbehaves_harms_no_other(url):
    with Conversation(url) as good, Conversation(url) as vanishing, Conversation(url) as bad:
        half = len(clip_pcm(LIGHT)) // 4 * 2
        good.say(clip_pcm(LIGHT)[:half])
        vanishing.say(clip_pcm(FOX))
        vanishing.hear_until(is_turn)
        vanishing.socket.socket.close()  # as a pulled plug, not a close frame
        bad.socket.send("{broken")
        bad.hear_rest()
        good.say(clip_pcm(LIGHT)[half:])
        assert_heard(LIGHT, good.end().transcript)


def test_a_client_may_close_right_after_termination(url):
    with Conversation(url) as conversation:
        conversation.say(clip_pcm(FOX))
        conversation.order("Terminate")
        conversation.hear_until(lambda message: message["type"] == "Termination")
        conversation.socket.close(1000)
    assert_heard(FOX, transcribed(url, clip_pcm(FOX)).transcript)


def test_sessions_at_the_same_time_do_not_mix(url):
    clips = [FOX, LIGHT, "counting.wav", "best_of_times.wav"]
    with ThreadPoolExecutor(len(clips)) as threads:
        heard = threads.map(lambda clip: transcribed(url, clip_pcm(clip)).transcript, clips)
        for clip, text in zip(clips, heard, strict=True):
            assert_heard(clip, text)
