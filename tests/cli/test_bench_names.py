"""`cli.bench_names`: sentences with names, and names that are in none of them; spoken where espeak-ng is."""

import numpy as np
import pytest

from cli import bench_names
from cli.bench_machine import ToolMissing
from cli.bench_names import OTHERS, SAID, SENTENCES, VOICES, program, spoken
from cli.bench_words import normalised
from tests.speech import TRANSCRIPTS
from wire.params import MAX_KEYTERMS


def test_each_sentence_holds_its_terms() -> None:
    for text, terms in SENTENCES:
        assert terms
        assert all(f" {normalised(term)} " in f" {normalised(text)} " for term in terms)


def test_the_others_are_said_nowhere_and_are_as_many_as_a_session_may_have() -> None:
    said = f" {normalised(' '.join([*(text for text, _ in SENTENCES), *TRANSCRIPTS.values()]))} "
    assert [term for term in OTHERS if f" {normalised(term)} " in said] == []
    assert len(set(OTHERS)) == len(OTHERS) == MAX_KEYTERMS
    assert len(set(SAID)) == len(SAID) < MAX_KEYTERMS


def test_without_the_program_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ToolMissing, match="apt install espeak-ng"):
        program()


def test_sentences_are_spoken_in_every_voice(espeak: str) -> None:
    clips = spoken(SENTENCES[:2])
    assert [clip.reference for clip in clips] == [text for text, _ in SENTENCES[:2]] * len(VOICES)
    assert all(1.5 < clip.duration_s < 8 for clip in clips)
    assert all(np.abs(clip.samples.astype(int)).max() > 3_000 for clip in clips)
    assert bench_names.program() == espeak
