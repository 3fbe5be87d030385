"""Two transcripts, word by word."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli import replay_diff
from cli.replay_diff import Change, Spoken, align, compare, percentile
from tests.recorded import BYE, HELLO, THERE, recording
from tests.speech import error_rate
from wire.messages import Word

texts = st.lists(st.sampled_from(["a", "b", "c", "d"]), min_size=1, max_size=12)


def spoken(texts: list[str], every_ms: int = 200) -> list[Spoken]:
    return [Spoken(text, every_ms * number) for number, text in enumerate(texts)]


@given(texts, texts, st.sampled_from([4_000_000, 0]))
def test_every_word_of_both_appears_once_and_in_order(first, second, exact):
    before, replay_diff.EXACT_CELLS = replay_diff.EXACT_CELLS, exact
    try:
        pairs = list(align(spoken(first), spoken(second)))
    finally:
        replay_diff.EXACT_CELLS = before
    assert [pair.first.text for pair in pairs if pair.first] == first
    assert [pair.second.text for pair in pairs if pair.second] == second


@given(texts, texts)
def test_the_error_rate_is_the_one_that_others_compute(first, second):
    found = replay_diff.Comparison(
        tuple(align(spoken(first), spoken(second))), identical=False, delays_ms=((), ())
    )
    assert found.error_rate == pytest.approx(error_rate(" ".join(first), " ".join(second)))


def test_changed_missing_added_and_moved_words_are_told_apart():
    other = Word(HELLO.start + 150, HELLO.end + 150, "hello", 0.9, True)
    added = Word(850, 900, "friend", 0.9, True)
    first, second = (
        recording((HELLO, THERE), (BYE,)),
        recording(
            (other, THERE, added),
        ),
    )
    found = compare(first, second)
    assert [pair.change for pair in found.pairs] == [Change.MOVED, Change.SAME, Change.CHANGED]
    assert [pair.change for pair in compare(first, recording((HELLO,))).pairs] == [
        "same",
        "missing",
        "missing",
    ]
    assert [pair.change for pair in compare(recording((HELLO,)), first).pairs] == ["same", "added", "added"]
    assert not found.identical
    assert found.error_rate == pytest.approx(1 / 3)


def test_a_recording_is_identical_with_itself():
    found = compare(recording(), recording())
    assert found.identical
    assert found.error_rate == 0
    assert [round(delay) for delay in found.delays_ms[0]] == [70, 70]


def test_what_differs_but_a_little_is_told_too():
    def against(*finals) -> list[str]:
        return compare(recording(), recording(*finals)).slight

    assert against((HELLO, THERE), (BYE,)) == []
    assert against((HELLO, THERE), (replace(BYE, end=BYE.end + 20),)) == [
        "1 words begin or end up to 20 ms apart"
    ]
    assert against((HELLO, THERE), (replace(BYE, text="goodbye"),)) == ["1 words are written in another way"]
    assert against((HELLO, THERE, BYE)) == ["2 turns, not 1"]
    assert against((HELLO,), (THERE, BYE)) == ["the same words are parted into turns in another way"]


def test_percentiles_of_few_delays():
    assert percentile((), 50) is None
    assert percentile((7.0,), 95) == 7
    assert percentile((0.0, 100.0), 50) == 50
