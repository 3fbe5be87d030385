"""The open audio of one slot: positions stay exact, and words are neither lost nor doubled."""

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from workers.recognizer import NO_FLUSH, SlotOptions
from workers.window import SAID_CHARACTERS, SAMPLES_PER_MS, Window
from workers.words import MIN_WORD_MS, Word

HOP = 512
HOP_MS = HOP // SAMPLES_PER_MS


def ramp(begin: int, count: int) -> NDArray[np.float32]:
    """Samples that tell their own position."""
    return np.arange(begin, begin + count, dtype=np.float32)


def word(text: str, start_ms: int, end_ms: int, tokens: int = 1) -> Word:
    return Word(text, start_ms, end_ms, 0.9, tokens)


def guess(window: Window, *words: Word) -> None:
    """A hypothesis: the tail, spelled with as many numbered tokens as its words have."""
    window.tail = list(words)
    window.tail_tokens = list(range(sum(each.tokens for each in words)))


# --- audio


@given(st.lists(st.tuples(st.integers(0, 5000), st.floats(0, 1)), max_size=30), st.integers(0, 100_000))
def test_samples_stay_at_their_positions(moves: list[tuple[int, float]], origin_ms: int) -> None:
    window = Window(origin_ms)
    for count, share in moves:
        end = window.end
        window.append(ramp(end, count))
        assert window.end == end + count
        cut = window.start + int(share * (window.end - window.start))
        window.cut(cut)
        assert window.start == cut
        assert window.end == end + count
        assert np.array_equal(window.audio(window.start, window.end), ramp(cut, window.end - cut))


def test_cuts_outside_the_window_stay_inside() -> None:
    window = Window()
    window.append(ramp(0, 1000))
    window.cut(400)
    window.cut(100)
    assert (window.start, window.end) == (400, 1000)
    window.cut(5000)
    assert (window.start, window.end) == (1000, 1000)
    window.append(ramp(1000, 10))
    assert window.audio(1000, 1010)[0] == 1000


@given(st.integers(0, 10_000_000), st.integers(0, 10_000_000))
def test_times_and_positions_are_the_same(origin_ms: int, after_ms: int) -> None:
    window = Window(origin_ms)
    position = window.position(origin_ms + after_ms)
    assert position == after_ms * SAMPLES_PER_MS
    assert window.ms(position) == origin_ms + after_ms
    assert window.position(origin_ms - 1) == 0


# --- speech


