from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor
from transformers import NemotronAsrStreamingFeatureExtractor, WhisperFeatureExtractor

from workers.features import (
    HOP,
    SAMPLE_RATE,
    SAMPLES_PER_FRAME,
    LogMel,
    StreamingLogMel,
    filters,
    hertz,
    mel,
    with_margin,
)

DATA = Path(__file__).parents[1] / "data"
SPEECH = torch.from_numpy(soundfile.read(DATA / "quick_brown_fox.wav", dtype="float32")[0])


def reference(audio: Tensor, samples: int, bands: int = 80) -> Tensor:
    """The library's features of `audio`, padded with silence to so many samples."""
    extractor = WhisperFeatureExtractor(feature_size=bands)
    found = extractor(audio.numpy(), sampling_rate=SAMPLE_RATE, max_length=samples, return_tensors="pt")
    return found["input_features"][0]


def noise(samples: int, loudness: float) -> Tensor:
    return torch.randn(samples, generator=torch.Generator().manual_seed(samples)) * loudness


SOUNDS = {
    "speech": SPEECH,
    "noise": noise(20_000, 0.1),
    "faint": noise(20_000, 1e-5),
    "silence": torch.zeros(9_000),
    "clipped": (noise(40_000, 3.0)).clamp(-1, 1),
    "tone": torch.sin(torch.arange(32_000) * 0.3),
}


@pytest.mark.parametrize("name", SOUNDS)
@pytest.mark.parametrize("seconds", [4, 30])
def test_features_are_the_librarys(name: str, seconds: int) -> None:
    [audio] = with_margin([SOUNDS[name]], [seconds * SAMPLE_RATE], seconds * SAMPLE_RATE)
    ours, theirs = LogMel()(audio[None])[0], reference(SOUNDS[name], len(audio))
    assert ours.shape == theirs.shape == (80, len(audio) // HOP)
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


def test_the_larger_bank_is_the_librarys_too() -> None:
    [audio] = with_margin([SPEECH], [16_000], 480_000)
    torch.testing.assert_close(
        LogMel(128)(audio[None])[0], reference(SPEECH, len(audio), 128), atol=1e-4, rtol=0
    )


def test_less_silence_changes_nothing_before_it() -> None:
    """Up to the window that reaches over the end of the margin."""
    [short, long] = with_margin([SPEECH, SPEECH], [16_000, 300_000], 480_000)
    short, long = LogMel()(short[None])[0], LogMel()(long[None])[0]
    kept = len(SPEECH) // HOP + 90
    torch.testing.assert_close(short[:, :kept], long[:, :kept], atol=1e-5, rtol=0)


def test_rows_of_a_batch_are_as_if_alone() -> None:
    rows = [noise(16_000, loudness) for loudness in (0.5, 0.001, 0.0)]
    together = LogMel()(torch.stack(rows))
    for row, found in zip(rows, together, strict=True):
        torch.testing.assert_close(found, LogMel()(row[None])[0], atol=1e-6, rtol=0)


def test_the_scale_is_slaneys() -> None:
    assert mel(1000.0) == pytest.approx(15.0)
    assert mel(6400.0) == pytest.approx(15 + 27)
    for hz in (0.0, 60.0, 999.0, 1001.0, 8000.0):
        assert hertz(mel(hz)) == pytest.approx(hz)
    bank = filters(80)
    assert (bank.amax(0) > 0).all()  # no band is deaf
    np.testing.assert_array_equal(bank[0].numpy(), 0)


def test_a_margin_ends_on_a_frame_and_before_the_limit() -> None:
    rows = [torch.ones(n) for n in (1, 320, 16_001, 479_000, 500_000)]
    padded = with_margin(rows, [0, 0, 16_000, 16_000, 16_000], 480_000)
    assert [len(row) for row in padded] == [320, 320, 32_320, 480_000, 480_000]
    assert all(len(row) % SAMPLES_PER_FRAME == 0 for row in padded)
    assert [int(row.sum()) for row in padded] == [1, 320, 16_001, 479_000, 480_000]


@pytest.mark.parametrize("bands", [80, 128])
def test_streamed_windows_are_the_reference_extractors_frames(bands: int):
    audio = torch.randn(16_000, generator=torch.Generator().manual_seed(4)) * 0.1
    reference = NemotronAsrStreamingFeatureExtractor(feature_size=bands)
    expected = reference(audio.numpy(), sampling_rate=16_000, return_tensors="pt").input_features[0, :100]
    padded = torch.nn.functional.pad(audio, (200, 200))
    parts = [padded[160 * at : 160 * (at + 9) + 400] for at in range(0, 100, 10)]
    got = StreamingLogMel(bands)(torch.stack(parts)).flatten(0, 1)
    # The last frame looks past the end, where pre-emphasis makes a click of a stream that stops: none of a recording.
    torch.testing.assert_close(got[:99], expected[:99], rtol=1e-4, atol=1e-4)
