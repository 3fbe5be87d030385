"""`workers.whole`: long recordings are cut in pauses, and nothing is lost; real ones give their words."""

import numpy as np
import pytest

from cli import audio_file
from tests.spoken import clip
from workers import checkpoints, whole

DATA = "tests/data"


def talk(seconds: float, pause_at_s: float) -> np.ndarray:
    """Noise with 400 ms of quiet in it."""
    sound = np.random.default_rng(1).normal(0, 0.1, int(seconds * whole.SAMPLE_RATE)).astype(np.float32)
    start = int(pause_at_s * whole.SAMPLE_RATE)
    sound[start : start + int(0.4 * whole.SAMPLE_RATE)] *= 0.001
    return sound


def test_a_short_recording_stays_whole() -> None:
    sound = talk(29.9, 20)
    assert [len(piece) for piece in whole.pieces(sound)] == [len(sound)]


def test_a_long_one_is_cut_in_its_pause_and_nothing_is_lost() -> None:
    sound = talk(40, 22)
    pieces = whole.pieces(sound)
    assert np.array_equal(np.concatenate(pieces), sound)
    assert len(pieces) == 2
    assert 22.0 < len(pieces[0]) / whole.SAMPLE_RATE < 22.4


@pytest.mark.parametrize("seconds", [31, 75, 100])
def test_no_piece_is_too_long(seconds) -> None:
    sound = talk(seconds, 25)
    pieces = whole.pieces(sound)
    assert np.array_equal(np.concatenate(pieces), sound)
    assert max(map(len, pieces)) <= whole.LONGEST_S * whole.SAMPLE_RATE


@pytest.mark.weights
@pytest.mark.parametrize("precision", ["float32", "auto"])
def test_real_speech_gives_its_words(request, precision) -> None:
    path = request.config.rootpath / DATA / "quick_brown_fox.wav"
    sound = np.frombuffer(b"".join(audio_file.chunks(path, 1000)), "<i2").astype(np.float32) / np.float32(
        32768
    )
    (text,) = whole.transcripts(checkpoints.fetch("moonshine-tiny-en"), [sound], precision)
    assert text.lower().startswith("the quick brown fox jumps over the lazy dog")


@pytest.mark.weights
def test_the_same_weights_as_the_multilang_pool_s_give_words_of_two_languages(request) -> None:
    path = request.config.rootpath / DATA / "quick_brown_fox.wav"
    fox = np.frombuffer(b"".join(audio_file.chunks(path, 1000)), "<i2").astype(np.float32) / np.float32(32768)
    sounds = [fox, clip("es", "pangrama")[0]]
    english, spanish = whole.transcripts(checkpoints.fetch("whisper-base"), sounds)
    assert english.lower().startswith("the quick brown fox jumps over the lazy dog")
    assert "comía feliz" in spanish.lower()


def test_a_checkpoint_of_another_kind_is_refused(tmp_path) -> None:
    (tmp_path / checkpoints.WEIGHTS).write_bytes(checkpoints.safetensors_file({"a": np.zeros(1, np.float32)}))
    (tmp_path / "config.json").write_text('{"model_type": "parrot"}')
    with pytest.raises(checkpoints.CheckpointError, match="no model of a kind"):
        whole.transcripts(tmp_path, [])
