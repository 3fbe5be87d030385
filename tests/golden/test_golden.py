"""Real recordings, real weights: the words that the english pool's recognizer hears, without processes and wire.

The recognizer gets what a worker's engine would give it, chunk by chunk, and a flush at the end of the recording.
Bounds are what the weights can do on these clips (measured, with room for another processor's rounding), so that a
slip in windows, drafts or word times shows as a number and not as an impression.
"""

import os
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch is loaded

import torch

from tests.speech import SAMPLE_RATE, TRANSCRIPTS, error_rate, samples
from tests.speech import words as bare_words
from wire.service import load
from workers import checkpoints
from workers.english.recognizer import build
from workers.recognizer import NO_FLUSH, Batch, SlotOptions
from workers.redecode import Redecoder
from workers.settings import WorkerSettings
from workers.words import Word, join

pytestmark = [pytest.mark.weights, pytest.mark.timeout(180)]

#: Highest word error rate of each clip; what is not here has none. One word more than was measured.
AT_MOST = {
    "beckett.wav": 0.09,
    "best_of_times.wav": 0.04,
    "before_us.wav": 0.05,
    "season_of_light.wav": 0.13,
    "present_period.flac": 0.09,
}
#: Over all clips together; 0.027 was measured.
AT_MOST_OVERALL = 0.05

CLIPS = tuple(TRANSCRIPTS)


def recognizer(precision: str) -> Redecoder:
    settings = load(WorkerSettings)
    folder = checkpoints.locate(settings.model_of("english"))
    config, weights = checkpoints.load(folder)
    _, vad_weights = checkpoints.load(checkpoints.locate(settings.vad))
    pieces = checkpoints.pieces(folder)
    return build(
        config,
        weights,
        vad_weights,
        pieces,
        name="golden",
        licence="MIT",
        slots=len(CLIPS),
        precision=precision,
    )


def transcribe(heard_by: Redecoder, clips: Sequence[str]) -> dict[str, list[Word]]:
    """Clip -> words, all clips at the same time, each in a slot of its own."""
    spec = heard_by.spec
    audio = [samples(clip) for clip in clips]
    words: dict[str, list[Word]] = {clip: [] for clip in clips}
    waiting, position, flushing = set(range(len(clips))), 0, set[int]()
    while waiting:
        batch = Batch(
            audio=np.zeros((spec.slots, spec.chunk_samples), np.float32),
            samples=np.zeros(spec.slots, np.int64),
            reset=np.full(spec.slots, position == 0),
            origin_ms=np.zeros(spec.slots, np.int64),
            flush_ms=np.full(spec.slots, NO_FLUSH, np.int64),
            options=dict.fromkeys(range(len(clips)), SlotOptions()) if position == 0 else {},
        )
        for slot in waiting:
            chunk = audio[slot][position : position + spec.chunk_samples]
            batch.audio[slot, : len(chunk)], batch.samples[slot] = chunk, len(chunk)
            if slot not in flushing and position + spec.chunk_samples >= len(audio[slot]):
                flushing.add(slot)
                batch.flush_ms[slot] = len(audio[slot]) * 1000 // SAMPLE_RATE
        for slot, news in enumerate(heard_by.step(batch)[: len(clips)]):
            if news is not None:
                assert not news.failed
                words[clips[slot]] += news.settled
                if news.flushed_ms is not None:
                    waiting.discard(slot)
        position += spec.chunk_samples
    return words


@pytest.fixture(scope="module", params=["float32", "int8"])
def heard(request) -> dict[str, list[Word]]:
    """All clips in one batch, with each kind of numbers that an operator can choose."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return transcribe(recognizer(request.param), CLIPS)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("clip", CLIPS)
def test_words_of_each_recording(heard, clip):
    text = join([word.text for word in heard[clip]])
    rate = error_rate(TRANSCRIPTS[clip], text)
    assert rate <= AT_MOST.get(clip, 0.0), f"{rate:.3f}\nsaid:  {TRANSCRIPTS[clip]}\nheard: {text}"


def test_words_of_all_recordings(heard):
    said = {clip: len(bare_words(TRANSCRIPTS[clip])) for clip in CLIPS}
    wrong = sum(
        error_rate(TRANSCRIPTS[clip], join([word.text for word in heard[clip]])) * said[clip]
        for clip in CLIPS
    )
    assert wrong / sum(said.values()) <= AT_MOST_OVERALL


@pytest.mark.parametrize("clip", CLIPS)
def test_times_of_each_recording(heard, clip):
    """In order, apart, within the recording, and spread over it as speech is: no word at the wrong end."""
    words, length_ms = heard[clip], len(samples(clip)) * 1000 // SAMPLE_RATE
    assert all(word.start_ms < word.end_ms for word in words)
    assert all(before.end_ms <= after.start_ms for before, after in pairwise(words))
    assert words[0].start_ms >= 0
    assert words[-1].end_ms <= length_ms
    assert words[-1].end_ms - words[0].start_ms > length_ms / 2
    assert max(word.end_ms - word.start_ms for word in words) < 1_800


@pytest.mark.parametrize("clip", CLIPS)
def test_confidence_of_each_recording(heard, clip):
    confidences = [word.confidence for word in heard[clip]]
    assert all(0 < confidence <= 1 for confidence in confidences)
    assert sum(confidences) / len(confidences) > 0.7


def test_neighbours_do_not_matter(heard):
    """A clip alone gives the words it gave among seven others."""
    alone = transcribe(recognizer("float32"), ["quick_brown_fox.wav"])
    assert bare_words(join([word.text for word in alone["quick_brown_fox.wav"]])) == bare_words(
        join([word.text for word in heard["quick_brown_fox.wav"]])
    )
