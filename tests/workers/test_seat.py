"""What a worker knows of one session: order of the log, places in it, checkpoints that lose nothing."""

import json
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wire.entries import AudioEntry, AudioFrame, Checkpoint, Control, Event, Lease, Offer, Order
from wire.errors import EntryError
from wire.messages import SpeechStarted, Turn
from wire.messages import Word as TurnWord
from wire.params import SessionParams, parse_query
from workers.recognizer import Hypothesis, Observation, Quiet, SlotOptions
from workers.seat import (
    CROWDED,
    LEAD_GRAIN_MS,
    LONGEST_LEAD_MS,
    QUIET_LEAD_MS,
    REST_EVERY_MS,
    REST_MARGIN_MS,
    Seat,
    refusal,
)
from workers.words import Word

PARAMS = SessionParams().for_worker()
MS = 16


def lease(checkpoint: Checkpoint | None = None, params: dict[str, Any] | None = None) -> Lease:
    return Lease(b"1-0", Offer("s", "node", "english", PARAMS if params is None else params), 3, checkpoint)


def frame(start_ms: int, length_ms: int = 100) -> AudioFrame:
    return AudioFrame(start_ms * MS, np.arange(length_ms * MS, dtype="<i2").tobytes())


def seated(*entries: AudioEntry, checkpoint: Checkpoint | None = None) -> Seat:
    """A seat that has consumed the entries; their ids are 1-0, 2-0, ..."""
    seat = Seat(lease(checkpoint))
    received(seat, *entries)
    return seat


def received(seat: Seat, *entries: AudioEntry, first: int = 1) -> None:
    numbered = [(f"{number}-0".encode(), entry) for number, entry in enumerate(entries, start=first)]
    seat.receive(numbered[-1][0] if numbered else seat.cursor, numbered, 0.0)
    while (entry := seat.next()) is not None:
        seat.consumed(entry)


def final(order: int = 0) -> Turn:
    return Turn(order, False, True, "yes", 0.9)


# --- the log


def test_a_new_session_begins_at_the_beginning() -> None:
    seat = Seat(lease())
    assert (seat.cursor, seat.position, seat.origin_ms, seat.tracker.order) == (b"0-0", 0, 0, 0)
    assert seat.options.vad_threshold == PARAMS["vad_threshold"]


@pytest.mark.parametrize(
    "codes,language,languages",
    [([], None, ()), (["fr"], "fr", ()), (["fr", "en"], None, ("fr", "en"))],
)
def test_the_model_is_told_which_languages_may_be_spoken(codes, language, languages) -> None:
    options = Seat(lease(params=PARAMS | {"language_codes": codes})).options
    assert (options.language, options.languages) == (language, languages)


def u3(**asked: Any) -> dict[str, Any]:
    query = [("speech_model", "universal-3-5-pro"), *((name, str(value)) for name, value in asked.items())]
    return parse_query(query).for_worker()


def test_the_u3_family_tells_the_model_of_the_conversation() -> None:
    asked = u3(prompt="A call.", agent_context="Who is it?", keyterms_prompt='["Anna"]', interruption_delay=0)
    options = Seat(lease(params=asked)).options
    assert (options.prompt, options.agent_context, options.keyterms) == ("A call.", "Who is it?", ("Anna",))
    assert (options.previous_turns, options.first_ms, options.partial_ms) == (5, 256, 0)
    rare = Seat(lease(params=u3(continuous_partials=False, mode="max_accuracy"))).options
    assert (rare.first_ms, rare.partial_ms) == (756, 3_000)


def test_other_families_have_key_terms_alone() -> None:
    options = Seat(lease(params=PARAMS | {"keyterms_prompt": ["Anna"], "prompt": "A call."})).options
    assert options == SlotOptions(keyterms=("Anna",))


def test_what_a_model_keeps_goes_into_the_checkpoint_and_to_whoever_takes_over() -> None:
    seat = Seat(lease())
    seat.heard(Hypothesis(flushed_ms=1_000, memory={"kept": 1}))
    saved = seat.publication(final()).checkpoint
    assert saved is not None
    assert saved.memory == {"kept": 1}
    taken = Seat(lease(replace(saved, position=1600 * MS, lead=1600 * MS)))
    assert taken.options.memory == {"kept": 1}
    taken.heard(Hypothesis(flushed_ms=1600))  # the lead is over, and no turn has ended
    rest = taken.checkpoint(1, 1600, 1600)
    assert rest.memory == {"kept": 1}
    taken.heard(Hypothesis(flushed_ms=2_000))  # this model keeps nothing
    assert taken.checkpoint(2, 2_000, 2_000).memory == {}


