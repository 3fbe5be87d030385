"""Scripts for what a session does, properties for what it must never do."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qsl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingress.carried import pack, unpack_place
from ingress.session import (
    DEAF,
    MAX_FRAME_BYTES,
    MAX_NOTICE_BYTES,
    TRANSITIONS,
    UNTAKEN,
    Append,
    CloseWith,
    Dropped,
    Effect,
    Forget,
    IllegalInput,
    Input,
    Limits,
    MakeOffer,
    Missed,
    Notify,
    Reply,
    Session,
    State,
    Withdraw,
)
from tests.playbook import Playbook, after, call, holds, raises, some
from wire.entries import AudioFrame, Control, Event, Order, SessionEvent
from wire.errors import (
    INTERNAL_ERROR,
    REASON_ENDED,
    REASON_SEE_ERROR,
    ClientError,
    Close,
    EntryError,
    internal_error,
)
from wire.params import SessionParams, parse_query

ID = "0d9f8a52-6c4e-4f6b-9d53-1f3c5a0b7e11"
PARAMS = SessionParams()
OFFER = call.start()
TERMINATE = call.client_text('{"type": "Terminate"}')
TAKE = call.worker_event(SessionEvent(ID, 1, 0, Event.TAKEN))
#: 50 ms at 16 kHz.
FRAME = bytes(range(200)) * 8
#: Where a script of an ended session ends.
ENDED = CloseWith(Close.NORMAL, REASON_ENDED)


def session(query: str = "", limits: Limits = Limits(), **more: Any) -> Session:  # noqa: B008 frozen
    return Session(ID, parse_query(parse_qsl(query)), limits, 0.0, 1_800_000_000, **more)


def event(kind: Event, sequence: int, generation: int = 1, **more: Any):
    return call.worker_event(SessionEvent(ID, generation, sequence, kind, **more))


def turn(sequence: int, order: int, final: bool = False, generation: int = 1, **more: Any):
    text = json.dumps({"type": "Turn", "turn_order": order, "end_of_turn": final})
    return event(Event.MESSAGE, sequence, generation, turn_order=order, final=final, text=text, **more)


def told(error: int, text: str = ""):
    return some(Reply, text=lambda frame: (json.loads(frame)["error_code"], text in frame) == (error, True))


def closed(code: Close) -> CloseWith:
    return CloseWith(code, REASON_SEE_ERROR)


def appended(order: Order, position: int, fields: Any = None) -> Append:
    return Append(Control(order, position, fields))


def opened(query: str = "", limits: Limits = Limits()) -> Playbook:  # noqa: B008 frozen
    """A script whose session has begun."""
    actor = session(query, limits)
    book = Playbook(actor, now=0.0)
    assert book >> OFFER << MakeOffer(actor.params) >> TAKE << some(Reply, text=holds('"type":"Begin"'))
    return book


# ---------------------------------------------------------------------------------------------------------------------
# from Begin to Termination


def test_a_session_from_offer_to_termination():
    book = Playbook(session(api_version="2025-05-12"), now=0.0)
    assert (
        book
        >> OFFER
        << MakeOffer(PARAMS)
        >> after(0.05)
        >> TAKE
        << some(Reply, text=holds('"type":"Begin"'))
        >> call.client_audio(FRAME)
        << Append(AudioFrame(0, FRAME))
        >> call.client_audio(FRAME)
        << Append(AudioFrame(800, FRAME))
        >> turn(1, 0)
        << some(Reply, text=holds('"turn_order": 0'))
        >> turn(2, 0, final=True)
        << some(Reply, text=holds('"end_of_turn": true'))
        >> after(4.95)
        >> TERMINATE
        << appended(Order.TERMINATE, 1600)
        >> turn(3, 1, final=True)
        << some(Reply, text=holds('"turn_order": 1'))
        >> event(Event.DONE, 4)
        << Reply('{"audio_duration_seconds":0,"session_duration_seconds":5,"type":"Termination"}')
        << ENDED
        << Forget()
    )
    assert book.actor.outcome == "ended"
    assert book.actor.next_deadline() is None


def test_begin_has_the_fields_of_protocol_4_1():
    book = Playbook(session(api_version="2025-05-12"), now=0.0)
    assert book >> OFFER << some(MakeOffer) >> TAKE << some(Reply)
    assert json.loads(book.effects[-1].text) == {
        "type": "Begin",
        "id": ID,
        "expires_at": 1_800_000_000,
        "configuration": {
            "model": "universal-streaming-english",
            "mode": None,
            "api_version": "2025-05-12",
            "speaker_labels": False,
            "redact_pii": False,
            "filter_profanity": False,
            "domain": None,
            "voice_focus": None,
        },
    }


def test_durations_of_termination_are_whole_seconds_of_audio_and_of_the_clock():
    book = opened("sample_rate=8000")
    for _ in range(3):
        assert book >> call.client_audio(bytes(16_000)) << some(Append)
    assert book >> call.client_audio(bytes(8_000)) << some(Append)
    assert book >> after(7.6) >> TERMINATE << some(Append) << appended(Order.TERMINATE, 3 * 16_000 + 8_000)
    assert book >> event(Event.DONE, 1) << some(Reply) << ENDED << Forget()
    termination = json.loads(book.effects[-3].text)
    assert termination == {"type": "Termination", "audio_duration_seconds": 4, "session_duration_seconds": 8}


def test_audio_before_begin_counts():
    book = Playbook(session(), now=0.0)
    assert (
        book
        >> OFFER
        << MakeOffer(PARAMS)
        >> call.client_audio(FRAME)
        << Append(AudioFrame(0, FRAME))
        >> call.client_text('{"type":"ForceEndpoint"}')
        << appended(Order.FORCE_ENDPOINT, 800)
        >> TAKE
        << some(Reply, text=holds("Begin"))
        >> call.client_audio(FRAME)
        << Append(AudioFrame(800, FRAME))
    )


def test_terminate_before_begin_waits_for_a_worker():
    book = Playbook(session(), now=0.0)
    assert (
        book
        >> OFFER
        << MakeOffer(PARAMS)
        >> call.client_audio(FRAME)
        << Append(AudioFrame(0, FRAME))
        >> TERMINATE
        << appended(Order.TERMINATE, 800)
        >> TERMINATE
        >> call.client_audio(FRAME)
        >> TAKE
        << some(Reply, text=holds("Begin"))
        >> turn(1, 0, final=True)
        << some(Reply)
        >> event(Event.DONE, 2)
        << some(Reply, text=holds("Termination"))
        << ENDED
        << Forget()
    )


def test_after_terminate_the_client_is_not_listened_to():
    assert (
        opened()
        >> TERMINATE
        << appended(Order.TERMINATE, 0)
        >> call.client_audio(FRAME)
        >> call.client_text("not JSON")
        >> TERMINATE
        >> call.client_text('{"type":"ForceEndpoint"}')
    )


# ---------------------------------------------------------------------------------------------------------------------
# the client's messages


def test_force_endpoint_cuts_after_everything_received():
    """At 8 kHz the resampler holds 30 ms back; the forced endpoint lies behind them (protocol 3.4)."""
    book = opened("sample_rate=8000")
    audio = bytes(range(1, 201)) * 8
    assert (
        book
        >> call.client_audio(audio)
        << some(Append, entry=lambda entry: entry.position == 0 and 0 < entry.end < 1600)
        >> call.client_text('{"type":"ForceEndpoint"}')
        << some(Append, entry=lambda entry: entry.end == 1600)
        << appended(Order.FORCE_ENDPOINT, 1600)
        >> call.client_text('{"type":"ForceEndpoint"}')
        << appended(Order.FORCE_ENDPOINT, 1600)
        >> call.client_audio(audio)
        << some(Append, entry=lambda entry: entry.position == 1600)
    )


def test_update_configuration_is_passed_on_whole_and_in_place():
    update = call.client_text('{"max_turn_silence":800,"type":"UpdateConfiguration"}')
    changed = PARAMS.updated({"max_turn_silence": 800})
    assert (
        opened()
        >> call.client_audio(FRAME)
        << some(Append)
        >> update
        << appended(Order.CONFIGURE, 800, changed.for_worker())
        >> update
        >> call.client_text('{"type":"UpdateConfiguration","continuous_partials":true}')
    )


def test_keep_alive_has_no_answer():
    assert opened() >> call.client_text('{"type":"KeepAlive"}')


def test_an_empty_message_is_no_audio():
    assert opened() >> call.client_audio(b"") >> call.client_audio(b"\x01") >> call.client_audio(b"")


def test_an_odd_byte_belongs_to_the_next_message():
    assert (
        opened()
        >> call.client_audio(FRAME[:801])
        << Append(AudioFrame(0, FRAME[:800]))
        >> call.client_audio(FRAME[801:])
        << Append(AudioFrame(400, FRAME[800:]))
    )


def test_a_long_message_becomes_frames_of_a_second():
    book = opened()
    assert (
        book
        >> call.client_audio(bytes(32_021))
        << Append(AudioFrame(0, bytes(MAX_FRAME_BYTES)))
        << Append(AudioFrame(16_000, bytes(20)))
    )


@pytest.mark.parametrize(
    "text,answer",
    [
        ("{", "User Input Validation Error: Invalid JSON: "),
        ("[]", "Invalid Message: "),
        ('{"type":"Hello"}', "Invalid Message Type: Hello"),
        ('{"type":"UpdateConfiguration","max_turn_silence":"x"}', "Invalid 'max_turn_silence'"),
    ],
)
def test_a_malformed_message_raises_and_changes_nothing_until_it_is_refused(text: str, answer: str):
    book = opened()
    assert (
        book
        >> call.client_text(text)
        << raises(ClientError, answer)
        >> call.client_audio(FRAME)
        << some(Append)
    )
    with pytest.raises(ClientError) as refused:
        book.actor.client_text(text, 0.0)
    assert (
        book
        >> call.refuse(refused.value)
        << appended(Order.ABANDON, 800)
        << told(3006, json.dumps(answer)[1:-1])
        << closed(Close.INVALID_INPUT)
        << Forget()
    )
    assert book.actor.outcome == "3006"


# ---------------------------------------------------------------------------------------------------------------------
# the worker's events


def test_what_a_lost_lease_still_says_is_dropped():
    assert (
        opened()
        >> turn(1, 0, final=True)
        << some(Reply)
        >> event(Event.TAKEN, 0, generation=2)
        >> turn(2, 1, generation=1)
        << Dropped("generation")
        >> event(Event.FAILED, 3, generation=1)
        << Dropped("generation")
        >> turn(1, 1, generation=2)
        << some(Reply)
    )


def test_an_event_after_a_gap_is_not_passed_on_and_its_holder_is_not_heard_any_more():
    assert (
        opened()
        >> turn(1, 0)
        << some(Reply)
        >> turn(3, 0, final=True)
        << Missed()
        >> turn(4, 1)
        << Dropped("generation")
        >> event(Event.DONE, 5)
        << Dropped("generation")
        >> event(Event.TAKEN, 0, generation=2, turn_order=0)
        >> turn(1, 0, final=True, generation=2)
        << some(Reply)
    )


def test_a_holder_that_begins_after_a_final_that_never_came_is_not_heard():
    assert (
        opened()
        >> turn(1, 0, final=True)
        << some(Reply)
        >> event(Event.TAKEN, 0, generation=2, turn_order=2)
        << Missed()
        >> event(Event.TAKEN, 0, generation=3, turn_order=1)
        >> turn(1, 1, generation=3)
        << some(Reply)
    )


def test_a_holder_whose_first_word_was_lost_is_not_heard():
    assert opened() >> turn(1, 0, generation=2) << Missed()


def test_a_worker_that_cannot_be_heard_is_not_given_up():
    actor = session()
    act(actor, [TAKE, TERMINATE])
    deadline = actor.next_deadline()
    assert deadline is not None
    actor.excuse(deadline - 1)
    assert actor.tick(deadline) == []
    assert actor.tick(deadline + 20) != []
    actor.excuse(deadline + 30)
    assert actor.next_deadline() is None


def test_an_event_is_let_through_once():
    assert (
        opened()
        >> TAKE
        << Dropped("duplicate")
        >> turn(1, 0)
        << some(Reply)
        >> turn(1, 0)
        << Dropped("duplicate")
    )


def test_a_new_holder_recognises_the_open_turn_again_and_finals_are_sent_once():
    assert (
        opened()
        >> turn(1, 0, final=True)
        << some(Reply)
        >> turn(2, 1)
        << some(Reply)
        >> event(Event.TAKEN, 0, generation=2)
        >> turn(1, 0, generation=2)
        << Dropped("turn")
        >> turn(2, 0, final=True, generation=2)
        << Dropped("turn")
        >> turn(3, 1, generation=2)
        << some(Reply)
        >> turn(4, 1, final=True, generation=2)
        << some(Reply)
        >> turn(5, 1, generation=2)
        << Dropped("turn")
    )


def test_a_message_without_a_turn_passes():
    assert (
        opened()
        >> turn(1, 0, final=True)
        << some(Reply)
        >> event(Event.MESSAGE, 2, text='{"type":"SpeechStarted"}')
        << Reply('{"type":"SpeechStarted"}')
    )


def test_a_worker_that_gives_up_ends_the_session_with_what_it_says():
    assert (
        opened()
        >> event(Event.FAILED, 1, text="Session Cancelled: too many attempts")
        << told(3005, "Session Cancelled: too many attempts")
        << closed(Close.SERVER_ERROR)
        << Forget()
    )


@pytest.mark.parametrize("kind", [Event.FAILED, Event.DONE])
def test_a_worker_that_stops_unasked_is_an_internal_error(kind: Event):
    assert opened() >> event(kind, 1) << told(3005, INTERNAL_ERROR) << closed(Close.SERVER_ERROR) << Forget()


@pytest.mark.parametrize("kind", [Event.MESSAGE, Event.DONE])
def test_a_worker_that_speaks_before_it_took_the_session_changes_nothing(kind: Event):
    assert (
        Playbook(session(), now=0.0)
        >> OFFER
        << some(MakeOffer)
        >> event(kind, 0)
        << raises(EntryError)
        >> TAKE
        << some(Reply, text=holds("Begin"))
    )


# ---------------------------------------------------------------------------------------------------------------------
# time


def test_nobody_takes_the_session():
    book = Playbook(session(), now=0.0)
    assert book >> OFFER << some(MakeOffer) >> after(4.9) >> call.tick()
    assert book.actor.next_deadline() == 5.0
    assert (
        book
        >> after(0.2)
        >> call.tick()
        << Withdraw()
        << told(3009, "Unauthorized Connection: Too many concurrent sessions")
        << closed(Close.TOO_MANY_SESSIONS)
        << Forget()
        >> TAKE
        << Dropped("closed")
        >> call.tick()
    )


def test_a_silent_client_is_abandoned():
    book = opened(limits=Limits(idle_timeout_s=60))
    assert (
        book
        >> after(59)
        >> call.client_text('{"type":"KeepAlive"}')
        >> after(59)
        >> call.tick()
        >> turn(1, 0)
        << some(Reply)
        >> after(2)
        >> call.tick()
        << appended(Order.ABANDON, 0)
        << told(3006, "Session terminated due to inactivity: No messages received for 60 seconds")
        << closed(Close.INVALID_INPUT)
        << Forget()
    )


def test_a_session_expires():
    book = opened(limits=Limits(max_session_s=90))
    assert (
        book
        >> after(50)
        >> call.client_audio(FRAME)
        << some(Append)
        >> after(41)
        >> call.tick()
        << (appended(Order.ABANDON, 800))
        << told(3008, "Session Expired: Maximum session duration exceeded")
        << closed(Close.SESSION_EXPIRED)
        << Forget()
    )


def test_a_worker_that_does_not_settle_is_not_waited_for():
    book = opened()
    assert (
        book
        >> TERMINATE
        << some(Append)
        >> after(9.9)
        >> call.tick()
        >> after(0.2)
        >> call.tick()
        << (appended(Order.ABANDON, 0))
        << told(3005, INTERNAL_ERROR)
        << closed(Close.SERVER_ERROR)
        << Forget()
    )


def test_a_worker_that_settles_much_audio_is_given_time():
    """A minute sent at once is not settled in ten seconds, and each turn is a sign of life."""
    book = opened()
    for _ in range(60):
        assert book >> call.client_audio(bytes(32_000)) << some(Append)
    assert book >> TERMINATE << some(Append)
    assert book.actor.next_deadline() == pytest.approx(60 + 10)
    assert book >> after(60) >> turn(1, 0, final=True, audio_ms=20_000) << some(Reply)
    assert book.actor.next_deadline() == pytest.approx(60 + 10)
    assert book >> after(9) >> turn(2, 1, final=True, audio_ms=60_000) << some(Reply)
    assert book.actor.next_deadline() == pytest.approx(69 + 10)


def test_a_client_too_far_ahead_of_its_speech_is_closed_with_3007():
    second = call.client_audio(bytes(32_000))
    book = opened(limits=Limits(max_buffer_s=10))
    for _ in range(11):
        assert book >> second << some(Append)
    with pytest.raises(
        ClientError, match="Audio transmission rate exceeded: too much audio buffered"
    ) as caught:
        book.actor.client_audio(bytes(32_000), 0.0)
    assert caught.value.code is Close.INPUT_DURATION
    assert book >> after(1) >> second << some(Append), "a worker keeps up with speech"
    assert book >> turn(1, 0, audio_ms=11_000) << some(Reply) >> second << some(Append), "this one is faster"


@pytest.mark.parametrize(
    "query,data,told_ms",
    [
        ("", bytes(32_032), None),
        ("", bytes(38_400), "1200.0"),
        ("sample_rate=8000", bytes(19_200), "1200.0"),
        ("sample_rate=8000&encoding=pcm_mulaw", bytes(8_000), None),
        ("sample_rate=8000&encoding=pcm_mulaw", bytes(9_600), "1200.0"),
        ("sample_rate=44100", bytes(2 * 2_205), None),
        ("sample_rate=22050", bytes(2 * 1_102), None),  # 50 ms, rounded down to whole samples
    ],
)
def test_a_message_that_holds_too_much_is_refused(query: str, data: bytes, told_ms: str | None):
    actor = opened(query).actor
    before = visible(actor)
    if told_ms is None:
        actor.client_audio(data, 0.0)
        return
    expected = (
        f"Input Duration Error: Input Duration Violation: {told_ms} ms. Expected between 50 and 1000 ms"
    )
    with pytest.raises(ClientError) as caught:
        actor.client_audio(data, 0.0)
    assert (caught.value.code, caught.value.text) == (Close.INPUT_DURATION, expected)
    assert visible(actor) == before


@pytest.mark.parametrize("chunk_ms,passed", [(20, 49), (25, 39), (10, 99)])
def test_short_messages_have_a_second_of_grace(chunk_ms: int, passed: int):
    """Protocol 3.1: 20 ms frames ran about 49 messages, 25 ms likewise, before 3007."""
    actor, chunk = opened().actor, bytes(32 * chunk_ms)
    for _ in range(passed):
        actor.client_audio(chunk, 0.0)
    with pytest.raises(ClientError, match=rf"Violation: {chunk_ms}\.0 ms"):
        actor.client_audio(chunk, 0.0)


def test_short_messages_among_long_ones_are_let_pass():
    actor = opened().actor
    for _ in range(200):
        actor.client_audio(bytes(32 * 20), 0.0)
        actor.client_audio(bytes(32 * 60), 0.0)
        actor.client_audio(b"", 0.0)


# ---------------------------------------------------------------------------------------------------------------------
# what a session asks for


def test_an_inactivity_timeout_shortens_the_node_s_own():
    assert opened("inactivity_timeout=5").actor.next_deadline() == 5
    assert opened("inactivity_timeout=3600").actor.next_deadline() == 60, "the operator's stands"
    assert (
        opened("inactivity_timeout=5")
        >> after(4)
        >> call.client_text('{"type":"KeepAlive"}')
        >> after(4)
        >> call.tick()
        >> after(1)
        >> call.tick()
        << appended(Order.ABANDON, 0)
        << told(3006, "Session terminated due to inactivity: No messages received for 5 seconds")
        << closed(Close.INVALID_INPUT)
        << Forget()
    )


def test_a_client_that_is_kept_waiting_is_not_silent():
    actor = opened("inactivity_timeout=5").actor
    actor.held(4.0)
    assert actor.tick(8.0) == []
    assert actor.next_deadline() == 9


def flood(actor: Session, times: int, now: float, *texts: str) -> None:
    for _ in range(times):
        for text in texts:
            actor.client_text(text, now)


def test_orders_are_bounded():
    """Audio is bounded by its length; orders have none."""
    terms = json.dumps({"type": "UpdateConfiguration", "keyterms_prompt": ["x" * 400] * 100})
    other = json.dumps({"type": "UpdateConfiguration", "min_turn_silence": 333})
    back = json.dumps({"type": "UpdateConfiguration", "min_turn_silence": 444})
    actor = opened().actor
    actor.client_text(terms, 0.0)
    refused = "User Input Validation Error: Too many messages"
    with pytest.raises(ClientError, match=refused):
        flood(actor, 20, 0.0, other, back)
    actor.client_text(other, 60.0)  # a patient client may
    with pytest.raises(ClientError, match=refused):
        flood(actor, 2**20 // 64 + 1, 60.0, '{"type":"ForceEndpoint"}')
    assert actor.client_text('{"type":"Terminate"}', 60.0), "the end is always heard"


def heard(sequence: int, audio_ms: int, speech: str):
    return event(Event.HEARD, sequence, audio_ms=audio_ms, text=speech)


def test_heartbeats_come_every_5_s_to_those_who_asked():
    def beat(received: int, duration: int, factor: float, speech: float):
        return lambda frame: (
            json.loads(frame)
            == {
                "total_audio_received_ms": received,
                "total_duration_ms": duration,
                "realtime_factor": factor,
                "max_speech_probability": speech,
                "type": "Heartbeat",
            }
        )

    book = opened("session_heartbeat=True")
    assert book.actor.next_deadline() == 5
    assert (
        book
        >> call.client_audio(bytes(32_000))
        << some(Append)
        >> heard(1, 600, "0.75")
        >> heard(2, 1_000, "0.5")
        >> after(4.9)
        >> call.tick()
        >> after(0.1)
        >> call.tick()
        << some(Reply, text=beat(1_000, 5_000, 0.2, 0.75))
        >> call.tick()
        >> after(5)
        >> call.tick()
        << some(Reply, text=beat(1_000, 10_000, 0.0, 0.0))
    )


def test_heartbeats_can_be_switched_on_and_off():
    book = opened()
    on = call.client_text('{"type":"UpdateConfiguration","session_heartbeat":true}')
    off = call.client_text('{"type":"UpdateConfiguration","session_heartbeat":false}')
    assert book >> after(7) >> call.tick() >> on << some(Append) >> after(5) >> call.tick() << some(Reply)
    assert book >> off << some(Append) >> after(5) >> call.tick()


@pytest.mark.parametrize("text", ["", "loud", "nan", "-0.1", "1.1"])
def test_a_worker_that_tells_no_probability_changes_nothing(text: str):
    actor = opened("session_heartbeat=true").actor
    before = visible(actor)
    with pytest.raises(EntryError):
        actor.worker_event(SessionEvent(ID, 1, 1, Event.HEARD, text=text), 0.0)
    assert visible(actor) == before


@pytest.mark.parametrize(
    "query,mode", [("", None), ("mode=balanced", None), ("speech_model=u3-rt-pro", "balanced")]
)
def test_begin_tells_the_mode_of_models_that_have_one(query: str, mode: str | None):
    assert configuration(query)["mode"] == mode


def test_begin_tells_what_works_and_that_the_rest_is_off():
    told = configuration("filter_profanity=true&redact_pii=true&speaker_labels=true&domain=medical-v1")
    assert told["filter_profanity"] is True
    assert (told["redact_pii"], told["speaker_labels"]) == (False, False)
    assert (told["domain"], told["voice_focus"]) == (None, None)


def configuration(query: str) -> dict[str, Any]:
    """What Begin tells of a session that asked for this."""
    actor = session(query)
    actor.start(0.0)
    (reply,) = actor.worker_event(SessionEvent(ID, 1, 0, Event.TAKEN), 0.0)
    assert isinstance(reply, Reply)
    told: dict[str, Any] = json.loads(reply.text)["configuration"]
    return told


def test_a_session_in_another_encoding_is_decoded_before_it_is_resampled():
    actor = opened("sample_rate=8000&encoding=pcm_mulaw").actor
    frames = actor.client_audio(bytes([0xFF]) * 800, 0.0)  # mu-law's zero
    assert all(isinstance(effect, Append) for effect in frames)
    ended = actor.client_text('{"type":"Terminate"}', 0.0)
    assert ended[-1] == appended(Order.TERMINATE, 1_600)


def test_what_cannot_be_decoded_is_refused():
    book = opened("encoding=opus")
    with pytest.raises(ClientError, match=r"^Failed to decode Opus packet: ") as caught:
        book.actor.client_audio(b"\xff" * 40, 0.0)
    assert caught.value.code is Close.INVALID_INPUT


# ---------------------------------------------------------------------------------------------------------------------
# the webhook

HOOK = "webhook_url=https://hooks.example/steno"


def final(order: int) -> str:
    return json.dumps({"type": "Turn", "turn_order": order, "end_of_turn": True})


def test_a_webhook_is_told_the_finals_when_the_session_ends():
    book = opened(HOOK)
    assert (
        book
        >> turn(1, 0)
        << some(Reply)
        >> turn(2, 0, final=True)
        << some(Reply)
        >> turn(3, 1, final=True)
        << some(Reply)
        >> TERMINATE
        << appended(Order.TERMINATE, 0)
        >> event(Event.DONE, 4)
        << some(Reply)
        << ENDED
        << Notify((final(0), final(1)))
        << Forget()
    )


@pytest.mark.parametrize("end", [call.client_gone(), call.refuse(internal_error())])
def test_a_webhook_is_told_however_the_session_ends(end: Any):
    effects = getattr(opened(HOOK).actor, end.name)(*end.arguments, 1.0)
    assert effects[-2:] == [Notify(()), Forget()]


def test_a_session_that_never_began_has_nothing_to_tell():
    assert (
        Playbook(session(HOOK), now=0.0)
        >> OFFER
        << some(MakeOffer)
        >> call.client_gone()
        << Withdraw()
        << Forget()
    )


def test_what_a_webhook_is_told_is_bounded():
    actor, text = opened(HOOK).actor, "x" * 100_000
    for order in range(100):
        actor.worker_event(
            SessionEvent(ID, 1, order + 1, Event.MESSAGE, turn_order=order, final=True, text=text), 0.0
        )
    (notice,) = [effect for effect in actor.client_gone(1.0) if isinstance(effect, Notify)]
    assert 0 < sum(map(len, notice.finals)) <= MAX_NOTICE_BYTES


# ---------------------------------------------------------------------------------------------------------------------
# ends


def test_the_client_leaves_before_anyone_took_the_session():
    book = Playbook(session(), now=0.0)
    assert (
        book >> OFFER << some(MakeOffer) >> call.client_gone() << Withdraw() << Forget() >> call.client_gone()
    )
    assert book.actor.outcome == "gone"


def test_the_client_leaves_in_the_middle():
    book = opened()
    assert (
        book
        >> call.client_audio(FRAME)
        << some(Append)
        >> call.client_gone()
        << (appended(Order.ABANDON, 800))
        << Forget()
        >> turn(1, 0)
        << Dropped("closed")
    )


def test_the_client_leaves_without_waiting_for_termination():
    assert (
        opened() >> TERMINATE << some(Append) >> call.client_gone() << appended(Order.ABANDON, 0) << Forget()
    )


def test_a_closed_session_stays_as_it_is():
    assert (
        opened()
        >> call.refuse(internal_error())
        << appended(Order.ABANDON, 0)
        << told(3005, INTERNAL_ERROR)
        << closed(Close.SERVER_ERROR)
        << Forget()
        >> call.refuse(internal_error())
        >> call.client_gone()
        >> call.client_audio(FRAME)
        >> call.client_text("{")
        >> call.tick()
    )


def test_a_session_starts_once_and_before_anything_else():
    assert (
        Playbook(session(), now=0.0)
        >> call.client_audio(FRAME)
        << raises(IllegalInput)
        >> TERMINATE
        << raises(IllegalInput)
        >> call.client_gone()
        << raises(IllegalInput)
        >> OFFER
        << some(MakeOffer)
        >> OFFER
        << raises(IllegalInput)
        >> TAKE
        << some(Reply, text=holds("Begin"))
    )


# ---------------------------------------------------------------------------------------------------------------------
# the table


def test_every_state_is_reached_and_every_open_state_can_end():
    reached = {State.NEW} | {following for row in TRANSITIONS.values() for following in row.values()}
    assert reached == set(State) == set(TRANSITIONS)
    for state in set(State) - {State.NEW, State.CLOSED}:
        for end in (Input.GONE, Input.REFUSED, Input.FAILED):
            assert TRANSITIONS[state][end] is State.CLOSED


def test_a_worker_is_heard_exactly_where_it_holds_the_session():
    for state, row in TRANSITIONS.items():
        assert (Input.MESSAGE in row) == (state not in set(UNTAKEN) | {State.CLOSED})


def test_a_client_is_heard_exactly_where_it_is_not_deaf():
    for state, row in TRANSITIONS.items():
        assert (Input.AUDIO in row) == (Input.TERMINATE in row) == (state not in set(DEAF) | {State.NEW})


# ---------------------------------------------------------------------------------------------------------------------
# properties

MESSAGES = st.sampled_from(
    [
        '{"type":"Terminate"}',
        '{"type":"ForceEndpoint"}',
        '{"type":"KeepAlive"}',
        '{"type":"UpdateConfiguration","min_turn_silence":200}',
        '{"type":"UpdateConfiguration","vad_threshold":7}',
        '{"type":"UpdateConfiguration","session_heartbeat":true}',
        '{"type":"Nonsense"}',
        "[1]",
        "{",
        "",
    ]
)


def fitting(found: SessionEvent) -> dict[str, Any]:
    """What makes an event whole: only a turn has an end; what was heard is a number."""
    fields: dict[str, Any] = {} if found.turn_order >= 0 else {"final": False}
    return fields | ({"text": "0.5"} if found.event is Event.HEARD else {})


EVENTS = st.builds(
    SessionEvent,
    session=st.just(ID),
    generation=st.integers(0, 3),
    sequence=st.integers(0, 12),
    event=st.sampled_from([*Event, Event.MESSAGE, Event.MESSAGE, Event.TAKEN]),
    audio_ms=st.integers(0, 5_000),
    turn_order=st.integers(-1, 3),
    final=st.booleans(),
    text=st.just('{"type":"Turn"}'),
).map(lambda found: SessionEvent(**{**vars(found), **fitting(found)}))

STEPS = st.one_of(
    MESSAGES.map(call.client_text),
    st.binary(max_size=70).map(call.client_audio),
    st.sampled_from([1_600, 20_000, 40_000]).map(lambda size: call.client_audio(bytes(size))),
    EVENTS.map(call.worker_event),
    EVENTS.map(call.worker_event),
    st.just(call.tick()),
    st.just(call.client_gone()),
    st.just(call.refuse(internal_error())),
    st.builds(after, st.sampled_from([0.02, 1.0, 6.0, 70.0])),
)

SCRIPTS = st.lists(STEPS, max_size=40)
RATES = st.sampled_from(["", "sample_rate=8000", "sample_rate=44100", "session_heartbeat=true&" + HOOK])


def act(
    actor: Session, steps: list[Any], watch: Callable[[Any, list[Effect]], None] = lambda *_: None
) -> list[Effect]:
    """Play steps from the start on; what the actor wanted. A refusal must have changed nothing."""
    now, effects = 0.0, actor.start(0.0)
    for step in steps:
        if isinstance(step, after):
            now += step.seconds
            continue
        before = visible(actor)
        try:
            wanted = getattr(actor, step.name)(*step.arguments, now)
        except (ClientError, EntryError):
            assert visible(actor) == before, f"{step} was refused and yet changed the session"
            continue
        watch(step, wanted)
        effects += wanted
    return effects


def visible(actor: Session) -> dict[str, Any]:
    """Everything a session remembers, the converter's place included."""
    audio = actor._audio
    return {**vars(actor), "_audio": (audio.received, audio.position, audio._half_sample)}


