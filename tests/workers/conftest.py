"""Torch with one thread: threads that spin for each other take their core from the test's own Redis and engine.

And what a pool's `build` takes of the embedded Whisper.
"""

from typing import Any

import pytest
import torch

from workers import checkpoints

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def whisper_base() -> dict[str, Any]:
    """Config, weights and vocabulary of whisper-base, and the voice detector's weights."""
    folder = checkpoints.fetch("whisper-base")
    config, weights = checkpoints.load(folder)
    _, vad = checkpoints.load(checkpoints.fetch("silero-vad"))
    return {"config": config, "weights": weights, "vad_weights": vad, "pieces": checkpoints.pieces(folder)}
