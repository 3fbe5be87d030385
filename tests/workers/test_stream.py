"""Where a stream is in its audio, and when what it said was spoken."""

import pytest

from tests.workers.test_streaming import stepper
from workers.stream import UNHEARD, Stream, timed
from workers.words import Word


def test_a_chunk_is_there_when_its_last_frame_is_heard_in_part() -> None:
    stream = Stream(1_000, stepper(1, lookahead=1))
    assert (stream.covered, stream.heard, stream.wants) == (1_000, 1_000, 1_000 + 2_560 - UNHEARD)
    stream.hear([3, 4], [0, 1], [0.5, 0.6])
    stream.hear([5], [1], [0.7])
    assert (stream.covered, stream.heard) == (1_000 + 5_120, 1_000 + 5_120 - UNHEARD)
    assert stream.frames == [0, 1, 3]
    stream.keep([0, 2])
    stream.drop(1)
    assert (stream.tokens, stream.frames, stream.odds) == ([5], [3], [0.7])


def test_words_lie_where_their_tokens_do() -> None:
    stream = Stream(16_000, stepper(1, lookahead=1))
    stream.hear([0, 1, 2], [0, 1, 1], [0.9, 0.8, 0.7])
    pieces = [b" ze", b"ro", b" o"]
    assert [(w.text, w.start_ms, w.end_ms) for w in stream.words(pieces, 2, 1_000)] == [("zero", 933, 1_093)]
    assert [w.text for w in stream.words(pieces, 3, 1_000)] == ["zero", "o"]


@pytest.mark.parametrize(
    "spans, expected",
    [
        ([(300, 900)], [(300, 600), (720, 900)]),  # a stretch of speech: from its begin to its end
        ([(300, 640), (700, 1_400)], [(300, 640), (700, 880)]),  # it goes on: its end is not known
        ([(0, 1_400)], [(420, 600), (720, 880)]),  # speech set in long before: another word was missed
        ([], [(420, 600), (720, 880)]),
    ],
)
def test_words_are_timed_by_what_was_heard(
    spans: list[tuple[int, int]], expected: list[tuple[int, int]]
) -> None:
    words = [Word("one", 500, 600, 0.9), Word("two", 800, 880, 0.9)]
    moved = timed(words, spans, floor_ms=0, known_ms=1_000, until_ms=1_000)
    assert [(word.start_ms, word.end_ms) for word in moved] == expected


def test_words_stay_behind_what_stands_and_before_the_end() -> None:
    words = [Word("one", 500, 600, 0.9), Word("two", 1_190, 1_300, 0.9)]
    moved = timed(words, [(100, 1_500)], floor_ms=520, known_ms=1_250, until_ms=1_200)
    assert [(word.start_ms, word.end_ms) for word in moved] == [(520, 600), (1_110, 1_200)]
