"""How far the steps of a recorded session went, told to the replay."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.recorded import EVENTFUL, FACTS, recording
from wire import strides
from wire.recorded import Stepped, Taken
from wire.recordings import Recording


def stepped(*reached_ms: int) -> Recording:
    ends = [0, *reached_ms]
    steps = [Stepped(float(n), 1, 0.0, 0.0, ends[n], ends[n + 1], 1) for n in range(len(reached_ms))]
    return Recording(FACTS, items=(Taken(0.0, 1, "ada", "m", "", ""), *steps))


def test_strides_are_units_rounded_up():
    assert strides.of(stepped(64, 192, 192, 200, 264)) == bytes([1, 2, 0, 1, 1])
    assert strides.of(recording()) == bytes([1] * 50)


def test_what_is_not_told_whole_is_told_as_far_as_it_goes():
    found = stepped(64, 128, 192, 256)
    broken = replace(found, items=(*found.items[:2], *found.items[3:]))
    assert strides.of(broken) == bytes([1])
    assert strides.of(recording(more=EVENTFUL)) == b"", "two workers"


@given(st.binary(max_size=3_000))
def test_they_travel_as_text(told):
    assert strides.unpack(strides.pack(told)) == told


def test_hours_of_them_fit_and_more_is_left_out():
    hours = bytes([1, 1, 2, 1, 3, 1, 1, 2] * 20_000)
    assert strides.unpack(strides.pack(hours)) == hours
    assert strides.pack(bytes(strides.MAX_STRIDES + 1)) == ""


@pytest.mark.parametrize("text", ["?", "AAAA", strides.pack(bytes(50))[:-6], "A" * 40_001, "é"])
def test_rubbish_is_refused(text):
    with pytest.raises(ValueError, match=r"too long|no strides"):
        strides.unpack(text)


def test_a_small_text_cannot_become_a_large_answer():
    import base64
    import zlib

    bomb = base64.urlsafe_b64encode(zlib.compress(bytes(10_000_000))).decode()
    assert len(bomb) < strides.MAX_TEXT
    with pytest.raises(ValueError, match="no strides"):
        strides.unpack(bomb)
