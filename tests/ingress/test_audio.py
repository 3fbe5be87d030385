"""Streamed == whole, nothing lost, nothing late, nothing that was not there."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingress import audio
from ingress.audio import Converter
from wire.entries import SAMPLE_RATE

RATES = [8_000, 8_001, 11_025, 16_000, 22_050, 24_000, 44_100, 48_000, 96_000]


def tone(rate: int, hertz: float, seconds: float = 2.0, amplitude: float = 16_000.0):
    return np.round(amplitude * np.sin(2 * np.pi * hertz * np.arange(round(rate * seconds)) / rate)).astype(
        "<i2"
    )


def noise(rate: int, seconds: float = 0.5):
    return np.random.default_rng(0).integers(-20_000, 20_000, round(rate * seconds)).astype("<i2")


def streamed(rate: int, pcm: bytes, sizes: list[int] | None = None) -> bytes:
    """`pcm` through a converter in messages of the given sizes, the last one repeated, and flushed."""
    converter, out, start = Converter(rate), b"", 0
    for size in sizes or [len(pcm)]:
        out += converter.convert(pcm[start : start + size])
        start += size
    while start < len(pcm):
        out += converter.convert(pcm[start : start + size])
        start += size
    return out + converter.flush()


def residual_db(rate: int, hertz: float) -> float:
    """How far a converted tone is from the best fitting tone of that frequency, relative to it."""
    out = np.frombuffer(streamed(rate, tone(rate, hertz).tobytes()), "<i2").astype(float)
    middle = slice(SAMPLE_RATE // 4, -SAMPLE_RATE // 4)
    phase = 2 * np.pi * hertz * np.arange(len(out)) / SAMPLE_RATE
    basis = np.stack([np.sin(phase), np.cos(phase)], axis=1)[middle]
    weights, *_ = np.linalg.lstsq(basis, out[middle], rcond=None)
    assert np.hypot(*weights) == pytest.approx(16_000, rel=0.01)
    return float(
        10 * np.log10(np.mean((out[middle] - basis @ weights) ** 2) / np.mean((basis @ weights) ** 2))
    )


@pytest.mark.parametrize("rate", RATES)
@given(sizes=st.lists(st.integers(1, 3_000), min_size=1, max_size=30))
def test_streamed_is_whole(rate: int, sizes: list[int]):
    pcm = noise(rate, 0.2).tobytes()
    assert streamed(rate, pcm, sizes) == streamed(rate, pcm)


@pytest.mark.parametrize("rate", RATES)
def test_as_much_comes_out_as_went_in(rate: int):
    out = streamed(rate, bytes(2 * rate * 3), [2 * (rate // 20)])
    assert abs(len(out) // 2 - 3 * SAMPLE_RATE) <= 1


@pytest.mark.parametrize("rate", RATES)
def test_positions_count_what_was_handed_out(rate: int):
    converter, pcm, position = Converter(rate), noise(rate).tobytes(), 0
    for start in range(0, 8_000, 501):
        position += len(converter.convert(pcm[start : start + 501])) // 2
        assert converter.position == position
    position += len(converter.flush()) // 2
    assert converter.position == position


def test_sixteen_kilohertz_passes_untouched():
    converter, pcm = Converter(SAMPLE_RATE), noise(SAMPLE_RATE).tobytes()
    assert converter.convert(pcm) is pcm
    assert converter.flush() == b""


@pytest.mark.parametrize("rate", RATES)
def test_a_message_comes_out_at_once_but_for_a_short_constant_lag(rate: int):
    converter = Converter(rate)
    pcm = noise(rate, 0.05).tobytes()
    for message in range(1, 41):
        converter.convert(pcm)
        lag_ms = converter.received_s * 1000 - converter.position * 1000 / SAMPLE_RATE
        assert 0 <= lag_ms <= 31, message


@pytest.mark.parametrize("rate", RATES)
def test_received_counts_whole_samples_of_the_client(rate: int):
    converter = Converter(rate)
    for _ in range(7):
        converter.convert(b"\x00\x01\x02")
    assert converter.received == 10
    assert converter.received_s == 10 / rate


@pytest.mark.parametrize(
    "rate,hertz", [(8_000, 440), (8_000, 3_400), (44_100, 1_000), (48_000, 7_000), (96_000, 440)]
)
def test_speech_stays_what_it_was(rate: int, hertz: float):
    assert residual_db(rate, hertz) < -80


@pytest.mark.parametrize(
    "rate,hertz", [(24_000, 10_000), (44_100, 9_000), (48_000, 12_000), (96_000, 40_000)]
)
def test_what_cannot_be_carried_is_gone(rate: int, hertz: float):
    out = np.frombuffer(streamed(rate, tone(rate, hertz).tobytes()), "<i2").astype(int)
    assert np.abs(out[1_000:-1_000]).max() <= 1


@pytest.mark.parametrize("rate", RATES)
def test_silence_stays_silent(rate: int):
    assert not any(streamed(rate, bytes(rate)))


@pytest.mark.parametrize("rate", RATES)
def test_full_scale_is_clipped_and_never_wraps(rate: int):
    """A square wave overshoots in any resampler; its sign must not change where the wave's does not."""
    half = rate // 100
    square = np.where(np.arange(rate) // half % 2, -32_768, 32_767).astype("<i2")
    out = np.frombuffer(streamed(rate, square.tobytes()), "<i2").astype(float)
    middle = np.arange(len(out)) * rate / SAMPLE_RATE % half
    plateau = (middle > half * 0.25) & (middle < half * 0.75)
    wanted = np.where(np.arange(len(out)) * rate / SAMPLE_RATE // half % 2, -1, 1)
    inner = slice(2_000, -2_000)
    assert (np.sign(out) == wanted)[inner][plateau[inner]].all()


def test_a_constant_stays_a_constant():
    out = np.frombuffer(streamed(48_000, np.full(48_000, 12_345, "<i2").tobytes()), "<i2")
    assert np.abs(out[2_000:-2_000].astype(int) - 12_345).max() <= 1


@pytest.mark.parametrize("rate", RATES)
def test_after_a_flush_the_audio_begins_anew(rate: int):
    """Cut by a forced endpoint, the second half is what it would be alone."""
    first, second = noise(rate, 0.3).tobytes(), tone(rate, 300, 0.3).tobytes()
    converter = Converter(rate)
    out = converter.convert(first) + converter.flush()
    assert converter.position == len(out) // 2
    assert converter.flush() == b"", "nothing came in since"
    again = converter.convert(second) + converter.flush()
    assert out == streamed(rate, first)
    assert again == streamed(rate, second)


def test_sessions_that_are_muted_hold_one_silence_together():
    one, other = Converter(SAMPLE_RATE), Converter(SAMPLE_RATE)
    first = one.convert(bytes(1_600))
    assert other.convert(bytes(1_600)) is first
    assert first == bytes(1_600)
    spoken = bytes(1_598) + b"\1\0"
    assert one.convert(spoken) is spoken


def test_so_many_sizes_of_silence_are_kept_and_no_more():
    converter = Converter(SAMPLE_RATE)
    for samples in range(1, 500):
        assert converter.convert(bytes(2 * samples)) == bytes(2 * samples)
    assert len(audio._MUTE) <= audio._MUTE_SIZES
