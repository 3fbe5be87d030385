"""`cli.bench_clips`: phrases are found by loudness; talk is phrases with pauses, at the places it tells."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cli.bench_clips import PAUSES_MS, Clip, phrases, recordings, talk


def sound(*parts_ms: tuple[int, int]) -> np.ndarray:
    """(loudness, ms) after one another, with a little noise."""
    noise = np.random.default_rng(2)
    return np.concatenate([noise.normal(0, loud, 16 * ms) for loud, ms in parts_ms]).astype("<i2")


def test_phrases_are_parted_by_pauses_and_clicks_are_none() -> None:
    clip = Clip(
        "c", sound((3, 500), (2_000, 1_000), (3, 600), (2_000, 1_500), (3, 900), (2_000, 100), (3, 500)), None
    )
    assert [len(phrase) / 16 for phrase in phrases(clip)] == pytest.approx([1_000, 1_500], abs=40)


def test_a_breath_within_a_phrase_does_not_part_it() -> None:
    clip = Clip("c", sound((3, 500), (2_000, 1_000), (3, 200), (2_000, 1_000), (3, 500)), None)
    assert [len(phrase) / 16 for phrase in phrases(clip)] == pytest.approx([2_200], abs=40)


@settings(max_examples=20)
@given(st.integers(0, 10_000), st.floats(0.5, 8))
def test_talk_holds_phrases_where_it_says(seed, seconds) -> None:
    spoken = [np.full(16 * 800, 5_000, "<i2"), np.full(16 * 1_200, 9_000, "<i2")]
    made = talk(spoken, seed, seconds)
    audio = np.frombuffer(made.audio, "<i2")
    assert len(audio) >= 16_000 * seconds
    begin = 0
    for start, end in made.phrases:
        assert set(audio[16 * start : 16 * end].tolist()) in ({5_000}, {9_000})
        assert PAUSES_MS[0] <= start - begin <= PAUSES_MS[1]
        assert np.abs(audio[16 * begin : 16 * start]).max() < 100
        begin = end
    assert len(audio) / 16 - begin >= PAUSES_MS[0] + PAUSES_MS[1]


def test_each_session_speaks_in_an_order_of_its_own_and_always_the_same() -> None:
    spoken = [np.full(16_000, level, "<i2") for level in range(1_000, 9_000, 1_000)]
    assert talk(spoken, 1, 10) == talk(spoken, 1, 10)
    assert talk(spoken, 1, 10).audio != talk(spoken, 2, 10).audio


@pytest.mark.weights
def test_each_recording_tells_its_language() -> None:
    clips = recordings(("fr", "ja"))
    assert [(clip.language, clip.name) for clip in clips][:2] == [("fr", "pangrama"), ("fr", "comptage")]
    assert {clip.language for clip in clips} == {"fr", "ja"}
    assert all(clip.reference for clip in clips)
    assert sum(len(phrases(clip)) for clip in clips) >= 6


@pytest.mark.weights
def test_the_recordings_hold_speech_and_words() -> None:
    clips = {clip.name: clip for clip in recordings()}
    assert clips["hello_world"].reference == "Hello world."
    assert {name for name, clip in clips.items() if clip.reference is None} == {"endgame_nagg_nell"}
    assert sum(len(phrases(clip)) for clip in clips.values()) >= 16
