"""What is unfinished, said as people say it and written as models write it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.completeness import unfinished


@pytest.mark.parametrize(
    "text",
    [
        "My number is.",
        "My number is 555.",
        "My phone number is 555-123.",
        "You can reach me at 555 123.",
        "Four, one, five.",
        "My zip code is 941.",
        "The card is 4242 4242 4242.",
        "It is spelled B.",
        "B-E-C.",
        "My name is A, N.",
        "My email is john.",
        "My email is john at.",
        "Write to john@.",
        "I live at 123.",
        "My address is.",
        "I would like a coffee and.",
        "Please send it to my.",
        "www dot.",
    ],
)
def test_it_goes_on(text: str) -> None:
    assert unfinished(text.split())


@pytest.mark.parametrize(
    "text",
    [
        "",
        "...",
        "Yes.",
        "The answer is 42.",
        "It was 1984.",
        "I have two.",
        "I counted 1, 2, 3, 4, 5, 6, 7, 8, 9, 10.",
        "My phone number is 555-123-4567.",
        "My zip code is 94110.",
        "The card is 4242 4242 4242 4242.",
        "Please call the number.",
        "I need a code.",
        "I live at 123 Main Street.",
        "My email is john at gmail dot com.",
        "My email is john@gmail.com.",
        "I sent you an email.",
        "It was you and I.",
        "We go with plan A.",
        "That is what it is.",
        "いろはにほへと。",
        "قال نعم؟",
    ],
)
def test_it_is_over(text: str) -> None:
    assert not unfinished(text.split())


@given(
    st.lists(st.text(max_size=12) | st.sampled_from(["number", "is", "555.", "email", "B.", "at", "1", "-"]))
)
def test_any_words_are_judged_whatever_mark_stands_behind_them(words: list[str]) -> None:
    assert unfinished([f"{word}." for word in words]) is unfinished(words)
