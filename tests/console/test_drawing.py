"""`console.drawing`: paths that stay within their picture."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from console.drawing import QUIETEST, loudest, samples, speech, waveform
from tests.speech import BECKETT, clip_pcm


def points(path: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in re.findall(r"[ML](\d+) ([\d.]+)", path)]


def test_a_real_clip_fills_its_picture_and_stays_in_it():
    sound = samples(clip_pcm(BECKETT))
    path = waveform(sound, 1_000, 4_000, 500, loudest(sound), 80)
    xs, ys = zip(*points(path), strict=True)
    assert len(xs) == 2 * 500
    assert min(xs) >= 1_000
    assert max(xs) <= 4_000
    assert min(ys) >= 0
    assert max(ys) <= 80
    assert max(ys) - min(ys) > 40


@given(st.lists(st.integers(-32768, 32767), max_size=200), st.integers(1, 50))
def test_any_sound_stays_within(values, columns):
    sound = np.array(values, "<i2")
    for _, y in points(waveform(sound, 0, 1_000, columns, loudest(sound), 72)):
        assert 0 <= y <= 72


def test_where_there_is_no_sound_there_is_no_path():
    assert waveform(samples(b""), 0, 1_000, 10, 1.0, 72) == ""
    assert waveform(samples(bytes(100)), 5_000, 6_000, 10, 1.0, 72) == ""
    assert samples(b"\1\2\3").tolist() == [513]


def test_silence_is_not_blown_up():
    assert loudest(samples(bytes(1_000))) == QUIETEST
    assert loudest(np.array([-32768], "<i2")) == 1.0


def test_the_highest_probability_of_a_column_is_what_is_seen():
    hops = [(32 * number, 0.9 if number == 7 else 0.1) for number in range(100)]
    ys = [y for _, y in points(speech(hops, 0, 3_200, 20, 10))]
    assert min(ys) == pytest.approx(2.0)
    assert speech(hops, 4_000, 5_000, 20, 10) == ""
    assert speech(hops[:1], 0, 100, 20, 10) == ""
