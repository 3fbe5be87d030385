"""Tokens to words, times from attention, agreement, guards. The vocabulary here is small and our own."""

import math
import random
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workers import words as written
from workers.words import (
    LOOP_PHRASE_TOKENS,
    LOOP_TIMES,
    LOOP_TOKENS,
    MIN_WORD_MS,
    TWICE_TOKENS,
    Word,
    _median,
    _path,
    agreed,
    align,
    fit,
    goes_on,
    heard_once,
    join,
    repeats,
    spaceless,
    spell,
    token_cap,
    twice,
    unformatted,
)

SPACE = "\N{LOWER ONE EIGHTH BLOCK}"
VOCABULARY = [
    "",
    f"{SPACE}Hello",
    "lo",
    ",",
    f"{SPACE}world",
    ".",
    f"{SPACE}don",
    "'",
    "t",
    f"{SPACE}-",
    f'{SPACE}"',
    "I",
]
VOCABULARY += [f"{SPACE}3", "5", f"{SPACE}&", SPACE, "?!"]
PIECES = [text.encode() for text in VOCABULARY] + [bytes([byte]) for byte in range(256)]
BYTES = len(VOCABULARY)  # the first of the tokens that are raw bytes


def tokens_of(*texts):
    return [VOCABULARY.index(text.replace(" ", SPACE)) for text in texts]


def spelled(tokens, probabilities=None, step_ms=100):
    starts = np.arange(len(tokens)) * float(step_ms)
    return spell(PIECES, tokens, starts, starts + step_ms, probabilities or [0.9] * len(tokens))


def words(*texts):
    return [Word(text, 100 * place, 100 * place + 80, 0.9) for place, text in enumerate(texts)]


# ---------------------------------------------------------------------------------------------------------------------
# spell


def test_a_word_begins_where_a_piece_begins_with_a_space():
    found = spelled(tokens_of(" Hello", " world", "lo"))
    assert [word.text for word in found] == ["Hello", "worldlo"]
    assert [(word.start_ms, word.end_ms) for word in found] == [(0, 100), (100, 300)]


def test_punctuation_joins_the_word_before_without_its_time_or_its_doubt():
    [hello, world] = spelled(tokens_of(" Hello", ",", " world", "."), [0.8, 0.01, 0.6, 0.02])
    assert (hello.text, hello.end_ms, hello.tokens) == ("Hello,", 100, 2)
    assert (world.text, world.start_ms, world.end_ms) == ("world.", 200, 300)
    assert hello.confidence == pytest.approx(0.8)
    assert world.confidence == pytest.approx(0.6)


def test_a_mark_between_spaces_is_no_word_but_a_said_sign_is():
    assert [word.text for word in spelled(tokens_of(" Hello", " -", " world"))] == ["Hello-", "world"]
    assert [word.text for word in spelled(tokens_of(" Hello", " &", " world"))] == ["Hello", "&", "world"]


def test_an_opening_quote_belongs_to_the_word_that_follows():
    assert [word.text for word in spelled(tokens_of(" Hello", ",", ' "', "I", " don", "'", "t"))] == [
        "Hello,",
        '"I',
        "don't",
    ]


@pytest.mark.parametrize("texts", [[], [""], ["."], [" -", "?!"], ["", " ", ""]])
def test_without_a_said_token_there_is_no_word(texts):
    assert spelled(tokens_of(*texts)) == []


def test_confidence_is_the_geometric_mean_over_the_tokens_of_the_word():
    [word] = spelled(tokens_of(" Hello", "lo"), [0.9, 0.4])
    assert word.confidence == pytest.approx(math.sqrt(0.9 * 0.4))


@pytest.mark.parametrize("odd", [math.nan, -1.0, 0.0, 7.0, math.inf])
def test_confidence_stays_a_probability_whatever_comes_in(odd):
    [word] = spelled(tokens_of(" Hello", "lo"), [odd, 0.5])
    assert 0 <= word.confidence <= 1


def test_characters_spelled_in_bytes_survive_half_ones_wait_and_broken_ones_are_replaced():
    tokens = [*tokens_of(" Hello"), *(BYTES + byte for byte in "é€".encode())]
    assert spelled(tokens)[0].text == "Helloé€"
    [held] = spelled(tokens[:-1])
    assert (held.text, held.tokens) == ("Helloé", 5)
    broken = [*tokens[:-1], *tokens_of("lo")]
    assert spelled(broken)[0].text == "Helloé\N{REPLACEMENT CHARACTER}lo"
    assert spelled([BYTES + 0xE6]) == []  # no word yet


