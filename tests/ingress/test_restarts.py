"""A converter that begins anew where `newest` says, and is given what came after it again, goes on as the first one."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingress.audio import Converter
from ingress.restarts import Restarts


def speech(samples: int) -> bytes:
    noise = np.random.default_rng(7).normal(0, 2000, samples)
    return np.clip(np.rint(noise), -32768, 32767).astype("<i2").tobytes()


@settings(max_examples=40)
@given(
    st.sampled_from([8_000, 16_000, 24_000, 44_100, 48_000]),
    st.lists(st.tuples(st.integers(100, 9_000), st.booleans()), min_size=1, max_size=60),
    st.data(),
)
def test_what_follows_is_what_would_have_followed(rate: int, sizes: list[tuple[int, bool]], data):
    """Of each message its size in bytes, and whether an order cuts the audio behind it."""
    audio = speech(sum(size for size, _ in sizes))
    ends = np.cumsum([size for size, _ in sizes])
    messages = [audio[end - size : end] for end, (size, _) in zip(ends, sizes, strict=True)]
    stop = data.draw(st.integers(1, len(sizes)))
    whole, restarts, out = Converter(rate), Restarts(rate != 16_000), b""
    for number, (message, (_, cut)) in enumerate(zip(messages, sizes, strict=True), 1):
        if number == stop + 1:
            point, position = restarts.newest(whole.received, rate), whole.position
        out += whole.convert(message) + (whole.flush() if cut else b"")
        restarts.took(number, int(ends[number - 1]), whole)
    if stop == len(sizes):
        return
    anew = Converter(rate)
    anew.go_on(point.received, point.position)
    assert point.audio_bytes == (ends[point.messages - 1] if point.messages else 0)
    for message, (_, cut) in zip(messages[point.messages : stop], sizes[point.messages : stop], strict=True):
        anew.convert(message)
        if cut:
            anew.flush()
    assert abs(anew.position - position) <= 1
    anew.position, rest = position, b""
    for message, (_, cut) in zip(messages[stop:], sizes[stop:], strict=True):
        rest += anew.convert(message) + (anew.flush() if cut else b"")
    wanted = np.frombuffer(out, "<i2")[position:].astype(float)
    heard = np.frombuffer(rest, "<i2").astype(float)
    assert abs(len(heard) - len(wanted)) <= 1
    if rate in (8_000, 16_000, 48_000) and len(wanted) > 400:  # others may lie between samples
        assert min(difference(wanted, heard, shift) for shift in (-1, 0, 1)) < 0.05


def difference(wanted: np.ndarray, heard: np.ndarray, shift: int) -> float:
    """How loud the difference is, of the loudness of all, with one of them so many samples later."""
    length = min(len(wanted), len(heard)) - 2
    one, other = wanted[1 : 1 + length - 1], heard[1 + shift : 1 + shift + length - 1]
    size = min(len(one), len(other))
    return float(
        np.sqrt(np.mean((one[:size] - other[:size]) ** 2)) / max(1.0, np.sqrt(np.mean(one[:size] ** 2)))
    )


def test_plain_audio_begins_anew_at_once():
    audio, restarts = Converter(16_000), Restarts(False)
    audio.convert(bytes(320))
    restarts.took(1, 320, audio)
    point = restarts.newest(audio.received, 16_000)
    assert (point.messages, point.audio_bytes, point.received, point.position) == (1, 320, 160, 160)


def test_nobody_begins_in_the_middle_of_a_sample():
    audio, restarts = Converter(16_000), Restarts(False)
    for number, size in enumerate((320, 321, 321), 1):
        audio.convert(bytes(size))
        restarts.took(number, 0, audio)
        wanted = {1: 1, 2: 1, 3: 3}[number]
        assert restarts.newest(audio.received, 16_000).messages == wanted


@pytest.mark.parametrize("rate", [8_000, 48_000])
def test_what_was_long_ago_is_not_remembered(rate: int):
    audio, restarts = Converter(rate), Restarts(True)
    for number in range(1, 2_000):
        audio.convert(bytes(rate // 50))
        restarts.took(number, number * rate // 50, audio)
    assert len(restarts._points) < 40
    assert 1_999 - restarts.newest(audio.received, rate).messages in (25, 26)
