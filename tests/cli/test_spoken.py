"""`cli.spoken`: every recording that the table names is there, as sound and as words."""

import pytest
import soundfile

from cli import spoken
from wire.errors import WeightsError

EVERY = [(language, name) for language, names in spoken.RECORDINGS.items() for name in names]


@pytest.mark.weights
@pytest.mark.parametrize("language,name", EVERY)
def test_every_recording_is_speech_at_16_khz_with_its_words(language, name, tmp_path) -> None:
    found = spoken.read(language, name)
    assert found.words
    about = soundfile.info(found.write(tmp_path))
    assert (about.samplerate, about.channels) == (16_000, 1)
    assert 0.9 < about.duration < 6


@pytest.mark.weights
def test_what_is_not_there_is_told() -> None:
    with pytest.raises(WeightsError):
        spoken.read("en", "no such recording")


def test_an_index_that_cannot_be_reached_is_told(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("STENO_CACHE", str(tmp_path))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(WeightsError, match="pytest-audioeval"):
        spoken.fetch()