@given(st.lists(st.booleans(), max_size=60))
def test_stretches_of_speech_are_those_of_the_hops(voiced: list[bool]) -> None:
    window = Window()
    for one in voiced:
        window.hear(HOP, one)
    assert window.heard == HOP * len(voiced)
    found = [False] * len(voiced)
    for begin, end in window.speech:
        assert begin < end
        found[begin // HOP : end // HOP] = [True] * ((end - begin) // HOP)
    assert found == voiced
    gaps = pairwise(window.speech)
    assert all(mine[1] < theirs[0] for mine, theirs in gaps)


def test_a_cut_forgets_speech_before_it() -> None:
    window = Window()
    for voiced in (True, False, True, True):
        window.append(ramp(window.end, HOP))
        window.hear(HOP, voiced)
    window.cut(HOP)
    assert window.speech == [(2 * HOP, 4 * HOP)]


# --- times of words


def speech(*hops: bool) -> Window:
    window = Window()
    for voiced in hops:
        window.hear(HOP, voiced)
    return window


def times(words: list[Word]) -> list[tuple[int, int]]:
    return [(each.start_ms, each.end_ms) for each in words]


def test_a_word_begins_where_speech_sets_in_again() -> None:
    window = speech(*[True] * 10, *[False] * 20, *[True] * 10)
    words = window.timed([word("one", 0, 300), word("two", 330, 1100)])
    assert times(words) == [(0, 320), (960, 1280)]


def test_a_word_all_in_silence_moves_to_the_next_speech() -> None:
    window = speech(*[False] * 20, *[True] * 10)
    assert times(window.timed([word("the", 500, 600), word("fox", 800, 900)])) == [(640, 740), (800, 960)]
    assert times(window.timed([word("the", 500, 600), word("fox", 650, 900)])) == [(500, 640), (650, 960)]
    # Only the first of a turn is known to belong to what comes.
    words = window.timed([word("the", 100, 200), word("red", 500, 600), word("fox", 650, 900)])
    assert times(words)[1:] == [(500, 600), (650, 960)]


def test_a_first_word_before_speech_stays_where_the_next_one_does_not_move() -> None:
    window = speech(*[False] * 9, True, False, True)
    assert times(window.timed([word("a", 0, 20), word("b", 20, 353)]))[0] == (0, 20)


def test_the_last_word_before_a_silence_lasts_as_long_as_the_speech() -> None:
    window = speech(*[True] * 10, *[False] * 10)
    assert times(window.timed([word("one", 0, 150)])) == [(0, 320)]
    assert times(window.timed([word("one", 0, 150), word("two", 200, 260)])) == [(0, 150), (200, 320)]


@given(
    st.lists(st.booleans(), min_size=1, max_size=60),
    st.lists(st.tuples(st.integers(0, 300), st.integers(MIN_WORD_MS, 400)), max_size=8),
)
def test_mended_words_stay_apart_and_in_order(hops: list[bool], spaced: list[tuple[int, int]]) -> None:
    window, words, at_ms = speech(*hops), [], 0
    for gap, length in spaced:
        words.append(word("w", at_ms + gap, at_ms + gap + length))
        at_ms = words[-1].end_ms
    mended = window.timed(words)
    assert [each.text for each in mended] == [each.text for each in words]
    for each in mended:
        assert each.end_ms - each.start_ms >= MIN_WORD_MS
    for one, other in pairwise(mended):
        assert one.end_ms <= other.start_ms


# --- words


@given(
    st.lists(st.integers(1, 4), max_size=12),
    st.lists(st.tuples(st.sampled_from(["settle", "forget"]), st.integers(0, 12)), max_size=12),
)
def test_words_and_their_tokens_stay_together(lengths: list[int], moves: list[tuple[str, int]]) -> None:
    window = Window()
    guess(window, *(word(f"w{n}", 100 * n, 100 * n + 50, count) for n, count in enumerate(lengths)))
    every = list(window.tail)
    told: list[Word] = []
    forgotten = 0
    for move, count in moves:
        if move == "settle":
            told += window.settle(count)
        else:
            forgotten += min(count, len(window.prefix))
            window.forget_words(count)
        assert told + window.tail == every
        assert window.prefix == told[forgotten:]
        tokens = [*window.prefix_tokens, *window.tail_tokens]
        assert len(window.prefix_tokens) == sum(each.tokens for each in window.prefix)
        assert tokens == list(range(sum(lengths)))[sum(lengths) - len(tokens) :]


def test_after_a_flush_the_next_turn_begins_there_with_the_words_after_it() -> None:
    window = Window(origin_ms=1000)
    for _ in range(40):
        window.append(ramp(window.end, HOP))
        window.hear(HOP, True)
    window.last_speech = window.decoded_to = window.heard
    window.speaking, window.flush_ms, window.end_of_turn = True, 1500, 0.7
    guess(
        window,
        word("a", 1000, 1200),
        word("b", 1450, 1600, 2),
        word("c", 1700, 1800, 3),
        word("d", 1900, 2000),
    )
    window.settle(3)
    window.finish(1500)
    assert (window.context, window.told) == (0, 1)
    assert [each.text for each in window.prefix] == ["c"]
    assert window.prefix_tokens == [3, 4, 5]
    assert (window.tail, window.tail_tokens) == ([], [])
    assert window.ms(window.start) == 1500
    assert window.decoded_to == window.start  # what comes after it is to be decoded again
    assert window.last_speech > window.decoded_to
    assert (window.flush_ms, window.end_of_turn) == (NO_FLUSH, 0.0)
    assert window.end == 40 * HOP


def test_after_a_flush_at_the_end_nothing_is_left() -> None:
    window = Window()
    for voiced in (True, True, False):
        window.append(ramp(window.end, HOP))
        window.hear(HOP, voiced)
    window.last_speech = 2 * HOP
    window.decoded_to = window.heard
    guess(window, word("a", 0, 60))
    window.settle(1)
    window.finish(3 * HOP_MS)
    assert window.start == window.end
    assert (window.prefix, window.prefix_tokens, window.last_speech) == ([], [], 0)


def test_after_a_flush_a_little_of_the_turn_before_may_stay_as_context() -> None:
    window = Window()
    for _ in range(100):
        window.append(ramp(window.end, HOP))
        window.hear(HOP, True)
    window.last_speech = window.decoded_to = window.heard
    guess(window, *(word(f"w{n}", 400 * n, 400 * n + 300, n + 1) for n in range(6)))
    window.settle(6)
    window.finish(2000, context_ms=900)
    assert [each.text for each in window.prefix] == ["w3", "w4", "w5"]  # two of the turn before, one of this
    assert (window.context, window.told) == (2, 1)
    assert len(window.prefix_tokens) == 4 + 5 + 6
    assert window.ms(window.start) == 1100  # a lead-in before w3, not into w2
    assert window.decoded_to == window.turn_from == window.position(2000)
    assert window.voiced_ms == 3200 - 2000
    window.drop_context()
    assert [each.text for each in window.prefix] == ["w5"]
    assert (window.context, window.told, window.start) == (0, 1, window.turn_from)


# --- what was said


def finished(window: Window, text: str, at_ms: int) -> None:
    """A turn of one word that ends at `at_ms`."""
    window.append(ramp(window.end, window.position(at_ms) - window.end))
    guess(window, word(text, at_ms - 200, at_ms - 100))
    window.settle(1)
    window.finish(at_ms)


def test_texts_of_the_last_turns_are_kept_with_their_language() -> None:
    window = Window(options=SlotOptions(previous_turns=2))
    for number, text in enumerate(["One.", "Two.", "Three."], start=1):
        window.belief.language = "en"
        finished(window, text, 1_000 * number)
    assert window.said == [("en", "Two."), ("en", "Three.")]
    finished(window, "Four.", 4_000)
    assert window.said[-1] == ("", "Four.")


def test_what_is_known_already_is_not_kept_twice() -> None:
    window = Window(options=SlotOptions(previous_turns=5), said=[("", "One.")], said_to_ms=1_000)
    finished(window, "One.", 1_000)
    finished(window, "Two.", 2_000)
    assert window.said == [("", "One."), ("", "Two.")]


def test_a_word_behind_the_end_belongs_to_the_turn_after() -> None:
    window = Window(options=SlotOptions(previous_turns=5))
    window.append(ramp(0, 16_000 * 3))
    guess(window, word("One.", 100, 400), word("Two.", 1_200, 1_500))
    window.settle(2)
    window.finish(1_000)
    window.finish(2_000)
    assert window.said == [("", "One."), ("", "Two.")]


def test_little_is_kept_of_what_was_said() -> None:
    window = Window(options=SlotOptions(previous_turns=100))
    for number in range(1, 30):
        finished(window, "x" * 150, 1_000 * number)
    assert SAID_CHARACTERS <= sum(len(text) for _, text in window.said) <= SAID_CHARACTERS + 150