def test_key_terms_reach_the_model_as_they_come_from_the_wire() -> None:
    assert Seat(lease(params=PARAMS | {"keyterms_prompt": ["Anna", "pg vector"]})).options.keyterms == (
        "Anna",
        "pg vector",
    )
    without = {name: value for name, value in PARAMS.items() if name != "keyterms_prompt"}
    assert Seat(lease(params=without)).options.keyterms == ()


def test_a_resumed_session_begins_at_the_checkpoint_with_its_parameters() -> None:
    seat = Seat(lease(Checkpoint(4, 1600 * MS, "7-1", PARAMS | {"vad_threshold": 0.8})))
    assert (seat.cursor, seat.position, seat.origin_ms, seat.tracker.order) == (b"7-1", 1600 * MS, 1600, 4)
    assert seat.tracker.cut_ms == 1600
    assert seat.options.vad_threshold == 0.8


@pytest.mark.parametrize("params", [{}, {"vad_threshold": 0.5}])
def test_parameters_of_another_release_are_refused(params: dict[str, Any]) -> None:
    with pytest.raises(KeyError):
        Seat(lease(params=params))


def test_entries_are_consumed_in_their_order() -> None:
    seat = Seat(lease())
    first, second = frame(0), Control(Order.FORCE_ENDPOINT, 100 * MS)
    seat.receive(b"2-0", [(b"1-0", first), (b"2-0", second)], 0.0)
    assert seat.cursor == b"2-0"
    assert seat.next() is first
    assert seat.next() is first  # until it is consumed
    seat.consumed(first)
    assert seat.position == 100 * MS
    assert seat.next() is second
    seat.consumed(second)
    assert seat.next() is None


def test_samples_begin_at_the_present_position() -> None:
    seat = seated(frame(0))
    assert seat.samples(frame(100)).tolist() == list(range(100 * MS))
    assert seat.samples(frame(60)).tolist() == list(range(40 * MS, 100 * MS))  # the first 40 ms came before
    assert seat.samples(frame(0)).tolist() == []
    with pytest.raises(EntryError, match="missing from sample 1600 to 1601"):
        seat.samples(AudioFrame(100 * MS + 1, b""))


def test_a_repeated_frame_moves_nothing_back() -> None:
    seat = seated(frame(0), frame(100), frame(0))
    assert seat.position == 200 * MS


def test_a_crowded_seat_takes_no_more_for_now() -> None:
    seat = Seat(lease())
    seat.receive(b"9-0", [(b"1-0", frame(0))] * (CROWDED - 1), 0.0)
    assert not seat.crowded
    seat.receive(b"9-1", [(b"1-0", frame(0))], 0.0)
    assert seat.crowded


# --- what is told


def test_events_are_numbered_and_tell_how_far_was_heard() -> None:
    seat = seated(frame(0))
    told = [
        seat.report(Event.TAKEN),
        seat.publication(Turn(0, False, False, "", 0.1)),
        seat.publication(final()),
    ]
    events = [event for publication in told for event in publication.events]
    assert [(event.sequence, event.generation, event.audio_ms) for event in events] == [
        (0, 3, 100),
        (1, 3, 100),
        (2, 3, 100),
    ]
    assert [(event.turn_order, event.final) for event in events] == [(0, False), (0, False), (0, True)]
    assert json.loads(events[2].text)["transcript"] == "yes"
    assert told[1].checkpoint is None
    assert told[2].checkpoint is not None


def test_an_onset_is_told_as_a_message() -> None:
    [event] = Seat(lease()).message(SpeechStarted(120, 0.9)).events
    assert (event.event, event.final) == (Event.MESSAGE, False)
    assert json.loads(event.text)["type"] == "SpeechStarted"


def test_a_session_that_cannot_be_seated_is_told_so() -> None:
    publication = refusal(lease(), "sorry")
    [event] = publication.events
    assert (event.event, event.text, event.generation) == (Event.FAILED, "sorry", 3)
    assert publication.checkpoint is None


# --- checkpoints


def test_a_checkpoint_keeps_the_entry_in_which_it_falls() -> None:
    seat = seated(frame(0), frame(100), frame(200))
    assert seat.checkpoint(1, 128, 128) == Checkpoint(1, 128 * MS, "1-0", PARAMS)
    assert seat.checkpoint(2, 256, 256) == Checkpoint(2, 256 * MS, "2-0", PARAMS)
    assert seat.checkpoint(2, 260, 260) == Checkpoint(2, 260 * MS, "2-0", PARAMS, 4 * MS)


def test_a_lead_begins_at_a_hop_and_never_before_the_seat_itself() -> None:
    seat = seated(frame(0), frame(100), frame(200))
    assert seat.checkpoint(1, 250, 210) == Checkpoint(1, 250 * MS, "1-0", PARAMS, (250 - 192) * MS)
    resumed = seated(frame(1600, 400), checkpoint=Checkpoint(1, 1700 * MS, "7-1", PARAMS, 100 * MS))
    assert resumed.position == 2000 * MS
    assert resumed.checkpoint(2, 1900, 1000) == Checkpoint(2, 1900 * MS, "7-1", PARAMS, 300 * MS)


