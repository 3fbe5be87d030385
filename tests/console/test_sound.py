"""`console.sound`: FLAC of a real clip."""

import io

import soundfile

from console.sound import flac
from tests.speech import BECKETT, clip_pcm


def test_it_is_the_same_sound_in_less_room():
    pcm = clip_pcm(BECKETT)
    sound = flac(pcm)
    samples, rate = soundfile.read(io.BytesIO(sound.data), dtype="int16")
    assert rate == 16_000
    assert samples.astype("<i2").tobytes() == pcm
    assert len(sound.data) < 0.7 * len(pcm)
    assert sound.kind == "audio/flac"
