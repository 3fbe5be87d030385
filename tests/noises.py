"""Sounds that are no speech, made here: silence, white and pink noise, music of chords, arpeggios and drums."""

import numpy as np
from numpy.typing import NDArray

RATE = 16_000
Sound = NDArray[np.float32]


def white(seconds: float, level: float, seed: int = 0) -> Sound:
    return (np.random.default_rng(seed).standard_normal(int(seconds * RATE)) * level).astype(np.float32)


def pink(seconds: float, level: float, seed: int = 0) -> Sound:
    """White noise, its power falling with frequency; `level` is its standard deviation."""
    count = int(seconds * RATE)
    spectrum = np.fft.rfft(np.random.default_rng(seed).standard_normal(count))
    spectrum[1:] /= np.sqrt(np.arange(1, len(spectrum)))
    sound = np.fft.irfft(spectrum, count)
    return (sound * level / sound.std()).astype(np.float32)


def _note(hertz: float, seconds: float, harmonics: int = 6) -> Sound:
    """A plucked tone with overtones."""
    at = np.arange(int(seconds * RATE)) / RATE
    tones = [np.sin(2 * np.pi * hertz * n * at) / n for n in range(1, harmonics + 1)]
    return (np.sum(tones, axis=0) * np.minimum(1, at / 0.01) * np.exp(-3 * at / seconds)).astype(np.float32)


def _drum(seconds: float, seed: int) -> Sound:
    """A beat that falls in pitch, with a hiss."""
    at = np.arange(int(seconds * RATE)) / RATE
    beat = np.sin(2 * np.pi * (60 * at + 30 * (1 - np.exp(-20 * at)))) * np.exp(-8 * at)
    hiss = np.random.default_rng(seed).standard_normal(len(at)) * np.exp(-30 * at) * 0.3
    return (beat + hiss).astype(np.float32)


_CHORDS = ((0, 4, 7), (9, 12, 16), (5, 9, 12), (7, 11, 14))  # C, A minor, F, G: half tones above C


def _hertz(half_tones: int) -> float:
    return 261.63 * 2 ** (half_tones / 12)


def music(seconds: float, level: float, kind: str) -> Sound:
    """`kind`: chords, arpeggios, drums, or band, which is all of them."""
    count, beat = int(seconds * RATE), RATE // 2
    out = np.zeros(count + 4 * beat, np.float32)
    for number, start in enumerate(range(0, count, beat)):
        chord = _CHORDS[number // 4 % len(_CHORDS)]
        parts: list[Sound] = []
        if kind in ("chords", "band") and number % 4 == 0:
            parts += [_note(_hertz(tone), 2.0) for tone in chord]
        if kind in ("arpeggios", "band"):
            parts.append(_note(_hertz(chord[number % 3] + 12), 0.6))
        if kind in ("drums", "band"):
            parts.append(_drum(0.4, number))
        for part in parts:
            out[start : start + len(part)] += part
    return np.asarray(out[:count] * (level / np.abs(out).max()), np.float32)


def every(seconds: float) -> dict[str, Sound]:
    """All of them, at several levels, by name."""
    found = {"silence": np.zeros(int(seconds * RATE), np.float32)}
    for level in (0.001, 0.01, 0.1, 0.3):
        found |= {f"white {level}": white(seconds, level), f"pink {level}": pink(seconds, level)}
    for kind in ("chords", "arpeggios", "drums", "band"):
        found |= {f"{kind} {level}": music(seconds, level, kind) for level in (0.1, 0.7)}
    return found