def units(*pieces):
    """Texts of the words that these pieces, a token each, are spelled into."""
    found = [piece if isinstance(piece, bytes) else piece.encode() for piece in pieces]
    places = np.arange(len(found)) * 100.0
    return [word.text for word in spell(found, range(len(found)), places, places + 100, [0.9] * len(found))]


def test_without_spaces_a_word_is_a_token_or_a_few():
    assert units("こ", "んにちは", "世", "界", "。") == ["こ", "んにちは", "世", "界。"]
    assert units("天", "地", "、", "宇", "宙") == ["天", "地、", "宇", "宙"]
    assert units("リ", "ュ", "ー", "人", "々") == ["リュー", "人々"]  # no unit begins with these
    assert units("3", "月", "に", "i", "Phone", "を") == ["3", "月", "に", "iPhone", "を"]
    assert units("世"[:1].encode()[:2], "世".encode()[2:], "界") == ["世", "界"]  # a character in two tokens


def test_letters_of_thai_make_units_of_a_few():
    found = units(*"สวัสดีครับเพื่อน")
    assert "".join(found) == "สวัสดีครับเพื่อน"
    assert all(3 <= len(unit) <= 8 for unit in found[:-1])
    assert not any(unit[-1] in "เแโใไ" for unit in found)
    assert len(found) >= 3


def test_scripts_with_spaces_are_not_cut():
    assert units(" na", "mas", "te") == ["namaste"]
    assert units(" न", "म", "स्", "ते", " दु", "नि", "या") == ["नमस्ते", "दुनिया"]
    assert units(" 안", "녕", "하세요", " 세계") == ["안녕하세요", "세계"]


def test_tokens_outside_the_vocabulary_are_skipped():
    [word] = spelled([99_999, *tokens_of(" Hello"), -5])
    assert (word.text, word.tokens) == ("Hello", 3)


def test_words_keep_apart_where_token_times_collide():
    tokens = tokens_of(" Hello", " world", " Hello")
    found = spell(PIECES, tokens, [500, 500, 480], [500, 505, 500], [0.9] * 3)
    assert [(word.start_ms, word.end_ms) for word in found] == [(500, 520), (520, 540), (540, 560)]


token_lists = st.lists(st.integers(-1, len(PIECES)), max_size=40)
times = st.floats(0, 60_000) | st.just(math.nan)


@settings(max_examples=max(400, settings().max_examples))
@given(token_lists, st.data())
def test_words_are_sound_whatever_the_tokens(tokens, data):
    starts = data.draw(st.lists(times, min_size=len(tokens), max_size=len(tokens)))
    ends = data.draw(st.lists(times, min_size=len(tokens), max_size=len(tokens)))
    doubts = data.draw(st.lists(st.floats(), min_size=len(tokens), max_size=len(tokens)))
    found = spell(PIECES, tokens, starts, ends, doubts)
    if found:
        assert sum(word.tokens for word in found) == len(tokens)
    for word in found:
        assert word.text.strip() == word.text != ""
        assert word.end_ms - word.start_ms >= MIN_WORD_MS
        assert 0 <= word.confidence <= 1
    for earlier, later in pairwise(found):
        assert earlier.end_ms <= later.start_ms


@settings(max_examples=max(300, settings().max_examples))
@given(token_lists, st.data())
def test_a_prefix_of_words_is_spelled_by_its_tokens(tokens, data):
    found = spelled(tokens)
    count = data.draw(st.integers(0, len(found)))
    prefix = tokens[: sum(word.tokens for word in found[:count])]
    assert [word.text for word in spelled(prefix)] == [word.text for word in found[:count]]


# ---------------------------------------------------------------------------------------------------------------------
# fit, join, unformatted


word_lists = st.lists(st.tuples(st.integers(0, 3000), st.integers(20, 500)), max_size=12).map(
    lambda spans: [
        Word(f"w{n}", start, start + length, 0.5) for n, (start, length) in enumerate(sorted(spans))
    ]
)


