"""Real speech for tests (`data/README.md`), sounds that are none, and how wrong a transcript is."""

import json
import string
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import jiwer
import numpy as np
import soundfile
import soxr  # type: ignore[import-untyped]
from numpy.typing import NDArray

SAMPLE_RATE = 16_000
DATA = Path(__file__).with_name("data")
TRANSCRIPTS: dict[str, str] = json.loads((DATA / "transcripts.json").read_text())

#: Clips by name: short enough for a test of one thing, with a pause in the middle, with many pauses.
FOX, LIGHT, BECKETT = "quick_brown_fox.wav", "season_of_light.wav", "beckett.wav"


@cache
def samples(clip: str) -> NDArray[np.float32]:
    """The clip at 16 kHz, -1..1."""
    audio, rate = soundfile.read(DATA / clip, dtype="float32")
    assert rate == SAMPLE_RATE
    assert audio.ndim == 1
    return np.asarray(audio, np.float32)


def pcm(audio: NDArray[np.floating]) -> bytes:
    """-1..1 -> 16 bits; what is louder is clipped."""
    return np.clip(np.rint(audio * 32768.0), -32768, 32767).astype("<i2").tobytes()


@cache
def clip_pcm(clip: str, sample_rate: int = SAMPLE_RATE) -> bytes:
    """The clip as a client would send it at `sample_rate`."""
    audio = samples(clip)
    return pcm(audio if sample_rate == SAMPLE_RATE else soxr.resample(audio, SAMPLE_RATE, sample_rate, "VHQ"))


def silence(seconds: float, sample_rate: int = SAMPLE_RATE) -> bytes:
    return bytes(2 * int(seconds * sample_rate))


def chunks(audio: bytes, chunk_ms: int = 100, sample_rate: int = SAMPLE_RATE) -> Iterator[bytes]:
    """The audio in messages; the last may be shorter."""
    return pieces(audio, 2 * (sample_rate * chunk_ms // 1000))


def pieces(data: bytes, size: int) -> Iterator[bytes]:
    """The data in messages of `size` bytes, whatever that does to samples."""
    return (data[start : start + size] for start in range(0, len(data), size))


def words(text: str) -> list[str]:
    """Lower case, without punctuation."""
    return text.lower().translate(str.maketrans("", "", string.punctuation)).split()


def error_rate(expected: str, heard: str) -> float:
    """Word error rate: wrong, missing and added words per expected word."""
    return float(jiwer.wer(" ".join(words(expected)), " ".join(words(heard))))


def assert_heard(clips: str | Iterable[str], heard: str, at_most: float = 0.2) -> None:
    """`heard` is what was said in the clips, one after another, but for a share `at_most` of the words.

    Two clips with nothing in common differ by about 1, so the bound leaves room for the model's mistakes only.
    """
    said = " ".join(TRANSCRIPTS[clip] for clip in ([clips] if isinstance(clips, str) else clips))
    rate = error_rate(said, heard)
    assert rate <= at_most, f"word error rate {rate:.2f}\nsaid:  {said}\nheard: {heard}"