@given(RATES, SCRIPTS)
def test_any_input_in_any_state_leads_to_a_legal_state(query: str, steps: list[Any]):
    actor = session(query)

    def watch(step: Any, effects: list[Effect]) -> None:
        assert actor.state in State
        assert (actor.next_deadline() is None) == (actor.state is State.CLOSED)

    act(actor, steps, watch)


@given(RATES, SCRIPTS)
def test_nothing_after_the_one_close(query: str, steps: list[Any]):
    actor = session(query)
    effects = act(actor, steps)
    closes = [place for place, effect in enumerate(effects) if isinstance(effect, CloseWith)]
    forgets = [place for place, effect in enumerate(effects) if isinstance(effect, Forget)]
    assert len(closes) <= 1
    assert len(forgets) == (actor.state is State.CLOSED) == bool(actor.outcome)
    for place, effect in enumerate(effects):
        if isinstance(effect, (Reply, CloseWith)) and closes:
            assert place <= closes[0]
        if isinstance(effect, (Append, Withdraw, Reply)) and forgets:
            assert place < forgets[0]


@given(RATES, SCRIPTS)
def test_an_error_is_the_last_word_and_closes_with_its_code(query: str, steps: list[Any]):
    effects = [effect for effect in act(session(query), steps) if isinstance(effect, (Reply, CloseWith))]
    for reply, following in zip(effects, [*effects[1:], None], strict=False):
        if isinstance(reply, Reply) and '"type":"Error"' in reply.text:
            assert following == CloseWith(Close(json.loads(reply.text)["error_code"]), REASON_SEE_ERROR)


