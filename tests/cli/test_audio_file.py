"""`cli.audio_file`: real files in every format, at odd rates, in many channels, and broken ones."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr  # type: ignore[import-untyped]
from hypothesis import given
from hypothesis import strategies as st

from cli import audio_file
from cli.audio_file import SAMPLE_RATE, AudioFileError


def tone(duration_s: float, rate: int, hz: float = 440.0, level: float = 0.5) -> np.ndarray:
    return level * np.sin(2 * np.pi * hz * np.arange(round(duration_s * rate)) / rate)


def written(path: Path, samples: np.ndarray, rate: int, **options) -> Path:
    soundfile.write(path, samples, rate, **options)
    return path


def read(path: Path, chunk_ms: int = 100) -> np.ndarray:
    return np.frombuffer(b"".join(audio_file.chunks(path, chunk_ms)), dtype="<i2")


def loudest_hz(samples: np.ndarray) -> float:
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return float(np.argmax(spectrum)) * SAMPLE_RATE / len(samples)


@pytest.mark.parametrize("channels", [1, 2, 5])
@pytest.mark.parametrize(
    "ending,rate",
    [
        *(("wav", rate) for rate in (8_000, 11_025, 16_000, 44_100, 48_000, 96_000, 37_123)),
        *(("flac", rate) for rate in (8_000, 44_100, 22_050)),
        *(("ogg", rate) for rate in (16_000, 44_100)),
        *(("mp3", rate) for rate in (16_000, 44_100)),
    ],
)
def test_any_format_rate_and_channel_count(ending, rate, channels, tmp_path) -> None:
    if ending == "mp3" and channels > 2:
        pytest.skip("an MP3 has one channel or two")
    samples = np.repeat(tone(1.5, rate)[:, None], channels, axis=1)
    path = written(tmp_path / f"tone.{ending}", samples, rate)
    heard = read(path)
    assert len(heard) / SAMPLE_RATE == pytest.approx(1.5, abs=0.08)  # an MP3 is padded to whole frames
    assert loudest_hz(heard[1_600:-1_600]) == pytest.approx(440, abs=2)
    assert np.percentile(np.abs(heard), 99) == pytest.approx(16_384, rel=0.1)  # an MP3's edges overshoot


def test_what_needs_no_conversion_comes_out_bit_for_bit(tmp_path) -> None:
    samples = np.random.default_rng(7).integers(-32_768, 32_768, 40_000, dtype=np.int16)
    samples[:2] = (-32_768, 32_767)
    assert np.array_equal(read(written(tmp_path / "noise.wav", samples, SAMPLE_RATE)), samples)


@given(length=st.integers(1, 9_000), chunk_ms=st.sampled_from([50, 100, 1000]))
def test_chunks_are_whole_and_nothing_is_lost(length, chunk_ms, tmp_path_factory) -> None:
    path = tmp_path_factory.mktemp("chunks") / "count.wav"
    samples = np.arange(length, dtype=np.int16)
    written(path, samples, SAMPLE_RATE)
    chunks = list(audio_file.chunks(path, chunk_ms))
    whole_bytes = 2 * SAMPLE_RATE * chunk_ms // 1000
    assert all(len(chunk) == whole_bytes for chunk in chunks[:-1])
    assert 0 < len(chunks[-1]) <= whole_bytes
    assert b"".join(chunks) == samples.tobytes()


def test_channels_are_averaged(tmp_path) -> None:
    stereo = np.stack([np.full(3_200, 8_000), np.full(3_200, -2_000)], axis=1).astype(np.int16)
    assert set(read(written(tmp_path / "stereo.wav", stereo, SAMPLE_RATE))) == {3_000}


def test_floats_beyond_the_range_and_nan_become_something_finite(tmp_path) -> None:
    samples = np.array([0.0, 2.0, -2.0, np.nan, np.inf, -np.inf, 0.5] * 300, dtype=np.float32)
    heard = read(written(tmp_path / "wild.wav", samples, SAMPLE_RATE, subtype="FLOAT"))
    assert list(heard[:7]) == [0, 32_767, -32_768, 0, 32_767, -32_768, 16_384]


def test_resampling_in_blocks_is_resampling_at_once(tmp_path) -> None:
    rate = 44_100
    speech_like = tone(3.3, rate) * np.random.default_rng(1).uniform(0.2, 1.0, round(3.3 * rate))
    path = written(tmp_path / "long.wav", speech_like, rate, subtype="PCM_16")
    whole = soxr.resample(soundfile.read(path, dtype="float32")[0], rate, SAMPLE_RATE, quality="HQ") * 32768
    heard = read(path)
    assert abs(len(heard) - len(whole)) <= 1
    shortest = min(len(heard), len(whole))
    assert np.abs(heard[:shortest] - whole[:shortest]).max() <= 1


def test_a_long_file_takes_no_more_memory_than_a_short_one(tmp_path) -> None:
    path = tmp_path / "long.flac"
    with soundfile.SoundFile(path, "w", 48_000, 2) as file:
        for _ in range(120):
            file.write(np.zeros((48_000, 2), dtype=np.int16))
    tracemalloc.start()
    seconds = sum(len(chunk) for chunk in audio_file.chunks(path, 100)) / 2 / SAMPLE_RATE
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert seconds == pytest.approx(120)
    assert peak < 4 << 20  # the whole would be 23 MB


def test_a_file_is_described(tmp_path) -> None:
    path = written(tmp_path / "talk.flac", np.zeros((22_050, 2)), 22_050)
    found = audio_file.describe(path)
    assert (found.duration_s, found.sample_rate, found.channels, found.kind) == (1.0, 22_050, 2, "FLAC")


@pytest.mark.parametrize(
    "content,reason",
    [
        (b"", "cannot read"),
        (b"hello, I am a text file\n" * 40, "WAV, FLAC, OGG and MP3"),
        (None, "cannot read"),
    ],
    ids=["empty", "text", "absent"],
)
def test_what_is_no_audio_is_told(content, reason, tmp_path) -> None:
    path = tmp_path / "talk.wav"
    if content is not None:
        path.write_bytes(content)
    for attempt in (audio_file.describe, lambda path: next(audio_file.chunks(path, 100))):
        with pytest.raises(AudioFileError, match=reason) as caught:
            attempt(path)
        assert str(path) in str(caught.value)


def test_a_file_without_a_sample_is_told(tmp_path) -> None:
    path = written(tmp_path / "nothing.wav", np.zeros(0, dtype=np.int16), SAMPLE_RATE)
    with pytest.raises(AudioFileError, match="holds no audio"):
        audio_file.describe(path)


def test_a_folder_is_told(tmp_path) -> None:
    with pytest.raises(AudioFileError, match="cannot read"):
        audio_file.describe(tmp_path)


def cut_in_half(path: Path) -> Path:
    written(path, np.random.default_rng(3).uniform(-1, 1, 160_000), SAMPLE_RATE)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


def test_a_recording_that_was_broken_off_is_read_as_far_as_it_goes(tmp_path) -> None:
    assert len(read(cut_in_half(tmp_path / "noise.wav"))) == pytest.approx(80_000, abs=100)


def test_damage_on_the_way_is_told_and_not_taken_for_the_end(tmp_path) -> None:
    heard: list[bytes] = []
    with pytest.raises(AudioFileError, match=r"noise.flac as audio: flac decoder"):
        heard.extend(audio_file.chunks(cut_in_half(tmp_path / "noise.flac"), 100))
    assert len(heard) >= 30  # what came before the damage was given
