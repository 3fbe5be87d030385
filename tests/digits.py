"""The digits model (`STENO_DIGITS`): real weights of a tiny native transducer, real speech, and the library's word.

The variable names a folder with a checkpoint of Nemotron's streaming architecture, as transformers writes it, that
hears spoken digits, and in its `audio/` recordings nobody trained on, `{digit}_{speaker}_{take}.wav`. Tests are
skipped without it: it is neither ours nor small.
"""

import os
import random
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import soxr  # type: ignore[import-untyped]
import torch
from numpy.typing import NDArray

from tests.speech import SAMPLE_RATE
from workers import checkpoints
from workers.native import build
from workers.transducer import Transducer

FOLDER = os.environ.get("STENO_DIGITS", "")
NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
needed = pytest.mark.skipif(not FOLDER, reason="STENO_DIGITS names no folder with the digits model")
#: Silence that the library is given after a recording, in encoder frames: what ours hears after a turn.
TAIL_FRAMES = 4


@dataclass(frozen=True)
class Said:
    """A string of digits: audio at 16 kHz, its words, and when each was spoken, in ms."""

    audio: NDArray[np.float32]
    text: str
    spans: tuple[tuple[int, int], ...]


@cache
def strings(count: int, seed: int = 0, lead_s: float = 0.0) -> tuple[Said, ...]:
    """Recordings strung together 1 to 8 at a time with pauses of up to 0.4 s, as the model was trained."""
    pick = random.Random(seed)
    files = sorted((Path(FOLDER) / "audio").glob("*.wav"))
    pick.shuffle(files)
    found = []
    for _ in range(count):
        parts, words, spans, at = [np.zeros(int(lead_s * SAMPLE_RATE), np.float32)], [], [], 0
        at += len(parts[0])
        for _ in range(pick.randint(1, 8)):
            file = files.pop()
            files.insert(0, file)
            recording, rate = soundfile.read(file, dtype="float32")
            speech = soxr.resample(recording, rate, SAMPLE_RATE, "VHQ")
            gap = int(pick.uniform(0, 0.4) * SAMPLE_RATE)
            parts += [np.zeros(gap, np.float32), speech]
            words.append(NAMES[int(file.name[0])])
            spans.append(((at + gap) // 16, (at + gap + len(speech)) // 16))
            at += gap + len(speech)
        found.append(Said(np.concatenate(parts).astype(np.float32), " ".join(words), tuple(spans)))
    return tuple(found)


@cache
def checkpoint() -> dict[str, Any]:
    """What `build` takes of it."""
    config, weights = checkpoints.load(Path(FOLDER))
    _, vad = checkpoints.load(checkpoints.fetch("silero-vad"))
    pieces = checkpoints.pieces(Path(FOLDER))
    return {"config": config, "weights": weights, "vad_weights": vad, "pieces": pieces}


def recognizer(lookahead: int, slots: int, precision: str = "float32") -> Transducer:
    parts = checkpoint()
    return build(**parts, name="digits", licence="-", slots=slots, lookahead=lookahead, precision=precision)


@cache
def _library() -> tuple[Any, Any]:
    from transformers import AutoProcessor, NemotronAsrStreamingForRNNT

    return NemotronAsrStreamingForRNNT.from_pretrained(FOLDER).eval(), AutoProcessor.from_pretrained(FOLDER)


def offline(audio: NDArray[np.float32], lookahead: int, tail_frames: int = TAIL_FRAMES) -> str:
    """What the library's own `generate` makes of the whole recording, with silence after it up to a whole chunk."""
    model, processor = _library()
    chunk = 8 * (lookahead + 1)
    chunks = -(-(len(audio) + 1280 * tail_frames) // (160 * chunk))
    mel = chunks * chunk - 7
    padded = np.pad(audio, (0, max(0, 160 * (mel + 4) - len(audio))))
    features = processor(padded, sampling_rate=SAMPLE_RATE)["input_features"][:, :mel]
    with torch.inference_mode():
        said = model.generate(input_features=features, num_lookahead_tokens=lookahead, max_new_tokens=500)
    return str(processor.tokenizer.decode(said.sequences[0], skip_special_tokens=True)).strip()


def bare(audio: NDArray[np.float32], lookahead: int) -> str:
    """The same without any silence after it, as the library's processor cuts it."""
    model, processor = _library()
    features = processor(audio, sampling_rate=SAMPLE_RATE)
    with torch.inference_mode():
        said = model.generate(
            input_features=features["input_features"],
            attention_mask=features["attention_mask"],
            num_lookahead_tokens=lookahead,
            max_new_tokens=500,
        )
    return str(processor.tokenizer.decode(said.sequences[0], skip_special_tokens=True)).strip()