@given(RATES, SCRIPTS)
def test_begin_comes_once_and_before_every_turn(query: str, steps: list[Any]):
    replies = [effect.text for effect in act(session(query), steps) if isinstance(effect, Reply)]
    kinds = [json.loads(text)["type"] for text in replies]
    assert kinds.count("Begin") <= 1
    assert "Turn" not in kinds or kinds[0] == "Begin"
    assert kinds.count("Termination") <= 1


@given(SCRIPTS)
def test_finals_are_sent_once_and_in_order(steps: list[Any]):
    sent: list[tuple[int, bool]] = []

    def watch(step: Any, effects: list[Effect]) -> None:
        if step.name == "worker_event" and step.arguments[0].event is Event.MESSAGE:
            message = step.arguments[0]
            sent.extend(
                (message.turn_order, message.final) for effect in effects if isinstance(effect, Reply)
            )

    act(session(), steps, watch)
    finals = [order for order, final in sent if final]
    assert finals == sorted(set(finals))
    for place, (order, final) in enumerate(sent):
        assert final or order < 0 or (order, True) not in sent[:place]


@given(SCRIPTS)
def test_a_lost_lease_is_never_heard_again(steps: list[Any]):
    highest = -1

    def watch(step: Any, effects: list[Effect]) -> None:
        nonlocal highest
        if step.name == "worker_event" and not any(isinstance(effect, Dropped) for effect in effects):
            assert step.arguments[0].generation >= highest
            highest = step.arguments[0].generation

    act(session(), steps, watch)


