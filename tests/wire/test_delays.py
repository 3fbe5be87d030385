"""Where the time went between a word and its message."""

import pytest

from tests.recorded import HELLO, START_S, recording
from wire.delays import Way, Ways, of_finals, plain, word_by_word
from wire.recorded import Told
from wire.recordings import Recording


def test_a_finals_way_is_told_stage_by_stage():
    (_, way), _ = of_finals(recording())
    assert way.total_ms == pytest.approx(70, abs=0.1)  # the frame of "there." came at 0.8 s
    assert {name: round(ms) for name, ms in way.parts_ms.items()} == {
        "queued": 10,
        "begun": 10,
        "stepped": 20,
        "published": 10,
        "told": 20,
    }
    assert sum(way.parts_ms.values()) == pytest.approx(way.total_ms)


def test_each_word_is_followed_to_the_message_that_told_it_first():
    hello, there, bye = word_by_word(recording())
    assert hello.word["text"] == "Hello,"
    assert not hello.first.is_final, "a partial had it"
    assert there.first.is_final
    assert bye.first.at_s < START_S + 2.3
    assert hello.way.arrived_s == pytest.approx(START_S + 0.4)


def test_what_a_recording_does_not_tell_is_left_open():
    whole = recording()
    bare = Recording(whole.facts, items=tuple(item for item in whole.items if isinstance(item, Told)))
    [(final, way), *_] = of_finals(bare)
    assert way == Way(told_s=final.at_s)
    assert (way.total_ms, way.parts_ms) == (None, {})
    assert Ways(bare).of(final, 10).arrived_s is None


@pytest.mark.parametrize(
    "text,same", [("Hello,", "hello"), ("DON'T!", "don't"), ("...", "..."), ("Æon", "æon")]
)
def test_words_are_compared_without_their_looks(text, same):
    assert plain(text) == same
    assert HELLO.text == "Hello,"
