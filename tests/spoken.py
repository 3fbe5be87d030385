"""Speech in nine languages with its words, as arrays: the recordings of `cli.spoken`. One is `(language, name)`."""

import io
import unicodedata
from functools import cache

import jiwer
import numpy as np
import soundfile
from numpy.typing import NDArray

from cli import spoken

LANGUAGES = spoken.RECORDINGS


@cache
def clip(language: str, name: str) -> tuple[NDArray[np.float32], str]:
    """Samples at 16 kHz, and what is said."""
    found = spoken.read(language, name)
    samples, rate = soundfile.read(io.BytesIO(found.wav), dtype="float32")
    assert rate == 16_000
    return np.asarray(samples, np.float32), found.words


def character_error_rate(said: str, heard: str) -> float:
    """On lower-case letters and digits alone: it works for scripts without spaces, and does not punish a split word."""
    return float(jiwer.cer(_bare(said), _bare(heard)))


def _bare(text: str) -> str:
    return "".join(sign for sign in unicodedata.normalize("NFKC", text).lower() if sign.isalnum())
