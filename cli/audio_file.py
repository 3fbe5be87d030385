"""Any sound file -> 16 kHz mono 16-bit chunks, as a client sends them.

Read in blocks, so that a file of hours costs no more memory than one of seconds. Stereo and more channels are
averaged; other rates are resampled with soxr's high quality.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr  # type: ignore[import-untyped]
from numpy.typing import NDArray

from wire.errors import StackError

#: What we send, whatever the file holds.
SAMPLE_RATE = 16_000
_BLOCK_S = 1.0


class AudioFileError(StackError):
    """A file that cannot be read as audio; the message names it and says why."""


@dataclass(frozen=True)
class AudioFile:
    """What a file says about itself. `duration_s` in seconds of audio."""

    path: Path
    duration_s: float
    sample_rate: int
    channels: int
    kind: str


def describe(path: Path) -> AudioFile:
    """Raises AudioFileError."""
    with _open(path) as file:
        if file.frames == 0:
            raise AudioFileError(f"{path} holds no audio")
        return AudioFile(path, file.frames / file.samplerate, file.samplerate, file.channels, file.format)


def chunks(path: Path, chunk_ms: int) -> Iterator[bytes]:
    """The file as little-endian PCM, `chunk_ms` at a time; the last chunk may be shorter.

    Raises AudioFileError at the first chunk, or midway where the file is damaged.
    """
    size = SAMPLE_RATE * chunk_ms // 1000
    waiting: NDArray[np.int16] = np.empty(0, dtype="<i2")
    for block in _blocks(path):
        waiting = np.concatenate((waiting, block))
        whole = len(waiting) // size * size
        for start in range(0, whole, size):
            yield waiting[start : start + size].tobytes()
        waiting = waiting[whole:]
    if len(waiting):
        yield waiting.tobytes()


def _blocks(path: Path) -> Iterator[NDArray[np.int16]]:
    """Blocks of any length at our rate."""
    with _open(path) as file:
        resampler = soxr.ResampleStream(file.samplerate, SAMPLE_RATE, 1, dtype="float32", quality="HQ")
        frames = max(1, int(file.samplerate * _BLOCK_S))
        while True:
            block = _read(file, frames, path)
            last = len(block) < frames
            mono = np.nan_to_num(block.mean(axis=1, dtype=np.float32), nan=0.0, posinf=1.0, neginf=-1.0)
            yield _pcm(mono if file.samplerate == SAMPLE_RATE else resampler.resample_chunk(mono, last=last))
            if last:
                return


def _pcm(samples: NDArray[np.float32]) -> NDArray[np.int16]:
    """-1..1 -> 16 bits; what was 16 bits in the file comes out as it was."""
    pcm: NDArray[np.int16] = np.clip(np.rint(samples * 32768.0), -32768, 32767).astype("<i2")
    return pcm


def _open(path: Path) -> soundfile.SoundFile:
    try:
        return soundfile.SoundFile(path)
    except (soundfile.LibsndfileError, OSError) as error:
        raise _unreadable(path, error) from None


def _read(file: soundfile.SoundFile, frames: int, path: Path) -> NDArray[np.float32]:
    """[frames, channels]; fewer frames at the end."""
    try:
        block: NDArray[np.float32] = file.read(frames, dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise _unreadable(path, error) from None
    return block


def _unreadable(path: Path, error: Exception) -> AudioFileError:
    reason = str(getattr(error, "error_string", "") or error).removeprefix("Error : ").strip().rstrip(".")
    return AudioFileError(
        f"cannot read {path} as audio: {reason}. WAV, FLAC, OGG and MP3 are read; convert others first, for "
        f"example with: ffmpeg -i {path.name} {path.stem}.wav"
    )