def test_a_final_s_lead_begins_with_a_word_at_least_so_long_before() -> None:
    seat = seated(frame(0, 20_000))
    for order, end_ms, starts in ((0, 3_000, (320, 1_600)), (1, 8_000, (3_200, 3_840, 6_400))):
        seat.tracker.cut_ms = end_ms
        words = tuple(TurnWord(start, start + 100, "word", 1.0, True) for start in starts)
        saved = seat.publication(Turn(order, True, True, "words", 1.0, words, "")).checkpoint
        assert saved is not None
        lead_from = (saved.position - saved.lead) // MS
        assert lead_from == (0 if order == 0 else 3_840)
    seat.tracker.cut_ms = 19_000
    saved = seat.publication(Turn(2, True, True, "words", 1.0, words, "")).checkpoint
    assert saved is not None
    assert saved.lead <= (LONGEST_LEAD_MS + LEAD_GRAIN_MS) * MS


def test_what_is_heard_again_is_not_told_again_and_nothing_new_is_lost() -> None:
    seat = seated(frame(0, 3_000), checkpoint=Checkpoint(1, 2_000 * MS, "", PARAMS, 1_000 * MS))
    assert seat.tracker.cut_ms == 2_000
    assert seat.lead_heard_to() == 2_000
    assert seat.lead_heard_to() is None
    old, new, last = (Word(str(start), start, start + 50, 0.9) for start in (1_500, 2_100, 2_300))
    before = seat.heard(Hypothesis((Observation(1_984, 0.9), Observation(2_016, 0.9)), (old, new), (last,)))
    assert before == Hypothesis((Observation(2_016, 0.9),))
    after = seat.heard(Hypothesis((), (last,), (), flushed_ms=2_000, heard_ms=2_500))
    assert after == Hypothesis((), (new, last), (), heard_ms=2_500)
    later = Hypothesis((), (old,), (), flushed_ms=2_600, heard_ms=2_700)
    assert seat.heard(later) is later


def test_an_answer_to_the_tracker_ends_the_lead_as_well() -> None:
    seat = seated(frame(0, 3_000), checkpoint=Checkpoint(1, 2_000 * MS, "", PARAMS, 1_000 * MS))
    answer = Hypothesis((), (), (), flushed_ms=2_800, heard_ms=2_900)
    assert seat.heard(answer) == answer


def test_a_checkpoint_before_the_first_entrys_end_needs_everything() -> None:
    assert seated(frame(0)).checkpoint(1, 50, 50).entry_id == ""
    resumed = seated(frame(1600), checkpoint=Checkpoint(1, 1600 * MS, "7-1", PARAMS))
    assert resumed.checkpoint(2, 1650, 1650).entry_id == "7-1"


def test_a_checkpoint_holds_the_parameters_of_its_place() -> None:
    change = Control(Order.CONFIGURE, 200 * MS, PARAMS | {"min_turn_silence": 77})
    seat = seated(frame(0), frame(100), change, frame(200))
    assert seat.params["min_turn_silence"] == 77
    assert seat.checkpoint(1, 150, 150).params == PARAMS
    assert seat.checkpoint(1, 256, 256).params["min_turn_silence"] == 77


def test_the_order_to_end_is_needed_to_the_end() -> None:
    seat = seated(frame(0, 128), Control(Order.TERMINATE, 128 * MS))
    assert seat.checkpoint(1, 128, 128).entry_id == "1-0"


def test_silence_is_checkpointed_now_and_then_and_never_speech_that_sets_in() -> None:
    seat = seated(frame(0, 8000))
    assert seat.rest(REST_EVERY_MS + REST_MARGIN_MS - 1) is None
    rest = seat.rest(REST_EVERY_MS + REST_MARGIN_MS)
    assert rest is not None
    assert rest.events == ()
    lead_ms = QUIET_LEAD_MS + (REST_EVERY_MS - QUIET_LEAD_MS) % LEAD_GRAIN_MS
    assert rest.checkpoint == Checkpoint(0, REST_EVERY_MS * MS, "1-0", PARAMS, lead_ms * MS)
    assert seat.rest(REST_EVERY_MS + REST_MARGIN_MS) is None


