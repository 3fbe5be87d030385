"""What a session's inputs and effects come to on a recording."""

import json

from hypothesis import given
from hypothesis import strategies as st

from ingress.session import Append, Limits, Reply, Session
from ingress.tape import Tape, items
from wire.entries import AudioFrame, Event, SessionEvent
from wire.errors import ClientError, Close
from wire.params import parse_query
from wire.recorded import (
    BATCH_BYTES,
    Audio,
    Batch,
    Connection,
    Dropped,
    Ordered,
    Said,
    Sound,
    Told,
    pack_batch,
    portions,
    unpack_batch,
    weight,
)

FRAME = bytes(range(200)) * 8


def session(query: str = "", token: str = "") -> Session:
    pairs = [tuple(pair.split("=")) for pair in query.split("&") if pair]
    made = Session("s", parse_query(pairs), Limits(), 0.0, 99, resume_token=token)  # type: ignore[arg-type]
    made.start(0.0)
    return made


def never(error: Exception) -> None:
    raise error


def taken(actor: Session) -> list:
    event = SessionEvent("s", 1, 0, Event.TAKEN)
    return items(event, actor.worker_event(event, 0.1), 50.0)


def test_audio_is_kept_as_it_goes_to_the_log():
    actor = session()
    assert items(FRAME, actor.client_audio(FRAME, 0.1), 50.0) == [Audio(50.0, 0, FRAME)]


def test_frames_that_follow_one_another_become_one_sound():
    actor, tape = session(), Tape()
    for at in range(3):
        tape.note(50.0 + at, FRAME, actor.client_audio(FRAME, 0.1 + at))
    text = '{"type": "ForceEndpoint"}'
    tape.note(53.0, text, actor.client_text(text, 3.2))
    tape.note(54.0, Connection(54.0, "lost"), ())
    tape.note(55.0, FRAME, actor.client_audio(FRAME, 4.1))
    sound, *others = tape.take(never)
    assert sound == Sound(0, [50.0, 51.0, 52.0, 55.0], [FRAME] * 4, 4 * len(FRAME))
    assert others == [
        Said(53.0, text),
        Ordered(53.0, "FORCE_ENDPOINT", 3 * len(FRAME) // 2),
        Connection(54.0, "lost"),
    ]
    assert tape.take(never) == []


frames = st.lists(st.tuples(st.integers(0, 20), st.booleans()), max_size=20)


@given(frames)
def test_frames_are_those_that_were_noted_whatever_is_missing_between_them(given):
    tape, wanted, start = Tape(), [], 0
    for number, (samples, gap) in enumerate(given):
        start += 7 * gap
        wanted.append(Audio(float(number), start, bytes(2 * samples)))
        tape.note(float(number), FRAME, [Append(AudioFrame(start, wanted[-1].pcm))])
        start += samples
    gathered = tape.take(never)
    assert len(gathered) <= sum(gap for _, gap in given) + 1
    assert unpack_batch(pack_batch("here", 0, gathered)) == Batch("here", 0, tuple(wanted))
    assert sum(map(weight, gathered)) == sum(map(weight, wanted))


def test_frames_are_gathered_not_without_end():
    tape = Tape()
    for number in range(20):
        tape.note(float(number), FRAME, [Append(AudioFrame(16_000 * number, bytes(32_000)))])
    gathered = tape.take(never)
    sounds = [item for item in gathered if isinstance(item, Sound)]
    assert all(sound.size <= BATCH_BYTES for sound in sounds)
    assert [portion for portion in portions(gathered) if sum(map(weight, portion)) > 2 * BATCH_BYTES] == []
    assert sum(len(sound.pieces) for sound in sounds) == 20


def test_audio_that_became_several_frames_none_or_a_refusal_is_kept_too():
    several = [Append(AudioFrame(0, b"\1\1")), Append(AudioFrame(1, b"\2\2"))]
    refused = session().refuse(ClientError(Close.INPUT_DURATION, "too short"), 0.2)
    tape = Tape()
    tape.note(50.0, b"....", several)
    tape.note(51.0, FRAME, [])
    tape.note(52.0, b"..", refused)
    found = tape.take(never)
    assert found[:2] == [Audio(50.0, 0, b"\1\1"), Audio(50.0, 1, b"\2\2")]
    assert [type(item) for item in found[2:]] == [Told, Connection]


def test_a_note_that_cannot_be_made_an_item_costs_only_itself():
    tape = Tape()
    failures: list[Exception] = []
    tape.note(50.0, "before", ())
    tape.note(51.0, None, [Reply('"resume_token" of no JSON,"type":"Begin"}')])
    tape.note(52.0, "after", ())
    assert tape.take(failures.append) == [Said(50.0, "before"), Said(52.0, "after")]
    assert [type(failure) for failure in failures] == [json.JSONDecodeError]


def test_a_text_message_stands_behind_its_audio_and_before_what_it_orders():
    actor = session("sample_rate=8000")
    actor.client_audio(FRAME, 0.1)
    text = '{"type": "ForceEndpoint"}'
    sound, said, order = items(text, actor.client_text(text, 0.2), 50.0)
    assert isinstance(sound, Audio)
    assert said == Said(50.0, text)
    assert order == Ordered(50.0, "FORCE_ENDPOINT", sound.end)


def test_a_configuration_is_kept_resolved():
    actor = session()
    text = '{"type": "UpdateConfiguration", "max_turn_silence": 20}'
    _, order = items(text, actor.client_text(text, 0.2), 50.0)
    assert isinstance(order, Ordered)
    assert order.order == "CONFIGURE"
    assert order.params is not None
    assert order.params["max_turn_silence"] == 50


def test_what_is_told_knows_the_event_it_passes_on():
    actor = session()
    [begun] = taken(actor)
    assert isinstance(begun, Told)
    assert json.loads(begun.text)["type"] == "Begin"
    event = SessionEvent("s", 1, 1, Event.MESSAGE, 100, 0, True, "a turn")
    assert items(event, actor.worker_event(event, 0.3), 51.0) == [Told(51.0, "a turn", 1, 1)]
    assert items(event, actor.worker_event(event, 0.3), 52.0) == [Dropped(52.0, "duplicate", 1, 1, "a turn")]


def test_an_error_and_its_close_are_kept_with_the_message_that_earned_them():
    from wire.errors import ClientError, Close

    actor = session()
    effects = actor.refuse(ClientError(Close.INVALID_INPUT, "no"), 0.2)
    said, told, closed = items("{broken", effects, 50.0)
    assert said == Said(50.0, "{broken")
    assert isinstance(told, Told)
    assert "no" in told.text
    assert closed == Connection(50.0, "closed", 3006, "See Error message for details")


def test_the_token_of_a_resumable_session_is_not_kept():
    actor = session("resumable=true", token="a secret")
    [begun] = taken(actor)
    assert isinstance(begun, Told)
    assert "a secret" not in begun.text
    fields = json.loads(begun.text)
    assert (fields["sequence"], fields["id"]) == (1, "s")
    assert "mode" in fields["configuration"]


def test_what_is_told_again_was_recorded_before():
    actor = session("resumable=true", token="a secret")
    taken(actor)
    assert actor.client_lost()
    effects = actor.resume(0, 1.0)
    assert sum(isinstance(effect, Reply) for effect in effects) == 2
    assert items(None, effects, 50.0) == [Connection(50.0, "resumed")]
