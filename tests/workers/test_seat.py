"""What a worker knows of one session: order of the log, places in it, checkpoints that lose nothing."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wire.entries import AudioEntry, AudioFrame, Checkpoint, Control, Event, Lease, Offer, Order
from wire.errors import EntryError
from wire.messages import SpeechStarted, Turn
from wire.params import SessionParams
from workers.seat import CROWDED, REST_EVERY_MS, REST_MARGIN_MS, Seat, refusal

PARAMS = SessionParams().model_dump()
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
    seat.receive(numbered[-1][0] if numbered else seat.cursor, numbered)
    while (entry := seat.next()) is not None:
        seat.consumed(entry)


def final(order: int = 0) -> Turn:
    return Turn(order, False, True, "yes", 0.9)


# --- the log


def test_a_new_session_begins_at_the_beginning() -> None:
    seat = Seat(lease())
    assert (seat.cursor, seat.position, seat.origin_ms, seat.tracker.order) == (b"0-0", 0, 0, 0)
    assert seat.options.vad_threshold == PARAMS["vad_threshold"]


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
    seat.receive(b"2-0", [(b"1-0", first), (b"2-0", second)])
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
    seat.receive(b"9-0", [(b"1-0", frame(0))] * (CROWDED - 1))
    assert not seat.crowded
    seat.receive(b"9-1", [(b"1-0", frame(0))])
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
    assert [(event.turn_order, event.final) for event in events] == [(-1, False), (0, False), (0, True)]
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
    assert seat.checkpoint(1, 150) == Checkpoint(1, 150 * MS, "1-0", PARAMS)
    assert seat.checkpoint(2, 200) == Checkpoint(2, 200 * MS, "2-0", PARAMS)
    assert seat.checkpoint(2, 250).entry_id == "2-0"


def test_a_checkpoint_before_the_first_entrys_end_needs_everything() -> None:
    assert seated(frame(0)).checkpoint(1, 50).entry_id == ""
    resumed = seated(frame(1600), checkpoint=Checkpoint(1, 1600 * MS, "7-1", PARAMS))
    assert resumed.checkpoint(2, 1650).entry_id == "7-1"


def test_a_checkpoint_holds_the_parameters_of_its_place() -> None:
    change = Control(Order.CONFIGURE, 200 * MS, PARAMS | {"min_turn_silence": 77})
    seat = seated(frame(0), frame(100), change, frame(200))
    assert seat.params["min_turn_silence"] == 77
    assert seat.checkpoint(1, 150).params == PARAMS
    assert seat.checkpoint(1, 200).params["min_turn_silence"] == 77


def test_the_order_to_end_is_needed_to_the_end() -> None:
    seat = seated(frame(0), Control(Order.TERMINATE, 100 * MS))
    assert seat.checkpoint(1, 100).entry_id == "1-0"


def test_silence_is_checkpointed_now_and_then_and_never_speech_that_sets_in() -> None:
    seat = seated(frame(0, 8000))
    assert seat.rest(REST_EVERY_MS + REST_MARGIN_MS - 1) is None
    rest = seat.rest(REST_EVERY_MS + REST_MARGIN_MS)
    assert rest is not None
    assert rest.events == ()
    assert rest.checkpoint == Checkpoint(0, REST_EVERY_MS * MS, "1-0", PARAMS)
    assert seat.rest(REST_EVERY_MS + REST_MARGIN_MS) is None


@given(
    st.lists(st.tuples(st.sampled_from(["audio", "order"]), st.integers(1, 300)), min_size=1, max_size=15),
    st.lists(st.integers(0, 4000), min_size=1, max_size=4),
)
def test_whoever_resumes_gets_all_audio_after_the_checkpoint(
    steps: list[tuple[str, int]], places_ms: list[int]
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
        saved = seat.checkpoint(1, place_ms)
        kept = int(saved.entry_id.split("-")[0]) if saved.entry_id else 0
        again = Seat(lease(saved))
        heard = 0
        for entry in log[kept:]:
            again.receive(b"99-0", [(b"99-0", entry)])
            if isinstance(entry, AudioFrame):
                heard += len(again.samples(entry))  # raises if any is missing
            again.consumed(entry)
        assert saved.position + heard == at_ms * MS
