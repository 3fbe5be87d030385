"""Speech for the benchmarks: recordings with their words, and endless talk made of their phrases.

The recordings travel in pinned wheels: English ones beside the default weights (real voices), and those of `cli.spoken`
in several languages (synthetic voices). Nothing in the wheels is imported or run.
"""

import random
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cli import audio_file, spoken
from wire.errors import WeightsError
from workers import checkpoints, wheels

SAMPLE_MODEL = "moonshine-tiny-en"
#: What is said in the recordings beside the weights, where it is known word for word: S. Beckett, "Worstward Ho"
#: (1983), a few words; C. Dickens, "A Tale of Two Cities" (1859), the opening. The third is spoken freely after a play.
REFERENCES = {
    "beckett": "Ever tried. Ever failed. No matter. Try again. Fail again. Fail better.",
    "two_cities": "It was the best of times, it was the worst of times, it was the age of wisdom, it was the age of "
    "foolishness, it was the epoch of belief, it was the epoch of incredulity, it was the season of light, it was the "
    "season of darkness, it was the spring of hope, it was the winter of despair, we had everything before us, we had "
    "nothing before us, we were all going direct to heaven, we were all going direct the other way. In short, the "
    "period was so far like the present period, that some of its noisiest authorities insisted on its being received, "
    "for good or for evil, in the superlative degree of comparison only.",
}

_FRAME_MS = 20
#: Below this part of a recording's loud frames is no speech.
_QUIET = 0.06
#: Silence that parts two phrases, and the shortest phrase that is kept (a click is none).
_PAUSE_MS, _SHORTEST_MS, _LONGEST_MS = 400, 700, 12_000
#: Silence between two phrases of endless talk; longer than the longest silence setting that is measured.
PAUSES_MS = (600, 1_500)
#: The room's noise in a pause (16-bit units): a microphone never gives zeros.
_NOISE = 4.0

Samples = NDArray[np.int16]


@dataclass(frozen=True)
class Clip:
    """One recording, 16 kHz mono, and its words where they are known."""

    name: str
    samples: Samples
    reference: str | None
    language: str = "en"

    @property
    def duration_s(self) -> float:
        return len(self.samples) / audio_file.SAMPLE_RATE


@dataclass(frozen=True)
class Talk:
    """Audio for one session, and where in it phrases begin and end (ms)."""

    audio: bytes
    phrases: tuple[tuple[int, int], ...]


def recordings(languages: Sequence[str] = ("en",)) -> list[Clip]:
    """All recordings in these languages, fetched if need be. Raises WeightsError."""
    clips = _beside_the_weights() if "en" in languages else []
    with tempfile.TemporaryDirectory(prefix="steno-bench-") as scratch:
        for language in languages:
            for name in spoken.RECORDINGS[language]:
                found = spoken.read(language, name)
                clips.append(Clip(name, samples(found.write(Path(scratch))), found.words, language))
    return clips


def _beside_the_weights() -> list[Clip]:
    try:
        folder = checkpoints.fetch(SAMPLE_MODEL)
    except (wheels.FetchError, checkpoints.CheckpointError) as error:
        raise WeightsError(str(error)) from error
    paths = sorted((folder / "samples").glob("*.wav"))
    return [Clip(path.stem, samples(path), REFERENCES.get(path.stem)) for path in paths]


def samples(path: Path) -> Samples:
    """A sound file at our rate."""
    return np.frombuffer(b"".join(audio_file.chunks(path, 1_000)), "<i2")


def phrases(clip: Clip) -> list[Samples]:
    """The stretches of speech in a recording, cut at its pauses by loudness alone (no model has a say)."""
    size = audio_file.SAMPLE_RATE * _FRAME_MS // 1000
    frames = clip.samples[: len(clip.samples) // size * size].reshape(-1, size).astype(np.float32)
    loudness = np.sqrt(np.square(frames).mean(axis=1))
    loud = np.flatnonzero(loudness > _QUIET * np.percentile(loudness, 95))
    starts = loud[np.flatnonzero(np.diff(loud, prepend=-1_000) > _PAUSE_MS // _FRAME_MS)]
    ends = loud[np.flatnonzero(np.diff(loud, append=loud[-1] + 1_000) > _PAUSE_MS // _FRAME_MS)] + 1
    return [
        clip.samples[start * size : end * size]
        for start, end in zip(starts, ends, strict=True)
        if _SHORTEST_MS <= (end - start) * _FRAME_MS <= _LONGEST_MS
    ]


def talk(spoken: Sequence[Samples], seed: int, seconds: float) -> Talk:
    """At least so many seconds of phrases in an order of its own, with pauses between; it ends with a pause."""
    order, noise = random.Random(seed), np.random.default_rng(seed)
    parts: list[Samples] = []
    places: list[tuple[int, int]] = []
    waiting: list[Samples] = []
    samples = 0

    def add(part: Samples) -> None:
        nonlocal samples
        parts.append(part)
        samples += len(part)

    def pause(length_ms: int) -> None:
        add(np.rint(noise.normal(0, _NOISE, length_ms * 16)).astype("<i2"))

    pause(order.randrange(*PAUSES_MS))
    while samples < seconds * audio_file.SAMPLE_RATE:
        if not waiting:
            waiting = list(spoken)
            order.shuffle(waiting)
        start = samples
        add(waiting.pop())
        places.append((start // 16, samples // 16))
        pause(order.randrange(*PAUSES_MS))
    pause(PAUSES_MS[1])
    return Talk(np.concatenate(parts).tobytes(), tuple(places))
