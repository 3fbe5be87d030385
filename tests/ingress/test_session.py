"""Scripts for what a session does, properties for what it must never do."""

import json
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qsl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingress.session import (
    DEAF,
    MAX_FRAME_BYTES,
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
    assert (
        book
        >> call.client_audio(bytes(16_000 * 3 + 8_000))
        << some(Append)
        << some(Append)
        << some(Append)
        << (some(Append))
    )
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
        << appended(Order.CONFIGURE, 800, changed.model_dump())
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
        >> call.client_audio(bytes(70_001))
        << Append(AudioFrame(0, bytes(MAX_FRAME_BYTES)))
        << Append(AudioFrame(16_000, bytes(MAX_FRAME_BYTES)))
        << Append(AudioFrame(32_000, bytes(6_000)))
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


def test_a_client_far_ahead_of_its_speech_is_slowed_down():
    book = opened(limits=Limits(max_ahead_s=10))
    for _ in range(10):
        assert book >> call.client_audio(bytes(32_000)) << some(Append)
    assert not book.actor.congested(0.0)
    assert book >> call.client_audio(bytes(32_000)) << some(Append)
    assert book.actor.congested(0.0)
    assert not book.actor.congested(1.0), "a worker keeps up with speech"
    assert book >> turn(1, 0, audio_ms=5_000) << some(Reply)
    assert not book.actor.congested(0.0), "this one is faster"


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
        assert (Input.MESSAGE in row) == (state not in UNTAKEN | {State.CLOSED})


def test_a_client_is_heard_exactly_where_it_is_not_deaf():
    for state, row in TRANSITIONS.items():
        assert (Input.AUDIO in row) == (Input.TERMINATE in row) == (state not in DEAF | {State.NEW})


# ---------------------------------------------------------------------------------------------------------------------
# properties

MESSAGES = st.sampled_from(
    [
        '{"type":"Terminate"}',
        '{"type":"ForceEndpoint"}',
        '{"type":"KeepAlive"}',
        '{"type":"UpdateConfiguration","min_turn_silence":200}',
        '{"type":"UpdateConfiguration","vad_threshold":7}',
        '{"type":"Nonsense"}',
        "[1]",
        "{",
        "",
    ]
)

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
).map(lambda found: found if found.turn_order >= 0 else SessionEvent(**{**vars(found), "final": False}))

STEPS = st.one_of(
    MESSAGES.map(call.client_text),
    st.binary(max_size=70).map(call.client_audio),
    EVENTS.map(call.worker_event),
    EVENTS.map(call.worker_event),
    st.just(call.tick()),
    st.just(call.client_gone()),
    st.just(call.refuse(internal_error())),
    st.builds(after, st.sampled_from([0.02, 1.0, 6.0, 70.0])),
)

SCRIPTS = st.lists(STEPS, max_size=40)
RATES = st.sampled_from(["", "sample_rate=8000", "sample_rate=44100"])


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
