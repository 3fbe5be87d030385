"""Who is recorded: nobody, unless the operator wants it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingress.consent import Policy, Record

told = st.none() | st.booleans()


@given(told, told, st.floats(0, 1))
def test_off_is_off(key, asked, draw):
    assert Policy(Record.OFF, sample=1.0).why(key, asked, draw) == ""


@given(st.sampled_from(Record), told, st.floats(0, 1), st.booleans())
def test_whoever_says_no_is_not_recorded(record, other, draw, by_key):
    key, asked = (False, other) if by_key else (other, False)
    assert Policy(record, sample=1.0).why(key, asked, draw) == ""


@pytest.mark.parametrize(
    "record,key,asked,why",
    [
        (Record.KEYS, None, None, ""),
        (Record.KEYS, True, None, "key"),
        (Record.KEYS, None, True, ""),
        (Record.ASK, None, None, ""),
        (Record.ASK, True, True, "key"),
        (Record.ASK, None, True, "asked"),
        (Record.ALL, None, None, "all"),
        (Record.ALL, True, None, "all"),
    ],
)
def test_each_level_of_consent(record, key, asked, why):
    assert Policy(record).why(key, asked, 0.0) == why


def test_the_others_are_sampled():
    policy = Policy(Record.KEYS, sample=0.25)
    assert [policy.why(None, None, draw) for draw in (0.0, 0.249, 0.25, 1.0)] == [
        "sampled",
        "sampled",
        "",
        "",
    ]
    assert Policy(Record.ASK, sample=1.0).why(None, True, 0.5) == "asked"