@settings(max_examples=max(300, settings().max_examples))
@given(word_lists, st.integers(0, 2000), st.integers(0, 3000))
def test_fitted_words_lie_in_their_bounds_and_apart(given_words, after_ms, room_ms):
    until_ms = after_ms + max(room_ms, MIN_WORD_MS * len(given_words))
    found = fit(given_words, after_ms, until_ms)
    assert [word.text for word in found] == [word.text for word in given_words]
    edges = [after_ms, *(edge for word in found for edge in (word.start_ms, word.end_ms)), until_ms]
    assert edges == sorted(edges)
    assert all(word.end_ms - word.start_ms >= MIN_WORD_MS for word in found)


def test_words_that_fit_are_left_as_they_are():
    assert fit(words("a", "b"), 0, 1000) == words("a", "b")


def test_join_puts_one_space_between():
    assert join(["Please", "call", "Anna."]) == "Please call Anna."
    assert join([]) == ""


@pytest.mark.parametrize(
    "texts, text",
    [
        (["こ", "んにちは", "世", "界。"], "こんにちは世界。"),
        (["3", "月", "に", "iPhone", "を"], "3月にiPhoneを"),
        (["Hello", "world", "你", "好"], "Hello world你好"),
        (["สวัสดี", "ครับ", "Facebook"], "สวัสดีครับ Facebook"),
        (["안녕하세요", "세계"], "안녕하세요 세계"),
        (["नमस्ते", "दुनिया"], "नमस्ते दुनिया"),
        (["", "a", "", "b"], "a b"),
    ],
)
def test_a_script_without_spaces_is_joined_without(texts, text):
    assert join(texts) == text


@pytest.mark.parametrize(
    "text, plain",
    [
        ("Hello,", "hello"),
        ("Anna.", "anna"),
        ("don't", "don't"),
        ("don\N{RIGHT SINGLE QUOTATION MARK}t", "don\N{RIGHT SINGLE QUOTATION MARK}t"),
        ("'em", "em"),
        ("well-known,", "well-known"),
        ("3.5.", "3.5"),
        ("10:30?", "10:30"),
        ("1,000", "1,000"),
        ("U.S.", "us"),
        ('"Yes!"', "yes"),
        ("50%", "50%"),
        ("&", "&"),
        ("...", "..."),
    ],
)
def test_unformatted(text, plain):
    assert unformatted(text) == plain


@settings(max_examples=max(300, settings().max_examples))
@given(st.text(min_size=1, max_size=12))
def test_unformatted_never_loses_a_word_and_is_idempotent_on_plain_text(text):
    plain = unformatted(text)
    assert plain
    if plain.isascii():
        assert unformatted(plain) == plain


# ---------------------------------------------------------------------------------------------------------------------
# agreement


@pytest.mark.parametrize(
    "previous, new, count",
    [
        ("", "we went", 0),
        ("we went", "", 0),
        ("we went home", "we went home", 3),
        ("we went home", "we want home", 1),
        ("We went", "we went", 0),
        (
            "we went home.",
            "we went home and slept",
            3,
        ),  # the full stop was a guess at the end of what was heard
        ("we went home", "we went home, and", 3),
        ("we went home", "we went home.", 2),  # no word after it: the mark is still a guess
        ("we went home.", "we went home", 2),
        ("we went. home", "we went home and", 1),  # not the last word of the hypothesis before
        ("we went home.", "we went Home and", 2),
    ],
)
def test_agreement(previous, new, count):
    assert agreed(words(*previous.split()), words(*new.split())) == count


texts = st.lists(st.sampled_from(["a", "b", "a.", "B", "b,"]), max_size=8)


@settings(max_examples=max(400, settings().max_examples))
@given(texts, texts)
def test_agreement_confirms_only_equal_words_but_for_one_last_mark(previous, new):
    count = agreed(words(*previous), words(*new))
    assert 0 <= count <= min(len(previous), len(new))
    differing = [place for place in range(count) if previous[place] != new[place]]
    assert differing in ([], [len(previous) - 1])
    if differing:
        assert previous[-1].rstrip(".,") == new[count - 1].rstrip(".,")
        assert len(new) > count


@given(texts)
def test_a_hypothesis_agrees_with_itself(same):
    assert agreed(words(*same), words(*same)) == len(same)


# ---------------------------------------------------------------------------------------------------------------------
# guards


@pytest.mark.parametrize("said", [[7] * 3, [7] * 6, [1, 2] * 3, [1, 2, 3] * 3, list(range(50))])
def test_what_people_say_is_no_loop(said):
    assert repeats([40, 41, *said, 42, 43]) is None


