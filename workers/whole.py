"""Whole recordings, offline: the same weights with all of the audio before them.

What streaming is measured against (`steno bench accuracy`). No stack, no turns: a recording goes through the model in
one piece, or in pieces cut in the quietest places when it is longer than the model was made for.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from workers import checkpoints
from workers.words import TOKENS_PER_S, token_cap

if TYPE_CHECKING:
    from torch import Tensor

    from workers.models.moonshine import Moonshine
    from workers.models.whisper import Whisper

SAMPLE_RATE = 16_000
#: Moonshine and Whisper were trained on pieces of up to 30 s.
LONGEST_S = 30.0
#: Where a piece may end at the earliest, so that no short rest is left over.
SHORTEST_S = 15.0
#: Whisper's vocabulary takes more tokens for a second of speech (as `workers/multilang` has it).
WHISPER_TOKENS_PER_S = 10.0
_FRAME = SAMPLE_RATE // 50
_QUIET_FRAMES = 15  # a pause is as good as its quietest 300 ms


def transcripts(
    folder: Path, recordings: Sequence[NDArray[np.float32]], precision: str = "auto", threads: int = 1
) -> list[str]:
    """What the checkpoint in `folder` makes of each recording ([n] at 16 kHz, -1..1).

    `precision` as in the worker's settings. Raises `checkpoints.CheckpointError`.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as in a worker; read once, when torch is loaded
    import torch  # noqa: PLC0415

    from workers import int8  # noqa: PLC0415
    from workers.drafting import Task, transcribe  # noqa: PLC0415

    torch.set_num_threads(threads)
    config, weights = checkpoints.load(folder)
    model, per_s = _built(config, weights)
    if precision == "int8" or (precision == "auto" and int8.supported()):
        model.quantise()
    model.eval()
    spelling = checkpoints.pieces(folder)
    texts = []
    for recording in recordings:
        tokens: list[int] = []
        for piece in pieces(recording):
            cap = token_cap(len(piece) / SAMPLE_RATE, per_s)
            task = Task(torch.from_numpy(piece.copy()), cap=cap, final=True)
            tokens += transcribe(model, [task])[0].tokens
        texts.append(b"".join(spelling[token] for token in tokens).decode(errors="replace").strip())
    return texts


def _built(config: Mapping[str, Any], weights: Mapping[str, "Tensor"]) -> tuple["Moonshine | Whisper", float]:
    """The model of a checkpoint, and how many tokens a second of its speech may take. Raises CheckpointError."""
    from workers.models import moonshine, whisper  # noqa: PLC0415

    model: Moonshine | Whisper
    try:
        if config.get("model_type") == "whisper":
            model = whisper.Whisper(whisper.WhisperConfig.from_dict(config))
            model.load_state_dict(whisper.fused(weights))
            return model, WHISPER_TOKENS_PER_S
        model = moonshine.Moonshine(moonshine.MoonshineConfig.from_dict(config))
        model.load_state_dict(moonshine.fused(weights))
    except (KeyError, ValueError, RuntimeError) as error:
        raise checkpoints.CheckpointError(f"no model of a kind that is served here: {error}") from error
    return model, TOKENS_PER_S


def pieces(recording: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """The recording, in pieces of at most `LONGEST_S`, each cut in the middle of the quietest 300 ms."""
    found = []
    while len(recording) > LONGEST_S * SAMPLE_RATE:
        window = recording[int(SHORTEST_S * SAMPLE_RATE) : int(LONGEST_S * SAMPLE_RATE)]
        energy = np.square(window[: len(window) // _FRAME * _FRAME].reshape(-1, _FRAME)).mean(axis=1)
        quiet = np.convolve(energy, np.ones(_QUIET_FRAMES), "valid")
        cut = int(SHORTEST_S * SAMPLE_RATE) + (int(quiet.argmin()) + _QUIET_FRAMES // 2) * _FRAME
        found.append(recording[:cut])
        recording = recording[cut:]
    return [*found, recording]