@given(RATES, SCRIPTS)
def test_the_log_is_gapless_and_orders_stand_where_the_audio_is(query: str, steps: list[Any]):
    position = 0
    for effect in act(session(query), steps):
        if isinstance(effect, Append):
            assert effect.entry.position == position
            if isinstance(effect.entry, AudioFrame):
                assert effect.entry.pcm
                position = effect.entry.end


@given(SCRIPTS)
def test_a_worker_is_let_go_exactly_once_unless_it_ended_the_session_itself(steps: list[Any]):
    actor = session()
    by_worker = False

    def watch(step: Any, effects: list[Effect]) -> None:
        nonlocal by_worker
        if step.name == "worker_event" and any(isinstance(effect, Forget) for effect in effects):
            by_worker = True

    effects = act(actor, steps, watch)
    let_go = [
        effect
        for effect in effects
        if isinstance(effect, Withdraw)
        or (
            isinstance(effect, Append)
            and isinstance(effect.entry, Control)
            and effect.entry.order is Order.ABANDON
        )
    ]
    assert len(let_go) == (actor.state is State.CLOSED and not by_worker)


# ---------------------------------------------------------------------------------------------------------------------
# a connection lost, and another (docs/resume.md)


def numbers(effects: list[Effect]) -> list[tuple[str, int | None]]:
    texts = [json.loads(effect.text) for effect in effects if isinstance(effect, Reply)]
    return [(fields["type"], fields.get("sequence")) for fields in texts]


