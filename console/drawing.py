"""Sound and speech probability as paths of SVG. Their x is ms of the audio: all that is drawn shares one axis."""

from bisect import bisect_left
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from wire.entries import SAMPLE_RATE

#: A quiet recording is not blown up to full height beyond this share of full scale.
QUIETEST = 0.05

Samples = NDArray[np.int16]


def samples(pcm: bytes) -> Samples:
    """16-bit little-endian PCM as numbers."""
    return np.frombuffer(pcm[: len(pcm) // 2 * 2], "<i2")


def loudest(sound: Samples) -> float:
    """What is drawn at full height: the highest peak, or QUIETEST; from 0 to 1."""
    return max(QUIETEST, float(np.abs(sound.astype(np.int32)).max(initial=0)) / 32768)


def waveform(sound: Samples, from_ms: int, to_ms: int, columns: int, loudest: float, height: float) -> str:
    """A closed path around the sound of this span, centred at `height` / 2; empty where there is none."""
    begin, end = from_ms * SAMPLE_RATE // 1000, to_ms * SAMPLE_RATE // 1000
    part = sound[begin:end]
    if not len(part):
        return ""
    edges = np.linspace(0, len(part), min(columns, len(part)), endpoint=False).astype(int)
    highs, lows = np.maximum.reduceat(part, edges), np.minimum.reduceat(part, edges)
    middle, scale = height / 2, height / 2 / 32768 / loudest
    xs = from_ms + edges * 1000 / SAMPLE_RATE
    upper = [f"{x:.0f} {middle - max(0, int(high)) * scale:.1f}" for x, high in zip(xs, highs, strict=True)]
    lower = [f"{x:.0f} {middle - min(0, int(low)) * scale:.1f}" for x, low in zip(xs, lows, strict=True)]
    return "M" + "L".join([*upper, *reversed(lower)]) + "Z"


def speech(hops: Sequence[tuple[int, float]], from_ms: int, to_ms: int, height: float, columns: int) -> str:
    """A closed path under the probabilities of this span; of many hops to a column, the highest. Empty without any."""
    part = hops[bisect_left(hops, (from_ms, 0.0)) : bisect_left(hops, (to_ms + 1, 0.0))]
    if len(part) < 2:
        return ""
    size = -(-len(part) // columns)
    points = [max(part[place : place + size], key=lambda hop: hop[1]) for place in range(0, len(part), size)]
    line = [f"{ms} {height * (1 - value):.1f}" for ms, value in points]
    return f"M{points[0][0]} {height}L{'L'.join(line)}L{points[-1][0]} {height}Z"
