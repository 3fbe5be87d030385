"""`console.retold`: what a recording says, turn by turn."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from console.retold import Arrivals, Story
from wire.recorded import Audio, Connection, Dropped, Missed, Ordered, SessionFacts, Told
from wire.recordings import Recording

FACTS = SessionFacts("some-id", 1_000.0)


def test_turns_hold_their_messages_and_decisions(recording: Recording):
    first, second = Story(recording).turns
    assert [row.final for row in first.rows] == [False, False, True]
    assert first.text == "Hello world."
    assert first.decision is not None
    assert first.decision.rule == "confident"
    assert second.decision is None
    assert (first.from_ms, first.to_ms) == (20, 1_800)
    assert second.rows[0].generation == 2


def test_words_are_fresh_when_they_are_news(recording: Recording):
    one, two, final = Story(recording).turns[0].rows
    assert [word.fresh for word in one.words] == [True]
    assert [word.fresh for word in two.words] == [False, True]
    assert [word.fresh for word in final.words] == [False, False]
    assert [word.settled for word in two.words] == [True, False]


def test_a_message_is_behind_the_audio_of_its_last_word_and_its_phases_say_why(recording: Recording):
    one, two, final = Story(recording).turns[0].rows
    assert one.received_ms == 900
    assert one.behind_ms == pytest.approx(200)  # the audio at 700 ms came at 0.7 s
    assert one.phases_ms == pytest.approx((120, 10, 30, 30, 10))
    assert sum(one.phases_ms) == pytest.approx(one.behind_ms)
    assert two.phases_ms == ()  # its worker's side is missing
    assert final.behind_ms == pytest.approx(sum(final.phases_ms))


def test_clocks_that_differ_make_no_negative_time(recording: Recording):
    late = [
        replace(item, at_s=item.at_s + 5) if isinstance(item, Audio) else item for item in recording.items
    ]
    for turn in Story(replace(recording, items=tuple(late))).turns:
        assert all(phase >= 0 for row in turn.rows for phase in row.phases_ms)


def test_what_else_happened_is_told_in_order_of_time(recording: Recording):
    more = (
        Ordered(1_000.5, "FORCE_ENDPOINT", 8_000),
        Dropped(1_000.6, "duplicate", 1, 1),
        Connection(1_000.7, "closed", 1000, "Session Ended"),
        Missed(1_000.8, 3, "Redis was slow"),
    )
    notes = Story(replace(recording, items=(*recording.items, *more))).notes
    assert [note.at_s for note in notes] == sorted(note.at_s for note in notes)
    told = "\n".join(f"{note.kind}: {note.text}" for note in notes)
    for text in (
        "taken: ada holds the session with moonshine-tiny-en, software 0.1.0",
        "taken again: bob holds",
        "generation 2 goes on at 1.20 s",
        'said: Client: {"type":"Terminate"}',
        "Termination: audio_duration_seconds 2",
        "FORCE_ENDPOINT at 0.50 s",
        "Not passed on (duplicate)",
        "Connection closed: 1000 Session Ended",
        "3 items were not recorded: Redis was slow",
    ):
        assert text in told


def test_nothing_recorded_is_an_empty_story():
    story = Story(Recording(FACTS))
    assert (story.turns, story.notes, story.length_ms) == ((), (), 1)


@pytest.mark.parametrize(
    "text",
    [
        '{"type":"Turn","turn_order":0}',
        '{"type":"Turn","turn_order":0,"words":7}',
        '{"type":"Turn","turn_order":0,"words":[{"text":"x"},{"start":"a","end":2},7]}',
        '{"type":"Turn","turn_order":0,"words":[{"text":"x","start":1,"end":2,"confidence":"much"}]}',
        '{"type":"Turn","turn_order":"0"}',
        "half",
    ],
)
def test_a_message_of_another_shape_ends_nothing(text):
    story = Story(Recording(FACTS, items=(Told(1_000.0, text),)))
    assert [turn.text for turn in story.turns] in ([], [""], ["x"])
    assert isinstance(story.notes, tuple)


@given(st.lists(st.integers(1, 4_000), min_size=1, max_size=20), st.data())
def test_what_had_come_in_by_when(lengths, data):
    frames, position = [], 0
    for number, length in enumerate(lengths):
        frames.append(Audio(float(number), position, bytes(2 * length)))
        position += length
    arrivals = Arrivals(frames)
    assert arrivals.by(-1.0) == 0
    assert arrivals.by(len(lengths)) == position * 1000 // 16_000
    number = data.draw(st.integers(0, len(lengths) - 1))
    assert arrivals.by(number + 0.5) == frames[number].end * 1000 // 16_000