def resumable(limits: Limits = Limits()) -> Session:  # noqa: B008 frozen
    """An open session that was told its token."""
    actor = session("resumable=true", limits, resume_token="the token")
    actor.start(0.0)
    (begin,) = actor.worker_event(SessionEvent(ID, 1, 0, Event.TAKEN), 0.0)
    assert isinstance(begin, Reply)
    assert json.loads(begin.text)["configuration"]["resume_token"] == "the token"
    return actor


def said(actor: Session, sequence: int, order: int, final: bool = False) -> list[Effect]:
    text = json.dumps({"type": "Turn", "turn_order": order})
    told = SessionEvent(ID, 1, sequence, Event.MESSAGE, turn_order=order, final=final, text=text)
    return actor.worker_event(told, 1.0)


def test_only_a_resumable_session_numbers_its_messages():
    plain = session()
    plain.start(0.0)
    (begin,) = plain.worker_event(SessionEvent(ID, 1, 0, Event.TAKEN), 0.0)
    assert isinstance(begin, Reply)
    assert "sequence" not in begin.text
    assert "resume_token" not in begin.text
    assert not plain.client_lost()
    assert not plain.may_resume("")
    with pytest.raises(ClientError):
        plain.resume(0, 0.0)


def test_what_was_missed_is_told_once_and_the_place_to_go_on_from():
    actor = resumable()
    actor.client_audio(FRAME, 0.5)
    actor.client_text('{"type": "ForceEndpoint"}', 0.5)
    assert numbers(said(actor, 1, 0)) == [("Turn", 2)]
    assert actor.client_lost()
    assert numbers(said(actor, 2, 0, final=True)) == [("Turn", 3)]
    place, *missed = actor.resume(2, 2.0)
    assert isinstance(place, Reply)
    fields = json.loads(place.text)
    assert (fields["type"], fields["id"]) == ("Resumed", ID)
    assert (fields["messages_received"], fields["audio_bytes_received"]) == (2, len(FRAME))
    assert numbers(missed) == [("Turn", 3)]
    assert actor.client_audio(FRAME, 2.1) == [Append(AudioFrame(800, FRAME))]