@pytest.mark.parametrize("phrase", [[7], [7, 8], [7, 8, 9], [1, 2, 1, 3], list(range(8))])
def test_a_loop_is_found_and_its_phrase_said_once(phrase):
    lead = [40, 41, 42]
    assert repeats([*lead, *phrase * 12]) == len(lead) + len(phrase)


@settings(max_examples=max(300, settings().max_examples))
@given(st.lists(st.integers(0, 3), max_size=60))
def test_a_loop_is_reported_exactly_where_there_is_one(tokens):
    def looping(start, phrase):
        span = max(phrase * LOOP_TIMES, LOOP_TOKENS)
        return len(tokens) >= start + span and all(
            tokens[place] == tokens[place + phrase] for place in range(start, start + span - phrase)
        )

    phrases = range(1, LOOP_PHRASE_TOKENS + 1)
    found = [start + phrase for phrase in phrases for start in range(len(tokens)) if looping(start, phrase)]
    assert repeats(tokens) == min(found, default=None)


def test_the_cap_grows_with_the_audio_from_a_floor():
    assert [token_cap(seconds) for seconds in (0.0, 0.5, 2.0, 10.0)] == [8, 8, 13, 65]
    assert token_cap(2.0, per_s=20.0) == 40


def test_what_is_said_twice_is_found_where_it_begins_again():
    counting = list(range(20))
    assert twice(counting) is None
    assert twice([*counting, *counting]) == 20
    assert twice([*counting, *counting[:7]]) == 20  # the cap came first
    assert twice([1, 2, 3, 4, 1, 2, 3, 4]) is None  # too short to be a loop
    assert twice([7, 7, *counting[:6], *counting[:6], 9]) == 8


@given(st.lists(st.integers(0, 5), max_size=60))
def test_nothing_is_cut_that_was_not_said_before(tokens):
    start = twice(tokens)
    if start is not None:
        again = tokens[start : start + TWICE_TOKENS]
        assert any(tokens[at : at + TWICE_TOKENS] == again for at in range(start))


# ---------------------------------------------------------------------------------------------------------------------
# times


def stretches(*spans, frames=100, noise=0.02):
    """Attention of tokens that each look at one stretch of frames."""
    attention = np.random.default_rng(5).random((len(spans), frames)) * noise
    for row, (first, last) in enumerate(spans):
        attention[row, first : last + 1] += 1.0
    return attention


def test_tokens_are_found_where_the_decoder_looked_pauses_left_out():
    starts, ends = align(stretches((10, 19), (20, 34), (60, 79)), 20.0, 1000.0)
    np.testing.assert_allclose(starts, [1200, 1400, 2200], atol=60)
    np.testing.assert_allclose(ends, [1400, 1700, 2600], atol=60)


def test_a_stray_glance_does_not_bend_the_path():
    attention = stretches((10, 19), (20, 34), (60, 79))
    attention[0, 90:93] += 1.5
    starts, _ = align(attention, 20.0, 0.0)
    np.testing.assert_allclose(starts, [200, 400, 1200], atol=60)


@settings(max_examples=max(200, settings().max_examples))
@given(st.integers(0, 12), st.integers(1, 40), st.integers(0, 2**32 - 1), st.booleans())
def test_times_are_monotonic_and_inside_the_audio(tokens, frames, seed, broken):
    attention = np.random.default_rng(seed).random((tokens, frames))
    if broken and attention.size:
        attention.flat[0] = np.nan
    starts, ends = align(attention, 24.0, 500.0)
    assert len(starts) == len(ends) == tokens
    assert (starts < ends).all()
    assert (np.diff(starts) >= 0).all()
    assert (np.diff(ends) >= 0).all()
    assert ((starts >= 500.0) & (ends <= 500.0 + 24.0 * frames)).all()


def test_even_attention_is_no_trouble():
    starts, ends = align(np.ones((4, 30)), 24.0, 0.0)
    assert np.isfinite(starts).all()
    assert (starts < ends).all()


@pytest.mark.parametrize("shape", [(3, 0), (3,), (2, 3, 4)])
def test_attention_of_another_shape_is_refused(shape):
    with pytest.raises(ValueError, match="expected"):
        align(np.zeros(shape), 20.0, 0.0)