@given(
    st.lists(st.tuples(st.sampled_from(["audio", "order"]), st.integers(1, 300)), min_size=1, max_size=15),
    st.lists(st.integers(0, 4000), min_size=1, max_size=4),
    st.integers(0, 1000),
)
def test_whoever_resumes_gets_all_audio_after_the_checkpoint(
    steps: list[tuple[str, int]], places_ms: list[int], lead_ms: int
) -> None:
    log: list[AudioEntry] = []
    at_ms = 0
    for kind, length_ms in steps:
        if kind == "audio":
            log.append(frame(at_ms, length_ms))
            at_ms += length_ms
        else:
            log.append(Control(Order.FORCE_ENDPOINT, at_ms * MS))
    seat = seated(*log)
    for place_ms in sorted(min(place, at_ms) for place in places_ms):
        saved = seat.checkpoint(1, place_ms, place_ms - lead_ms)
        assert saved.position == place_ms * MS
        assert 0 <= saved.lead <= (lead_ms + LEAD_GRAIN_MS) * MS
        kept = int(saved.entry_id.split("-")[0]) if saved.entry_id else 0
        again = Seat(lease(saved))
        heard = 0
        for entry in log[kept:]:
            again.receive(b"99-0", [(b"99-0", entry)], 0.0)
            if isinstance(entry, AudioFrame):
                heard += len(again.samples(entry))  # raises if any is missing
            again.consumed(entry)
        assert saved.position - saved.lead + heard == at_ms * MS


# --- what a session may ask for


def hops(seconds: float, speech: float = 0.01) -> list[Observation]:
    return [Observation(at_ms, speech) for at_ms in range(32, int(1000 * seconds) + 1, 32)]


def pulses(seat: Seat, heard: list[Observation]) -> list[Any]:
    return [event for told in seat.pulses(heard) for event in told.events]


def test_a_session_that_asked_for_nothing_is_told_nothing() -> None:
    assert pulses(Seat(lease()), hops(10)) == []


def test_heartbeats_are_fed_with_the_loudest_speech_of_each_second() -> None:
    seat = Seat(lease(params=PARAMS | {"session_heartbeat": True}))
    heard = hops(3.1)
    heard[40] = Observation(heard[40].at_ms, 0.875)  # in the second second
    told = pulses(seat, heard)
    assert [event.event for event in told] == [Event.HEARD] * 3
    assert [event.text for event in told] == ["0.0100", "0.8750", "0.0100"]


@pytest.mark.parametrize(
    "model,told", [("universal-streaming-english", 0), ("whisper-rt", 0), ("u3-rt-pro", 4)]
)
def test_silence_is_acknowledged_on_the_u3_models_only(model: str, told: int) -> None:
    seat = Seat(lease(params=PARAMS | {"acknowledge_silence": True, "speech_model": model}))
    messages = [json.loads(event.text) for event in pulses(seat, hops(5))]
    assert len(messages) == told
    for before, after in pairwise(messages):
        assert before["end_ms"] == after["start_ms"]
    for message in messages:
        assert message["type"] == "Silence"
        assert 1_000 <= message["end_ms"] - message["start_ms"] < 1_100


def test_partials_may_be_unwanted() -> None:
    assert Seat(lease()).tells_partials
    assert not Seat(lease(params=PARAMS | {"include_partial_turns": False})).tells_partials


def test_when_audio_arrived_is_known_by_the_read_that_found_it() -> None:
    seat = Seat(lease())
    assert seat.arrived_s(0) is None
    for since_s, numbers in ((5.0, (1,)), (6.0, (2, 3)), (7.0, (4,))):
        entries = [(f"{n}-0".encode(), frame(100 * (n - 1))) for n in numbers]
        seat.receive(entries[-1][0], entries, since_s)
    while (entry := seat.next()) is not None:
        seat.consumed(entry)
    assert seat.arrived_s(100 * MS) == 5.0
    assert seat.arrived_s(100 * MS + 1) == 6.0
    assert seat.arrived_s(300 * MS) == 6.0
    assert seat.arrived_s(900 * MS) == 7.0


def test_in_silence_another_worker_goes_on_from_the_model_s_newest_place_behind_the_margin() -> None:
    seat = seated(*(frame(start) for start in range(0, 14_000, 100)))
    for at_ms in (11_264, 12_288, 13_312):
        quiet = Quiet(at_ms, at_ms - 512, {"at": at_ms})
        assert seat.heard(Hypothesis(quiet=quiet)) == Hypothesis(quiet=quiet)
    rest = seat.rest(13_500)
    assert rest is not None
    assert rest.checkpoint is not None
    assert (rest.checkpoint.position, rest.checkpoint.lead) == (12_288 * MS, 512 * MS)
    assert rest.checkpoint.memory == {"at": 12_288}


def test_no_checkpoint_asks_for_audio_that_an_earlier_one_let_go() -> None:
    """Long silence, checkpointed, and then a turn whose lead would reach back over it."""
    seat = seated(*(frame(start) for start in range(0, 20_000, 100)))
    first = seat.rest(15_000)
    assert first is not None
    assert first.checkpoint is not None
    later = seat.checkpoint(1, 19_000, 1_000)
    assert later.position - later.lead >= first.checkpoint.position - first.checkpoint.lead
