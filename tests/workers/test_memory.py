"""Who takes over tells what the one before would have told: word for word and to the millisecond, with real weights."""

import importlib
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest

from cli import bench_clips
from tests.speech import FOX, clip_pcm, silence
from tests.takeover import Service, served
from wire.params import parse_query
from workers import checkpoints
from workers.memory import Hop, recall, remember
from workers.recognizer import Memory, SlotOptions
from workers.redecode import Redecoder
from workers.window import SAMPLES_PER_MS, Window
from workers.words import Word

SECONDS = 16
#: Pool -> weights and what a session asks.
POOLS = {
    "english": ("moonshine-tiny-en", [("min_turn_silence", "160"), ("max_turn_silence", "400")]),
    "multilang": ("whisper-base", [("speech_model", "whisper-rt"), ("max_turn_silence", "400")]),
    "u3pro": ("whisper-base", [("speech_model", "universal-3-5-pro")]),
}


@cache
def recognizer(pool: str) -> Redecoder:
    folder = checkpoints.fetch(POOLS[pool][0])
    config, weights = checkpoints.load(folder)
    _, vad = checkpoints.load(checkpoints.fetch("silero-vad"))
    package = importlib.import_module(f"workers.{pool}.recognizer")
    built: Redecoder = package.build(
        config, weights, vad, checkpoints.pieces(folder), name=pool, licence="MIT", slots=1, precision="auto"
    )
    return built


def params(pool: str) -> dict[str, Any]:
    return parse_query(POOLS[pool][1]).for_worker()


@cache
def talk(seed: int) -> bytes:
    spoken = [phrase for clip in bench_clips.recordings() for phrase in bench_clips.phrases(clip)]
    return bench_clips.talk(spoken, seed, SECONDS).audio


@cache
def undisturbed(pool: str, seed: int) -> Service:
    return served(recognizer(pool), talk(seed), params(pool))


@pytest.mark.weights
@pytest.mark.timeout(180)
@pytest.mark.parametrize("pool, seed", [("english", 0), ("english", 1), ("multilang", 0), ("u3pro", 0)])
def test_from_every_checkpoint_the_rest_is_told_alike(pool: str, seed: int) -> None:
    whole = undisturbed(pool, seed)
    assert len(whole.saved) > 3
    for checkpoint, told in whole.saved:
        taken = served(recognizer(pool), talk(seed), params(pool), checkpoint)
        assert taken.told == whole.told[told:], f"from {checkpoint.position / 16_000:.2f} s on"


@pytest.mark.weights
def test_key_terms_go_along() -> None:
    """Names that are found with terms alone, before and after every checkpoint."""
    rare, fox, pause = clip_pcm("kubernetes.wav"), clip_pcm(FOX), silence(1.5)
    audio = b"".join((rare, pause, fox, pause, rare, pause))
    asked = params("english") | {"keyterms_prompt": ["Kubernetes", "Proxmox"]}
    whole = served(recognizer("english"), audio, asked)
    for turn in (whole.finals[0], whole.finals[-1]):
        assert "proxmox" in turn.transcript.lower()
    assert whole.saved
    for checkpoint, told in whole.saved:
        assert served(recognizer("english"), audio, asked, checkpoint).told == whole.told[told:]


@pytest.mark.weights
def test_a_memory_is_small() -> None:
    for checkpoint, _ in undisturbed("u3pro", 0).saved:
        sizes = [len(value) for value in checkpoint.memory.values() if isinstance(value, bytes | str | list)]
        assert sum(sizes) < 4_000


@pytest.mark.weights
@pytest.mark.parametrize(
    "damage",
    [
        {"model": "another"},
        {"vad": b"123"},
        {"vad": bytes(4 * 7)},
        {"words": [["one"]]},
        {"tokens": None},
        {"said": 5},
        {"start": "x"},
    ],
)
def test_a_memory_of_another_model_or_a_damaged_one_only_costs_the_lead(damage: Memory) -> None:
    whole = undisturbed("english", 0)
    checkpoint, told = whole.saved[2]
    other = replace(checkpoint, memory=checkpoint.memory | damage)
    taken = served(recognizer("english"), talk(0), params("english"), other)
    assert [order for order, _ in taken.told][:1] == [told]
    assert abs(len(taken.told) - len(whole.told[told:])) <= 1


# ---------------------------------------------------------------------------------------------------------------------
# the window


def closed(origin_ms: int = 0) -> tuple[Window, Hop]:
    """A turn of two words ended at 2,000 ms, one of them context; and the hop before that."""
    window = Window(origin_ms=origin_ms, options=SlotOptions(previous_turns=3))
    window.append(np.zeros(3_000 * SAMPLES_PER_MS, np.float32))
    window.tail = [
        Word("One", origin_ms + 100, origin_ms + 300, 0.9, 2),
        Word("two.", origin_ms + 1_500, origin_ms + 1_800, 0.8),
    ]
    window.tail_tokens = [7, 8, 9]
    window.settle(2)
    window.belief.language = "en"
    window.finish(origin_ms + 2_000, 1_000)
    return window, Hop(1_984 * SAMPLES_PER_MS, False, 0, np.arange(5, dtype=np.float32))


def test_what_is_recalled_is_what_was_there() -> None:
    window, hop = closed()
    memory = remember(window, "m", hop)
    back, state = recall(memory, "m", 640, window.options)  # its audio comes from 640 ms on
    assert state is not None
    assert state.tolist() == hop.state.tolist()
    back.append(np.zeros(3_000 * SAMPLES_PER_MS, np.float32))
    assert back.ms(back.start) == window.ms(window.start)
    assert back.ms(back.turn_from) == 2_000
    assert back.ms(back.heard) == 1_984
    assert (back.prefix, back.prefix_tokens, back.context) == (window.prefix, window.prefix_tokens, 1)
    assert back.said == [("en", "One two.")]
    assert back.said_to_ms == 2_000


def test_audio_that_is_gone_leaves_what_was_said() -> None:
    window, hop = closed()
    late, state = recall(remember(window, "m", hop), "m", 1_920, window.options)
    assert state is None
    assert (late.prefix, late.said) == ([], [("en", "One two.")])
    unknown, state = recall(remember(window, "m", None), "m", 640, window.options)
    assert state is None
    assert unknown.said == late.said


def test_a_turn_that_is_heard_again_is_not_said_twice() -> None:
    window, hop = closed()
    late, _ = recall(remember(window, "m", hop), "other", 640, window.options)
    late.append(np.zeros(1_360 * SAMPLES_PER_MS, np.float32))
    late.tail, late.tail_tokens = [Word("two.", 1_500, 1_800, 0.8)], [9]
    late.settle(1)
    late.finish(2_000)
    assert late.said == [("en", "One two.")]