def cheapest(cost):
    """Dynamic time warping as it is written in books."""
    total = np.full(cost.shape, np.inf)
    for row in range(cost.shape[0]):
        for column in range(cost.shape[1]):
            before = [total[row - 1, column - 1]] if row and column else []
            before += [total[row - 1, column]] if row else []
            before += [total[row, column - 1]] if column else []
            total[row, column] = cost[row, column] + min(before, default=0.0)
    return total[-1, -1]


@settings(max_examples=max(300, settings().max_examples))
@given(st.integers(1, 8), st.integers(1, 14), st.integers(0, 2**32 - 1))
def test_the_path_costs_what_plain_time_warping_finds(tokens, frames, seed):
    cost = np.random.default_rng(seed).normal(size=(tokens, frames))
    first, last = _path(cost)
    assert first[0] == 0
    assert last[-1] == frames - 1
    assert all(step in (0, 1) for step in first[1:] - last[:-1])
    assert sum(cost[row, first[row] : last[row] + 1].sum() for row in range(tokens)) == pytest.approx(
        cheapest(cost)
    )


@pytest.mark.parametrize("frames", [1, 3, 4, 7, 50])
def test_the_median_network_equals_the_median(frames):
    weights = np.random.default_rng(frames).random((3, frames)).astype(np.float32)
    if frames <= 3:
        np.testing.assert_array_equal(_median(weights), weights)
        return
    padded = np.pad(weights, ((0, 0), (3, 3)), mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(padded, 7, axis=1)
    np.testing.assert_array_equal(_median(weights), np.median(windows, axis=2))


@pytest.mark.parametrize(
    "sign, alone", [("日", True), ("カ", True), ("ก", True), ("a", False), ("é", False), ("", False)]
)
def test_scripts_without_spaces_are_known(sign: str, alone: bool) -> None:
    assert spaceless(sign) is alone


# --- what the audio holds


def lasting(*words: tuple[str, int]) -> list[Word]:
    """Words of these lengths, one behind the other."""
    found, at_ms = [], 0
    for text, length_ms in words:
        found.append(Word(text, at_ms, at_ms + length_ms, 0.9))
        at_ms += length_ms
    return found


@pytest.mark.parametrize(
    "words, kept",
    [
        ([("No", 140), ("matter.", 300), ("No", 20), ("matter.", 228)], 2),  # as it was heard
        ([("Fail", 140), ("better.", 160), ("Fail", 20), ("better.", 160), ("fail", 20), ("better", 20)], 2),
        ([("No", 200), ("no", 200), ("no", 200)], 3),  # said three times
        ([("We", 140), ("had", 140), ("everything", 400), ("but", 20), ("everything.", 20)], 5),
        ([("We", 264), ("were", 20), ("all", 20), ("going", 20), ("direct.", 20)], 0),  # made up
        (
            [("Fail", 172), ("better.", 556), ("Fail", 20), ("again,", 20), ("fail", 20)],
            2,
        ),  # behind the speech
        ([("I", 20), ("do.", 200)], 2),
        ([("So", 20), ("so.", 20)], 1),
        ([], 0),
    ],
)
def test_words_that_find_no_time_are_not_believed(words: list[tuple[str, int]], kept: int) -> None:
    assert heard_once(lasting(*words)) == lasting(*words)[:kept]


def test_of_two_the_one_that_finds_time_is_believed() -> None:
    words = lasting(("No", 480), ("matter.", 20), ("No", 140), ("matter.", 160))
    assert [(word.text, word.start_ms) for word in heard_once(words)] == [("No", 500), ("matter.", 640)]


@pytest.mark.parametrize(
    "piece,expected",
    [
        (b"ing", True),
        (b"'re", True),
        (b"'", True),
        ("\N{RIGHT SINGLE QUOTATION MARK}s".encode(), True),
        (b"5", True),
        ("é".encode(), True),
        (b" we", False),
        ("\N{LOWER ONE EIGHTH BLOCK}we".encode(), False),
        (b",", False),
        (b"", False),
        (b"\xe3", False),  # a third of a character
        ("日".encode(), False),
        ("ไ".encode(), False),
    ],
)
def test_what_goes_on_with_a_word(piece: bytes, expected: bool) -> None:
    assert goes_on(piece) is expected


def test_plain_english_takes_a_shorter_way_to_the_same_words() -> None:
    pieces, pick = [b" he", b"llo", b" wor", b"ld", b" a", b"7"], random.Random(4)
    for _ in range(200):
        spelled = pick.choices(pieces, k=pick.randint(1, 8))
        assert written._marked(spelled) == (written._plain(spelled), 0)