def test_silence_of_a_lost_client_is_not_its_own():
    actor = resumable(Limits(idle_timeout_s=5.0))
    assert actor.client_lost()
    assert actor.tick(20.0) == []
    actor.resume(1, 20.0)
    assert actor.tick(24.0) == []
    assert numbers(actor.tick(25.0)) == [("Error", 2)]


def test_the_end_is_told_again_as_well():
    actor = resumable()
    actor.client_text('{"type": "Terminate"}', 1.0)
    assert actor.client_lost()
    actor.worker_event(SessionEvent(ID, 1, 1, Event.DONE), 1.5)
    assert actor.state is State.CLOSED
    *told, end = actor.resume(1, 2.0)
    assert numbers(told) == [("Resumed", None), ("Termination", 2)]
    assert end == ENDED


def test_who_was_never_told_the_token_cannot_come_back():
    actor = session("resumable=true", resume_token="the token")
    actor.start(0.0)
    assert not actor.client_lost()


@pytest.mark.parametrize("token", ["", "the toke", "the token ", "der Schlüssel"])
def test_another_token_is_not_the_token(token: str):
    actor = resumable()
    assert actor.may_resume("the token")
    assert not actor.may_resume(token)


def test_a_frame_costs_few_calls(calls):
    actor, frame = session(), bytes(1_600)
    actor.start(0.0)
    actor.client_audio(frame, 1.0)
    # Measured: 18. Audio is most of what a node does.
    assert calls(lambda: actor.client_audio(frame, 1.1)) <= 18


