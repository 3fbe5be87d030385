"""`cli.bench_words`: what counts as the same, and errors over words or signs."""

import pytest

from cli import spoken
from cli.bench_words import NUMERALS, normalised, rate, unit


@pytest.mark.parametrize(
    "text,words",
    [
        ("Hello,  World!", "hello world"),
        ("It's 11 o\u2019clock", "it's 11 o'clock"),
        ("well-known; (so)", "well known so"),
        ("One, 2, THREE", "1 2 3"),
        ("...", ""),
    ],
)
def test_normalised(text, words) -> None:
    assert normalised(text) == words


@pytest.mark.parametrize(
    "language,text,words",
    [
        ("es", "\u00bfQu\u00e9? \u00a1Uno, dos!", "qu\u00e9 1 2"),
        ("fr", "L\u2019homme \u00ab dit \u00bb", "l'homme dit"),
        (
            "ja",
            "\u3053\u3093\u306b\u3061\u306f\u3001\u4e16\u754c\u3002",
            "\u3053 \u3093 \u306b \u3061 \u306f \u4e16 \u754c",
        ),
        ("zh", "\u4e00\u4e8c \u5341\u3002", "1 2 1 0"),
        ("zh", "1, 2, 10", "1 2 1 0"),
        ("hi", "\u090f\u0915 \u0926\u094b.", "1 2"),
    ],
)
def test_normalised_in_other_languages(language, text, words) -> None:
    assert normalised(text, language) == words


@pytest.mark.weights
@pytest.mark.parametrize("language", NUMERALS)
def test_counting_to_ten_is_the_same_in_words_and_in_numerals(language) -> None:
    said = spoken.read(language, spoken.RECORDINGS[language][1]).words
    assert rate([said], ["1, 2, 3, 4, 5, 6, 7, 8, 9, 10."], [language]) == 0.0


def test_a_rate_counts_errors_over_reference_words() -> None:
    assert rate(["One two three four."], ["one two THREE five"]) == 25.0
    assert (
        rate(["one two", "three four five six seven eight"], ["one", "three four five six seven eight"])
        == 12.5
    )
    assert rate(["one"], [""]) == 100.0
    assert rate([""], [""]) == 0.0


def test_scripts_without_spaces_are_counted_by_signs() -> None:
    assert (unit("ja"), unit("pl")) == ("character", "word")
    assert rate(["\u4f60\u597d\u4e16\u754c"], ["\u4f60\u597d \u4e16\u4ecb"], ["zh"]) == 25.0
    assert (
        rate(["\u4f60\u597d\u4e16\u754c", "one two"], ["\u4f60\u597d\u4e16\u754c", "one"], ["zh", "en"])
        == 16.67
    )