def test_an_event_costs_few_calls(calls):
    actor = session()
    actor.start(0.0)
    actor.worker_event(SessionEvent("s", 1, 0, Event.TAKEN, turn_order=0), 0.1)
    event = SessionEvent("s", 1, 1, Event.MESSAGE, 500, 0, False, "{}")
    # Measured: 17 and 8; 25 and 12 with Enums that hash themselves, and errors made for deadlines that are not met.
    assert calls(lambda: actor.worker_event(event, 0.5)) <= 18
    assert calls(actor.next_deadline) <= 9


# ---------------------------------------------------------------------------------------------------------------------
# from node to node


def left(actor: Session) -> Session:
    """The same session on another node, from what this one leaves behind."""
    query = "resumable=true&" + "&".join(
        f"{name}={getattr(actor.params, name)}" for name in ("sample_rate", "encoding")
    )
    other = session(query, resume_token="the token")
    other.params = actor.params
    other.go_on(unpack_place(pack(actor.place())), actor.told_after(0), 1.0)
    return other


SAID_BY_CLIENTS = st.one_of(
    st.integers(1_600, 9_000).map(lambda size: bytes(range(250)) * (size // 250)),
    st.sampled_from(
        [
            '{"type":"ForceEndpoint"}',
            '{"type":"KeepAlive"}',
            '{"type":"UpdateConfiguration","min_turn_silence":321}',
        ]
    ),
)


@given(
    st.lists(st.one_of(SAID_BY_CLIENTS, st.tuples(st.integers(0, 3), st.booleans())), max_size=20),
    st.integers(0, 20),
    st.booleans(),
)
def test_a_session_that_moved_does_what_it_would_have_done(happenings, moves_after, terminates):
    """Words of its worker, which are tuples, and of its client; both nodes tell and log the same from there on."""
    stays, goes = resumable(), resumable()
    sequence = 0
    for number, happened in enumerate([*happenings, *(['{"type":"Terminate"}'] if terminates else [])]):
        if number == moves_after:
            goes = left(goes)
            place, *missed = goes.resume(1, 1.0)
            assert isinstance(place, Reply)
            assert json.loads(place.text)["messages_received"] == stays.place().messages
            assert [effect.text for effect in missed if isinstance(effect, Reply)] == [
                text for _, text in stays.told_after(1)
            ]
        if isinstance(happened, tuple):
            sequence += 1
            order, final = happened
            assert said(goes, sequence, order, final) == said(stays, sequence, order, final)
        elif isinstance(happened, str):
            assert goes.client_text(happened, 1.0) == stays.client_text(happened, 1.0)
        else:
            assert goes.client_audio(happened, 1.0) == stays.client_audio(happened, 1.0)
    assert goes.place() == stays.place()
    assert goes.received_ms == stays.received_ms


def test_what_is_sent_again_for_the_decoder_s_sake_is_neither_logged_nor_counted_twice():
    actor = session("resumable=true&sample_rate=48000", resume_token="the token")
    actor.start(0.0)
    actor.worker_event(SessionEvent(ID, 1, 0, Event.TAKEN), 0.0)
    audio = bytes(range(240)) * 40  # 100 ms
    for _ in range(10):
        actor.client_audio(audio, 0.5)
    actor.client_text('{"type":"ForceEndpoint"}', 0.5)
    other = left(actor)
    place = actor.place()
    (reply,) = other.resume(1, 1.0)
    assert isinstance(reply, Reply)
    again = json.loads(reply.text)["messages_received"]
    assert 6 <= again <= 8  # of 11, for 250 ms
    assert other.received_ms == 1_000
    for _ in range(again, 10):
        assert other.client_audio(audio, 1.0) == []
    assert other.client_text('{"type":"ForceEndpoint"}', 1.0) == []
    assert other.received_ms == 1_000
    assert (other.place().messages, other.place().position) == (11, place.position)
    (new,) = other.client_audio(audio, 1.0)
    assert isinstance(new, Append)
    assert new.entry.position == place.position


def test_the_end_moves_as_well():
    actor = resumable()
    actor.client_text('{"type":"Terminate"}', 0.5)
    other = left(actor)
    assert other.state is State.TERMINATING
    assert other.client_audio(FRAME, 1.0) == []
    *_, forget = other.worker_event(SessionEvent(ID, 1, 1, Event.DONE), 1.0)
    assert forget == Forget()
    ended = left(other)
    _, last, close = ended.resume(1, 1.0)
    assert (numbers([last]), close) == ([("Termination", 2)], ENDED)
    assert ended.client_gone(1.0) == []


def test_a_heartbeat_has_no_number():
    actor = session("resumable=true&session_heartbeat=true", resume_token="the token")
    actor.start(0.0)
    actor.worker_event(SessionEvent(ID, 1, 0, Event.TAKEN), 0.0)
    assert numbers(actor.tick(6.0)) == [("Heartbeat", None)]
    assert left(actor).next_deadline() is not None


def test_who_stays_has_no_place_and_nonsense_is_none():
    with pytest.raises(IllegalInput):
        opened().actor.place()
    actor = resumable()
    for nonsense in ({"state": "ELSEWHERE"}, {"close_code": 7}):
        with pytest.raises(EntryError):
            session("resumable=true", resume_token="x").go_on(replace(actor.place(), **nonsense), [], 1.0)
